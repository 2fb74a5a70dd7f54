"""The threshold of a multi-label task, chosen on validation."""

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import f1_score

CANDIDATES = tuple(percent / 100 for percent in range(5, 96))


def tune(scores: Sequence[Sequence[float]], references: Sequence[Sequence[int]]) -> float:
    """The threshold among 0.05, 0.06, …, 0.95 with the best `f1_micro`; of equal ones that nearest to 0.5.

    Args:
        scores: the sigmoid of every label, `[rows, labels]`; a label is predicted from the threshold on (>=).
        references: 1 for the labels that a row has, else 0, `[rows, labels]`.

    Raises:
        ValueError: if there are no rows.
    """
    if not len(scores):
        raise ValueError("A threshold is tuned on rows with labels; there are none.")
    # 32 bits as the model's own scores, so that one that equals a candidate falls on the same side as in evaluation.
    given, gold = np.asarray(scores, dtype=np.float32).ravel(), np.asarray(references).ravel()
    # Over (row, label) pairs laid side by side, the F1 of class 1 is the micro average.
    quality = {candidate: f1_score(gold, given >= candidate, zero_division=0) for candidate in CANDIDATES}
    return max(quality, key=lambda candidate: (quality[candidate], -abs(candidate - 0.5)))
