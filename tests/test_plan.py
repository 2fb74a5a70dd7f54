"""The plan: which sequences make which step."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mtl.batching.draws import STRATEGIES, Unit, units
from hf_mtl.batching.plan import count_steps, plan
from tests.plans import (
    PLANS,
    active,
    corpus,
    drawn,
    everything,
    options_of,
    pairs,
    planned,
    same,
)

# Shares


@pytest.mark.parametrize("batch", ["mixed", "single_task"])
@pytest.mark.parametrize("pool_size", [1, 3])
def test_temperature_shares_draws_by_the_root_of_the_size(batch, pool_size):
    found = planned([900, 100], strategy="temperature", temperature=2.0, batch=batch, step_size=10, pool_size=pool_size)
    assert Counter(found.places.tolist()) == {0: 750, 1: 250}


def test_weights_share_draws_as_given_whatever_the_sizes():
    found = planned([70, 900, 30], strategy="weights", weights={"a": 2, "b": 1, "c": 5})
    assert Counter(found.places.tolist()) == {0: 250, 1: 125, 2: 625}


def test_a_data_sets_weight_is_split_equally_among_its_tasks():
    items, lengths = corpus([80, 80], tasks=2)
    del items["b"]["b1"]
    taking_turns = units(items, active(items), "single_task")
    found = plan(
        0, 0, taking_turns, {}, lengths, 2, "weights", weights={"a": 1, "b": 1}, batch="single_task", pool_size=3
    )
    assert Counter(step.tasks for step in found) == {("a0",): 30, ("a1",): 30, ("b0",): 60}


def test_who_draws_when_is_shuffled_by_seed_and_epoch():
    orders = [planned([50, 50], seed=seed, epoch=epoch).places.tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert all(20 < sum(order[:50]) < 30 for order in orders)


def test_round_robin_takes_strict_turns_in_the_order_of_the_data_sets():
    found = planned([50, 5, 20], strategy="round_robin", step_size=6)
    assert all(Counter(step.sequences[:, 0].tolist()) == {0: 2, 1: 2, 2: 2} for step in list(found)[:-1])
    found = planned([50, 5, 20], strategy="round_robin", step_size=1)
    assert found.places.tolist() == [0, 1, 2] * 25


def test_round_robin_of_single_task_takes_turns_by_step():
    found = planned([50, 5, 20], strategy="round_robin", step_size=6, batch="single_task")
    assert [step.tasks for step in found] == [("a0",), ("b0",), ("c0",)] * 4 + [("a0",)]
    assert [len(step) for step in found] == [6] * 12 + [3]


# Epochs


@given(PLANS)
@settings(max_examples=60, deadline=None)
def test_proportional_is_every_sequence_exactly_once_the_short_steps_included(arguments):
    sizes = arguments.pop("sizes")
    found = planned(sizes, **arguments)
    for processes in (1, 2, 3):
        read = Counter(
            pair
            for step in found
            for rank in range(processes)
            for batch in step.micro_batches(rank, processes, per_device=2)
            for pair in pairs(batch)
        )
        assert read == everything(sizes)


@given(PLANS, st.lists(st.integers(0, 500), min_size=4, max_size=4))
@settings(max_examples=40, deadline=None)
def test_proportional_is_every_sequence_exactly_once_whatever_was_drawn_before(arguments, before):
    # Another number of active tasks may have left a unit anywhere.
    sizes = arguments.pop("sizes")
    names = [chr(ord("a") + place) for place in range(len(sizes))]
    names += [f"{name}/{name}0" for name in names]
    found = planned(sizes, draws=dict(zip(names, before * 2, strict=False)), **arguments)
    assert Counter(drawn(found)) == everything(sizes)


@given(PLANS, st.sampled_from(STRATEGIES))
@settings(max_examples=60, deadline=None)
def test_an_epoch_has_as_many_sequences_as_the_units_and_only_full_steps_before_the_short_ones(arguments, strategy):
    sizes = arguments.pop("sizes")
    found = planned(sizes, strategy=strategy, **arguments, **options_of(strategy, sizes))
    lengths = [len(step) for step in found]
    assert sum(lengths) == sum(sizes)
    full = lengths.count(arguments["step_size"])
    assert lengths[:full] == [arguments["step_size"]] * full
    shorts = len(lengths) - full
    apart = arguments["batch"] == "single_task" and strategy == "proportional"
    assert shorts == (sum(size % arguments["step_size"] > 0 for size in sizes) if apart else shorts)
    assert apart or shorts <= 1
    items, _ = corpus(sizes)
    taking_turns = units(items, active(items), arguments["batch"])
    assert count_steps(taking_turns, arguments["step_size"], strategy, arguments["batch"]) == len(found)


@pytest.mark.parametrize("batch", ["mixed", "single_task"])
@pytest.mark.parametrize("strategy", ["round_robin", "temperature", "weights"])
def test_small_sets_start_fresh_permutations_and_large_ones_go_on_in_the_next_epoch(strategy, batch):
    sizes = [200, 7]
    draws, seen = {}, {0: [], 1: []}
    for epoch in range(5):
        found = planned(
            sizes, epoch=epoch, draws=draws, strategy=strategy, batch=batch, step_size=1, **options_of(strategy, sizes)
        )
        for place, sequence in drawn(found):
            seen[place].append(sequence)
        draws = found.draws
    assert list(draws.values()) == [len(seen[0]), len(seen[1])]
    for place, size in enumerate(sizes):
        passes = [tuple(seen[place][start : start + size]) for start in range(0, len(seen[place]), size)]
        assert len(passes) > 1
        assert all(sorted(order) == list(range(size)) for order in passes[:-1])
        assert len(set(passes)) > 0.9 * len(passes)  # two of 7! orders may be the same
        assert len(set(passes[-1])) == len(passes[-1])


@given(PLANS, st.sampled_from(STRATEGIES))
@settings(max_examples=40, deadline=None)
def test_an_epoch_planned_alone_from_its_draws_equals_the_one_planned_after_the_others(arguments, strategy):
    sizes = arguments.pop("sizes")
    arguments |= {"strategy": strategy, **options_of(strategy, sizes)}
    arguments.pop("epoch")
    draws, kept = {}, []
    for epoch in range(3):
        kept.append((epoch, draws, planned(sizes, epoch=epoch, draws=draws, **arguments)))
        draws = kept[-1][2].draws
    for epoch, start, before in reversed(kept):
        assert same(planned(sizes, epoch=epoch, draws=start, **arguments), before)


@pytest.mark.parametrize("batch", ["mixed", "single_task"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_seed_and_epoch_change_the_plan_and_the_same_arguments_do_not(strategy, batch):
    arguments = {"strategy": strategy, "batch": batch, "pool_size": 2, **options_of(strategy, [90, 40])}
    first = planned([90, 40], **arguments)
    assert same(first, planned([90, 40], **arguments))
    assert drawn(first) != drawn(planned([90, 40], seed=1, **arguments))
    assert drawn(first) != drawn(planned([90, 40], epoch=1, **arguments))


def test_draws_of_units_that_do_not_take_part_are_handed_on():
    assert planned([5], draws={"gone": 3, "a": 5}).draws == {"gone": 3, "a": 10}


def test_planning_touches_no_global_random_state_and_no_argument():
    items, lengths = corpus([40, 30])
    taking_turns, draws = units(items, active(items)), {"a": 40}
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    found = plan(0, 1, taking_turns, draws, lengths, 8)
    for step in found:
        step.micro_batches(0, 2, 2)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
    assert draws == {"a": 40}
    assert taking_turns[0].sequences.tolist() == list(range(40))


def test_a_step_of_single_task_reads_one_task_of_one_data_set_and_only_sequences_with_an_item_of_it():
    numbers = np.random.default_rng(0)
    items = {name: {f"{name}{task}": numbers.integers(0, 2, 60) for task in range(2)} for name in "ab"}
    lengths = [numbers.integers(3, 40, 60) for _ in items]
    for strategy in ("proportional", "round_robin", "temperature"):
        found = plan(
            0,
            0,
            units(items, active(items), "single_task"),
            {},
            lengths,
            7,
            strategy,
            **options_of(strategy, [60, 60]),
            batch="single_task",
            pool_size=3,
        )
        read = Counter()
        for step in found:
            (task,) = step.tasks
            assert {"ab"[place] for place in step.sequences[:, 0]} == {task[0]}
            assert all(items[task[0]][task][index] for index in step.sequences[:, 1])
            read.update((task, index) for index in step.sequences[:, 1].tolist())
        if strategy == "proportional":
            assert read == Counter(
                (task, index)
                for name in "ab"
                for task, counts in items[name].items()
                for index in np.flatnonzero(counts)
            )


def test_proportional_steps_of_single_task_alternate_at_random_and_the_short_ones_come_last_in_any_order():
    epochs = [planned([101, 102, 103], epoch=epoch, step_size=5, batch="single_task") for epoch in range(6)]
    for found in epochs:
        assert sorted(len(step) for step in list(found)[-3:]) == [1, 2, 3]
        orders = [step.tasks for step in found][:60]
        assert sum(one != two for one, two in zip(orders, orders[1:], strict=False)) > 25
    assert len({tuple(len(step) for step in list(found)[-3:]) for found in epochs}) > 2


def test_a_mixed_step_reads_all_active_tasks():
    items, lengths = corpus([20, 20], tasks=2)
    found = plan(0, 0, units(items, ["a0", "b0", "b1"]), {}, lengths, 8)
    assert {step.tasks for step in found} == {("a0", "b0", "b1")}


# Hard input


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("seed", {"seed": 0.5}),
        ("epoch", {"epoch": -1}),
        ("step_size", {"step_size": 0}),
        ("step_size", {"step_size": 8.0}),
        ("pool_size", {"pool_size": 0}),
        ("strategy", {"strategy": "random"}),
        ("temperature", {"strategy": "temperature"}),
        ("temperature", {"strategy": "temperature", "temperature": 0}),
        ("temperature", {"strategy": "temperature", "temperature": float("nan")}),
        ("temperature", {"temperature": 2}),
        ("weights", {"strategy": "weights"}),
        ("weights", {"strategy": "weights", "weights": {"a": 1}}),
        ("weights", {"strategy": "weights", "weights": {"a": 1, "b": 0}}),
        ("weights", {"weights": {"a": 1, "b": 1}}),
        ("draws_so_far", {"draws_so_far": {"a": -1}}),
        ("units", {"units": ()}),
        ("units", {"units": [Unit("a", "a", 0, ("t",), np.arange(3))] * 2}),
        ("units", {"units": [Unit("a", "a", 0, ("t",), np.arange(0))]}),
        ("units", {"units": [Unit("a", "a", 0, ("t", "u"), np.arange(3))], "batch": "single_task"}),
        ("lengths", {"lengths": [np.ones(10)]}),
        ("lengths", {"lengths": [np.ones(10), np.ones(9)]}),
        ("batch", {"batch": "both"}),
    ],
)
def test_hard_input_is_refused_by_the_name_of_the_argument(name, change):
    items, lengths = corpus([10, 10])
    arguments = {
        "seed": 0,
        "epoch": 0,
        "units": units(items, active(items)),
        "draws_so_far": {},
        "lengths": lengths,
        "step_size": 4,
    }
    with pytest.raises(ValueError, match=f"^{name}"):
        plan(**(arguments | change))


def test_steps_beyond_the_epoch_are_refused():
    found = planned([9], step_size=8)
    assert len(list(found)) == len(found) == 2
    with pytest.raises(IndexError):
        found[2]
