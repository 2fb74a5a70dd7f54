"""Many rows of a csv at once, straight into Arrow: only where its parser and Python's `csv` cannot differ."""

from codecs import BOM_UTF8
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.csv

from hf_mtl.data.records import Block

_QUOTE, _LINE_END, _RETURN = b'"\n\r'


def plain_rows(piece: bytes, separator: str, columns: Sequence[str], row: int, line: int) -> tuple[Block, int] | None:
    """The rows of whole lines that are all good, and how many lines they are; None for any others.

    Args:
        piece: the lines, in UTF-8.
        separator: between cells.
        columns: the names of the columns.
        row: the number of the first row.
        line: the number of the first line.
    """
    # Arrow's separator is a byte, and it would drop a byte order mark.
    if not separator.isascii() or piece.startswith(BOM_UTF8) or not _is_utf8(piece):
        return None
    characters = np.frombuffer(piece if piece.endswith(b"\n") else piece + b"\n", np.uint8)
    ends = np.flatnonzero(characters == _LINE_END)
    returns = np.flatnonzero(characters == _RETURN)
    if (characters[returns + 1] != _LINE_END).any():
        return None
    begins = np.append(0, ends[:-1] + 1)
    numbers = np.arange(line, line + len(ends))
    if is_quoted := b'"' in piece:
        quotes = np.flatnonzero(characters == _QUOTE)
        if not _enclose_cells(quotes, characters, ord(separator)):
            return None
        is_outside = np.searchsorted(quotes, begins) % 2 == 0
        begins, numbers = begins[is_outside], numbers[is_outside]
    first = characters[begins]
    if ((first == _LINE_END) | (first == _RETURN)).any():  # blank lines
        return None
    cells = _parsed(piece, separator, len(columns), is_quoted)
    if cells is None or len(cells[0]) != len(numbers):
        return None
    if len(columns) == 1 and not all(cell and cell.strip() for cell in cells[0].to_pylist()):
        return None
    return Block(range(row, row + len(numbers)), numbers, dict(zip(columns, cells, strict=True))), len(ends)


def _is_utf8(piece: bytes) -> bool:
    try:
        return piece.isascii() or bool(piece.decode())
    except UnicodeDecodeError:
        return False


def _enclose_cells(quotes: np.ndarray, characters: np.ndarray, separator: int) -> bool:
    """Whether each of the quotes encloses a whole cell or is doubled in one.

    Then every other one opens a cell, or is the second of a pair within; and every other one closes a cell, or is the
    first of a pair.
    """
    if len(quotes) % 2:
        return False
    before, behind = characters[quotes[::2] - 1], characters[quotes[1::2] + 1]
    is_paired = quotes[2::2] == quotes[1:-1:2] + 1
    opens = (before == separator) | (before == _LINE_END)
    closes = (behind == separator) | (behind == _LINE_END) | (behind == _RETURN)
    opens[0] |= quotes[0] == 0
    opens[1:] |= is_paired
    closes[:-1] |= is_paired
    return bool(opens.all() and closes.all())


def _parsed(content: bytes, separator: str, width: int, is_quoted: bool) -> list[pa.StringArray] | None:
    names = [str(number) for number in range(width)]
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(content),
            # In one block.
            pyarrow.csv.ReadOptions(use_threads=False, column_names=names, block_size=len(content) + 1),
            pyarrow.csv.ParseOptions(
                delimiter=separator,
                quote_char='"' if is_quoted else False,
                newlines_in_values=is_quoted,
                ignore_empty_lines=False,
            ),
            pyarrow.csv.ConvertOptions(
                check_utf8=False,
                column_types=dict.fromkeys(names, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid:  # a row with more or fewer cells, or none
        return None
    return [column.combine_chunks() for column in table.columns]
