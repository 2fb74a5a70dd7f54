"""What a model with private layers leaves in its folder, and what is read of it: all of it, as it was, or nothing."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from hf_mtl.errors import UserError
from hf_mtl.modeling.loading import own_memory
from hf_mtl.modeling.model import MultiTaskModel
from tests.adapted import MIXED, change_config, five_texts
from tests.grouped import encoder_folder, equal, grouped
from tests.test_private_layers import OWN_LAYERS, by_hand
from tests.tiny import tiny_model, tiny_tasks


def assert_same(one, other, architecture="bert"):
    batch = five_texts(architecture)
    assert equal(one(**batch, rows=MIXED).logits, other(**batch, rows=MIXED).logits)
    for task in one.tasks:
        assert equal(one(**batch, tasks=[task]).logits, other(**batch, tasks=[task]).logits)
    assert equal(one.state_dict(), other.state_dict())


@pytest.mark.parametrize("architecture", OWN_LAYERS)
def test_a_saved_model_gives_the_same_answers_to_the_bit(tiny, tmp_path, architecture):
    model = grouped(tiny, architecture)
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    for auto in (MultiTaskModel, AutoModel) if architecture == "bert" else (MultiTaskModel,):
        read = auto.from_pretrained(tmp_path)
        assert not read.training
        assert read.groups == model.groups
        assert read.lanes.groups == model.lanes.groups
        assert_same(model, read, architecture)


def test_groups_of_several_depths_come_back(tiny, tmp_path):
    model = by_hand(tiny, depths=(2, 2, 1))
    model.save_pretrained(tmp_path)
    read = MultiTaskModel.from_pretrained(tmp_path)
    assert list(read.lanes.groups) == list(model.lanes.groups)
    assert_same(model, read)
    read.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_bytes() == (tmp_path / "config.json").read_bytes()


def test_the_config_names_the_groups(tiny, tmp_path):
    grouped(tiny, private_layers=2).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["groups"] == [
        {"name": "topic", "tasks": ["topic", "moods"], "private_layers": 2},
        {"name": "score", "tasks": ["score"], "private_layers": 2},
        {"name": "slots", "tasks": ["slots"], "private_layers": 2},
    ]
    weights = load_file(tmp_path / "model.safetensors")
    assert {name.split(".")[1] for name in weights if name.startswith("private.")} == {"score", "slots"}
    stock = load_file(encoder_folder(tiny) / "model.safetensors")
    assert {f"encoder.{name}" for name in stock if not name.startswith("pooler")} == {
        name for name in weights if name.startswith("encoder.")
    }


def test_a_model_whose_layers_are_everybody_s_says_nothing_of_groups(tmp_path):
    model = tiny_model(tmp_path / "encoder")
    model.save_pretrained(tmp_path / "model")
    assert "groups" not in json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
    assert_same(model, MultiTaskModel.from_pretrained(tmp_path / "model"))
    change_config(tmp_path / "model", lambda config: config.update(groups=None))
    assert MultiTaskModel.from_pretrained(tmp_path / "model").groups == ()


def test_sharing_is_read_as_a_run_file_says_it(tiny):
    folder = str(encoder_folder(tiny))
    assert MultiTaskModel.from_encoder(folder, tiny_tasks(), sharing={}).groups == ()
    made = MultiTaskModel.from_encoder(folder, tiny_tasks(), sharing={"private_layers": "auto"})
    assert [(group.tasks, group.private_layers) for group in made.groups] == [
        (("topic", "moods", "score"), 1),
        (("slots",), 1),
    ]
    for wrong, message in (({"private": 1}, "private"), ({"private_layers": 3}, "private layers: 3, .* 2 at most")):
        with pytest.raises(UserError, match=message):
            MultiTaskModel.from_encoder(folder, tiny_tasks(), sharing=wrong)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_in_another_precision_comes_back_as_one(tiny, tmp_path, dtype):
    model = grouped(tiny).to(dtype)
    model.save_pretrained(tmp_path)
    read = MultiTaskModel.from_pretrained(tmp_path)
    assert {weight.dtype for weight in read.parameters()} == {dtype}
    assert_same(model, read)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_is_that_which_is_asked_for(tiny, tmp_path, attention):
    grouped(tiny).save_pretrained(tmp_path)
    read = MultiTaskModel.from_pretrained(tmp_path, attn_implementation=attention)
    for part in (read.encoder, read.private):
        found = {module.config._attn_implementation for module in part.modules() if hasattr(module, "config")}
        assert found == {attention}


@pytest.mark.parametrize("architecture", OWN_LAYERS)
def test_a_task_is_taken_out_as_a_stock_checkpoint_with_the_layers_of_its_group(tiny, tmp_path, architecture):
    model, batch = grouped(tiny, architecture), five_texts(architecture)
    # One task of the first group, which has the encoder's layers, and one of a group with layers of its own.
    for name in model.tasks if architecture == "bert" else ("topic", "slots"):
        one, task = model.task_model(name), model.tasks[name]
        one.save_pretrained(tmp_path / name)
        stock = task.auto_class.from_pretrained(tmp_path / name).eval()
        assert equal(one.state_dict(), stock.state_dict())
        # A checkpoint is mapped into memory at odd addresses, which moves the last bit of some products.
        own_memory(stock)
        ours = model(**batch, tasks=[name]).logits[name]
        assert torch.equal(stock(**batch).logits.reshape(ours.shape), ours)


def test_task_models_make_a_model_without_groups(tiny):
    model = grouped(tiny)
    again = MultiTaskModel.from_task_models(**{name: model.task_model(name) for name in ("topic", "moods")})
    assert again.groups == ()
    assert not list(again.private.parameters())
    for name in ("topic", "moods"):
        assert equal(again(**five_texts(), tasks=[name]).logits, model(**five_texts(), tasks=[name]).logits)
