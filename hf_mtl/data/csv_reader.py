"""CSV and TSV: every cell is a string, the empty one null; a row that does not fit its header is refused."""

import csv
import io
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from hf_mtl.data.csv_blocks import plain_rows
from hf_mtl.data.files import SourceFile, bad_byte
from hf_mtl.data.pieces import Pieces
from hf_mtl.data.records import Block, Problems, ReadOptions, Record, not_encoded, place
from hf_mtl.errors import DataError

PIECE = 1 << 21
"""Bytes that are read at once."""
LINES_OF_A_CELL = 200
"""By no more of them a piece is read on that ends within a quoted cell: its quote may never be closed."""
SEPARATORS = ",;\t|"
LONGEST_CELL = 50_000_000
"""Characters; a quote that is never closed is found here at the latest."""


def read_csv(source: SourceFile, options: ReadOptions, problems: Problems) -> Iterator[Record | Block]:
    """The rows of a csv, quoted as RFC 4180 has it; blank lines are no rows.

    The separator is `options.sep`, the tab for a `.tsv`, else the most frequent of , ; tab | in the first line.
    Without a header the columns are `options.names`, or else called 0, 1, ….
    """
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_CELL))
    with source.open_text(options.encoding, newline="") as text:
        pieces = Pieces(text)
        piece = pieces.read(0)
        first = io.StringIO(pieces.decode(piece), newline="").readline()
        separator = options.sep or ("\t" if source.suffix == ".tsv" else _separator(first))
        columns: list[str] | None = None
        row = line = 0
        while piece:
            rows: list[Row] = []
            found = None
            if columns is not None and len(piece) <= LONGEST_CELL:
                found = plain_rows(piece, separator, columns, row + 1, line + 1)
            if found is None:
                rows, line = _rows(pieces.decode(piece), pieces, separator, line)
                block = None if columns is None else _good(rows, columns, row + 1)
            else:
                block, line = found[0], line + found[1]
            if block is not None:
                row, rows = row + len(block.rows), []
                yield block
            for start, cells, problem in rows:
                is_header = columns is None and options.header
                row += not is_header
                problem = problem or _bad_bytes(cells, options.encoding)
                if columns is None and problem is None:
                    columns = _columns(source, options, cells, start)
                    if is_header:
                        continue
                if problem is None and columns is not None and len(cells) != len(columns):
                    problem = _ragged(cells, columns, separator)
                if problem is not None or columns is None:
                    problems.add(f"{_place(source, row, start)}: {problem}")
                    if is_header:
                        return
                    continue
                yield Record(row, start, dict(zip(columns, (cell or None for cell in cells), strict=True)))
            # Up to the header one at a time.
            piece = pieces.read_rows(0 if columns is None else PIECE, LINES_OF_A_CELL)


Row = tuple[int, list[str], str | None]
"""The line where a row begins, its cells, and what is wrong with it."""


def _rows(piece: str, more: Iterable[str], separator: str, before: int) -> tuple[list[Row], int]:
    """The rows that begin in a piece, which has `before` lines before it; and the number of the last line.

    Blank lines are left out.
    """
    rows: list[Row] = []
    lines = list(io.StringIO(piece, newline=""))
    # A reader looks no line further than the row at hand: a quoted cell may go on behind the piece.
    reader = csv.reader(itertools.chain(lines, more), delimiter=separator, strict=True)
    while reader.line_num < len(lines):
        line = before + reader.line_num + 1
        try:
            cells = next(reader)
        except csv.Error as error:
            rows.append((line, [], _quoting(error, line, before + reader.line_num)))
        else:
            if len(cells) > 1 or (cells and cells[0].strip()):
                rows.append((line, cells, None))
    return rows, before + reader.line_num


def _good(rows: Sequence[Row], columns: Sequence[str], row: int) -> Block | None:
    """Rows of which none has anything wrong with it; None for any others."""
    if not rows or any(problem or len(cells) != len(columns) for _, cells, problem in rows):
        return None
    found = list(zip(*(cells for _, cells, _ in rows), strict=True))
    if any(bad_byte("".join(column)) is not None for column in found):
        return None
    return Block(range(row, row + len(rows)), [line for line, _, _ in rows], _by_name(columns, found))


def _by_name(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> dict[str, Sequence[str | None]]:
    """Columns under their names, with the empty cell null."""
    values = ([cell or None for cell in column] if "" in column else column for column in cells)
    return dict(zip(columns, values, strict=True))


def _place(source: SourceFile, row: int, line: int) -> str:
    return place(source.name, row, line) if row else f"{source.name} header (line {line})"


def _separator(line: str) -> str:
    outside = "".join(line.split('"')[::2])
    counts = Counter(character for character in outside if character in SEPARATORS)
    return max(SEPARATORS, key=lambda separator: counts[separator])


def _quoting(error: csv.Error, first: int, last: int) -> str:
    if "unexpected end of data" in str(error):
        return f'a quote (") opened on line {first} is never closed; close it, or write "" for a quote in a quoted cell'
    if "expected after" in str(error):
        where = "on the same line" if first == last else f"on line {last}"
        return (
            f'a quote (") opens a cell on line {first}, and text follows its closing quote {where}; '
            'write "" for a quote in a quoted cell, and quote a cell that begins with one'
        )
    return str(error)


def _bad_bytes(cells: Sequence[str], encoding: str | None) -> str | None:
    byte = next((byte for cell in cells if (byte := bad_byte(cell)) is not None), None)
    if byte is None:
        return None
    return not_encoded(byte, encoding or "UTF-8", "name the file's encoding, for example csv: {encoding: cp1252}")


def _columns(source: SourceFile, options: ReadOptions, cells: Sequence[str], line: int) -> list[str]:
    header = [cell.strip() for cell in cells] if options.header else [str(place) for place in range(len(cells))]
    columns = header if options.names is None else list(options.names)
    if len(columns) != len(header):
        raise DataError(f"{source.name} line {line}: {len(header)} cells, but csv.names has {len(columns)} names")
    twice = [name for name, count in Counter(columns).items() if count > 1 and name]
    if twice:
        raise DataError(
            f"{source.name} line {line}: the column {twice[0]!r} stands twice among {', '.join(columns)}; rename one"
        )
    return columns


def _ragged(cells: Sequence[str], columns: Sequence[str], separator: str) -> str:
    count = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
    shown = "tab" if separator == "\t" else separator
    return (
        f"{count} for {len(columns)} columns ({', '.join(columns)}); "
        f"the separator is {shown!r}, and a cell that holds it must be quoted"
    )
