"""Adapters merged into a copy of the weights they adapt: a task taken out answers as it did."""

import copy

import pytest
import torch

from hf_mtl.modeling.adapters import adapted_layers
from hf_mtl.modeling.merging import merged_weights
from hf_mtl.modeling.model import MultiTaskModel
from tests.adapted import five_texts
from tests.tiny import tiny_model

KINDS = {
    "shared": {"scope": "shared"},
    "per_task": {"scope": "per_task", "rank_pattern": {"query": 3}},
    "both": {"scope": "both", "use_rslora": True, "r": 3, "lora_alpha": 2},
    "dora": {"scope": "shared", "use_dora": True},
    "dora by task": {"scope": "per_task", "use_dora": True},
    "encoder trained": {"scope": "both", "train_encoder": True, "lora_alpha": 2},
    "a layer": {"scope": "per_task", "layers_to_transform": [1]},
    "dropout": {"scope": "per_task", "lora_dropout": 0.4},
}
CASES = [("bert", kind) for kind in KINDS]
CASES += [(architecture, "both") for architecture in ("distilbert", "modernbert", "electra", "qwen3")]
CASES += [("deberta-v2", "shared"), ("albert", "dora")]


@pytest.mark.parametrize(("architecture", "kind"), CASES)
def test_a_task_taken_out_is_a_stock_model_with_the_same_answers(tiny, tmp_path, architecture, kind):
    model, batch = tiny.new(architecture, **KINDS[kind]).double(), five_texts(architecture)
    before = copy.deepcopy(model.state_dict())
    wanted = model(**batch).logits
    for name in ("topic", "slots"):
        task, stock = model.tasks[name], model.task_model(name)
        assert type(stock) is type(task.auto_class.from_config(stock.config))
        assert not adapted_layers(stock)
        assert all(weight.requires_grad for weight in stock.parameters())
        torch.testing.assert_close(stock(**batch).logits, wanted[name], rtol=0, atol=1e-6)
        stock.save_pretrained(tmp_path / name)
        read, info = task.auto_class.from_pretrained(tmp_path / name, output_loading_info=True)
        assert not any(info.values()), info
        torch.testing.assert_close(read.double()(**batch).logits, wanted[name], rtol=0, atol=1e-6)
    # The model is as it was.
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert all(not layer.merged for layer in adapted_layers(model.encoder).values())
    for name, logits in model(**batch).logits.items():
        assert torch.equal(logits, wanted[name])


def test_a_task_model_has_weights_of_its_own(tiny):
    model = tiny.new(scope="both")
    before, stock = copy.deepcopy(model.state_dict()), model.task_model("topic")
    with torch.no_grad():
        for weight in stock.parameters():
            weight.zero_()
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_only_the_adapters_that_are_named_are_merged(tiny):
    model, bare = tiny.new(scope="both"), tiny_model(tiny.encoder()).encoder.state_dict()
    none, one, both = (merged_weights(model.encoder, names) for names in ((), ("topic",), ("shared", "topic")))
    assert none.keys() == one.keys() == both.keys() == bare.keys()
    assert all(torch.equal(none[name], weight) for name, weight in bare.items())
    layers = {f"{name}.weight": layer for name, layer in adapted_layers(model.encoder).items()}
    for name, weight in bare.items():
        assert torch.equal(one[name], weight) == (name not in layers)
    for name, layer in layers.items():
        sums = [layer.get_delta_weight(adapter) for adapter in ("topic", "shared")]
        torch.testing.assert_close(one[name], bare[name] + sums[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(both[name], bare[name] + sum(sums), rtol=0, atol=1e-6)


def test_an_encoder_without_adapters_gives_its_own_weights(tmp_path):
    encoder = tiny_model(tmp_path).encoder
    found = merged_weights(encoder, ())
    assert found.keys() == encoder.state_dict().keys()
    assert all(torch.equal(found[name], weight) for name, weight in encoder.state_dict().items())


@pytest.mark.parametrize("scope", ["shared", "per_task", "both"])
def test_tasks_taken_out_and_put_together_keep_their_answers_or_are_named(tiny, caplog, scope):
    model, batch = tiny.new(scope=scope), five_texts()
    again = MultiTaskModel.from_task_models(**{name: model.task_model(name) for name in model.tasks})
    warned = [record.getMessage() for record in caplog.records if "its own encoder differs" in record.getMessage()]
    assert [message.split(":")[0] for message in warned] == (
        [] if scope == "shared" else ["task moods", "task score", "task slots"]
    )
    for name, logits in model(**batch).logits.items():
        if scope == "shared" or name == "topic":
            torch.testing.assert_close(again(**batch).logits[name], logits, rtol=0, atol=1e-5)
    assert not adapted_layers(again.encoder)
    assert again.base is None
