"""Top layers that groups of tasks have for themselves: a mixed batch is worth separate stock models on one trunk."""

import pytest
import torch

from hf_mtl.errors import UserError
from hf_mtl.modeling.body import Body
from hf_mtl.modeling.dealing import Dealer
from hf_mtl.modeling.groups import Group
from hf_mtl.modeling.layers import final_norms, layer_list
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.modeling.private_layers import new_private
from hf_mtl.modeling.scopes import add_adapters, lane_groups, lanes_of
from tests.adapted import MIXED, NOTHING, OTHERS, assert_near, chosen, draw, five_texts, gradient, rows_of, trained
from tests.grouped import (
    LISTS,
    TASKS,
    assert_logits,
    body_gradient,
    encoder_folder,
    grouped,
    stir,
    stock_encoder,
    stock_gradient,
    stock_logits,
)
from tests.tiny import ARCHITECTURES, tiny_encoder, tiny_tasks

OWN_LAYERS = [name for name in (*ARCHITECTURES, "qwen3") if name != "albert"]
EXACT = {"modernbert": 1e-6, "qwen3": 1e-6}
"""These turn queries and keys in float32, whatever comes."""
ONE = rows_of(topic=[4], moods=[4], score=[], slots=[])
"""A row of one group."""


def inputs_of(architecture, padding):
    ids = five_texts(architecture)["input_ids"]
    return {"input_ids": ids} if padding == "none" else {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def assert_as_stock(model, batch, rows, exact):
    """A mixed batch has the logits and the gradients of separate stock models whose trunk is tied."""
    assert_logits(model(**batch, rows=rows).logits, stock_logits(model, batch, rows), exact)
    assert_near(body_gradient(model, batch, rows), stock_gradient(model, batch, rows), exact)


@pytest.mark.parametrize("private_layers", [1, 2])
@pytest.mark.parametrize("architecture", OWN_LAYERS)
def test_a_mixed_batch_is_worth_separate_stock_models_on_one_trunk(tiny, architecture, private_layers):
    batch, exact = five_texts(architecture), EXACT.get(architecture, 1e-10)
    model = grouped(tiny, architecture, private_layers=private_layers).double()
    for rows in (MIXED, ONE) if private_layers == 1 else (OTHERS,):
        assert_as_stock(model, batch, rows, exact)
    if private_layers == 1:
        assert_logits(model(**batch).logits, stock_logits(model, batch), exact)


@pytest.mark.parametrize("padding", ["ones", "none"])
@pytest.mark.parametrize("architecture", OWN_LAYERS)
def test_without_padding_a_mixed_batch_is_worth_separate_stock_models_too(tiny, architecture, padding):
    model = grouped(tiny, architecture).double()
    assert_as_stock(model, inputs_of(architecture, padding), OTHERS, EXACT.get(architecture, 1e-10))


def attentions(architecture):
    return ["eager", "sdpa"] if tiny_encoder(architecture)._supports_sdpa else ["eager"]


@pytest.mark.parametrize(
    ("architecture", "attention"), [(name, attention) for name in OWN_LAYERS for attention in attentions(name)]
)
def test_attention_is_computed_as_the_run_asks_for_it(tiny, architecture, attention):
    model = grouped(tiny, architecture, encoder_config={"attn_implementation": attention})
    assert_attention(model, architecture, attention)


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "modernbert"])
@pytest.mark.parametrize(("before", "after"), [("eager", "sdpa"), ("sdpa", "eager")])
def test_attention_is_computed_as_the_model_is_told_to(tiny, architecture, before, after):
    model = grouped(tiny, architecture, encoder_config={"attn_implementation": before})
    model.set_attn_implementation(after)
    assert_attention(model, architecture, after)


def assert_attention(model, architecture, attention):
    batch = five_texts(architecture)
    assert_logits(model(**batch, rows=OTHERS).logits, stock_logits(model, batch, OTHERS), 1e-5)
    for part in (model.encoder, model.private):
        found = {module.config._attn_implementation for module in part.modules() if hasattr(module, "config")}
        assert found <= {attention}


def test_attention_that_packs_rows_is_refused(tiny):
    with pytest.raises(UserError, match="flex_attention"):
        grouped(tiny, "modernbert", encoder_config={"attn_implementation": "flex_attention"}, layers=2)


