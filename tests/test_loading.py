import json
import re

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from hf_mtl.errors import UserError
from hf_mtl.modeling.loading import load_encoder, load_encoder_config
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.sources import encoder_source
from tests.tiny import save_tiny_encoder, tiny_model, tiny_tasks


@pytest.fixture
def folder(tmp_path):
    return save_tiny_encoder(tmp_path / "encoder")


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder, **entries):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def refusal(source, **options):
    with pytest.raises(UserError) as caught:
        MultiTaskModel.from_encoder(str(source), tiny_tasks(), **options)
    return str(caught.value)


def test_overrides_change_the_encoder_and_the_heads(folder):
    overrides = {"hidden_dropout_prob": 0.25, "attn_implementation": "eager"}
    model = MultiTaskModel.from_encoder(str(folder), tiny_tasks(), overrides)
    assert model.encoder.config is model.config.encoder_config
    assert model.encoder.config.hidden_dropout_prob == 0.25
    assert model.encoder.config._attn_implementation == "eager"
    assert model.heads["topic"].dropout.p == 0.25
    assert model.task_model("topic").config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"hidden_droput_prob": 0.1}, "encoder_config.hidden_droput_prob: the bert config has no such key; "
         "did you mean hidden_dropout_prob"),
        ({"zzz": 1}, "encoder_config.zzz: the bert config has no such key; bert has add_cross_attention, "),
        ({"to_dict": 1}, "encoder_config.to_dict: the bert config has no such key"),
        ({"num_labels": 3}, "encoder_config.num_labels: hf_mtl sets this itself"),
        ({"dtype": "float16"}, "encoder_config.dtype: hf_mtl sets this itself"),
        ({"hidden_dropout_prob": "much"}, "encoder_config.hidden_dropout_prob: 'much' is refused: "),
        ({"attn_implementation": "magic"}, "cannot be loaded: .*magic"),
        ({"hidden_size": 64}, "has weights of another shape: embeddings.LayerNorm.bias "),
        ({"num_hidden_layers": 3}, "the checkpoint has no weights encoder.layer.2.*and 11 more"),
    ],
)  # fmt: skip
def test_overrides_that_do_not_fit_are_refused(folder, overrides, message):
    assert re.search(message, refusal(folder, encoder_config=overrides))


def test_names_that_all_configs_share_reach_the_encoder_s_own(tmp_path):
    save_tiny_encoder(tmp_path, "distilbert")
    assert load_encoder_config(str(tmp_path), {"attention_dropout": 0.5}).attention_dropout == 0.5
    with pytest.raises(UserError, match="hidden_dropout_prob: the distilbert config has no such key; did you mean"):
        load_encoder_config(str(tmp_path), {"hidden_dropout_prob": 0.5})
    # DistilBERT calls its hidden_size dim.
    assert load_encoder_config(str(tmp_path), {"hidden_size": 64}).dim == 64


def test_a_checkpoint_that_lacks_weights_is_refused(folder):
    change_weights(folder, lambda weights: weights.pop("encoder.layer.1.output.dense.weight"))
    assert "the checkpoint has no weights encoder.layer.1.output.dense.weight; it does not fit" in refusal(folder)


def test_a_checkpoint_without_a_pooler_is_complete(folder):
    change_weights(folder, lambda weights: [weights.pop(name) for name in list(weights) if "pooler" in name])
    torch.manual_seed(0)
    model = MultiTaskModel.from_encoder(str(folder), tiny_tasks())
    assert model.heads["topic"].bert.pooler.dense.weight.std() > 0


def test_pickled_weights_are_never_read(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    message = refusal(folder)
    assert "no safetensors weights (pytorch_model.bin is a pickle, which can run code)" in message
    assert "save_pretrained" in message


def test_a_source_that_is_not_there_is_refused(tmp_path, folder, monkeypatch):
    assert "there is no such folder" in refusal(tmp_path / "nothing")
    assert "there is no such folder" in refusal("./nothing")
    (folder / "config.json").unlink()
    assert "the folder has no config.json" in refusal(folder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "nobody/nothing: there is no such folder here, and as a repository of the Hub: it is not in the" in refusal(
        "nobody/nothing"
    )


def test_code_from_a_repository_is_never_run(folder):
    change_config(folder, model_type="theirs", auto_map={"AutoConfig": "theirs.Config", "AutoModel": "theirs.Model"})
    (folder / "theirs.py").write_text("raise SystemExit('run')")
    assert "it needs code from its repository, which hf_mtl never runs" in refusal(folder)


def test_a_multi_task_model_gives_its_encoder_unless_it_has_several(tmp_path):
    model = tiny_model(tmp_path / "encoder")
    model.save_pretrained(tmp_path / "model")
    encoder = load_encoder(str(tmp_path / "model"), load_encoder_config(str(tmp_path / "model")))
    own = model.encoder.state_dict()
    assert all(torch.equal(weight, own[name]) for name, weight in encoder.state_dict().items())
    for change, words in (
        ({"lora": {"adapters": {}, "base": None}}, "a multi-task model with adapters"),
        ({"groups": [{"name": "ner", "tasks": ["ner"], "private_layers": 1}]}, "layers of their own (ner)"),
    ):
        change_config(tmp_path / "model", **change)
        assert words in refusal(tmp_path / "model")
        change_config(tmp_path / "model", **dict.fromkeys(change))


def test_an_adapter_is_no_encoder(folder, tmp_path):
    from peft import LoraConfig, get_peft_model

    base = AutoModel.from_pretrained(folder)
    get_peft_model(base, LoraConfig(target_modules=["query"])).save_pretrained(tmp_path / "adapter")
    assert "this is an adapter, not a model; merge it" in refusal(tmp_path / "adapter")
    AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "adapter")
    assert "this is an adapter, not a model; merge it" in refusal(tmp_path / "adapter")


def test_an_adapter_beside_a_saved_model_is_refused(tmp_path):
    tiny_model(tmp_path / "encoder").save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    torch.save({}, tmp_path / "model" / "adapter_model.bin")
    with pytest.raises(UserError, match="this is an adapter"):
        MultiTaskModel.from_pretrained(tmp_path / "model")


def test_a_package_s_folder_is_found_without_importing_the_package(tmp_path, monkeypatch):
    package = tmp_path / "carries_an_encoder"
    save_tiny_encoder(package / "model")
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert encoder_source("package://carries_an_encoder/model") == str(package / "model")
    model = MultiTaskModel.from_encoder("package://carries_an_encoder/model", tiny_tasks())
    assert model.config.encoder_config.model_type == "bert"
    assert "no folder 'nothing'" in refusal("package://carries_an_encoder/nothing")
    assert "no installed package not_there" in refusal("package://not_there/model")


def test_an_architecture_the_tests_do_not_cover_is_named(tmp_path, caplog):
    config = AutoConfig.for_model(
        "convbert", vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=37
    )
    AutoModel.from_config(config).save_pretrained(tmp_path)
    load_encoder(str(tmp_path), load_encoder_config(str(tmp_path)))
    assert "has not been checked against the stock models of type 'convbert'" in caplog.text
