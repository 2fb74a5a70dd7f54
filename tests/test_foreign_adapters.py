"""Adapters that PEFT made and wrote elsewhere: read with the same states, or refused with the reason."""

import json
import re

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification

from hf_mtl.errors import UserError
from hf_mtl.modeling.adapter_files import read_adapter
from hf_mtl.modeling.body import Body
from hf_mtl.modeling.lanes import Lanes
from hf_mtl.modeling.loading import load_encoder, load_encoder_config
from hf_mtl.modeling.ways import Ways
from tests.adapted import draw, five_texts
from tests.tiny import save_tiny_encoder

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


class Foreign:
    """An adapter that PEFT made and wrote, on a stock model, and what it gives."""

    def __init__(self, tiny, folder, architecture="bert", auto=AutoModel, **config):
        self.source, self.folder = tiny.encoder(architecture), folder
        self.batch = five_texts(architecture)
        torch.manual_seed(0)
        model = get_peft_model(auto.from_pretrained(self.source), LoraConfig(**config)).eval()
        draw(model)
        model.save_pretrained(folder)
        stock = model.base_model.model
        body = stock if auto is AutoModel else getattr(stock, stock.base_model_prefix)
        with torch.no_grad():
            self.states = body.double()(**self.batch).last_hidden_state

    def change(self, **entries):
        path = self.folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | entries), encoding="utf-8")

    def change_weights(self, change):
        path = self.folder / "adapter_model.safetensors"
        weights = load_file(path)
        change(weights)
        save_file(weights, path)

    def read(self, *names):
        """The states that hf_mtl's encoder gives with it, read under these names, one after the other."""
        encoder = load_encoder(str(self.source), load_encoder_config(str(self.source)))
        before = {name: weight.clone() for name, weight in encoder.state_dict().items()}
        names = names or ("theirs",)
        lanes = Lanes({name: name for name in names})
        for name in names:
            read_adapter(encoder, name, str(self.folder))
        Ways(Body(encoder, lanes))
        after = {name.replace(".base_layer", ""): weight for name, weight in encoder.state_dict().items()}
        assert all(torch.equal(after[name], weight) for name, weight in before.items())
        lanes.take(None, len(self.batch["input_ids"]), names[-1:], torch.device("cpu"))
        with torch.no_grad():
            return encoder.double().eval()(**self.batch).last_hidden_state

    def assert_read(self, *names):
        torch.testing.assert_close(self.read(*names), self.states, rtol=0, atol=1e-6)

    def refusal(self):
        with pytest.raises(UserError) as caught:
            self.read()
        assert str(caught.value).startswith(f"adapter {self.folder}: ")
        return str(caught.value)


SEQUENCE = AutoModelForSequenceClassification
QUERY = "bert.encoder.layer.0.attention.self.query"
THEIRS = {
    "of the stock encoder": {"target_modules": ["query", "value"], "lora_alpha": 32},
    "of a task model": {"target_modules": ["query", "value"], "lora_alpha": 32, "auto": SEQUENCE},
    "by an expression": {"target_modules": r".*self\.(query|key)"},
    "by an expression of a task model": {"target_modules": r"bert\..*self\.(query|key)", "auto": SEQUENCE},
    "by full names of a task model": {"target_modules": [QUERY], "auto": SEQUENCE},
    "without the pooler": {"target_modules": ["dense"], "exclude_modules": ["pooler.dense"]},
    "left out in a task model": {
        "target_modules": ["query", "value"],
        "exclude_modules": [QUERY],
        "auto": SEQUENCE,
    },
    "of a layer": {"target_modules": ["query"], "layers_to_transform": [1]},
    "of a layer of a task model": {"target_modules": ["query"], "layers_to_transform": [1], "auto": SEQUENCE},
    "patterns": {"target_modules": ["query", "value"], "rank_pattern": {"query": 3}, "alpha_pattern": {"0.*value": 5}},
    "scales by full names of a task model": {
        "target_modules": ["query", "value"],
        "alpha_pattern": {QUERY: 64, "^bert.encoder.layer.1.attention.self.value": 48},
        "auto": SEQUENCE,
    },
    "ranks by full names of a task model": {
        "target_modules": ["query", "value"],
        "rank_pattern": {QUERY: 4},
        "auto": SEQUENCE,
    },
    "rslora": {"target_modules": ["query"], "use_rslora": True, "lora_alpha": 9},
    "dora": {"target_modules": ["query", "value"], "use_dora": True},
    "for another use": {"target_modules": ["query"], "task_type": "FEATURE_EXTRACTION", "lora_dropout": 0.3},
    "gaussian": {"target_modules": ["query"], "init_lora_weights": "gaussian"},
}


