"""Files made to do harm: nothing in them is run or unpickled or leads elsewhere, and no token is told."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

from hf_mtl.config import load_config
from hf_mtl.errors import ConfigError, UserError
from hf_mtl.inference.files import predict_file
from hf_mtl.inference.pipeline import MultiTaskPipeline
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.run_file import write_run_file
from hf_mtl.training.trainer import MultiTaskTrainer
from tests.runs import tiny_run
from tests.test_adding_tasks import QUIET, train

TOKEN = "hf_PlantedTokenThatNobodyMayEverSee00"


class Bomb:
    """A pickle of this makes a file when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    train(tiny_run(folder, max_steps=2, save_strategy="steps", save_steps=1))
    return folder


@pytest.fixture
def model(made, tmp_path):
    return shutil.copytree(made / "out", tmp_path / "model")


@pytest.fixture
def marker(tmp_path):
    marker = tmp_path / "it-ran"
    yield marker
    assert not marker.exists()


def arm(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps(Bomb(marker)))


def test_the_bomb_would_go_off(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "ran"))).close()
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_a_pickle_in_place_of_weights_is_refused_with_the_reason(model, marker, name):
    (model / "model.safetensors").unlink()
    arm(model / name, marker)
    with pytest.raises(UserError, match="pickle"):
        MultiTaskModel.from_pretrained(model)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_an_encoder_of_pickles_is_refused(made, tmp_path, marker, name):
    encoder = shutil.copytree(made / "encoder", tmp_path / "encoder")
    (encoder / "model.safetensors").unlink()
    arm(encoder / name, marker)
    run = tiny_run(tmp_path / "run", max_steps=1) | {"encoder": str(encoder)}
    with pytest.raises(UserError, match="pickle"):
        MultiTaskTrainer.from_config(run, console=QUIET)


def test_pickles_beside_the_weights_are_not_looked_at(model, marker):
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        arm(model / name, marker)
    assert MultiTaskPipeline.from_pretrained(model, device="cpu")("Play a song").keys() == {"topic", "names"}


def test_a_pickle_in_place_of_a_checkpoint_s_tensors_is_refused(made, tmp_path, marker):
    out = shutil.copytree(made / "out", tmp_path / "out")
    for name in ("config.json", "metrics.json", "model.safetensors"):
        (out / name).unlink()
    (out / ".unfinished").touch()
    newest = max((out / "checkpoints").iterdir())
    for file in newest.glob("*.safetensors"):
        arm(file, marker)
    run = tiny_run(made, max_steps=2, save_strategy="steps", save_steps=1)
    run["training"]["output_dir"] = str(out)
    with pytest.raises(UserError):
        train(run, resume=True)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet", "rows.txt", "rows.jsonl.gz", "rows.conll"])
def test_a_pickle_called_as_a_data_file_is_refused(made, tmp_path, marker, name):
    arm(tmp_path / name, marker)
    kind = {"jsonl": "json", "txt": "text"}.get(name.split(".")[1], name.split(".")[1])
    run = tiny_run(tmp_path / "run", max_steps=1)
    run["datasets"]["d"] |= {"path": kind, "data_files": {"train": str(tmp_path / name)}}
    with pytest.raises(UserError):
        MultiTaskTrainer.from_config(run, console=QUIET)


