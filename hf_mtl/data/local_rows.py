"""Rows of local files and of Python lists → `Dataset`, cached by the content and the way it was read."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from hf_mtl.data.cache import cached_folder
from hf_mtl.data.columns import CellError, Columns
from hf_mtl.data.files import SourceFile
from hf_mtl.data.readers import read_blocks
from hf_mtl.data.records import Block, Cells, Problems, ReadOptions, Record, place
from hf_mtl.errors import DataError

FORMAT = 2
"""To be raised when the readers give other rows for the same files: what is cached is then read again."""
BATCH = 500
NO_HEADER = "; if the first line is a row, write csv: {header: false, names: [text, label]}"


class RowTable:
    """Checked rows on their way into a `Dataset`.

    Args:
        name: of the data set, for messages.
        columns: the columns that are kept.
        from_csv: whether lists stand in strings.
    """

    def __init__(self, name: str, columns: Columns, from_csv: bool = False) -> None:
        self.name, self.columns, self.from_csv = name, columns, from_csv
        self.problems = Problems()
        self.absent = set(columns.names)
        self.found: dict[str, None] = {}
        self.absent_here: set[str] = set()
        self.found_here: set[str] = set()
        self.misspelt: list[tuple[str, str, str]] = []
        self.count = 0

    def rows(self, source: str, file: int, records: Iterable[Record]) -> Iterator[list[Any]]:
        """The cells of each record, position behind them; what is wrong is put to `problems`."""
        for record in records:
            self._find(record.values)
            self.count += 1
            try:
                cells = self.columns.read(record.values, self.from_csv)
            except CellError as error:
                self.problems.add(f"{place(source, record.row, record.line)}: {error}")
                continue
            yield [*cells, record.row, record.line, file]

    def batches(
        self, source: str, file: int, found: Iterable[Record | Block], problems: Problems
    ) -> Iterator[list[Cells]]:
        """The cells of many rows by column, position behind them; what is wrong is put to the table's `problems`.

        Args:
            source: as messages call it.
            file: its number.
            found: the rows as their reader gives them.
            problems: the reader's own.
        """
        self.absent_here, self.found_here = set(self.columns.names), set()
        for block in self._blocks(found, problems):
            try:
                cells = self.columns.read_all(block, self.from_csv)
            except CellError:
                if rows := list(self.rows(source, file, block.records())):
                    yield list(zip(*rows, strict=True))
            else:
                self.count += len(block.rows)
                yield [*cells, block.rows, block.lines, np.full(len(block.rows), file)]
        for column in self.absent_here:
            near = get_close_matches(column, self.found_here.difference(self.columns.names), n=1, cutoff=0.8)
            # A file may well be without a column, or have "label2" in its place.
            if near and near[0].rstrip("0123456789") != column.rstrip("0123456789"):
                self.misspelt.append((source, column, near[0]))

    def _blocks(self, found: Iterable[Record | Block], problems: Problems) -> Iterator[Block]:
        """All rows in blocks. The reader's problems are taken over when what stands before them is through."""
        pending: list[Record] = []
        for one in found:
            if pending and (len(pending) == BATCH or problems.count or isinstance(one, Block)):
                yield self._block(pending)
                pending = []
            if problems.count:
                self.problems.take(problems)
            if isinstance(one, Block):
                self._find(one.columns)
                yield one
            else:
                self._find(one.values)
                pending.append(one)
        if pending:
            yield self._block(pending)
        self.problems.take(problems)

    def _block(self, records: Sequence[Record]) -> Block:
        rows, lines, values = zip(*records, strict=True)
        seen = [name for name in self.columns.names if name not in self.absent]
        return Block(rows, lines, {name: [cells.get(name) for cells in values] for name in seen})

    def _find(self, values: Iterable[Any]) -> None:
        """Notes which columns there are, as long as some have not been seen."""
        if self.absent:
            self.absent.difference_update(values)
            self.found.update(dict.fromkeys(map(str, values)))
        if self.absent_here:
            self.absent_here.difference_update(values)
            self.found_here.update(map(str, values))

    def check(self, split: str, sources: Sequence[str]) -> None:
        """Refuses what was read, if anything is wrong with it.

        Raises:
            DataError: with all that is wrong; also if there is no row, or a column is in none of them.
        """
        shown = ", ".join(sources[:5]) + (", …" if len(sources) > 5 else "")
        if self.count and self.absent:
            absent = [column for column in self.columns.names if column in self.absent]
            told = self.columns.missing(self.name, shown, absent, list(self.found))
            if self.from_csv and len(absent) == len(self.columns.names):
                told = told.replace("\n", f"{NO_HEADER}\n") + NO_HEADER
            self.problems.add(told)
        for source, column, near in self.misspelt:
            if column not in self.absent:
                self.problems.add(f"{source} has no column {column!r}, which other files have, but {near!r}; rename it")
        if not self.count and not self.problems.count:
            self.problems.add(
                f"{shown} has no rows (split {split} of data set {self.name}); name a file with rows, or take it out"
            )
        self.problems.raise_if_any()


