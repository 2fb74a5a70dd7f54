"""One optimizer step: forward and backward over its micro-batches, clipping, update."""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import nn
from torch.optim import Optimizer

from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.training.loss import StepCounts, count_step, drop_absent_gradients, micro_batch_loss


@dataclass(frozen=True)
class StepResult:
    """What a step leaves for the log.

    Args:
        counts: its items and sequences.
        loss_sums: S_t, the sum of the items' losses by task, over all micro-batches and processes.
        grad_norm: the norm of the gradient before clipping.
    """

    counts: StepCounts
    loss_sums: dict[str, float]
    grad_norm: float

    @property
    def not_finite(self) -> list[str]:
        """The tasks whose loss is no finite number."""
        return [task for task, loss in self.loss_sums.items() if not math.isfinite(loss)]

    @property
    def finite(self) -> bool:
        return not self.not_finite and math.isfinite(self.grad_norm)


def train_step(
    model: nn.Module,
    batches: Sequence[Mapping[str, Any]],
    optimizer: Optimizer,
    accelerator: Accelerator,
    loss_weights: Mapping[str, float],
    max_grad_norm: float,
    stop: bool = False,
) -> StepResult:
    """Runs one optimizer step; the weights stay as they are if it has no row, or if its loss is not finite.

    Args:
        model: the prepared `MultiTaskModel`.
        batches: this process's micro-batches, on the CPU; as many on every process.
        optimizer: the prepared optimizer.
        accelerator: made with `gradient_accumulation_steps=1`: its `backward` would divide by more.
        loss_weights: by task.
        max_grad_norm: clips the gradient's norm; 0 leaves it as it is.
        stop: as for `count_step`.
    """
    inner: MultiTaskModel = accelerator.unwrap_model(model)
    counts = count_step(batches, inner.tasks, accelerator, stop)
    sums = torch.zeros(len(inner.tasks), device=accelerator.device)
    if not counts.rows:
        return StepResult(counts, dict.fromkeys(inner.tasks, 0.0), 0.0)
    for number, batch in enumerate(batches, start=1):
        inputs = send_to_device(batch, accelerator.device, non_blocking=True)
        with nullcontext() if number == len(batches) else accelerator.no_sync(model):
            loss_sums = model(**inputs).loss_sums
            accelerator.backward(micro_batch_loss(loss_sums, counts, loss_weights, accelerator.num_processes))
        sums += torch.stack([loss_sums[task].detach().float() for task in inner.tasks])
    drop_absent_gradients(inner, counts)
    norm = accelerator.clip_grad_norm_(model.parameters(), max_grad_norm or float("inf"))
    total = accelerator.reduce(sums, reduction="sum") if accelerator.num_processes > 1 else sums
    result = StepResult(counts, dict(zip(inner.tasks, total.tolist(), strict=True)), float(norm))
    scaler = accelerator.scaler
    if result.finite or (scaler is not None and not result.not_finite):
        # With a scaler (fp16) the optimizer itself leaves out a step whose gradient is too large, and lowers the scale.
        optimizer.step()
    elif scaler is not None:
        scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return result


def why_not_finite(result: StepResult, step: int, datasets: Mapping[str, str]) -> str:
    """A sentence on a step whose loss or gradient is not a finite number.

    Args:
        result: the step's.
        step: its number.
        datasets: each task's data set.
    """
    if not result.not_finite:
        return f"step {step}: the gradient is not finite although every loss is"
    names = ", ".join(dict.fromkeys(datasets[task] for task in result.not_finite))
    return f"step {step}: the loss of {', '.join(result.not_finite)} (data set {names}) is not a finite number"
