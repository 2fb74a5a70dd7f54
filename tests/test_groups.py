"""Groups of tasks: which the run file makes, which a saved config may name, and how many layers an encoder has."""

import re

import pytest
import torch
from transformers import CamembertConfig

from hf_mtl.errors import UserError
from hf_mtl.modeling.groups import (
    Group,
    Sharing,
    check_trained,
    count_layers,
    new_groups,
    saved_groups,
    settle_sharing,
    trained_tops,
)
from hf_mtl.tasks.spec import TaskSpec
from hf_mtl.tasks.types import build_task
from tests.test_model import text_task
from tests.tiny import ARCHITECTURES, tiny_config, tiny_tasks

OWN_LAYERS = [name for name in (*ARCHITECTURES, "qwen3") if name != "albert"]
TASKS = tiny_tasks()
ONE_FAMILY = "sharing: all tasks are of one family, so that all layers are shared; for private ones give"
NAMES = [task.name for task in TASKS]


def config(architecture="bert", layers=6):
    return tiny_config(architecture, **{"n_layers" if architecture == "distilbert" else "num_hidden_layers": layers})


def settle(private_layers, groups="family", tasks=None, layers=6, architecture="bert"):
    settings = {"private_layers": private_layers, "groups": groups}
    return settle_sharing(settings, TASKS if tasks is None else tasks, config(architecture, layers))


def tags(name):
    return build_task(TaskSpec(name=name, task_type="token-classification", label_list=["O", "B-x", "I-x"]))


def members(sharing):
    return [group.tasks for group in sharing.groups]


def test_none_are_private_for_0_and_nothing_is_said_of_it():
    for groups in ("family", "task", [NAMES]):
        assert settle(0, groups) == Sharing()


def test_with_nothing_said_it_is_auto_but_0_beside_adapters_and_for_what_was_not_tried():
    assert settle(None) == settle("auto")
    assert settle(None, tasks=TASKS[:3]) == settle("auto", tasks=TASKS[:3])
    said = {"private_layers": None, "groups": "family"}
    for lora in ({"scope": "shared", "train_encoder": False}, {"scope": "per_task", "train_encoder": True}):
        assert settle_sharing(said, TASKS, config("bert", 6), lora).groups == ()
    packed = config("bert", 6)
    packed._attn_implementation = "flex_attention"
    assert settle_sharing(said, TASKS, packed).groups == ()
    assert settle_sharing(said, TASKS, CamembertConfig(num_hidden_layers=6)).groups == ()


def test_without_a_number_it_is_said_why_named_groups_have_no_layers_of_their_own():
    said = {"private_layers": None, "groups": "task"}
    plain, packed = config("bert", 6), config("bert", 6)
    packed._attn_implementation = "flex_attention"
    number = "for private ones give private_layers, a number or auto"
    for lora, encoder, why in (
        ({"scope": "shared", "train_encoder": False}, plain, f"lora trains adapters, .* {number}"),
        ({"scope": "both", "train_encoder": True}, plain, f"lora trains adapters, .* {number}"),
        ({"scope": "per_task", "train_encoder": False}, plain, "with lora.scope per_task every task has an adapter"),
        (
            None,
            CamembertConfig(num_hidden_layers=6),
            f"private layers have not been tested .* .camembert., .* {number}",
        ),
        (None, packed, "with attn_implementation flex_attention all layers are shared"),
    ):
        sharing = settle_sharing(said, TASKS, encoder, lora)
        assert sharing.groups == ()
        assert re.match(f"sharing: {why}", sharing.why)


def test_families_are_tasks_about_texts_and_tasks_about_words():
    sharing = settle(2)
    assert sharing == Sharing((Group("topic", ("topic", "moods", "score"), 2), Group("slots", ("slots",), 2)))


def test_every_task_may_be_a_group():
    assert settle(5, "task").groups == tuple(Group(name, (name,), 5) for name in NAMES)


