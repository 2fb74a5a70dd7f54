"""What one process reads of an epoch: for each step, the list of its micro-batches."""

import signal
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from hf_mtl.batching.collator import Batch, Collator
from hf_mtl.batching.draws import Integers
from hf_mtl.batching.plan import EpochPlan


class Source(Protocol):
    """What turns the plan's numbers into sequences: the encoded sequences of a data set."""

    def take(self, indices: Sequence[int]) -> list[dict[str, Any]]: ...


class RankSteps(Dataset[list[Batch]]):
    """One process's part of the steps of an epoch, `steps[i]` its micro-batches of step i.

    Args:
        plan: the epoch's steps.
        sources: the data sets' sequences, in the order of the plan's places.
        collator: makes the batches.
        rank: the process.
        processes: how many processes there are.
        per_device: the most sequences of a micro-batch.
        paused: tasks whose labels are not read, whatever the plan says.
    """

    def __init__(
        self,
        plan: EpochPlan,
        sources: Sequence[Source],
        collator: Collator,
        rank: int,
        processes: int,
        per_device: int,
        paused: Collection[str] = (),
    ) -> None:
        self.plan = plan
        self.sources = sources
        self.collator = collator
        self.rank = rank
        self.processes = processes
        self.per_device = per_device
        self.paused = paused

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> list[Batch]:
        step = self.plan[index]
        parts = step.micro_batches(self.rank, self.processes, self.per_device)
        sequences = iter(self._read(np.concatenate(parts)))
        tasks = [task for task in step.tasks if task not in self.paused]
        return [self.collator([next(sequences) for _ in part], tasks) for part in parts]

    def _read(self, draws: Integers) -> list[Mapping[str, Any]]:
        """The sequences of `draws` in their order, with one call a data set."""
        found: list[Mapping[str, Any]] = [{}] * len(draws)
        for place in np.unique(draws[:, 0]):
            rows = np.flatnonzero(draws[:, 0] == place)
            for row, sequence in zip(rows, self.sources[place].take(draws[rows, 1].tolist()), strict=True):
                found[row] = sequence
        return found


def step_loader(
    plan: EpochPlan,
    sources: Sequence[Source],
    collator: Collator,
    *,
    rank: int = 0,
    processes: int = 1,
    per_device: int,
    start: int = 0,
    paused: Collection[str] = (),
    num_workers: int = 0,
    pin_memory: bool = False,
    generator: torch.Generator | None = None,
) -> DataLoader[list[Batch]]:
    """A loader over the steps from `start` on, each a list of this process's micro-batches on the CPU.

    Every process has as many steps, and as many micro-batches in each, as the others. The loader must not be sharded
    again, so it is not to be prepared by Accelerate.

    Args:
        plan: the epoch's steps.
        sources: the data sets' sequences, in the order of the plan's places.
        collator: makes the batches.
        rank: this process.
        processes: how many processes there are.
        per_device: the most sequences of a micro-batch.
        start: the first step to read (a resumed run's).
        paused: tasks whose labels are not read, whatever the plan says.
        num_workers: worker processes that read ahead.
        pin_memory: whether the tensors lie in pinned memory.
        generator: seeds the workers; without one the loader has its own, since `iter(DataLoader)` would draw from
            torch's global generator and so change dropout.
    """
    return DataLoader(
        RankSteps(plan, sources, collator, rank, processes, per_device, paused),
        batch_size=None,
        sampler=range(start, len(plan)),
        num_workers=num_workers,
        collate_fn=_as_it_is,
        pin_memory=pin_memory,
        generator=generator or torch.Generator(),
        worker_init_fn=_ignore_stops if num_workers else None,
    )


def _ignore_stops(_: int) -> None:
    """A worker goes on until the training process, asked to stop by the same signal, has finished its step."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})


def _as_it_is(batches: list[Batch]) -> list[Batch]:
    return batches
