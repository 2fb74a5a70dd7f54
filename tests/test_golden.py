"""The saved format: folders that were written once and must load for ever."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from hf_mtl.modeling.model import MultiTaskModel

FOLDERS = sorted(path for path in (Path(__file__).parent / "golden").iterdir() if path.name.startswith("format_"))


@pytest.fixture(params=FOLDERS, ids=[path.name for path in FOLDERS])
def folder(request):
    return request.param


@pytest.fixture
def golden(folder):
    return json.loads((folder / "inputs.json").read_text(encoding="utf-8"))


def test_a_saved_model_loads_and_gives_its_logits(folder, golden):
    batch = {name: torch.tensor(value) for name, value in golden["inputs"].items()}
    for model in (MultiTaskModel.from_pretrained(folder), AutoModel.from_pretrained(folder)):
        logits = model(**batch).logits
        assert list(logits) == list(golden["logits"])
        for name, value in golden["logits"].items():
            torch.testing.assert_close(logits[name], torch.tensor(value), rtol=0, atol=1e-5)


def test_a_saved_tokenizer_gives_its_ids(folder, golden):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert dict(tokenizer(golden["texts"], golden["pairs"], padding=True)) == golden["inputs"]


def test_format_1_holds_what_it_promises():
    folder = FOLDERS[0]
    assert folder.name == "format_1"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "hf_mtl"
    assert config["format_version"] == 1
    assert config["encoder_config"]["model_type"] == "bert"
    keys = {"name", "task_type", "problem_type", "label_list", "text_pair", "tag_scheme", "threshold"}
    assert all(set(task) == keys for task in config["tasks"])
    model = MultiTaskModel.from_pretrained(folder)
    assert [task.spec.to_dict() for task in model.tasks.values()] == config["tasks"]
