"""MultiTaskConfig: what the `config.json` of a multi-task model says.

The module is imported as soon as transformers' `AutoConfig` is; so it imports nothing of transformers beyond that.
"""

import copy
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.configuration_auto import AutoConfig

from hf_mtl.errors import UserError
from hf_mtl.tasks.spec import TaskSpec

FORMAT_VERSION = 1
STOCK_KEY = "hf_mtl_task"
"""Where the config of a stock task model keeps what only a multi-task model has a place for."""


class MultiTaskConfig(PreTrainedConfig):
    """The config of a `MultiTaskModel`.

    Args:
        encoder_config: the config of the shared encoder, or its dict with `model_type`.
        tasks: a dict for each task, in order: the fields of `hf_mtl.tasks.spec.TaskSpec`.
        lora: of a saved model with adapters: `adapters`, the name of each task's (or None), and `base`, the encoder
            they stand on (None if it lies in the model's own folder).
        groups: of a model whose tasks do not share all layers: an entry for each group, the fields of
            `hf_mtl.modeling.groups.Group`; the first one's layers are the encoder's own.
        format_version: of the files; a higher one than this version of hf_mtl knows is refused.

    Raises:
        UserError: if the entries are not those of a model that this version of hf_mtl can build.
    """

    model_type = "hf_mtl"
    sub_configs = {"encoder_config": AutoConfig}

    encoder_config: Any = None
    tasks: Sequence[Mapping[str, Any]] = ()
    lora: Mapping[str, Any] | None = None
    groups: Sequence[Mapping[str, Any]] | None = None
    format_version: int = FORMAT_VERSION

    def __post_init__(self, **kwargs: Any) -> None:
        # AutoModel looks up the model of a config it has read; until there is a config, nothing needs the model.
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
        self.tasks = [spec.to_dict() for spec in task_specs(self.tasks)]
        # transformers hands its own choice of attention down to the encoder; without one the encoder keeps its own.
        kwargs.setdefault("attn_implementation", getattr(self.encoder_config, "_attn_implementation", None))
        super().__post_init__(**kwargs)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        return self if self.encoder_config is None else self.encoder_config

    def to_diff_dict(self) -> dict[str, Any]:
        """The dict that is saved; the encoder's part is just what a stock checkpoint of the encoder would hold."""
        entries = super().to_diff_dict()
        entries["format_version"] = self.format_version
        entries["tasks"] = [dict(task) for task in self.tasks]
        for key in ("lora", "groups"):
            if getattr(self, key) is None:
                entries.pop(key, None)
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
        raise UserError(f"encoder_config of type {model_type!r} cannot be read: {error}") from error


def task_specs(tasks: Sequence[Mapping[str, Any]]) -> list[TaskSpec]:
    """The tasks of a `config.json`.

    Raises:
        UserError: for keys that this version does not know or misses, and for two tasks of one name.
    """
    known = {field.name for field in fields(TaskSpec)}
    specs: dict[str, TaskSpec] = {}
    for number, entries in enumerate(tasks):
        where = f"tasks[{number}] ({entries.get('name', 'no name')})"
        unknown = sorted(set(entries) - known)
        if unknown or not {"name", "task_type"} <= set(entries):
            wrong = f"has unknown keys {', '.join(unknown)}" if unknown else "has no name or no task_type"
            raise UserError(f"{where} {wrong}; known are {', '.join(sorted(known))}")
        spec = TaskSpec(**entries)
        if spec.name in specs:
            raise UserError(f"there are two tasks called {spec.name!r}; task names must differ")
        specs[spec.name] = spec
    return list(specs.values())


def bare(config: PreTrainedConfig) -> PreTrainedConfig:
    """A copy of a stock config that says nothing of a task, as the encoder's own config does not."""
    config = copy.deepcopy(config)
    for key in (STOCK_KEY, "finetuning_task"):
        if hasattr(config, key):
            delattr(config, key)
    config.id2label = config.label2id = config.problem_type = config.architectures = None
    config.num_labels = 2  # transformers' default, which it does not write
    return config


AutoConfig.register(MultiTaskConfig.model_type, MultiTaskConfig)
