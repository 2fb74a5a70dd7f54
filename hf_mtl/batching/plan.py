"""Which sequences make which step: a pure function of the seed, the epoch and the draws so far.

Every process computes the same plan and reads its own part of each step, so nothing is sent between processes, and a
run resumed in the middle of an epoch computes that epoch's plan again and goes on where it stopped.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from hf_mtl.batching.draws import BATCHES, Integers, Unit, quotas, random_order, shares, turns
from hf_mtl.batching.pooling import pooled

Key = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Step:
    """The sequences of one optimizer step.

    Args:
        tasks: the tasks whose labels are read.
        sequences: (place of the data set, index of the sequence), longest sequence first, `[sequences, 2]`.
    """

    tasks: tuple[str, ...]
    sequences: Integers

    def __len__(self) -> int:
        return len(self.sequences)

    def micro_batches(self, rank: int, processes: int, per_device: int) -> list[Integers]:
        """What one process reads, `[at most per_device, 2]` each, longest sequences first.

        The step is cut into pieces of `per_device` × `processes`, and each piece is dealt in snake order (0, 1, 1, 0,
        …): every process gets as many micro-batches, with equal counts (±1; in a short step one may be empty) and
        nearly equal numbers of tokens.
        """
        _check_whole("per_device", per_device, 1)
        _check_whole("processes", processes, 1)
        _check_whole("rank", rank, 0)
        if rank >= processes:
            raise ValueError(f"rank is {rank}; of {processes} processes the last is {processes - 1}")
        size = per_device * processes
        pieces = [self.sequences[start : start + size] for start in range(0, len(self), size)]
        return [piece[dealt(len(piece), processes) == rank] for piece in pieces]


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """The steps of one epoch. A step is put together when it is asked for: `plan[5]`, `for step in plan`.

    Args:
        draws: how many draws each unit has made by the end of the epoch, to be handed to the next epoch's plan.
        places: the data set of each draw, `[draws]`.
        sequences: the sequence of each draw in its data set, `[draws]`.
        bounds: step i holds the draws from `bounds[i]` to `bounds[i + 1]`, `[steps + 1]`.
        readings: sets of tasks that are read together.
        reading: which of these each step reads, `[steps]`.
    """

    draws: dict[str, int]
    places: Integers
    sequences: Integers
    bounds: Integers
    readings: tuple[tuple[str, ...], ...]
    reading: Integers

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, index: int) -> Step:
        if not 0 <= index < len(self):
            raise IndexError(f"step {index} of an epoch of {len(self)} steps")
        part = slice(self.bounds[index], self.bounds[index + 1])
        tasks = self.readings[self.reading[index]]
        return Step(tasks, np.stack((self.places[part], self.sequences[part]), axis=1))

    def __iter__(self) -> Iterator[Step]:
        return (self[index] for index in range(len(self)))

    def largest(self, lengths: Sequence[Integers], per_device: int, processes: int) -> int:
        """The step with the largest padded micro-batch of a process; it is of the step's first piece.

        Args:
            lengths: as for `plan`.
            per_device: the most sequences of a micro-batch.
            processes: how many processes there are.
        """
        pieces = np.zeros(len(self.places), dtype=np.int64)
        for place, known in enumerate(lengths):
            own = self.places == place
            pieces[own] = np.asarray(known)[self.sequences[own]]
        widths = np.maximum.reduceat(pieces, self.bounds[:-1])
        counts = np.minimum(np.diff(self.bounds), per_device * processes)
        return int(np.argmax(widths * -(-counts // processes)))


def plan(
    seed: int,
    epoch: int,
    units: Sequence[Unit],
    draws_so_far: Mapping[str, int],
    lengths: Sequence[Integers],
    step_size: int,
    strategy: str = "proportional",
    *,
    temperature: float | None = None,
    weights: Mapping[str, float] | None = None,
    batch: str = "mixed",
    pool_size: int = 64,
) -> EpochPlan:
    """The steps of an epoch, the last short one included (with `single_task`, a short one a task).

    `proportional` is every sequence of every unit exactly once. The other strategies draw as many sequences as all
    units have: a unit goes on where it stopped in the epoch before, and starts a fresh permutation when used up. A
    step's size is that of all processes together; how many there are does not change the plan.

    Args:
        seed: the run's seed.
        epoch: the epoch's number, from 0.
        units: what takes turns, from `draws.units`.
        draws_so_far: how many draws each unit had made at the epoch's start, by unit name; absent ones made none.
        lengths: the pieces of each sequence, `[sequences]` a data set, in the order of the data sets' places.
        step_size: how many sequences a step has.
        strategy: proportional, round_robin, temperature or weights.
        temperature: of the strategy temperature: a unit of n sequences has the share n^(1/temperature).
        weights: of the strategy weights, by data set.
        batch: as in `draws.units`, which made the units.
        pool_size: so many steps are drawn together and cut by length; 1 leaves the draws in their order.

    Raises:
        ValueError: an argument that cannot be used; the message begins with its name.
    """
    _check(seed, epoch, units, draws_so_far, lengths, step_size, batch, pool_size)
    key = (int(seed), int(epoch))
    parts = shares(units, strategy, temperature, weights)
    if batch == "single_task":
        reading, sizes = _turns_by_step(units, step_size, strategy, parts, key)
        who, readings = np.repeat(reading, sizes), tuple(unit.tasks for unit in units)
    else:
        who, readings = _turns_by_draw(units, strategy, parts, key), (_all_tasks(units),)
        sizes = _sizes(len(who), step_size)
        reading = np.zeros(len(sizes), dtype=np.intp)

    draws, streams, pieces = dict(draws_so_far), [], []
    for unit, count in zip(units, np.bincount(who, minlength=len(units)).tolist(), strict=True):
        start = _start(unit, draws_so_far, strategy)
        stream = unit.draws(int(seed), start, start + count)
        piece = np.asarray(lengths[unit.place])[stream]
        if batch == "single_task":
            stream = stream[pooled(piece, step_size, pool_size, *key, unit.name)]
        streams.append(stream)
        pieces.append(piece)
        draws[unit.name] = start + count

    places = np.array([unit.place for unit in units], dtype=np.int32)[who]
    sequences = _interleaved(who, streams)
    if batch == "mixed":
        order = pooled(_interleaved(who, pieces), step_size, pool_size, *key)
        places, sequences = places[order], sequences[order]
    return EpochPlan(draws, places, sequences, np.concatenate(([0], np.cumsum(sizes))), readings, reading)


def count_steps(units: Sequence[Unit], step_size: int, strategy: str, batch: str) -> int:
    """How many steps an epoch has, without planning it."""
    apart = batch == "single_task" and strategy == "proportional"
    sizes = [len(unit) for unit in units] if apart else [sum(map(len, units))]
    return sum(-(-size // step_size) for size in sizes)


def dealt(count: int, processes: int) -> Integers:
    """The process of each of `count` things dealt in snake order: 0, 1, 1, 0, … for two, `[count]`.

    Of things that stand in the order of their sizes, every process gets as many (±1) and nearly as much.
    """
    lap, place = np.divmod(np.arange(count), processes)
    return np.where(lap % 2 == 0, place, processes - 1 - place)


def _turns_by_draw(units: Sequence[Unit], strategy: str, parts: Sequence[Fraction], key: Key) -> Integers:
    """The unit of each draw of an epoch."""
    total = sum(map(len, units))
    if strategy == "round_robin":
        return np.arange(total) % len(units)
    return turns(quotas(parts, total), *key, "turns")


def _turns_by_step(
    units: Sequence[Unit], step_size: int, strategy: str, parts: Sequence[Fraction], key: Key
) -> tuple[Integers, Integers]:
    """The unit and the size of each step of an epoch whose steps read one unit each."""
    if strategy == "proportional":
        full, short = np.divmod([len(unit) for unit in units], step_size)
        last = np.flatnonzero(short)
        last = last[random_order(len(last), *key, "short turns")]
        reading = np.concatenate((turns(full.tolist(), *key, "turns"), last))
        return reading, np.concatenate((np.full(full.sum(), step_size), short[last]))
    sizes = _sizes(sum(map(len, units)), step_size)
    if strategy == "round_robin":
        return np.arange(len(sizes)) % len(units), sizes
    return turns(quotas(parts, len(sizes)), *key, "turns"), sizes


def _sizes(total: int, step_size: int) -> Integers:
    return np.diff(np.append(np.arange(0, total, step_size), total))


def _all_tasks(units: Sequence[Unit]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(task for unit in units for task in unit.tasks))


def _start(unit: Unit, draws_so_far: Mapping[str, int], strategy: str) -> int:
    start = int(draws_so_far.get(unit.name, 0))
    if strategy == "proportional":
        # Other active tasks give a unit another number of sequences; a pass left unfinished by that is given up.
        return -(-start // len(unit)) * len(unit)
    return start


def _interleaved(who: Integers, streams: Sequence[Integers]) -> Integers:
    """The streams' values, each unit's in order, where its turns are."""
    result = np.empty(len(who), dtype=np.int64)
    for index, stream in enumerate(streams):
        result[who == index] = stream
    return result


def _check_whole(name: str, value: int, least: int | None) -> None:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or (least is not None and value < least):
        raise ValueError(f"{name} is {value!r}; it must be a whole number{'' if least is None else f' from {least}'}")


def _check(
    seed: int,
    epoch: int,
    units: Sequence[Unit],
    draws_so_far: Mapping[str, int],
    lengths: Sequence[Integers],
    step_size: int,
    batch: str,
    pool_size: int,
) -> None:
    _check_whole("seed", seed, None)
    _check_whole("epoch", epoch, 0)
    _check_whole("step_size", step_size, 1)
    _check_whole("pool_size", pool_size, 1)
    for name, draws in draws_so_far.items():
        _check_whole(f"draws_so_far[{name!r}]", draws, 0)
    if batch not in BATCHES:
        raise ValueError(f"batch is {batch!r}; use one of {', '.join(BATCHES)}")
    names = [unit.name for unit in units]
    if not names or len(set(names)) < len(names) or not all(map(len, units)):
        raise ValueError(f"units are {names}; one or more are needed, with different names and a sequence each")
    for unit in units:
        if batch == "single_task" and len(unit.tasks) != 1:
            raise ValueError(f"units: {unit.name!r} reads {list(unit.tasks)}; with batch {batch!r} a unit has one task")
        known = len(lengths[unit.place]) if 0 <= unit.place < len(lengths) else 0
        last = int(unit.sequences.max())
        if last >= known:
            raise ValueError(
                f"lengths has {known} sequences of data set {unit.dataset!r}; unit {unit.name!r} has {last}"
            )
