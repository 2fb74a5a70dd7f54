"""Adapters and groups of tasks: a group's own adapter above a shared one, and adapters on layers of a group's own."""

import pytest
import torch

from hf_mtl.errors import UserError
from hf_mtl.modeling.adapters import SHARED, adapted_layers, adapter_parameters
from hf_mtl.modeling.model import MultiTaskModel
from tests.adapted import (
    MIXED,
    NOTHING,
    OTHERS,
    assert_as_alone,
    assert_near,
    chosen,
    five_texts,
    gradient,
    settings,
    trained,
)
from tests.grouped import LISTS, assert_logits, encoder_folder, grouped, stock_logits
from tests.test_model import text_task
from tests.test_private_layers import EXACT, OWN_LAYERS, by_hand

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
CASES = [("bert", kind) for kind in KINDS]
CASES += [(name, kind) for name in OWN_LAYERS if name != "bert" for kind in ("shared", "both, encoder")]
CASES += [("deberta-v2", "both"), ("modernbert", "shared dora")]


def adapted(tiny, architecture="bert", kind="shared", groups=LISTS, **changes):
    return grouped(tiny, architecture, groups=groups, lora=settings(**KINDS[kind] | changes))


@pytest.mark.parametrize(("architecture", "kind"), CASES)
def test_a_mixed_batch_gives_logits_and_gradients_of_the_tasks_one_by_one(tiny, architecture, kind):
    model, batch = adapted(tiny, architecture, kind).double(), five_texts(architecture)
    exact = EXACT.get(architecture, 1e-10)
    for rows in (MIXED, OTHERS):
        mixed = assert_as_alone(model, batch, rows, exact)
    # These have rows of every group.
    assert_logits(mixed, stock_logits(model, batch, OTHERS), max(exact, 1e-5))
    logits = model(**chosen(batch, torch.tensor([0])), rows=NOTHING).logits
    assert all(found.eq(0).all() for found in gradient(model, logits).values())


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


def test_what_groups_of_several_depths_read_together_has_the_adapter_of_all_tasks(tiny):
    model = by_hand(tiny, depths=(1, 1, 2), lora=settings(scope="shared", train_encoder=True))
    wanted = [("encoder", 0, SHARED), ("encoder", 1, SHARED), ("encoder", 2, "topic")]
    wanted += [("private.score", 2, "score"), ("private.slots", 1, "slots"), ("private.slots", 2, "slots")]
    found = {
        (part, int(name.split(".")[2]), adapter)
        for part, module in model.body.parts()
        for name, layer in adapted_layers(module).items()
        for adapter in layer.lora_A
    }
    assert found == set(wanted)


@pytest.mark.parametrize(
    ("architecture", "depths"),
    [*(("bert", depths) for depths in ((1, 1, 2), (2, 1, 2))), ("deberta-v2", (1, 1, 2)), ("deberta-v2", (2, 2, 1))],
)
def test_groups_of_several_depths_give_logits_and_gradients_of_the_tasks_one_by_one(tiny, architecture, depths):
    model = by_hand(tiny, architecture, depths, settings(scope="shared", train_encoder=True)).double()
    batch = five_texts(architecture)
    mixed = assert_as_alone(model, batch, OTHERS, 1e-10)
    assert_logits(mixed, stock_logits(model, batch, OTHERS), 1e-5)


def test_of_a_frozen_encoder_what_also_reads_positions_is_adapted_in_the_trunk(tiny):
    """DeBERTa's query and key projections: above it, rows of several groups cannot be told apart in them."""
    model = adapted(tiny, "deberta-v2", rank_pattern={"query_proj": 4})
    layers = adapted_layers(model.encoder)
    found = {name.split(".")[2]: layer for name, layer in layers.items() if name.endswith("query_proj")}
    assert set(found) == {"0", "1"}
    assert {len(layer.lora_A[SHARED].weight) for layer in found.values()} == {4}
    instead = "leave them out, or use private_layers: 0 or train_encoder: true"
    with pytest.raises(UserError, match=f"query_proj of deberta-v2 also read .* by group of tasks; {instead}"):
        adapted(tiny, "deberta-v2", target_modules=["query_proj", "value_proj"])
    below = ["encoder.layer.0.attention.self.query_proj", "value_proj"]
    assert below[0] in adapted_layers(adapted(tiny, "deberta-v2", target_modules=below).encoder)


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


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [("bert", "shared"), ("bert", "both"), ("bert", "both, encoder"), ("deberta-v2", "both, encoder")],
)
def test_gradient_checkpointing_changes_no_gradient(tiny, architecture, kind):
    """Each backward pass, of one batch or of several, finds the ways of its rows again."""
    found = []
    for checkpointing in (False, True):
        model = adapted(tiny, architecture, kind).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        several = [model(**five_texts(architecture), rows=rows).logits for rows in (MIXED, OTHERS)]
        model.encoder(**five_texts(architecture))
        sum(value.square().sum() for logits in several for value in logits.values()).backward()
        found.append({name: weight.grad for name, weight in trained(model).items()})
    assert_near(*found, 1e-6)
