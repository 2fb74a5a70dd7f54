"""The rows of a data set's splits, wherever they come from: local files, `datasets`, or memory."""

import difflib
import os
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import datasets

from hf_mtl.config_keys import DatasetConfig
from hf_mtl.data.choice import LabelKeys, choose_rows
from hf_mtl.data.columns import Columns
from hf_mtl.data.files import SourceFile, source_files
from hf_mtl.data.library_rows import keep_columns, load_hub, load_parquet
from hf_mtl.data.local_rows import read_files, read_python
from hf_mtl.data.records import ReadOptions
from hf_mtl.data.row_split import BATCH, RowSplit, fingerprint_of
from hf_mtl.data.splits import CutError, cut_rows
from hf_mtl.errors import DataError

ROLES = ("train", "validation", "test")
LOCAL_FORMATS = ("json", "csv", "text", "conll")


def load_rows(
    name: str,
    config: DatasetConfig,
    label_columns: Sequence[str],
    *,
    base_dir: str | Path | None,
    seed: int,
    memory: Any = None,
    wanted: Sequence[str] | None = None,
    required: Sequence[str] = ("train",),
    label_keys: LabelKeys | None = None,
    span_columns: Collection[str] = (),
) -> dict[str, RowSplit]:
    """The splits of a data set under their names train, validation and test, those that there are.

    Local files are read row by row once, and found in the cache after that.

    Args:
        name: of the data set in the run file.
        config: its entry there.
        label_columns: columns that tasks read, in the order of the tasks.
        base_dir: where relative paths start; None for the working directory.
        seed: of the shares cut from train.
        memory: rows in memory in place of `config.path`: a `DatasetDict`, a `Dataset` (of train), a dict of splits,
            columns as a dict of lists, or a list of rows.
        wanted: the splits to give back; all by default.
        required: splits that must be there, as far as they are wanted.
        label_keys: of columns whose cells are not told apart by all that they hold.
        span_columns: those of `label_columns` that hold spans.

    Raises:
        DataError: with what is wrong and where.
    """
    columns = Columns.of(config, label_columns, name, span_columns)
    source = _source(name, config, base_dir or os.getcwd(), memory, columns)
    roles = _roles(name, config, list(source))
    names = [role for role in ROLES if wanted is None or role in wanted]
    missing = [role for role in required if role in names and role not in roles]
    if missing:
        raise DataError(_no_split(name, missing[0], missing[0], list(source)))
    shares = {role: share for role, share in roles.items() if not isinstance(share, str)}
    # What leaves train as a leak stands in the other splits.
    read = ROLES if config.drop_leaks and "train" in names else names
    uncut = [role for role in read if isinstance(roles.get(role), str)]
    if any(role in shares for role in names) and "train" not in uncut:
        uncut.insert(0, "train")
    found: dict[str, RowSplit] = {}
    errors: list[str] = []
    for role in uncut:
        try:
            found[role] = source[str(roles[role])]()
        except DataError as error:
            errors.append(str(error))
    if errors:
        raise DataError("\n".join(dict.fromkeys(errors)))
    if shares and "train" in found:
        found |= _cut(name, found["train"], shares, seed, columns, config)
    labels = {column: (label_keys or {}).get(column, lambda cell: cell) for column in columns.labels}
    chosen = choose_rows(name, {role: found[role] for role in ROLES if role in found}, config, labels)
    return {role: chosen[role] for role in names if role in chosen}


Source = dict[str, Callable[[], RowSplit]]
"""A data set's splits by the names it has for them, each read when it is called."""


def _source(name: str, config: DatasetConfig, base_dir: str | Path, memory: Any, columns: Columns) -> Source:
    if memory is not None:
        return _memory_source(name, memory, columns)
    if config.path is None:
        raise DataError(f"datasets.{name}: path is missing, and no rows in memory were given for it")
    if config.path not in (*LOCAL_FORMATS, "parquet"):
        hub = load_hub(name, config, base_dir)
        return {split: partial(_held, name, f"{config.path}[{split}]", hub[split], columns) for split in hub}
    if config.data_files is None:
        raise DataError(f"datasets.{name}.data_files is missing: path {config.path} reads files")
    listed = config.data_files if isinstance(config.data_files, Mapping) else {"train": config.data_files}
    read = _parquet if config.path == "parquet" else _local
    return {
        split: partial(_files, read, name, split, config, typed, base_dir, columns) for split, typed in listed.items()
    }


def _files(
    read: Callable[..., RowSplit],
    name: str,
    split: str,
    config: DatasetConfig,
    typed: str | Sequence[str],
    base_dir: str | Path,
    columns: Columns,
) -> RowSplit:
    # Looked for when the split is read: to measure test, the files of train need not be there.
    files = source_files(f"datasets.{name}.data_files", {split: typed}, base_dir)
    return read(config, name, split, files[split], columns)


def _local(config: DatasetConfig, name: str, split: str, files: Sequence[SourceFile], columns: Columns) -> RowSplit:
    csv = config.csv.model_dump() if config.csv is not None and config.path == "csv" else {}
    options = ReadOptions(
        str(config.path),
        **csv,
        columns=config.columns,
        tokens=columns.tokens or "tokens",
        labels=tuple(columns.labels),
        wanted=tuple(columns.names),
    )
    dataset, fingerprint = read_files(name, split, files, options, columns)
    return RowSplit(dataset, [file.name for file in files], frozenset(columns.labels), fingerprint)


