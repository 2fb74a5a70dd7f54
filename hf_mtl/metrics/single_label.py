"""Metrics of a text classification where a row has one label."""

from typing import Any

from datasets import Value
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, precision_recall_fscore_support
from sklearn.utils.multiclass import unique_labels

from hf_mtl.metrics.memory import MemoryMetric, table


class SingleLabelMetric(MemoryMetric):
    """`accuracy`, `f1_macro`, `f1_micro`, `precision`, `recall` (both macro), `mcc` and `by_label`, from label ids.

    As in scikit-learn a macro average runs over the labels that occur in the references or the predictions, and those
    are the labels in `by_label`; 0 stands for what a division by zero leaves undefined.
    """

    element = Value("int64")

    def measure(self, predictions: list[int], references: list[int]) -> dict[str, Any]:
        ids = unique_labels(references, predictions)
        columns = precision_recall_fscore_support(references, predictions, labels=ids, average=None, zero_division=0)
        precision, recall, f1_macro, _ = precision_recall_fscore_support(
            references, predictions, average="macro", zero_division=0
        )
        return {
            "accuracy": float(accuracy_score(references, predictions)),
            "f1_macro": float(f1_macro),
            "f1_micro": float(f1_score(references, predictions, average="micro", zero_division=0)),
            "precision": float(precision),
            "recall": float(recall),
            # With one label all over mcc is undefined and 0, but scikit-learn warns about its confusion matrix.
            "mcc": float(matthews_corrcoef(references, predictions)) if len(ids) > 1 else 0.0,
            "by_label": table([self.label_list[index] for index in ids], columns),
        }
