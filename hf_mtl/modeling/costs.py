"""What layers that are not everybody's cost: parameters, and layers that a text passes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig

from hf_mtl.modeling.adapters import stock_name
from hf_mtl.modeling.configuration import MultiTaskConfig
from hf_mtl.modeling.groups import Group, Sharing
from hf_mtl.modeling.layers import layer_list
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.modeling.scopes import has_copies
from hf_mtl.modeling.ways import parting
from hf_mtl.tasks.task import Task


@dataclass(frozen=True)
class Cost:
    """What a model has, beside the same tasks on a fully shared encoder, and with an encoder each.

    Args:
        parameters: the model's.
        shared_parameters: with one stock encoder for all tasks.
        alone_parameters: with a stock encoder a task.
        layers: how many a text passes for all tasks, a copy of a layer counted as one.
        shared_layers: of one encoder.
        alone_layers: of an encoder a task.
    """

    parameters: int
    shared_parameters: int
    alone_parameters: int
    layers: int
    shared_layers: int
    alone_layers: int

    @classmethod
    def of(cls, model: MultiTaskModel) -> "Cost":
        """The cost of a model, which may be on the meta device."""
        weights = model.encoder.named_parameters()
        encoder = sum(weight.numel() for name, weight in weights if stock_name(name) is not None)
        heads = sum(weight.numel() for weight in model.heads.parameters())
        number, layers = len(model.tasks), len(layer_list(model.encoder)[1])
        first = parting(model.body)
        lanes = len(set(model.lanes.tasks.values()))
        below = layers if lanes == 1 else first or 0
        return cls(
            parameters=sum(weight.numel() for weight in model.parameters()),
            shared_parameters=encoder + heads,
            alone_parameters=number * encoder + heads,
            layers=below + lanes * (layers - below),
            shared_layers=layers,
            alone_layers=number * layers,
        )

    def lines(self) -> list[str]:
        """For people."""
        more, less = self.parameters / self.shared_parameters, self.parameters / self.alone_parameters
        return [
            f"parameters: {_millions(self.parameters)}, {more:.2f} times those of a fully shared encoder "
            f"({_millions(self.shared_parameters)}) and {less:.2f} of those of one model a task "
            f"({_millions(self.alone_parameters)})",
            f"layers that a text passes for all tasks: {self.layers}; with a fully shared encoder "
            f"{self.shared_layers}, with one model a task {self.alone_layers}",
        ]


def sharing_lines(
    sharing: Sharing, tasks: Sequence[Task], config: PreTrainedConfig, lora: Mapping[str, Any] | None
) -> list[str]:
    """What a run file's `sharing` comes to, for people, before there is a model.

    Args:
        sharing: as settled.
        tasks: the run's.
        config: the encoder's.
        lora: the run's.
    """
    if not sharing.groups:
        return [] if sharing.why is None else [sharing.why]
    groups = sharing.groups if has_copies(lora, sharing.groups) else ()
    with torch.device("meta"):
        model = MultiTaskModel(
            MultiTaskConfig(
                encoder_config=config,
                tasks=[task.spec.to_dict() for task in tasks],
                groups=[group.to_dict() for group in groups] or None,
            )
        )
    told = [group_line(sharing.groups, len(layer_list(model.encoder)[1]))]
    if lora is None:
        return told + Cost.of(model).lines()
    what = "besides adapters" if groups else "adapters alone: the encoder itself is not trained, so no layer is copied"
    return [f"{told[0]} ({what})"]


def model_lines(model: MultiTaskModel) -> list[str]:
    """What the private layers of a model cost, for people; nothing where it has none."""
    if not model.groups:
        return []
    return [group_line(model.groups, len(layer_list(model.encoder)[1])), *Cost.of(model).lines()]


def group_line(groups: Sequence[Group], layers: int) -> str:
    """Which tasks have how many layers for themselves.

    Args:
        groups: the model's.
        layers: the encoder's.
    """
    told = "; ".join(f"{', '.join(group.tasks)}: {group.private_layers}" for group in groups)
    return f"top layers of one's own, of {layers}: {told}"


def _millions(number: int) -> str:
    return f"{number / 1e6:.2f} M"
