"""Which weights are trained, and at which rate."""

import pytest
import torch
from rich.console import Console

from hf_mtl.config_keys import LayersConfig, TrainingConfig
from hf_mtl.errors import UserError
from hf_mtl.modeling.layers import Depths, layer_list
from hf_mtl.training.optimization import freeze, make_optimizer
from hf_mtl.training.trainer import MultiTaskTrainer
from tests.adapted import tiny_adapted
from tests.runs import tiny_run
from tests.test_model import text_task
from tests.tiny import ARCHITECTURES, tiny_encoder, tiny_model

OWN_LAYERS = [name for name in (*ARCHITECTURES, "qwen3") if name != "albert"]


def trained(model):
    return {name for name, weight in model.encoder.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("architecture", OWN_LAYERS)
def test_every_weight_of_an_encoder_has_its_depth(architecture):
    encoder = tiny_encoder(architecture)
    place, layers = layer_list(encoder)
    depths = Depths(encoder)
    found = {name: depths.of(name) for name, _ in encoder.named_parameters()}
    assert set(found) == {name for name, _ in encoder.named_parameters()}
    for number, layer in enumerate(layers):
        assert {name for name in found if name.startswith(f"{place}.{number}.")} == {
            f"{place}.{number}.{name}" for name, _ in layer.named_parameters()
        }
        assert all(found[f"{place}.{number}.{name}"] == number for name, _ in layer.named_parameters())
    words = next(name for name, weight in encoder.named_parameters() if weight is encoder.get_input_embeddings().weight)
    assert found[words] == -1
    norms = {name: layer for name, layer in found.items() if name.split(".")[0].endswith("norm")}
    assert set(norms.values()) <= {1}
    assert bool(norms) == (architecture in ("modernbert", "qwen3"))


def test_an_encoder_of_one_repeated_layer_has_no_depths():
    with pytest.raises(UserError, match="albert.* has no list of layers of its own"):
        Depths(tiny_encoder("albert"))


@pytest.mark.parametrize("architecture", OWN_LAYERS)
@pytest.mark.parametrize("what", ["embeddings", "encoder", LayersConfig(layers="0"), LayersConfig(layers="0-1")])
def test_what_is_frozen_does_not_train_and_the_rest_does(architecture, what, tmp_path):
    model = tiny_model(tmp_path, architecture)
    freeze(model, what)
    everything = {name for name, _ in model.encoder.named_parameters()}
    depths = Depths(model.encoder)
    depth = {name: depths.of(name) for name, _ in model.encoder.named_parameters()}
    frozen = everything - trained(model)
    if what == "encoder":
        assert frozen == everything
    elif what == "embeddings":
        assert {depth[name] for name in frozen} == {-1}
        assert any(weight is model.get_input_embeddings().weight for weight in model.encoder.parameters())
        assert not model.get_input_embeddings().weight.requires_grad
    else:
        assert {depth[name] for name in frozen} == set(range(what.first, what.last + 1))
        assert not [name for name in frozen if name.split(".")[0].endswith("norm")]
    assert all(weight.requires_grad for weight in model.heads.parameters())


def test_layers_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(UserError, match="training.freeze.layers: 1-4 names layer 4; the last one is 1"):
        freeze(tiny_model(tmp_path), LayersConfig(layers="1-4"))
    with pytest.raises(UserError, match="freeze the encoder or its embeddings"):
        freeze(tiny_model(tmp_path / "albert", "albert"), LayersConfig(layers="0"))


def rates(model, **keys):
    optimizer = make_optimizer(model, TrainingConfig(output_dir="out", learning_rate=1.0, weight_decay=0.1, **keys))
    names = {weight: name for name, weight in model.named_parameters()}
    return {
        names[weight]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for weight in group["params"]
    }


def test_heads_and_layers_learn_at_their_own_rates(tmp_path):
    found = rates(tiny_model(tmp_path), head_learning_rate=3.0, layerwise_lr_decay=0.5)
    assert found["heads.topic.classifier.weight"] == (3.0, 0.1)
    assert found["encoder.encoder.layer.1.output.dense.weight"] == (1.0, 0.1)
    assert found["encoder.encoder.layer.0.output.dense.bias"] == (0.5, 0.0)
    assert found["encoder.embeddings.word_embeddings.weight"] == (0.25, 0.1)
    plain = rates(tiny_model(tmp_path))
    assert {rate for rate, _ in plain.values()} == {1.0}
    assert set(plain) == set(found)


def test_adapters_are_trained_whatever_is_frozen(tmp_path):
    model = tiny_adapted(tmp_path, scope="both", train_encoder=True)
    adapters = {name for name in trained(model) if ".lora_" in name}
    depths = Depths(model.encoder)
    depth = {name: depths.of(name) for name, _ in model.encoder.named_parameters()}
    freeze(model, "embeddings")
    assert trained(model) == adapters | {name for name in depth if depth[name] >= 0}
    freeze(model, LayersConfig(layers="0"))
    assert trained(model) == adapters | {name for name in depth if depth[name] != 0}
    freeze(model, "encoder")
    assert trained(model) == adapters


def test_adapters_learn_at_the_rates_of_their_layers_and_nothing_else_of_the_encoder_does(tmp_path):
    model = tiny_adapted(tmp_path, scope="per_task", use_dora=True)
    found = rates(model, head_learning_rate=3.0, layerwise_lr_decay=0.5)
    assert set(found) == {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert found["encoder.encoder.layer.1.output.dense.lora_A.topic.weight"] == (1.0, 0.1)
    assert found["encoder.encoder.layer.0.output.dense.lora_B.slots.weight"] == (0.5, 0.1)
    assert found["heads.topic.classifier.weight"] == (3.0, 0.1)


@pytest.mark.parametrize("name", ["bias_check", "topic_norm", "layernorm"])
def test_a_task_s_name_does_not_decide_on_its_decay(tmp_path, name):
    found = rates(tiny_adapted(tmp_path, tasks=[text_task(name), text_task("other")], scope="per_task"))
    for weight in ("heads.{}.classifier.weight", "encoder.encoder.layer.1.output.dense.lora_A.{}.weight"):
        assert found[weight.format(name)] == found[weight.format("other")] == (1.0, 0.1)


def test_a_frozen_encoder_comes_out_as_it_went_in(tmp_path):
    run = tiny_run(tmp_path, max_steps=4, freeze="encoder", weight_decay=0.1)
    trainer = MultiTaskTrainer.from_config(run, console=Console(quiet=True))
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.train()
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, before[name]) == name.startswith("encoder."), name
