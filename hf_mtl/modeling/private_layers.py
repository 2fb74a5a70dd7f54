"""Top layers that a group of tasks has for itself: copies of an encoder's, and the encoder that has them in place."""

import copy
from collections.abc import Iterator, Mapping, Sequence

from torch import nn
from transformers import PreTrainedModel

from hf_mtl.modeling.groups import Group
from hf_mtl.modeling.layers import final_norms, layer_list


class PrivateLayers(nn.Module):
    """Modules under the names that they have in the stock encoder.

    Args:
        modules: by name, such as `encoder.layer.4`.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self._names = tuple(modules)
        for name, module in modules.items():
            *above, last = name.split(".")
            holder: nn.Module = self
            for part in above:
                if part not in holder._modules:
                    holder.add_module(part, nn.Module())
                holder = holder.get_submodule(part)
            holder.add_module(last, module)

    def items(self) -> Iterator[tuple[str, nn.Module]]:
        """Name in the stock encoder → module."""
        return ((name, self.get_submodule(name)) for name in self._names)


def private_names(encoder: PreTrainedModel, count: int) -> list[str]:
    """What a group with some private layers has for itself: these layers, and the norm behind them where there is one.

    Args:
        encoder: stock, or with adapters.
        count: how many layers, from the top.
    """
    place, layers = layer_list(encoder)
    names = [f"{place}.{number}" for number in range(len(layers) - count, len(layers))]
    return names + [name for name, _ in final_norms(encoder)]


def copied_layers(encoder: PreTrainedModel, count: int) -> PrivateLayers:
    """Copies of an encoder's top layers, to train on their own. Their config is the encoder's, which may be changed.

    Args:
        encoder: nothing is hooked into it.
        count: how many layers, from the top.
    """
    return PrivateLayers({name: copied(encoder, name) for name in private_names(encoder, count)})


def copied(encoder: PreTrainedModel, name: str) -> nn.Module:
    """A copy of a part of an encoder, whose modules ask the same config how to attend."""
    configs = {
        id(found): found for module in encoder.modules() if (found := getattr(module, "config", None)) is not None
    }
    return copy.deepcopy(encoder.get_submodule(name), configs)


def new_private(
    encoder: PreTrainedModel, groups: Sequence[Group], *, all_of_them: bool = False
) -> dict[str, PrivateLayers]:
    """Layers for every group but the first, which has the encoder's own; or for all of them."""
    return {
        group.name: copied_layers(encoder, group.private_layers) for group in (groups if all_of_them else groups[1:])
    }


def group_encoder(encoder: PreTrainedModel, own: PrivateLayers | None) -> PreTrainedModel:
    """The encoder as a group of tasks has it: the trunk and the group's layers in one, whose weights are the same.

    It holds modules and states, and takes new ones (adapters) for both; it is not for passing rows through.

    Args:
        encoder: with the layers of the first group.
        own: the group's; None for those of the first.
    """
    if own is None:
        return encoder
    whole = _shell(encoder)
    shells: dict[str, nn.Module] = {"": whole}
    for name, module in own.items():
        above = name.split(".")
        for depth, part in enumerate(above[:-1]):
            path, holder = ".".join(above[: depth + 1]), shells[".".join(above[:depth])]
            if path not in shells:
                shells[path] = holder._modules[part] = _shell(encoder.get_submodule(path))
        shells[".".join(above[:-1])]._modules[above[-1]] = module
    return whole


def return_trunk(encoder: PreTrainedModel, whole: PreTrainedModel, own: PrivateLayers | None) -> None:
    """Gives an encoder the modules that `group_encoder` has got in the trunk meanwhile: adapted layers.

    Args:
        encoder: with the layers of the first group.
        whole: what `group_encoder` gave.
        own: the group's layers.
    """
    if own is None:
        return
    names = [name for name, _ in own.items()]
    shells = {".".join(name.split(".")[:depth]) for name in names for depth in range(name.count(".") + 1)}
    for path in shells:
        for child, module in whole.get_submodule(path).named_children():
            if f"{path}.{child}".removeprefix(".") not in {*names, *shells}:
                encoder.get_submodule(path)._modules[child] = module


def _shell(module: nn.Module) -> nn.Module:
    """The same module once more, whose children can be others."""
    shell = copy.copy(module)
    shell.__dict__["_modules"] = dict(module._modules)
    return shell
