"""Which rows of a data set are read, where its entry in the run file leaves some out. No text is ever rewritten."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hf_mtl.config_keys import DatasetConfig
from hf_mtl.data.row_split import BATCH, LeftOut, RowSplit
from hf_mtl.errors import DataError
from hf_mtl.tasks.labels import LabelError

SHOWN_ROWS = 20
LabelKeys = Mapping[str, Callable[[Any], Any]]
"""Column of labels → what of a cell tells it from one that says something else, as JSON has it; or a `LabelError`."""
OPTIONS = ("drop_duplicates", "drop_conflicts", "drop_leaks", "min_characters", "max_characters")


def choose_rows(
    name: str, splits: dict[str, RowSplit], config: DatasetConfig, labels: LabelKeys
) -> dict[str, RowSplit]:
    """The splits without the rows that the data set's options leave out; each says which these are.

    Args:
        name: of the data set.
        splits: by role.
        config: the data set's entry in the run file.
        labels: the columns of labels that tasks read.

    Raises:
        DataError: if nothing of train is left.
    """
    if not any(getattr(config, option) for option in OPTIONS):
        return splits
    chosen = {role: _chosen(split, config, labels) for role, split in splits.items()}
    if config.drop_leaks and "train" in chosen:
        held = {text for role, split in chosen.items() if role != "train" for text in text_keys(split, config)} - {None}
        leaks = [number for number, text in enumerate(text_keys(chosen["train"], config)) if text in held]
        chosen["train"] = _without(chosen["train"], {"whose text stands in another split (drop_leaks)": leaks})
    if len(splits.get("train", ())) and not len(chosen["train"]):
        told = ", ".join(f"{found.count} {found.reason}" for found in chosen["train"].left_out)
        raise DataError(f"data set {name}, split train: its options leave out every row: {told}")
    return chosen


def _chosen(split: RowSplit, config: DatasetConfig, labels: LabelKeys) -> RowSplit:
    found: dict[str, list[int]] = {}
    if config.min_characters or config.max_characters:
        found |= _by_length(split, config)
    gone = {row for rows in found.values() for row in rows}
    if config.drop_conflicts:
        rows = [row for row in _conflicts(text_keys(split, config), _labels(split, labels)) if row not in gone]
        found["whose text has other labels elsewhere (drop_conflicts)"] = rows
        gone |= set(rows)
    if config.drop_duplicates:
        rows = _duplicates(text_keys(split, config), _labels(split, labels))
        found["that repeat a row before (drop_duplicates)"] = [row for row in rows if row not in gone]
    return _without(split, found)


def _without(split: RowSplit, found: Mapping[str, Sequence[int]]) -> RowSplit:
    kept = np.ones(len(split), dtype=bool)
    told = []
    for reason, rows in found.items():
        if len(rows):
            kept[rows] = False
            told.append(LeftOut(reason, len(rows), tuple(split.numbers(rows[:SHOWN_ROWS]))))
    return split.take(np.flatnonzero(kept), *told) if told else split


def _by_length(split: RowSplit, config: DatasetConfig) -> dict[str, list[int]]:
    """Rows whose text is too short or too long, in characters; those without text are left out as such elsewhere."""
    least, most = config.min_characters or 0, config.max_characters or float("inf")
    short, long = [], []
    for row, text in enumerate(split.texts(config)):
        parts = _parts(text, config)
        count = sum(map(len, parts))
        if not all(map(str.strip, parts)):
            continue
        if count < least:
            short.append(row)
        elif count > most:
            long.append(row)
    return {
        f"of fewer than {config.min_characters} characters (min_characters)": short,
        f"of more than {config.max_characters} characters (max_characters)": long,
    }


def text_keys(split: RowSplit, config: DatasetConfig) -> Iterator[bytes | None]:
    """What tells each row's text apart, in 16 bytes; None for no text, which is left out as such elsewhere."""
    for text in split.texts(config):
        says = all(map(str.strip, _parts(text, config)))
        yield hashlib.blake2b(text.encode(), digest_size=16).digest() if says else None


def _parts(text: str, config: DatasetConfig) -> list[str]:
    """The texts of a row: two of a pair, which is none without both."""
    return json.loads(text) if config.text_pair_column else [text]


class _Unreadable:
    """A label that is refused where its row is read, and so no other label and no repetition."""


Label = str | _Unreadable | None


def _labels(split: RowSplit, columns: LabelKeys) -> Iterator[tuple[Label, ...]]:
    """Each row's labels; null is None."""
    for start in range(0, len(split), BATCH):
        batch = split.batch(start, start + BATCH, list(columns))
        for cells in zip(*(batch[column] for column in columns), strict=True):
            keys = zip(cells, columns.values(), strict=True)
            yield tuple(None if cell is None else _label(key, cell) for cell, key in keys)


def _label(key: Callable[[Any], Any], cell: Any) -> Label:
    try:
        return json.dumps(key(cell), sort_keys=True, default=str)
    except LabelError:
        return _Unreadable()


def _conflicts(keys: Iterator[bytes | None], labels: Iterator[tuple[Label, ...]]) -> list[int]:
    """All rows of a text that has two different labels of one column; no label is no other label."""
    known: dict[bytes | None, list[str | None]] = {}
    texts, wrong = [], set()
    for key, own in zip(keys, labels, strict=True):
        texts.append(key)
        before = known.setdefault(key, [None] * len(own))
        for place, label in enumerate(own):
            if isinstance(label, _Unreadable):
                continue
            if before[place] is None:
                before[place] = label
            elif label is not None and label != before[place]:
                wrong.add(key)
    return [row for row, key in enumerate(texts) if key in wrong and key is not None]


def _duplicates(keys: Iterator[bytes | None], labels: Iterator[tuple[Label, ...]]) -> list[int]:
    """Rows whose text and labels have all been there."""
    seen: set[tuple[bytes | None, tuple[Label, ...]]] = set()
    found = []
    for row, pair in enumerate(zip(keys, labels, strict=True)):
        if pair in seen and pair[0] is not None:
            found.append(row)
        seen.add(pair)
    return found
