"""Which pieces of which windows the words of a text are."""

from bisect import bisect_left
from collections.abc import Sequence

from hf_mtl.tasks.task import Window


def word_pieces(
    window: Window, words: Sequence[tuple[int, int]], *, continued: bool = False
) -> dict[int, tuple[int, bool]]:
    """Word → (piece, own) for the words that begin in a window; `continued` if another window stands before it.

    A word's own piece is the first one that begins with it. A word without one (it stands inside a piece that an
    earlier word began) gets that piece, with own False. A word that no piece covers is left out.
    """
    ends = [end for _, end in words]
    found: dict[int, tuple[int, bool]] = {}
    tail = -1
    fresh = continued
    for piece, ((start, end), special) in enumerate(zip(window.offsets, window.special, strict=True)):
        if special or end <= start:
            continue
        word = bisect_left(ends, start + 1)  # the first word that ends behind the piece's start
        if fresh and word < len(words) and words[word][0] < start:
            tail = word  # a word that the window before began: only its tail is here
        fresh, own = False, True
        while word < len(words) and words[word][0] < end:
            if word != tail and words[word][1] > words[word][0] and (word not in found or (own and not found[word][1])):
                found[word] = (piece, own)
            word, own = word + 1, False
    return found


def home_window(places: Sequence[dict[int, tuple[int, bool]]], windows: Sequence[Window], word: int) -> int:
    """The window in which a word's tag counts: where its piece stands farthest from an edge."""
    best, depth = 0, -1
    for number, (found, window) in enumerate(zip(places, windows, strict=True)):
        if word in found:
            edge = min(found[word][0], len(window.offsets) - 1 - found[word][0])
            if edge > depth:
                best, depth = number, edge
    return best
