"""What hf_mtl writes is an adapter to PEFT, and what PEFT writes is one to hf_mtl, or refused with the reason."""

import json
import warnings

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel

from hf_mtl.modeling.adapters import adapted_layers
from tests.adapted import MIXED, five_texts
from tests.tiny import ARCHITECTURES

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
ALL = (*ARCHITECTURES, "qwen3")
KINDS = {
    "shared": {"scope": "shared", "lora_alpha": 3},
    "per_task": {"scope": "per_task", "r": 3, "lora_alpha": 7},
    "both": {"scope": "both", "r": 3, "lora_alpha": 7},
    "both, rslora": {"scope": "both", "use_rslora": True, "lora_alpha": 3},
    "both, patterns": {
        "scope": "both",
        "use_rslora": True,
        "rank_pattern": {"query": 3, r".*\.1\..*dense": 2},
        "alpha_pattern": {"value": 5, "0.attention.output.dense": 9},
    },
    "per_task, patterns": {"scope": "per_task", "rank_pattern": {"query": 3}, "alpha_pattern": {"1.*query": 5}},
    "dora": {"scope": "shared", "use_dora": True},
    "dora by task": {"scope": "per_task", "use_dora": True, "rank_pattern": {"value.*": 3}},
    "a layer": {"scope": "per_task", "layers_to_transform": [1]},
    "an expression": {"scope": "shared", "target_modules": r".*\.0\..*(query|dense)"},
    "some left out": {"scope": "per_task", "exclude_modules": r".*\.0\..*|.*key"},
    "dropout": {"scope": "per_task", "lora_dropout": 0.4},
    "dropout and dora": {"scope": "shared", "lora_dropout": 0.4, "use_dora": True},
    "random at first": {"scope": "per_task", "init_lora_weights": False},
    "gaussian": {"scope": "shared", "init_lora_weights": "gaussian"},
    "orthogonal": {"scope": "both", "init_lora_weights": "orthogonal"},
    "encoder trained": {"scope": "per_task", "train_encoder": True},
}
CASES = [("bert", kind) for kind in KINDS]
CASES += [(architecture, "both, rslora") for architecture in ALL if architecture != "bert"]
CASES += [("modernbert", "a layer"), ("deberta-v2", "dora by task"), ("deberta-v2", "dora"), ("albert", "shared")]


def peft_states(encoder, adapter, batch):
    """What PEFT gives for an adapter on the stock model, in float64; warnings are errors."""
    stock = AutoModel.from_pretrained(encoder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        model = PeftModel.from_pretrained(stock, adapter)
    # Adapted is what the file has, and that without a word on keys that are missing or unexpected.
    own = {name.removeprefix("base_model.model.") for name in load_file(adapter / "adapter_model.safetensors")}
    assert {name.rpartition(".lora_")[0] for name in own} == set(adapted_layers(model.base_model.model))
    with torch.no_grad():
        return model.double().eval()(**batch).last_hidden_state


@pytest.mark.parametrize(("architecture", "kind"), CASES)
def test_peft_reads_each_task_s_adapter_and_gives_the_model_s_states(tiny, tmp_path, architecture, kind):
    model, batch = tiny.new(architecture, **KINDS[kind]), five_texts(architecture)
    model.save_pretrained(tmp_path)
    # Where the encoder was trained too, it is no stock model that lies there.
    states = model.double().encode(**batch, rows=MIXED)
    every = model.encode(**batch)
    bare = AutoModel.from_pretrained(tiny.encoder(architecture)).double()(**batch).last_hidden_state
    for task in ("topic", "score"):
        adapter = tmp_path / "adapters" / model.lanes.tasks[task]
        found = peft_states(tiny.encoder(architecture), adapter, batch)
        torch.testing.assert_close(every[task], found, rtol=0, atol=1e-6)
        torch.testing.assert_close(states[task], found[MIXED[task]], rtol=0, atol=1e-6)
        assert (found - bare).abs().max() > 1e-3


def test_an_adapter_is_named_by_its_stock_layers_and_says_what_it_stands_on(tiny, tmp_path):
    model = tiny.new(scope="both", r=4, target_modules=["query"])
    model.save_pretrained(tmp_path)
    folder = tmp_path / "adapters" / "topic"
    weights = load_file(folder / "adapter_model.safetensors")
    layers = [f"encoder.layer.{number}.attention.self.query" for number in (0, 1)]
    assert {name: list(weight.shape) for name, weight in weights.items()} == {
        f"base_model.model.{layer}.{part}.weight": shape
        for layer in layers
        for part, shape in {"lora_A": [8, 32], "lora_B": [32, 8]}.items()
    }
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert sorted(config["target_modules"]) == layers
    assert config["base_model_name_or_path"] == str(tiny.encoder())
    assert config["inference_mode"] is True
    assert config["peft_type"] == "LORA"


def test_the_same_adapter_is_written_in_the_same_bytes(tiny, tmp_path):
    """PEFT holds the names of layers in a set, whose order changes with every process."""
    tiny.new().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapters" / "shared" / "adapter_config.json").read_text(encoding="utf-8"))
    assert len(config["target_modules"]) == 12
    assert config["target_modules"] == sorted(config["target_modules"])
