"""The run file's `sharing`: its keys and defaults, what is refused, contradictions with other keys."""

from pathlib import Path
from typing import Any

import pytest

from hf_mtl.config import load_config
from hf_mtl.config_section import written_out
from hf_mtl.config_sharing import SharingSection
from hf_mtl.errors import ConfigError, UserError
from hf_mtl.run_file import write_run_file
from tests.run_dicts import GONE, changed, errors_of


def with_sharing(**sharing: Any) -> dict[str, Any]:
    return changed(sharing=sharing)


def test_what_is_not_said_is_left_to_the_model() -> None:
    for run in (changed(), with_sharing(), with_sharing(private_layers=None)):
        assert load_config(run).sharing == SharingSection(private_layers=None, groups="family")
    assert load_config(changed(), ["sharing.private_layers=2"]).sharing == SharingSection(private_layers=2)
    assert load_config(changed(), ["sharing.groups=[[topic],[slots]]"]).sharing.groups == [["topic"], ["slots"]]


@pytest.mark.parametrize(
    "sharing",
    [
        {"private_layers": 3},
        {"private_layers": "auto"},
        {"private_layers": "auto", "groups": "task"},
        {"private_layers": 1, "groups": "task"},
        {"private_layers": 2, "groups": [["slots"], ["topic"]]},
        {"groups": [["slots", "topic"]]},
    ],
)
def test_a_good_section_is_read_and_loads_back_equal(sharing: dict[str, Any], tmp_path: Path) -> None:
    config = load_config(with_sharing(**sharing))
    assert config.sharing.model_dump(exclude_unset=True) == sharing
    write_run_file(config, tmp_path / "run.yaml")
    assert load_config(tmp_path / "run.yaml") == config


def test_a_file_is_read_as_a_dict_is(tmp_path: Path) -> None:
    written = with_sharing(private_layers="auto", groups=[["slots"], ["topic"]])
    write_run_file(load_config(written), tmp_path / "run.yaml")
    text = (tmp_path / "run.yaml").read_text(encoding="utf-8")
    assert "private_layers: auto" in text
    assert load_config(tmp_path / "run.yaml").sharing.groups == [["slots"], ["topic"]]


@pytest.mark.parametrize(
    ("sharing", "path", "message"),
    [
        ({"private_layers": -1}, "private_layers", "-1 is not a number of at least 0"),
        ({"private_layers": 1.5}, "private_layers", "1.5 is not a whole number"),
        ({"private_layers": True}, "private_layers", "true is not a whole number"),
        ({"private_layers": "all"}, "private_layers", "'all' is not a whole number or auto"),
        ({"private_layers": "2"}, "private_layers", "'2' is not a whole number or auto"),
        ({"private_layers": [1]}, "private_layers", "a list is not a whole number or auto"),
        ({"groups": "families"}, "groups", "'families' is not family, task or a list"),
        ({"groups": None}, "groups", "null is not family, task or a list"),
        ({"groups": {"a": ["topic"]}}, "groups", "a mapping is not family, task or a list"),
        ({"groups": []}, "groups", "empty; at least one is needed"),
        ({"groups": [[]]}, "groups[0]", "empty; at least one is needed"),
        ({"groups": [["topic"], "slots"]}, "groups[1]", "'slots' is not a list"),
        ({"groups": [["topic", 3], ["slots"]]}, "groups[0][1]", "3 is not text; put it in quotes"),
        ({"groups": [["topic", ""], ["slots"]]}, "groups[0][1]", "empty"),
        ({"groups": [["topic"], ["slot"]]}, "groups", "slot"),
        ({"layers": 2}, "layers", "unknown key"),
        ({"private_layer": 2}, "private_layer", "unknown key; did you mean private_layers?"),
        ({"learning_rate": 2}, "learning_rate", "unknown key; did you mean training.learning_rate?"),
    ],
)
def test_what_is_wrong_in_the_section_is_told_at_its_key_alone(
    sharing: dict[str, Any], path: str, message: str
) -> None:
    run = with_sharing(**sharing)
    if sharing.get("groups") == [["topic"], ["slot"]]:
        sharing["groups"].append(["slots"])
    errors = errors_of(run)
    assert list(errors) == [f"sharing.{path}"]
    assert message in errors[f"sharing.{path}"]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([["topic", "slots", "weather"]], "weather: no such task; the run has topic, slots"),
        ([["topic", "slots"], ["topic"]], "topic: named more than once; a task is in one group"),
        ([["topic", "topic", "slots"]], "topic: named more than once; a task is in one group"),
        ([["topic"]], "slots: in no group; every task is in one"),
    ],
)
@pytest.mark.parametrize("private_layers", [0, 2, "auto"])
def test_every_task_is_in_one_list(groups: Any, message: str, private_layers: Any) -> None:
    assert errors_of(with_sharing(groups=groups, private_layers=private_layers)) == {"sharing.groups": message}


def test_what_is_wrong_with_the_lists_is_told_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(with_sharing(groups=[["weather", "topic"], ["topic"]]))
    told = [message.split(";")[0] for place, message in caught.value.errors if place == "sharing.groups"]
    assert told == ["weather: no such task", "topic: named more than once", "slots: in no group"]


