"""What the readers of local files share: a row and where it stands, how to read, and the errors of one reading."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from hf_mtl.errors import DataError

SHOWN_ERRORS = 20


class Record(NamedTuple):
    """A row as its file has it. `row` counts data rows from 1; `line` is 0 where it says nothing beyond `row`."""

    row: int
    line: int
    values: Mapping[str, Any]


Cells: TypeAlias = Sequence[Any] | np.ndarray | pa.StringArray
"""Cells of a column: any of JSON's values, or strings and nulls as Arrow has them, or numbers as NumPy has them."""


def as_list(cells: Cells) -> Sequence[Any]:
    """Cells as Python has them."""
    return cells.tolist() if isinstance(cells, (np.ndarray, pa.Array)) else cells


class Block(NamedTuple):
    """Rows that stand behind one another, by column: many are checked at once in a fraction of the time."""

    rows: Sequence[int]
    lines: Sequence[int] | np.ndarray
    columns: Mapping[str, Cells]

    def records(self) -> Iterator[Record]:
        """The same row by row."""
        columns = map(as_list, [self.lines, *self.columns.values()])
        for row, line, *cells in zip(self.rows, *columns, strict=True):
            yield Record(row, line, dict(zip(self.columns, cells, strict=True)))


class Problems:
    """The errors of one reading: the first ones in full, the rest counted.

    Args:
        noun: what is counted.
    """

    def __init__(self, noun: str = "error") -> None:
        self.noun = noun
        self.messages: list[str] = []
        self.count = 0

    @property
    def is_full(self) -> bool:
        """Whether any more are counted alone."""
        return len(self.messages) >= SHOWN_ERRORS

    def add(self, message: str) -> None:
        self.count += 1
        if not self.is_full:
            self.messages.append(message)

    def take(self, behind: "Problems") -> None:
        """Takes over the errors of what stands behind, which are no longer there then."""
        self.count += behind.count
        self.messages = (self.messages + behind.messages)[:SHOWN_ERRORS]
        behind.count, behind.messages = 0, []

    def raise_if_any(self) -> None:
        """Ends a reading.

        Raises:
            DataError: with all messages, a line each.
        """
        if self.count == 0:
            return
        hidden = self.count - len(self.messages)
        more = [f"… and {hidden} more {self.noun}{'' if hidden == 1 else 's'}"] if hidden else []
        raise DataError("\n".join(self.messages + more))


@dataclass(frozen=True)
class ReadOptions:
    """How files are to be read; whatever changes what a reader gives is in here.

    Args:
        format: json, csv, text or conll.
        sep: of csv; None to find it.
        encoding: of csv; None for UTF-8, or what a byte order mark says.
        header: whether a csv's first row holds the column names.
        names: of csv columns.
        columns: names of CoNLL columns.
        tokens: the name under which the tokens of CoNLL are wanted.
        labels: the names under which labels are wanted.
        wanted: the names of all columns that are read.
    """

    format: str
    sep: str | None = None
    encoding: str | None = None
    header: bool = True
    names: Sequence[str] | None = None
    columns: Sequence[str] | None = None
    tokens: str = "tokens"
    labels: Sequence[str] = field(default_factory=tuple)
    wanted: Sequence[str] = field(default_factory=tuple)


def place(name: str, row: int, line: int = 0) -> str:
    """Where a row stands, as every message says it."""
    return f"{name} row {row}" + (f" (line {line})" if line else "")


def not_encoded(byte: int, encoding: str, advice: str) -> str:
    """The message about a byte that is not in the encoding the file is read with."""
    return f"byte 0x{byte:02X} is not {encoding}; {advice}"


SAVE_AS_UTF8 = "save the file as UTF-8"


def kind(value: Any) -> str:
    """What a cell is, in JSON's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, str):
        return "a string"
    return "a list" if isinstance(value, (list, tuple)) else "an object"
