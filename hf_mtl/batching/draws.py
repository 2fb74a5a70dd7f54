"""Which sequence comes next: the streams of draws, and whose turn it is.

All randomness is Philox's raw output under a key made of names and numbers: no state is kept, nothing global is
touched, and numpy keeps these streams from version to version (it does not for `Generator.permutation`), so that a
run resumed on another machine or numpy meets the same draws.
"""

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.integer]
STRATEGIES = ("proportional", "round_robin", "temperature", "weights")
BATCHES = ("mixed", "single_task")


@dataclass(frozen=True, eq=False)
class Unit:
    """What takes a turn: a data set, or one task of a data set where a step reads one task.

    Args:
        name: the data set's name, or "data set/task".
        dataset: the data set's name.
        place: the data set's place in the run.
        tasks: the tasks that its draws are read for.
        sequences: the data set's sequences it draws from, `[sequences]`.
    """

    name: str
    dataset: str
    place: int
    tasks: tuple[str, ...]
    sequences: Integers

    def __len__(self) -> int:
        return len(self.sequences)

    def draws(self, seed: int, start: int, stop: int) -> Integers:
        """The sequences of draws `start` to `stop` (exclusive), counted from the beginning of the run.

        Draw k stands at place k % n of the permutation of pass k // n, for n sequences: each pass is every sequence
        once, in an order of its own.
        """
        count = len(self)
        first, last = start // count, -(-stop // count)
        counters = -(-count // 4)
        numbers = random_bits((last - first) * counters * 4, seed, "pass", self.name, count, skip=first * counters)
        order = np.argsort(numbers.reshape(-1, counters * 4)[:, :count], axis=1, kind="stable").reshape(-1)
        return self.sequences[order[start - first * count : stop - first * count]]


def units(
    items: Mapping[str, Mapping[str, Integers]], active: Collection[str], batch: str = "mixed"
) -> tuple[Unit, ...]:
    """The units of a run, in the order of its data sets and tasks; those without a sequence are left out.

    Args:
        items: how many items each sequence has, `[sequences]`, by data set and task.
        active: the tasks that are trained.
        batch: "mixed", a unit a data set (its sequences with an item of any active task), or "single_task", a unit a
            data set and task (the data set's sequences with an item of that task).

    Raises:
        ValueError: an active task that no data set has, or counts of one data set that differ in length.
    """
    _check_items(items, active, batch)
    found = []
    for place, (dataset, counts) in enumerate(items.items()):
        tasks = tuple(task for task in counts if task in active)
        groups = [(task,) for task in tasks] if batch == "single_task" else [tasks] if tasks else []
        for group in groups:
            sequences = np.flatnonzero(np.any([np.asarray(counts[task]) > 0 for task in group], axis=0))
            if len(sequences):
                name = f"{dataset}/{group[0]}" if batch == "single_task" else dataset
                found.append(Unit(name, dataset, place, group, sequences))
    return tuple(found)


def _check_items(items: Mapping[str, Mapping[str, Integers]], active: Collection[str], batch: str) -> None:
    if batch not in BATCHES:
        raise ValueError(f"batch is {batch!r}; use one of {', '.join(BATCHES)}")
    known = [task for counts in items.values() for task in counts]
    unknown = [task for task in ([active] if isinstance(active, str) else active) if task not in known]
    if unknown or isinstance(active, str):
        raise ValueError(f"active names {', '.join(map(repr, unknown)) or active!r}; it is a collection of {known}")
    for dataset, counts in items.items():
        shapes = {task: np.shape(values) for task, values in counts.items()}
        if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
            raise ValueError(f"items of data set {dataset!r} must be vectors of one length; their shapes are {shapes}")


def random_bits(count: int, *key: int | str, skip: int = 0) -> NDArray[np.uint64]:
    """`count` random 64-bit numbers of the stream that `key` names, after the first 4 × `skip`."""
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    generator = np.random.Philox(np.random.SeedSequence(int.from_bytes(digest, "big")))
    return generator.advance(skip).random_raw(count)


def random_order(count: int, *key: int | str) -> NDArray[np.intp]:
    """A permutation of 0 … `count` - 1 that `key` alone determines."""
    return np.argsort(random_bits(count, *key), kind="stable")


def shares(
    units: Sequence[Unit],
    strategy: str,
    temperature: float | None = None,
    weights: Mapping[str, float] | None = None,
) -> list[Fraction]:
    """Each unit's share of the draws; they add up to exactly 1.

    Temperature gives n^(1/temperature), as multilingual BERT samples its languages. A data set's weight is split
    equally among its units.

    Raises:
        ValueError: a strategy that does not exist, a temperature or weights that it does not take or cannot use.
    """
    if temperature is not None and strategy != "temperature":
        raise ValueError(f"temperature is {temperature!r}; strategy {strategy!r} takes none")
    if weights is not None and strategy != "weights":
        raise ValueError(f"weights are {weights!r}; strategy {strategy!r} takes none")
    sizes = [len(unit) for unit in units]
    if strategy == "proportional":
        parts = [Fraction(size) for size in sizes]
    elif strategy == "round_robin":
        parts = [Fraction(1)] * len(units)
    elif strategy == "temperature":
        logs = [math.log(size) / _positive("temperature", temperature) for size in sizes]
        parts = [Fraction(math.exp(log - max(logs))) for log in logs]
    elif strategy == "weights":
        datasets = [unit.dataset for unit in units]
        given = {name: _positive(f"weights[{name!r}]", (weights or {}).get(name)) for name in datasets}
        parts = [Fraction(given[name]) / datasets.count(name) for name in datasets]
    else:
        raise ValueError(f"strategy is {strategy!r}; use one of {', '.join(STRATEGIES)}")
    return [part / sum(parts) for part in parts]


def _positive(name: str, value: float | None) -> float:
    if value is None or not 0 < value < math.inf:
        raise ValueError(f"{name} is {value!r}; it must be a number above 0")
    return float(value)


def quotas(shares: Sequence[Fraction], total: int) -> list[int]:
    """`total` divided by the shares, by largest remainder (the earlier unit where remainders are equal)."""
    exact = [share * total for share in shares]
    whole = [math.floor(quota) for quota in exact]
    by_remainder = sorted(range(len(exact)), key=lambda index: whole[index] - exact[index])
    for index in by_remainder[: total - sum(whole)]:
        whole[index] += 1
    return whole


def turns(counts: Sequence[int], *key: int | str) -> NDArray[np.intp]:
    """Whose turn it is: unit u `counts[u]` times, in a random order that `key` alone determines."""
    return np.repeat(np.arange(len(counts)), counts)[random_order(sum(counts), *key)]
