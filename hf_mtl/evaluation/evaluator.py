"""The evaluation loop: one pass of the encoder over a split answers all of its tasks, and every row counts once.

On several processes each answers rows of its own, all windows of a row at one place, so no row is read twice and none
is left to nobody. The answers are then gathered: every process has them all, and computes the same metrics of them.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import Any

import evaluate as hf_evaluate
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from hf_mtl.batching.collator import Collator
from hf_mtl.batching.plan import dealt
from hf_mtl.data.encoding import Sequences
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.tasks.task import Answer, Task

HubMetrics = Mapping[str, hf_evaluate.Metric]


@dataclass(frozen=True)
class TaskResult:
    """What a split says of one task.

    Args:
        rows: the rows that have a label for it, as places in the split, ascending.
        answers: theirs, in the same order.
        metrics: name → value; empty if there is no such row.
    """

    rows: list[int]
    answers: list[Answer]
    metrics: dict[str, Any]


def evaluate(
    model: MultiTaskModel,
    sequences: Sequences,
    tasks: Sequence[str],
    collator: Collator,
    batch_size: int,
    *,
    device: torch.device | str,
    on_batch: Callable[[int], None] | None = None,
    hub_metrics: Mapping[str, HubMetrics] | None = None,
    accelerator: Accelerator | None = None,
) -> dict[str, TaskResult]:
    """Evaluates the tasks of one data set on one of its splits.

    The model's mode and parameters and all random generators are left as they were. The results do not depend on the
    number of processes, up to the rounding of numbers in batches of other widths, and are equal on all of them.

    Args:
        model: on `device`; of a model wrapped for several processes the `MultiTaskModel` itself.
        sequences: the split's.
        tasks: those to evaluate; rows without a label for a task do not count for it.
        collator: pads sequences to a batch.
        batch_size: sequences in one pass of the encoder; the results do not depend on it.
        device: where the batches go.
        on_batch: called after each batch with the number of this process's sequences in it; 0 where only other
            processes still have some.
        hub_metrics: task → name in the run file → metric, beside the task's own.
        accelerator: that of the processes, all of which must call this with the same arguments; without it this
            process answers all rows alone.
    """
    answers = read_answers(
        model, sequences, tasks, collator, batch_size, device=device, on_batch=on_batch, accelerator=accelerator
    )
    return {task: measure(model.tasks[task], answers[task], (hub_metrics or {}).get(task)) for task in tasks}


def read_answers(
    model: MultiTaskModel,
    sequences: Sequences,
    tasks: Sequence[str],
    collator: Collator,
    batch_size: int,
    *,
    device: torch.device | str,
    on_batch: Callable[[int], None] | None = None,
    accelerator: Accelerator | None = None,
) -> dict[str, dict[int, Answer]]:
    """Task → row → answer, rows ascending; arguments as for `evaluate`."""
    rank, processes = (0, 1) if accelerator is None else (accelerator.process_index, accelerator.num_processes)
    row_of, window_of = (sequences.dataset.data.column(name).to_numpy() for name in ("row", "window"))
    readers = {name: _Reader(model.tasks[name], row_of, window_of, sequences.items(name)) for name in tasks}
    read = np.zeros(len(sequences), dtype=bool)
    for reader in readers.values():
        read |= reader.reads
    # The longest first: if memory runs out, it does so at once.
    order = np.flatnonzero(read)
    order = order[np.argsort(-sequences.lengths[order], kind="stable")]
    owners = _owners(row_of[order], sequences.lengths[order], processes)
    own = order[owners == rank]
    # Under FSDP each pass gathers parameters from all processes, so one that is through goes on without sequences.
    most = int(np.bincount(owners, minlength=processes).max())
    with _evaluating(model):
        for start in range(0, most, batch_size):
            places = own[start : start + batch_size]
            _answer(model, sequences.take(places.tolist()), places, readers, collator, device)
            if on_batch is not None:
                on_batch(len(places))
    found = {name: reader.answers for name, reader in readers.items()}
    # These travel as pickles, but only between the live processes of this run.
    shares = gather_object([found]) if processes > 1 else [found]
    return {name: dict(sorted(pair for share in shares for pair in share[name].items())) for name in readers}


def measure(task: Task, answers: Mapping[int, Answer], hub_metrics: HubMetrics | None = None) -> TaskResult:
    """The metrics of a task's answers by row.

    A Hub metric stands under its name in the run file: its first number, or 0 where that is undefined. If it gives
    several, each stands under `<name>:<key>` too.
    """
    if not answers:
        return TaskResult([], [], {})
    predictions = [answer.prediction for answer in answers.values()]
    references = [answer.reference for answer in answers.values()]
    metrics = task.metric().compute(predictions=predictions, references=references)
    for name, metric in (hub_metrics or {}).items():
        found = metric.compute(predictions=predictions, references=references)
        numbers = {key: _finite(value) for key, value in found.items() if isinstance(value, Real)}
        metrics[name] = next(iter(numbers.values()), 0.0)
        if len(numbers) > 1:
            metrics |= {f"{name}:{key}": value for key, value in numbers.items()}
    return TaskResult(list(answers), list(answers.values()), metrics)


def _owners(row_of: np.ndarray, lengths: np.ndarray, processes: int) -> np.ndarray:
    """The process that answers each sequence: rows are dealt whole, those with the most pieces first."""
    rows, places = np.unique(row_of, return_inverse=True)
    order = np.argsort(-np.bincount(places, weights=lengths), kind="stable")
    owners = np.empty(len(rows), dtype=np.intp)
    owners[order] = dealt(len(rows), processes)
    return owners[places]


class _Reader:
    """Gathers one task's answers: which sequences it reads, and the parts of rows that are not complete yet."""

    def __init__(self, task: Task, row_of: np.ndarray, window_of: np.ndarray, items: np.ndarray) -> None:
        self.task = task
        # All windows of a row with an item: words without a piece of their own are no items, yet they are answered.
        labelled = np.bincount(row_of, weights=items) > 0
        self.reads = labelled[row_of] & (task.reads_windows | (window_of == 0))
        self.awaited = np.bincount(row_of[self.reads])
        self.parts: dict[int, list[tuple[dict[str, Any], Any]]] = {}
        self.answers: dict[int, Answer] = {}

    def take(self, sequence: Mapping[str, Any], logits: Tensor) -> None:
        prefix = f"{self.task.name}."
        own = {key.removeprefix(prefix): value for key, value in sequence.items() if key.startswith(prefix)}
        own |= {key: sequence[key] for key in ("row", "window")}
        parts = self.parts.setdefault(own["row"], [])
        parts.append((own, self.task.read(logits, own)))
        if len(parts) == self.awaited[own["row"]]:
            parts.sort(key=lambda part: part[0]["window"])
            self.answers[own["row"]] = self.task.join(parts)
            del self.parts[own["row"]]


