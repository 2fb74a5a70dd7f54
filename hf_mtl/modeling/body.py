"""The body of a multi-task model: all that stands below its heads."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_mtl.modeling.adapters import adapter_parameters
from hf_mtl.modeling.base import Base
from hf_mtl.modeling.groups import Group
from hf_mtl.modeling.lanes import Lanes
from hf_mtl.modeling.private_layers import PrivateLayers, group_encoder, return_trunk


@dataclass(frozen=True)
class Body:
    """An encoder, and what parts of the tasks have for themselves in it.

    Args:
        encoder: the base model without its pooler, stock or with adapters.
        lanes: which rows go through which adapters and layers.
        groups: the groups of tasks; none where all layers are everybody's.
        private: the layers of each group that has copies of its own.
        base: the published encoder below the adapters, if its weights are untouched.
    """

    encoder: PreTrainedModel
    lanes: Lanes
    groups: tuple[Group, ...] = ()
    private: Mapping[str, PrivateLayers] = field(default_factory=dict)
    base: Base | None = None

    def encoder_of(self, group: str | None) -> PreTrainedModel:
        """The encoder with a group's layers in place; see `group_encoder`."""
        return group_encoder(self.encoder, self.private.get(group) if group is not None else None)

    def settle(self, group: str | None, whole: PreTrainedModel) -> None:
        """Keeps the adapters that `encoder_of(group)` has got."""
        return_trunk(self.encoder, whole, self.private.get(group) if group is not None else None)
        self.encoder.peft_config = whole.peft_config

    def task_encoder(self, task: str) -> PreTrainedModel:
        """The encoder with the layers of a task's group in place."""
        return self.encoder_of(self.lanes.groups.get(self.lanes.tasks[task]))

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """What holds weights, and what stands before their names in the model's."""
        yield "encoder", self.encoder
        for name, own in self.private.items():
            yield f"private.{name}", own

    def own_parameters(self, tasks: Collection[str]) -> Iterator[nn.Parameter]:
        """The weights that no row reads unless it is of one of these tasks: adapters, and layers of whole groups."""
        others = [lane for task, lane in self.lanes.tasks.items() if task not in tasks]
        still = {name for lane in others for name in self.lanes.adapters[lane]}
        groups = {self.lanes.groups.get(lane) for lane in others}
        for _, part in self.parts():
            for name in {name for names in self.lanes.adapters.values() for name in names} - still:
                yield from adapter_parameters(part, name)
        for group, own in self.private.items():
            if group not in groups:
                yield from own.parameters()
        for name, copied in self.own_layers.items():
            # The encoder's own layers are those of the groups that have no copy.
            if not groups - set(copied):
                yield from self.encoder.get_submodule(name).parameters()

    def weights_of(self, group: str | None, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of `encoder_of(group)` by its names, from those of the whole model by the model's."""
        prefixes = ["encoder.", *([f"private.{group}."] if group in self.private else [])]
        return {
            name.removeprefix(prefix): weight
            for prefix in prefixes
            for name, weight in weights.items()
            if name.startswith(prefix)
        }

    @property
    def own_layers(self) -> dict[str, list[str]]:
        """Name of a module in the encoder → the groups that have a copy of it."""
        found: dict[str, list[str]] = {}
        for group, own in self.private.items():
            for name, _ in own.items():
                found.setdefault(name, []).append(group)
        return found
