"""A model with groups that gets tasks or gives up its adapters: what it answered it answers still."""

import pytest
import torch
from torch import nn

from hf_mtl.errors import UserError
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.modeling.surgery import joined, merged, new_part
from hf_mtl.tasks.spec import TaskSpec
from hf_mtl.tasks.types import build_task
from tests.adapted import assert_near, draw, settings, trained
from tests.grouped import TASKS, encoder_folder, equal, grouped
from tests.test_model import text_task
from tests.test_private_layers import by_hand
from tests.test_private_surgery import EVERY, LORA, alone, assert_mixed, assert_sound, dropped_alike
from tests.tiny import tiny_tasks


def tags(name="kind"):
    return build_task(TaskSpec(name=name, task_type="token-classification", label_list=["O", "B-x", "I-x"]))


def add(model, tasks, seed=3, private_layers=0, **lora):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        part = new_part(model, tasks, settings(**lora), private_layers)
    return part


def moved(part, seed=3):
    """Draws what is trained of a part, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in trained(part).values():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))


def plain(tiny, architecture="bert"):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MultiTaskModel.from_encoder(str(encoder_folder(tiny, architecture)), tiny_tasks())
    draw(model)
    return model


@pytest.mark.parametrize(
    ("architecture", "with_groups"),
    [
        *((name, True) for name in ("bert", "modernbert", "electra", "deberta-v2")),
        *((name, False) for name in ("bert", "modernbert")),
    ],
)
def test_new_tasks_get_layers_of_their_own_and_the_old_ones_answer_as_before(tiny, tmp_path, architecture, with_groups):
    model = grouped(tiny, architecture) if with_groups else plain(tiny, architecture)
    before, weights = alone(model, architecture), {key: value.clone() for key, value in model.state_dict().items()}
    part = add(model, [tags(), text_task("mood"), tags("more")], private_layers=2)
    assert list(part.tasks) == ["kind", "mood", "more"]
    assert {".".join(name.split(".")[:2]) for name in trained(part)} == {
        "private.kind", "private.mood", "heads.kind", "heads.mood", "heads.more",
    }  # fmt: skip
    fresh = alone(part, architecture)
    moved(part)
    trained_part = alone(part, architecture)
    assert not torch.equal(fresh["kind"], trained_part["kind"])
    assert_mixed(part, trained_part, architecture)
    whole = joined(model, part)
    assert equal(alone(whole, architecture), before | trained_part)
    assert all(torch.equal(whole.state_dict()[name], weight) for name, weight in weights.items())
    assert [group.tasks for group in whole.groups][-2:] == [("kind", "more"), ("mood",)]
    assert_sound(whole, tmp_path, architecture)


def test_one_addition_after_another_and_each_taken_back(tiny, tmp_path):
    model = plain(tiny)
    before = alone(model)
    for number, (depth, name) in enumerate([(2, "deep"), (1, "flat")]):
        part = add(model, [tags(name)], seed=number, private_layers=depth)
        moved(part, number)
        before |= alone(part)
        model = joined(model, part)
        assert equal(alone(model), before)
    assert [(group.name, group.private_layers) for group in model.groups] == [("topic", 2), ("deep", 2), ("flat", 1)]
    assert_sound(model, tmp_path / "whole")
    assert_sound(dropped_alike(model, [*TASKS, "deep"]), tmp_path / "left")


def test_new_layers_are_refused_where_they_cannot_be(tiny):
    for kind in ("shared", "both", "both, encoder"):
        with pytest.raises(UserError, match="private layers are put on a model without adapters; merge them first"):
            add(grouped(tiny, lora=LORA[kind]), [tags()], private_layers=1)
    for model in (plain(tiny), grouped(tiny)):
        with pytest.raises(UserError, match="private layers: 3, and the encoder .bert. has 3.* use 2 at most"):
            add(model, [tags()], private_layers=3)
        assert_mixed(model, alone(model))
    with torch.random.fork_rng(devices=[]):
        albert = MultiTaskModel.from_encoder(str(encoder_folder(tiny, "albert")), tiny_tasks())
    with pytest.raises(UserError, match="private layers: the encoder .albert. has no list of layers of its own; use 0"):
        add(albert, [tags()], private_layers=1)


@pytest.mark.parametrize("kind", LORA)
def test_new_tasks_stand_with_adapters_on_the_layers_of_the_groups_of_their_families(tiny, tmp_path, kind):
    model = grouped(tiny, lora=LORA[kind], groups="family")
    before = alone(model)
    part = add(model, [tags(), text_task("mood")], r=4, lora_alpha=16)
    assert all(".lora_" in name or name.startswith("heads.") for name in trained(part))
    assert all({"kind", "mood"} & set(name.split(".")) for name in trained(part))
    moved(part)
    after = alone(part)
    whole = joined(model, part)
    assert equal(alone(whole), before | after)
    assert [("mood" in group.tasks, "kind" in group.tasks) for group in whole.groups] == [(True, False), (False, True)]
    assert_sound(whole, tmp_path)
    if kind in EVERY:
        assert equal(alone(dropped_alike(whole, ["kind", "mood"])), before)


@pytest.mark.parametrize(
    ("kind", "task", "gone"),
    [
        *((kind, task, ["topic", "moods", "score"]) for kind in EVERY for task in (tags(), text_task("kind"))),
        *((kind, task, ["slots"]) for kind in ("no adapters", "both, encoder") for task in (tags(), text_task("kind"))),
    ],
)
def test_old_tasks_are_dropped_beside_a_task_that_joined_their_group(tiny, tmp_path, kind, task, gone):
    model = grouped(tiny, lora=LORA[kind], groups="family")
    part = add(model, [task], r=4, lora_alpha=16)
    moved(part)
    assert_sound(dropped_alike(joined(model, part), gone), tmp_path)


def test_a_task_joins_a_group_with_all_linear_layers_of_an_encoder_adapted(tiny, tmp_path):
    """ELECTRA has one below its embeddings, outside of the layers."""
    model = grouped(tiny, "electra", groups="family")
    part = add(model, [tags()], target_modules="all-linear")
    assert any("embeddings_project.lora_" in name for name in trained(part))
    moved(part)
    after = alone(part, "electra")
    whole = joined(model, part)
    assert equal({"kind": after["kind"]}, {"kind": alone(whole, "electra")["kind"]})
    assert_sound(whole, tmp_path, "electra")


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        *(("bert", kind) for kind in ("shared", "shared, encoder", "top shared", "dora")),
        *(("deberta-v2", kind) for kind in ("shared", "shared, encoder")),
        ("modernbert", "shared, encoder"),
        ("electra", "shared"),
    ],
)
def test_merged_adapters_leave_groups_that_answer_as_before(tiny, tmp_path, architecture, kind):
    lora = settings(scope="shared", use_dora=True) if kind == "dora" else LORA[kind]
    model = grouped(tiny, architecture, lora=lora)
    before = alone(model, architecture)
    whole = merged(model)
    assert whole.groups == model.groups
    assert set(whole.private) == {"score", "slots"}
    assert not any(".lora_" in name or ".base_layer." in name for name in whole.state_dict())
    after = alone(whole, architecture)
    for task in TASKS:
        torch.testing.assert_close(after[task], before[task], rtol=0, atol=1e-5)
    assert_sound(whole, tmp_path, architecture)
    assert equal(alone(model, architecture), before)


@pytest.mark.parametrize("depths", [(1, 1, 2), (2, 2, 1), (2, 1, 2)])
def test_adapters_of_groups_of_several_depths_are_merged_in_all_that_a_group_reads(tiny, tmp_path, depths):
    model = by_hand(tiny, depths=depths, lora=settings(scope="shared", train_encoder=True))
    model.save_pretrained(tmp_path / "model")
    for one in (model, MultiTaskModel.from_pretrained(tmp_path / "model")):
        assert_near(alone(merged(one)), alone(model), 1e-6)


def test_a_merged_model_shares_no_weight_with_the_one_it_was_made_of(tiny):
    model = grouped(tiny, lora=LORA["shared, encoder"])
    before = alone(model)
    whole = merged(model)
    body = nn.ModuleList([whole.encoder, whole.private])
    with torch.no_grad():
        for weight in body.parameters():
            weight.zero_()
    assert equal(alone(model), before)


@pytest.mark.parametrize("kind", ["no adapters", "both", "per_task, encoder", "both, encoder"])
def test_what_no_one_encoder_a_group_can_hold_is_not_merged(tiny, kind):
    reason = "no adapters" if kind == "no adapters" else "do not all have the same adapter"
    with pytest.raises(UserError, match=reason):
        merged(grouped(tiny, lora=LORA[kind]))


def test_a_merged_model_may_get_layers_for_new_tasks(tiny, tmp_path):
    model = merged(grouped(tiny, lora=LORA["shared"]))
    before = alone(model)
    part = add(model, [tags()], private_layers=1)
    moved(part)
    whole = joined(model, part)
    assert_near({task: value for task, value in alone(whole).items() if task in before}, before, 0)
    assert_sound(whole, tmp_path)
