"""The rows of one split of a data set, and how messages call them."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np

from hf_mtl.config_keys import DatasetConfig
from hf_mtl.data.columns import POSITION, is_null
from hf_mtl.data.records import place
from hf_mtl.errors import DataError

BATCH = 5000


@dataclass(frozen=True)
class LeftOut:
    """Rows that are not read.

    Args:
        reason: in words that stand behind "rows".
        count: how many.
        rows: how a list names the first of them.
    """

    reason: str
    count: int
    rows: tuple[str, ...]


@dataclass(frozen=True)
class RowSplit:
    """The rows of one split of one data set.

    Args:
        dataset: the columns that are read, and `_row` (from 1 in its file), `_line` (0 if it says nothing beyond the
            row) and `_file` (index into `sources`).
        sources: names as messages show them: a file as typed, "user/reviews[train]".
        json_columns: columns whose cells are JSON text, since one column of a local file may hold any types.
        fingerprint: changes with the content and with the way it is read.
        labels: columns whose "", NaN and -1 of a `ClassLabel` are null.
        left_out: rows of the source that a choice has left out.
    """

    dataset: datasets.Dataset
    sources: list[str]
    json_columns: frozenset[str]
    fingerprint: str
    labels: frozenset[str] = frozenset()
    left_out: tuple[LeftOut, ...] = ()

    def __len__(self) -> int:
        return len(self.dataset)

    def where(self, index: int) -> str:
        """How a message names a row: "data/valid.jsonl row 214", with the line where it is known."""
        row = self.dataset.select_columns(list(POSITION))[int(index)]
        return place(self.sources[row["_file"]], row["_row"], row["_line"])

    def numbers(self, indices: Sequence[int]) -> list[str]:
        """How a list names rows: by their numbers, behind the name of the file where there are several."""
        rows = self.dataset.select_columns(list(POSITION))[list(indices)]
        if len(self.sources) == 1:
            return list(map(str, rows["_row"]))
        return [place(self.sources[file], row) for file, row in zip(rows["_file"], rows["_row"], strict=True)]

    def batch(self, start: int, stop: int, columns: Sequence[str] | None = None) -> dict[str, list]:
        """Rows as Python values by column (all columns by default). What says nothing is None."""
        dataset = self.dataset if columns is None else self.dataset.select_columns(list(columns))
        try:
            batch = dict(dataset[start:stop])
        except UnicodeDecodeError as error:
            raise self._not_text(dataset, start, error) from error
        for column, cells in batch.items():
            if column in self.json_columns:
                batch[column] = [None if cell is None else json.loads(cell) for cell in cells]
            elif column in self.labels:
                named = self.class_names(column) is not None
                batch[column] = [_known(cell, named) for cell in cells]
        return batch

    def _not_text(self, dataset: datasets.Dataset, start: int, error: UnicodeDecodeError) -> DataError:
        """The error about the first row from `start` on that cannot be decoded (a parquet file may hold any bytes)."""
        for column in dataset.column_names:
            cells = dataset.select_columns([column])
            for row in range(start, len(dataset)):
                try:
                    cells[row]
                except UnicodeDecodeError:
                    bad = f"byte 0x{error.object[error.start]:02X} is not UTF-8"
                    return DataError(f"{self.where(row)}: column {column!r}: {bad}; write the file anew")
        return DataError(f"{self.where(start)}: {error}; write the file anew")

    def class_names(self, column: str) -> list[str] | None:
        """The names of a column of `ClassLabel`, of lists of them, or of spans with such a label."""
        feature = self.dataset.features[column]
        while isinstance(feature, (datasets.List, datasets.LargeList, dict)):
            feature = feature.get("label") if isinstance(feature, dict) else feature.feature
        return list(feature.names) if isinstance(feature, datasets.ClassLabel) else None

    def take(self, rows: np.ndarray, *left_out: LeftOut) -> "RowSplit":
        """The split with some of its rows, and what is told of others."""
        fingerprint = fingerprint_of(self.fingerprint, hashlib.sha256(rows.tobytes()).hexdigest())
        dataset = self.dataset.select(rows, keep_in_memory=True, new_fingerprint=fingerprint)
        return replace(self, dataset=dataset, fingerprint=fingerprint, left_out=(*self.left_out, *left_out))

    def texts(self, config: DatasetConfig) -> Iterator[str]:
        """What each row gives the model to read: its text or texts, else its words."""
        texts = [column for column in (config.text_column, config.text_pair_column) if column]
        names = texts or [str(config.tokens_column)]
        for start in range(0, len(self), BATCH):
            batch = self.batch(start, start + BATCH, names)
            for cells in zip(*(batch[name] for name in names), strict=True):
                parts = [
                    config.token_separator.join(map(str, cell)) if isinstance(cell, list) else cell or ""
                    for cell in cells
                ]
                yield parts[0] if len(parts) == 1 else json.dumps(parts)


def _known(cell: Any, named: bool) -> Any:
    if isinstance(cell, list) and named:
        return [_known(item, named) for item in cell]
    return None if is_null(cell) or (named and cell == -1) else cell


def fingerprint_of(*parts: Any) -> str:
    """A hash of values that JSON has, and of the version of `datasets`."""
    return hashlib.sha256(json.dumps([datasets.__version__, *parts], sort_keys=True).encode()).hexdigest()
