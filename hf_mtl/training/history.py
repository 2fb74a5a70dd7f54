"""`history.jsonl`: an object per logging step and one per evaluation."""

import errno
import json
import os
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_mtl.errors import UserError
from hf_mtl.training.step import StepResult


class StepLog:
    """Sums over the steps since the last logging step.

    Args:
        loss_weights: by task.
    """

    def __init__(self, loss_weights: dict[str, float]) -> None:
        self.loss_weights = loss_weights
        self.rows_seen: Counter[str] = Counter(dict.fromkeys(loss_weights, 0))
        self.not_finite, self.learning_rate = 0, 0.0
        self._clear()

    def _clear(self) -> None:
        self.steps, self.rows, self.tokens, self.seconds, self.loss = 0, 0, 0, 0.0, 0.0
        self.task_loss: dict[str, list[float]] = {task: [] for task in self.loss_weights}
        self.grad_norm = 0.0

    def add(self, result: StepResult, seconds: float, learning_rate: float) -> None:
        """Counts a step in; one that changed no weight, for want of rows or of a finite loss, adds its time alone."""
        counts = result.counts
        self.seconds += seconds
        self.learning_rate = learning_rate
        self.not_finite += not result.finite
        if not counts.rows or not result.finite:
            return
        self.steps += 1
        self.rows += counts.rows
        self.tokens += counts.tokens
        self.grad_norm = result.grad_norm
        for task, loss_sum in result.loss_sums.items():
            self.rows_seen[task] += counts.sequences[task]
            if counts.items[task]:
                self.task_loss[task].append(loss_sum / counts.items[task])
                self.loss += counts.share(task, self.loss_weights[task]) * loss_sum

    def entry(self, step: int, epoch: float) -> dict[str, Any]:
        """The object of a logging step: means since the last one; the sums start anew."""
        seconds = max(self.seconds, 1e-9)
        entry = {
            "step": step,
            "epoch": round(epoch, 4),
            "loss": self.loss / max(self.steps, 1),
            "task_loss": {task: sum(losses) / len(losses) for task, losses in self.task_loss.items() if losses},
            "rows_seen": dict(self.rows_seen),
            "learning_rate": self.learning_rate,
            "grad_norm": self.grad_norm,
            "rows_per_second": round(self.rows / seconds, 2),
            "tokens_per_second": round(self.tokens / seconds, 2),
        }
        if self.not_finite:
            entry["steps_not_finite"] = self.not_finite
        self._clear()
        return entry

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "loss_weights"}

    def load(self, values: Mapping[str, Any]) -> None:
        """Puts back what `to_json` gave."""
        vars(self).update(values, rows_seen=Counter(values["rows_seen"]))


class History:
    """Appends objects to `history.jsonl`, each as a whole line.

    Args:
        path: the file; None for a process that writes nothing.
        keep: so many bytes of it are kept, the lines that stood there at a checkpoint; the rest is cut off.
    """

    def __init__(self, path: Path | None, keep: int = 0) -> None:
        self.entries: list[dict[str, Any]] = []
        self._file = None
        if path is not None:
            kept = path.read_bytes()[:keep]
            self.entries = [json.loads(line) for line in kept.splitlines()]
            self._file = path.open("r+b", buffering=0)
            self._file.truncate(len(kept))
            self._file.seek(0, os.SEEK_END)

    def write(self, entry: dict[str, Any]) -> None:
        """Appends an object.

        Raises:
            UserError: if it cannot be written.
        """
        self.entries.append(entry)
        if self._file is None:
            return
        line = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
        try:
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise UserError(
                f"{self._file.name} could not be written ({error.strerror}); make room there, then go on with --resume"
            ) from error

    def to_disk(self) -> None:
        """Makes what was written so far outlast the machine: a checkpoint counts on it."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    @property
    def size(self) -> int:
        """The file's bytes."""
        return 0 if self._file is None else self._file.tell()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class Stopwatch:
    """Seconds of training alone: stopped during evaluation."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        return seconds

    def restart(self) -> None:
        self._since = time.perf_counter()
