"""A checkpoint is whole or not there, whatever happens while it is written."""

import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from hf_mtl.errors import UserError
from hf_mtl.training.checkpoint import Checkpoints

TENSORS = {"model": {"a": torch.arange(3.0)}, "random": {"0.torch": torch.arange(5, dtype=torch.uint8)}}
LARGE = {"model": {"a": torch.zeros(100_000)}}
CHANGES = {"os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir"}
ENOUGH = 10_000
"""Bytes that a file may have on the small disk: more than TENSORS and the state of these tests need."""


def steps(checkpoints: Checkpoints) -> list[int]:
    return [found.step for found in checkpoints.all()]


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_what_is_saved_comes_back(tmp_path):
    checkpoints = Checkpoints(tmp_path / "out" / "checkpoints")
    assert checkpoints.newest() is None
    state = {"epoch": 1, "draws": {"中": 3}, "rate": 0.1, "best": None}
    assert checkpoints.save(7, TENSORS, state) == checkpoints.newest()
    found = checkpoints.newest()
    assert found.step == 7
    assert found.path == tmp_path / "out" / "checkpoints" / "step-00000007"
    for name, tensors in TENSORS.items():
        assert found.tensors(name).keys() == tensors.keys()
        assert all(torch.equal(found.tensors(name)[key], tensor) for key, tensor in tensors.items())
    assert found.tensors("best") == {}
    assert found.state == state


def test_nothing_but_safetensors_and_json_is_written(tmp_path):
    made = Checkpoints(tmp_path).save(1, TENSORS, {})
    assert names(made.path) == ["model.safetensors", "random.safetensors", "state.json"]
    assert names(tmp_path) == ["step-00000001"]


def test_only_the_newest_are_kept_and_the_order_is_that_of_the_steps(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2)
    for step in (99_999_998, 99_999_999, 100_000_000):
        checkpoints.save(step, TENSORS, {})
    assert steps(checkpoints) == [99_999_999, 100_000_000]
    assert names(tmp_path) == ["step-100000000", "step-99999999"]


def test_without_a_limit_all_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 3):
        checkpoints.save(step, TENSORS, {}, keep=3)
    assert steps(checkpoints) == [1, 2, 3]


def test_the_best_is_kept_beside_the_newest_until_another_is_the_best(tmp_path):
    checkpoints, left = Checkpoints(tmp_path, 2), []
    for step, best in ((1, 1), (2, 1), (3, 1), (4, 1), (5, 5), (6, 5), (7, 5)):
        checkpoints.save(step, TENSORS, {}, keep=best)
        left.append(steps(checkpoints))
    assert left == [[1], [1, 2], [1, 2, 3], [1, 3, 4], [4, 5], [5, 6], [5, 6, 7]]


def test_a_checkpoint_of_the_same_step_is_left_as_it_is(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, TENSORS, {"first": True})
    assert checkpoints.save(1, {}, {"first": False}).state == {"first": True}
    assert torch.equal(checkpoints.newest().tensors("model")["a"], TENSORS["model"]["a"])


def test_tensors_that_are_written_already_are_linked_and_outlive_the_checkpoint_they_were_written_for(tmp_path):
    checkpoints = Checkpoints(tmp_path, 1)
    # "best" is named before and after the file it is a link to.
    first = checkpoints.save(1, TENSORS | {"best": Path("model.safetensors")}, {})
    again = checkpoints.save(2, {"best": Path("another.safetensors"), "another": TENSORS["model"]}, {})
    assert os.path.samefile(again.file("best"), again.file("another"))
    assert not first.path.exists()
    third = checkpoints.save(3, {"model": {"a": torch.ones(3)}, "best": again.file("best")}, {})
    assert steps(checkpoints) == [3]
    assert third.file("best").stat().st_nlink == 1
    assert torch.equal(third.tensors("best")["a"], TENSORS["model"]["a"])
    assert torch.equal(third.tensors("model")["a"], torch.ones(3))


def test_a_link_takes_no_room(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    first = checkpoints.save(1, TENSORS | {"best": Path("model.safetensors")}, {})
    assert os.path.samefile(first.file("best"), first.file("model"))
    second = checkpoints.save(2, TENSORS | {"best": first.file("best")}, {})
    assert os.path.samefile(second.file("best"), first.file("model"))


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="needs a second file system")
def test_where_there_can_be_no_link_the_file_is_copied(tmp_path):
    elsewhere = Path("/dev/shm") / f"hf_mtl_{os.getpid()}"
    if Path("/dev/shm").stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    try:
        first = Checkpoints(elsewhere).save(1, TENSORS, {})
        second = Checkpoints(tmp_path).save(2, {"best": first.file("model")}, {})
    finally:
        shutil.rmtree(elsewhere)
    assert torch.equal(second.tensors("best")["a"], TENSORS["model"]["a"])


