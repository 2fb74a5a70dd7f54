"""How a step is spread over processes and micro-batches changes no number, and no process waits or drifts away."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from tests.distributed.launch import work_together
from tests.distributed.same_numbers import OPTIMIZERS, STEPS, TASKS, WAYS, names, work, write_inputs

OTHER_WAYS = {"1x8x4": "1x32x1", "2x16x1": "1x32x1", "4x8x1": "1x32x1", "3x11x1": "1x33x1"}
"""Way → the same step on one process at once, each processes x per_device_train_batch_size x accumulation."""
CASES = [(way, name) for way in OTHER_WAYS for name in names(*map(int, way.split("x")))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("same_numbers")
    write_inputs(folder)
    work(folder, 1)
    work_together("tests.distributed.same_numbers", folder, *list(WAYS)[1:])
    return folder


@pytest.fixture(scope="module")
def parameters(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Way → case → all parameters as one vector."""
    return {file.stem: load_file(file) for file in folder.glob("*x*x*.safetensors")}


@pytest.fixture(scope="module")
def histories(folder: Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Way → case → the objects of history.jsonl."""
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("*x*x*.json")}


@pytest.mark.parametrize(("way", "case"), [(way, name) for way, name in CASES if name.endswith("sgd")])
def test_the_parameters_do_not_depend_on_how_a_step_is_spread(parameters, way, case):
    one, other = parameters[OTHER_WAYS[way]][case], parameters[way][case]
    assert (other - one).norm() < 1e-6 * one.norm()
    assert (other - one).abs().max() < 1e-5


@pytest.mark.parametrize(("way", "case"), CASES)
def test_the_losses_do_not_depend_on_how_a_step_is_spread(histories, way, case):
    one, other = histories[OTHER_WAYS[way]][case], histories[way][case]
    assert [entry["step"] for entry in one] == list(range(1, STEPS + 1))
    for before, after in zip(one, other, strict=True):
        assert after["loss"] == pytest.approx(before["loss"], abs=1e-4)
        assert after["task_loss"] == pytest.approx(before["task_loss"], abs=1e-4)
        assert after["rows_seen"] == before["rows_seen"]


def test_the_comparison_could_fail(parameters, histories):
    """Training moves the parameters far beyond the tolerance, each case to a place of its own."""
    assert len(parameters) == sum(map(len, WAYS.values()))
    for way, found in parameters.items():
        cases = names(*map(int, way.split("x")))
        assert found.keys() == {*cases, *(f"{case} before" for case in cases)}
        for case in cases:
            assert (found[case] - found[f"{case} before"]).norm() > 1e-2 * found[case].norm(), (way, case)
        ends = [found[case] for case in cases if case.endswith("sgd") and not case.startswith("one_left")]
        for number, end in enumerate(ends):
            assert all((end - other).norm() > 1e-3 * end.norm() for other in ends[:number])
    for runs in histories.values():
        norms = [entry["grad_norm"] for entry in runs["proportional mixed sgd"]]
        assert min(norms) < OPTIMIZERS["sgd"]["max_grad_norm"] < max(norms)


def test_the_rows_are_those_the_comparison_is_about(histories):
    """A short step and an epoch's end are among the steps, and the last step of one_left has one sequence."""
    for runs in histories.values():
        for name, entries in runs.items():
            assert entries[-1]["epoch"] > 1, name
        assert set(runs["proportional mixed sgd"][-1]["rows_seen"]) == set(TASKS)
        assert min(runs["proportional mixed sgd"][-1]["rows_seen"].values()) > 0
        first, second, *_ = runs["one_left adamw"]
        assert second["epoch"] == 1
        assert max(second["rows_seen"][task] - first["rows_seen"][task] for task in first["rows_seen"]) == 1


@pytest.mark.parametrize("processes", WAYS)
def test_a_task_moves_if_and_only_if_some_process_has_an_item_of_it(folder, processes):
    found = json.loads((folder / f"absent_{processes}.json").read_text(encoding="utf-8"))
    moved = {step: {part for part, yes in parts.items() if yes and part != "agree"} for step, parts in found.items()}
    assert moved == {
        "every task everywhere": {"encoder", "topic", "names"},
        "no names": {"encoder", "topic"},
        "names on the first process only": {"encoder", "topic", "names"},
        "rows on the first process only": {"encoder", "topic", "names"},
        "names alone, on the first process only": {"encoder", "names"},
        "no rows": set(),
    }


def test_all_processes_halve_what_one_has_no_memory_for_and_none_waits_for_it(folder):
    told = [json.loads((folder / f"fit_{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]
    assert told == [{"processes": 2, "size": 4}] * 2


@pytest.mark.parametrize("processes", WAYS)
def test_all_processes_have_the_same_weights_after_every_step(folder, processes):
    found = json.loads((folder / f"absent_{processes}.json").read_text(encoding="utf-8"))
    assert [step for step, parts in found.items() if not parts["agree"]] == []
