"""MultiTaskConfig: what the `config.json` of a multi-task model says."""

import copy
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from hf_mtl.config_checks import MODULE_NAMES
from hf_mtl.errors import UserError
from hf_mtl.tasks.spec import TaskSpec

FORMAT_VERSION = 1
STOCK_KEY = "hf_mtl_task"
"""Where the config of a stock task model keeps what only a multi-task model has a place for."""


class MultiTaskConfig(PreTrainedConfig):
    """The config of a `MultiTaskModel`.

    Args:
        encoder_config: the config of the shared encoder, or its dict with `model_type`.
        tasks: a dict for each task, in order: the fields of `hf_mtl.tasks.task.TaskSpec`.
        format_version: of the files; a higher one than this version of hf_mtl knows is refused.

    Raises:
        UserError: if the entries do not make a model that this version of hf_mtl can build.
    """

    model_type = "hf_mtl"
    sub_configs = {"encoder_config": AutoConfig}

    encoder_config: PreTrainedConfig | dict | None = None
    tasks: list[dict] | tuple[dict, ...] = ()
    format_version: int = FORMAT_VERSION

    def __post_init__(self, **kwargs: Any) -> None:
        # Whoever has a config can build the model: its module registers it with AutoModel.
        importlib.import_module("hf_mtl.modeling.model")
        if self.format_version > FORMAT_VERSION:
            raise UserError(
                f"config.json has format_version {self.format_version}: made by a newer hf_mtl "
                f"(this one reads up to {FORMAT_VERSION}); update hf_mtl"
            )
        if isinstance(self.encoder_config, Mapping):
            self.encoder_config = _encoder_config(self.encoder_config)
        if self.encoder_config is not None:
            # Where the encoder once came from is the run's business: it may be a path of somebody's machine.
            self.encoder_config.name_or_path = ""
        self.tasks = [task.to_dict() for task in task_specs(self.tasks)]
        super().__post_init__(**kwargs)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        return self if self.encoder_config is None else self.encoder_config

    def to_diff_dict(self) -> dict[str, Any]:
        """The dict that is saved; the encoder's part is just what a stock checkpoint of the encoder would hold."""
        entries = super().to_diff_dict()
        entries["format_version"] = self.format_version
        entries["tasks"] = [dict(task) for task in self.tasks]
        if self.encoder_config is not None:
            entries["encoder_config"] = self.encoder_config.to_diff_dict()
            entries["encoder_config"].pop("transformers_version", None)
        return entries


def _encoder_config(entries: Mapping[str, Any]) -> PreTrainedConfig:
    entries = dict(entries)
    model_type = entries.pop("model_type", None)
    if model_type is None:
        raise UserError("encoder_config has no model_type; it must name the encoder's architecture, such as 'bert'")
    try:
        return AutoConfig.for_model(model_type, **entries)
    except ValueError as error:
        raise UserError(f"encoder_config: the installed transformers has no encoder of type {model_type!r}") from error


def bare(config: PreTrainedConfig) -> PreTrainedConfig:
    """A copy of a stock config that says nothing of a task, as the encoder's own config does not."""
    config = copy.deepcopy(config)
    for key in (STOCK_KEY, "finetuning_task"):
        if hasattr(config, key):
            delattr(config, key)
    config.id2label = config.label2id = config.problem_type = config.architectures = None
    config.num_labels = 2  # transformers' default, which it does not write
    return config


def task_specs(tasks: Sequence[Mapping[str, Any]]) -> list[TaskSpec]:
    """The tasks of a `config.json`, checked.

    Raises:
        UserError: for keys or task types that this version does not know, and for names that cannot be used.
    """
    # Imported with the first config, not with this module, which transformers' auto classes load halfway through theirs.
    from hf_mtl.tasks.types import TASK_TYPES

    known = {field.name for field in fields(TaskSpec)}
    specs: list[TaskSpec] = []
    for number, entries in enumerate(tasks):
        where = f"tasks[{number}] ({entries.get('name', 'no name')})"
        unknown = sorted(set(entries) - known)
        if unknown or not {"name", "task_type"} <= set(entries):
            wrong = f"has unknown keys {', '.join(unknown)}" if unknown else "has no name or no task_type"
            raise UserError(f"{where} {wrong}; known are {', '.join(sorted(known))}")
        if entries["task_type"] not in TASK_TYPES:
            raise UserError(f"{where}: {entries['task_type']!r} is not a task type; use one of {', '.join(TASK_TYPES)}")
        spec = TaskSpec(**entries)
        check_task_name(spec.name, [other.name for other in specs])
        specs.append(spec)
    return specs


def check_task_name(name: str, others: Sequence[str] = ()) -> None:
    """Refuse a task name that cannot name a module of the model.

    Raises:
        UserError: if it is no identifier, an attribute of every module, or taken.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise UserError(f"{name!r} cannot name a task; use letters, digits and _, and begin with a letter")
    if name in MODULE_NAMES:
        raise UserError(f"{name!r} cannot name a task: modules of torch have an attribute of that name; choose another")
    if name in others:
        raise UserError(f"there are two tasks called {name!r}; task names must differ")


AutoConfig.register(MultiTaskConfig.model_type, MultiTaskConfig)
