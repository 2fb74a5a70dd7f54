"""A model with groups that loses tasks: what it answered to the others it answers still."""

import pytest

from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.modeling.surgery import drop_task
from tests.adapted import five_texts, rows_of, settings
from tests.grouped import assert_logits, equal, grouped, stock_logits
from tests.test_private_layers import by_hand

LORA = {
    "no adapters": None,
    "shared": settings(scope="shared"),
    "both": settings(scope="both"),
    "shared, encoder": settings(scope="shared", train_encoder=True),
    "per_task, encoder": settings(scope="per_task", train_encoder=True),
    "both, encoder": settings(scope="both", train_encoder=True),
    "top shared": settings(scope="shared", layers_to_transform=[2]),
    "trunk, encoder": settings(scope="both", layers_to_transform=[0], train_encoder=True),
    "trunk shared, encoder": settings(scope="shared", layers_to_transform=[0, 1], train_encoder=True),
}
EVERY = ("no adapters", "shared", "both, encoder")
SOME = (*EVERY, "trunk shared, encoder")
DROPPED = {
    "a first task, then its group": ["topic", "moods"],
    "a later task, its group, and all but the last group": ["moods", "topic", "score"],
    "a group's only task, and down to one task of two": ["slots", "score", "topic"],
}
"""Tasks in the order in which they go."""
TOPICS = ["topic", "moods"]
BOTH = [["topic", "score"], ["moods"], ["slots"]]


def alone(model, architecture="bert"):
    return {task: model(**five_texts(architecture), tasks=[task]).logits[task] for task in model.tasks}


def mixed_rows(model):
    return rows_of(**{task: [place % 5, (place + 2) % 5, 1][: 1 + place % 3] for place, task in enumerate(model.tasks)})


def mixed(model, architecture="bert"):
    return model(**five_texts(architecture), rows=mixed_rows(model)).logits


def assert_mixed(model, answers, architecture="bert"):
    """A mixed batch is worth the tasks one by one."""
    rows = mixed_rows(model)
    assert_logits(mixed(model, architecture), {task: answers[task][rows[task]] for task in model.tasks}, 1e-5)


def assert_sound(model, tmp_path, architecture="bert"):
    """Mixed batches, the tasks' own stock models and saved files are worth what the model is."""
    wanted = stock_logits(model, five_texts(architecture), mixed_rows(model))
    assert_logits(mixed(model, architecture), wanted, 1e-5)
    model.save_pretrained(tmp_path)
    read = MultiTaskModel.from_pretrained(tmp_path)
    assert read.groups == model.groups
    assert equal(alone(model, architecture), alone(read, architecture))
    assert equal(mixed(model, architecture), mixed(read, architecture))


def dropped_alike(model, names, architecture="bert"):
    """The model without the tasks, of which none that is left is answered otherwise than before."""
    before, groups = alone(model, architecture), [group.tasks for group in model.groups]
    for name in names:
        model = drop_task(model, name)
        assert equal(alone(model, architecture), {task: before[task] for task in model.tasks}), name
        assert_mixed(model, before, architecture)
        assert [(group.name, group.tasks) for group in model.groups] == left(groups, model.tasks)
        assert set(model.private) <= {group.name for group in model.groups[1:]}
    return model


def left(groups, tasks):
    """Name and tasks of each group of which some task is left, where there is more than one."""
    found = [tuple(task for task in group if task in tasks) for group in groups]
    found = [(group[0], group) for group in found if group]
    return found if len(found) > 1 else []


@pytest.mark.parametrize(
    ("kind", "what"),
    [(kind, what) for kind in LORA for what in DROPPED if kind in SOME or what.startswith("a first task")],
)
def test_the_tasks_that_are_left_answer_as_before_to_the_bit(tiny, tmp_path, kind, what):
    model = dropped_alike(grouped(tiny, lora=LORA[kind]), DROPPED[what])
    assert_sound(model, tmp_path)
    assert not any(f".{name}." in weight for weight in model.state_dict() for name in DROPPED[what] if kind != "both")


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        ("modernbert", "no adapters"),
        ("modernbert", "shared"),
        ("electra", "both, encoder"),
        ("deberta-v2", "both, encoder"),
        ("deberta-v2", "shared"),
        ("distilbert", "both, encoder"),
    ],
)
def test_tasks_are_dropped_from_other_encoders_too(tiny, tmp_path, architecture, kind):
    model = dropped_alike(grouped(tiny, architecture, lora=LORA[kind]), ["topic", "moods"], architecture)
    assert_sound(model, tmp_path, architecture)


@pytest.mark.parametrize("kind", ["no adapters", "shared", "shared, encoder"])
def test_a_group_whose_tasks_do_not_stand_together_loses_its_first(tiny, tmp_path, kind):
    assert_sound(dropped_alike(grouped(tiny, groups=BOTH, lora=LORA[kind]), ["topic"]), tmp_path)


@pytest.mark.parametrize("depths", [(2, 2, 1), (2, 1, 2), (1, 2, 1), (1, 1, 2), (2, 1, 1)])
def test_the_first_of_groups_of_several_depths_is_dropped(tiny, tmp_path, depths):
    assert_sound(dropped_alike(by_hand(tiny, depths=depths), ["topic", "moods"]), tmp_path)


@pytest.mark.parametrize(
    ("depths", "gone"),
    [((1, 1, 2), ["slots"]), ((1, 1, 2), ["topic", "moods", "score"]), ((1, 2, 2), ["score"]), ((2, 2, 1), TOPICS)],
)
def test_of_groups_of_several_depths_with_adapters_any_is_dropped(tiny, tmp_path, depths, gone):
    model = by_hand(tiny, depths=depths, lora=settings(scope="shared", train_encoder=True))
    assert_sound(dropped_alike(model, gone), tmp_path)
