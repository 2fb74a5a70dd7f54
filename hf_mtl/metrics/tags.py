"""Metrics of a tagging task whose tags stand each for itself, such as parts of speech."""

from typing import Any

from datasets import List, Value
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support
from sklearn.utils.multiclass import unique_labels

from hf_mtl.metrics.memory import MemoryMetric, table


class TagMetric(MemoryMetric):
    """`accuracy`, `f1_macro` and `by_label` of the tags of all rows together, from lists of tags.

    As in scikit-learn the macro average runs over the tags that occur in the references or the predictions, and those
    are the tags in `by_label`; 0 stands for what a division by zero leaves undefined.
    """

    element = List(Value("string"))

    def measure(self, predictions: list[list[str]], references: list[list[str]]) -> dict[str, Any]:
        pairs = [pair for row in zip(references, predictions, strict=True) for pair in zip(*row, strict=True)]
        if not pairs:
            raise ValueError("TagMetric needs at least one tag; all of the rows it was given are empty.")
        gold, predicted = zip(*pairs, strict=True)
        tags = unique_labels(gold, predicted)
        columns = precision_recall_fscore_support(gold, predicted, labels=tags, average=None, zero_division=0)
        return {
            "accuracy": float(accuracy_score(gold, predicted)),
            "f1_macro": float(f1_score(gold, predicted, average="macro", zero_division=0)),
            "by_label": table([str(tag) for tag in tags], columns),
        }
