"""Checks of a run file's tasks that take more than one key."""

from collections.abc import Iterator, Mapping
from typing import Any

from hf_mtl.config_defaults import MULTI
from hf_mtl.config_keys import DatasetConfig, TaskConfig
from hf_mtl.config_messages import Place, Problem, at, listed, shown, twice, use
from hf_mtl.config_section import UNREAD

SINGLE, REGRESSION = "single_label_classification", "regression"
SPANS, TAGS = "token-classification", "token-classification with tag_scheme none"

METRICS = {
    SINGLE: ("f1_macro", "accuracy", "f1_micro", "precision", "recall", "mcc"),
    MULTI: ("f1_micro", "f1_macro", "exact_match"),
    REGRESSION: ("spearman", "pearson", "rmse"),
    SPANS: ("f1", "precision", "recall", "accuracy"),
    TAGS: ("f1_macro", "accuracy"),
}
ONLY_FOR = {
    "problem_type": (SINGLE, MULTI, REGRESSION),
    "label_list": (SINGLE, MULTI, SPANS, TAGS),
    "class_weight": (SINGLE, MULTI, SPANS, TAGS),
    "label_smoothing_factor": (SINGLE, SPANS, TAGS),
    "tag_scheme": (SPANS, TAGS),
    "threshold": (MULTI,),
    "label_separator": (MULTI,),
    "normalise_labels": (SINGLE, MULTI),
    "spans_column": (SPANS,),
}
"""Keys of a task that not every kind of task has."""


def _kinds(task: TaskConfig) -> tuple[str, ...]:
    """What the task may turn out to be, as far as the run file tells."""
    if task.task_type == "token-classification" and task.spans_column is not None:
        return (SPANS,)
    if task.task_type == "token-classification":
        if task.tag_scheme in (None, UNREAD):
            return (SPANS, TAGS)
        return (TAGS,) if task.tag_scheme == "none" else (SPANS,)
    if task.task_type == "text-classification":
        if task.problem_type is None:
            return (SINGLE, MULTI)
        return (SINGLE, MULTI, REGRESSION) if task.problem_type is UNREAD else (task.problem_type,)
    return tuple(METRICS)


def _called(kinds: tuple[str, ...], word: str = "or") -> str:
    return listed((kind for kind in kinds if kind != TAGS or SPANS not in kinds), word)


def task_problems(task: TaskConfig, datasets: Mapping[str, DatasetConfig]) -> Iterator[Problem]:
    """What is wrong between the keys of a task, and between it and its data set.

    Args:
        task: what could be read of it.
        datasets: the run's.
    """
    kinds = _kinds(task)
    if task.label_column is None and task.spans_column is None:
        near = " or spans_column" if task.task_type == "token-classification" else ""
        yield ("label_column",), f"missing: the column of the labels{near}"
    elif None not in (task.label_column, task.spans_column):
        yield ("spans_column",), "not together with label_column; remove one of them"
    elif task.spans_column is not None and task.tag_scheme is not None:
        yield ("tag_scheme",), "not with spans_column: spans are no tags"
    if task.spans_column is not None and task.class_weight == "balanced":
        yield ("class_weight",), "balanced is not for spans_column; give the weights, label: factor"
    for key, allowed in ONLY_FOR.items():
        if getattr(task, key) not in (None, 0) and not set(kinds) & set(allowed):
            words = "text-classification" if key == "problem_type" else _called(allowed, "and")
            yield (key,), f"not for {_called(kinds)}; only for {words}"
    if isinstance(task.label_list, list):
        yield from at(("label_list",), _label_problems(task.label_list))
        if isinstance(task.class_weight, dict) and task.task_type == "text-classification":
            labels = [label_text(label) for label in task.label_list]
            for label in task.class_weight:
                if label_text(label) not in labels:
                    yield ("class_weight", label), f"not in label_list; {use(label_text(label), labels)}"
    if isinstance(task.metrics, list):
        yield from at(("metrics",), _metric_problems(task.metrics, kinds))
    dataset = datasets.get(task.dataset) if isinstance(task.dataset, str) else UNREAD
    if dataset is None and datasets:
        yield ("dataset",), f"{shown(task.dataset)} is not a data set; {use(task.dataset, list(datasets))}"
    elif dataset not in (None, UNREAD):
        yield from _labels_in_dataset(task, dataset)


def _labels_in_dataset(task: TaskConfig, dataset: DatasetConfig) -> Iterator[Problem]:
    if task.task_type == "token-classification" and dataset.text_pair_column is not None:
        yield ("dataset",), "token-classification reads one text; the data set has a text_pair_column"
    own = "label_column" if task.label_column is not None else "spans_column"
    column = getattr(task, own)
    if not isinstance(column, str):
        return
    if own == "spans_column" and dataset.text_column is None:
        yield ("spans_column",), "spans are places in a text; name the text_column of the data set"
    for key in ("text_column", "text_pair_column", "tokens_column"):
        if column == getattr(dataset, key):
            yield (own,), f"{shown(column)} is the {key} of data set {task.dataset}; name the labels' column"
            return
    if isinstance(dataset.columns, list) and dataset.path == "conll" and column not in dataset.columns:
        hint = use(column, dataset.columns)
        yield (own,), f"{shown(column)} is not in datasets.{task.dataset}.columns; {hint}"


def label_text(label: Any) -> str:
    """A label of the run file as the model will call it."""
    return str(label).lower() if isinstance(label, bool) else str(label)


def _label_problems(labels: list[Any]) -> Iterator[Problem]:
    for index, label in enumerate(labels):
        if label == "":
            yield (Place(index),), "an empty label"
    yield from twice(map(label_text, labels))


def _metric_problems(metrics: list[str], kinds: tuple[str, ...]) -> Iterator[Problem]:
    known = list(dict.fromkeys(metric for kind in kinds for metric in METRICS[kind]))
    yield from twice(metrics)
    for index, metric in enumerate(metrics):
        # With a "/" it is a metric of the Hub, of which nothing is known here.
        if "/" not in metric and metric not in known:
            yield (Place(index),), f"{shown(metric)} is not a metric of {_called(kinds)}; {use(metric, known)}"
    if metrics[0] == "rmse" and REGRESSION in kinds:
        yield (Place(0),), "rmse cannot be first: the first metric is the score, of which more must be better"
