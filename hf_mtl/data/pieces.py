"""A file of lines, many of them at a time and as bytes: to decode all of it takes as long as to read it."""

import io
from collections.abc import Iterator
from typing import TextIO, cast

import numpy as np

_QUOTE = ord('"')


class Pieces(Iterator[str]):
    """Whole lines of `text`, opened with `newline=""`: as UTF-8, or one by one.

    Bytes that were bad where the file was read are no UTF-8 here, either.
    """

    def __init__(self, text: TextIO) -> None:
        self._text = text
        source = cast(io.BufferedReader, text.buffer)
        # Where lines end in a return alone, there may be one line of bytes only.
        self._source = source if text.encoding == "utf-8" and b"\n" in source.peek(1) else None
        self._errors = "surrogatepass" if self._source is None else "hf_mtl.mark"
        self._lines: list[str] = []

    def read(self, size: int) -> bytes:
        """Lines of at least `size` bytes, if there are as many; nothing at the end."""
        held = "".join(self._lines)
        self._lines = []
        if self._source is None:
            return (held + self._text.read(size) + self._text.readline()).encode("utf-8", "surrogatepass")
        return held.encode("utf-8", "surrogateescape") + self._source.read(size) + self._source.readline()

    def read_rows(self, size: int, lines: int) -> bytes:
        """As `read`; where it ends within a quoted cell, up to so many `lines` more, if that ends the cell."""
        piece = self.read(size)
        if b'"' not in piece or not _is_open(piece):
            return piece
        more = [piece]
        while len(more) <= lines and (line := self.read(0)):
            more.append(line)
            if _is_open(line):
                break
        return b"".join(more)

    def decode(self, piece: bytes) -> str:
        """The text of a piece, with bad bytes as `SourceFile.open_text` marks them."""
        return piece.decode("utf-8", self._errors)

    def __next__(self) -> str:
        if self._source is None:
            return next(self._text)
        if not self._lines:
            self._lines = list(io.StringIO(self.decode(self._source.readline()), newline=""))
        if not self._lines:
            raise StopIteration
        return self._lines.pop(0)


def _is_open(piece: bytes) -> bool:
    return np.count_nonzero(np.frombuffer(piece, np.uint8) == _QUOTE) % 2 == 1