def test_a_repository_s_code_is_not_run(made, tmp_path, marker):
    encoder = shutil.copytree(made / "encoder", tmp_path / "encoder")
    config = json.loads((encoder / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.MyConfig", "AutoModel": "code.MyModel"}}
    (encoder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (encoder / "code.py").write_text(f"open({str(marker)!r}, 'w')\n", encoding="utf-8")
    run = tiny_run(tmp_path / "run", max_steps=1) | {"encoder": str(encoder)}
    with pytest.raises(UserError, match="code from its repository|never runs"):
        MultiTaskTrainer.from_config(run, console=QUIET)
    with pytest.raises(ValueError, match="trust_remote_code|custom code"):
        AutoConfig.from_pretrained(encoder, trust_remote_code=False)


@pytest.mark.parametrize(
    "value", ["!!python/object/apply:os.system ['touch {marker}']", "!!python/name:os.system x", "!!binary aGk="]
)
def test_yaml_holds_plain_values_alone(tmp_path, marker, value):
    path = tmp_path / "run.yaml"
    path.write_text(f"encoder: {value.format(marker=marker)}\n", encoding="utf-8")
    with pytest.raises(ConfigError):
        load_config(path)


def test_aliases_that_multiply_are_refused_or_read_in_no_time(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    (tmp_path / "run.yaml").write_text("\n".join(lines), encoding="utf-8")
    code = f"from hf_mtl.config import load_config; load_config({str(tmp_path / 'run.yaml')!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "ConfigError" in done.stderr


@pytest.mark.parametrize("name", ["../../outside", "{tmp}/outside", "a/b", "..", "a.b", ""])
def test_a_name_in_a_model_s_config_leads_nowhere(model, tmp_path, name):
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config["tasks"][0]["name"] = name.format(tmp=tmp_path.parent)
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match="cannot name a task"):
        MultiTaskModel.from_pretrained(model)


@pytest.mark.parametrize("name", ["../../outside", "/etc", "shared/../../x"])
def test_an_adapter_s_name_leads_nowhere(tmp_path, name):
    train(tiny_run(tmp_path, max_steps=1) | {"lora": {}})
    path = tmp_path / "out" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["lora"]["adapters"]["topic"] = name
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match="config.json: the adapter of topic in lora is"):
        MultiTaskModel.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize("row", [{"text": "a", "../../x": "b"}, {"text": "a", "topic/..": 1}])
def test_a_column_s_name_is_only_a_name(made, tmp_path, row):
    folder = tmp_path / "some" / "where"
    folder.mkdir(parents=True)
    (folder / "in.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    pipe = MultiTaskPipeline.from_pretrained(made / "out", device="cpu")
    predict_file(pipe, folder / "in.jsonl", folder / "out.jsonl")
    assert row.items() <= json.loads((folder / "out.jsonl").read_text(encoding="utf-8")).items()
    assert {path.name for path in tmp_path.rglob("*")} == {"some", "where", "in.jsonl", "out.jsonl"}


def test_an_output_that_is_a_link_does_not_change_what_it_points_to(made, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("mine", encoding="utf-8")
    (tmp_path / "out.jsonl").symlink_to(other)
    (tmp_path / "in.txt").write_text("Play a song\n", encoding="utf-8")
    predict_file(
        MultiTaskPipeline.from_pretrained(made / "out", device="cpu"), tmp_path / "in.txt", tmp_path / "out.jsonl"
    )
    assert other.read_text(encoding="utf-8") == "mine"


def test_a_token_is_neither_written_nor_told(tmp_path):
    run = tiny_run(tmp_path, max_steps=2, save_strategy="steps", save_steps=1)
    write_run_file(load_config(run), tmp_path / "run.yaml")
    wrong = run | {"encoder": "nobody/nothing-of-this-name"}
    write_run_file(load_config(wrong), tmp_path / "wrong.yaml")
    environment = os.environ | {"HF_TOKEN": TOKEN, "HUGGING_FACE_HUB_TOKEN": TOKEN, "HF_HUB_OFFLINE": "1"}
    said = ""
    for arguments in (["check", "run.yaml"], ["train", "run.yaml"], ["train", "wrong.yaml"], ["predict", "out", "Hi"]):
        done = subprocess.run(
            [sys.executable, "-m", "hf_mtl", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        said += done.stdout + done.stderr
    assert "saved in" in said
    assert TOKEN not in said
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]


def test_weights_are_only_safetensors(made):
    suffixes = {path.suffix for path in (made / "out").rglob("*") if path.is_file()}
    assert suffixes <= {".safetensors", ".json", ".jsonl", ".yaml", ".md", ""}
    for path in (made / "out").rglob("*.safetensors"):
        assert all(isinstance(weight, torch.Tensor) for weight in load_file(path).values())
