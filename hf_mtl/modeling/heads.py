"""Heads: stock `AutoModelFor…` instances that read states the shared encoder has computed."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from hf_mtl.errors import UserError
from hf_mtl.modeling.configuration import MultiTaskConfig
from hf_mtl.tasks.task import Task
from hf_mtl.tasks.types import TASK_TYPES, build_task

TESTED = {
    "albert", "bert", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "qwen3", "roberta", "xlm-roberta",
}  # fmt: skip
"""Encoder types whose heads the tests hold against the stock models."""


class EncodedStates(nn.Module):
    """Stands where a stock head has its base model, and hands over states that are already there.

    The pooler of the base model, where the head's class has one, is the head's own: each task trains its pooler.

    Args:
        base: the base model this stands for; only its pooler is kept.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.pooler = getattr(base, "pooler", None)
        # ALBERT's pooler is a plain linear layer, with the activation beside it.
        self.pooler_activation = getattr(base, "pooler_activation", None)

    def get_input_embeddings(self) -> nn.Module:
        """As transformers' classes say that they have none."""
        raise NotImplementedError("a head reads states; the embeddings are the encoder's")

    def forward(
        self, input_ids: Tensor | None = None, *, inputs_embeds: Tensor, **_: Any
    ) -> BaseModelOutputWithPoolingAndCrossAttentions:
        pooled = None
        if self.pooler is not None and self.pooler_activation is not None:
            pooled = self.pooler_activation(self.pooler(inputs_embeds[:, 0]))
        elif self.pooler is not None:
            pooled = self.pooler(inputs_embeds)
        return BaseModelOutputWithPoolingAndCrossAttentions(last_hidden_state=inputs_embeds, pooler_output=pooled)


_CLASSES: dict[type[PreTrainedModel], type[PreTrainedModel]] = {}
"""Stock class → its head class, so that there is one of each."""


def head_class(stock: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The stock class with `EncodedStates` for its base model: same name, same weight names, same initialisation.

    The base model is built on the meta device only, so that no head costs an encoder.
    """
    if stock in _CLASSES:
        return _CLASSES[stock]

    def __init__(self: PreTrainedModel, config: PreTrainedConfig) -> None:  # noqa: N807
        device = torch.empty(0).device
        with torch.device("meta"):
            stock.__init__(self, config)
        prefix = stock.base_model_prefix
        setattr(self, prefix, EncodedStates(getattr(self, prefix)))
        if device.type != "meta":
            self.to_empty(device=device)
        # Once more: what the stock class found out of its base model no longer holds, and nothing has values yet.
        self.post_init()

    # The stock module's name makes transformers' loader treat the class as the library's own.
    entries = {"__init__": __init__, "__module__": stock.__module__, "__doc__": stock.__doc__}
    _CLASSES[stock] = type(stock.__name__, (stock,), entries)
    return _CLASSES[stock]


def check_name(task: str) -> None:
    """Refuse a task name that cannot name a module.

    Raises:
        UserError: if it is no identifier, or an attribute that every module has.
    """
    if not task.isidentifier():
        raise UserError(f"{task!r} cannot name a task; use letters, digits and _, and begin with a letter")
    if hasattr(nn.ModuleDict(), task):
        raise UserError(f"{task!r} cannot name a task: torch's modules have an attribute of that name; choose another")


def saved_tasks(config: MultiTaskConfig) -> dict[str, Task]:
    """The tasks of a model's config, by name.

    Raises:
        UserError: for a name that cannot name a module, or an unknown task type.
    """
    tasks = {}
    for entry in config.tasks:
        check_name(entry["name"])
        if entry["task_type"] not in TASK_TYPES:
            known = ", ".join(TASK_TYPES)
            raise UserError(f"task {entry['name']}: {entry['task_type']!r} is not a task type; use one of {known}")
        tasks[entry["name"]] = build_task(entry)
    return tasks


def stock_class(task: Task, encoder_config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class that the task's `AutoModelFor…` gives for this encoder.

    Raises:
        UserError: if transformers has none, or none that works on an encoder's states.
    """
    auto_class = task.auto_class
    mapping = auto_class._model_mapping
    if type(encoder_config) not in mapping or encoder_config.is_encoder_decoder:
        raise UserError(
            f"task {task.name}: transformers has no {auto_class.__name__} for encoders of type "
            f"{encoder_config.model_type!r} that hf_mtl can use; choose an encoder such as BERT, RoBERTa, XLM-R, "
            "DeBERTa-v2, ELECTRA or ModernBERT"
        )
    found = mapping[type(encoder_config)]
    return found[0] if isinstance(found, (list, tuple)) else found


def head_config(task: Task, encoder_config: PreTrainedConfig) -> PreTrainedConfig:
    """The config of the task's stock model: the encoder's, with the task's labels."""
    config = copy.deepcopy(encoder_config)
    for key, value in task.head_config().items():
        setattr(config, key, value)
    config.architectures = [stock_class(task, encoder_config).__name__]
    return config


def new_head(task: Task, encoder_config: PreTrainedConfig) -> PreTrainedModel:
    """A head initialised by its stock class from torch's global generator, or without values on the meta device."""
    return head_class(stock_class(task, encoder_config))(head_config(task, encoder_config))
