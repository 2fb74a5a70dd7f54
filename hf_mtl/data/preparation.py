"""A run file's data sets and tasks → tasks with labels, and encoded sequences by data set and split."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import tokenizers
import transformers
from transformers import PreTrainedTokenizerBase

from hf_mtl.config_keys import DatasetConfig, RunConfig, TaskConfig
from hf_mtl.data.cache import cached_folder
from hf_mtl.data.choice import LabelKeys
from hf_mtl.data.encoding import RowEncoder, Sequences, Summary
from hf_mtl.data.label_files import with_label_list
from hf_mtl.data.left_out import left_out
from hf_mtl.data.parts import write_sequences
from hf_mtl.data.row_split import RowSplit
from hf_mtl.data.rows import load_rows
from hf_mtl.data.tokenizer import clear_call_state
from hf_mtl.errors import DataError
from hf_mtl.tasks.labels import LabelError, shown
from hf_mtl.tasks.task import Cells, Task
from hf_mtl.tasks.types import TASK_TYPES, build_task

FORMAT = 4
"""Counts up when the encoding of rows changes, so that a cache of older sequences is not read."""
CELLS = 10_000


@dataclass(frozen=True)
class Prepared:
    """What training and evaluation read: the tasks in the order of the run file, sequences[data set][split]."""

    tasks: dict[str, Task]
    sequences: dict[str, dict[str, Sequences]]

    def split(self, name: str) -> dict[str, Sequences]:
        """Data set → sequences of one split, for the data sets that have it."""
        return {dataset: splits[name] for dataset, splits in self.sequences.items() if name in splits}


def prepare(
    config: RunConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    memory: Mapping[str, Any] | None = None,
    tasks: Mapping[str, Task] | None = None,
    wanted: Collection[str] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Prepared:
    """Reads, splits and encodes the rows of all data sets; what is cached already is not read again.

    Args:
        config: the run.
        tokenizer: from `load_tokenizer`.
        memory: rows in memory, by data set.
        tasks: tasks whose labels are settled (a trained model's); without them labels come from train.
        wanted: the splits to read; all by default.
        progress: told what is being read, a line each.

    Raises:
        DataError: with the errors of all data sets.
    """
    errors: list[str] = []
    built: dict[str, Task] = {}
    sequences: dict[str, dict[str, Sequences]] = {}
    for name, dataset in config.datasets.items():
        entries = {task: entry for task, entry in config.tasks.items() if entry.dataset == name}
        if tasks is not None:
            entries = {task: entry for task, entry in entries.items() if task in tasks}
        if not entries:
            continue
        progress(f"reading {name}")
        try:
            entries = {
                task: with_label_list(task, entry, config.base_dir, settled=tasks is not None)
                for task, entry in entries.items()
            }
            splits = _load(name, config, entries, memory, wanted)
            own = _tasks(config, entries, splits, tasks)
            built |= own
            sequences[name] = {
                split: encode_split(rows, dataset, own, entries, tokenizer, config.max_length)
                for split, rows in splits.items()
            }
            for split in _empty_splits(name, sequences[name], own, training=tasks is None):
                empty = {split: sequences[name].pop(split)}
                why = "; ".join(line.partition(": ")[2] for line in left_out(name, empty))
                progress(f"{name}: split {split} is left out, for none of its rows can be used: {why}")
        except DataError as error:
            errors.append(str(error))
    if errors:
        raise DataError("\n".join(errors))
    return Prepared({task: built[task] for task in config.tasks if task in built}, sequences)


def _load(
    name: str,
    config: RunConfig,
    entries: Mapping[str, TaskConfig],
    memory: Mapping[str, Any] | None,
    wanted: Collection[str] | None,
) -> dict[str, RowSplit]:
    dataset = config.datasets[name]
    cut = dataset.splits is not None and any(not isinstance(source, str) for source in dataset.splits.values())
    # A share is cut by the labels of all tasks of the run, also where only some of them are measured.
    readers = [entry for entry in config.tasks.values() if entry.dataset == name] if cut else list(entries.values())
    columns = list(dict.fromkeys(entry.column for entry in readers))
    return load_rows(
        name,
        config.datasets[name],
        columns,
        base_dir=config.base_dir,
        seed=config.training.seed,
        memory=None if memory is None else memory.get(name),
        wanted=None if wanted is None else sorted(wanted),
        label_keys=_label_keys(entries),
        span_columns=[entry.spans_column for entry in readers if entry.spans_column],
    )


def _label_keys(entries: Mapping[str, TaskConfig]) -> LabelKeys:
    """What tells the cells of a column apart: all that its tasks make of them."""
    own: dict[str, list[Callable[[Any], Any]]] = {}
    for entry in entries.values():
        own.setdefault(entry.column, []).append(partial(TASK_TYPES[entry.task_type].cell_key, entry))
    return {column: partial(_together, keys) for column, keys in own.items()}


def _together(keys: Sequence[Callable[[Any], Any]], cell: Any) -> list[Any]:
    return [key(cell) for key in keys]


def _tasks(
    config: RunConfig,
    entries: Mapping[str, TaskConfig],
    splits: Mapping[str, RowSplit],
    given: Mapping[str, Task] | None,
) -> dict[str, Task]:
    if given is not None:
        return {name: given[name] for name in entries}
    tasks: dict[str, Task] = {}
    errors: list[str] = []
    for name, entry in entries.items():
        try:
            tasks[name] = _task(name, entry, config.datasets[entry.dataset], splits["train"])
        except LabelError as error:
            found = _row_with(splits["train"], entry, error.example)
            errors.append(f"data set {entry.dataset}, column {entry.column}, task {name}: {error}{found}")
    if errors:
        raise DataError("\n".join(errors))
    return tasks


def _row_with(split: RowSplit, entry: TaskConfig, label: Any) -> str:
    """Where a label stands first, for the end of a message; nothing for none."""
    if label is not None:
        for row, cell in enumerate(label_cells(split, entry.column)()):
            if _has(cell, label, entry.label_separator):
                return f"; {shown(label)} stands for example in {split.where(row)}"
    return ""


def _has(cell: Any, label: Any, separator: str | None) -> bool:
    if type(cell) is type(label) and cell == label:
        return True
    if isinstance(cell, list):
        return any(_has(one, label, separator) for one in cell)
    if isinstance(cell, dict):  # a span
        return _has(cell.get("label"), label, separator)
    return isinstance(cell, str) and label in (*cell.split(), *map(str.strip, cell.split(separator)))


def _task(name: str, entry: TaskConfig, dataset: DatasetConfig, train: RowSplit) -> Task:
    """The task as train shows it. Its spec is cached: on a million rows the labels take longer than all the rest."""
    key = _fingerprint("task", train.fingerprint, name, _reading(entry), bool(dataset.text_pair_column))

    def make(folder: Path) -> None:
        names = train.class_names(entry.column)
        cells = label_cells(train, entry.column)
        task = TASK_TYPES[entry.task_type].from_rows(name, entry, cells, names, bool(dataset.text_pair_column))
        weight = None if task.class_weight is None else task.class_weight.tolist()
        saved = json.dumps({"spec": task.spec.to_dict(), "class_weight": weight})
        (folder / "task.json").write_text(saved, encoding="utf-8")

    saved = json.loads((cached_folder(key, make) / "task.json").read_text(encoding="utf-8"))
    return build_task(
        saved["spec"], class_weight=saved["class_weight"], label_smoothing_factor=entry.label_smoothing_factor
    )


def _reading(entry: TaskConfig) -> dict[str, Any]:
    """What of a task's entry may change how rows are read."""
    return entry.model_dump(mode="json", exclude={"loss_weight", "score_weight", "metrics"})


def label_cells(split: RowSplit, column: str) -> Cells:
    """A label column's cells, from the first row on at each call."""

    def cells() -> Iterator[Any]:
        for start in range(0, len(split), CELLS):
            yield from split.batch(start, start + CELLS, columns=[column])[column]

    return cells


def encode_split(
    split: RowSplit,
    config: DatasetConfig,
    tasks: Mapping[str, Task],
    entries: Mapping[str, TaskConfig],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> Sequences:
    """The sequences of one split, encoded now or mapped from the cache.

    Raises:
        DataError: naming the rows that cannot be read.
    """
    if any(task.reads_windows for task in tasks.values()) and not tokenizer.is_fast:
        raise DataError(
            f"{type(tokenizer).__name__} gives no character offsets, which tagging needs; choose an encoder with a "
            "fast tokenizer (a tokenizer.json)"
        )
    reading = {name: _reading(entry) for name, entry in entries.items()}
    specs = {name: task.spec.to_dict() for name, task in tasks.items()}
    key = _fingerprint(
        "sequences", split.fingerprint, config.model_dump(mode="json"), reading, specs, _state(tokenizer), max_length
    )

    def write(folder: Path) -> None:
        encoder = _encoder(split, config, tasks, entries, tokenizer, max_length)
        write_sequences(encoder, folder / "sequences.arrow")
        (folder / "summary.json").write_text(encoder.summary.to_json(), encoding="utf-8")

    folder = cached_folder(key, write)
    summary = Summary.from_json((folder / "summary.json").read_text(encoding="utf-8"))
    return Sequences(datasets.Dataset.from_file(str(folder / "sequences.arrow")), split, summary, key)


def _state(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """All that determines how a tokenizer encodes."""
    versions = [transformers.__version__, tokenizers.__version__, tokenizer.truncation_side]
    if not tokenizer.is_fast:
        return [*versions, repr(tokenizer), json.dumps(tokenizer.get_vocab(), sort_keys=True)]
    clear_call_state(tokenizer)
    return [*versions, tokenizer.backend_tokenizer.to_str()]


def _encoder(
    split: RowSplit,
    config: DatasetConfig,
    tasks: Mapping[str, Task],
    entries: Mapping[str, TaskConfig],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> RowEncoder:
    notes: dict[str, Counter[str]] = {name: Counter() for name in tasks}
    columns = {name: entry.column for name, entry in entries.items()}
    readers = {}
    for name, task in tasks.items():
        cells, names = label_cells(split, columns[name]), split.class_names(columns[name])
        try:
            readers[name] = task.reader(entries[name], cells, names, notes[name])
        except LabelError as error:
            raise DataError(f"column {columns[name]}, task {name}: {error}") from error
    spans = [entry.spans_column for entry in entries.values() if entry.spans_column]
    return RowEncoder(split, config, tasks, columns, spans, readers, notes, tokenizer, max_length)


def _empty_splits(name: str, splits: Mapping[str, Sequences], tasks: Collection[str], *, training: bool) -> list[str]:
    """Splits that a training run can do without: the test rows of many public data sets have no labels.

    Raises:
        DataError: for any other split without a row that can be used, and for a task that train has no label of.
    """
    empty = [split for split, sequences in splits.items() if len(sequences) == 0]
    for split in empty:
        if split == "train" or not training:
            summary = splits[split].summary
            raise DataError(
                f"data set {name}, split {split}: no row can be used ({summary.rows} rows; {summary.without_text} "
                f"without text, {summary.without_label} without a label); check the column names and the labels"
            )
    for task in tasks if training else ():
        if not splits["train"].items(task).any():
            raise DataError(f"data set {name}, split train: no row has a label for task {task}; check its label_column")
    return empty


def _fingerprint(*parts: Any) -> str:
    text = json.dumps([FORMAT, datasets.__version__, *parts], sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
