"""The course of a run: what this process reads in every step, from any position on."""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from accelerate import Accelerator
from torch.utils.data import DataLoader

from hf_mtl.batching.collator import Batch, Collator
from hf_mtl.batching.draws import Unit, units
from hf_mtl.batching.plan import EpochPlan, count_steps, plan
from hf_mtl.batching.step_loader import RankSteps, step_loader
from hf_mtl.config_keys import RunConfig
from hf_mtl.data.encoding import Sequences
from hf_mtl.training.early_stopping import EarlyStopping
from hf_mtl.training.position import Position, exact


class Course:
    """The steps of a run, the same ones on any number of processes.

    Attributes:
        step_size: sequences of an optimizer step, on all processes together; a resumed run keeps it.
        per_device: the most sequences of a micro-batch; where memory is short it is halved, and a step has more of
            them.

    Args:
        config: the run.
        sequences: those of train, by data set.
        collator: makes the batches.
        accelerator: knows the processes.
    """

    def __init__(
        self, config: RunConfig, sequences: Mapping[str, Sequences], collator: Collator, accelerator: Accelerator
    ) -> None:
        self.config, self.training = config, config.training
        self.sources = list(sequences.values())
        self.lengths = [source.lengths for source in self.sources]
        self.items = {
            name: {task: source.items(task) for task in collator.tasks if config.tasks[task].dataset == name}
            for name, source in sequences.items()
        }
        self.collator, self.accelerator = collator, accelerator
        self.per_device = self.training.per_device_train_batch_size
        self.step_size = self.per_device * accelerator.num_processes * self.training.gradient_accumulation_steps

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.collator.tasks)

    @property
    def steps_per_epoch(self) -> int:
        """With all tasks."""
        sampling = self.config.sampling
        return count_steps(self._units(self.tasks), self.step_size, sampling.strategy, sampling.batch)

    @property
    def total_steps(self) -> int:
        """The length of the schedule; paused tasks may end a run before it."""
        if self.training.max_steps > 0:
            return self.training.max_steps
        return math.ceil(exact(self.training.num_train_epochs) * self.steps_per_epoch)

    def start(self) -> Position:
        """The beginning of the run."""
        return Position(0, 0, 0, self.steps_per_epoch, {}, self.tasks)

    def epoch_plan(self, position: Position) -> EpochPlan:
        """The steps of the position's epoch."""
        sampling = self.config.sampling
        return plan(
            self.training.seed,
            position.epoch,
            self._units(position.active),
            position.draws,
            self.lengths,
            self.step_size,
            sampling.strategy,
            temperature=sampling.temperature,
            weights=sampling.weights,
            batch=sampling.batch,
            pool_size=sampling.pool_size,
        )

    def steps(self, position: Position, stopping: EarlyStopping) -> Iterator[tuple[Position, list[Batch]]]:
        """This process's micro-batches of every step that is left, each with the position behind it.

        Args:
            position: where to begin.
            stopping: asked before each step which tasks are paused, and whether the run has ended.
        """
        epoch_plan = self.epoch_plan(position)
        while not (position.is_last(self.training) or stopping.ended):
            if position.ends_epoch:
                position = replace(
                    position, epoch=position.epoch + 1, step_in_epoch=0, draws=epoch_plan.draws, active=stopping.active
                )
                epoch_plan = self.epoch_plan(position)
                position = replace(position, epoch_steps=len(epoch_plan))
            paused = set(stopping.paused)
            for batches in self._loader(epoch_plan, position.step_in_epoch, paused):
                position = position.after_step()
                yield position, batches
                if position.is_last(self.training) or stopping.ended or paused != set(stopping.paused):
                    break

    def largest_micro_batch(self, position: Position, per_device: int) -> Batch:
        """At least as large as any that a process reads in an epoch, and the same on every process."""
        epoch_plan, processes = self.epoch_plan(position), self.accelerator.num_processes
        index = epoch_plan.largest(self.lengths, per_device, processes)
        most = -(-min(len(epoch_plan[index]), per_device * processes) // processes)
        return RankSteps(epoch_plan, self.sources, self.collator, 0, 1, most)[index][0]

    def _units(self, active: Collection[str]) -> tuple[Unit, ...]:
        return units(self.items, active, self.config.sampling.batch)

    def _loader(self, epoch_plan: EpochPlan, start: int, paused: Collection[str]) -> DataLoader[list[Batch]]:
        return step_loader(
            epoch_plan,
            self.sources,
            self.collator,
            rank=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
            per_device=self.per_device,
            start=start,
            paused=paused,
            num_workers=self.training.dataloader_num_workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )
