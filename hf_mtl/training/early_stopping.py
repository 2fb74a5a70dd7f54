"""Early stopping: of the whole run, or task by task."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hf_mtl.config_keys import TrainingConfig

OVERALL = "overall"


class EarlyStopping:
    """Ends training when validation gains no more, or pauses the tasks for which it does not.

    `overall` counts evaluations whose score is not above the best by more than the threshold, as transformers'
    `EarlyStoppingCallback` does, and ends training when there are `early_stopping_patience` of them in a row.
    `per_task` counts them for each task's own metric and pauses the task; a paused task is still measured, and rejoins,
    with its patience counted anew from there, when it falls below the score at which it was paused by more than the
    threshold. When every task is paused, training ends. A task without validation is never paused.

    Attributes:
        paused: task → the score at which it was paused.

    Args:
        training: the run's keys.
        tasks: all tasks.
    """

    def __init__(self, training: TrainingConfig, tasks: Sequence[str]) -> None:
        self.mode = training.early_stopping
        self.patience, self.threshold = training.early_stopping_patience, training.early_stopping_threshold
        self.tasks = list(tasks)
        self.paused: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self.waited: dict[str, int] = {}

    @property
    def ended(self) -> bool:
        """Whether training is over."""
        if self.mode == "overall":
            return self.waited.get(OVERALL, 0) >= self.patience
        return len(self.paused) == len(self.tasks)

    @property
    def active(self) -> tuple[str, ...]:
        """The tasks that are trained."""
        return tuple(task for task in self.tasks if task not in self.paused)

    def update(
        self, score: float | None, task_scores: Mapping[str, float], planned: Collection[str] | None = None
    ) -> list[str]:
        """Takes in an evaluation; gives lines that tell what changed.

        Args:
            score: over all tasks; None without validation.
            task_scores: each task's own metric; tasks without validation are not in it.
            planned: the tasks that the epoch draws for; one that has rejoined waits for the next epoch, and is not
                judged before. None for all.
        """
        if self.mode == "overall" and score is not None:
            self._count(OVERALL, score)
            return [f"the score has not risen in {self.patience} evaluations: training ends"] if self.ended else []
        said = []
        for task, reached in task_scores.items() if self.mode == "per_task" else ():
            if task not in self.paused:
                if (planned is None or task in planned) and self._count(task, reached) >= self.patience:
                    self.paused[task] = reached
                    said.append(f"{task} is paused at {reached:.4f}: no gain in {self.patience} evaluations")
            elif reached < self.paused[task] - self.threshold:
                said.append(f"{task} rejoins with the next epoch: {reached:.4f}, after {self.paused.pop(task):.4f}")
                self.best[task], self.waited[task] = reached, 0
        if self.mode == "per_task" and self.ended:
            said.append("every task is paused: training ends")
        return said

    def _count(self, name: str, reached: float) -> int:
        """Evaluations in a row without a gain."""
        if name not in self.best or reached > self.best[name] + self.threshold:
            self.best[name], self.waited[name] = reached, 0
        else:
            self.waited[name] += 1
        return self.waited[name]

    def to_json(self) -> dict[str, Any]:
        return {"paused": self.paused, "best": self.best, "waited": self.waited}

    def load(self, values: Mapping[str, Any]) -> None:
        self.paused, self.best, self.waited = (dict(values[name]) for name in ("paused", "best", "waited"))