def test_the_comparison_could_fail(tiny):
    """Each group's layers give states far from those of the others."""
    states = list(grouped(tiny).encode(**five_texts()).values())
    assert torch.equal(states[0], states[1])
    for number, one in enumerate(states[1:]):
        assert all((one - other).abs().max() > 0.1 for other in states[1:][:number])


@pytest.mark.parametrize("architecture", OWN_LAYERS)
def test_new_private_layers_change_no_answer(tiny, architecture):
    folder = str(encoder_folder(tiny, architecture))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = MultiTaskModel.from_encoder(folder, tiny_tasks())
        torch.manual_seed(0)
        model = MultiTaskModel.from_encoder(folder, tiny_tasks(), sharing={"private_layers": 1, "groups": "task"})
    batch = five_texts(architecture)
    assert_logits(model(**batch, rows=MIXED).logits, plain(**batch, rows=MIXED).logits, 1e-6)
    for name, weight in model.named_parameters():
        assert weight.requires_grad
        assert name.split(".")[0] in ("encoder", "heads", "private")


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "electra", "deberta-v2"])
def test_every_weight_is_reached_by_every_batch(tiny, architecture):
    """Where a group has no row, and where no task has, its weights have gradients of exactly zero."""
    model = grouped(tiny, architecture).double()
    for batch, rows in (
        (five_texts(architecture), MIXED),
        (chosen(five_texts(architecture), torch.tensor([0])), NOTHING),
    ):
        logits = model(**batch, rows=rows).logits
        found = gradient(model, logits)
        assert all(len(logits[task]) == len(rows[task]) for task in TASKS)
        still = [name for name, value in found.items() if value.eq(0).all()]
        own = {name for name in trained(model) if name.startswith(("private.score.", "heads.score."))}
        assert set(still) == (own if rows is MIXED else set(trained(model)))


