"""The columns of a data set that are read, and what a cell of each may hold."""

import difflib
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from hf_mtl.config_keys import DatasetConfig
from hf_mtl.data.records import Block, Cells, as_list, kind
from hf_mtl.errors import DataError

POSITION = {"_row": datasets.Value("int64"), "_line": datasets.Value("int64"), "_file": datasets.Value("int32")}
"""Where a row comes from: columns beside the data set's own."""


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError


_PYTHON_LIST = re.compile(r"\[\s*['\"{(].*\]\s*$", re.DOTALL)
_TO_JSON = json.JSONEncoder(ensure_ascii=False, default=_plain).encode


class CellError(ValueError):
    """A cell that does not hold what its column must; the message is put behind the row's name."""


@dataclass(frozen=True)
class Columns:
    """The columns that are read of a data set.

    Args:
        texts: column → its key in the run file (`text_column`, `text_pair_column`).
        tokens: the column of words, if any.
        labels: column that tasks read → its key there (`label_column`, `spans_column`).
    """

    texts: Mapping[str, str]
    tokens: str | None
    labels: Mapping[str, str]

    @classmethod
    def of(cls, config: DatasetConfig, labels: Iterable[str], name: str, spans: Collection[str] = ()) -> "Columns":
        """The columns that a data set of the run file and its tasks name.

        Raises:
            DataError: if a column is named for two things, or is called as a column of ours.
        """
        tokens = config.tokens_column
        texts = {"text_column": config.text_column, "text_pair_column": config.text_pair_column}
        keys = [(column, key) for key, column in texts.items() if column]
        keys += [(tokens, "tokens_column")] if tokens else []
        own = {column: "spans_column" if column in spans else "label_column" for column in labels}
        keys += [(column, f"{key} of a task") for column, key in own.items()]
        used: dict[str, str] = {}
        for column, key in keys:
            if column in used:
                raise DataError(f"datasets.{name}: column {column!r} is named as {used[column]} and as {key}")
            if column in POSITION:
                raise DataError(f"datasets.{name}: {key} {column!r} is a name hf_mtl uses itself; rename the column")
            used[column] = key
        return cls({column: key for key, column in texts.items() if column}, tokens, own)

    @property
    def names(self) -> list[str]:
        return [*self.texts, *([self.tokens] if self.tokens else []), *self.labels]

    def features(self) -> datasets.Features:
        """Of rows whose label cells are JSON text."""
        features = {column: datasets.Value("string") for column in self.names}
        if self.tokens:
            features[self.tokens] = datasets.List(datasets.Value("string"))
        return datasets.Features({**features, **POSITION})

    def key(self, column: str) -> str:
        """The key of the run file that names `column`."""
        return "tokens_column" if column == self.tokens else {**self.texts, **self.labels}[column]

    def read(self, values: Mapping[str, Any], from_csv: bool = False) -> list[Any]:
        """The cells of a row in the order of `names`, label cells as JSON text; an absent cell is null.

        Raises:
            CellError: for a cell that does not hold what its column must.
        """
        cells: list[Any] = [_text(column, values.get(column)) for column in self.texts]
        if self.tokens:
            cells.append(_tokens(self.tokens, values.get(self.tokens), from_csv))
        cells += [_label(column, values.get(column), from_csv) for column in self.labels]
        return cells

    def read_all(self, block: Block, from_csv: bool = False) -> list[Cells]:
        """As `read`, for many rows at once: the cells by column.

        Raises:
            CellError: if a row may be wrong; `read` says which.
        """
        nothing = [None] * len(block.rows)
        found = {column: block.columns.get(column, nothing) for column in self.names}
        cells: list[Cells] = [_texts(column, found[column]) for column in self.texts]
        if self.tokens:
            cells.append([_tokens(self.tokens, cell, from_csv) for cell in as_list(found[self.tokens])])
        return cells + [_labels(column, found[column], from_csv) for column in self.labels]

    def missing(self, name: str, source: str, absent: Iterable[str], found: Sequence[str]) -> str:
        """The message about columns that `source` does not have."""
        lines = []
        for column in absent:
            nearest = difflib.get_close_matches(column, found, n=1, cutoff=0.5)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            shown = ", ".join(found[:30]) + (", …" if len(found) > 30 else "")
            named = f"{self.key(column)} of data set {name}"
            lines.append(f"{source} has no column {column!r} ({named}); columns: {shown or 'none'}{hint}")
        return "\n".join(lines)


