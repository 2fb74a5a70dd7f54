"""A run's evaluation: all data sets of a split, with the metrics and thresholds that the run file asks for."""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches

from hf_mtl.config import RunConfig, TaskConfig
from hf_mtl.data.encoding import Sequences
from hf_mtl.errors import ConfigError
from hf_mtl.evaluation.evaluator import Collator, TaskResult, evaluate, read_answers
from hf_mtl.evaluation.threshold import tune
from hf_mtl.metrics.hub import hub_metric
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.tasks.task import Task

ERRORS = frozenset({"rmse"})
"""Metrics that are the better the smaller: the score of a model cannot be made of them."""


def evaluate_split(
    model: MultiTaskModel,
    splits: Mapping[str, Sequences],
    config: RunConfig,
    collator: Collator,
    on_batch: Callable[[int], None] | None = None,
) -> dict[str, TaskResult]:
    """The results of all tasks that have rows in a split, in the order of the model's tasks.

    Args:
        model: on the device where it is evaluated.
        splits: data set → its sequences of the split.
        config: the run.
        collator: pads sequences to a batch.
        on_batch: called after each batch with the number of its sequences.
    """
    results: dict[str, TaskResult] = {}
    for dataset, sequences in splits.items():
        tasks = [task for task in model.tasks if config.tasks[task].dataset == dataset]
        results |= evaluate(
            model,
            sequences,
            tasks,
            collator,
            config.training.per_device_eval_batch_size,
            device=model.device,
            on_batch=on_batch,
            hub_metrics={
                task: {name: hub_metric(name) for name in config.tasks[task].metrics or () if "/" in name}
                for task in tasks
            },
        )
    return {task: results[task] for task in model.tasks if task in results and results[task].rows}


def metric_choices(tasks: Mapping[str, Task], entries: Mapping[str, TaskConfig]) -> dict[str, str]:
    """Task → the metric that stands for it in the score: the first of the run file's, or the task's own first.

    Raises:
        ConfigError: for a metric that the task does not have, or that cannot be the first.
        UserError: for a metric of the Hub that cannot be loaded.
    """
    choices: dict[str, str] = {}
    errors: list[tuple[str, str]] = []
    for name, task in tasks.items():
        own = task.metrics
        named = entries[name].metrics or own[:1]
        for metric in named:
            if "/" in metric:
                hub_metric(metric)
            elif metric not in own:
                errors.append((f"tasks.{name}.metrics", _unknown(metric, own)))
        if named[0] in ERRORS:
            better = ", ".join(metric for metric in own if metric not in ERRORS)
            errors.append((f"tasks.{name}.metrics", f"{named[0]} cannot be the first (less is better); use {better}"))
        choices[name] = named[0]
    if errors:
        raise ConfigError("run config", errors)
    return choices


def tuned_thresholds(
    model: MultiTaskModel, splits: Mapping[str, Sequences], config: RunConfig, collator: Collator
) -> dict[str, float]:
    """The best threshold on a split of each task whose `threshold` is `tune`; arguments as for `evaluate_split`."""
    found: dict[str, float] = {}
    for dataset, sequences in splits.items():
        entries = {task: config.tasks[task] for task in model.tasks}
        tasks = [task for task, entry in entries.items() if entry.dataset == dataset and entry.threshold == "tune"]
        if not tasks:
            continue
        size = config.training.per_device_eval_batch_size
        answers = read_answers(model, sequences, tasks, collator, size, device=model.device)
        for task in tasks:
            scores = [answer.scores for answer in answers[task].values() if answer.scores is not None]
            if scores:
                found[task] = tune(scores, [answer.reference for answer in answers[task].values()])
    return found


def _unknown(metric: str, own: Sequence[str]) -> str:
    near = get_close_matches(metric, own, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{metric!r} is not a metric of this task{hint} It has {', '.join(own)}; a Hub metric is written user/metric"
