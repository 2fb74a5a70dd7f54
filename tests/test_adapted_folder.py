"""What a model with adapters leaves in its folder, and what is read of it: all of it, as it was, or nothing."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, pipeline

from hf_mtl.errors import UserError
from hf_mtl.inference.pipeline import MultiTaskPipeline
from hf_mtl.modeling.model import MultiTaskModel
from tests.adapted import MIXED, TEXTS, change_config, draw, five_texts, settings
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
    return tiny.folder


@pytest.fixture
def saved(folders, tmp_path):
    return shutil.copytree(folders / "by task", tmp_path / "model")


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


def test_lora_takes_its_defaults_where_a_model_is_made_in_python(tiny):
    torch.manual_seed(0)
    whole = MultiTaskModel.from_encoder(str(tiny.encoder()), tiny_tasks(), lora=settings(r=4))
    torch.manual_seed(0)
    found = MultiTaskModel.from_encoder(str(tiny.encoder()), tiny_tasks(), lora={"r": 4})
    assert_same(whole, found)
    with pytest.raises(UserError, match="rr"):
        MultiTaskModel.from_encoder(str(tiny.encoder()), tiny_tasks(), lora={"rr": 4})
