"""The course of a run: the same steps from any position on, on any number of processes, with tasks paused or not."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import datasets
import pytest
import torch

from hf_mtl.batching.collator import Batch, Collator
from hf_mtl.config import load_config
from hf_mtl.data.preparation import Prepared, prepare
from hf_mtl.training.course import Course
from hf_mtl.training.early_stopping import EarlyStopping
from hf_mtl.training.position import Position
from tests.test_step_loader import equal
from tests.tiny import TEXTS, tiny_tokenizer

TASKS = ("topic", "names", "mood")
WORDS = re.findall(r"\w+", TEXTS[0] + TEXTS[1])
STRATEGIES: dict[str, dict[str, Any]] = {
    "proportional": {},
    "round_robin": {},
    "temperature": {"temperature": 3.0},
    "weights": {"weights": {"mail": 1.0, "notes": 3.0}},
}


@dataclass(frozen=True)
class Processes:
    """What a course asks of Accelerate."""

    num_processes: int = 1
    process_index: int = 0
    device: torch.device = torch.device("cpu")


def rows(count: int, first: int) -> list[dict[str, Any]]:
    """Rows of 3 to 9 words and one of 12, no two the same; those of mail lack the topic, the names, or neither."""
    made = []
    for number in range(first, first + count):
        tokens = [WORDS[number % 19], WORDS[number // 19], *WORDS[: 10 if number == 5 else 1 + number % 7]]
        made.append(
            {
                "tokens": tokens,
                "topic": None if number % 3 == 0 else f"t{number % 2}",
                "tags": None if number % 3 == 1 else ["B-x" if word == "a" else "O" for word in tokens],
                "mood": f"m{number % 3}",
            }
        )
    return made


def make_config(**changes: Any) -> Any:
    run = {
        "encoder": "tiny",
        "max_length": 32,
        "datasets": {"mail": {"tokens_column": "tokens"}, "notes": {"tokens_column": "tokens"}},
        "tasks": {
            "topic": {"task_type": "text-classification", "dataset": "mail", "label_column": "topic"},
            "names": {"task_type": "token-classification", "dataset": "mail", "label_column": "tags"},
            "mood": {"task_type": "text-classification", "dataset": "notes", "label_column": "mood"},
        },
        "sampling": {"pool_size": 2, **changes.pop("sampling", {})},
        "training": {
            "output_dir": "out",
            "per_device_train_batch_size": 4,
            "num_train_epochs": 3,
            "early_stopping": "per_task",
            **changes,
        },
    }
    return load_config(run)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    """24 rows with one or two tasks, and 13 with a third: 9 steps of 4 and one of a single row."""
    memory = {
        name: datasets.DatasetDict(train=datasets.Dataset.from_list(made))
        for name, made in (("mail", rows(24, 0)), ("notes", rows(13, 40)))
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield prepare(make_config(), tiny_tokenizer(), memory=memory)


def make_course(prepared: Prepared, processes: int = 1, rank: int = 0, **changes: Any) -> Course:
    collator = Collator(0, 0, prepared.tasks)
    return Course(make_config(**changes), prepared.split("train"), collator, Processes(processes, rank))


def never(course: Course) -> EarlyStopping:
    """Early stopping that has not paused anything."""
    return EarlyStopping(course.training, course.tasks)


def read(batches: list[Batch]) -> list[tuple[Any, ...]]:
    """What a process reads of a step: each sequence's pieces with the tasks that read it, in the batches' order."""
    return [
        (tuple(ids[: int(mask.sum())].tolist()), *(task for task in TASKS if row in batch["rows"][task]))
        for batch in batches
        for row, (ids, mask) in enumerate(zip(batch["input_ids"], batch["attention_mask"], strict=True))
        if mask.sum() > 1  # one piece alone stands for no row
    ]


def follow(course: Course, position: Position, stopping: EarlyStopping) -> Iterator[tuple[Position, list[Batch]]]:
    """The steps from a position on; more than any run here has would be an endless run."""
    return islice(course.steps(position, stopping), 100)


def whole(course: Course) -> list[tuple[Position, list[Batch]]]:
    return list(follow(course, course.start(), never(course)))


def test_an_epoch_reads_every_row_once_with_all_its_labels(prepared):
    steps = whole(make_course(prepared, num_train_epochs=1))
    found = sorted(row for _, batches in steps for row in read(batches))
    assert len(found) == 37
    assert len({pieces for pieces, *_ in found}) == 37
    counts = {task: sum(task in tasks for _, *tasks in found) for task in TASKS}
    assert counts == {"topic": 16, "names": 16, "mood": 13}


@pytest.mark.parametrize("batch", ["mixed", "single_task"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_steps_from_any_position_on_are_the_end_of_the_whole_run(prepared, strategy, batch):
    sampling = {"strategy": strategy, "batch": batch, **STRATEGIES[strategy]}
    course = make_course(prepared, sampling=sampling, num_train_epochs=2.5)
    steps = whole(course)
    assert [position.step for position, _ in steps] == list(range(1, course.total_steps + 1))
    assert [position for position, _ in steps if position.is_last(course.training)] == [steps[-1][0]]
    assert {position.epoch for position, _ in steps} == {0, 1, 2}
    for done in range(len(steps) + 1):
        position = steps[done - 1][0] if done else course.start()
        saved = json.loads(json.dumps(position.to_json()))
        again = make_course(prepared, sampling=sampling, num_train_epochs=2.5)
        tail = list(follow(again, Position.from_json(saved), never(again)))
        assert [position for position, _ in tail] == [position for position, _ in steps[done:]]
        assert equal([batches for _, batches in tail], [batches for _, batches in steps[done:]])


def test_a_data_set_goes_on_in_the_next_epoch_where_it_stopped(prepared):
    sampling = {"strategy": "weights", "weights": {"mail": 1.0, "notes": 3.0}, "pool_size": 1}
    read_of_mail: list[Any] = []
    for _, batches in whole(make_course(prepared, sampling=sampling)):
        read_of_mail += [pieces for pieces, *tasks in read(batches) if "mood" not in tasks]
        assert len(set(read_of_mail)) == min(len(read_of_mail), 24)
    assert len(read_of_mail) > 24


@pytest.mark.parametrize("done", [0, 4, 9, 13])
@pytest.mark.parametrize("batch", ["mixed", "single_task"])
def test_another_number_of_processes_reads_the_same_steps(prepared, batch, done):
    sampling = {"strategy": "temperature", "temperature": 2.0, "batch": batch}
    course = make_course(prepared, sampling=sampling, num_train_epochs=2, per_device_train_batch_size=6)
    steps = whole(course)
    for processes, per_device in ((1, 2), (2, 3), (3, 2), (4, 1)):
        ranks = []
        for rank in range(processes):
            own = make_course(prepared, processes, rank, sampling=sampling, num_train_epochs=2)
            own.per_device, own.step_size = per_device, course.step_size  # as a resumed run keeps it
            position = steps[done - 1][0] if done else own.start()
            ranks.append(list(own.steps(position, never(own))))
        assert {len(found) for found in ranks} == {len(steps) - done}
        for (position, batches), *parts in zip(steps[done:], *ranks, strict=True):
            assert [found for found, _ in parts] == [position] * processes
            assert sorted(row for _, part in parts for row in read(part)) == sorted(read(batches))
            assert len({len(part) for _, part in parts}) == 1
            assert max(len(one["input_ids"]) for _, part in parts for one in part) <= per_device


def test_processes_and_accumulation_make_the_step_larger(prepared):
    assert make_course(prepared).step_size == 4
    assert make_course(prepared, 3, gradient_accumulation_steps=2).step_size == 24


def test_a_fraction_of_an_epoch_ends_within_it_at_the_step_that_was_typed(prepared):
    assert make_course(prepared).steps_per_epoch == 10
    for tenths in range(1, 30):
        course = make_course(prepared, num_train_epochs=tenths / 10)
        assert len(whole(course)) == course.total_steps == tenths
    course = make_course(prepared, num_train_epochs=1.01)
    assert len(whole(course)) == course.total_steps == 11


@pytest.mark.parametrize("max_steps", [1, 9, 20])
def test_max_steps_takes_the_place_of_epochs(prepared, max_steps):
    course = make_course(prepared, max_steps=max_steps, num_train_epochs=1)
    steps = whole(course)
    assert len(steps) == course.total_steps == max_steps
    longer = whole(make_course(prepared, num_train_epochs=3))
    assert equal([batches for _, batches in steps], [batches for _, batches in longer[:max_steps]])


def pause(stopping: EarlyStopping, *tasks: str) -> None:
    for _ in range(2):
        stopping.update(None, dict.fromkeys(tasks, 0.5))
    assert set(tasks) <= set(stopping.paused)


def rejoin(stopping: EarlyStopping, *tasks: str) -> None:
    stopping.update(None, dict.fromkeys(tasks, 0.25))
    assert not set(tasks) & set(stopping.paused)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_paused_task_is_not_read_from_the_next_step_on_and_not_drawn_from_the_next_epoch_on(prepared, workers):
    course = make_course(prepared, dataloader_num_workers=workers)
    plain, stopping, steps = whole(course), never(course), []
    for position, batches in follow(course, course.start(), stopping):
        steps.append((position, batches))
        if position.step == 3:
            pause(stopping, "topic")
    for number, ((position, batches), (same, unpaused)) in enumerate(zip(steps[:10], plain, strict=False)):
        assert position == same
        assert read(batches) == [tuple(x for x in row if number < 3 or x != "topic") for row in read(unpaused)]
    assert {position.epoch_steps for position, _ in steps[10:]} == {8}
    assert {position.active for position, _ in steps[10:]} == {("names", "mood")}
    assert {position.epoch for position, _ in steps} == {0, 1, 2}
    assert steps[-1][0].step == 26 < course.total_steps
    for epoch in (1, 2):
        found = [row for position, batches in steps if position.epoch == epoch for row in read(batches)]
        # Eight rows say something about the topic alone.
        assert len(found) == len(set(found)) == 29
        assert {task for _, *tasks in found for task in tasks} == {"names", "mood"}


def test_a_task_that_rejoins_is_read_at_once_where_the_plan_has_it_and_else_from_the_next_epoch_on(prepared):
    course = make_course(prepared)
    plain, stopping, steps = whole(course), never(course), []
    for position, batches in follow(course, course.start(), stopping):
        steps.append((position, batches))
        if position.step in (3, 8):
            pause(stopping, "topic")
        if position.step in (6, 12):
            rejoin(stopping, "topic")
    assert [read(batches) for _, batches in steps[6:8]] == [read(batches) for _, batches in plain[6:8]]
    by_epoch = [
        {task for after, batches in steps if after.epoch == epoch for _, *tasks in read(batches) for task in tasks}
        for epoch in range(3)
    ]
    assert by_epoch == [set(TASKS), {"names", "mood"}, set(TASKS)]
    assert len([row for position, batches in steps if position.epoch == 2 for row in read(batches)]) == 37


CHANGES = {3: (pause, "topic"), 6: (rejoin, "topic"), 7: (pause, "names"), 13: (pause, "topic"), 16: (rejoin, "names")}


@pytest.mark.parametrize("batch", ["mixed", "single_task"])
def test_the_steps_after_a_pause_are_the_same_in_a_resumed_run(prepared, batch):
    sampling = {"strategy": "round_robin", "batch": batch}

    def run(position: dict[str, Any] | None, paused: dict[str, Any] | None) -> list[Any]:
        """Each step's batches, with the position and the early stopping that a checkpoint after it would hold."""
        course = make_course(prepared, sampling=sampling)
        stopping, steps = never(course), []
        if paused is not None:
            stopping.load(json.loads(json.dumps(paused)))
        start = course.start() if position is None else Position.from_json(json.loads(json.dumps(position)))
        for after, batches in follow(course, start, stopping):
            if after.step in CHANGES:
                change, task = CHANGES[after.step]
                change(stopping, task)
            steps.append((after.to_json(), json.loads(json.dumps(stopping.to_json())), batches))
        return steps

    steps = run(None, None)
    assert len({position["active"] for position, _, _ in steps}) == 3
    for done, (position, paused, _) in enumerate(steps, start=1):
        tail = run(position, paused)
        assert [saved for *saved, _ in tail] == [saved for *saved, _ in steps[done:]]
        assert equal([batches for *_, batches in tail], [batches for *_, batches in steps[done:]])


