"""Adapters and groups of tasks: a group's own adapter above a shared one, and adapters on layers of a group's own."""

import shutil

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from hf_mtl.errors import UserError
from hf_mtl.modeling.adapters import adapted_layers, adapter_parameters
from hf_mtl.modeling.model import MultiTaskModel
from tests.adapted import (
    MIXED,
    NOTHING,
    OTHERS,
    alone,
    assert_near,
    change_config,
    chosen,
    five_texts,
    gradient,
    settings,
    trained,
)
from tests.grouped import LISTS, TASKS, assert_logits, encoder_folder, equal, grouped, stock_logits
from tests.test_model import text_task
from tests.test_private_layers import EXACT, OWN_LAYERS

KINDS = {
    "shared": {"scope": "shared"},
    "shared dora": {"scope": "shared", "use_dora": True},
    "both": {"scope": "both", "use_rslora": True},
    "shared, encoder": {"scope": "shared", "train_encoder": True},
    "per_task, encoder": {"scope": "per_task", "train_encoder": True},
    "both, encoder": {"scope": "both", "train_encoder": True, "r": 3, "lora_alpha": 7},
    "dora, encoder": {"scope": "per_task", "train_encoder": True, "use_dora": True},
    "top": {"scope": "both", "layers_to_transform": [2]},
    "top, encoder": {"scope": "both", "layers_to_transform": [2], "train_encoder": True},
    "top shared": {"scope": "shared", "layers_to_transform": [2]},
    "trunk, encoder": {"scope": "both", "layers_to_transform": [0], "train_encoder": True},
    "trunk shared, encoder": {"scope": "shared", "layers_to_transform": [0], "train_encoder": True},
}
FROZEN = [kind for kind in KINDS if not KINDS[kind].get("train_encoder")]
FEW = ("shared", "both", "both, encoder")
CASES = [("bert", kind) for kind in KINDS]
CASES += [(name, kind) for name in OWN_LAYERS if name != "bert" for kind in FEW]
CASES += [("deberta-v2", "shared, encoder"), ("electra", "per_task, encoder"), ("modernbert", "shared dora")]


def adapted(tiny, architecture="bert", kind="shared", groups=LISTS, **changes):
    return grouped(tiny, architecture, groups=groups, lora=settings(**KINDS[kind] | changes))


@pytest.mark.parametrize(("architecture", "kind"), CASES)
def test_a_mixed_batch_gives_logits_and_gradients_of_the_tasks_one_by_one(tiny, architecture, kind):
    model, batch = adapted(tiny, architecture, kind).double(), five_texts(architecture)
    exact = EXACT.get(architecture, 1e-10)
    for rows in (MIXED, OTHERS):
        mixed = model(**batch, rows=rows).logits
        gradients, total = gradient(model, mixed), dict.fromkeys(trained(model), 0)
        for task, found in rows.items():
            assert len(mixed[task]) == len(found)
            if len(found):
                logits = alone(model, batch, rows, task)
                torch.testing.assert_close(mixed[task], logits, rtol=0, atol=exact)
                one = gradient(model, {task: logits}, some=True)
                total = {name: before + one[name] for name, before in total.items()}
        assert_near(gradients, total, exact)
        assert_logits(mixed, stock_logits(model, batch, rows), max(exact, 1e-5))
    logits = model(**chosen(batch, torch.tensor([0])), rows=NOTHING).logits
    assert all(found.eq(0).all() for found in gradient(model, logits).values())