@pytest.mark.filterwarnings("ignore:The following .*_pattern keys did not match")
@pytest.mark.parametrize("config", THEIRS.values(), ids=THEIRS)
def test_an_adapter_that_peft_wrote_gives_the_same_states(tiny, tmp_path, config):
    Foreign(tiny, tmp_path, **config).assert_read()


@pytest.mark.parametrize(
    ("architecture", "target"),
    [
        ("roberta", "query"),
        ("distilbert", "q_lin"),
        ("deberta-v2", "query_proj"),
        ("electra", "query"),
        ("modernbert", "Wqkv"),
        ("albert", "query"),
        ("xlm-roberta", "value"),
        ("mpnet", "q"),
        ("qwen3", "q_proj"),
    ],
)
def test_an_adapter_of_a_task_model_of_any_architecture_gives_the_same_states(tiny, tmp_path, architecture, target):
    Foreign(tiny, tmp_path, architecture, SEQUENCE, target_modules=[target], lora_alpha=32).assert_read()


def test_an_adapter_of_a_layer_is_read_where_the_list_of_layers_stands_at_the_top(tiny, tmp_path):
    config = {"target_modules": ["Wqkv"], "layers_to_transform": [1]}
    Foreign(tiny, tmp_path, "modernbert", SEQUENCE, **config).assert_read()


@pytest.mark.parametrize("target", [["query", "value"], r".*query"])
def test_several_adapters_are_read_beside_one_another(tiny, tmp_path, target):
    Foreign(tiny, tmp_path, target_modules=target).assert_read("one", "other")


REFUSED = {
    "a pooler": ({"target_modules": ["dense"]}, r"it adapts pooler.dense, which this bert encoder does not have \(the "
                 "pooler is the heads' here"),
    "a task model's pooler": ({"target_modules": ["dense"], "auto": SEQUENCE}, "it adapts pooler.dense, which"),
    "a head": ({"target_modules": ["query", "classifier"], "auto": SEQUENCE}, "it adapts classifier, which this bert"),
    "whole modules": ({"target_modules": ["query"], "modules_to_save": ["pooler"]}, "its config sets modules_to_save"),
    "a task's head": ({"target_modules": ["query"], "task_type": "SEQ_CLS", "auto": SEQUENCE}, "sets modules_to_save"),
    "biases": ({"target_modules": ["query"], "bias": "lora_only"}, "its config sets bias, which makes more"),
    "tokens": ({"target_modules": ["query"], "trainable_token_indices": [1, 2]}, "sets trainable_token_indices"),
    "parameters": ({"target_modules": ["query"], "target_parameters": ["value.weight"]}, "sets target_parameters"),
    "embeddings": ({"target_modules": ["query", "word_embeddings"]}, "has besides weights for embeddings.word_embed"),
    "a changed base (pissa)": ({"target_modules": ["query"], "init_lora_weights": "pissa"}, "init_lora_weights"),
    "a changed base (olora)": ({"target_modules": ["query"], "init_lora_weights": "olora"}, "init_lora_weights"),
}  # fmt: skip


