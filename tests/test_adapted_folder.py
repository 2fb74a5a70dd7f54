"""What a model with adapters leaves in its folder, and what is read of it: all of it, as it was, or nothing."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, pipeline

from hf_mtl.errors import UserError
from hf_mtl.inference.pipeline import MultiTaskPipeline
from hf_mtl.modeling.model import MultiTaskModel
from tests.adapted import MIXED, TEXTS, Tiny, draw, five_texts, settings
from tests.tiny import ARCHITECTURES, tiny_model, tiny_tasks, tiny_tokenizer

KINDS = {
    "shared": {"scope": "shared"},
    "per_task": {"scope": "per_task"},
    "both": {"scope": "both", "r": 3, "lora_alpha": 7},
    "both, rslora": {"scope": "both", "r": 3, "use_rslora": True, "rank_pattern": {"query": 5}},
    "dora": {"scope": "shared", "use_dora": True},
    "dora by task": {"scope": "per_task", "use_dora": True},
    "encoder trained": {"scope": "both", "train_encoder": True},
    "dropout": {"scope": "per_task", "lora_dropout": 0.3},
}
TASKS = ["topic", "moods", "score", "slots"]
CASES = [("bert", kind) for kind in KINDS]
CASES += [(architecture, "both") for architecture in (*ARCHITECTURES, "qwen3") if architecture != "bert"]
CASES += [(architecture, "encoder trained") for architecture in ("albert", "deberta-v2")]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return Tiny(tmp_path_factory.mktemp("tiny"))


def answers(model, architecture="bert"):
    """In a mixed batch, and one task after the other."""
    batch = five_texts(architecture)
    alone = {task: model(**batch, tasks=[task]).logits[task] for task in model.tasks}
    return [*model(**batch, rows=MIXED).logits.values(), *alone.values()]


def assert_same(one, other, architecture="bert"):
    for ours, theirs in zip(answers(one, architecture), answers(other, architecture), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("architecture", "kind"), CASES)
def test_a_saved_model_gives_the_same_answers_to_the_bit(tiny, tmp_path, architecture, kind):
    model = tiny.new(architecture, **KINDS[kind])
    if KINDS[kind].get("train_encoder"):
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.01)
    model.save_pretrained(tmp_path)
    read = MultiTaskModel.from_pretrained(tmp_path)
    assert not read.training
    assert read.base == model.base
    assert [task.spec for task in read.tasks.values()] == [task.spec for task in model.tasks.values()]
    assert_same(model, read, architecture)
    if architecture != "bert":
        return
    # Once more, since the sum of two adapters comes back as one.
    read.save_pretrained(tmp_path / "again")
    assert_same(model, MultiTaskModel.from_pretrained(tmp_path / "again"), architecture)


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_holds_config_adapters_and_heads_and_nothing_of_a_base(tiny, tmp_path, kind):
    tiny.new(**KINDS[kind]).save_pretrained(tmp_path)
    names = ["shared"] if KINDS[kind]["scope"] == "shared" else TASKS
    adapters = {
        f"adapters/{name}/{file}" for name in names for file in ("adapter_config.json", "adapter_model.safetensors")
    }
    trained = KINDS[kind].get("train_encoder", False)
    encoder = {"model.safetensors"} if trained else set()
    assert files(tmp_path) == {"config.json", "heads.safetensors"} | adapters | encoder
    heads = load_file(tmp_path / "heads.safetensors")
    assert {".".join(name.split(".")[:2]) for name in heads} == {f"heads.{task}" for task in TASKS}
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["lora"]["adapters"] == {task: "shared" if names == ["shared"] else task for task in TASKS}
    assert (config["lora"]["base"] is None) == trained
    if trained:
        stock = load_file(tiny.encoder() / "model.safetensors")
        wanted = {f"encoder.{name}" for name in stock if not name.startswith("pooler")}
        assert load_file(tmp_path / "model.safetensors").keys() == wanted
    else:
        assert config["lora"]["base"]["encoder"] == str(tiny.encoder())


def test_a_model_without_adapters_says_nothing_of_them(tmp_path):
    tiny_model(tmp_path / "encoder").save_pretrained(tmp_path / "model")
    assert "lora" not in json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model(tiny):
    return tiny.new(scope="per_task")


@pytest.fixture(scope="module")
def folders(tiny, model):
    """Saved models, to be copied."""
    model.save_pretrained(tiny.folder / "by task")
    tiny_tokenizer().save_pretrained(tiny.folder / "by task")
    tiny.model(train_encoder=True).save_pretrained(tiny.folder / "encoder too")
    return tiny.folder


@pytest.fixture
def saved(folders, tmp_path):
    return shutil.copytree(folders / "by task", tmp_path / "model")


@pytest.fixture
def whole(folders, tmp_path):
    """A model whose encoder lies in its folder."""
    return shutil.copytree(folders / "encoder too", tmp_path / "whole")


def test_every_way_of_reading_a_model_reads_one_with_adapters(model, saved):
    assert_same(model, AutoModel.from_pretrained(saved))
    wanted = MultiTaskPipeline(model, tiny_tokenizer())(TEXTS)
    assert MultiTaskPipeline.from_pretrained(saved)(TEXTS) == wanted
    assert pipeline("multi-task", model=str(saved))(TEXTS) == wanted
    read, info = MultiTaskModel.from_pretrained(saved, output_loading_info=True)
    assert_same(model, read)
    assert not any(info.values())
    assert {"missing_keys", "unexpected_keys", "mismatched_keys"} <= set(info)


@pytest.mark.parametrize("auto", [AutoModel, MultiTaskModel, MultiTaskPipeline])
def test_type_and_attention_are_as_they_are_asked_for(saved, auto):
    def read(**options):
        found = auto.from_pretrained(saved, **options)
        return found.model if auto is MultiTaskPipeline else found

    for dtype in ("bfloat16", torch.bfloat16):
        found = read(dtype=dtype)
        assert {weight.dtype for weight in found.parameters()} == {torch.bfloat16}
        assert found.config.dtype == torch.bfloat16
    assert {weight.dtype for weight in read(dtype="auto").parameters()} == {torch.float32}
    plain, eager = read(), read(attn_implementation="eager")
    assert plain.encoder.config._attn_implementation == "sdpa"
    assert eager.encoder.config._attn_implementation == "eager"
    for one, other in zip(answers(plain), answers(eager), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_a_model_on_bfloat16_comes_back_as_one(tiny, tmp_path):
    model = tiny.new(scope="both").to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    read = MultiTaskModel.from_pretrained(tmp_path)
    assert read.dtype == torch.bfloat16
    assert_same(model, read)
    assert MultiTaskModel.from_pretrained(tmp_path, dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("kind", ["per_task", "encoder trained"])
def test_a_model_that_is_read_trains_what_it_trained_before(tiny, tmp_path, kind):
    """Else a base that is not saved would be trained too, and that be lost."""
    model = tiny.new(**KINDS[kind])
    model.save_pretrained(tmp_path)
    read = MultiTaskModel.from_pretrained(tmp_path)
    still = {name for name, weight in read.named_parameters() if not weight.requires_grad}
    if kind == "encoder trained":
        assert still == set()
    else:
        assert still == {name for name, weight in model.named_parameters() if not weight.requires_grad}


@pytest.mark.parametrize("kind", ["per_task", "encoder trained"])
def test_a_model_can_be_saved_over_the_folder_it_was_read_from(tiny, tmp_path, kind):
    tiny.new(**KINDS[kind]).save_pretrained(tmp_path)
    read = MultiTaskModel.from_pretrained(tmp_path)
    draw(read, seed=8)
    read.save_pretrained(tmp_path)
    assert_same(read, MultiTaskModel.from_pretrained(tmp_path))


def test_what_a_task_learned_after_the_model_was_made_is_saved(tiny, tmp_path):
    model = tiny.new(scope="per_task")
    task = model.tasks["moods"]
    task.spec = replace(task.spec, threshold=0.7)
    model.save_pretrained(tmp_path)
    assert MultiTaskModel.from_pretrained(tmp_path).tasks["moods"].spec.threshold == 0.7


def test_the_weights_to_save_may_be_given(model, tmp_path):
    weights = {name: torch.full_like(weight, 0.5) for name, weight in model.state_dict().items()}
    model.save_pretrained(tmp_path, state_dict=weights)
    read = MultiTaskModel.from_pretrained(tmp_path)
    for name, weight in read.named_parameters():
        if name.startswith("heads.") or ".lora_" in name:
            assert weight.eq(0.5).all(), name


def test_a_task_may_have_no_adapter(model, saved):
    change_config(saved, lambda config: config["lora"]["adapters"].update(moods=None))
    read, batch = MultiTaskModel.from_pretrained(saved), five_texts()
    states, before = read.encode(**batch, rows=MIXED), model.encode(**batch)
    bare = tiny_model(model.base.encoder).encode(**batch)
    for task, wanted in (before | {"moods": bare["moods"]}).items():
        torch.testing.assert_close(states[task], wanted[MIXED[task]], rtol=0, atol=1e-5)


def test_a_model_whose_base_can_be_trained_is_not_saved_without_it(tiny, tmp_path):
    model = tiny.new(scope="shared")
    model.encoder.get_input_embeddings().weight.requires_grad_(True)
    with pytest.raises(UserError, match="the encoder's own weights can be trained .requires_grad., and a model with"):
        model.save_pretrained(tmp_path / "model")
    assert not list((tmp_path / "model").glob("**/*.safetensors"))


def change_config(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    change(config)
    path.write_text(json.dumps(config), encoding="utf-8")


def change_weights(path, change):
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def refusal(folder, auto=MultiTaskModel):
    with pytest.raises(UserError) as caught:
        auto.from_pretrained(folder)
    return str(caught.value)


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
    change_weights(saved / "heads.safetensors", change)
    found = refusal(saved)
    assert found.startswith(f"model {saved}: heads.safetensors")
    assert message in found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda weights: weights.pop("encoder.embeddings.LayerNorm.bias"),
            'Missing key(s) in state_dict: "embeddings.',
        ),
        (lambda weights: weights.update(more=torch.zeros(1)), 'Unexpected key(s) in state_dict: "more"'),
        (
            lambda weights: weights.update({"encoder.embeddings.LayerNorm.bias": torch.zeros(9)}),
            "size mismatch for embeddings.LayerNorm.bias",
        ),
    ],
)
def test_an_encoder_s_own_weights_that_do_not_fit_are_refused(whole, change, message):
    change_weights(whole / "model.safetensors", change)
    found = refusal(whole)
    assert found.startswith(f"model {whole}: model.safetensors")
    assert message in found


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


def test_lora_takes_its_defaults_where_a_model_is_made_in_python(tiny):
    torch.manual_seed(0)
    whole = MultiTaskModel.from_encoder(str(tiny.encoder()), tiny_tasks(), lora=settings(r=4))
    torch.manual_seed(0)
    found = MultiTaskModel.from_encoder(str(tiny.encoder()), tiny_tasks(), lora={"r": 4})
    assert_same(whole, found)
    with pytest.raises(UserError, match="rr"):
        MultiTaskModel.from_encoder(str(tiny.encoder()), tiny_tasks(), lora={"rr": 4})
