"""Rows that `datasets` reads (Hub sets, parquet) or holds already: checked by their features, never row by row."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_mtl.config_keys import DatasetConfig
from hf_mtl.data.columns import Columns
from hf_mtl.data.files import SourceFile
from hf_mtl.errors import DataError
from hf_mtl.hub_errors import GATED, OFFLINE, HubError, hub_reason, not_found

LARGE_FILE = 100_000_000
"""Bytes; below that reading shows no progress bar."""


def load_hub(name: str, config: DatasetConfig, base_dir: str | Path) -> datasets.DatasetDict:
    """All splits of a Hub data set, or of a folder that is laid out like one. No code of it is run.

    Raises:
        DataError: if it cannot be had, with what `datasets` says about it.
    """
    path = str(config.path)
    if path.startswith((".", "~", os.sep)):
        path = str(Path(base_dir, os.path.expanduser(path)).absolute())
    return _load(f"datasets.{name}: {config.path}", path, name=config.name, revision=config.revision)


def load_parquet(name: str, split: str, files: Sequence[SourceFile]) -> list[datasets.Dataset]:
    """A data set for each parquet file.

    Raises:
        DataError: naming the file that cannot be read.
    """
    loaded = []
    for file in files:
        what = f"{file.name} (split {split} of data set {name})"
        _check_parquet(what, file)
        with _no_bars(file.path.stat().st_size < LARGE_FILE):
            loaded.append(_load(what, "parquet", data_files={"train": str(file.path)})["train"])
    return loaded


def _check_parquet(what: str, file: SourceFile) -> None:
    # `datasets` tells these in words of its own insides, and to its log besides.
    try:
        found = pq.read_metadata(file.path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{what} cannot be read: {error}") from error
    names = found.schema.to_arrow_schema().names
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{what}: the column {twice[0]!r} stands twice among {', '.join(names)}; rename one")
    if not found.num_rows:
        raise DataError(f"{what} has no rows; name a file with rows, or take it out")


def _load(what: str, path: str, **options: Any) -> datasets.DatasetDict:
    try:
        if Path(path, "state.json").is_file():  # a single data set, as its `save_to_disk` writes it
            return datasets.DatasetDict({"train": datasets.Dataset.load_from_disk(path)})
        loaded = datasets.load_dataset(path, **options)
    except datasets.exceptions.DatasetGenerationError as error:
        raise DataError(f"{what} cannot be read: {error.__cause__ or error}") from error
    except (OSError, HubError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        if reason := hub_reason(error) or _not_there(error):
            raise DataError(f"{what} cannot be fetched: {reason}") from error
        if isinstance(error, ConnectionError):
            raise DataError(f"{what} cannot be fetched: {error}; check the name and the network") from error
        said = " ".join(str(error).split("Example of usage")[0].split())
        hint = "; write the configuration under name" if "config" in said.lower() else ""
        raise DataError(f"{what} cannot be loaded: {said}{hint}") from error
    return loaded


def _not_there(error: Exception) -> str | None:
    """The same for what `datasets` says in words alone."""
    if "OfflineModeIsEnabled" in str(error):
        return OFFLINE
    if not isinstance(error, datasets.exceptions.DatasetNotFoundError):
        return None
    return GATED if "gated" in str(error) else not_found()


@contextmanager
def _no_bars(quiet: bool) -> Iterator[None]:
    if not quiet or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def keep_columns(
    name: str, source: str, dataset: datasets.Dataset, columns: Columns, file: int = 0
) -> datasets.Dataset:
    """The data set with the columns that are read, and where each row comes from.

    Raises:
        DataError: if there is no row, a column is not there, or texts or tokens are of another type.
    """
    if len(dataset) == 0:
        raise DataError(f"{source} has no rows (data set {name})")
    absent = [column for column in columns.names if column not in dataset.column_names]
    if absent:
        raise DataError(columns.missing(name, source, absent, dataset.column_names))
    errors = [
        f"{source}: column {column!r} holds {dataset.features[column]}; a text must be a string"
        for column in columns.texts
        if not _is_text(dataset.features[column])
    ]
    if columns.tokens and not _is_tokens(dataset.features[columns.tokens]):
        found = dataset.features[columns.tokens]
        errors.append(f"{source}: column {columns.tokens!r} holds {found}; tokens must be a list of strings")
    if errors:
        raise DataError("\n".join(errors))
    kept = dataset.with_format(None).select_columns(columns.names)
    return _with_positions(kept, file)


def _with_positions(dataset: datasets.Dataset, file: int) -> datasets.Dataset:
    count = len(dataset)
    positions = {
        "_row": np.arange(1, count + 1, dtype=np.int64),
        "_line": np.zeros(count, dtype=np.int64),
        "_file": np.full(count, file, dtype=np.int32),
    }
    for column, values in positions.items():
        # Named here, since `datasets` would hash all the numbers.
        dataset = dataset.add_column(column, values, new_fingerprint=f"{dataset._fingerprint[:40]}{column}{file}")
    return dataset


def _is_text(feature: Any) -> bool:
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string", "string_view", "null")


def _is_tokens(feature: Any) -> bool:
    return isinstance(feature, (datasets.List, datasets.LargeList)) and _is_text(feature.feature)
