"""The parts of a step: which of its sequences go to which process, in which micro-batch."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mtl.batching.draws import STRATEGIES, units
from hf_mtl.batching.plan import plan
from tests.plans import PLANS, active, corpus, options_of, pairs, planned, realistic


@given(PLANS, st.integers(1, 4), st.integers(1, 4), st.sampled_from(STRATEGIES))
@settings(max_examples=60, deadline=None)
def test_the_processes_parts_of_a_step_are_the_step(arguments, processes, per_device, strategy):
    sizes = arguments.pop("sizes")
    for step in planned(sizes, strategy=strategy, **arguments, **options_of(strategy, sizes)):
        parts = [step.micro_batches(rank, processes, per_device) for rank in range(processes)]
        assert len({len(part) for part in parts}) == 1
        assert len(parts[0]) == -(-len(step) // (per_device * processes))
        together = Counter(pair for part in parts for batch in part for pair in pairs(batch))
        assert together == Counter(pairs(step.sequences))
        for batches in zip(*parts, strict=True):
            counts = [len(batch) for batch in batches]
            assert max(counts) <= per_device
            assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_processes_get_nearly_equal_tokens(processes):
    taking_turns, lengths = realistic()
    for pool_size in (1, 64):
        for step in list(plan(0, 0, taking_turns, {}, lengths, 48, pool_size=pool_size))[:-1]:
            parts = [step.micro_batches(rank, processes, 4) for rank in range(processes)]
            for batches in zip(*parts, strict=True):
                found = [np.array([lengths[place][index] for place, index in batch]) for batch in batches]
                tokens = [each.sum() for each in found]
                assert max(tokens) - min(tokens) <= max(map(max, found)) - min(map(min, found))


def test_a_piece_is_dealt_in_snake_order_longest_first():
    items, _ = corpus([12])
    found = plan(0, 0, units(items, active(items)), {}, [np.arange(12, 0, -1)], 12)
    first, second = (found[0].micro_batches(rank, 2, 4) for rank in range(2))
    assert [batch[:, 1].tolist() for batch in first] == [[0, 3, 4, 7], [8, 11]]
    assert [batch[:, 1].tolist() for batch in second] == [[1, 2, 5, 6], [9, 10]]


def test_a_short_step_may_leave_a_process_an_empty_micro_batch():
    found = planned([9], step_size=8)
    parts = [found[1].micro_batches(rank, 2, 4) for rank in range(2)]
    assert [[batch.shape for batch in part] for part in parts] == [[(1, 2)], [(0, 2)]]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("rank", (2, 2, 4)), ("rank", (-1, 2, 4)), ("processes", (0, 0, 4)), ("per_device", (0, 1, 0))],
)
def test_micro_batches_of_a_process_that_does_not_exist_are_refused(name, arguments):
    with pytest.raises(ValueError, match=f"^{name}"):
        planned([9])[0].micro_batches(*arguments)
