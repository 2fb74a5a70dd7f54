"""The layers of a stock encoder, found in it: no code per architecture."""

from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel

from hf_mtl.errors import UserError


def layer_list(encoder: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The name and the list of an encoder's layers, the bottom one first.

    Raises:
        UserError: if the encoder has no such list, as ALBERT, whose layers are one and the same.
    """
    count = getattr(encoder.config, "num_hidden_layers", None)
    shared = getattr(encoder.config, "num_hidden_groups", None) is not None
    for name, module in encoder.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count and not shared:
            return name, module
    raise UserError(f"the encoder ({encoder.config.model_type}) has no list of layers of its own")


def final_norms(encoder: PreTrainedModel) -> Iterator[tuple[str, nn.Module]]:
    """The norm behind the last layer, where there is one (ModernBERT, Qwen)."""
    for name, module in encoder.named_children():
        if name.endswith("norm"):
            yield name, module


class Depths:
    """How deep in an encoder its parts stand: the number of their layer, from 0; −1 for what stands before the first.

    A final norm counts to the last layer.

    Args:
        encoder: stock, or with adapters.

    Attributes:
        top: the number of the last layer.

    Raises:
        UserError: as for `layer_list`.
    """

    def __init__(self, encoder: PreTrainedModel) -> None:
        place, layers = layer_list(encoder)
        self.top = len(layers) - 1
        self._place = f"{place}."
        self._norms = tuple(f"{name}." for name, _ in final_norms(encoder))

    def of(self, name: str) -> int:
        """The depth of a weight or module by its name in the encoder."""
        if name.startswith(self._place):
            return int(name.removeprefix(self._place).split(".")[0])
        return self.top if f"{name}.".startswith(self._norms) else -1
