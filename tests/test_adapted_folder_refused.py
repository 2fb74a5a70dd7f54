"""A folder of a model with adapters whose parts do not go together: said and refused, and nothing is made up."""

import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from hf_mtl.errors import UserError
from hf_mtl.inference.pipeline import MultiTaskPipeline
from hf_mtl.modeling.model import MultiTaskModel
from tests.adapted import change_config


@pytest.fixture
def saved(tiny, tmp_path):
    tiny.model(scope="per_task").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def whole(tiny, tmp_path):
    """A model whose encoder lies in its folder."""
    tiny.model(train_encoder=True).save_pretrained(tmp_path / "whole")
    return tmp_path / "whole"


def change_weights(path, change):
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def refusal(folder, auto=MultiTaskModel):
    with pytest.raises(UserError) as caught:
        auto.from_pretrained(folder)
    return str(caught.value)


def assert_weights_refused(folder, file, change, message):
    change_weights(folder / file, change)
    found = refusal(folder)
    assert found.startswith(f"model {folder}: {file}")
    assert message in found


@pytest.mark.parametrize("auto", [MultiTaskModel, AutoModel, MultiTaskPipeline])
def test_a_pickle_is_never_read_in_an_adapter_s_place(saved, auto):
    path = saved / "adapters" / "moods" / "adapter_model.safetensors"
    torch.save(load_file(path), path.with_name("adapter_model.bin"))
    path.unlink()
    message = refusal(saved, auto)
    assert message.startswith(f"adapter {saved}/adapters/moods: ")
    assert "adapter_model.safetensors" in message


@pytest.mark.parametrize("gone", ["adapters", "adapters/moods", "adapters/moods/adapter_config.json"])
def test_an_adapter_that_is_missing_is_named(saved, gone):
    path = saved / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert refusal(saved).startswith(f"adapter {saved}/adapters/{'topic' if gone == 'adapters' else 'moods'}: ")


Q = "encoder.layer.0.attention.self.query.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop(f"base_model.model.{Q}"), f"it lacks {Q}"),
        (lambda weights: weights.update({f"{Q}.more": torch.zeros(1)}), f"has besides {Q}.more"),
        (lambda weights: weights.update({f"base_model.model.{Q}": torch.zeros(9, 32)}), f"{Q} is [9, 32], and this"),
    ],
)
def test_an_adapter_s_weights_that_do_not_fit_are_refused(saved, change, message):
    change_weights(saved / "adapters" / "moods" / "adapter_model.safetensors", change)
    found = refusal(saved)
    assert found.startswith(f"adapter {saved}/adapters/moods: ")
    assert message in found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("heads.topic.classifier.weight"), 'Missing key(s) in state_dict: "classifier.wei'),
        (
            lambda weights: [weights.pop(name) for name in list(weights) if name.startswith("heads.slots.")],
            'Missing key(s) in state_dict: "classifier.weight", "classifier.bias"',
        ),
        (lambda weights: weights.update({"heads.topic.more": torch.zeros(1)}), 'Unexpected key(s) in state_dict: "mor'),
        (lambda weights: weights.update({"heads.other.bias": torch.zeros(1)}), "that are no task's: heads.other.bias"),
        (lambda weights: weights.update({"encoder.x": torch.zeros(1)}), "weights that are no task's: encoder.x"),
        (
            lambda weights: weights.update({"heads.topic.classifier.bias": torch.zeros(9)}),
            "size mismatch for classifier.bias",
        ),
    ],
)
def test_heads_whose_weights_do_not_fit_are_refused(saved, change, message):
    assert_weights_refused(saved, "heads.safetensors", change, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda weights: weights.pop("encoder.embeddings.LayerNorm.bias"),
            'Missing key(s) in state_dict: "embeddings.',
        ),
        (lambda weights: weights.update(more=torch.zeros(1)), "has weights that are no part of the model's: more"),
        (
            lambda weights: weights.update({"encoder.embeddings.LayerNorm.bias": torch.zeros(9)}),
            "size mismatch for embeddings.LayerNorm.bias",
        ),
    ],
)
def test_an_encoder_s_own_weights_that_do_not_fit_are_refused(whole, change, message):
    assert_weights_refused(whole, "model.safetensors", change, message)


@pytest.mark.parametrize(
    "file", ["heads.safetensors", "model.safetensors", "adapters/shared/adapter_model.safetensors"]
)
@pytest.mark.parametrize("harm", ["gone", "cut short", "pickled"])
def test_a_file_of_weights_that_cannot_be_read_is_named(whole, file, harm):
    path = whole / file
    weights = load_file(path)
    if harm == "cut short":
        path.write_bytes(path.read_bytes()[:-50])
    else:
        path.unlink()
    if harm == "pickled":
        torch.save(weights, path.with_suffix(".bin"))
        torch.save(weights, whole / "pytorch_model.bin")
    found = refusal(whole)
    assert str(whole) in found
    assert file.removesuffix("/adapter_model.safetensors") in found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lora: lora["adapters"].pop("moods"), "lora.adapters is for tasks .*, and the model has .*moods"),
        (lambda lora: lora["adapters"].update(more="topic"), "lora.adapters is for tasks .*more, and the model has"),
        (lambda lora: lora.update(adapters=["topic"]), "config.json: lora .*; it holds adapters and base"),
        (lambda lora: lora.update(more=1), "config.json: lora .*more.*; it holds adapters and base"),
        (lambda lora: lora.pop("base"), "config.json: lora .*; it holds adapters and base"),
        (
            lambda lora: lora["base"].pop("fingerprint"),
            "config.json: lora.base .*; it names encoder, revision and fing",
        ),
        (lambda lora: lora.update(base="here"), "config.json: lora.base .*'here'"),
        (lambda lora: lora["adapters"].update(moods="nobody"), "config.json: the adapter of moods in lora is 'nobody'"),
        (
            lambda lora: lora["adapters"].update(moods="topic"),
            "the adapter of moods in lora is 'topic'; use 'shared', ",
        ),
        (
            lambda lora: lora["adapters"].update(moods="../../model/adapters/topic"),
            r"of moods in lora is '\.\./\.\./model",
        ),
        (lambda lora: lora["adapters"].update(moods=3), "config.json: the adapter of moods in lora is 3"),
    ],
)
def test_a_config_that_speaks_of_other_adapters_is_refused(saved, change, message):
    change_config(saved, lambda config: change(config["lora"]))
    assert re.search(message, refusal(saved))


def test_an_adapter_of_another_encoder_is_refused(tiny, saved):
    other = tiny.new("modernbert", scope="per_task")
    other.save_pretrained(saved.parent / "other")
    shutil.rmtree(saved / "adapters" / "moods")
    shutil.copytree(saved.parent / "other" / "adapters" / "moods", saved / "adapters" / "moods")
    assert "which this bert encoder does not have; it was made for another model" in refusal(saved)


def test_a_config_alone_makes_no_model_with_adapters(saved):
    with pytest.raises(UserError, match="the config of a model with adapters does not hold them; read the folder"):
        AutoModel.from_config(AutoConfig.from_pretrained(saved))
