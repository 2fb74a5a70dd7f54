"""All that changes while a run trains: written to its checkpoints and put back from them."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.training.checkpoint import Checkpoint, Checkpoints
from hf_mtl.training.early_stopping import EarlyStopping
from hf_mtl.training.history import History, StepLog
from hf_mtl.training.launch import on_first_process
from hf_mtl.training.position import Position
from hf_mtl.training.tensors import Generators, changing_tensors, load_model, load_optimizer, optimizer_tensors


@dataclass(frozen=True)
class Best:
    """The best evaluation so far.

    Args:
        score: its score.
        step: the step after which it was.
        metrics: by task.
        weights: the model's then, on the CPU.
    """

    score: float
    step: int
    metrics: dict[str, Any]
    weights: dict[str, Tensor]


@dataclass
class RunState:
    """Where a run stands.

    Args:
        position: its place in the course.
        log: sums since the last logging step.
        stopping: counts of early stopping.
        best: the best evaluation; None before the first.
        evaluated: the step of the last evaluation.
        seconds: that it had run when it was stopped.
    """

    position: Position
    log: StepLog
    stopping: EarlyStopping
    best: Best | None = None
    evaluated: int = 0
    seconds: float = 0.0
    since: float = field(default_factory=time.perf_counter)

    @property
    def elapsed(self) -> float:
        """Seconds that the run has taken, stops not counted."""
        return self.seconds + time.perf_counter() - self.since


@dataclass
class Keeper:
    """Writes a run's whole state to checkpoints, and puts it back.

    Args:
        checkpoints: where they lie.
        accelerator: the run's; all processes must call `save` and `restore` together.
        model: the model, not wrapped for several processes.
        optimizer: the prepared optimizer.
        schedule: the schedule.
        step_size: sequences of a step, on all processes together.
        stamp: what a resumed run is compared with, as JSON.
    """

    checkpoints: Checkpoints
    accelerator: Accelerator
    model: MultiTaskModel
    optimizer: Optimizer
    schedule: LRScheduler
    step_size: int
    stamp: dict[str, Any]
    best_file: tuple[int, Path] | None = None

    def save(self, state: RunState, history: History, generators: Generators | None = None) -> Checkpoint | None:
        """Writes a checkpoint, and gives it on the first process.

        Args:
            state: the run's.
            history: on the first process; its lines up to here belong to the checkpoint.
            generators: states of this process's random generators; those of this moment by default.

        Raises:
            UserError: on every process, if it cannot be written.
        """
        random = gather_object([(generators or Generators.now()).tensors()])
        tensors: dict[str, Mapping[str, Tensor] | Path] = {"model": changing_tensors(self.model)}
        tensors["optimizer"], groups = optimizer_tensors(self.optimizer, self.model)
        tensors["random"] = {f"{rank}.{name}": value for rank, own in enumerate(random) for name, value in own.items()}
        if state.best is not None:
            tensors["best"] = self._best_tensors(state.best, state.position)
        scaler = self.accelerator.scaler
        values = {
            "identity": self.stamp,
            "step_size": self.step_size,
            "processes": self.accelerator.num_processes,
            "position": state.position.to_json(),
            "log": state.log.to_json(),
            "early_stopping": state.stopping.to_json(),
            "best": state.best and {key: value for key, value in vars(state.best).items() if key != "weights"},
            "evaluated": state.evaluated,
            "seconds": state.elapsed,
            "optimizer": groups,
            "schedule": self.schedule.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "history_bytes": history.size,
        }
        best = state.best.step if state.best is not None else None
        history.to_disk()
        made = on_first_process(
            self.accelerator, lambda: self.checkpoints.save(state.position.step, tensors, values, keep=best)
        )
        # A run that was stopped before it measured this step had saved it without what is the best since.
        if made is not None and best is not None and (made.state["best"] or {}).get("step") == best:
            self.best_file = best, made.file("best")
        return made

    def _best_tensors(self, best: Best, position: Position) -> Mapping[str, Tensor] | Path:
        """Their file, where they are written already or right beside, else themselves."""
        if self.best_file is not None and self.best_file[0] == best.step and self.best_file[1].exists():
            return self.best_file[1]
        return Path("model.safetensors") if best.step == position.step else best.weights

    def restore(self, checkpoint: Checkpoint, state: RunState) -> int:
        """Puts everything back; gives the bytes of `history.jsonl` that belong to the checkpoint."""
        saved = checkpoint.state
        load_model(self.model, checkpoint.tensors("model"))
        load_optimizer(self.optimizer, self.model, checkpoint.tensors("optimizer"), saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        if self.accelerator.scaler is not None and saved["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        state.position = Position.from_json(saved["position"])
        state.log.load(saved["log"])
        state.stopping.load(saved["early_stopping"])
        state.evaluated, state.seconds = saved["evaluated"], saved["seconds"]
        if saved["best"] is not None:
            state.best = Best(**saved["best"], weights=checkpoint.tensors("best"))
            self.best_file = state.best.step, checkpoint.file("best")
        self._restore_generators(checkpoint, saved["processes"])
        return saved["history_bytes"]

    def _restore_generators(self, checkpoint: Checkpoint, processes: int) -> None:
        """Only a run of as many processes draws the same dropout; of another number each keeps the seed it has."""
        if processes == self.accelerator.num_processes:
            own = f"{self.accelerator.process_index}."
            tensors = checkpoint.tensors("random")
            Generators.of_tensors(
                {name.removeprefix(own): value for name, value in tensors.items() if name.startswith(own)}
            ).restore()
