"""Adapters in a multi-task model: a mixed batch is worth the tasks one by one, and only what is meant is adapted."""

import copy

import pytest
import torch
from torch import nn

from hf_mtl.modeling.adapters import adapted_layers, adapter_parameters, stock_name
from hf_mtl.modeling.body import Body
from hf_mtl.modeling.lanes import Lanes
from hf_mtl.modeling.model import MultiTaskModel
from tests.adapted import (
    MIXED,
    NOTHING,
    OTHERS,
    TEXTS,
    assert_as_alone,
    assert_near,
    assert_threads_answer_alike,
    chosen,
    draw,
    five_texts,
    gradient,
    rows_of,
    tiny_adapted,
    trained,
)
from tests.test_model import text_task
from tests.tiny import ARCHITECTURES, save_tiny_encoder, tiny_encoder, tiny_model, tiny_tasks

ALL = (*ARCHITECTURES, "qwen3")
SCOPES = ("shared", "per_task", "both")
KINDS = {
    "shared": {"scope": "shared"},
    "per_task": {"scope": "per_task"},
    "both": {"scope": "both", "use_rslora": True},
    "dora by task": {"scope": "per_task", "use_dora": True},
    "encoder trained": {"scope": "per_task", "train_encoder": True},
    "top layer": {"scope": "per_task", "layers_to_transform": [1]},
}


FEWER = rows_of(topic=[], moods=[1, 0], score=[2, 0], slots=[2])
"""Of three texts."""
FEW = dict.fromkeys(ALL, ("per_task", "both")) | {
    "bert": tuple(KINDS),
    "modernbert": ("shared", "both", "top layer"),
    "deberta-v2": tuple(KINDS),
    "albert": ("shared", "both", "dora by task"),
}
"""The kinds that are tried on each architecture."""
CASES = [(architecture, kind) for architecture, kinds in FEW.items() for kind in kinds]
EXACT = {"modernbert": 1e-6, "qwen3": 1e-6}
"""These turn queries and keys in float32, whatever comes."""


@pytest.mark.parametrize(("architecture", "kind"), CASES)
def test_a_mixed_batch_gives_logits_and_gradients_of_the_tasks_one_by_one(tiny, architecture, kind):
    model, batch = tiny.new(architecture, **KINDS[kind]).double(), five_texts(architecture)
    for rows in (MIXED, OTHERS):
        assert_as_alone(model, batch, rows, EXACT.get(architecture, 1e-11))


@pytest.mark.parametrize(("architecture", "kind"), CASES)
def test_a_batch_without_a_row_of_any_task_gives_gradients_of_exactly_zero(tiny, architecture, kind):
    model = tiny.new(architecture, **KINDS[kind]).double()
    logits = model(**chosen(five_texts(architecture), torch.tensor([0])), rows=NOTHING).logits
    assert all(len(value) == 0 for value in logits.values())
    assert all(found.eq(0).all() for found in gradient(model, logits).values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_without_a_row_moves_nothing_of_its_own(tiny, kind):
    model = tiny.model(**KINDS[kind])
    gradients = gradient(model, model(**five_texts(), rows=MIXED).logits)
    own = {id(weight) for weight in model.own_parameters("score")}
    still = {name for name, found in gradients.items() if found.eq(0).all()}
    assert still == {name for name, weight in trained(model).items() if id(weight) in own}


def test_the_comparison_could_fail(tiny):
    """Each task's adapter gives states far from those of the others, and of the encoder without it."""
    for scope in ("per_task", "both"):
        model = tiny.model(scope=scope)
        states = model.encode(**five_texts())
        bare = tiny_model(tiny.encoder()).encode(**five_texts())["topic"]
        found = [bare, *states.values()]
        for number, one in enumerate(found):
            assert all((one - other).abs().max() > 0.1 for other in found[:number])
    shared = tiny.model(scope="shared").encode(**five_texts())
    assert all(torch.equal(value, shared["topic"]) for value in shared.values())


@pytest.mark.parametrize("kind", KINDS)
def test_only_adapters_and_heads_are_trained_unless_the_encoder_is_too(tiny, kind):
    model = tiny.model(**KINDS[kind])
    encoder_too = KINDS[kind].get("train_encoder", False)
    for name, weight in model.named_parameters():
        assert weight.requires_grad == (name.startswith("heads.") or ".lora_" in name or encoder_too), name


@pytest.mark.parametrize(("scope", "lanes"), [("shared", "shared"), ("per_task", None), ("both", None)])
def test_the_adapters_of_a_scope(tiny, scope, lanes):
    model = tiny.model(scope=scope)
    tasks = ["topic", "moods", "score", "slots"]
    assert model.lanes.tasks == {task: lanes or task for task in tasks}
    adapters = {"shared": ["shared"], "per_task": tasks, "both": ["shared", *tasks]}[scope]
    for layer in adapted_layers(model.encoder).values():
        assert set(layer.lora_A) == set(adapters)
    own = {task: {id(weight) for weight in model.own_parameters(task)} for task in tasks}
    for task in tasks:
        adapter = set() if scope == "shared" else {id(w) for w in adapter_parameters(model.encoder, task)}
        assert own[task] == adapter | {id(weight) for weight in model.heads[task].parameters()}


def test_a_lone_task_has_the_shared_adapter_to_itself(tiny):
    model = tiny_adapted(tiny.encoder(), tasks=tiny_tasks()[:1])
    assert {id(weight) for weight in model.own_parameters("topic")} == {
        id(weight) for weight in trained(model).values()
    }


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("names", [("other", "query"), ("default", "base_layer"), ("lora_A", "weight"), ("意图", "_x")])
def test_tasks_of_any_name_have_an_adapter_each(tiny, tmp_path, scope, names):
    tasks = [text_task(name) for name in names]
    model = tiny_adapted(tiny.encoder(), tasks=tasks, scope=scope)
    number = {"shared": 1, "per_task": 2, "both": 3}[scope]
    assert {len(layer.lora_A) for layer in adapted_layers(model.encoder).values()} == {number}
    model.save_pretrained(tmp_path)
    ours, theirs = (one(**five_texts()).logits for one in (model, MultiTaskModel.from_pretrained(tmp_path)))
    assert all(torch.equal(ours[name], theirs[name]) for name in names)


def test_rows_are_copied_no_lower_than_the_adapters_need(tiny):
    seen = {}
    for number in (0, 1):
        model = tiny.new(scope="per_task", layers_to_transform=number)
        for place, layer in enumerate(model.encoder.encoder.layer):
            layer.register_forward_hook(lambda _, args, out, key=(number, place): seen.update({key: len(out)}))
        model(**five_texts(), rows=MIXED)
    copies = sum(map(len, MIXED.values()))
    assert seen == {(0, 0): copies, (0, 1): copies, (1, 0): len(TEXTS), (1, 1): copies}


def test_a_task_without_an_adapter_stands_beside_others(tiny):
    model = tiny.new(scope="per_task")
    lanes = Lanes(model.lanes.tasks | {"score": "", "moods": "topic"})
    model.release()
    mixed = MultiTaskModel.of_parts(Body(model.encoder, lanes), dict(model.heads.items()), list(model.tasks.values()))
    states = mixed.encode(**five_texts(), rows=OTHERS)
    bare = tiny_model(tiny.encoder()).encode(**five_texts(), rows=OTHERS)
    torch.testing.assert_close(states["score"], bare["score"], rtol=0, atol=1e-6)
    every = mixed.encode(**five_texts(), tasks=["topic"])["topic"]
    torch.testing.assert_close(states["moods"], every[OTHERS["moods"]], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        *(("bert", kind) for kind in ("both", "dora by task", "encoder trained", "top layer")),
        ("deberta-v2", "per_task"),
    ],
)
def test_gradient_checkpointing_changes_no_gradient(tiny, architecture, kind):
    batch, found = five_texts(architecture), []
    for checkpointing in (False, True):
        model = tiny.new(architecture, **KINDS[kind]).train()
        if checkpointing:
            model.activation_checkpointing_enable()
            assert model.encoder.is_activation_checkpointing
        for rows in (MIXED, OTHERS):
            sum(value.square().sum() for value in model(**batch, rows=rows).logits.values()).backward()
        found.append({name: weight.grad for name, weight in trained(model).items()})
    assert_near(*found, 1e-6)


