"""The processes of a run: what Accelerate is told, and what only the first of them does."""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs, broadcast_object_list, is_bf16_available

from hf_mtl.config_keys import RunConfig
from hf_mtl.errors import FinishedError, StoppedError, UserError
from hf_mtl.training.trackers import check_trackers, tracking_arguments

PATIENCE = timedelta(hours=2)
"""How long processes wait for the first one, which reads all rows before the others do."""

UNTRIED = {DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM, DistributedType.XLA}
"""Ways of spreading a model that keep weights, gradients or optimizer where checkpoints would not find them."""
Result = TypeVar("Result")


def make_accelerator(config: RunConfig) -> Accelerator:
    """Accelerate for this run: on the CPU where there is no accelerator.

    Raises:
        UserError: if the launcher started several processes which Accelerate does not see as one run, if the device
            cannot compute in the precision asked for, or if a tracker is not installed.
    """
    training = config.training
    check_trackers(training.report_to)
    if training.bf16 and not is_bf16_available():
        raise UserError("training.bf16: this device cannot compute in bfloat16; set it to false")
    precision = "bf16" if training.bf16 else "fp16" if training.fp16 else "no"
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked not in ("no", precision):
        raise UserError(
            f"accelerate launch asks for {asked} and the run file for {precision}: set training.{asked}, or start with "
            f"--mixed_precision {precision}"
        )
    if training.fp16 and not torch.accelerator.is_available():
        raise UserError("training.fp16: half precision needs a GPU; set it to false, or use bf16")
    try:
        accelerator = Accelerator(
            gradient_accumulation_steps=1,
            mixed_precision=precision,
            cpu=not torch.accelerator.is_available(),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
            **tracking_arguments(training.report_to, training.output_dir),
        )
    except ValueError as error:
        # Accelerate keeps one precision for the life of a Python process.
        raise UserError(f"training.{'fp16' if training.fp16 else 'bf16'}: {error}") from error
    if accelerator.gradient_accumulation_steps != 1:
        # The variable overrides the argument, and Accelerate's backward would then divide the loss.
        raise UserError(
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS is set; unset it and write training.gradient_accumulation_steps"
        )
    kind = accelerator.distributed_type
    if kind in UNTRIED or (kind == DistributedType.FSDP and not accelerator.is_fsdp2):
        raise UserError(
            f"accelerate is configured for {kind.value}; train with plain processes or FSDP2 (fsdp_version: 2 in "
            "accelerate config)"
        )
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != accelerator.num_processes:
        raise UserError(
            f"the launcher started {world} processes, but Accelerate sees {accelerator.num_processes}; without a GPU "
            "start them with: torchrun --nproc_per_node N -m hf_mtl train CONFIG"
        )
    return accelerator


def on_first_process(accelerator: Accelerator, action: Callable[[], Result]) -> Result | None:
    """Runs `action` on the first process while the others wait; gives its result there, None elsewhere.

    No process is left waiting for one that has gone: where `action` fails, all of them do.

    Raises:
        UserError: on every process, if `action` raised one.
        StoppedError: on the other processes, if `action` failed in another way.
    """
    if accelerator.num_processes == 1:
        return action()
    result: Result | None = None
    failed: Exception | None = None
    if accelerator.is_main_process:
        try:
            result = action()
        except Exception as error:  # whatever it is, the others must not wait for this process
            failed = error
    kinds = (FinishedError, UserError)
    told: list[Any] = [failed and ([isinstance(failed, kind) for kind in kinds], str(failed))]
    broadcast_object_list(told)
    if failed is not None:
        raise failed
    if told[0] is not None:
        (finished, users), message = told[0]
        kind = FinishedError if finished else UserError
        elsewhere = kind(message) if users else StoppedError(f"the first process failed: {message}", 1)
        elsewhere.told = True
        raise elsewhere
    return result


def refuse_unequal(accelerator: Accelerator, value: Any, what: str) -> None:
    """Compares what the processes have; all of them must call it.

    Raises:
        UserError: on every process, if one has something else than the first.
    """
    if accelerator.num_processes == 1:
        return
    first = [value]
    broadcast_object_list(first)
    equal = torch.tensor(int(first[0] == value), device=accelerator.device)
    if int(accelerator.reduce(equal, reduction="sum")) < accelerator.num_processes:
        error = UserError(f"the processes do not all have {what}")
        error.told = not accelerator.is_main_process
        raise error
