"""CSV and TSV: every cell is a string, the empty one null; a row that does not fit its header is refused."""

import csv
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from hf_mtl.data.files import SourceFile, bad_byte
from hf_mtl.data.records import Problems, ReadOptions, Record, not_encoded, place
from hf_mtl.errors import DataError

SEPARATORS = ",;\t|"
LONGEST_CELL = 50_000_000
"""Characters; a quote that is never closed is found here at the latest."""


def read_csv(source: SourceFile, options: ReadOptions, problems: Problems) -> Iterator[Record]:
    """The rows of a csv, quoted as RFC 4180 has it; blank lines are no rows.

    The separator is `options.sep`, the tab for a `.tsv`, else the most frequent of , ; tab | in the first line.
    Without a header the columns are `options.names`, or else called 0, 1, ….
    """
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_CELL))
    with source.open_text(options.encoding, newline="") as text:
        first = text.readline()
        separator = options.sep or ("\t" if source.suffix == ".tsv" else _separator(first))
        rows = _rows(csv.reader(itertools.chain([first], text), delimiter=separator, strict=True))
        columns: list[str] | None = None
        row = 0
        for line, cells, problem in rows:
            is_header = columns is None and options.header
            row += not is_header
            problem = problem or _bad_bytes(cells, options.encoding)
            if columns is None and problem is None:
                columns = _columns(source, options, cells, line)
                if is_header:
                    continue
            if problem is None and columns is not None and len(cells) != len(columns):
                problem = _ragged(cells, columns, separator)
            if problem is not None or columns is None:
                problems.add(f"{_place(source, row, line)}: {problem}")
                if is_header:
                    return
                continue
            yield Record(row, line, dict(zip(columns, (cell or None for cell in cells), strict=True)))


def _place(source: SourceFile, row: int, line: int) -> str:
    return place(source.name, row, line) if row else f"{source.name} header (line {line})"


def _separator(line: str) -> str:
    outside = "".join(line.split('"')[::2])
    counts = Counter(character for character in outside if character in SEPARATORS)
    return max(SEPARATORS, key=lambda separator: counts[separator])


def _rows(reader: Any) -> Iterator[tuple[int, list[str], str | None]]:
    """(line where the row begins, its cells, what is wrong with it) of all rows but blank ones."""
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, [], _quoting(error, line, reader.line_num)
            continue
        if len(cells) > 1 or (cells and cells[0].strip()):
            yield line, cells, None


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
