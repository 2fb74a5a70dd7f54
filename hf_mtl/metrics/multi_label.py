"""Metrics of a text classification where a row has any number of labels."""

from typing import Any

import numpy as np
from datasets import List, Value
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from hf_mtl.metrics.memory import MemoryMetric, table


class MultiLabelMetric(MemoryMetric):
    """`exact_match`, `f1_micro`, `f1_macro` and `by_label`, from a list of 0 and 1 a row, a place for each label.

    As in scikit-learn the macro average runs over all labels of `label_list`: one that neither occurs nor is predicted
    counts as 0.
    """

    element = List(Value("int64"))

    def measure(self, predictions: list[list[int]], references: list[list[int]]) -> dict[str, Any]:
        gold, predicted = np.asarray(references), np.asarray(predictions)
        labels = list(range(len(self.label_list)))
        if len(labels) == 1:  # scikit-learn takes a single column for the two classes 0 and 1: ask for class 1 alone
            gold, predicted, labels = gold[:, 0], predicted[:, 0], [1]
        given = {"labels": labels, "zero_division": 0}
        return {
            "exact_match": float(accuracy_score(gold, predicted)),
            "f1_micro": float(f1_score(gold, predicted, average="micro", **given)),
            "f1_macro": float(f1_score(gold, predicted, average="macro", **given)),
            "by_label": table(self.label_list, precision_recall_fscore_support(gold, predicted, average=None, **given)),
        }
