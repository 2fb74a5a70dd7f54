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


def depths(encoder: PreTrainedModel) -> dict[str, int]:
    """Parameter name → the number of its layer, from 0; −1 for what stands before the first, as the embeddings.

    A final norm counts to the last layer.

    Raises:
        UserError: as for `layer_list`.
    """
    place, layers = layer_list(encoder)
    norms = tuple(f"{name}." for name, _ in final_norms(encoder))
    found = {}
    for name, _ in encoder.named_parameters():
        if name.startswith(f"{place}."):
            found[name] = int(name.removeprefix(f"{place}.").split(".")[0])
        else:
            found[name] = len(layers) - 1 if name.startswith(norms) else -1
    return found
