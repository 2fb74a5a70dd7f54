"""The task types there are: a new one is a file beside this one and a line here."""

from collections.abc import Mapping
from typing import Any

from hf_mtl.tasks.spec import TaskSpec
from hf_mtl.tasks.task import Task
from hf_mtl.tasks.text_classification import TextClassification
from hf_mtl.tasks.token_classification import TokenClassification

TASK_TYPES: dict[str, type[Task]] = {
    "text-classification": TextClassification,
    "token-classification": TokenClassification,
}


def build_task(spec: TaskSpec | Mapping[str, Any], **options: Any) -> Task:
    """The task of a spec, or of its dict in a model's `config.json`; `options` are those of `Task`."""
    spec = spec if isinstance(spec, TaskSpec) else TaskSpec(**spec)
    return TASK_TYPES[spec.task_type](spec, **options)
