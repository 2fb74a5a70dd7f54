"""A model with private layers is trained on: every group goes on from its own layers, or the run is refused."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from hf_mtl.cli import app
from hf_mtl.config import load_config
from hf_mtl.errors import UserError
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.modeling.surgery import joined, new_part
from hf_mtl.run_file import write_run_file
from hf_mtl.tasks.task import Task, TaskSpec
from hf_mtl.tasks.types import build_task
from hf_mtl.training.trainer import MultiTaskTrainer
from tests.adapted import Tiny
from tests.grouped import encoder_folder, grouped, stir
from tests.runs import tiny_run
from tests.test_adding_tasks import QUIET
from tests.test_resume import killed_after
from tests.tiny import tiny_tasks

FAMILY = {"private_layers": 1}
NEW = build_task(
    TaskSpec(
        name="kind",
        task_type="text-classification",
        problem_type="single_label_classification",
        label_list=["a", "b"],
    )
)

TAGS = build_task(TaskSpec(name="parts", task_type="token-classification", label_list=["O", "B-x", "I-x"]))


@pytest.fixture
def saved(tiny: Tiny, tmp_path: Path) -> tuple[MultiTaskModel, str]:
    """(model, folder): three tasks about whole texts, one about words, each family with a layer of its own."""
    model = grouped(tiny, groups="family")
    model.save_pretrained(tmp_path / "model")
    return model, str(tmp_path / "model")


def go_on(folder: str, tasks: Any, sharing: Any = None, **options: Any) -> MultiTaskModel:
    return MultiTaskModel.from_encoder(folder, tasks, sharing=sharing, heads="keep", **options)


def assert_same(one: MultiTaskModel, other: MultiTaskModel, tasks: list[str]) -> None:
    for task in tasks:
        ours, theirs = one.task_model(task).state_dict(), other.task_model(task).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())


@pytest.mark.parametrize("sharing", [None, FAMILY])
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("tasks", [slice(None), slice(2, None)])
def test_every_task_goes_on_as_it_was_saved(
    saved: tuple[MultiTaskModel, str], order: int, tasks: slice, sharing: Any
) -> None:
    model, folder = saved
    kept = tiny_tasks()[tasks][::order]
    names = [task.name for task in kept]
    found = go_on(folder, kept, sharing)
    assert_same(found, model, names)
    assert [len(group.tasks) for group in found.groups] == [len(names) - 1, 1][::order]


@pytest.mark.parametrize("tasks", [["slots"], ["score", "topic"]])
def test_tasks_of_one_group_go_on_with_its_layers_as_the_encoder_s(
    saved: tuple[MultiTaskModel, str], tasks: list[str]
) -> None:
    model, folder = saved
    found = go_on(folder, [task for task in tiny_tasks() if task.name in tasks])
    assert not found.groups
    assert_same(found, model, tasks)


def test_groups_of_several_depths_go_on_where_nothing_is_said(tiny: Tiny, tmp_path: Path) -> None:
    model = joined(grouped(tiny, groups="family"), new_part(grouped(tiny, groups="family"), [NEW], {}, 2))
    stir(model.private["kind"], seed=5)
    model.save_pretrained(tmp_path / "model")
    found = go_on(str(tmp_path / "model"), [NEW, *tiny_tasks()])
    assert [(group.name, group.private_layers) for group in found.groups] == [("topic", 1), ("slots", 1), ("kind", 2)]
    assert_same(found, model, ["kind", "topic", "slots"])
    found.save_pretrained(tmp_path / "again")
    assert_same(MultiTaskModel.from_pretrained(tmp_path / "again"), model, ["kind", "topic", "slots"])


def test_a_fully_shared_model_stays_so_where_nothing_is_said(tiny: Tiny, tmp_path: Path) -> None:
    MultiTaskModel.from_encoder(str(encoder_folder(tiny)), tiny_tasks()).save_pretrained(tmp_path / "model")
    assert not go_on(str(tmp_path / "model"), tiny_tasks()).groups
    assert go_on(str(tmp_path / "model"), tiny_tasks(), FAMILY).groups


@pytest.mark.parametrize(
    ("new", "alike", "kept", "sharing"),
    [
        (NEW, "topic", slice(None), None),
        (TAGS, "slots", slice(None), None),
        (TAGS, "slots", slice(1), None),
        (TAGS, "slots", slice(None), {"private_layers": 1, "groups": "task"}),
    ],
)
def test_a_new_task_begins_with_the_layers_of_its_family(
    saved: tuple[MultiTaskModel, str], new: Task, alike: str, kept: slice, sharing: Any
) -> None:
    model, folder = saved
    found = go_on(folder, [new, *tiny_tasks()[kept]], sharing)
    assert_same(found, model, [task.name for task in tiny_tasks()[kept]])
    ours, theirs = (one.body.task_encoder(task).state_dict() for one, task in ((found, new.name), (model, alike)))
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())


def test_adapters_are_put_on_the_layers_that_go_on(saved: tuple[MultiTaskModel, str]) -> None:
    model, folder = saved
    found = go_on(folder, tiny_tasks(), lora={"scope": "per_task", "train_encoder": True})
    for task in ("topic", "slots"):
        ours, theirs = (one.body.task_encoder(task).state_dict() for one in (found, model))
        plain = {name.replace(".base_layer.", "."): weight for name, weight in ours.items() if ".lora_" not in name}
        assert all(torch.equal(weight, plain[name]) for name, weight in theirs.items())


def test_weights_in_several_files_are_read(saved: tuple[MultiTaskModel, str], tmp_path: Path) -> None:
    model, _ = saved
    model.save_pretrained(tmp_path / "cut", max_shard_size="100KB")
    assert len(list((tmp_path / "cut").glob("*.safetensors"))) > 1
    assert_same(go_on(str(tmp_path / "cut"), tiny_tasks()), model, [task.name for task in tiny_tasks()])


@pytest.mark.parametrize(
    ("sharing", "lora"),
    [
        ({"private_layers": 0}, None),
        ({"private_layers": 2}, None),
        ({"private_layers": 1, "groups": [["topic", "slots"], ["moods", "score"]]}, None),
        (None, {"scope": "shared"}),
    ],
)
def test_other_groups_are_refused_with_those_there_are(
    saved: tuple[MultiTaskModel, str], sharing: Any, lora: Any
) -> None:
    with pytest.raises(UserError, match=r"heads: keep: .*of their own \(topic, moods, score: 1; slots: 1\), and go on"):
        go_on(saved[1], tiny_tasks(), sharing, lora=lora)


@pytest.mark.parametrize("name", ["topic", "slots"])
def test_adapters_alone_have_no_encoder_to_stand_on_in_such_a_model(
    saved: tuple[MultiTaskModel, str], name: str
) -> None:
    with pytest.raises(UserError, match="heads: keep: .* without lora or with lora.train_encoder"):
        go_on(saved[1], [task for task in tiny_tasks() if task.name == name], lora={})


def test_the_layers_of_groups_stay_where_they_are(saved: tuple[MultiTaskModel, str]) -> None:
    with pytest.raises(UserError, match="encoder_config: .* has 3 layers, .* leave the number of layers as it is"):
        go_on(saved[1], tiny_tasks(), encoder_config={"num_hidden_layers": 2})


def test_new_heads_need_one_encoder(saved: tuple[MultiTaskModel, str]) -> None:
    with pytest.raises(UserError, match=r"several encoders; go on with all of them \(heads: keep\), or take that"):
        MultiTaskModel.from_encoder(saved[1], tiny_tasks())


def test_a_folder_that_lacks_a_group_s_weights_is_refused(saved: tuple[MultiTaskModel, str]) -> None:
    file = Path(saved[1], "model.safetensors")
    weights = load_file(file)
    weights.pop(next(name for name in weights if name.startswith("private.")))
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="groups do not fit its config; its folder is not as it was written"):
        go_on(saved[1], tiny_tasks())


def test_a_run_goes_on_from_a_run_with_nothing_said_about_sharing(tmp_path: Path) -> None:
    first = MultiTaskTrainer.from_config(tiny_run(tmp_path, max_steps=2), console=QUIET)
    first.train()
    run = tiny_run(tmp_path, max_steps=2, output_dir=str(tmp_path / "more"))
    run |= {"encoder": str(tmp_path / "out"), "heads": "keep"}
    write_run_file(load_config(run), tmp_path / "run.yaml")
    checked = CliRunner().invoke(app, ["check", str(tmp_path / "run.yaml")])
    assert checked.exit_code == 0
    assert "top layers of one's own, of 2: topic: 1; names: 1" in checked.stdout
    trainer = MultiTaskTrainer.from_config(run, console=QUIET)
    assert_same(trainer.model, MultiTaskModel.from_pretrained(tmp_path / "out"), ["topic", "names"])
    trainer.train()
    assert MultiTaskModel.from_pretrained(tmp_path / "more").groups == first.model.groups


def test_of_a_frozen_encoder_all_is_kept(tmp_path: Path) -> None:
    MultiTaskTrainer.from_config(tiny_run(tmp_path, max_steps=1), console=QUIET).train()
    said = io.StringIO()
    run = tiny_run(tmp_path, max_steps=1, output_dir=str(tmp_path / "more"), freeze="encoder")
    for sharing in ({}, {"private_layers": "auto"}):
        again = run | {"encoder": str(tmp_path / "out"), "heads": "keep", "sharing": sharing}
        trainer = MultiTaskTrainer.from_config(again, console=Console(file=said))
        assert_same(trainer.model, MultiTaskModel.from_pretrained(tmp_path / "out"), ["topic", "names"])
    assert "shared" not in said.getvalue()


def test_a_stopped_run_goes_on_only_from_the_same_layers(tmp_path: Path) -> None:
    MultiTaskTrainer.from_config(tiny_run(tmp_path, max_steps=1), console=QUIET).train()
    run = tiny_run(tmp_path, max_steps=2, freeze="encoder", save_strategy="steps", save_steps=1, eval_strategy="no")
    run |= {"encoder": str(tmp_path / "out"), "heads": "keep"}
    run["training"]["output_dir"] = str(tmp_path / "more")
    MultiTaskTrainer.from_config(run, console=QUIET).train()
    run["training"]["output_dir"] = str(killed_after(tmp_path / "more", 1, tmp_path / "killed"))
    file = tmp_path / "out" / "model.safetensors"
    weights = load_file(file)
    weights[next(name for name in weights if name.startswith("private."))] += 1
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="the encoder has other weights"):
        MultiTaskTrainer.from_config(run, console=QUIET, resume=True).train()
