"""Before the first step: a pass whose gradients are thrown away, to make every start alike and to see what fits."""

import gc
from collections.abc import Callable

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import nn

from hf_mtl.batching.collator import Batch
from hf_mtl.errors import UserError
from hf_mtl.training.tensors import Generators

MOMENTS = 2
"""AdamW keeps two numbers for each weight; they come into being in the first step."""


def rehearse(model: nn.Module, batch: Batch, accelerator: Accelerator) -> None:
    """Runs forward and backward and leaves gradients and random generators as they were.

    With several processes DDP rebuilds its buckets after its first backward, and a sum over processes depends, in its
    last bits, on the place in the bucket. After a rehearsal a fresh run and a resumed one have the same buckets.

    Args:
        model: the prepared model.
        batch: what is read; one row is enough.
        accelerator: the run's.
    """
    generators = Generators.now()
    try:
        loss_sums = model(**send_to_device(batch, accelerator.device)).loss_sums
        accelerator.backward(torch.stack([loss.float() for loss in loss_sums.values()]).sum())
    finally:
        model.zero_grad(set_to_none=True)
        generators.restore()


def fitting_size(
    model: nn.Module,
    largest: Callable[[int], Batch],
    size: int,
    accelerator: Accelerator,
    say: Callable[[str], None],
) -> int:
    """The micro-batch size that fits into memory on every process: `size`, or its half, quarter, ….

    The optimizer's moments, which are not there yet, are given their room.

    Args:
        model: the prepared model.
        largest: gives the largest micro-batch of a size; the same on every process.
        size: the size asked for.
        accelerator: the run's.
        say: told of each halving.

    Raises:
        UserError: if one sequence does not fit.
    """
    # DDP sends between processes in its forward and backward: one that runs out would leave the others waiting there.
    inner = accelerator.unwrap_model(model)
    while True:
        fits = torch.tensor(int(_fits(inner, largest(size), accelerator)), device=accelerator.device)
        _free_memory()
        # By count, for all processes must go on with the same size.
        if int(accelerator.reduce(fits, reduction="sum")) == accelerator.num_processes:
            return size
        if size == 1:
            raise UserError(
                "out of memory: one sequence of the largest micro-batch does not fit on this device; lower max_length, "
                "set training.gradient_checkpointing, or choose a smaller encoder"
            )
        say(
            f"out of memory: {size // 2} sequences a process at a time in place of {size}; a step keeps its size by "
            "more accumulation (training.per_device_train_batch_size)"
        )
        size //= 2


def _fits(model: nn.Module, batch: Batch, accelerator: Accelerator) -> bool:
    try:
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        moments = [torch.empty_like(weight) for weight in trained for _ in range(MOMENTS)]
        rehearse(model, batch, accelerator)
    except torch.OutOfMemoryError:
        return False
    return bool(moments)


def _free_memory() -> None:
    """What a pass held is given back to the device, so that the next try starts as this one did."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
