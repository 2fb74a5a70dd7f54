"""What a person sees of a run: a bar with rows/s, time left and each task's loss, and a table at the end."""

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from hf_mtl.training.step import StepResult

SHOWN_PART = 0.1
"""The share of the newest step in the shown running means."""


class RunConsole(Console):
    """A console whose reader may go away (`| head`, `| tee` on Ctrl-C) without ending the run."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        # Python flushes standard output once more when it ends, and would end with an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class TrainingProgress:
    """A progress bar on a terminal; a line a logging step where the output is a file or a pipe.

    Args:
        steps: the run's optimizer steps.
        console: where to write; a quiet one on all processes but the first.
        done: the steps that a resumed run has behind it.
    """

    def __init__(self, steps: int, console: Console, done: int = 0) -> None:
        self.steps, self.console, self.done = steps, console, done
        self.losses: dict[str, float] = {}
        self.rate = 0.0
        self.started = time.perf_counter()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.line = self.bar.add_task("training", total=steps, completed=done, rate="", losses="")

    def __enter__(self) -> "TrainingProgress":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def step(self, result: StepResult, seconds: float) -> None:
        counts = result.counts
        self.rate = _smooth(self.rate, counts.rows / max(seconds, 1e-9))
        for task, loss_sum in result.loss_sums.items():
            if counts.items[task]:
                self.losses[task] = _smooth(self.losses.get(task, 0.0), loss_sum / counts.items[task])
        losses = "  ".join(f"{task} {loss:.3f}" for task, loss in self.losses.items())
        self.bar.update(self.line, advance=1, rate=f"{self.rate:.0f} rows/s", losses=losses)

    def logged(self, entry: Mapping[str, Any]) -> None:
        """A line for those who read a log instead of a bar."""
        if self.console.is_terminal:
            return
        losses = "  ".join(f"{task} {loss:.3f}" for task, loss in entry["task_loss"].items())
        # A run that is resumed behind its last step may have a line to log, and no step to time.
        seconds = (time.perf_counter() - self.started) / max(entry["step"] - self.done, 1)
        left = seconds * (self.steps - entry["step"])
        self.say(
            f"step {entry['step']}/{self.steps}  epoch {entry['epoch']:.2f}  loss {entry['loss']:.3f}  {losses}  "
            f"{entry['rows_per_second']:.0f} rows/s  {left:.0f} s left"
        )

    def evaluated(self, entry: Mapping[str, Any], choices: Mapping[str, str]) -> None:
        values = "  ".join(
            f"{task} {choices[task]} {metrics[choices[task]]:.4f}" for task, metrics in entry["metrics"].items()
        )
        score = "" if entry["score"] is None else f"  score {entry['score']:.4f}"
        self.say(f"{entry['split']} after step {entry['step']} (epoch {entry['epoch']:.2f}): {values}{score}")

    def say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def _smooth(mean: float, value: float) -> float:
    return value if not mean else (1 - SHOWN_PART) * mean + SHOWN_PART * value


def results_table(metrics: Mapping[str, Any]) -> Table:
    """All tasks' metrics, a row each, with a column a split.

    Args:
        metrics: as in `metrics.json`.
    """
    splits = [split for split in ("train", "validation", "test") if metrics.get(split)]
    table = Table("task", "metric", *splits)
    tasks = dict.fromkeys(task for split in splits for task in metrics[split])
    for task in tasks:
        names = [
            name
            for name, value in next(metrics[split][task] for split in splits if task in metrics[split]).items()
            if not isinstance(value, Mapping)
        ]
        for place, name in enumerate(names):
            cells = [_cell(metrics[split].get(task, {}).get(name)) for split in splits]
            table.add_row(task if place == 0 else "", name, *cells, end_section=place == len(names) - 1)
    return table


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
