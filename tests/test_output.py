"""The folder of a run: whose it is, what it holds, and what may be done with it."""

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hf_mtl.errors import FinishedError, UserError
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.training import output
from hf_mtl.training.output import RunFolder
from tests.run_folders import RESULTS, contents, finish, finished, stopped
from tests.tiny import tiny_model

FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MultiTaskModel:
    return tiny_model(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder that is not there yet; whether another run lives is found out at once."""
    monkeypatch.setattr(output, "WAIT", 0.05)
    return str(tmp_path / "runs" / "out")


@contextmanager
def elsewhere(action: Callable[[], Any]) -> Iterator[tuple[Any, str]]:
    """Another process that does something and lives with what came of it until it is killed, and how that looks."""
    here, there = FORK.Pipe()

    def work() -> None:
        kept = action()
        there.send(str(kept))
        there.recv()
        del kept

    process = FORK.Process(target=work, daemon=True)
    process.start()
    try:
        assert here.poll(60)
        yield process, here.recv()
    finally:
        process.kill()
        process.join()


def test_a_folder_is_made_with_those_above_it_and_only_when_it_is_opened(out):
    folder = RunFolder(out)
    assert not Path(out).parent.exists()
    folder.open()
    assert sorted(contents(out)) == [f"{out}/.lock", f"{out}/.unfinished", f"{out}/history.jsonl"]
    folder.close()
    assert sorted(contents(out)) == [f"{out}/.unfinished", f"{out}/history.jsonl"]


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_a_folder_to_which_another_process_writes_is_refused_until_that_dies(out, options):
    def train() -> RunFolder:
        folder = RunFolder(out)
        folder.open()
        return folder

    with elsewhere(train) as (process, _):
        mine = RunFolder(out, **options)
        (Path(out) / ".saving-abc").mkdir()
        with pytest.raises(UserError, match=rf"output_dir: another run is writing to {out}; wait for its end or name"):
            mine.open()
        mine.close()
        assert (Path(out) / ".lock").exists()
        assert (Path(out) / ".saving-abc").exists()
        process.kill()
        process.join()
        mine.open()
        assert not (Path(out) / ".saving-abc").exists()
        mine.close()


def test_a_folder_stays_locked_until_it_is_closed(out):
    mine = RunFolder(out)
    mine.open()

    def ask() -> str:
        try:
            RunFolder(out).open()
        except UserError as error:
            return str(error)
        return "opened"

    with elsewhere(ask) as (_, answer):
        assert "another run is writing to" in answer
    mine.close()
    with elsewhere(ask) as (_, answer):
        assert answer == "opened"


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_came_to_lie_there_meanwhile_is_refused_and_stays(out, model, resume):
    if resume:
        stopped(out)
    mine = RunFolder(out, resume=resume)
    finished(out, model, resume=resume)
    before = contents(out)
    with pytest.raises(
        FinishedError if resume else UserError, match="is finished" if resume else "holds a run already"
    ):
        mine.open()
    assert contents(out) == before


def test_a_finished_run_is_told_from_one_to_resume(out, model):
    finished(out, model)
    before = contents(out)
    assert not (Path(out) / ".unfinished").exists()
    with pytest.raises(FinishedError, match=rf"the run in {out} is finished: nothing is left to do"):
        RunFolder(out, resume=True)
    with pytest.raises(UserError) as refused:
        RunFolder(out)
    assert str(refused.value) == (
        f"training.output_dir: {out} holds a run already (config.json, model.safetensors, metrics.json); "
        "give --overwrite to replace it, or name another folder"
    )
    assert not isinstance(refused.value, FinishedError)
    assert contents(out) == before


def test_a_stopped_run_is_refused_with_the_step_and_both_ways_on(out):
    stopped(out)
    before = contents(out)
    with pytest.raises(UserError) as refused:
        RunFolder(out)
    assert str(refused.value) == (
        f"training.output_dir: {out} holds a run already (stopped after step 4); "
        "give --resume to go on with it, --overwrite to replace it, or name another folder"
    )
    assert contents(out) == before


def test_a_stopped_run_is_gone_on_with_from_its_newest_checkpoint(out):
    stopped(out)
    (Path(out) / "history.jsonl").write_text("{}\n", encoding="utf-8")
    (Path(out) / "checkpoints" / ".writing-step-00000005").mkdir()
    folder = RunFolder(out, resume=True)
    folder.open()
    assert folder.newest().step == 4
    assert [found.name for found in (Path(out) / "checkpoints").iterdir()] == ["step-00000004"]
    assert (Path(out) / "history.jsonl").read_text(encoding="utf-8") == "{}\n"
    folder.close()


def test_a_run_that_is_overwritten_has_no_checkpoint_of_the_old_one_but_its_results_until_the_end(out, model):
    finished(out, model, {"score": 0.1})
    before = contents(out)
    folder = RunFolder(out, overwrite=True)
    assert folder.newest() is None
    assert contents(out) == before
    folder.open()
    assert folder.newest() is None
    assert list((Path(out) / "checkpoints").iterdir()) == []
    assert all(contents(out)[f"{out}/{name}"] == before[f"{out}/{name}"] for name in RESULTS)
    finish(folder, model, {"score": 0.2})
    assert json.loads((Path(out) / "metrics.json").read_text(encoding="utf-8")) == {"score": 0.2}


def test_a_run_stopped_while_it_replaced_another_is_neither_finished_nor_new(out, model):
    finished(out, model)
    stopped(out, overwrite=True)
    with pytest.raises(UserError, match=r"holds a run already \(stopped after step 4\); give --resume"):
        RunFolder(out)
    folder = RunFolder(out, resume=True)
    assert folder.newest().step == 4


def test_a_run_that_was_stopped_before_its_first_checkpoint_starts_anew(out):
    stopped(out, step=None)
    for options in ({}, {"resume": True}, {"overwrite": True}):
        assert RunFolder(out, **options).newest() is None


def test_overwrite_and_resume_together_are_refused(out):
    with pytest.raises(UserError, match="--overwrite starts anew and --resume goes on: give one of them"):
        RunFolder(out, overwrite=True, resume=True)


def test_a_file_in_the_folder_s_place_is_refused(tmp_path):
    file = tmp_path / "out"
    file.write_text("mine", encoding="utf-8")
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(UserError, match=f"output_dir: {file} is a file; name a folder"):
            RunFolder(str(file), **options)
    with pytest.raises(UserError, match=f"output_dir: {file}/below cannot be written to"):
        RunFolder(str(file / "below")).open()
    assert file.read_text(encoding="utf-8") == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UserError, match="cannot be written to"):
            RunFolder(str(tmp_path)).open()
    finally:
        tmp_path.chmod(0o700)
