"""Runs with adapters: the folder that they leave, and going on with one that was stopped."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_mtl.errors import FinishedError, UserError
from hf_mtl.inference.pipeline import MultiTaskPipeline
from hf_mtl.modeling.base import fingerprint
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.training.output import RunFolder
from hf_mtl.training.trainer import MultiTaskTrainer
from tests.adapted import tiny_adapted
from tests.run_folders import finished, stopped
from tests.test_resume import QUIET, killed_after, make_run, results, train
from tests.test_saving import after_kills
from tests.tiny import save_tiny_encoder, tiny_model

LORA = {"scope": "both", "lora_dropout": 0.1, "layers_to_transform": [1]}
KINDS = {
    "whole": None,
    "shared": {"scope": "shared"},
    "by task": {"scope": "per_task"},
    "encoder too": {"scope": "shared", "train_encoder": True},
}
LEFT = {
    "whole": {"model.safetensors"},
    "shared": {"heads.safetensors", "adapters/shared"},
    "by task": {"heads.safetensors", *(f"adapters/{task}" for task in ("topic", "moods", "score", "slots"))},
    "encoder too": {"model.safetensors", "heads.safetensors", "adapters/shared"},
}


@pytest.fixture
def out(tmp_path: Path) -> str:
    return str(tmp_path / "out")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, MultiTaskModel]:
    folder = tmp_path_factory.mktemp("adapted")
    return {kind: tiny_model(folder) if lora is None else tiny_adapted(folder, **lora) for kind, lora in KINDS.items()}


def weights_in(out: str) -> set[str]:
    """Files of weights, and folders of adapters."""
    paths = [*Path(out).glob("*.safetensors"), *Path(out).glob("adapters/*")]
    return {str(path.relative_to(out)) for path in paths}


@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("second", KINDS)
def test_nothing_of_a_run_of_another_kind_is_left_when_it_is_replaced(out, models, first, second):
    finished(out, models[first])
    assert weights_in(out) == LEFT[first]
    finished(out, models[second], overwrite=True)
    assert weights_in(out) == LEFT[second]
    read = MultiTaskModel.from_pretrained(out).state_dict()
    assert all(torch.equal(read[name], weight) for name, weight in models[second].state_dict().items())
    with pytest.raises(FinishedError):
        RunFolder(out, resume=True)
    with pytest.raises(UserError, match=r"holds a run already \(config.json, .*metrics.json\); give --overwrite"):
        RunFolder(out)


def test_a_run_with_adapters_killed_at_any_moment_of_replacing_another_can_be_resumed_or_is_finished(out, models):
    finished(out, models["shared"], {"score": 0.1})
    stopped(out, overwrite=True)
    ends = []
    for folder, whole in after_kills(out, models["by task"], stride=9):
        ends.append(whole)
        if whole:
            assert weights_in(str(folder)) == LEFT["by task"]
            MultiTaskModel.from_pretrained(folder)
    assert ends == sorted(ends)
    assert ends.count(False) > 3


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapted")
    run = make_run(folder, save_steps=3, eval_steps=2) | {"lora": LORA}
    return folder, run, train(run)


@pytest.mark.parametrize("step", [3, 9, 16])
def test_a_run_with_adapters_goes_on_with_the_same_bytes(adapted, tmp_path, step):
    folder, run, _ = adapted
    out = killed_after(folder / "out", step, tmp_path / "out")
    train(run | {"training": run["training"] | {"output_dir": str(out)}}, resume=True)
    assert results(out) == results(folder / "out")


def test_a_run_with_adapters_leaves_a_folder_of_adapters_and_checkpoints_of_what_is_trained(adapted):
    folder, run, trainer = adapted
    out = folder / "out"
    tasks = {"topic", "names", "more"}
    assert {path.name for path in (out / "adapters").iterdir()} == tasks
    assert not (out / "model.safetensors").exists()
    assert {name.split(".")[1] for name in load_file(out / "heads.safetensors")} == tasks
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert config["lora"]["base"]["encoder"] == run["encoder"]
    trained = {name for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    assert {name.split(".lora_")[0].split(".")[3] for name in trained if ".lora_" in name} == {"1"}
    checkpoints = sorted((out / "checkpoints").iterdir())
    assert len(checkpoints) == 6
    for checkpoint in checkpoints:
        for name in ("model", "best"):
            assert load_file(checkpoint / f"{name}.safetensors").keys() == trained
        size = sum(load_file(checkpoint / "model.safetensors")[name].numel() for name in trained)
        assert (checkpoint / "model.safetensors").stat().st_size < 4 * size + 10_000
    # The model that is saved is the best one, whole, on the encoder as it was.
    read, best = MultiTaskModel.from_pretrained(out), load_file(checkpoints[-1] / "best.safetensors")
    assert all(torch.equal(weight, best[f"heads.{name}"]) for name, weight in read.heads.state_dict().items())
    assert fingerprint(trainer.model.encoder) == config["lora"]["base"]["fingerprint"]
    answers = MultiTaskPipeline.from_pretrained(out)("Play a song by Taylor Swift please")
    assert answers.keys() == tasks


def test_a_finished_run_with_adapters_has_nothing_to_resume_and_another_encoder_is_refused(adapted, tmp_path):
    folder, run, _ = adapted
    with pytest.raises(FinishedError, match="is finished: nothing is left to do"):
        MultiTaskTrainer.from_config(run, console=QUIET, resume=True)
    out = killed_after(folder / "out", 6, tmp_path / "out")
    encoder = shutil.copytree(folder / "encoder", tmp_path / "encoder")
    run = run | {"training": run["training"] | {"output_dir": str(out)}}
    kept = (folder / "encoder" / "model.safetensors").read_bytes()
    try:
        save_tiny_encoder(folder / "encoder", seed=1)
        with pytest.raises(UserError, match="the encoder has other weights: .* there, .* now"):
            train(run, resume=True)
    finally:
        shutil.rmtree(folder / "encoder")
        shutil.copytree(encoder, folder / "encoder")
    assert (folder / "encoder" / "model.safetensors").read_bytes() == kept
    with pytest.raises(UserError, match=r"lora.scope: both there, per_task now|lora.scope: 'both' there"):
        train(run | {"lora": LORA | {"scope": "per_task"}}, resume=True)