@pytest.mark.parametrize(("mode", "end"), [("overall", 3), ("overall", 10), ("per_task", 5), ("per_task", 20)])
def test_the_run_ends_when_the_score_gains_no_more_or_every_task_is_paused(prepared, mode, end):
    course = make_course(prepared, early_stopping=mode)
    stopping, done = never(course), 0
    for position, _ in follow(course, course.start(), stopping):
        done = position.step
        for _ in range(2 if done == end else 0):
            stopping.update(0.5, dict.fromkeys(TASKS, 0.5))
    assert done == end
    assert list(course.steps(position, stopping)) == []


@pytest.mark.parametrize("longest_in_short_step", [False, True])
@pytest.mark.parametrize("per_device", [1, 2, 4])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_largest_micro_batch_is_the_largest_of_its_epoch_and_the_same_on_every_process(
    prepared, processes, per_device, longest_in_short_step
):
    first = make_course(prepared)
    for epoch in range(500):
        position = Position(0, epoch, 0, 10, {"mail": 24 * epoch, "notes": 13 * epoch}, TASKS)
        widths = [
            first.lengths[place][row] for place, row in (step.sequences[0] for step in first.epoch_plan(position))
        ]
        if (widths[-1] == max(widths)) == longest_in_short_step:
            break
    found, sizes = [], []
    for rank in range(processes):
        course = make_course(prepared, processes, rank, num_train_epochs=epoch + 1)
        course.per_device, course.step_size = per_device, first.step_size
        steps = [batches for _, batches in follow(course, position, never(course))]
        sizes += [batch["input_ids"].numel() for batches in steps for batch in batches]
        found.append(course.largest_micro_batch(position, per_device))
    assert found[0]["input_ids"].numel() >= max(sizes)
    assert found[0]["input_ids"].numel() == max(sizes) or processes == 3  # whose shares of a step of 4 differ
    assert all(equal(found[0], other) for other in found)