def _answer(
    model: MultiTaskModel,
    chosen: Sequence[Mapping[str, Any]],
    places: np.ndarray,
    readers: Mapping[str, _Reader],
    collator: Collator,
    device: torch.device | str,
) -> None:
    """One pass: the sequences at `places` of the split, which may be none, are handed to the tasks that read them."""
    rows = {name: np.flatnonzero(reader.reads[places]) for name, reader in readers.items()}
    logits = _logits(model, collator(chosen), rows, device)
    for name, found in rows.items():
        for place, own in zip(found.tolist(), logits[name], strict=True):
            readers[name].take(chosen[place], own)


def _logits(
    model: MultiTaskModel, batch: Mapping[str, Any], rows: Mapping[str, np.ndarray], device: torch.device | str
) -> dict[str, list[Tensor]]:
    """Each task's logits on the CPU in 32 bits, sequence by sequence: `[labels]`, or `[pieces, labels]` unpadded."""
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = {name: batch[name].to(device) for name in names if name in batch}
    places = {name: torch.from_numpy(found).to(device) for name, found in rows.items()}
    found = model(**inputs, rows=places, tasks=list(rows)).logits
    mask = batch["attention_mask"].bool().cpu()
    result: dict[str, list[Tensor]] = {}
    for name in rows:
        logits = found[name].float().cpu()
        # Only logits with a place for each piece are padded.
        result[name] = [
            own[mask[place]] if own.dim() > 1 else own for place, own in zip(rows[name], logits, strict=True)
        ]
    return result


@contextmanager
def _evaluating(model: MultiTaskModel) -> Iterator[None]:
    """Evaluation mode without gradients; each module gets its own former mode back."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        # Not inference_mode: parameters that FSDP gathers in there can never be trained on again.
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def _finite(value: Any) -> float:
    return float(value) if math.isfinite(value) else 0.0
