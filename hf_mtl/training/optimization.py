"""Optimizer and learning-rate schedule, as `transformers.Trainer` sets them up."""

import math

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler
from transformers.trainer_pt_utils import get_parameter_names

from hf_mtl.config_keys import TrainingConfig

NOT_DECAYED = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]
"""Names of parameters without weight decay, as in `transformers.Trainer`."""


def make_optimizer(model: nn.Module, config: TrainingConfig) -> Optimizer:
    """AdamW (fused by default) or SGD; biases and norms are not decayed."""
    decayed = set(get_parameter_names(model, [nn.LayerNorm], NOT_DECAYED))
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for name, parameter in named if name in decayed], "weight_decay": config.weight_decay},
        {"params": [parameter for name, parameter in named if name not in decayed], "weight_decay": 0.0},
    ]
    if config.optim == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate)
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=config.optim == "adamw_torch_fused")


def make_schedule(optimizer: Optimizer, config: TrainingConfig, steps: int) -> LRScheduler:
    """The schedule over `steps` optimizer steps, warm-up included."""
    return get_scheduler(config.lr_scheduler_type, optimizer, warmup_steps(config, steps), steps)


def warmup_steps(config: TrainingConfig, steps: int) -> int:
    """`warmup_steps` below 1 is a share of all steps."""
    return int(config.warmup_steps) if config.warmup_steps >= 1 else math.ceil(config.warmup_steps * steps)
