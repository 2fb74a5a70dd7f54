"""What `hf-mtl check` prints: rows and labels of every task and split, and what was left out or mended."""

from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hf_mtl.config_keys import DatasetConfig, RunConfig
from hf_mtl.data.choice import text_keys
from hf_mtl.data.encoding import Sequences
from hf_mtl.data.left_out import left_out
from hf_mtl.data.preparation import Prepared
from hf_mtl.data.row_split import RowSplit

TEXTS = 10_000
SHOWN_LABELS = 40


def print_report(config: RunConfig, prepared: Prepared, console: Console) -> None:
    """Prints a table a data set and a table a task."""
    for dataset, splits in prepared.sequences.items():
        console.print(_dataset_table(dataset, splits, config.max_length))
        for line in left_out(dataset, splits):
            _say(console, line)
        for line in shared_texts({name: split.rows for name, split in splits.items()}, config.datasets[dataset]):
            _say(console, f"{dataset}: {line}")
        for name, entry in config.tasks.items():
            if entry.dataset == dataset:
                console.print(_task_table(name, entry.task_type, splits))
                for line in _notes(name, splits):
                    _say(console, line)
    for line in remarks(config, prepared):
        _say(console, line)


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _plain(text: str) -> Text:
    """Text with nothing in it that a console takes for markup or obeys."""
    return Text("".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text))


def _dataset_table(dataset: str, splits: Mapping[str, Sequences], max_length: int) -> Table:
    table = Table("split", title=_plain(f"data set {dataset}"), title_justify="left")
    for heading in ("rows", "sequences", f"rows over {max_length} pieces", "pieces, mean", "longest"):
        table.add_column(heading, justify="right")
    for split, sequences in splits.items():
        lengths, summary = sequences.lengths, sequences.summary
        counts = (summary.rows, summary.sequences, summary.over_length)
        table.add_row(split, *map(str, counts), f"{lengths.mean():.1f}", str(lengths.max()))
    return table


def remarks(config: RunConfig, prepared: Prepared) -> Iterator[str]:
    """A line for each thing that a run does without, for want of a validation split or of several labels."""
    for name, task in prepared.tasks.items():
        labels = task.spec.label_list or []
        if len(labels) == 1:
            yield f"{name}: there is one label only, {labels[0]!r}, so that nothing can be learnt"
    measured = prepared.split("validation")
    if not measured:
        yield "no data set has a validation split: the last weights are kept, not the best"
    for name, task in prepared.tasks.items():
        entry = config.tasks[name]
        if measured and entry.dataset not in measured:
            yield f"{name}: {entry.dataset} has no validation split, so the task does not count in the score"
        if entry.threshold == "tune" and entry.dataset not in measured:
            yield f"{name}: its threshold cannot be tuned without a validation split and stays {task.spec.threshold}"


def _task_table(task: str, task_type: str, splits: Mapping[str, Sequences]) -> Table:
    table = Table("label", title=_plain(f"task {task} ({task_type})"), title_justify="left")
    totals: dict[str, int] = {}
    for split, sequences in splits.items():
        table.add_column(split, justify="right")
        table.add_column("share", justify="right")
        totals[split] = sum(sequences.summary.labels[task].values())
    labels = dict.fromkeys(label for sequences in splits.values() for label in sequences.summary.labels[task])
    for label in list(labels)[:SHOWN_LABELS]:
        cells: list[str] = []
        for split, sequences in splits.items():
            count = sequences.summary.labels[task][label]
            cells += [str(count), f"{count / totals[split]:.1%}" if totals[split] else ""]
        table.add_row(_plain(label), *cells)
    if len(labels) > SHOWN_LABELS:
        table.add_row(f"… {len(labels) - SHOWN_LABELS} more labels", *[""] * (2 * len(splits)))
    table.add_section()
    missing = [(sequences.summary.task_without_label[task], sequences.summary.rows) for sequences in splits.values()]
    table.add_row(
        "rows without label", *[cell for count, rows in missing for cell in (str(count), f"{count / max(rows, 1):.1%}")]
    )
    return table


def _notes(task: str, splits: Mapping[str, Sequences]) -> Iterator[str]:
    for split, sequences in splits.items():
        for note, count in sequences.summary.notes[task].items():
            if count:
                yield f"{task} {split}: {count} {note}"


def shared_texts(splits: Mapping[str, RowSplit], config: DatasetConfig) -> Iterator[str]:
    """A line for each split of how many of its rows have a text that train has too."""
    if "train" not in splits or len(splits) < 2:
        return
    known = set(text_keys(splits["train"], config)) - {None}
    for name, split in splits.items():
        if name != "train":
            count = sum(key in known for key in text_keys(split, config))
            yield f"{count} of {len(split)} texts of {name} stand in train too"