@pytest.mark.parametrize(("architecture", "kind"), [case for case in CASES if case[0] == "bert" or case[1] != "both"])
def test_a_saved_model_gives_the_same_answers_to_the_bit(tiny, tmp_path, architecture, kind):
    model, batch = adapted(tiny, architecture, kind), five_texts(architecture)
    model.save_pretrained(tmp_path)
    read = MultiTaskModel.from_pretrained(tmp_path)
    read.save_pretrained(tmp_path / "again")
    for other in (read, MultiTaskModel.from_pretrained(tmp_path / "again")):
        assert other.groups == model.groups
        assert equal(model(**batch, rows=MIXED).logits, other(**batch, rows=MIXED).logits)
        assert equal(model(**batch, rows=OTHERS).logits, other(**batch, rows=OTHERS).logits)
        for task in TASKS:
            assert equal(model(**batch, tasks=[task]).logits, other(**batch, tasks=[task]).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_groups_and_tasks_answer_differently(tiny, kind):
    """So that the comparisons could fail: each group's states are far from those of the others."""
    states = adapted(tiny, kind=kind).encode(**five_texts())
    own = KINDS[kind]["scope"] != "shared"
    assert torch.equal(states["topic"], states["moods"]) == (not own)
    found = list(states.values())[0 if own else 1 :]
    for number, one in enumerate(found):
        assert all((one - other).abs().max() > 0.01 for other in found[:number])


@pytest.mark.parametrize("private_layers", [1, 2])
def test_on_a_frozen_encoder_groups_share_an_adapter_below_and_have_one_each_above(tiny, private_layers):
    model = grouped(tiny, lora=settings(scope="shared"), private_layers=private_layers)
    assert not list(model.private.parameters())
    for name, layer in adapted_layers(model.encoder).items():
        top = int(name.split(".")[2]) >= 3 - private_layers
        assert set(layer.lora_A) == ({"topic", "score", "slots"} if top else {"shared"})
    for name, weight in model.named_parameters():
        assert weight.requires_grad == (name.startswith("heads.") or ".lora_" in name)
    own = {id(weight) for weight in model.own_parameters("slots")} - {id(w) for w in model.heads["slots"].parameters()}
    assert own == {id(weight) for weight in adapter_parameters(model.encoder, "slots")}
    assert not set(map(id, model.own_parameters("topic"))) - set(map(id, model.heads["topic"].parameters()))


@pytest.mark.parametrize("kind", FROZEN)
def test_no_layer_of_a_frozen_encoder_is_copied(tiny, kind):
    model = adapted(tiny, kind=kind)
    assert not list(model.private.parameters())
    assert [group.private_layers for group in model.groups] == [1, 1, 1]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in FROZEN])
def test_where_the_encoder_is_trained_groups_have_layers_in_full(tiny, kind):
    model = adapted(tiny, kind=kind)
    assert set(model.private) == {"score", "slots"}
    assert all(weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize("architecture", ["bert", "deberta-v2", "modernbert", "electra"])
@pytest.mark.parametrize("kind", FROZEN)
def test_peft_puts_a_saved_adapter_on_the_stock_encoder_with_equal_states(tiny, tmp_path, architecture, kind):
    model, batch = adapted(tiny, architecture, kind), five_texts(architecture)
    model.save_pretrained(tmp_path)
    names = TASKS if KINDS[kind]["scope"] == "both" else ["topic", "score", "slots"]
    assert sorted(path.name for path in (tmp_path / "adapters").iterdir()) == sorted(names)
    assert not (tmp_path / "model.safetensors").exists()
    for name in names:
        stock = AutoModel.from_pretrained(encoder_folder(tiny, architecture)).eval()
        with_adapter = peft.PeftModel.from_pretrained(stock, tmp_path / "adapters" / name).eval()
        wanted = model.encode(**batch, tasks=[name])[name]
        torch.testing.assert_close(with_adapter(**batch).last_hidden_state, wanted, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    adapted(tiny).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


@pytest.mark.parametrize("part", ["lora_A", "lora_B"])
@pytest.mark.parametrize("name", ["topic", "score", "slots"])
def test_adapters_that_differ_below_the_private_layers_are_refused(folder, name, part):
    file = folder / "adapters" / name / "adapter_model.safetensors"
    weights = load_file(file)
    below = next(key for key in weights if ".layer.1." in key and part in key)
    save_file(weights | {below: weights[below] + 1}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"differ in encoder.layer.1.*below the private layers"):
        MultiTaskModel.from_pretrained(folder)


def test_adapters_may_differ_in_the_private_layers(folder):
    file = folder / "adapters" / "slots" / "adapter_model.safetensors"
    weights = load_file(file)
    save_file({key: weight + (".layer.2." in key) for key, weight in weights.items()}, file, metadata={"format": "pt"})
    assert MultiTaskModel.from_pretrained(folder)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([], "lora"),
        ([{"name": "topic", "tasks": ["topic"], "private_layers": 1}], "groups"),
        (5, "groups"),
    ],
)
def test_a_config_whose_groups_are_not_those_of_the_adapters_is_refused(folder, groups, message):
    change_config(folder, lambda config: config.update(groups=groups))
    with pytest.raises(UserError, match=f"config.json: .*{message}"):
        MultiTaskModel.from_pretrained(folder)


