"""The training loop: step after step, with what is logged, measured and saved between them."""

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hf_mtl.batching.collator import Batch
from hf_mtl.config_keys import RunConfig
from hf_mtl.errors import StoppedError, UserError
from hf_mtl.training.checkpoint import Checkpoint
from hf_mtl.training.course import Course
from hf_mtl.training.history import History, Stopwatch
from hf_mtl.training.position import Position
from hf_mtl.training.progress import TrainingProgress
from hf_mtl.training.state import Best, Keeper, RunState
from hf_mtl.training.step import StepResult, train_step, why_not_finite
from hf_mtl.training.stopping import StopSignals
from hf_mtl.training.tensors import Generators, changing_tensors
from hf_mtl.training.trackers import Trackers


@dataclass(frozen=True)
class Validation:
    """What an evaluation between steps found.

    Args:
        metrics: by task.
        score: over all tasks; None if no task that counts in it has rows in validation.
    """

    metrics: dict[str, Any]
    score: float | None


@dataclass
class TrainingLoop:
    """Runs the steps that are left of a run.

    Args:
        config: the run.
        model: the prepared model.
        optimizer: the prepared optimizer.
        schedule: not prepared: a prepared one advances once a process at each step.
        accelerator: the run's processes.
        course: the steps.
        keeper: writes checkpoints.
        state: where the run stands.
        history: is told every logging step and evaluation.
        progress: what a person sees.
        trackers: are told what the history is told.
        signals: tells whether the run was asked to stop.
        validate: measures validation; None if there is nothing to measure.
        choices: each task's metric that counts in the score.
        publish: is told of a save before the last one.
    """

    config: RunConfig
    model: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    accelerator: Accelerator
    course: Course
    keeper: Keeper
    state: RunState
    history: History
    progress: TrainingProgress
    trackers: Trackers
    signals: StopSignals
    validate: Callable[[], Validation | None]
    choices: Mapping[str, str]
    publish: Callable[[Position, Checkpoint | None], None]
    watch: Stopwatch = field(default_factory=Stopwatch)

    def run(self) -> None:
        """Trains to the end.

        Raises:
            StoppedError: if the run was asked to stop, or ran out of memory; it can be resumed.
            UserError: if the loss is no longer a number, or a file cannot be written.
        """
        self.model.train()
        try:
            # What a run that was stopped right here had still to measure.
            self._between_steps()
            for position, batches in self.course.steps(self.state.position, self.state.stopping):
                self._step(position, batches)
            self._stop_if_asked()
        except torch.OutOfMemoryError as error:
            raise StoppedError(self._out_of_memory(error), 1) from error
        if self.state.log.steps:
            self._log()
        if self.config.training.save_strategy != "no":
            self._save()

    def _step(self, position: Position, batches: list[Batch]) -> None:
        training, rate, generators = self.config.training, float(self.schedule.get_last_lr()[0]), Generators.now()
        loss_weights, stop = self.state.log.loss_weights, self.signals.received is not None
        result = train_step(
            self.model, batches, self.optimizer, self.accelerator, loss_weights, training.max_grad_norm, stop
        )
        if not result.finite:
            self._not_finite(result, position.step, generators)
        self.schedule.step()
        self.state.position = position
        seconds = self.watch.lap()
        self.state.log.add(result, seconds, rate)
        self.progress.step(result, seconds)
        if position.is_last(training) or position.step % training.logging_steps == 0:
            self._log()
        if result.counts.stops or self.accelerator.num_processes == 1:
            self._stop_if_asked()
        self._between_steps()

    def _between_steps(self) -> None:
        """Measures and saves what is due at this position; a checkpoint tells whether it was measured already."""
        training, position = self.config.training, self.state.position
        ends = {"no": False, "epoch": position.ends_epoch or position.is_last(training)}
        by_steps = {"eval": training.eval_steps, "save": training.save_steps}

        def due(kind: str, strategy: str) -> bool:
            if strategy == "steps":
                return position.is_last(training) or position.step % (by_steps[kind] or 1) == 0
            return ends[strategy]

        if due("eval", training.eval_strategy) and self.state.evaluated < position.step:
            self._validate()
        if due("save", training.save_strategy) and position.step:
            checkpoint = self._save()
            if not position.is_last(training):
                self.publish(position, checkpoint)
        self.watch.restart()

    def _log(self) -> None:
        position = self.state.position
        entry = self.state.log.entry(position.step, float(position.epochs))
        self.history.write(entry)
        self.trackers.training(entry)
        self.progress.logged(entry)

    def _validate(self) -> None:
        found, position = self.validate(), self.state.position
        self.state.evaluated = position.step
        if found is None:
            return
        entry = {
            "step": position.step,
            "epoch": round(float(position.epochs), 4),
            "split": "validation",
            "metrics": found.metrics,
            "score": found.score,
        }
        self.history.write(entry)
        self.trackers.evaluation(entry)
        self.progress.evaluated(entry, self.choices)
        best, reached = self.state.best, found.score
        if self.config.training.load_best_model_at_end and reached is not None and (not best or reached > best.score):
            weights = {name: tensor.clone() for name, tensor in changing_tensors(self.keeper.model).items()}
            self.state.best = Best(reached, position.step, found.metrics, weights)
        task_scores = {task: values[self.choices[task]] for task, values in found.metrics.items()}
        for line in self.state.stopping.update(found.score, task_scores, position.active):
            self.progress.say(line)

    def _save(self) -> Checkpoint | None:
        return self.keeper.save(self.state, self.history)

    def _not_finite(self, result: StepResult, step: int, generators: Generators) -> None:
        """Goes on where that is allowed: a scaled gradient (fp16) that is too large is left out and scaled anew."""
        if self.accelerator.scaler is not None and not result.not_finite:
            return
        why = why_not_finite(result, step, {name: task.dataset for name, task in self.config.tasks.items()})
        if self.config.training.on_nonfinite == "skip":
            self.progress.say(f"{why}: left out")
            return
        saved = ""
        if self.state.position.step:
            # The weights are still those of the step before, and so must be what dropout draws next.
            self.keeper.save(self.state, self.history, generators)
            saved = (
                f". The state after step {self.state.position.step} is in {self.keeper.checkpoints.folder}; "
                "--resume --set training.on_nonfinite=skip leaves such steps out"
            )
        error = UserError(f"{why}{saved}. Or start anew with a lower learning_rate, more warmup_steps, or without fp16")
        error.told = not self.accelerator.is_main_process
        raise error

    def _stop_if_asked(self) -> None:
        """Saves and stops if a process was asked to. All processes must call it."""
        asked = torch.tensor(int(self.signals.received is not None), device=self.accelerator.device)
        if not int(self.accelerator.reduce(asked, reduction="sum")):
            return
        self._save()
        step, number = self.state.position.step, self.signals.received or signal.SIGTERM
        raise StoppedError(
            f"stopped after step {step} of {self.course.total_steps}, saved in {self.keeper.checkpoints.folder}; "
            "the same command with --resume (in Python: resume=True) goes on from there",
            128 + number,
            told=not self.accelerator.is_main_process,
        )

    def _out_of_memory(self, error: Exception) -> str:
        newest = self.keeper.checkpoints.newest()
        goes_on = f"--resume goes on after step {newest.step}" if newest else "no checkpoint was written yet"
        return (
            f"out of memory in step {self.state.position.step + 1} ({str(error).splitlines()[0]}). {goes_on}; set a "
            "smaller training.per_device_train_batch_size (the step keeps its size) or training.gradient_checkpointing"
        )
