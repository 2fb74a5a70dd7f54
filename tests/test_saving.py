"""A finished run is saved whole, or not at all: over an older model, killed at any moment, on a full disk."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hf_mtl.config import load_config
from hf_mtl.errors import FinishedError, UserError
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.training import output
from hf_mtl.training.output import RunFolder
from hf_mtl.training.tensors import model_tensors
from tests.run_dicts import RUN
from tests.run_folders import FACTS, RESULTS, contents, finish, finished, stopped
from tests.test_checkpoint import TENSORS, kill_at, small_disk
from tests.tiny import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MultiTaskModel:
    return tiny_model(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder that is not there yet; whether another run lives is found out at once."""
    monkeypatch.setattr(output, "WAIT", 0.05)
    return str(tmp_path / "runs" / "out")


def test_what_is_saved_is_whole_and_takes_the_place_of_an_older_model(out, model):
    folder = RunFolder(out)
    folder.open()
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "notes.txt"):
        (Path(out) / name).write_text("{}", encoding="utf-8")
    weights = {name: torch.full_like(tensor, 0.5) for name, tensor in model_tensors(model).items()}
    folder.save(model, weights, tiny_tokenizer(), load_config(RUN), {"score": None, "test": {"中": {"f1": 1}}}, FACTS)
    folder.close()
    names = {file.name for file in Path(out).iterdir()}
    assert names >= {*RESULTS, "tokenizer.json", "tokenizer_config.json", "run.yaml", "history.jsonl", "notes.txt"}
    assert not [name for name in names if name.startswith((".", "model-")) or name.endswith(".index.json")]
    saved = MultiTaskModel.from_pretrained(out).state_dict()
    assert {float(value) for tensor in saved.values() for value in (tensor.min(), tensor.max())} == {0.5}
    assert "中" in (Path(out) / "metrics.json").read_text(encoding="utf-8")


def after_kills(out: str, model: MultiTaskModel, stride: int) -> Iterator[tuple[Path, bool]]:
    """Kills the save of a run at every `stride`-th change of a file, which takes long, and lets the last one live.

    Yields:
        The folder that is left, and whether it is of a finished run; else the run's checkpoint is there.
    """

    def save(folder: Path) -> None:
        again = RunFolder(str(folder), resume=True)
        again.open()
        finish(again, model, {"score": 0.2})

    moment, killed = 0, True
    while killed:
        folder = Path(shutil.copytree(out, f"{out}_{moment}"))
        killed = kill_at(moment, folder, save)
        try:
            assert RunFolder(str(folder), resume=True).newest().step == 4
        except FinishedError:
            yield folder, True
        else:
            yield folder, False
        moment += stride


def test_a_run_killed_at_any_moment_of_saving_can_be_resumed_or_is_finished_and_whole(out, model):
    finished(out, model, {"score": 0.1})
    wanted = {file.name for file in Path(out).iterdir()}
    stopped(out, overwrite=True)
    ends = []
    for folder, whole in after_kills(out, model, stride=3):
        ends.append(whole)
        if whole:
            assert wanted <= {file.name for file in folder.iterdir()}
            assert json.loads((folder / "metrics.json").read_text(encoding="utf-8")) == {"score": 0.2}
    assert ends == sorted(ends)
    assert ends.count(False) > 3


def test_on_a_full_disk_the_old_model_stays_and_the_run_can_be_resumed(out, model):
    finished(out, model, {"score": 0.1})
    before = contents(out)
    folder = RunFolder(out, overwrite=True)
    folder.open()
    folder.checkpoints.save(9, TENSORS, {})
    with small_disk(20_000), pytest.raises(UserError, match=r"model could not be written to .*go on with --resume"):
        finish(folder, model, {"score": 0.2})
    folder.close()
    after = contents(out)
    assert all(after[f"{out}/{name}"] == before[f"{out}/{name}"] for name in RESULTS)
    assert not list(Path(out).glob(".saving-*"))
    again = RunFolder(out, resume=True)
    again.open()
    assert again.newest().step == 9
    finish(again, model, {"score": 0.2})
    with pytest.raises(FinishedError):
        RunFolder(out, resume=True)
