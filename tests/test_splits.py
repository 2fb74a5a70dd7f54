"""Shares cut from train: right in size, balanced, equal texts together, and a pure function of their arguments."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mtl.data.splits import CutError, cut_rows

TEXTS = [f"text {number}" for number in range(1000)]
LABELS = ["common"] * 900 + ["rare"] * 95 + ["few"] * 5


def test_shares_have_their_size_and_every_row_is_in_one():
    cut = cut_rows(TEXTS, None, {"validation": 0.1, "test": 0.25}, seed=1)
    assert {split: len(rows) for split, rows in cut.items()} == {"train": 650, "validation": 100, "test": 250}
    assert sorted(np.concatenate(list(cut.values()))) == list(range(1000))


def test_each_label_gives_its_share():
    cut = cut_rows(TEXTS, LABELS, {"validation": 0.2}, seed=1)
    assert Counter(LABELS[row] for row in cut["validation"]) == {"common": 180, "rare": 19, "few": 1}


def test_a_label_with_one_row_stays_in_train():
    labels = ["common"] * 990 + [f"single {number}" for number in range(10)]
    cut = cut_rows(TEXTS, labels, {"validation": 0.3}, seed=1)
    assert len(cut["validation"]) == 300
    assert {labels[row] for row in cut["validation"]} == {"common"}


def test_one_row_for_each_label_is_cut_without_labels():
    cut = cut_rows(TEXTS, TEXTS, {"validation": 0.1}, seed=1)
    assert len(cut["validation"]) == 100


def test_the_cut_is_the_same_each_time_and_another_with_another_seed():
    first, again, other = (cut_rows(TEXTS, LABELS, {"validation": 0.1}, seed)["validation"] for seed in (1, 1, 2))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_the_order_of_the_rows_does_not_matter():
    order = np.random.default_rng(0).permutation(1000)
    one = cut_rows(TEXTS, LABELS, {"validation": 0.1}, seed=3)["validation"]
    shuffled = [TEXTS[row] for row in order]
    two = cut_rows(shuffled, [LABELS[row] for row in order], {"validation": 0.1}, seed=3)["validation"]
    assert {TEXTS[row] for row in one} == {shuffled[row] for row in two}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4)), min_size=4, max_size=120),
    st.floats(0.05, 0.45),
    st.floats(0.05, 0.45),
    st.integers(0, 5),
)
def test_equal_texts_are_never_parted(rows, validation, test, seed):
    texts = [f"text {number}" for number, _ in rows]
    try:
        cut = cut_rows(texts, [label for _, label in rows], {"validation": validation, "test": test}, seed)
    except CutError:
        assert len(set(texts)) < 20
        return
    sides = [{texts[row] for row in indices} for indices in cut.values()]
    assert all(sides)
    assert sum(map(len, sides)) == len(set().union(*sides))
    assert sum(map(len, cut.values())) == len(rows)


def test_repeated_texts_count_as_rows():
    texts = [f"text {number % 250}" for number in range(1000)]
    cut = cut_rows(texts, None, {"validation": 0.1}, seed=0)
    assert abs(len(cut["validation"]) - 100) <= 2


def test_what_cannot_be_cut_is_refused_with_the_reason():
    with pytest.raises(CutError, match="validation: 0.1 cannot be cut from train: its 50 rows hold 1 different text"):
        cut_rows(["same"] * 50, None, {"validation": 0.1}, seed=0)
    with pytest.raises(CutError, match="no rows"):
        cut_rows([], None, {"validation": 0.1}, seed=0)


def test_a_tiny_share_is_one_row():
    assert len(cut_rows(TEXTS[:20], None, {"validation": 0.01}, seed=0)["validation"]) == 1
