"""Adapters merged into the weights they adapt."""

import copy
from collections.abc import Sequence

from torch import Tensor
from transformers import PreTrainedModel

from hf_mtl.modeling.adapters import adapted_layers, stock_name


def merged_weights(encoder: PreTrainedModel, adapters: Sequence[str]) -> dict[str, Tensor]:
    """The weights of a stock encoder that answers as this one does with some of its adapters.

    Args:
        encoder: stock, or with adapters.
        adapters: those to merge, in sum; the others are left out.
    """
    weights = {}
    for name, weight in encoder.state_dict().items():
        if (stock := stock_name(name)) is not None:
            weights[stock] = weight
    for layer, module in adapted_layers(encoder).items():
        own = [name for name in adapters if name in module.lora_A]
        if own:
            # PEFT merges in place.
            merged = copy.deepcopy(module)
            merged.merge(safe_merge=True, adapter_names=own)
            weights[f"{layer}.weight"] = merged.get_base_layer().weight
    return weights
