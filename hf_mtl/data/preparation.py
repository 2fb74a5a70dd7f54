"""A run file's data sets and tasks → tasks with labels, and encoded sequences by data set and split."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets.arrow_writer import ArrowWriter
from transformers import PreTrainedTokenizerBase

from hf_mtl.config import DatasetConfig, RunConfig, TaskConfig
from hf_mtl.data.cache import cached_folder
from hf_mtl.data.encoding import RowEncoder, Sequences, Summary
from hf_mtl.data.rows import RowSplit, load_rows
from hf_mtl.errors import DataError
from hf_mtl.tasks.labels import LabelError
from hf_mtl.tasks.task import Cells, Task
from hf_mtl.tasks.types import TASK_TYPES, build_task

FORMAT = 1
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
            splits = _load(name, config, entries, memory, wanted)
            own = _tasks(config, entries, splits, tasks)
            built |= own
            sequences[name] = {
                split: encode_split(rows, dataset, own, entries, tokenizer, config.max_length)
                for split, rows in splits.items()
            }
            _refuse_empty(name, sequences[name])
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
    columns = list(dict.fromkeys(entry.label_column for entry in entries.values()))
    return load_rows(
        name,
        config.datasets[name],
        columns,
        base_dir=config.base_dir,
        seed=config.training.seed,
        memory=None if memory is None else memory.get(name),
        wanted=None if wanted is None else sorted(wanted),
    )


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
            tasks[name] = _task(name, entry, config.datasets[entry.dataset], splits["train"], config.base_dir)
        except LabelError as error:
            errors.append(f"data set {entry.dataset}, column {entry.label_column}, task {name}: {error}")
    if errors:
        raise DataError("\n".join(errors))
    return tasks


def _task(name: str, entry: TaskConfig, dataset: DatasetConfig, train: RowSplit, base_dir: str | None) -> Task:
    """The task as train shows it. Its spec is cached: on a million rows the labels take longer than all the rest."""
    if isinstance(entry.label_list, str):
        entry = entry.model_copy(update={"label_list": read_label_list(name, entry.label_list, base_dir)})
    key = _fingerprint("task", train.fingerprint, name, entry.model_dump(mode="json"), bool(dataset.text_pair_column))

    def make(folder: Path) -> None:
        names = train.class_names(entry.label_column)
        cells = label_cells(train, entry.label_column)
        task = TASK_TYPES[entry.task_type].from_rows(name, entry, cells, names, bool(dataset.text_pair_column))
        weight = None if task.class_weight is None else task.class_weight.tolist()
        saved = json.dumps({"spec": task.spec.to_dict(), "class_weight": weight})
        (folder / "task.json").write_text(saved, encoding="utf-8")

    saved = json.loads((cached_folder(key, make) / "task.json").read_text(encoding="utf-8"))
    return build_task(
        saved["spec"], class_weight=saved["class_weight"], label_smoothing_factor=entry.label_smoothing_factor
    )


def read_label_list(task: str, file: str, base_dir: str | None) -> list[Any]:
    """The names in a JSON file that `label_list` gives.

    Raises:
        DataError: if it is not a JSON list of names.
    """
    path = Path(base_dir or ".", file)
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"tasks.{task}.label_list: {file} cannot be read as JSON ({error})") from error
    if not isinstance(names, list) or not names or not all(isinstance(label, (str, int)) for label in names):
        raise DataError(f'tasks.{task}.label_list: {file} is not a list of label names; write ["a", "b", …]')
    return names


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
    backend = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else repr(tokenizer)
    reading = {name: entry.model_dump(mode="json") for name, entry in entries.items()}
    specs = {name: task.spec.to_dict() for name, task in tasks.items()}
    key = _fingerprint(
        "sequences", split.fingerprint, config.model_dump(mode="json"), reading, specs, backend, max_length
    )

    def write(folder: Path) -> None:
        encoder = _encoder(split, config, tasks, entries, tokenizer, max_length)
        with ArrowWriter(path=str(folder / "sequences.arrow"), features=encoder.features()) as writer:
            for batch in encoder.batches():
                writer.write_batch(batch)
            writer.finalize()
        (folder / "summary.json").write_text(encoder.summary.to_json(), encoding="utf-8")

    folder = cached_folder(key, write)
    summary = Summary.from_json((folder / "summary.json").read_text(encoding="utf-8"))
    return Sequences(datasets.Dataset.from_file(str(folder / "sequences.arrow")), split, summary)


def _encoder(
    split: RowSplit,
    config: DatasetConfig,
    tasks: Mapping[str, Task],
    entries: Mapping[str, TaskConfig],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> RowEncoder:
    notes: dict[str, Counter[str]] = {name: Counter() for name in tasks}
    columns = {name: entry.label_column for name, entry in entries.items()}
    readers = {
        name: task.reader(
            entries[name], label_cells(split, columns[name]), split.class_names(columns[name]), notes[name]
        )
        for name, task in tasks.items()
    }
    return RowEncoder(split, config, tasks, columns, readers, notes, tokenizer, max_length)


def _refuse_empty(name: str, splits: Mapping[str, Sequences]) -> None:
    for split, sequences in splits.items():
        if len(sequences) == 0:
            summary = sequences.summary
            raise DataError(
                f"data set {name}, split {split}: no row can be used ({summary.rows} rows; {summary.without_text} "
                f"without text, {summary.without_label} without a label); check the column names and the labels"
            )


def _fingerprint(*parts: Any) -> str:
    text = json.dumps([FORMAT, datasets.__version__, *parts], sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
