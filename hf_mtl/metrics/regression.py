"""Metrics of a text classification that gives a number."""

import math
import warnings
from collections.abc import Callable
from typing import Any

from datasets import Value
from scipy.stats import ConstantInputWarning, NearConstantInputWarning, pearsonr, spearmanr
from sklearn.metrics import root_mean_squared_error

from hf_mtl.metrics.memory import MemoryMetric


class RegressionMetric(MemoryMetric):
    """`pearson`, `spearman` and `rmse`, from numbers.

    A correlation that is undefined (all predictions or all references equal, or a single row) is 0, so that a model
    which gives every row the same number has a score, and a low one. A prediction that is not finite is an error.
    """

    element = Value("float64")

    def measure(self, predictions: list[float], references: list[float]) -> dict[str, Any]:
        if not all(map(math.isfinite, predictions)):
            raise ValueError(
                "RegressionMetric was given a prediction that is not a finite number: has training diverged?"
            )
        return {
            "pearson": _correlation(pearsonr, references, predictions),
            "spearman": _correlation(spearmanr, references, predictions),
            "rmse": float(root_mean_squared_error(references, predictions)),
        }


def _correlation(function: Callable, references: list[float], predictions: list[float]) -> float:
    if len(references) < 2:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        warnings.simplefilter("ignore", NearConstantInputWarning)
        value = float(function(references, predictions).statistic)
    return value if math.isfinite(value) else 0.0
