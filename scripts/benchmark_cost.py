"""What a run that can be resumed exactly costs: its part of a step's time, and a checkpoint against plain writes."""

import argparse
import os
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

from hf_mtl.batching.step_loader import RankSteps
from hf_mtl.modeling.base import fingerprint
from hf_mtl.training import loop as loop_module
from hf_mtl.training import step as step_module
from hf_mtl.training.checkpoint import Checkpoints
from hf_mtl.training.course import Course
from hf_mtl.training.early_stopping import EarlyStopping
from hf_mtl.training.history import History, StepLog
from hf_mtl.training.identity import identity
from hf_mtl.training.loop import TrainingLoop
from hf_mtl.training.optimization import make_optimizer, make_schedule
from hf_mtl.training.progress import TrainingProgress
from hf_mtl.training.state import Best, Keeper, RunState
from hf_mtl.training.step import train_step
from hf_mtl.training.tensors import Generators
from hf_mtl.training.trainer import MultiTaskTrainer
from scripts.benchmark_runs import QUIET, make_run, timed

PARTS: dict[str, list[tuple[Any, str]]] = {
    "plan": [(Course, "epoch_plan")],
    "counts": [(step_module, "count_step")],
    "log": [(StepLog, "add"), (StepLog, "entry"), (History, "write"), (TrainingProgress, "step")],
    "generator states": [(Generators, "now")],
    "checkpoint": [(Keeper, "save")],
}
BY_EPOCH = ("plan", "checkpoint")
TRAINING: list[tuple[Any, str]] = [(loop_module, "train_step"), (RankSteps, "__getitem__")]
"""What any training does: read and compute. The counts are within `train_step`."""
LOGGING_STEPS = 10


def cost(arguments: argparse.Namespace) -> None:
    """Both measurements."""
    with tempfile.TemporaryDirectory() as folder:
        cost_of_steps(arguments, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        cost_of_checkpoints(arguments, Path(folder))


def cost_of_steps(arguments: argparse.Namespace, folder: Path) -> None:
    """Times every part within a run; what happens once an epoch is spread over an epoch's steps."""
    steps = arguments.steps * arguments.turns
    run = make_run(arguments.data, folder, arguments)
    run["training"] |= {"max_steps": steps, "logging_steps": LOGGING_STEPS}
    run["training"] |= {"save_strategy": "steps", "save_steps": arguments.steps, "save_total_limit": 1}
    trainer = MultiTaskTrainer.from_config(run, console=QUIET)
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        for part, places in ({"run": [(TrainingLoop, "run")], "training": TRAINING} | PARTS).items():
            for owner, name in places:
                stack.enter_context(timed(owner, name, seconds[part].append))
        trainer.train()
    whole = {part: sum(calls) for part, calls in seconds.items()}
    epoch = trainer.course.steps_per_epoch
    step = (whole["run"] - sum(whole[part] for part in BY_EPOCH)) / steps
    shares = {
        part: (median(seconds[part]) / epoch if part in BY_EPOCH else whole[part] / steps) / step for part in PARTS
    }
    outside = sum(whole[part] for part in PARTS if part != "counts")
    shares["all else in the loop"] = (whole["run"] - whole["training"] - outside) / steps / step
    print(f"a step of {arguments.batch_size} rows: {step * 1000:.1f} ms, mean of {steps}")
    for part, share in shares.items():
        how = f" ({median(seconds[part]) * 1000:.0f} ms once in an epoch of {epoch} steps)" if part in BY_EPOCH else ""
        print(f"{part}: {share:.3%} of a step{how}")
    print(f"together: {sum(shares.values()):.2%} of a step")


def cost_of_checkpoints(arguments: argparse.Namespace, folder: Path) -> None:
    """Checkpoints in turns with plain writes of the same bytes, all of them to the disk."""
    trainer = MultiTaskTrainer.from_config(make_run(arguments.data, folder, arguments), console=QUIET)
    keeper, state = begun_run(trainer, folder / "checkpoints")
    history = History(None)
    saved = save_next(keeper, state, history)
    contents = [file.read_bytes() for file in saved.iterdir() if file.name != "best.safetensors"]
    keeper.checkpoints.clear()
    sides: dict[str, tuple[Callable[[], object], Callable[[], None]]] = {
        "checkpoint": (partial(save_next, keeper, state, history), keeper.checkpoints.clear),
        "plain": (partial(write_plainly, folder / "plain", contents), partial(shutil.rmtree, folder / "plain")),
    }
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    for turn in range(arguments.turns + 1):
        for name in sorted(sides, reverse=turn % 2 == 1):
            write, remove = sides[name]
            started = time.perf_counter()
            write()
            written = time.perf_counter()
            remove()
            if turn:
                seconds[name].append(written - started)
                seconds[f"{name} removed"].append(time.perf_counter() - written)
    checkpoint, plain = median(seconds["checkpoint"]), median(seconds["plain"])
    print(
        f"a checkpoint of {sum(map(len, contents)) / 1e6:.0f} MB: {checkpoint:.3f} s, plain writes {plain:.3f} s "
        f"(medians of {arguments.turns})"
    )
    print(
        f"checkpoint / plain writes: {checkpoint / plain:.2f}; of the means "
        f"{mean(seconds['checkpoint']) / mean(seconds['plain']):.2f}"
    )
    print(
        f"to remove it, as save_total_limit asks: {median(seconds['checkpoint removed']):.3f} s, "
        f"plain files {median(seconds['plain removed']):.3f} s"
    )


def begun_run(trainer: MultiTaskTrainer, folder: Path) -> tuple[Keeper, RunState]:
    """What saves a run, and the run's state, after one step, so that the optimizer has all its state."""
    accelerator, course = trainer.accelerator, trainer.course
    model, optimizer = accelerator.prepare(trainer.model, make_optimizer(trainer.model, trainer.training))
    schedule = make_schedule(optimizer, trainer.training, course.total_steps)
    stopping = EarlyStopping(trainer.training, list(trainer.model.tasks))
    position, batches = next(course.steps(course.start(), stopping))
    result = train_step(model, batches, optimizer, accelerator, trainer.loss_weights, 1.0)
    state = RunState(position, StepLog(trainer.loss_weights), stopping)
    state.log.add(result, 1.0, 1e-4)
    stamp = identity(trainer.config, trainer.prepared, fingerprint(trainer.model.encoder))
    keeper = Keeper(Checkpoints(folder), accelerator, trainer.model, optimizer, schedule, course.step_size, stamp)
    return keeper, state


def save_next(keeper: Keeper, state: RunState, history: History) -> Path:
    """Saves as after an evaluation with a new best score, a step later than the last time; gives the folder."""
    state.position = state.position.after_step()
    state.best = Best(float(state.position.step), state.position.step, {}, {})
    keeper.save(state, history)
    newest = keeper.checkpoints.newest()
    assert newest is not None
    return newest.path


def write_plainly(folder: Path, contents: Sequence[bytes]) -> None:
    """Files of these bytes, on the disk."""
    folder.mkdir()
    for number, content in enumerate(contents):
        with (folder / str(number)).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
