"""The score of a model: one number over its tasks, by which the best weights are chosen."""

from collections.abc import Mapping
from typing import Any


def score(
    metrics: Mapping[str, Mapping[str, Any]], choices: Mapping[str, str], weights: Mapping[str, float]
) -> float | None:
    """The weighted mean over tasks of the metric chosen for each.

    Args:
        metrics: task → metric → value on validation; tasks without rows there are absent or empty.
        choices: task → the name of its metric.
        weights: task → its `score_weight`.

    Returns:
        None if no task with a weight above 0 has rows in validation.
    """
    measured = [task for task in choices if metrics.get(task)]
    total = sum(weights[task] for task in measured)
    if total == 0:
        return None
    return sum(weights[task] * metrics[task][choices[task]] for task in measured) / total