ONE = {"tasks__slots": GONE, "datasets__words": GONE}


def test_one_task_has_nothing_private() -> None:
    message = "layers are private to some of several tasks, and there is one task; use 0"
    assert errors_of(changed(sharing={"private_layers": 2}, **ONE)) == {"sharing.private_layers": message}
    for private_layers in (0, "auto"):
        assert load_config(changed(sharing={"private_layers": private_layers}, **ONE))


@pytest.mark.parametrize("groups", ["family", [["topic", "slots"]]])
def test_one_group_has_nothing_private(groups: Any) -> None:
    run = changed(sharing={"private_layers": 2, "groups": groups})
    if groups == "family":
        run["tasks"] = {"topic": run["tasks"]["topic"], "mood": run["tasks"]["topic"]}
        run["datasets"].pop("words")
    (message,) = errors_of(run).values()
    assert list(errors_of(run)) == ["sharing.private_layers"]
    why = "all tasks are of one family" if groups == "family" else "sharing.groups puts all tasks together"
    assert message.startswith(f"2, and there is one group, since {why}: nothing would be private; ")
    assert message.endswith(", or leave it out")
    for fine in ({"private_layers": "auto", "groups": groups}, {"groups": groups}, {"private_layers": 0}):
        assert load_config(run | {"sharing": fine})
    if groups == "family":
        assert load_config(run | {"sharing": {"private_layers": 2, "groups": "task"}})
        # What could not be read says nothing of families.
        run["tasks"]["mood"] = run["tasks"]["mood"] | {"task_type": "tagging"}
        assert list(errors_of(run)) == ["tasks.mood.task_type"]


@pytest.mark.parametrize("scope", ["shared", "per_task", "both"])
@pytest.mark.parametrize("train_encoder", [False, True])
@pytest.mark.parametrize("private_layers", [0, 2, "auto"])
def test_adapters_by_task_on_a_frozen_encoder_leave_nothing_to_make_private(
    scope: str, train_encoder: bool, private_layers: Any
) -> None:
    run = changed(sharing={"private_layers": private_layers}, lora={"scope": scope, "train_encoder": train_encoder})
    if scope == "per_task" and not train_encoder and private_layers == 2:
        assert errors_of(run) == {
            "sharing.private_layers": "with lora.scope per_task every task has an adapter of its own in these layers "
            "already; use 0, lora.scope shared or both, or lora.train_encoder"
        }
    else:
        assert load_config(run).sharing.private_layers == private_layers


@pytest.mark.parametrize("freeze", ["embeddings", "encoder", {"layers": "0-3"}])
def test_a_frozen_encoder_has_nothing_private(freeze: Any) -> None:
    run = changed(sharing={"private_layers": 2}, training__freeze=freeze)
    if freeze == "encoder":
        assert errors_of(run) == {
            "sharing.private_layers": "training.freeze encoder leaves nothing to make private; remove one of them"
        }
    else:
        assert load_config(run).sharing.private_layers == 2
    assert load_config(changed(sharing={"private_layers": "auto"}, training__freeze=freeze))


def test_a_value_that_cannot_be_read_is_in_no_contradiction() -> None:
    assert list(errors_of(changed(sharing={"private_layers": -1}, **ONE))) == ["sharing.private_layers"]
    assert list(errors_of(changed(sharing={"private_layers": 2}, lora={"scope": "per"}))) == ["lora.scope"]
    assert list(errors_of(changed(sharing=3, training__freeze="encoder"))) == ["sharing"]
    assert list(errors_of(changed(sharing={"private_layers": 2}, tasks=3))) == ["tasks"]
    assert list(errors_of(changed(sharing={"private_layers": 2}, training=3))) == ["training"]
    assert list(errors_of(changed(sharing={"groups": [["topic"]]}, tasks=3))) == ["tasks"]
    unread = changed(sharing={"private_layers": 2}, lora={"scope": "per_task", "train_encoder": 1})
    assert list(errors_of(unread)) == ["lora.train_encoder"]
    other = changed(sharing={"private_layers": 2, "groups": [["topic"], ["slots", "slot"]], "depth": 1})
    assert list(errors_of(other)) == ["sharing.groups", "sharing.depth"]


def test_errors_of_the_section_come_with_those_of_others_in_the_order_of_the_file() -> None:
    run = {"sharing": {"private_layers": 2, "groups": [["topic"]]}, **changed(lora={"r": 0, "scope": "per_task"})}
    run["max_length"] = 2
    wanted = ["sharing.private_layers", "sharing.groups", "lora.r", "max_length"]
    assert list(errors_of(run)) == wanted


def test_a_section_made_in_python_has_its_defaults_and_its_errors_name_the_key() -> None:
    wanted = {"private_layers": 2, "groups": "family"}
    assert written_out(SharingSection, {"private_layers": 2}, "sharing") == wanted
    with pytest.raises(UserError, match="sharing: .*private_layer"):
        written_out(SharingSection, {"private_layer": 2}, "sharing")
    with pytest.raises(UserError, match="sharing: .*groups"):
        written_out(SharingSection, {"groups": []}, "sharing")
