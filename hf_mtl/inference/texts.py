"""What the pipeline may be given to read: a text or a pair of texts, alone or in any kind of series."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from hf_mtl.errors import UserError

# A chunk is also closed at this many characters, so that a chunk of very long texts still fits in memory.
CHUNK_CHARACTERS = 250_000


class Text(NamedTuple):
    """A text, or the first text of a pair; `place` says in an error message which of the inputs it is."""

    text: str
    pair: str | None
    place: str


def read_text(value: Any, place: str) -> Text:
    """One input of the pipeline.

    Raises:
        UserError: if it is neither a str nor a dict of `text` and `text_pair`.
    """
    if isinstance(value, str):
        return Text(value, None, place)
    if isinstance(value, Mapping) and "text" in value and not set(value) - {"text", "text_pair"}:
        text, pair = value["text"], value.get("text_pair")
        if isinstance(text, str) and (pair is None or isinstance(pair, str)):
            return Text(text, pair, place)
    found = f"keys {', '.join(map(str, value))}" if isinstance(value, Mapping) else type(value).__name__
    raise UserError(f"{place}: found {found}; give a str, or {{'text': str, 'text_pair': str}} for a pair of texts")


def chunks(values: Iterable[Any], size: int) -> Iterator[list[Text]]:
    """The texts in lists of at most `size`, each read when it is asked for."""
    chunk: list[Text] = []
    characters = 0
    for number, value in enumerate(values):
        text = read_text(value, f"inputs[{number}]")
        chunk.append(text)
        characters += len(text.text) + len(text.pair or "")
        if len(chunk) == size or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk
