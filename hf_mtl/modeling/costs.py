"""What layers that are not everybody's cost: parameters, and layers that a text passes."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from hf_mtl.modeling.adapters import stock_name
from hf_mtl.modeling.body import Body
from hf_mtl.modeling.groups import group_list
from hf_mtl.modeling.layers import layer_list
from hf_mtl.modeling.ways import parting


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
    def of(cls, body: Body, heads: Iterable[nn.Module]) -> "Cost":
        """The cost of a model, which may be on the meta device.

        Args:
            body: the model's.
            heads: of all its tasks.
        """
        weights = body.encoder.named_parameters()
        encoder = sum(weight.numel() for name, weight in weights if stock_name(name) is not None)
        own = sum(_numbers(head) for head in heads)
        number, layers = len(body.lanes.tasks), len(layer_list(body.encoder)[1])
        first = parting(body)
        lanes = len(set(body.lanes.tasks.values()))
        below = layers if lanes == 1 else first or 0
        return cls(
            parameters=sum(_numbers(part) for _, part in body.parts()) + own,
            shared_parameters=encoder + own,
            alone_parameters=number * encoder + own,
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


def cost_lines(body: Body, heads: Iterable[nn.Module]) -> list[str]:
    """What the private layers of a model cost, for people; nothing where it has none.

    Args:
        body: the model's.
        heads: of all its tasks.
    """
    if not body.groups:
        return []
    told = f"top layers of one's own, of {len(layer_list(body.encoder)[1])}: {group_list(body.groups)}"
    if not body.private:
        told += " (by adapters alone: the encoder itself is not trained, so no layer is copied)"
    return [told, *Cost.of(body, heads).lines()]


def _numbers(part: nn.Module) -> int:
    return sum(weight.numel() for weight in part.parameters())


def _millions(number: int) -> str:
    return f"{number / 1e6:.2f} M"