@pytest.mark.parametrize(
    ("lists", "found"),
    [
        ([["slots", "score"], ["moods", "topic"]], [("topic", "moods"), ("score", "slots")]),
        ([["slots"], ["score", "topic"], ["moods"]], [("topic", "score"), ("moods",), ("slots",)]),
    ],
)
def test_groups_and_their_tasks_stand_in_the_order_of_the_tasks_whatever_the_lists_say(lists, found):
    for order in (lists, lists[::-1]):
        sharing = settle(1, order)
        assert members(sharing) == found
        assert [group.name for group in sharing.groups] == [names[0] for names in found]
        assert sharing.why is None


@pytest.mark.parametrize(
    ("tasks", "found"),
    [
        ([tags("a"), text_task("b"), tags("c"), text_task("d")], [("a", "c"), ("b", "d")]),
        ([text_task("b"), tags("a")], [("b",), ("a",)]),
    ],
)
def test_the_group_of_the_first_task_is_the_first(tasks, found):
    assert members(settle(1, tasks=tasks)) == found


@pytest.mark.parametrize(("layers", "third"), [(2, 1), (3, 1), (4, 2), (6, 2), (7, 3), (12, 4)])
def test_auto_is_a_third_of_the_layers_rounded_up_where_families_meet(layers, third):
    sharing = settle("auto", layers=layers)
    assert {group.private_layers for group in sharing.groups} == {third}
    assert members(sharing) == [("topic", "moods", "score"), ("slots",)]
    assert sharing.why is None
    assert third < layers


def test_auto_follows_the_groups_where_families_meet():
    assert members(settle("auto", "task")) == [(name,) for name in NAMES]
    assert members(settle("auto", [["slots", "topic"], ["moods", "score"]])) == [("topic", "slots"), ("moods", "score")]


@pytest.mark.parametrize(
    ("wanted", "groups", "tasks", "why"),
    [
        ("auto", "family", TASKS[:1], "sharing: there is one task, so that no layers are private"),
        ("auto", "task", TASKS[:1], "sharing: there is one task, so that no layers are private"),
        ("auto", "family", TASKS[:3], f"{ONE_FAMILY} sharing.groups and a number in private_layers"),
        ("auto", "task", TASKS[:3], f"{ONE_FAMILY} a number in private_layers"),
        (None, [["topic"], ["moods", "score"]], TASKS[:3], f"{ONE_FAMILY} a number in private_layers"),
        ("auto", "family", [tags("a"), tags("b")], f"{ONE_FAMILY} sharing.groups and "),
        ("auto", [NAMES], TASKS, "sharing: all tasks are in one group, so that all layers are shared"),
        ("auto", [NAMES[:3]], TASKS[:3], "sharing: all tasks are in one group, so that all layers are shared"),
    ],
)
def test_where_there_is_one_group_all_is_shared_and_it_is_said_why(wanted, groups, tasks, why):
    sharing = settle(wanted, groups, tasks)
    assert sharing.groups == ()
    assert sharing.why is not None
    assert sharing.why.startswith(why)


@pytest.mark.parametrize(
    ("groups", "tasks", "message"),
    [
        (
            "family",
            TASKS[:3],
            "all tasks are of one family: .* set sharing.groups to task or to lists of tasks, or leave",
        ),
        ([NAMES], TASKS, "sharing.groups puts all tasks together: .* make several of them, or leave it out"),
    ],
)
def test_a_number_is_refused_where_there_is_one_group(groups, tasks, message):
    with pytest.raises(UserError, match=f"^sharing.private_layers: 1, and there is one group, since {message}"):
        settle(1, groups, tasks)
    with pytest.raises(UserError, match="^sharing.private_layers: .* there is one task; use 0"):
        settle(1, groups if isinstance(groups, str) else [NAMES[:1]], TASKS[:1])


@pytest.mark.parametrize(
    ("private_layers", "frozen", "left"),
    [
        (2, (0, 3), 2), (2, (0, 4), 1), (2, (4, 4), 1), (2, (0, 5), 0), (2, (4, 5), 0), (2, (5, 5), 2), (1, (5, 5), 0),
        (3, (4, 4), 3), (5, (1, 9), 0), (2, (6, 9), 2),
    ],
)  # fmt: skip
def test_of_six_layers_those_come_to_differ_down_to_the_lowest_that_is_trained(private_layers, frozen, left):
    assert trained_tops(private_layers, 6, *frozen) == left


