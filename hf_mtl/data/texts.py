"""A row's text and its words: what the model reads in training is what it reads in use."""

from collections.abc import Sequence

from hf_mtl.tasks.labels import shown


class WordError(ValueError):
    """The words of a row that do not stand in its text; the message is put behind the row's name."""


def join_words(words: Sequence[str], separator: str) -> tuple[str, list[tuple[int, int]]]:
    """The text of words joined by `separator`, and each word's (start, end) in it.

    Raises:
        WordError: if a word is null.
    """
    _check(words)
    spans: list[tuple[int, int]] = []
    start = 0
    for word in words:
        spans.append((start, start + len(word)))
        start += len(word) + len(separator)
    return separator.join(words), spans


def find_words(words: Sequence[str], text: str) -> list[tuple[int, int]]:
    """Each word's (start, end) in `text`, found from left to right.

    Raises:
        WordError: if a word is null, or does not stand in the text behind the word before it.
    """
    _check(words)
    spans: list[tuple[int, int]] = []
    position = 0
    for number, word in enumerate(words, start=1):
        start = text.find(word, position)
        if start < 0:
            rest = shown(text[position:])
            raise WordError(
                f"word {number} {shown(word)} does not stand in the text behind the words before it: {rest}"
            )
        position = start + len(word)
        spans.append((start, position))
    return spans


def _check(words: Sequence[str | None]) -> None:
    # Lists that `datasets` reads are checked by their type alone, which null has no part in.
    if None in words:
        raise WordError(f"word {words.index(None) + 1} is null; words must be strings")
