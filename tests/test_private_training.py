"""Private layers in use: checkpointed activations, dropout, absent groups, precision, copies of models, threads."""

import copy

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from hf_mtl.training.loss import count_step, drop_absent_gradients
from tests.adapted import (
    MIXED,
    OTHERS,
    assert_near,
    assert_threads_answer_alike,
    five_texts,
    gradient,
    rows_of,
    trained,
)
from tests.grouped import TASKS, assert_logits, body_weights, equal, grouped, stir, stock_encoder, stock_logits
from tests.test_private_layers import OWN_LAYERS, by_hand
from tests.tiny import tiny_encoder

ABLE = [name for name in OWN_LAYERS if tiny_encoder(name).supports_gradient_checkpointing]
DROPOUT = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}


def summed_gradients(model, batch, seed=0):
    """Of two batches, one after the other."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for rows in (MIXED, OTHERS):
            sum(value.square().sum() for value in model(**batch, rows=rows).logits.values()).backward()
    return {name: weight.grad for name, weight in trained(model).items()}


@pytest.mark.parametrize("architecture", ABLE)
def test_gradient_checkpointing_changes_no_gradient(tiny, architecture):
    found = []
    for checkpointing in (False, True):
        model = grouped(tiny, architecture).train()
        if checkpointing:
            model.activation_checkpointing_enable()
            assert model.encoder.is_activation_checkpointing
        found.append(summed_gradients(model, five_texts(architecture)))
    assert_near(*found, 1e-6)


def test_gradient_checkpointing_is_for_those_that_know_it():
    assert len(ABLE) >= 8
    assert "mpnet" not in ABLE


def test_encoders_that_do_not_know_gradient_checkpointing_refuse_it_with_private_layers_too(tiny):
    with pytest.raises(ValueError, match="checkpointing"):
        grouped(tiny, "mpnet").activation_checkpointing_enable()


@pytest.mark.parametrize("depths", [(2, 1, 2), (2, 2, 1)])
def test_gradient_checkpointing_with_groups_of_several_depths(tiny, depths):
    found = []
    for checkpointing in (False, True):
        model = by_hand(tiny, depths=depths).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        found.append(summed_gradients(model, five_texts()))
    assert_near(*found, 1e-6)


def test_checkpointed_layers_are_computed_once_more_and_no_more(tiny):
    times = {}
    for checkpointing in (False, True):
        model = grouped(tiny).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        layers = {
            "own": model.encoder.encoder.layer[2],
            "copy": model.private["slots"].get_submodule("encoder.layer.2"),
        }
        for name, layer in layers.items():
            key = (name, checkpointing)
            layer.attention.register_forward_hook(lambda *_, key=key: times.update({key: times.get(key, 0) + 1}))
        sum(value.sum() for value in model(**five_texts(), rows=MIXED).logits.values()).backward()
    assert times == {("own", False): 1, ("copy", False): 1, ("own", True): 2, ("copy", True): 2}


def test_dropout_is_the_same_with_gradient_checkpointing_as_in_the_stock_encoder(tiny):
    found, stock = [], []
    for checkpointing in (False, True):
        model = grouped(tiny, encoder_config=DROPOUT).train()
        encoder = stock_encoder(model, "slots")
        if checkpointing:
            model.activation_checkpointing_enable()
            encoder.activation_checkpointing_enable()
        found.append(summed_gradients(model, five_texts()))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            stock.append(gradient(encoder, {"slots": encoder(**five_texts()).last_hidden_state}))
    assert_near(*stock, 1e-6)
    assert_near(*found, 1e-6)
    with pytest.raises(AssertionError):
        assert_near(found[0], summed_gradients(grouped(tiny, encoder_config=DROPOUT).train(), five_texts(), 1), 1e-2)


@pytest.mark.parametrize("make", [grouped, by_hand])
@pytest.mark.parametrize("absent", [["score"], ["slots"], ["topic", "moods"], ["topic"], ["score", "slots"]])
def test_what_no_task_of_the_step_reads_has_no_gradient_and_all_else_has_one(tiny, make, absent):
    model = make(tiny).train()
    rows = rows_of(**{task: [] if task in absent else [0, 3] for task in TASKS})
    batch = five_texts()
    labels = {task: {"rows": rows[task]} for task in TASKS}
    counts = count_step([{**batch, "rows": rows, "labels": labels}], _counted(model), Accelerator(cpu=True))
    sum(value.square().sum() for value in model(**batch, rows=rows).logits.values()).backward()
    assert all(weight.grad is not None for weight in trained(model).values())
    drop_absent_gradients(model, counts)
    none = {name for name, weight in trained(model).items() if weight.grad is None}
    assert none == set(read_by_none(model, absent))
    zero = {name for name, weight in trained(model).items() if weight.grad is not None and weight.grad.eq(0).all()}
    assert not zero


def _counted(model):
    """The tasks, which here count what is handed to them as labels."""

    class Counted:
        def items(self, labels):
            return len(labels["rows"])

    return {task: Counted() for task in model.tasks}


def read_by_none(model, absent):
    """By the stock encoders of the groups that are left."""
    read = set()
    for group in model.groups:
        if set(group.tasks) - set(absent):
            for name in stock_encoder(model, group.name).state_dict():
                own = f"private.{group.name}.{name}"
                read.add(own if own in body_weights(model) else f"encoder.{name}")
    heads = tuple(f"heads.{task}." for task in absent)
    return [
        name for name in trained(model) if name.startswith(heads) or (name in body_weights(model) and name not in read)
    ]


def test_mixed_precision_is_close(tiny):
    model = grouped(tiny).train()
    states, gradients = [], []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found = model.encode(**five_texts(), rows=MIXED)
        states.append({task: value.float() for task, value in found.items()})
        gradients.append(gradient(model, states[-1], some=True))
    assert_near(*states, 0.02)
    assert_near(*gradients, 0.05)
    assert not torch.equal(states[0]["topic"], states[1]["topic"])


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "electra"])
def test_a_copy_of_a_model_answers_alike_and_is_a_model_of_its_own(tiny, architecture):
    model, batch = grouped(tiny, architecture), five_texts(architecture)
    twin = copy.deepcopy(model)
    wanted = gradient(model, model(**batch, rows=MIXED).logits)
    logits = twin(**batch, rows=MIXED).logits
    kept = {task: value.detach().clone() for task, value in logits.items()}
    assert equal(kept, model(**batch, rows=MIXED).logits)
    # A batch of the one between a pass of the other and its backward, and other weights in the one.
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2)
    model(**batch, rows=OTHERS)
    model.release()
    assert_near(gradient(twin, logits), wanted, 1e-6)
    assert equal(twin(**batch, rows=MIXED).logits, kept)
    stir(twin, seed=4)
    changed = twin(**batch, rows=MIXED).logits
    assert torch.equal(changed["topic"], kept["topic"])
    assert not torch.equal(changed["slots"], kept["slots"])
    assert_logits(changed, stock_logits(twin, batch, MIXED), 1e-5)


def test_threads_that_ask_for_different_tasks_at_once_get_the_answers_of_one_after_another(tiny):
    assert_threads_answer_alike(grouped(tiny), [["topic"], ["slots"], ["score", "moods"], None])


def test_a_compiled_encoder_gives_the_same_for_every_batch(tiny):
    model, batch = grouped(tiny, groups="family", layers=2).train(), five_texts()
    batches = [(batch, MIXED), (batch, OTHERS)]
    wanted = [model.encode(**inputs, rows=rows) for inputs, rows in batches]
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    model.encoder.compile(dynamic=True, backend="eager")
    for (inputs, rows), states in zip(batches, wanted, strict=True):
        assert_near(model.encode(**inputs, rows=rows), states, 1e-5)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0


def test_a_model_trains_its_groups_apart(tiny):
    """A step on one group's rows moves the trunk and this group's layers, and leaves those of the others."""
    model = grouped(tiny).train()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(**five_texts(), tasks=["slots"]).logits["slots"].square().sum().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert {".".join(name.split(".")[:2]) for name in moved} == {
        "encoder.embeddings", "encoder.encoder", "private.slots", "heads.slots",
    }  # fmt: skip
    assert not any(name.startswith("encoder.encoder.layer.2.") for name in moved)
