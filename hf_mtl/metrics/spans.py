"""Metrics of a tagging task whose tags mark spans."""

from typing import Any

from datasets import List, Value
from seqeval.metrics import accuracy_score
from seqeval.metrics.sequence_labeling import get_entities, precision_recall_fscore_support

from hf_mtl.metrics.memory import MemoryMetric, table


class SpanMetric(MemoryMetric):
    """`precision`, `recall`, `f1` of spans, `accuracy` of tags and `by_label` by type of span, from lists of BIO tags.

    Counted by seqeval in its default mode (that of CoNLL's `conlleval`, where a span may open with I-) and over all
    spans together (micro). `by_label` has the types that occur in the references or the predictions; 0 stands for what
    a division by zero leaves undefined.
    """

    element = List(Value("string"))

    def measure(self, predictions: list[list[str]], references: list[list[str]]) -> dict[str, Any]:
        if not any(references):
            raise ValueError("SpanMetric needs at least one tag; all of the rows it was given are empty.")
        precision, recall, f1, _ = precision_recall_fscore_support(
            references, predictions, average="micro", zero_division=0
        )
        types = sorted({entity[0] for entity in [*get_entities(references), *get_entities(predictions)]})
        columns = precision_recall_fscore_support(references, predictions, average=None, zero_division=0)
        return {
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "accuracy": float(accuracy_score(references, predictions)),
            "by_label": table(types, columns),
        }
