"""The streams of draws, the units that make them, and their shares."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_mtl.batching.draws import Unit, quotas, shares, units
from tests.plans import (
    drawn,
    planned,
)

GOLDEN_DRAWS = [8, 1, 4, 9, 5, 2, 6, 0, 7, 3, 7, 8, 4, 9, 1, 0, 3, 5, 6, 2]
GOLDEN_PLAN = [(0, 0), (1, 1), (1, 0), (0, 1), (0, 2)]


@given(st.integers(1, 30), st.integers(0, 200), st.integers(0, 100), st.integers(0, 5))
def test_a_draw_does_not_depend_on_which_draws_are_asked_for(size, start, count, seed):
    unit = Unit("a", "a", 0, ("a0",), np.arange(size))
    assert np.array_equal(unit.draws(seed, start, start + count), unit.draws(seed, 0, start + count)[start:])


def test_every_pass_is_a_permutation_of_its_own():
    unit = Unit("a", "a", 0, ("a0",), np.arange(50, 90))
    passes = unit.draws(3, 0, 40 * 20).reshape(20, 40)
    assert all(sorted(order) == list(range(50, 90)) for order in passes.tolist())
    assert len({tuple(order) for order in passes.tolist()}) == 20
    assert not np.array_equal(unit.draws(4, 0, 40), passes[0])


def test_every_order_of_a_pass_comes_up_equally_often():
    unit = Unit("a", "a", 0, ("a0",), np.arange(3))
    counts = Counter(map(tuple, unit.draws(0, 0, 3 * 6000).reshape(-1, 3).tolist()))
    assert len(counts) == 6
    assert max(abs(count - 1000) for count in counts.values()) < 120


def test_two_units_of_the_same_size_draw_in_different_orders():
    one, two = (Unit(name, name, 0, ("t",), np.arange(40)) for name in ("a", "b"))
    assert not np.array_equal(one.draws(0, 0, 40), two.draws(0, 0, 40))


def test_the_draws_of_a_seed_stay_what_they_are():
    # On another machine, another numpy or with another hash seed a resumed run must meet these same draws.
    unit = Unit("数据", "数据", 0, ("t",), np.arange(10))
    assert unit.draws(42, 0, 20).tolist() == GOLDEN_DRAWS
    assert drawn(planned([3, 2], seed=42, step_size=2, pool_size=2)) == GOLDEN_PLAN


# Units


def test_a_unit_has_the_sequences_with_an_item_of_an_active_task():
    items = {"a": {"x": np.array([1, 0, 0, 3]), "y": np.array([0, 2, 0, 1])}, "b": {"z": np.array([0, 0])}}
    (unit,) = units(items, ["x", "y", "z"])
    assert (unit.name, unit.place, unit.tasks, unit.sequences.tolist()) == ("a", 0, ("x", "y"), [0, 1, 3])
    (unit,) = units(items, ["y"])
    assert (unit.tasks, unit.sequences.tolist()) == (("y",), [1, 3])


def test_a_unit_of_single_task_is_a_task_of_a_data_set():
    items = {"empty": {"w": np.zeros(3)}, "a": {"x": np.array([1, 0, 0, 3]), "y": np.array([0, 2, 0, 1])}}
    found = units(items, ["w", "x", "y"], "single_task")
    assert [(unit.name, unit.dataset, unit.place, unit.tasks) for unit in found] == [
        ("a/x", "a", 1, ("x",)),
        ("a/y", "a", 1, ("y",)),
    ]
    assert [unit.sequences.tolist() for unit in found] == [[0, 3], [1, 3]]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("active", ({"a": {"x": np.ones(2)}}, ["y"])),
        ("active", ({"a": {"x": np.ones(2)}}, "x")),
        ("items", ({"a": {"x": np.ones(2), "y": np.ones(3)}}, ["x"])),
        ("batch", ({"a": {"x": np.ones(2)}}, ["x"], "both")),
    ],
)
def test_units_that_cannot_be_made_name_the_argument(name, arguments):
    with pytest.raises(ValueError, match=f"^{name}"):
        units(*arguments)


# Shares


def test_quotas_are_exact_by_largest_remainder():
    assert quotas([Fraction(1, 2), Fraction(1, 3), Fraction(1, 6)], 10) == [5, 3, 2]
    assert quotas([Fraction(1, 3)] * 3, 10) == [4, 3, 3]


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=6), st.integers(0, 10**6), st.floats(0.05, 50))
def test_quotas_add_up_and_differ_from_the_shares_by_less_than_one(sizes, total, temperature):
    taking_turns = [Unit(str(size), str(size), 0, ("t",), range(size)) for size in sizes]
    parts = shares(taking_turns, "temperature", temperature)
    found = quotas(parts, total)
    assert sum(found) == total
    assert all(abs(quota - part * total) < 1 for quota, part in zip(found, parts, strict=True))
