"""Rows find their way to their tasks' adapters, and the states back to their tasks."""

import copy
import random
import threading
from typing import Any

import pytest
import torch

from hf_mtl.modeling.lanes import NO_ROUTE, Lanes
from tests.adapted import rows_of

CPU = torch.device("cpu")
ROWS = rows_of(a=[4, 0], b=[3, 0, 2], c=[], d=[3])
WAYS = {
    "a lane each": {"a": "a", "b": "b", "c": "c", "d": "d"},
    "two share a lane": {"a": "x", "b": "x", "c": "c", "d": "d"},
    "one has no adapter": {"a": "a", "b": "", "c": "c", "d": ""},
    "one lane for all": dict.fromkeys("abcd", "x"),
    "no adapters": dict.fromkeys("abcd", ""),
}


def states(rows: int = 5) -> torch.Tensor:
    """States of so many rows, each unlike the others."""
    return torch.arange(rows * 6.0).view(rows, 2, 3)


def copies(lanes: Lanes) -> torch.Tensor:
    """What the encoder would give: the states of the rows as the route says."""
    index = lanes.index()
    return states() if index is None else states()[index]


@pytest.mark.parametrize("tasks", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("asked", ["abcd", "ca", "d", "cb"])
def test_each_task_gets_the_states_of_its_rows_in_their_order(tasks, asked):
    lanes = Lanes(tasks)
    found = lanes.take(ROWS, 5, list(asked), CPU).split(copies(lanes))
    assert list(found) == list(asked)
    for task in asked:
        assert torch.equal(found[task], states()[ROWS[task]])


@pytest.mark.parametrize("tasks", WAYS.values(), ids=WAYS)
def test_without_a_list_of_rows_every_task_gets_all(tasks):
    lanes = Lanes(tasks)
    found = lanes.take(None, 5, list("abcd"), CPU).split(copies(lanes))
    assert all(torch.equal(found[task], states()) for task in "abcd")


def test_any_batch_on_any_lanes_finds_its_way():
    draw = random.Random(0)
    for _ in range(200):
        tasks = {task: draw.choice(["", "x", "y", task]) for task in "abcd"}
        rows = rows_of(**{task: draw.sample(range(5), draw.randint(0, 5)) for task in "abcd"})
        asked = draw.sample("abcd", draw.randint(1, 4))
        lanes = Lanes(tasks)
        shares = lanes.take(rows, 5, asked, CPU)
        index, total = lanes.index(), sum(count for _, count in lanes.route.slices)
        assert {lane for lane, _ in lanes.route.slices} == {tasks[task] for task in asked}
        assert (5 if index is None else len(index)) == max(total, 1)
        found = shares.split(copies(lanes))
        assert all(torch.equal(found[task], states()[rows[task]]) for task in asked), (tasks, rows, asked)


def test_a_row_stands_once_in_each_lane_that_reads_it():
    lanes = Lanes({"a": "x", "b": "x", "c": "c", "d": "d"})
    lanes.take(ROWS, 5, list("abcd"), CPU)
    assert lanes.route.slices == (("x", 4), ("c", 0), ("d", 1))
    assert lanes.index().tolist() == [0, 2, 3, 4, 3]


def test_where_there_is_one_lane_no_row_is_copied():
    for tasks, asked in ((WAYS["one lane for all"], "abcd"), (WAYS["a lane each"], "b")):
        lanes = Lanes(tasks)
        lanes.take(ROWS, 5, list(asked), CPU)
        assert lanes.index() is None
        assert [count for _, count in lanes.route.slices] == [5]


def test_a_batch_that_feeds_no_task_has_one_row_that_is_no_lane_s():
    lanes = Lanes(WAYS["a lane each"])
    nothing = rows_of(a=[], b=[], c=[], d=[])
    found = lanes.take(nothing, 1, list("abcd"), CPU).split(states(1))
    assert lanes.index().tolist() == [0]
    assert lanes.route.slices == (("a", 0), ("b", 0), ("c", 0), ("d", 0))
    assert all(value.shape == (0, 2, 3) for value in found.values())


def test_a_lane_has_the_adapter_of_its_name_or_those_that_are_said():
    assert Lanes({"a": "x", "b": ""}).adapters == {"x": ("x",), "": ()}
    assert Lanes({"a": "a", "b": "b"}, {"a": ("shared", "a")}).adapters == {"a": ("shared", "a"), "b": ("b",)}


def elsewhere(action: Any) -> Any:
    """What an action gives in a thread of its own."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(action()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_threads_that_answer_have_a_route_each(context):
    lanes = Lanes(WAYS["a lane each"])

    def other() -> list[Any]:
        with context():
            before = lanes.route
            lanes.take(ROWS, 5, ["d"], CPU)
            return [before, lanes.route.slices]

    with context():
        lanes.take(ROWS, 5, ["a", "b"], CPU)
        assert elsewhere(other) == [NO_ROUTE, (("d", 5),)]
        assert lanes.route.slices == (("a", 2), ("b", 3))


def test_in_training_the_route_is_the_model_s_in_every_thread():
    """The backward pass may run in a thread of its own, and compute states once more there."""
    lanes = Lanes(WAYS["a lane each"])
    lanes.take(ROWS, 5, ["a", "b"], CPU)
    assert elsewhere(lambda: lanes.route.slices) == (("a", 2), ("b", 3))

    def answer() -> None:
        with torch.inference_mode():
            lanes.take(ROWS, 5, ["d"], CPU)

    elsewhere(answer)
    assert lanes.route.slices == (("a", 2), ("b", 3))


def test_a_pass_without_gradients_that_is_run_again_with_them_finds_its_route():
    """Checkpointing of the older kind runs the layers without gradients first."""
    lanes = Lanes(WAYS["a lane each"])
    lanes.take(ROWS, 5, ["a", "b"], CPU)
    with torch.no_grad():
        assert lanes.route.slices == (("a", 2), ("b", 3))


def test_models_do_not_see_one_another_s_routes():
    with torch.inference_mode():
        one, other = Lanes(WAYS["a lane each"]), Lanes(WAYS["a lane each"])
        one.take(ROWS, 5, ["a", "b"], CPU)
        assert other.route == NO_ROUTE
        assert copy.deepcopy(one).route == NO_ROUTE
        assert one.route.slices == (("a", 2), ("b", 3))


@pytest.mark.parametrize("gradients", [True, False])
def test_a_route_can_be_left(gradients):
    lanes = Lanes(WAYS["a lane each"])
    with torch.set_grad_enabled(gradients):
        lanes.take(ROWS, 5, ["a", "b"], CPU)
        lanes.leave()
        assert lanes.route == NO_ROUTE
        assert lanes.index() is None