@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize("number", [4, 30])
def test_groups_of_more_layers_than_the_encoder_has_are_refused(folder, number, place):
    change_config(folder, lambda config: config["groups"][place].update(private_layers=number))
    with pytest.raises(UserError, match="layers"):
        MultiTaskModel.from_pretrained(folder)


def test_an_adapter_of_a_group_that_is_missing_is_refused(folder):
    shutil.rmtree(folder / "adapters" / "slots")
    with pytest.raises(UserError, match="adapters/slots"):
        MultiTaskModel.from_pretrained(folder)


@pytest.mark.parametrize("changes", [{"layers_to_transform": [0]}, {"layers_to_transform": [0, 1], "scope": "both"}])
def test_top_layers_that_get_no_adapter_are_refused_on_a_frozen_encoder(tiny, changes):
    with pytest.raises(UserError, match="sharing.private_layers: .* they get none; see lora.target_modules"):
        adapted(tiny, **changes)


def test_a_number_is_refused_where_each_task_has_its_own_adapter_in_a_frozen_encoder(tiny):
    with pytest.raises(UserError, match="private_layers"):
        grouped(tiny, lora=settings(scope="per_task"))


@pytest.mark.parametrize("kind", ["shared", "both", "per_task, encoder"])
def test_a_group_is_not_called_as_the_adapter_of_all_tasks(tiny, kind):
    tasks = [text_task("shared"), text_task("other")]
    sharing = {"private_layers": 1, "groups": "task"}
    with pytest.raises(UserError, match="a task cannot be called 'shared' beside adapters"):
        MultiTaskModel.from_encoder(str(encoder_folder(tiny)), tasks, lora=settings(**KINDS[kind]), sharing=sharing)


@pytest.mark.parametrize("kind", ["both", "both, encoder"])
def test_a_task_may_be_called_as_the_adapter_of_a_group_would_be(tiny, tmp_path, kind):
    """`shared-a` cannot name a task; the nearest that can must not clash either."""
    tasks = [text_task(name) for name in ("a", "shared_a", "b")]
    sharing = {"private_layers": 1, "groups": [["a"], ["shared_a", "b"]]}
    model = MultiTaskModel.from_encoder(str(encoder_folder(tiny)), tasks, lora=settings(**KINDS[kind]), sharing=sharing)
    model.save_pretrained(tmp_path)
    ours, theirs = (one(**five_texts()).logits for one in (model, MultiTaskModel.from_pretrained(tmp_path)))
    assert equal(ours, theirs)


@pytest.mark.parametrize("architecture", ["bert", "deberta-v2"])
@pytest.mark.parametrize("kind", ["shared", "both", "both, encoder"])
def test_gradient_checkpointing_changes_no_gradient(tiny, architecture, kind):
    found = []
    for checkpointing in (False, True):
        model = adapted(tiny, architecture, kind).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        sum(value.square().sum() for value in model(**five_texts(architecture), rows=MIXED).logits.values()).backward()
        found.append({name: weight.grad for name, weight in trained(model).items()})
    assert_near(*found, 1e-6)