def test_a_number_of_which_some_are_not_trained_is_refused():
    for first, last in ((0, 3), (0, 0), (6, 7)):
        check_trained(2, config(layers=6), first, last)
    with pytest.raises(
        UserError, match="those from layer 4 on, and training.freeze leaves layer 4 untrained, the same"
    ):
        check_trained(2, config(layers=6), 0, 4)


def test_a_number_makes_groups_of_tasks_of_one_family_too():
    assert members(settle(1, "task", TASKS[:3])) == [("topic",), ("moods",), ("score",)]
    assert members(settle(1, [["score"], ["topic", "moods"]], TASKS[:3])) == [("topic", "moods"), ("score",)]


def test_auto_shares_all_of_an_encoder_that_has_no_layers_to_spare():
    assert settle("auto", layers=1).groups == ()
    assert settle("auto", layers=1).why == "sharing: the encoder has one layer, which stays everybody's"
    albert = settle("auto", architecture="albert")
    assert albert.groups == ()
    assert albert.why == ("sharing: the encoder (albert) has no list of layers of its own, so that all of it is shared")


@pytest.mark.parametrize(("number", "layers"), [(6, 6), (7, 6), (1, 1)])
def test_a_number_leaves_one_layer_to_all_or_is_refused(number, layers):
    with pytest.raises(
        UserError, match=rf"private layers: {number}, and the encoder .bert. has {layers}.*{layers - 1}"
    ):
        settle(number, layers=layers)
    with pytest.raises(UserError, match="private layers: 1: *|private layers: the encoder .albert. has no list"):
        settle(1, architecture="albert")
    assert new_groups("family", layers, TASKS, config(layers=layers + 1))[0].private_layers == layers


@pytest.mark.parametrize("architecture", OWN_LAYERS)
def test_layers_are_counted_without_an_encoder_being_built(architecture):
    drawn = torch.get_rng_state()
    assert count_layers(config(architecture, 5)) == 5
    assert torch.equal(torch.get_rng_state(), drawn)


def entries(**changes):
    first = {"name": "topic", "tasks": ["topic", "moods"], "private_layers": 2}
    return [first | changes, {"name": "slots", "tasks": ["slots", "score"], "private_layers": 1}]


def test_groups_come_back_as_they_were_written():
    groups = (Group("topic", ("topic", "moods"), 2), Group("slots", ("slots", "score"), 1))
    assert [group.to_dict() for group in groups] == entries()
    assert saved_groups(entries(), NAMES) == groups
    assert saved_groups([], NAMES) == ()


@pytest.mark.parametrize(
    "wrong",
    [
        entries(tasks=["topic", "moods", "weather"]),
        entries(tasks=["topic"]),
        entries(tasks=["topic", "moods", "moods"]),
        entries(tasks=["topic", "moods", "slots"]),
        entries()[:1],
        entries(tasks=[]),
        entries(tasks=None),
        entries(tasks="topic"),
        entries(tasks=[1, "moods"]),
        entries(tasks=[["topic"], "moods"]),
        entries(name="slots"),
        entries(name="weather"),
        entries(name=None),
        entries(private_layers=0),
        entries(private_layers=-1),
        entries(private_layers=1.0),
        entries(private_layers="1"),
        entries(private_layers=None),
        entries(private_layers=True),
        entries(layers=1),
        [{"name": "topic", "tasks": NAMES}],
        [{}],
        [None],
        ["topic"],
        [["topic"]],
        {"name": "topic", "tasks": NAMES, "private_layers": 1},
        "topic",
        3,
        True,
    ],
)
def test_what_is_no_group_of_these_tasks_is_refused(wrong):
    with pytest.raises(UserError, match=r"config.json: groups"):
        saved_groups(wrong, NAMES)


def test_two_groups_of_one_name_are_refused():
    twice = [
        {"name": "topic", "tasks": ["topic", "moods"], "private_layers": 1},
        {"name": "topic", "tasks": ["slots", "score"], "private_layers": 1},
    ]
    with pytest.raises(UserError, match=r"config.json: groups"):
        saved_groups(twice, NAMES)
