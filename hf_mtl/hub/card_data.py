"""The head of a model card, in the Hub's own form: tags, base model, data sets, results."""

import math
from collections.abc import Iterator
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from hf_mtl.hub.contents import Contents
from hf_mtl.tasks.spec import TaskSpec

METRICS = {
    "f1_macro": ("f1", {"average": "macro"}),
    "f1_micro": ("f1", {"average": "micro"}),
    "mcc": ("matthews_correlation", None),
    "pearson": ("pearsonr", None),
    "spearman": ("spearmanr", None),
}
"""Metric → what the Hub calls it, and its arguments; the others are called so there too."""
MACRO = ("precision", "recall")
"""Metrics that text classification takes as means over the labels."""


def card_data(contents: Contents, name: str, task: str | None = None) -> ModelCardData:
    """The metadata of a model's card; what is not known is left out.

    Args:
        contents: the model's folder.
        name: the repository, or what the model is called.
        task: of a single task's stock checkpoint; None for the multi-task model.
    """
    specs = [spec for spec in contents.tasks if task in (None, spec.name)]
    types = list(dict.fromkeys(spec.task_type for spec in specs))
    # A single task's encoder was trained on the rows of the other tasks too.
    sets = list(contents.record.get("datasets", {}).values())
    results = list(eval_results(contents, specs))
    return ModelCardData(
        base_model=base_model(contents),
        base_model_relation=relation(contents, task) if base_model(contents) else None,
        datasets=_several(entry.get("id") for entry in sets),
        eval_results=results or None,
        language=_languages(sets),
        library_name="transformers" if task else "hf_mtl",
        metrics=_several(result.metric_type for result in results),
        model_name=name.rsplit("/", 1)[-1],
        pipeline_tag=types[0] if len(types) == 1 else None,
        tags=["multi-task-learning", "hf_mtl", *([] if task else types), *_adapter_tags(contents, task)],
    )


def base_model(contents: Contents) -> str | None:
    """The encoder's id on the Hub, if it came from there."""
    return contents.record.get("encoder", {}).get("id")


def relation(contents: Contents, task: str | None = None) -> str:
    """What the model is to its base model, by the Hub's word."""
    return "adapter" if contents.base is not None and task is None else "finetune"


def eval_results(contents: Contents, specs: list[TaskSpec]) -> Iterator[EvalResult]:
    """A result for each metric that was measured on validation and test."""
    for spec in specs:
        dataset = _tasks(contents).get(spec.name, {}).get("dataset")
        source = contents.record.get("datasets", {}).get(dataset, {})
        for split in ("validation", "test"):
            for metric, value in scalars(contents, split, spec.name).items():
                kind, arguments = METRICS.get(metric, (metric, None))
                if metric in MACRO and spec.task_type == "text-classification":
                    arguments = {"average": "macro"}
                yield EvalResult(
                    task_type=spec.task_type,
                    task_name=spec.name,
                    dataset_type=source.get("id") or dataset or "unknown",
                    dataset_name=dataset or "unknown",
                    dataset_config=source.get("name"),
                    dataset_split=_split(contents, dataset, split),
                    dataset_args=_share(contents, dataset, split),
                    dataset_revision=source.get("revision"),
                    metric_type=kind,
                    metric_name=metric,
                    metric_value=value,
                    metric_args=arguments,
                )


def scalars(contents: Contents, split: str, task: str) -> dict[str, float]:
    """A task's metrics on a split that are numbers."""
    found = (contents.metrics.get(split) or {}).get(task) or {}
    return {
        metric: value
        for metric, value in found.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }


def _tasks(contents: Contents) -> dict[str, Any]:
    return contents.run.get("tasks") or {}


def _split(contents: Contents, dataset: str | None, split: str) -> str:
    """What the source calls a split; that of a share is the one that it was cut from."""
    splits = _splits(contents, dataset)
    named = splits.get(split, split)
    return named if isinstance(named, str) else str(splits.get("train", "train"))


def _share(contents: Contents, dataset: str | None, split: str) -> dict[str, Any] | None:
    share = _splits(contents, dataset).get(split)
    return {"share": share} if isinstance(share, float) else None


def _splits(contents: Contents, dataset: str | None) -> dict[str, Any]:
    return (_datasets(contents).get(dataset) or {}).get("splits") or {}


def _datasets(contents: Contents) -> dict[Any, Any]:
    return contents.run.get("datasets") or {}


def _adapter_tags(contents: Contents, task: str | None) -> list[str]:
    return ["lora", "peft"] if contents.config.get("lora") and task is None else []


def _languages(sets: list[dict[str, Any]]) -> list[str] | None:
    found = [entry.get("language") for entry in sets]
    return _several(code for one in found for code in (one if isinstance(one, list) else [one]))


def _several(values: Any) -> list[Any] | None:
    return list(dict.fromkeys(value for value in values if value)) or None
