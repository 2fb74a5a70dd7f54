"""What the built-in metrics share: they live in memory, need no Hub and leave nothing on the disk."""

import os
from collections.abc import Sequence
from typing import Any

import evaluate
from datasets import Features


class MemoryMetric(evaluate.Metric):
    """A metric whose predictions and references are kept in memory.

    Without that every instance would lock a file in the shared cache folder, where processes collide. A subclass gives
    `element`, the feature of one prediction, and `measure`.

    Args:
        label_list: the task's labels. Ids are places in it; metrics over tags and numbers do without.
    """

    element: Any

    def __init__(self, label_list: Sequence[str] | None = None) -> None:
        self.label_list = list(label_list or [])
        # A fixed seed: the default one is read from numpy's global state, and no metric here draws numbers.
        super().__init__(keep_in_memory=True, seed=0)

    def measure(self, predictions: list, references: list) -> dict[str, Any]:
        """The metrics by name, as fractions of 1; `by_label` is a dict of dicts."""
        raise NotImplementedError

    def _info(self) -> evaluate.MetricInfo:
        description = type(self).__doc__ or ""
        features = Features({"predictions": self.element, "references": self.element})
        return evaluate.MetricInfo(description=description, citation="", features=features)

    def _build_data_dir(self) -> str:
        # As in evaluate, but the folder is not made: nothing is ever written to it.
        return os.path.join(self._data_dir_root, self.name, self.config_name)

    def _compute(self, *, predictions: list | None = None, references: list | None = None, **_: Any) -> dict[str, Any]:
        if not predictions or not references:
            raise ValueError(
                f"{type(self).__name__} needs at least one prediction with its reference; it was given none."
            )
        return self.measure(predictions, references)


def table(labels: Sequence[str], columns: Sequence[Sequence[float]]) -> dict[str, dict[str, float]]:
    """`by_label`, from precision, recall, f1 and support as scikit-learn and seqeval give them, in labels' order."""
    return {
        label: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
        for label, p, r, f, n in zip(labels, *columns, strict=True)
    }
