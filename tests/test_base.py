"""The encoder below the adapters is told apart from every other, and found again."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_mtl.errors import UserError
from hf_mtl.modeling.base import Base, base_of, fingerprint
from hf_mtl.modeling.loading import load_encoder, load_encoder_config
from hf_mtl.modeling.model import MultiTaskModel
from tests.adapted import draw, settings, tiny_adapted
from tests.tiny import save_tiny_encoder, tiny_encoder, tiny_tasks


def loaded(folder):
    return load_encoder(str(folder), load_encoder_config(str(folder)))


def change(folder, names):
    """Draws the weights whose names hold one of these anew."""
    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(9)
    for name, weight in weights.items():
        if any(part in name for part in names):
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "albert", "qwen3"])
def test_an_encoder_has_one_fingerprint_with_adapters_and_without(architecture, tmp_path):
    folder = save_tiny_encoder(tmp_path / "encoder", architecture)
    found = fingerprint(loaded(folder))
    assert found == fingerprint(loaded(folder))
    for scope in ("shared", "both"):
        model = tiny_adapted(folder, architecture, scope=scope)
        assert fingerprint(model.encoder) == found
        assert model.base == Base(str(folder), None, found)
    save_tiny_encoder(tmp_path / "other", architecture, seed=1)
    assert fingerprint(loaded(tmp_path / "other")) != found


PARTS = {
    "embeddings": ["word_embeddings"],
    "a norm": ["layer.1.output.LayerNorm.weight"],
    "a bias": ["layer.0.attention.self.value.bias"],
    "linear layers, as merged adapters do": ["query.weight", "value.weight"],
    "one linear layer": ["layer.1.intermediate.dense.weight"],
}


@pytest.mark.parametrize("names", PARTS.values(), ids=PARTS)
def test_another_training_of_any_part_gives_another_fingerprint(names, tmp_path):
    folder = save_tiny_encoder(tmp_path)
    before = fingerprint(loaded(folder))
    change(folder, names)
    assert fingerprint(loaded(folder)) != before


def test_the_weights_of_the_pooler_are_the_heads_business(tmp_path):
    folder = save_tiny_encoder(tmp_path)
    before = fingerprint(loaded(folder))
    change(folder, ["pooler"])
    assert fingerprint(loaded(folder)) == before


def test_training_the_adapters_leaves_the_fingerprint(tmp_path):
    model = tiny_adapted(tmp_path, scope="both", use_rslora=True)
    draw(model, seed=3)
    assert fingerprint(model.encoder) == model.base.fingerprint


def test_a_model_whose_encoder_is_trained_stands_on_nothing_else(tmp_path):
    assert tiny_adapted(tmp_path, train_encoder=True).base is None


@pytest.fixture
def saved(tmp_path):
    """A model with adapters; its encoder lies beside it."""
    tiny_adapted(tmp_path / "encoder", tasks=tiny_tasks()[:1]).save_pretrained(tmp_path / "model")
    return tmp_path


def refusal(folder):
    with pytest.raises(UserError) as caught:
        MultiTaskModel.from_pretrained(folder / "model")
    return str(caught.value)


def name_base(folder, **entries):
    path = folder / "model" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["lora"]["base"] |= entries
    path.write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize("names", PARTS.values(), ids=PARTS)
def test_adapters_are_not_put_on_an_encoder_that_has_changed(saved, names):
    change(saved / "encoder", names)
    message = refusal(saved)
    assert message.startswith(f"encoder {saved / 'encoder'}: its weights (")
    assert "are not those that the adapters were trained on" in message
    assert message.endswith("name the right encoder as lora.base.encoder in config.json")


def test_adapters_are_not_put_on_an_encoder_of_another_size_or_architecture(saved):
    shutil.rmtree(saved / "encoder")
    save_tiny_encoder(saved / "encoder", hidden_size=48)
    assert "has weights of another shape" in refusal(saved)
    shutil.rmtree(saved / "encoder")
    save_tiny_encoder(saved / "encoder", "modernbert")
    assert "the checkpoint has no weights" in refusal(saved)


def test_an_encoder_that_is_gone_is_missed_and_may_be_named_where_it_lies_now(saved):
    wanted = MultiTaskModel.from_pretrained(saved / "model").state_dict()
    shutil.move(saved / "encoder", saved / "elsewhere")
    message = refusal(saved)
    assert message.startswith(f"encoder {saved / 'encoder'}: there is no such folder")
    assert message.endswith("name that place as lora.base.encoder in config.json")
    name_base(saved, encoder=str(saved / "elsewhere"))
    found = MultiTaskModel.from_pretrained(saved / "model").state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in wanted.items())


def test_an_encoder_with_pickled_weights_alone_is_refused(saved):
    weights = load_file(saved / "encoder" / "model.safetensors")
    (saved / "encoder" / "model.safetensors").unlink()
    torch.save(weights, saved / "encoder" / "pytorch_model.bin")
    assert "no safetensors weights (pytorch_model.bin is a pickle" in refusal(saved)


def test_an_encoder_in_a_package_keeps_its_name(tmp_path, monkeypatch):
    package = tmp_path / "carries_an_adapted_encoder"
    save_tiny_encoder(package / "model")
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    name = "package://carries_an_adapted_encoder/model"
    model = MultiTaskModel.from_encoder(name, tiny_tasks(), lora=settings())
    assert model.base.encoder == name
    assert model.base.peft_name is None
    model.save_pretrained(tmp_path / "model")
    assert MultiTaskModel.from_pretrained(tmp_path / "model").base == model.base
    adapter = json.loads((tmp_path / "model" / "adapters" / "shared" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] is None


def test_a_folder_is_found_again_from_wherever_the_model_is_read(tmp_path, monkeypatch):
    save_tiny_encoder(tmp_path / "encoder")
    monkeypatch.chdir(tmp_path)
    model = MultiTaskModel.from_encoder("encoder", tiny_tasks(), lora=settings())
    model.save_pretrained("model")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert MultiTaskModel.from_pretrained(tmp_path / "model").base.fingerprint == model.base.fingerprint


@pytest.mark.parametrize(
    "entries",
    [
        {},
        {"encoder": "a"},
        {"encoder": "a", "revision": None, "fingerprint": "b", "more": 1},
        {"encoder": None, "revision": None, "fingerprint": "b"},
        "encoder",
        ["encoder", "revision", "fingerprint"],
    ],
    ids=str,
)
def test_what_is_no_base_is_refused(entries):
    with pytest.raises(UserError, match="config.json: lora.base"):
        base_of(entries)


def test_where_there_is_no_base_there_is_none():
    assert base_of(None) is None
    found = base_of({"encoder": "a/b", "revision": "abc", "fingerprint": "d"})
    assert found == Base("a/b", "abc", "d")
    assert found.peft_name == "a/b"


def test_a_fingerprint_takes_any_number_type():
    one = tiny_encoder()
    assert len(fingerprint(one.to(torch.bfloat16))) == 16
