"""A folder of a model with private layers whose parts do not go together: said and refused, and nothing is made up."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_mtl.errors import UserError
from hf_mtl.modeling.model import MultiTaskModel
from tests.adapted import change_config, settings
from tests.grouped import TASKS, grouped
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory):
    """One whose groups have layers of their own, and one whose groups have adapters of their own."""
    folder = tmp_path_factory.mktemp("saved")
    grouped(tiny).save_pretrained(folder / "layers")
    grouped(tiny, lora=settings(scope="shared")).save_pretrained(folder / "adapters")
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved / "layers", tmp_path / "model")


@pytest.fixture
def with_adapters(saved, tmp_path):
    return shutil.copytree(saved / "adapters", tmp_path / "model")


def change_group(folder, place, **changes):
    change_config(folder, lambda config: config["groups"][place].update(changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"tasks": ["topic", "moods", "weather"]},
        {"tasks": ["topic", "moods", "score"]},
        {"tasks": ["topic"]},
        {"name": "weather"},
        {"private_layers": 0},
        {"layers": 2},
    ],
)
def test_groups_that_are_none_of_the_model_s_tasks_are_refused(folder, changes):
    change_group(folder, 0, **changes)
    with pytest.raises(UserError, match=r"config.json: groups"):
        MultiTaskModel.from_pretrained(folder)


@pytest.mark.parametrize("groups", ["topic", 3, [3], {"name": "topic"}])
def test_what_is_no_list_of_groups_is_refused(folder, groups):
    change_config(folder, lambda config: config.update(groups=groups))
    with pytest.raises(UserError, match=r"config.json: groups"):
        MultiTaskModel.from_pretrained(folder)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("number", [4, 40])
@pytest.mark.parametrize("kind", ["folder", "with_adapters"])
def test_groups_of_more_layers_than_the_encoder_has_are_refused(request, kind, number, place):
    folder = request.getfixturevalue(kind)
    change_group(folder, place, private_layers=number)
    with pytest.raises(UserError, match="layers"):
        MultiTaskModel.from_pretrained(folder)


def test_groups_of_other_depths_than_the_weights_have_are_refused(folder):
    change_group(folder, 1, private_layers=2)
    with pytest.raises(UserError, match=r"missing: private.score.encoder.layer.1"):
        MultiTaskModel.from_pretrained(folder)


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", metadata={"format": "pt"})


def test_private_weights_that_are_missing_are_refused(folder):
    change_weights(
        folder,
        lambda weights: {name: weight for name, weight in weights.items() if not name.startswith("private.slots")},
    )
    with pytest.raises(UserError, match=r"missing: private.slots.encoder.layer.2"):
        MultiTaskModel.from_pretrained(folder)


def test_private_weights_that_are_left_over_are_refused(folder):
    change_weights(folder, lambda weights: weights | {"private.weather.encoder.layer.2.x": torch.zeros(2)})
    with pytest.raises(UserError, match=r"not part of the model: private.weather.encoder.layer.2.x"):
        MultiTaskModel.from_pretrained(folder)


def test_a_config_without_groups_does_not_fit_weights_with_them(folder):
    change_config(folder, lambda config: config.pop("groups"))
    with pytest.raises(UserError, match=r"not part of the model: private.score"):
        MultiTaskModel.from_pretrained(folder)


def test_albert_and_encoders_with_too_few_layers_are_refused_in_a_saved_config_too(folder, tmp_path):
    albert = tiny_model(tmp_path / "encoder", "albert")
    albert.save_pretrained(tmp_path / "albert")
    groups = [{"name": "topic", "tasks": TASKS[:3], "private_layers": 1}]
    groups.append({"name": "slots", "tasks": TASKS[3:], "private_layers": 1})
    change_config(tmp_path / "albert", lambda config: config.update(groups=groups))
    with pytest.raises(UserError, match="albert"):
        MultiTaskModel.from_pretrained(tmp_path / "albert")


@pytest.mark.parametrize("part", ["lora_A", "lora_B"])
@pytest.mark.parametrize("name", ["topic", "score", "slots"])
def test_adapters_that_differ_below_the_private_layers_are_refused(with_adapters, name, part):
    file = with_adapters / "adapters" / name / "adapter_model.safetensors"
    weights = load_file(file)
    below = next(key for key in weights if ".layer.1." in key and part in key)
    save_file(weights | {below: weights[below] + 1}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"differ in encoder.layer.1.*below the private layers"):
        MultiTaskModel.from_pretrained(with_adapters)


def test_adapters_may_differ_in_the_private_layers(with_adapters):
    file = with_adapters / "adapters" / "slots" / "adapter_model.safetensors"
    weights = load_file(file)
    save_file({key: weight + (".layer.2." in key) for key, weight in weights.items()}, file, metadata={"format": "pt"})
    assert MultiTaskModel.from_pretrained(with_adapters)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([], "lora"),
        ([{"name": "topic", "tasks": ["topic"], "private_layers": 1}], "groups"),
        (5, "groups"),
    ],
)
def test_a_config_whose_groups_are_not_those_of_the_adapters_is_refused(with_adapters, groups, message):
    change_config(with_adapters, lambda config: config.update(groups=groups))
    with pytest.raises(UserError, match=f"config.json: .*{message}"):
        MultiTaskModel.from_pretrained(with_adapters)


def test_an_adapter_of_a_group_that_is_missing_is_refused(with_adapters):
    shutil.rmtree(with_adapters / "adapters" / "slots")
    with pytest.raises(UserError, match="adapters/slots"):
        MultiTaskModel.from_pretrained(with_adapters)
