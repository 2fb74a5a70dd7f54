import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import f1_score

from hf_mtl.evaluation.score import score
from hf_mtl.evaluation.threshold import CANDIDATES, tune

METRICS = {
    "topic": {"f1_macro": 0.5, "accuracy": 0.9, "by_label": {}},
    "slots": {"f1": 0.2},
    "stars": {},
}
CHOICES = {"topic": "f1_macro", "slots": "f1", "stars": "spearman", "absent": "f1"}


def test_the_score_is_the_weighted_mean_of_the_chosen_metrics_of_tasks_with_rows():
    even = dict.fromkeys(CHOICES, 1.0)
    assert score(METRICS, CHOICES, even) == pytest.approx(0.35)
    assert score(METRICS, CHOICES, even | {"topic": 3.0}) == pytest.approx((3 * 0.5 + 0.2) / 4)
    assert score(METRICS, CHOICES | {"topic": "accuracy"}, even | {"slots": 0.0}) == pytest.approx(0.9)


def test_without_rows_or_weights_there_is_no_score():
    assert score({}, CHOICES, dict.fromkeys(CHOICES, 1.0)) is None
    assert score(METRICS, CHOICES, dict.fromkeys(CHOICES, 0.0) | {"stars": 1.0}) is None


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_the_tuned_threshold_is_the_best_candidate_and_the_nearest_to_a_half(data):
    shape = data.draw(st.integers(1, 6)), data.draw(st.integers(2, 3))
    unit = st.floats(0, 1, width=32)
    scores = data.draw(arrays.arrays(np.float32, shape, elements=unit))
    gold = data.draw(arrays.arrays(np.int64, shape, elements=st.integers(0, 1)))
    quality = {}
    for candidate in CANDIDATES:
        predicted = (scores >= np.float32(candidate)).astype(int)
        quality[candidate] = f1_score(gold, predicted, average="micro", zero_division=0)
    found = tune(scores.tolist(), gold.tolist())
    best = [candidate for candidate, value in quality.items() if value == pytest.approx(max(quality.values()))]
    assert found in best
    assert abs(found - 0.5) == pytest.approx(min(abs(candidate - 0.5) for candidate in best))


def test_tuning_without_rows_is_an_error():
    with pytest.raises(ValueError, match="there are none"):
        tune([], [])
