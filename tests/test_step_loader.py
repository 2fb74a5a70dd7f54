"""The step loader: what a process reads of an epoch."""

import random

import numpy as np
import pytest
import torch

from hf_mtl.batching.collator import Collator
from hf_mtl.batching.draws import units
from hf_mtl.batching.plan import plan
from hf_mtl.batching.step_loader import step_loader
from hf_mtl.tasks.spec import TaskSpec
from hf_mtl.tasks.types import build_task

SIZES = {"a": 23, "b": 18}
LABELS = [str(number) for number in range(100)]


class Rows:
    """Sequences in memory: number i of data set a says 100 + i, of b 200 + i, and its label is i."""

    def __init__(self, place, name, size):
        self.sequences = [
            {
                "input_ids": [1] + [100 * (place + 1) + index] * (1 + index % 7),
                f"{name}_task.label": index,
                f"{name}_task.items": 1,
            }
            for index in range(size)
        ]

    def take(self, indices):
        assert all(type(index) is int for index in indices)
        return [self.sequences[index] for index in indices]


@pytest.fixture
def run():
    sources = [Rows(place, name, size) for place, (name, size) in enumerate(SIZES.items())]
    tasks = {
        f"{name}_task": build_task(
            TaskSpec(
                name=f"{name}_task",
                task_type="text-classification",
                problem_type="single_label_classification",
                label_list=LABELS,
            )
        )
        for name in SIZES
    }
    items = {name: {f"{name}_task": np.ones(size, dtype=np.int32)} for name, size in SIZES.items()}
    lengths = [np.array([len(sequence["input_ids"]) for sequence in source.sequences]) for source in sources]

    def made(batch="mixed"):
        return plan(7, 0, units(items, tasks, batch), {}, lengths, 8, batch=batch, pool_size=2)

    return made, sources, Collator(0, 0, tasks)


def equal(one, two):
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(equal(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(equal, one, two))
    return torch.equal(one, two)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_process_reads_its_micro_batches_of_every_step(run, processes):
    made, sources, collator = run
    epoch = made()
    for rank in range(processes):
        loader = step_loader(epoch, sources, collator, rank=rank, processes=processes, per_device=2)
        read = list(loader)
        assert len(read) == len(loader) == len(epoch) == 6
        for step, batches in zip(epoch, read, strict=True):
            parts = step.micro_batches(rank, processes, 2)
            wanted = [
                collator([sources[place].sequences[index] for place, index in part], step.tasks) for part in parts
            ]
            assert equal(batches, wanted)


def test_an_epoch_reads_every_row_once_with_its_own_label(run):
    made, sources, collator = run
    seen = []
    for rank in range(2):
        for batches in step_loader(made(), sources, collator, rank=rank, processes=2, per_device=3):
            for batch in batches:
                for place, name in enumerate(SIZES):
                    rows, labels = batch["rows"][f"{name}_task"], batch["labels"][f"{name}_task"]["labels"]
                    for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
                        assert batch["input_ids"][row, 1] == 100 * (place + 1) + label
                        seen.append((name, label))
    assert sorted(seen) == [(name, index) for name, size in SIZES.items() for index in range(size)]


def test_a_step_of_one_task_gives_the_other_tasks_no_rows(run):
    made, sources, collator = run
    for (batch,) in step_loader(made("single_task"), sources, collator, per_device=8):
        assert sorted(len(rows) > 0 for rows in batch["rows"].values()) == [False, True]


def test_a_resumed_epoch_goes_on_with_the_step_it_stopped_before(run):
    made, sources, collator = run
    whole = list(step_loader(made(), sources, collator, per_device=4))
    assert equal(list(step_loader(made(), sources, collator, per_device=4, start=2)), whole[2:])
    assert list(step_loader(made(), sources, collator, per_device=4, start=6)) == []


@pytest.mark.parametrize("num_workers", [0, 2])
def test_reading_touches_no_global_random_state(run, num_workers):
    made, sources, collator = run
    torch.manual_seed(1)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    read = list(step_loader(made(), sources, collator, per_device=4, num_workers=num_workers))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]
    assert equal(read, list(step_loader(made(), sources, collator, per_device=4)))