def is_null(cell: Any) -> bool:
    """Whether a label cell says nothing: null, "", blanks alone or NaN."""
    if isinstance(cell, str):
        return not cell.strip()
    return cell is None or (isinstance(cell, (float, np.floating)) and math.isnan(cell))


def _text(column: str, cell: Any) -> str | None:
    if cell is None or isinstance(cell, str):
        return _encodable(column, cell)
    raise CellError(f"column {column!r} holds {kind(cell)}; a text must be a string")


def _texts(column: str, cells: Cells) -> pa.StringArray:
    try:
        return _strings(cells)
    except (pa.ArrowException, UnicodeEncodeError):
        raise CellError(f"column {column!r} holds other things than text") from None


def _labels(column: str, cells: Cells, from_csv: bool) -> Cells:
    try:
        found = _strings(cells).dictionary_encode()
    except (pa.ArrowException, UnicodeEncodeError):
        if set(map(type, cells)) - {type(None)} not in ({int}, {bool}):  # 1 and true would be one key, 0 and -0.0, too.
            return [_label(column, cell, from_csv) for cell in cells]
        known = {cell: _label(column, cell, from_csv) for cell in set(cells)}
        return [known[cell] for cell in cells]
    labels = [_label(column, cell, from_csv) for cell in found.dictionary.to_pylist()]
    return pa.array(labels, pa.string()).take(found.indices)


def _strings(cells: Cells) -> pa.StringArray:
    """Strings and nulls as Arrow has them, which takes neither anything else nor half of a surrogate pair."""
    return cells if isinstance(cells, pa.Array) else pa.array(cells, pa.string())


def _tokens(column: str, cell: Any, from_csv: bool) -> list[str] | None:
    if from_csv and isinstance(cell, str):
        cell = _split(column, cell)
    if cell is None:
        return None
    if not isinstance(cell, (list, tuple)):
        raise CellError(f"column {column!r} holds {kind(cell)}; tokens must be a list of strings")
    for number, token in enumerate(cell, start=1):
        if not isinstance(token, str):
            raise CellError(f"column {column!r}: token {number} is {kind(token)}; tokens must be strings")
        _encodable(column, token)
    return list(cell)


def _split(column: str, cell: str) -> Any:
    if not cell.startswith("["):
        return cell.split()
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        raise CellError(
            f'column {column!r} begins with [ but is no JSON list; write ["a", "b"], or tokens with blanks between'
        ) from None


def _label(column: str, cell: Any, from_csv: bool) -> str | None:
    if is_null(cell):
        return None
    if from_csv and cell.startswith("["):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):  # A label may begin with a bracket, too.
            if _PYTHON_LIST.match(cell):
                raise CellError(
                    f"column {column!r} holds a list as Python prints it, {cell[:40]}; write it as JSON does "
                    '(json.dumps), ["a", "b"]'
                ) from None
    try:
        return _encodable(column, _TO_JSON(cell))
    except TypeError:
        raise CellError(f"column {column!r} holds a {type(cell).__name__}, which JSON does not have") from None


def _encodable(column: str, text: str | None) -> str | None:
    if text is None or text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CellError(
            f"column {column!r}, character {error.start + 1}: half of a surrogate pair "
            f"(\\u{ord(text[error.start]):04x}), which is no character; write the pair or take it out"
        ) from None
    return text
