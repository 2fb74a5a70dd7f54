"""Small corpora and their plans, for the tests of draws, plans and pools."""

from collections import Counter
from dataclasses import fields

import numpy as np
from hypothesis import strategies as st

from hf_mtl.batching.draws import units
from hf_mtl.batching.plan import EpochPlan, plan

MEANS = {"chat": 25, "tweets": 18, "news": 60}
PLANS = st.fixed_dictionaries(
    {
        "sizes": st.lists(st.integers(1, 50), min_size=1, max_size=4),
        "seed": st.integers(0, 2**40),
        "epoch": st.integers(0, 100),
        "step_size": st.integers(1, 13),
        "pool_size": st.integers(1, 5),
        "batch": st.sampled_from(["mixed", "single_task"]),
    }
)


def corpus(sizes, tasks=1):
    """Items and lengths of data sets a, b, c, …; data set a has the tasks a0, a1, …."""
    names = [chr(ord("a") + place) for place in range(len(sizes))]
    numbers = np.random.default_rng(sum(sizes))
    items = {
        name: {f"{name}{task}": np.ones(size, dtype=np.int32) for task in range(tasks)}
        for name, size in zip(names, sizes, strict=True)
    }
    return items, [numbers.integers(3, 70, size=size) for size in sizes]


def active(items):
    return [task for tasks in items.values() for task in tasks]


def planned(
    sizes, *, seed=0, epoch=0, draws=None, step_size=8, strategy="proportional", batch="mixed", pool_size=1, **options
):
    items, lengths = corpus(sizes)
    taking_turns = units(items, active(items), batch)
    return plan(
        seed,
        epoch,
        taking_turns,
        draws or {},
        lengths,
        step_size,
        strategy,
        batch=batch,
        pool_size=pool_size,
        **options,
    )


def options_of(strategy, sizes):
    weights = {chr(ord("a") + place): place + 1 for place in range(len(sizes))}
    return {"temperature": {"temperature": 2.0}, "weights": {"weights": weights}}.get(strategy, {})


def pairs(draws):
    return [tuple(pair) for pair in draws.tolist()]


def drawn(epoch_plan):
    return list(zip(epoch_plan.places.tolist(), epoch_plan.sequences.tolist(), strict=True))


def same(one, two):
    return all(
        np.array_equal(getattr(one, field.name), getattr(two, field.name))
        if isinstance(getattr(one, field.name), np.ndarray)
        else getattr(one, field.name) == getattr(two, field.name)
        for field in fields(EpochPlan)
    )


def everything(sizes):
    return Counter((place, index) for place, size in enumerate(sizes) for index in range(size))


def realistic():
    numbers = np.random.default_rng(5)
    lengths = [(2 + numbers.gamma(4, (mean - 2) / 4, 3000)).astype(np.int32) for mean in MEANS.values()]
    items = {name: {f"{name}_task": np.ones(3000, dtype=np.int32)} for name in MEANS}
    return units(items, active(items)), lengths


def in_a_row(count, taking_turns, lengths, step_size, **arguments):
    draws = {}
    for epoch in range(count):
        found = plan(0, epoch, taking_turns, draws, lengths, step_size, **arguments)
        draws = found.draws
        yield found


def lengths_of(step, lengths):
    return np.array([lengths[place][index] for place, index in step.sequences])


def padding(found, lengths):
    by_step = [lengths_of(step, lengths) for step in found]
    return 1 - sum(each.sum() for each in by_step) / sum(each.max() * len(each) for each in by_step)