@pytest.mark.parametrize(("config", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_more_than_low_rank_products_of_the_encoder_s_layers_is_refused(tiny, tmp_path, config, message):
    assert re.search(message, Foreign(tiny, tmp_path, **config).refusal())


@pytest.fixture
def theirs(tiny, tmp_path):
    return Foreign(tiny, tmp_path / "theirs", target_modules=["query", "value"], lora_alpha=32)


A = "base_model.model.encoder.layer.0.attention.self.query.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop(A), "it lacks encoder.layer.0.attention.self.query.lora_A.weight"),
        (
            lambda weights: [weights.pop(name) for name in list(weights) if ".value." in name],
            "it has no weights for .*value, against its config",
        ),
        (
            lambda weights: weights.update(more=torch.zeros(1)),
            "has besides weights for more|has besides more|it adapts more",
        ),
        (
            lambda weights: weights.update({A.replace("layer.0", "layer.7"): weights[A].clone()}),
            "it adapts encoder.layer.7.attention.self.query, which this bert encoder does not have",
        ),
        (
            lambda weights: weights.update({A.replace("query", "key"): weights[A].clone()}),
            "it has besides weights for encoder.layer.0.attention.self.key",
        ),
        (
            lambda weights: weights.update({A: torch.zeros(8, 48)}),
            r"self.query.lora_A.weight is \[8, 48\], and this encoder takes \[8, 32\]; it was made for an encoder of",
        ),
        (lambda weights: weights.update({A: torch.zeros(5, 32)}), r"is \[5, 32\], and this encoder takes \[8, 32\]"),
        (lambda weights: weights.update({A: torch.tensor(1.0)}), r"is \[\], and this encoder takes \[8, 32\]"),
    ],
)
def test_weights_that_are_not_exactly_those_of_the_config_are_refused(theirs, change, message):
    theirs.change_weights(change)
    assert re.search(message, theirs.refusal())


@pytest.mark.parametrize(
    "entries",
    [
        {"r": 0},
        {"r": "8"},
        {"lora_alpha": None},
        {"target_modules": None},
        {"target_modules": []},
        {"target_modules": 3},
        {"target_modules": "("},
        {"rank_pattern": {"(": 3}},
        {"init_lora_weights": "nonsense"},
        {"init_lora_weights": "eva"},
        {"megatron_config": {"a": 1}},
        {"peft_type": "IA3"},
        {"peft_type": None},
    ],
    ids=str,
)
def test_a_config_that_is_no_lora_adapter_s_is_refused_without_a_traceback(theirs, entries):
    theirs.change(**entries)
    theirs.refusal()


@pytest.mark.parametrize("text", ["[]", "null", "{", "", "\ufeff{}"])
def test_a_config_that_is_no_mapping_is_refused(theirs, text):
    (theirs.folder / "adapter_config.json").write_text(text, encoding="utf-8")
    theirs.refusal()


def test_an_entry_that_this_version_does_not_know_is_refused_unless_it_says_nothing(theirs):
    theirs.change(use_something_new=None, another=False)
    theirs.assert_read()
    theirs.change(use_something_new=True)
    assert "use_something_new" in theirs.refusal()


def test_a_file_that_is_cut_short_is_refused(theirs):
    path = theirs.folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "cannot be read as a PEFT adapter" in theirs.refusal()


def test_pickled_weights_are_never_read(theirs):
    path = theirs.folder / "adapter_model.safetensors"
    torch.save(load_file(path), theirs.folder / "adapter_model.bin")
    path.unlink()
    assert "cannot be read as a PEFT adapter" in theirs.refusal()
    assert "adapter_model.safetensors" in theirs.refusal()


def test_a_folder_that_is_not_there_is_refused(theirs, tmp_path):
    theirs.folder = tmp_path / "nothing"
    assert "cannot be read as a PEFT adapter" in theirs.refusal()


def test_an_adapter_of_another_architecture_or_size_is_refused(tiny, tmp_path):
    theirs = Foreign(tiny, tmp_path / "a", "modernbert", target_modules=["Wqkv"])
    theirs.source = tiny.encoder()
    assert "it adapts layers.0.attn.Wqkv, layers.1.attn.Wqkv, which this bert encoder does not have" in theirs.refusal()
    theirs = Foreign(tiny, tmp_path / "b", target_modules=["query"])
    theirs.source = save_tiny_encoder(tmp_path / "wide", hidden_size=48)
    assert "is [8, 32], and this encoder takes [8, 48]; it was made for an encoder of another size" in theirs.refusal()