def kill_at(moment: int, folder: Path, save: Callable[[Path], None]) -> bool:
    """Saves in a process that is killed right before its so many-th change of a file; False if it has fewer."""
    child = os.fork()
    if not child:
        left = moment

        def count(event: str, arguments: tuple) -> None:
            nonlocal left
            if event in CHANGES or (event == "open" and str(folder) in str(arguments[0])):
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1

        try:
            signal.alarm(120)  # a child that hangs fails the test
            sys.addaudithook(count)
            save(folder)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def save_second(folder: Path) -> None:
    """What is killed: the second checkpoint, with a link, after which the first is removed."""
    checkpoints = Checkpoints(folder, 1)
    first = checkpoints.newest()
    checkpoints.save(2, {"model": {"a": torch.ones(3)}, "best": first.file("model")}, {"done": 2})


def test_a_run_killed_at_any_moment_of_saving_leaves_whole_checkpoints_alone(tmp_path):
    newest, moment, killed = [], 0, True
    while killed:
        folder = tmp_path / str(moment)
        Checkpoints(folder).save(1, TENSORS, {"done": 1})
        killed = kill_at(moment, folder, save_second)
        checkpoints = Checkpoints(folder, 1)
        newest.append(checkpoints.newest().step)
        for found in checkpoints.all():
            assert found.state == {"done": found.step}
            wanted = TENSORS["model"]["a"] if found.step == 1 else torch.ones(3)
            assert torch.equal(found.tensors("model")["a"], wanted)
            assert found.step == 1 or torch.equal(found.tensors("best")["a"], TENSORS["model"]["a"])
        checkpoints.clean()
        assert names(folder) == [found.path.name for found in checkpoints.all()]
        if checkpoints.newest().step == 1:
            save_second(folder)
        assert checkpoints.newest().state == {"done": 2}
        moment += 1
    assert newest == sorted(newest)
    assert set(newest) == {1, 2}
    assert newest.count(1) > 5
    assert newest.count(2) > 3


def test_all_of_them_can_be_cleared(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.clear()
    checkpoints.save(1, TENSORS, {})
    os.rename(checkpoints.save(2, TENSORS, {}).path, tmp_path / ".deleting-step-00000002")
    checkpoints.save(3, TENSORS, {})
    checkpoints.clear()
    assert names(tmp_path) == []


@contextmanager
def small_disk(limit: int) -> Iterator[None]:
    """No file can have more bytes; Python ignores the signal that comes with it, and so the write fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("tensors", "state"), [(LARGE, {}), (TENSORS, {"text": "a" * 2 * ENOUGH})])
def test_on_a_full_disk_the_error_is_clear_and_the_earlier_checkpoints_stay_good(tmp_path, tensors, state):
    checkpoints = Checkpoints(tmp_path, 1)
    with small_disk(ENOUGH):
        checkpoints.save(1, TENSORS, {"good": True})
        with pytest.raises(UserError, match=r"step 2 could not be written to .*make room there.* --resume"):
            checkpoints.save(2, tensors, state)
    assert names(tmp_path) == ["step-00000001"]
    assert checkpoints.newest().state == {"good": True}
    assert torch.equal(checkpoints.newest().tensors("model")["a"], TENSORS["model"]["a"])
    assert checkpoints.save(2, tensors, state).state == state
    assert steps(checkpoints) == [2]


def test_a_linked_file_that_is_gone_is_a_clear_error(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(UserError, match="step 1 could not be written"):
        checkpoints.save(1, TENSORS | {"best": tmp_path / "gone.safetensors"}, {})
    assert steps(checkpoints) == []


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="step 1 could not be written"):
        Checkpoints(tmp_path / "file" / "checkpoints").save(1, TENSORS, {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_a_clear_error(tmp_path):
    checkpoints = Checkpoints(tmp_path, 1)
    checkpoints.save(1, TENSORS, {})
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UserError, match="step 2 could not be written .*give write permission"):
            checkpoints.save(2, TENSORS, {})
    finally:
        tmp_path.chmod(0o700)
    assert steps(checkpoints) == [1]
