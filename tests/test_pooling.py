"""Pooling: steps of sequences of like length that still mix data sets."""

from collections import Counter

import numpy as np
import pytest

from hf_mtl.batching.draws import units
from hf_mtl.batching.plan import plan
from tests.plans import active, corpus, drawn, in_a_row, lengths_of, padding, pairs, realistic


def test_pooling_lowers_padding_and_keeps_the_draws():
    taking_turns, lengths = realistic()
    plain, pooled = (plan(0, 0, taking_turns, {}, lengths, 32, pool_size=pool) for pool in (1, 64))
    assert Counter(drawn(plain)) == Counter(drawn(pooled))
    assert padding(plain, lengths) > 0.5
    assert padding(pooled, lengths) < 0.07


def test_pooled_steps_mix_data_sets_where_their_lengths_overlap_and_differ_every_epoch():
    taking_turns, lengths = realistic()
    epochs = list(in_a_row(2, taking_turns, lengths, 32, pool_size=64))
    mixed = [np.mean([len(set(step.sequences[:, 0].tolist())) > 1 for step in found]) for found in epochs]
    assert min(mixed) > 0.8
    made = [{tuple(sorted(pairs(step.sequences))) for step in found} for found in epochs]
    assert len(made[0] & made[1]) == 0


@pytest.mark.parametrize("strategy", ["proportional", "round_robin"])
def test_draws_of_equal_length_are_mixed_in_a_pool(strategy):
    items, _ = corpus([400, 400])
    lengths = [np.full(400, 9), np.full(400, 9)]
    found = plan(0, 0, units(items, active(items)), {}, lengths, 20, strategy, pool_size=10)
    assert all(3 <= step.sequences[:, 0].sum() <= 17 for step in found)


@pytest.mark.parametrize("pool_size", [64, 1000])
def test_pooled_steps_are_not_in_the_order_of_their_lengths(pool_size):
    taking_turns, lengths = realistic()
    found = plan(0, 0, taking_turns, {}, lengths, 32, pool_size=pool_size)
    longest = [lengths_of(step, lengths).max() for step in found][:64]
    assert abs(np.corrcoef(longest, range(64))[0, 1]) < 0.4


def test_the_longest_steps_come_at_any_place_of_an_epoch():
    taking_turns, lengths = realistic()
    places = [
        np.argmax([lengths_of(step, lengths).max() for step in found])
        for found in in_a_row(8, taking_turns, lengths, 32, pool_size=1000)
    ]
    assert len(set(places)) > 5


def test_the_short_step_comes_last_and_is_of_any_length():
    items, lengths = corpus([83])
    places = []
    for found in in_a_row(60, units(items, active(items)), lengths, 20, pool_size=8):
        assert [len(step) for step in found] == [20, 20, 20, 20, 3]
        means = [lengths_of(step, lengths).mean() for step in found]
        places.append(sorted(means).index(means[-1]))
    assert set(places) == {0, 1, 2, 3, 4}
    assert max(Counter(places).values()) < 30