def read_files(
    name: str, split: str, files: Sequence[SourceFile], options: ReadOptions, columns: Columns
) -> tuple[datasets.Dataset, str]:
    """The rows of local files as a memory-mapped data set, read now or found in the cache; and its fingerprint.

    Raises:
        DataError: naming the rows that cannot be read.
    """
    key = _fingerprint(
        asdict(options), asdict(columns), [(file.suffix, file.is_named_packed, _digest(file)) for file in files]
    )
    sources = [file.name for file in files]

    def write(folder: Path) -> None:
        table = RowTable(name, columns, from_csv=options.format == "csv")
        schema = columns.features().arrow_schema
        with pa.OSFile(str(folder / "rows.arrow"), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for number, file in enumerate(files):
                problems = Problems()
                found = read_blocks(file, options, problems)
                for cells in table.batches(file.name, number, found, problems):
                    if not table.problems.count:
                        writer.write_batch(pa.record_batch(list(map(_array, cells, schema.types)), schema=schema))
            table.check(split, sources)

    folder = cached_folder(key, write)
    return datasets.Dataset.from_file(str(folder / "rows.arrow")), key


def read_python(name: str, split: str, rows: Any, columns: Columns) -> tuple[datasets.Dataset, str]:
    """Rows in memory, columns of lists or a list of rows, as a data set; and its fingerprint.

    Raises:
        DataError: naming the rows that cannot be read.
    """
    source = f"{name}[{split}]"
    table = RowTable(name, columns)
    cells = list(table.rows(source, 0, _records(source, rows)))
    table.check(split, [source])
    features = columns.features()
    dataset = datasets.Dataset.from_dict(dict(zip(features, zip(*cells, strict=True), strict=True)), features=features)
    return dataset, _fingerprint(asdict(columns), cells)


def _records(source: str, rows: Any) -> Iterator[Record]:
    if not isinstance(rows, Mapping):
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, Mapping):
                raise DataError(f"{place(source, number)}: {type(row).__name__}, not a dict of columns")
            yield Record(number, 0, row)
        return
    lengths = {column: len(cells) for column, cells in rows.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{column} {length}" for column, length in lengths.items())
        raise DataError(f"{source}: columns of different lengths: {shown}")
    for number, cells in enumerate(zip(*rows.values(), strict=True), start=1):
        yield Record(number, 0, dict(zip(rows, cells, strict=True)))


def _array(cells: Cells, kind: pa.DataType) -> pa.Array:
    if isinstance(cells, pa.Array):
        return cells
    return pa.array(np.arange(cells.start, cells.stop) if isinstance(cells, range) else cells, kind)


def _digest(file: SourceFile) -> str:
    try:
        return file.digest()
    except OSError as error:
        raise DataError(f"{file.name}: cannot be read ({error})") from error


def _fingerprint(*parts: Any) -> str:
    text = json.dumps([FORMAT, datasets.__version__, *parts], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
