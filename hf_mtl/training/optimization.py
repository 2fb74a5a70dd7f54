"""Optimizer and learning-rate schedule, as `transformers.Trainer` sets them up."""

import math
import re
from typing import Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler
from transformers.trainer_pt_utils import get_parameter_names

from hf_mtl.config_keys import LayersConfig, TrainingConfig
from hf_mtl.errors import UserError
from hf_mtl.modeling.adapters import stock_name
from hf_mtl.modeling.layers import Depths, final_norms
from hf_mtl.modeling.model import MultiTaskModel

NOT_DECAYED = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")
"""Names of parameters without weight decay, as in `transformers.Trainer`."""


def freeze(model: MultiTaskModel, what: Literal["embeddings", "encoder"] | LayersConfig | None) -> None:
    """Takes encoder weights out of training: `embeddings`, the whole `encoder`, or some layers.

    Raises:
        UserError: for layers that the encoder does not have.
    """
    if what is None:
        return
    if what == "encoder":
        names = {name for name, _ in model.encoder.named_parameters()}
    elif what == "embeddings":
        inputs = {id(weight) for weight in _embeddings(model).parameters()}
        names = {name for name, weight in model.encoder.named_parameters() if id(weight) in inputs}
    else:
        names = _frozen_layers(model, what)
    frozen = {stock_name(name) for name in names}
    for _, part in model.body.parts():
        for name, weight in part.named_parameters():
            # Adapters are trained whatever else is.
            if (stock := stock_name(name)) is not None:
                weight.requires_grad_(stock not in frozen)


def _embeddings(model: MultiTaskModel) -> nn.Module:
    """The whole block before the layers, where the encoder has one, else its table of pieces."""
    return getattr(model.encoder, "embeddings", model.get_input_embeddings())


def _frozen_layers(model: MultiTaskModel, what: LayersConfig) -> set[str]:
    try:
        depths = Depths(model.encoder)
    except UserError as error:
        raise UserError(f"training.freeze.layers: {error}; freeze the encoder or its embeddings") from None
    if what.last > depths.top:
        raise UserError(f"training.freeze.layers: {what.layers} names layer {what.last}; the last one is {depths.top}")
    norms = tuple(f"{name}." for name, _ in final_norms(model.encoder))
    names = (name for name, _ in model.encoder.named_parameters() if not name.startswith(norms))
    return {name for name in names if what.first <= depths.of(name) <= what.last}


def make_optimizer(model: MultiTaskModel, config: TrainingConfig) -> Optimizer:
    """AdamW (fused by default) or SGD over the weights that are trained; biases and norms are not decayed.

    With `layerwise_lr_decay` (Howard and Ruder, ACL 2018) a layer learns at the rate of the layer above it times that
    factor; the last layer and the heads learn at `learning_rate`, the heads at `head_learning_rate` where it is given.

    Raises:
        UserError: if the encoder has no layers of its own to tell apart, or nothing is left to train.
    """
    decayed = {name for name in get_parameter_names(model, [nn.LayerNorm]) if not NOT_DECAYED.search(_unnamed(name))}
    rates = _rates(model, config)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            decay = config.weight_decay if name in decayed else 0.0
            groups.setdefault((rates[name], decay), []).append(weight)
    settings = [{"params": weights, "lr": rate, "weight_decay": decay} for (rate, decay), weights in groups.items()]
    if config.optim == "sgd":
        return torch.optim.SGD(settings, lr=config.learning_rate)
    return torch.optim.AdamW(settings, lr=config.learning_rate, fused=config.optim == "adamw_torch_fused")


def _unnamed(name: str) -> str:
    """A parameter's name without that of a task or group, which may sound like that of a bias or a norm."""
    return re.sub(r"(^heads|^private|\.lora_\w+)\.[^.]+", r"\1", name).lower()


def _rates(model: MultiTaskModel, config: TrainingConfig) -> dict[str, float]:
    """Each parameter's learning rate, by name."""
    head_rate = config.head_learning_rate or config.learning_rate
    rates = {
        name: head_rate if name.startswith("heads.") else config.learning_rate for name, _ in model.named_parameters()
    }
    if config.layerwise_lr_decay is not None:
        try:
            depths = Depths(model.encoder)
        except UserError as error:
            raise UserError(f"training.layerwise_lr_decay: {error}; leave the key out") from None
        for prefix, part in model.body.parts():
            for name, _ in part.named_parameters():
                above = depths.top - depths.of(name)
                rates[f"{prefix}.{name}"] = config.learning_rate * config.layerwise_lr_decay**above
    return rates


def make_schedule(optimizer: Optimizer, config: TrainingConfig, steps: int) -> LRScheduler:
    """The schedule over `steps` optimizer steps, warm-up included."""
    return get_scheduler(config.lr_scheduler_type, optimizer, warmup_steps(config, steps), steps)


def warmup_steps(config: TrainingConfig, steps: int) -> int:
    """`warmup_steps` below 1 is a share of all steps."""
    return int(config.warmup_steps) if config.warmup_steps >= 1 else math.ceil(config.warmup_steps * steps)
