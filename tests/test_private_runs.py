"""Runs with private layers: what they say, save and go on with; and tasks put on a model with layers of their own."""

import io
import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from rich.console import Console
from safetensors.torch import load_file
from typer.testing import CliRunner

from hf_mtl.cli import app
from hf_mtl.config import load_config
from hf_mtl.errors import UserError
from hf_mtl.inference.export import drop_saved_task, export_task
from hf_mtl.inference.pipeline import MultiTaskPipeline
from hf_mtl.modeling.costs import cost_lines
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.run_file import write_run_file
from hf_mtl.training.optimization import freeze, make_optimizer
from hf_mtl.training.trainer import MultiTaskTrainer
from tests.runs import tiny_run
from tests.test_adding_tasks import QUIET, TEXTS, answers, assert_taken_out, new_tasks, train
from tests.test_resume import killed_after, results
from tests.tiny import save_tiny_encoder

PRIVATE = {"private_layers": 1}
OLD = ["topic", "names"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(run, trainer, what it said)."""
    folder = tmp_path_factory.mktemp("private")
    run = tiny_run(folder, save_strategy="steps", save_steps=4) | {"sharing": PRIVATE}
    run["encoder_config"] = {"hidden_dropout_prob": 0.1}
    said = io.StringIO()
    trainer = MultiTaskTrainer.from_config(run, console=Console(file=said, width=200))
    trainer.train()
    return run, trainer, said.getvalue()


def folder_of(run: dict[str, Any]) -> Path:
    return Path(run["training"]["output_dir"])


def changed(run: dict[str, Any], folder: Any, **training: Any) -> dict[str, Any]:
    return run | {"training": run["training"] | {"output_dir": str(folder / "out"), **training}}


def test_every_group_trains_layers_of_its_own(trained):
    run, trainer, _ = trained
    model = MultiTaskModel.from_pretrained(run["training"]["output_dir"])
    (own,) = model.private.values()
    theirs, ours = own.get_submodule("encoder.layer.1"), model.encoder.get_submodule("encoder.layer.1")
    for one, other in zip(theirs.parameters(), ours.parameters(), strict=True):
        assert not torch.equal(one, other)
    begun = transformers.AutoModel.from_pretrained(run["encoder"]).get_submodule("encoder.layer.1")
    for moved in (theirs, ours):
        assert not torch.equal(moved.output.dense.weight, begun.output.dense.weight)


def test_the_run_says_what_private_layers_cost(trained):
    run, trainer, said = trained
    layer = sum(weight.numel() for weight in trainer.model.private.parameters())
    whole = sum(weight.numel() for weight in trainer.model.parameters())
    heads = sum(weight.numel() for weight in trainer.model.heads.parameters())
    alone = 2 * (whole - layer - heads) + heads
    assert "top layers of one's own, of 2: topic: 1; names: 1\n" in said
    assert f"{whole / (whole - layer):.2f} times those of a fully shared encoder" in said
    assert f"{whole / alone:.2f} of those of one model a task" in said
    assert "passes for all tasks: 3; with a fully shared encoder 2, with one model a task 4" in said


@pytest.mark.parametrize("step", [4, 8, 12])
def test_a_stopped_run_goes_on_with_the_same_bytes(trained, tmp_path, step):
    run, _, _ = trained
    out = killed_after(folder_of(run), step, tmp_path / "out")
    train(changed(run, tmp_path), resume=True)
    assert results(out) == results(folder_of(run))


def test_another_way_of_sharing_is_another_run(trained, tmp_path):
    run, _, _ = trained
    killed_after(folder_of(run), 8, tmp_path / "out")
    with pytest.raises(UserError, match=r"sharing.private_layers: 1 there, 0 now"):
        train(changed(run, tmp_path) | {"sharing": {"private_layers": 0}}, resume=True)


def test_the_stock_pipelines_agree(trained, tmp_path):
    run, _, _ = trained
    found = answers(folder_of(run))
    for task, kind in (("topic", "text-classification"), ("names", "token-classification")):
        export_task(folder_of(run), task, tmp_path / task)
        stock = transformers.pipeline(kind, model=str(tmp_path / task), device="cpu")
        for text, answer in zip(TEXTS, found, strict=True):
            wanted = stock(text, **({"truncation": True} if task == "topic" else {}))
            assert [one.keys() for one in answer[task]] == [one.keys() for one in wanted]
            for one, other in zip(answer[task], wanted, strict=True):
                assert one.pop("score") == pytest.approx(other.pop("score"), abs=1e-5)
                assert one == other


@pytest.mark.parametrize("options", [{"gradient_checkpointing": True}, {"gradient_accumulation_steps": 2}])
def test_what_saves_memory_changes_nothing(trained, tmp_path, options):
    run, _, _ = trained
    quiet = {"eval_strategy": "no", "max_steps": 5, "save_strategy": "no", "save_steps": None}
    plain = {key: value for key, value in run.items() if key != "encoder_config"}
    weights = []
    for number, more in enumerate(({}, options)):
        if "gradient_accumulation_steps" in more:
            more = more | {"per_device_train_batch_size": 4}
        trainer = train(changed(plain, tmp_path / str(number), **quiet, **more))
        weights.append(torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()]))
    one, other = weights
    assert (one - other).norm() < 1e-5 * one.norm()


def test_rates_decay_and_freezing_are_those_of_the_layer_that_was_copied(trained, tmp_path):
    run, _, _ = trained
    trainer = MultiTaskTrainer.from_config(
        changed(run, tmp_path, layerwise_lr_decay=0.5, weight_decay=0.1, freeze={"layers": "0-0"}), console=QUIET
    )
    model = trainer.model
    optimizer = make_optimizer(model, trainer.training)
    groups = {id(weight): group for group in optimizer.param_groups for weight in group["params"]}
    own = model.private["names"]
    for name, weight in own.named_parameters():
        twin = model.encoder.get_parameter(name)
        told = [(groups[id(one)]["lr"], groups[id(one)]["weight_decay"]) for one in (weight, twin)]
        assert told[0] == told[1]
    freeze(model, trainer.training.freeze)
    assert all(weight.requires_grad for weight in own.parameters())
    last = trainer.training.freeze.model_copy(update={"layers": "1-1"})
    freeze(model, last)
    assert not any(weight.requires_grad for weight in own.parameters())


@pytest.fixture(scope="module", params=["shared", "private"])
def added(request, trained, tmp_path_factory):
    """(folder of a model, folder of the model with a further task on a layer of its own, run file of the task)."""
    folder = tmp_path_factory.mktemp("added")
    if request.param == "private":
        old = shutil.copytree(folder_of(trained[0]), folder / "out")
    else:
        train(tiny_run(folder, max_steps=3))
        old = folder / "out"
    more = {key: value for key, value in new_tasks(folder, "more").items() if key != "lora"}
    train(more, onto=str(old), private_layers=1)
    return old, folder / "more", more


def test_the_old_tasks_answer_as_before_to_the_bit(added):
    old, new, _ = added
    before = answers(old)
    assert answers(new, OLD) == before
    assert [{task: answer[task] for task in OLD} for answer in answers(new)] == before


def test_of_the_new_model_only_the_new_task_s_head_and_layer_are_new(added):
    old, new, _ = added
    before, after = (load_file(folder / "model.safetensors") for folder in (old, new))
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert {re.match(r"heads\.\w+|private\.\w+", name)[0] for name in after.keys() - before.keys()} == {
        "heads.kind",
        "private.kind",
    }
    groups = json.loads((new / "config.json").read_text(encoding="utf-8"))["groups"]
    assert groups[-1] == {"name": "kind", "tasks": ["kind"], "private_layers": 1}
    assert [task for group in groups for task in group["tasks"]] == [*OLD, "kind"]


def test_the_new_task_can_be_taken_out_and_dropped(added, tmp_path):
    old, new, _ = added
    assert_taken_out(new, tmp_path / "kind")
    shutil.copytree(new, tmp_path / "model")
    drop_saved_task(tmp_path / "model", "kind")
    assert answers(tmp_path / "model") == answers(old)
    assert load_file(tmp_path / "model" / "model.safetensors").keys() == load_file(old / "model.safetensors").keys()


def test_an_addition_goes_on_only_with_as_many_layers(added, tmp_path):
    old, new, run = added
    shutil.copytree(new, tmp_path / "out")
    (tmp_path / "out" / "metrics.json").unlink()
    (tmp_path / "out" / ".unfinished").touch()
    with pytest.raises(UserError, match=r"put on: .* \(1 private layers\) there, "):
        train(changed(run, tmp_path), onto=str(old), resume=True)


def test_what_cannot_be_put_on_a_model_is_refused_all_together(added, tmp_path):
    old, _, run = added
    wrong = changed(run, tmp_path) | {"lora": {}, "sharing": {"private_layers": "auto"}}
    with pytest.raises(UserError) as found:
        train(wrong, onto=str(old), private_layers=2)
    for part in ("lora: with --private-layers", "sharing.private_layers: ", "--private-layers: 2, and the encoder"):
        assert part in str(found.value)
    assert not (tmp_path / "out").exists()


def test_a_model_with_adapters_gets_none(tmp_path):
    train(tiny_run(tmp_path, max_steps=2) | {"lora": {}})
    more = {key: value for key, value in new_tasks(tmp_path, "more").items() if key != "lora"}
    with pytest.raises(UserError, match="private layers are put on a model without adapters; merge them first"):
        train(more, onto=str(tmp_path / "out"), private_layers=1)


def test_check_tells_the_groups_and_their_cost_or_why_there_are_none(tmp_path):
    run = tiny_run(tmp_path)
    check = partial(CliRunner().invoke, app)
    told = {
        "1": "top layers of one's own, of 2: topic: 1; names: 1\nparameters: ",
        "auto": "top layers of one's own, of 2: topic: 1; names: 1\nparameters: ",
    }
    write_run_file(load_config(run), tmp_path / "run.yaml")
    for wanted, line in told.items():
        done = check(["check", str(tmp_path / "run.yaml"), "--set", f"sharing.private_layers={wanted}"])
        assert done.exit_code == 0
        assert line in done.stdout
    run["tasks"].pop("topic")
    write_run_file(load_config(run), tmp_path / "run.yaml")
    done = check(["check", str(tmp_path / "run.yaml"), "--set", "sharing.private_layers=auto"])
    assert "sharing: there is one task, so that no layers are private\n" in done.stdout


def checked(run: dict[str, Any], folder: Path) -> Any:
    write_run_file(load_config(run), folder / "run.yaml")
    return CliRunner().invoke(app, ["check", str(folder / "run.yaml")])


@pytest.mark.parametrize("lora", [None, {}, {"scope": "both", "train_encoder": True}])
def test_check_tells_what_the_end_of_training_tells(tmp_path, lora):
    run = tiny_run(tmp_path) | {"sharing": PRIVATE} | ({} if lora is None else {"lora": lora})
    trainer = MultiTaskTrainer.from_config(run, console=QUIET)
    told = "\n".join(cost_lines(trainer.model.body, trainer.model.heads.values())) + "\n"
    assert told in checked(run, tmp_path).stdout
    assert ("by adapters alone" in told) == (lora == {})


def test_check_tells_why_a_frozen_encoder_has_no_private_layers(tmp_path):
    run = tiny_run(tmp_path, freeze="encoder") | {"sharing": {"private_layers": "auto"}}
    assert "training.freeze encoder leaves nothing to make private" in checked(run, tmp_path).stdout


@pytest.mark.parametrize(
    ("layers", "frozen", "line"),
    [
        (3, "1-2", "sharing: training.freeze layers 1-2 leaves nothing to make private"),
        (3, "0-1", "top layers of one's own, of 3: topic: 1; names: 1\n"),
        (4, "1-2", "top layers of one's own, of 4: topic: 1; names: 1\n"),
    ],
)
@pytest.mark.parametrize("private_layers", [None, "auto"])
def test_by_default_frozen_layers_are_not_private(tmp_path, layers, frozen, line, private_layers):
    run = tiny_run(tmp_path, freeze={"layers": frozen}) | {"sharing": {"private_layers": private_layers}}
    save_tiny_encoder(run["encoder"], num_hidden_layers=layers)
    assert line in checked(run, tmp_path).stdout
    trainer = MultiTaskTrainer.from_config(run, console=QUIET)
    assert [group.private_layers for group in trainer.model.groups] == ([1, 1] if line.startswith("top") else [])


def test_check_tells_that_adapters_alone_make_no_layers_of_groups_private(tmp_path):
    run = tiny_run(tmp_path) | {"sharing": {"groups": [["topic"], ["names"]]}, "lora": {}}
    assert (
        "sharing: lora trains adapters, so that all layers are shared; for private ones"
        in checked(run, tmp_path).stdout
    )


def test_frozen_layers_that_adapters_stand_on_may_be_private(tmp_path):
    run = tiny_run(tmp_path, freeze={"layers": "0-1"}) | {"sharing": PRIVATE, "lora": {"train_encoder": True}}
    assert "top layers of one's own, of 2: topic: 1; names: 1\n" in checked(run, tmp_path).stdout


@pytest.mark.parametrize(
    "keys",
    [
        {"sharing": PRIVATE, "training": {"freeze": {"layers": "0-1"}}},
        {"sharing": PRIVATE, "lora": {"layers_to_transform": [0]}},
        {"sharing": PRIVATE, "encoder_config": {"attn_implementation": "flex_attention"}},
        {"sharing": {"private_layers": "auto"}, "encoder_config": {"attn_implementation": "flex_attention"}},
        {"encoder_config": {"hidden_size": 37}},
        {"encoder_config": {"attn_implementation": "flash_attention_2"}},
        {"heads": "keep"},
    ],
)
def test_check_refuses_what_training_refuses(tmp_path, keys):
    run = tiny_run(tmp_path, **keys.get("training", {})) | {key: keys[key] for key in keys if key != "training"}
    with pytest.raises(UserError) as refused:
        train(run)
    done = checked(run, tmp_path)
    assert str(done.exception) == str(refused.value)


def test_the_pipeline_of_one_task_runs_no_other_s_layers(trained):
    pipe = MultiTaskPipeline.from_pretrained(folder_of(trained[0]), device="cpu")
    ran = []
    for name, part in pipe.model.body.parts():
        part.get_submodule("encoder.layer.1.attention").register_forward_hook(lambda *_, name=name: ran.append(name))
    pipe(TEXTS[0], tasks=["topic"])
    assert ran == ["encoder"]
    ran.clear()
    pipe(TEXTS[0], tasks=["names"])
    assert ran == ["private.names"]