def _parquet(_: DatasetConfig, name: str, split: str, files: Sequence[SourceFile], columns: Columns) -> RowSplit:
    loaded = load_parquet(name, split, files)
    kept = [
        keep_columns(name, file.name, dataset, columns, number)
        for number, (file, dataset) in enumerate(zip(files, loaded, strict=True))
    ]
    _check_alike(files, kept)
    dataset = datasets.concatenate_datasets(kept)
    fingerprint = fingerprint_of(asdict(columns), [file.digest() for file in files])
    return RowSplit(dataset, [file.name for file in files], frozenset(), fingerprint, frozenset(columns.labels))


def _check_alike(files: Sequence[SourceFile], kept: Sequence[datasets.Dataset]) -> None:
    first, told = kept[0].features, []
    for file, dataset in zip(files, kept, strict=True):
        for column, feature in dataset.features.items():
            if feature != first[column]:
                types = f"{column!r} holds {_type(feature)}, and in {files[0].name} it holds {_type(first[column])}"
                told.append(f"{file.name}: column {types}; write both with one type")
    if told:
        raise DataError("\n".join(told))


def _type(feature: Any) -> str:
    return feature.dtype if isinstance(feature, datasets.Value) else str(feature)


def _held(name: str, source: str, dataset: datasets.Dataset, columns: Columns) -> RowSplit:
    kept = keep_columns(name, source, dataset, columns)
    fingerprint = fingerprint_of(asdict(columns), dataset._fingerprint)
    return RowSplit(kept, [source], frozenset(), fingerprint, frozenset(columns.labels))


def _memory_source(name: str, memory: Any, columns: Columns) -> Source:
    if not isinstance(memory, Mapping) or not _are_splits(memory):
        memory = {"train": memory}
    source: Source = {}
    for split, rows in memory.items():
        if isinstance(rows, datasets.Dataset):
            source[str(split)] = partial(_held, name, f"{name}[{split}]", rows, columns)
        elif isinstance(rows, (Mapping, list, tuple)):
            source[str(split)] = partial(_python, name, str(split), rows, columns)
        else:
            raise DataError(
                f"datasets.{name}: split {split} is a {type(rows).__name__}; rows in memory are a datasets.Dataset, "
                "a dict of lists or a list of dicts (by split, or of train)"
            )
    return source


def _are_splits(memory: Mapping[Any, Any]) -> bool:
    if isinstance(memory, datasets.DatasetDict):
        return True
    held = memory.values()
    return any(not isinstance(rows, (list, tuple)) or (rows and isinstance(rows[0], Mapping)) for rows in held)


def _python(name: str, split: str, rows: Any, columns: Columns) -> RowSplit:
    dataset, fingerprint = read_python(name, split, rows, columns)
    return RowSplit(dataset, [f"{name}[{split}]"], frozenset(columns.labels), fingerprint)


def _roles(name: str, config: DatasetConfig, splits: Sequence[str]) -> dict[str, str | float]:
    """Where each split comes from: a name in the source, or a share of train."""
    if config.splits is None:
        return {role: role for role in ROLES if role in splits}
    roles: dict[str, str | float] = {role: config.splits[role] for role in ROLES if role in config.splits}
    if "train" not in roles and "train" in splits:
        roles = {"train": "train", **roles}
    absent = [(role, split) for role, split in roles.items() if isinstance(split, str) and split not in splits]
    if absent:
        raise DataError("\n".join(_no_split(name, role, split, splits) for role, split in absent))
    if "train" not in roles and any(not isinstance(split, str) for split in roles.values()):
        raise DataError(_no_split(name, "train", "train", splits))
    return roles


def _no_split(name: str, role: str, split: str, splits: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(split, splits, n=1) or [other for other in splits if other not in ROLES]
    hint = f"; write for example splits: {{{role}: {nearest[0]}}}" if nearest else ""
    known = ", ".join(splits) or "none"
    return f"datasets.{name}.splits.{role}: there is no split {split!r}; the splits are {known}{hint}"


def _cut(
    name: str, train: RowSplit, shares: Mapping[str, float], seed: int, columns: Columns, config: DatasetConfig
) -> dict[str, RowSplit]:
    try:
        cut = cut_rows(train.texts(config), _strata(train, list(columns.labels)), shares, seed)
    except CutError as error:
        raise DataError(f"datasets.{name}.splits.{error}") from error
    return {role: train.take(rows) for role, rows in cut.items()}


def _strata(split: RowSplit, labels: Sequence[str]) -> list[Hashable] | None:
    """The cells of the first column in which values repeat, one that holds no lists if there is any."""
    lists: list[Hashable] | None = None
    for column in labels:
        cells: list[Hashable] = []
        seen: dict[Hashable, Hashable] = {}
        holds_lists = False
        for start in range(0, len(split), BATCH):
            for cell in split.batch(start, start + BATCH, [column])[column]:
                holds_lists = holds_lists or isinstance(cell, list)
                value = repr(cell)
                cells.append(seen.setdefault(value, value))
        if len(seen) * 2 > len(split):
            continue
        if not holds_lists:
            return cells
        lists = lists or cells
    return lists
