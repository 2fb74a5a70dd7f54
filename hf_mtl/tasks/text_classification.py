"""Text classification: one label a text, several labels, or a score (regression), by transformers' `problem_type`."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, TextClassificationPipeline

from hf_mtl.config_keys import TaskConfig
from hf_mtl.tasks.labels import LabelError, LabelIndex, class_name, folded, found_labels, label_name, readable, shown
from hf_mtl.tasks.spec import TaskSpec
from hf_mtl.tasks.task import Answer, Cells, Task, Window, balanced_weights

if TYPE_CHECKING:
    import evaluate

LARGEST = float(np.finfo(np.float32).max)
SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"


class TextClassification(Task):
    """A label, a set of labels or a score for a text or a pair of texts."""

    auto_class = AutoModelForSequenceClassification
    pipeline_class = TextClassificationPipeline
    pipeline_options = ("top_k", "function_to_apply")
    family = "sentence"
    reads_windows = False
    metric_names = {
        SINGLE: ("f1_macro", "accuracy", "f1_micro", "precision", "recall", "mcc"),
        MULTI: ("f1_micro", "f1_macro", "exact_match"),
        REGRESSION: ("spearman", "pearson", "rmse"),
    }

    @classmethod
    def stock_spec(cls, name: str, config: PreTrainedConfig) -> TaskSpec:
        problem_type = config.problem_type or (REGRESSION if config.num_labels == 1 else SINGLE)
        if problem_type == REGRESSION and config.num_labels != 1:
            raise ValueError(f"{name}: a regression with {config.num_labels} values; hf_mtl has one value a task")
        labels = [config.id2label[place] for place in range(config.num_labels)]
        return TaskSpec(
            name=name,
            task_type="text-classification",
            problem_type=problem_type,
            label_list=None if problem_type == REGRESSION else labels,
            threshold=0.5 if problem_type == MULTI else None,
        )

    @classmethod
    def from_rows(cls, name: str, config: TaskConfig, cells: Cells, class_names: list[str] | None, pair: bool) -> Self:
        problem_type: str | None = config.problem_type
        if problem_type is None:
            first = next((cell for cell in cells() if cell is not None), None)
            several = isinstance(first, list) or config.label_separator is not None
            problem_type = MULTI if several else SINGLE
        if problem_type == MULTI and config.label_smoothing_factor:
            raise LabelError("the rows have lists of labels, for which there is no label_smoothing_factor; take it out")
        if problem_type == MULTI and class_names is None:
            _refuse_flags(cells())
        labels = None
        if problem_type != REGRESSION:
            named = config.label_list if config.label_list is not None else class_names
            labels = (
                [label_name(label) for label in named]
                if named
                else found_labels(_names(cells, config), normalise=config.normalise_labels)
            )
        threshold = config.threshold if isinstance(config.threshold, float) else 0.5
        spec = TaskSpec(
            name=name,
            task_type="text-classification",
            problem_type=problem_type,
            label_list=labels,
            text_pair=pair,
            threshold=threshold if problem_type == MULTI else None,
        )
        task = cls(spec, label_smoothing_factor=config.label_smoothing_factor)
        if config.class_weight is not None:
            task.class_weight = task.weights(config, cells, class_names)
        return task

    @classmethod
    def cell_key(cls, config: TaskConfig, cell: Any) -> Any:
        if config.problem_type == REGRESSION:
            return read_number(cell)
        if isinstance(cell, list) or config.label_separator is not None:
            names = [label_name(label) for label in split_labels(cell, config.label_separator)]
            return sorted({folded(name) if config.normalise_labels else name for name in names})
        return folded(label_name(cell)) if config.normalise_labels else label_name(cell)

    def weights(self, config: TaskConfig, cells: Cells, class_names: list[str] | None) -> Tensor:
        read = self.reader(config, cells, class_names, Counter())
        counts: Counter[str] = Counter()
        for label in readable(cells(), read):
            counts.update(self.label_counts(label))
        return balanced_weights(config.class_weight, self.spec.label_list or [], counts)

    def reader(
        self, config: TaskConfig, cells: Cells, class_names: list[str] | None, notes: Counter[str]
    ) -> Callable[[Any], Any]:
        if self.spec.problem_type == REGRESSION:
            return read_number
        place = LabelIndex(self.spec.label_list or [], self.name, normalise=config.normalise_labels, notes=notes)

        def read(cell: Any) -> int:
            # A ClassLabel's integers are places among the data set's own names, whatever order label_list has.
            return place(class_name(cell, class_names) if class_names and isinstance(cell, int) else cell)

        if self.spec.problem_type == SINGLE:
            return read
        return lambda cell: sorted({read(label) for label in split_labels(cell, config.label_separator)})

    def columns(self) -> dict[str, Any]:
        kinds = {SINGLE: datasets.Value("int64"), REGRESSION: datasets.Value("float64")}
        return {"label": kinds.get(self.spec.problem_type or "", datasets.List(datasets.Value("int64")))}

    def label_counts(self, label: Any) -> Mapping[str, int]:
        if self.spec.problem_type == REGRESSION or self.spec.label_list is None:
            return {}
        places = [label] if isinstance(label, int) else label
        return {self.spec.label_list[place]: 1 for place in places}

    def encode(self, label: Any, windows: Sequence[Window], words: Sequence[tuple[int, int]] | None) -> list[dict]:
        nothing: dict[str, Any] = {"label": [] if self.spec.problem_type == MULTI else 0, "items": 0}
        first = nothing if label is None else {"label": label, "items": 1}
        return [first, *(nothing for _ in windows[1:])]

    def collate(self, sequences: Sequence[Mapping[str, Any]], length: int) -> dict[str, Tensor]:
        if self.spec.problem_type == MULTI:
            values = torch.zeros(len(sequences), self.num_labels)
            for row, sequence in enumerate(sequences):
                values[row, sequence["label"]] = 1.0
            return {"labels": values}
        kind = torch.float32 if self.spec.problem_type == REGRESSION else torch.int64
        return {"labels": torch.tensor([sequence["label"] for sequence in sequences], dtype=kind)}

    def items(self, labels: Mapping[str, Tensor]) -> Tensor:
        return torch.tensor(labels["labels"].shape[0], device=labels["labels"].device)

    def loss(self, logits: Tensor, labels: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        target = labels["labels"]
        items = self.items(labels)
        logits = logits.float()
        weight = None if self.class_weight is None else self.class_weight.to(logits.device)
        if self.spec.problem_type == REGRESSION:
            return (logits.squeeze(-1) - target).square().sum(), items
        if self.spec.problem_type == MULTI:
            each = functional.binary_cross_entropy_with_logits(logits, target, weight=weight, reduction="none")
            return each.mean(dim=-1).sum(), items
        each = functional.cross_entropy(logits, target, reduction="none", label_smoothing=self.label_smoothing_factor)
        return (each if weight is None else each * weight[target]).sum(), items

    def read(self, logits: Tensor, sequence: Mapping[str, Any]) -> Any:
        logits = logits.float()
        if self.spec.problem_type == REGRESSION:
            return logits.numpy()
        return (logits.sigmoid() if self.spec.problem_type == MULTI else logits.softmax(dim=-1)).numpy()

    def join(self, parts: Sequence[tuple[Mapping[str, Any], Any]]) -> Answer:
        sequence, scores = parts[0]
        if self.spec.problem_type == REGRESSION:
            return Answer(float(scores[0]), float(sequence["label"]), 1.0)
        if self.spec.problem_type == SINGLE:
            best = int(np.argmax(scores))
            return Answer(best, int(sequence["label"]), float(scores[best]))
        chosen = scores >= self.spec.threshold
        reference = [0] * self.num_labels
        for place in sequence["label"]:
            reference[place] = 1
        sure = float(np.where(chosen, scores, 1.0 - scores).min())
        return Answer([int(flag) for flag in chosen], reference, sure, scores.tolist())

    def metric(self) -> "evaluate.Metric":
        from hf_mtl.metrics.multi_label import MultiLabelMetric
        from hf_mtl.metrics.regression import RegressionMetric
        from hf_mtl.metrics.single_label import SingleLabelMetric

        if self.spec.problem_type == REGRESSION:
            return RegressionMetric()
        kind = MultiLabelMetric if self.spec.problem_type == MULTI else SingleLabelMetric
        return kind(self.spec.label_list or [])

    def shown_label(self, label: Any) -> Any:
        if self.spec.label_list is None:
            return label
        if isinstance(label, int):
            return self.spec.label_list[label]
        return [name for name, flag in zip(self.spec.label_list, label, strict=True) if flag]


def _names(cells: Cells, config: TaskConfig) -> Iterator[Any]:
    """All single labels of a column, those of lists one by one; what is no list of labels is refused by the reader."""
    for cell in cells():
        if isinstance(cell, list) or (isinstance(cell, str) and config.label_separator is not None):
            with suppress(LabelError):
                yield from split_labels(cell, config.label_separator)
        elif cell is not None:
            yield cell


def split_labels(cell: Any, separator: str | None) -> list[Any]:
    """The labels of a multi-label cell: a list, or text cut at `separator` (blanks around a label do not count).

    Raises:
        LabelError: if it is neither, or the list holds something else than the labels that the row has.
    """
    if isinstance(cell, str) and separator is not None:
        return [name for part in cell.split(separator) if (name := part.strip())]
    if not isinstance(cell, list):
        raise LabelError(
            f"label {shown(cell)} is not a list; a multi-label row has a list of labels, "
            "or text with label_separator set"
        )
    if any(label is None or (isinstance(label, str) and not label.strip()) for label in cell):
        raise LabelError(f"labels {shown(cell)} hold null or an empty text; take it out, or write null for the row")
    if _is_flags(cell) and len(set(cell)) < len(cell):
        raise LabelError(f"labels {shown(cell)} {_FLAGS}")
    return cell


_FLAGS = 'look like a 0 or 1 for every label; list the labels that the row has, for example ["joy", "fear"]'


def _is_flags(cell: Any) -> bool:
    return isinstance(cell, list) and all(isinstance(label, (int, float)) and label in (0, 1) for label in cell)


def _refuse_flags(cells: Iterator[Any]) -> None:
    """Refuses a column of which each cell has a 0 or 1 for every label, where no single cell shows it.

    Raises:
        LabelError: with the first cell.
    """
    said = (cell for cell in cells if cell not in (None, []))
    first: Any = next(said, [])
    if _is_flags(first) and len(first) > 1 and all(_is_flags(cell) and len(cell) == len(first) for cell in said):
        raise LabelError(f"labels {shown(first)}, as those of all rows, {_FLAGS}")


def read_number(cell: Any) -> float:
    """A regression label.

    Raises:
        LabelError: for anything but a finite number (text that spells one is taken: a csv has nothing else).
    """
    try:
        # Python reads "1_0" as 10.
        number = math.nan if isinstance(cell, (bool, bytes)) or "_" in str(cell) else float(cell)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise LabelError(f"label {shown(cell)} is not a number; a regression label is a finite number")
    if abs(number) > LARGEST:
        raise LabelError(f"label {shown(cell)} is beyond {LARGEST:.2g}, which float32 holds at most; scale the column")
    return number