def by_hand(tiny, architecture="bert", depths=(2, 1, 2), lora=None):
    """Three groups of several depths, the first of which has the encoder's layers; with adapters that train these."""
    groups = [Group(names[0], tuple(names), depth) for names, depth in zip(LISTS, depths, strict=True)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = MultiTaskModel.from_encoder(str(encoder_folder(tiny, architecture)), tiny_tasks())
    plain.release()
    body = Body(plain.encoder, lanes_of(lora, TASKS, groups), tuple(groups), new_private(plain.encoder, groups))
    if lora is not None:
        add_adapters(body, lora)
    model = MultiTaskModel.of_parts(body, dict(plain.heads.items()), list(plain.tasks.values()))
    draw(model)
    stir(model)
    return model


@pytest.mark.parametrize(
    ("architecture", "depths"),
    [
        *(("bert", depths) for depths in ((2, 1, 2), (2, 2, 1), (1, 1, 2), (1, 2, 1), (2, 1, 1))),
        *((name, depths) for name in ("modernbert", "deberta-v2", "distilbert") for depths in ((2, 1, 2), (1, 2, 1))),
    ],
)
def test_groups_may_have_different_numbers_of_layers(tiny, architecture, depths):
    model, batch = by_hand(tiny, architecture, depths).double(), five_texts(architecture)
    for rows in (MIXED, OTHERS):
        assert_as_stock(model, batch, rows, EXACT.get(architecture, 1e-10))
    assert model(**batch, rows=NOTHING).logits["slots"].shape[0] == 0
    gradient(model, model(**batch, rows=NOTHING).logits)


def test_lanes_stand_in_the_order_of_depth_behind_the_first(tiny):
    groups = [Group("a", ("a",), 1), Group("b", ("b",), 3), Group("c", ("c",), 1), Group("d", ("d",), 2)]
    assert list(lane_groups(dict.fromkeys("abcd", "") | {name: name for name in "abcd"}, groups)) == list("acdb")
    model = by_hand(tiny, depths=(2, 2, 1))
    assert list(model.lanes.groups) == ["topic", "slots", "score"]
    assert [group.name for group in model.groups] == ["topic", "score", "slots"]


def seen_rows(model, *, tasks=None, rows=None):
    """Rows that went through the embeddings, and through each layer and copy of one, of five texts."""
    found = {}
    watched = {"embeddings": model.encoder.embeddings}
    watched |= {f"encoder {number}": layer.attention for number, layer in enumerate(model.encoder.encoder.layer)}
    for name, own in model.private.items():
        watched |= {f"{name} {path}": module.attention for path, module in own.items()}
    hooks = [
        module.register_forward_hook(lambda _, args, out, name=name: found.setdefault(name, []).append(len(args[0])))
        for name, module in watched.items()
        if name != "embeddings"
    ]
    hooks.append(
        model.encoder.embeddings.register_forward_hook(
            lambda _, args, out: found.setdefault("embeddings", []).append(len(out))
        )
    )
    model(**five_texts(), tasks=tasks, rows=rows)
    for hook in hooks:
        hook.remove()
    return found


def test_the_trunk_is_computed_once_for_a_row_of_several_groups(tiny):
    assert seen_rows(grouped(tiny), rows=MIXED) == {
        "embeddings": [5],
        "encoder 0": [5],
        "encoder 1": [5],
        "encoder 2": [3],
        "score encoder.layer.2": [1],
        "slots encoder.layer.2": [3],
    }
    assert seen_rows(by_hand(tiny)) == {
        "embeddings": [5],
        "encoder 0": [5],
        "encoder 1": [10],
        "encoder 2": [5],
        "score encoder.layer.2": [5],
        "slots encoder.layer.1": [5],
        "slots encoder.layer.2": [5],
    }


def test_where_one_group_is_asked_no_row_is_copied(tiny):
    model = grouped(tiny)
    below = {"embeddings": [5], "encoder 0": [5], "encoder 1": [5]}
    for tasks in (["topic"], ["topic", "moods"]):
        assert seen_rows(model, tasks=tasks) == below | {"encoder 2": [5]}
    assert seen_rows(model, tasks=["slots"]) == below | {"slots encoder.layer.2": [5]}
    for task in TASKS:
        wanted = model.task_model(task)(**five_texts()).logits
        found = model(**five_texts(), tasks=[task]).logits[task]
        assert torch.equal(found, wanted.reshape(found.shape))


@pytest.mark.parametrize("architecture", OWN_LAYERS)
def test_weights_keep_the_names_that_they_have_in_the_stock_encoder(tiny, architecture):
    model = grouped(tiny, architecture, private_layers=2)
    stock = tiny_encoder(architecture, **{"n_layers" if architecture == "distilbert" else "num_hidden_layers": 3})
    names = {f"encoder.{name}" for name in stock.state_dict() if not name.startswith("pooler")}
    place = layer_list(stock)[0]
    own = (f"{place}.1.", f"{place}.2.", *(f"{name}." for name, _ in final_norms(stock)))
    for group in ("score", "slots"):
        names |= {f"private.{group}.{name}" for name in stock.state_dict() if name.startswith(own)}
    found = {name for name in model.state_dict() if not name.startswith("heads.")}
    assert {name.replace(".pos_key_proj.", ".").replace(".pos_query_proj.", ".") for name in found} <= names | found
    assert {name for name in names if "pos_" not in name} == {name for name in found if "pos_" not in name}
    for number, layer in enumerate(layer_list(model.encoder)[1]):
        assert type(layer) is type(layer_list(stock)[1][number])
        assert getattr(layer, "attention_type", None) == getattr(layer_list(stock)[1][number], "attention_type", None)


def test_the_encoder_alone_passes_rows_as_stock_whatever_the_model_has_done(tiny):
    """It has the first group's layers."""
    model, batch = grouped(tiny), five_texts()
    wanted = stock_encoder(model, "topic")(**batch).last_hidden_state
    logits = model(**batch, rows=MIXED).logits
    assert torch.equal(model.encoder(**batch).last_hidden_state, wanted)
    sum(value.sum() for value in logits.values()).backward()
    assert torch.equal(model.encoder(**batch).last_hidden_state, wanted)
    with pytest.raises(IndexError):
        model(**batch | {"input_ids": batch["input_ids"] + 10**6}, rows=MIXED)
    assert torch.equal(model.encoder(**batch).last_hidden_state, wanted)


def test_what_is_taken_out_leaves_a_stock_encoder(tiny):
    model = grouped(tiny)
    model.release()
    assert not any(isinstance(module.__dict__.get("forward"), Dealer) for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
    wanted = stock_encoder(model, "topic")(**five_texts()).last_hidden_state
    assert torch.equal(model.encoder(**five_texts()).last_hidden_state, wanted)