@pytest.mark.parametrize("kind", ["shared", "per_task", "both", "dora by task"])
def test_mixed_precision_is_close(tiny, kind):
    model = tiny.new(**KINDS[kind]).train()
    states, gradients = [], []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found = model.encode(**five_texts(), rows=MIXED)
        states.append({task: value.float() for task, value in found.items()})
        gradients.append(gradient(model.encoder, states[-1]))
    assert_near(*states, 0.02)
    assert_near(*gradients, 0.05)
    assert not torch.equal(states[0]["topic"], states[1]["topic"])


def test_a_compiled_encoder_gives_the_same_for_every_batch(tmp_path):
    save_tiny_encoder(tmp_path, num_hidden_layers=1)
    model = tiny_adapted(tmp_path, scope="per_task", target_modules=["query"]).train()
    batches = [(five_texts(), MIXED), (chosen(five_texts(), torch.tensor([1, 4, 0])), FEWER)]

    def run():
        found = []
        for batch, rows in batches:
            states = model.encode(**batch, rows=rows)
            found.append((states, gradient(model.encoder, states)))
        return found

    wanted = run()
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    model.encoder.compile(dynamic=True, backend="eager")
    for pairs in zip(wanted, run(), strict=True):
        for one, other in zip(*pairs, strict=True):
            assert_near(other, one, 1e-5)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0


def test_threads_that_ask_for_different_tasks_at_once_get_the_answers_of_one_after_another(tiny):
    assert_threads_answer_alike(tiny.new(scope="per_task"), [["topic"], ["slots"], ["topic", "moods"], None])


@pytest.mark.parametrize("kind", ["both", "top layer"])
def test_a_copy_of_a_model_is_a_model_of_its_own(tiny, kind):
    model = tiny.new(**KINDS[kind])
    twin, batch = copy.deepcopy(model), five_texts()
    wanted = gradient(model, model(**batch, rows=MIXED).logits)
    logits = twin(**batch, rows=MIXED).logits
    twin_logits = {task: value.detach().clone() for task, value in logits.items()}
    # A batch of the one between a pass of the other and its backward, and other weights in the one.
    draw(model, seed=5)
    model(**chosen(batch, torch.tensor([2])), rows=NOTHING)
    assert_near(gradient(twin, logits), wanted, 1e-6)
    assert all(torch.equal(value, twin_logits[task]) for task, value in twin(**batch, rows=MIXED).logits.items())


def test_every_weight_has_its_name_in_the_stock_encoder(tiny):
    for architecture in ("bert", "albert", "modernbert"):
        model = tiny.model(architecture, scope="both")
        stock = {name: None for name in tiny_encoder(architecture).state_dict() if not name.startswith("pooler")}
        assert {stock_name(name) for name in model.encoder.state_dict()} - {None} == stock.keys()
        assert all(isinstance(layer.base_layer, nn.Linear) for layer in adapted_layers(model.encoder).values())
