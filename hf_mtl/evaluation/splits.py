"""A run's evaluation: all data sets of a split, with the metrics and thresholds that the run file asks for."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from transformers.utils import cached_file

from hf_mtl.batching.collator import Collator
from hf_mtl.config import load_config
from hf_mtl.config_keys import RunConfig, TaskConfig
from hf_mtl.config_messages import use
from hf_mtl.data.encoding import Sequences
from hf_mtl.data.left_out import left_out
from hf_mtl.data.preparation import prepare
from hf_mtl.errors import DataError, UserError
from hf_mtl.evaluation.evaluator import TaskResult, evaluate, read_answers
from hf_mtl.evaluation.threshold import tune
from hf_mtl.hub_errors import HubError, hub_reason
from hf_mtl.inference.pipeline import saved_tokenizer
from hf_mtl.metrics.hub import hub_metric
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.tasks.task import Task

ERRORS = frozenset({"rmse"})
"""Metrics that are the better the smaller: the score of a model cannot be made of them."""
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class SavedEvaluation:
    """What `evaluate_saved` gives.

    Args:
        results: task → result, for the tasks that have rows in the split.
        model: the model.
        splits: data set → its sequences of the split.
        config: the run file that was read.
    """

    results: dict[str, TaskResult]
    model: MultiTaskModel
    splits: dict[str, Sequences]
    config: RunConfig


def evaluate_saved(
    model: str, split: str, run_file: str | None = None, *, progress: Callable[[str], None] = lambda _: None
) -> SavedEvaluation:
    """Evaluates a saved model on the rows of its own run file, or of another one with tasks of the same names.

    Args:
        model: a folder, or the id of a repository on the Hub.
        split: train, validation or test.
        run_file: read instead of the model's `run.yaml`; its `encoder` and `max_length` are not.
        progress: told what is being read and which rows are left out, a line each.

    Raises:
        UserError: if the model, the run file or the rows cannot be read or do not go together.
    """
    if split not in SPLITS:
        raise UserError(f"split {split!r}: {use(split, SPLITS)}")
    given = run_file
    try:
        loaded = MultiTaskModel.from_pretrained(model)
        tokenizer = saved_tokenizer(model)
        run_file = run_file or cached_file(model, "run.yaml")
    except (OSError, HubError, ValueError) as error:
        why = hub_reason(error) or error
        raise UserError(f"{model}: no saved multi-task model could be read from there ({why})") from error
    config = load_config(run_file).model_copy(update={"max_length": tokenizer.model_max_length})
    tasks = {name: task for name, task in loaded.tasks.items() if name in config.tasks}
    if not tasks:
        raise UserError(f"{run_file} has none of the tasks of {model}: {', '.join(loaded.tasks)}")
    try:
        splits = prepare(config, tokenizer, tasks=tasks, wanted=[split], progress=progress).split(split)
    except DataError as error:
        if given is None and not os.path.isdir(model):
            raise DataError(f"{error}\n{model} is published without its rows; give yours with --config FILE") from error
        raise
    if not splits:
        raise UserError(f"{run_file}: no data set has a split {split}; name its files or cut it under `splits`")
    for dataset, sequences in splits.items():
        for line in left_out(dataset, {split: sequences}):
            progress(line)
    loaded.to("cuda" if torch.cuda.is_available() else "cpu")
    collator = Collator.for_tasks(tokenizer, loaded.tasks, loaded.device)
    return SavedEvaluation(evaluate_split(loaded, splits, config, collator), loaded, splits, config)


def evaluate_split(
    model: MultiTaskModel,
    splits: Mapping[str, Sequences],
    config: RunConfig,
    collator: Collator,
    on_batch: Callable[[int], None] | None = None,
    accelerator: Accelerator | None = None,
) -> dict[str, TaskResult]:
    """The results of all tasks that have rows in a split, in the order of the model's tasks.

    Args:
        model: on the device where it is evaluated.
        splits: data set → its sequences of the split.
        config: the run.
        collator: pads sequences to a batch.
        on_batch: called after each batch with the number of this process's sequences in it.
        accelerator: that of the processes, if several share the work; all get all results.
    """
    results: dict[str, TaskResult] = {}
    for dataset, sequences in splits.items():
        tasks = _tasks_of(model, config, dataset)
        results |= evaluate(
            model,
            sequences,
            list(tasks),
            collator,
            config.training.per_device_eval_batch_size,
            device=_device(model, accelerator),
            on_batch=on_batch,
            accelerator=accelerator,
            hub_metrics={
                task: {name: hub_metric(name) for name in entry.metrics or () if "/" in name}
                for task, entry in tasks.items()
            },
        )
    return {task: results[task] for task in model.tasks if task in results and results[task].rows}


def metric_choices(tasks: Mapping[str, Task], entries: Mapping[str, TaskConfig]) -> dict[str, str]:
    """Task → the metric that stands for it in the score: the first of the run file's, or the task's own first.

    Raises:
        UserError: for a metric that the task does not have, that cannot be the first, or that cannot be loaded.
    """
    choices: dict[str, str] = {}
    errors: list[str] = []
    for name, task in tasks.items():
        named = entries[name].metrics or task.metrics[:1]
        for place, metric in enumerate(named):
            where = f"tasks.{name}.metrics[{place}]: {metric!r}"
            if "/" in metric:
                hub_metric(metric)
            elif metric not in task.metrics:
                errors.append(f"{where} is not a metric of this task; {use(metric, task.metrics)}")
            elif place == 0 and metric in ERRORS:
                errors.append(f"{where} cannot be first: the first metric is the score, of which more must be better")
        choices[name] = named[0]
    if errors:
        raise UserError("\n".join(errors))
    return choices


def tuned_thresholds(
    model: MultiTaskModel,
    splits: Mapping[str, Sequences],
    config: RunConfig,
    collator: Collator,
    accelerator: Accelerator | None = None,
) -> dict[str, float]:
    """The best threshold on a split of each task whose `threshold` is `tune`; arguments as for `evaluate_split`."""
    thresholds: dict[str, float] = {}
    size, device = config.training.per_device_eval_batch_size, _device(model, accelerator)
    for dataset, sequences in splits.items():
        tasks = [name for name, entry in _tasks_of(model, config, dataset).items() if entry.threshold == "tune"]
        found = read_answers(model, sequences, tasks, collator, size, device=device, accelerator=accelerator)
        for task, answers in found.items():
            if answers:
                scores = [answer.scores or () for answer in answers.values()]
                thresholds[task] = tune(scores, [answer.reference for answer in answers.values()])
    return thresholds


def _device(model: MultiTaskModel, accelerator: Accelerator | None) -> torch.device:
    """Where the batches go: parameters that FSDP offloads lie on the CPU between two passes."""
    return model.device if accelerator is None else accelerator.device


def _tasks_of(model: MultiTaskModel, config: RunConfig, dataset: str) -> dict[str, TaskConfig]:
    """The model's tasks that read a data set."""
    entries = {task: config.tasks[task] for task in model.tasks if task in config.tasks}
    return {task: entry for task, entry in entries.items() if entry.dataset == dataset}
