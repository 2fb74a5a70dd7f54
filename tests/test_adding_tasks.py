"""A model that gets a task, loses one, or gives up its adapters: what it answered before it answers still."""

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from rich.console import Console
from safetensors.torch import load_file, save_file

from hf_mtl.errors import UserError
from hf_mtl.inference.export import drop_saved_task, export_task, merge_model
from hf_mtl.inference.pipeline import MultiTaskPipeline
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.training.trainer import MultiTaskTrainer
from tests.runs import rows, tiny_run, write_rows

QUIET = Console(quiet=True)
TEXTS = [
    "Play a song by John Lennon please",
    "What is the weather in New York tomorrow",
    "Rate it",
    "Rate the book Imagine five stars, and then play it again in Berlin please",
]
# Not of the size that the new task's adapter has: adapters of one model need not be alike.
SCOPES: dict[str, dict[str, Any] | None] = {
    "no adapters": None,
    "shared": {"scope": "shared", "r": 4, "lora_alpha": 8},
    "per_task": {"scope": "per_task", "r": 4},
    "both": {"scope": "both", "r": 2, "use_rslora": True},
    "dora": {"scope": "shared", "r": 4, "use_dora": True},
    "trained encoder": {"scope": "per_task", "r": 4, "train_encoder": True},
}


def train(run: dict[str, Any], **options: Any) -> MultiTaskTrainer:
    trainer = MultiTaskTrainer.from_config(run, console=QUIET, **options)
    trainer.train()
    return trainer


def answers(folder: Path, tasks: list[str] | None = None, batch_size: int = 2) -> list[dict[str, Any]]:
    pipe = MultiTaskPipeline.from_pretrained(folder, device="cpu")
    options = {} if tasks is None else {"tasks": tasks}
    return pipe(TEXTS, batch_size=batch_size, **options)


def new_tasks(folder: Path, name: str, **training: Any) -> dict[str, Any]:
    """A run of one new task, which is to tell topics by other names."""
    run = tiny_run(folder)
    made = [{**row, "kind": None if row["topic"] is None else f"a {row['topic']}"} for row in rows(40, 9)]
    files = {split: str(write_rows(folder / f"kind_{split}.jsonl", made)) for split in ("train", "validation")}
    run["datasets"] = {"k": {"path": "json", "data_files": files, "tokens_column": "tokens"}}
    run["tasks"] = {"kind": {"task_type": "text-classification", "dataset": "k", "label_column": "kind"}}
    run["lora"] = {"r": 8, "lora_alpha": 32}
    run["training"] |= {"output_dir": str(folder / name), **training}
    return run


def assert_taken_out(folder: Path, out: Path) -> None:
    """The new task's stock checkpoint answers as the model that it is taken out of."""
    export_task(folder, "kind", out)
    stock = transformers.pipeline("text-classification", model=str(out), device="cpu")
    for text, answer in zip(TEXTS, answers(folder), strict=True):
        (wanted,) = stock(text, truncation=True)
        assert answer["kind"][0]["label"] == wanted["label"]
        assert answer["kind"][0]["score"] == pytest.approx(wanted["score"], abs=1e-5)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Gives what `added` is, of a scope; it is trained once."""

    @cache
    def made(scope):
        folder = tmp_path_factory.mktemp("added")
        lora = SCOPES[scope]
        train(tiny_run(folder, max_steps=3) | ({} if lora is None else {"lora": lora}))
        more = new_tasks(folder, "more", max_steps=6, save_strategy="steps", save_steps=3)
        train(more, onto=str(folder / "out"))
        return folder / "out", folder / "more", more

    return made


@pytest.fixture(params=SCOPES)
def added(request, models):
    """(folder of the model, folder of the model with a further task, run file of the task)."""
    return models(request.param)


of_each_form = pytest.mark.parametrize("added", ["no adapters", "both", "trained encoder"], indirect=True)
"""For what depends on the files that a folder holds, not on whose the old adapters are."""
of_one_form = pytest.mark.parametrize("added", ["both"], indirect=True)


def test_the_old_tasks_answer_as_before_to_the_bit(added):
    old, new, _ = added
    tasks = ["topic", "names"]
    before = answers(old)
    assert answers(new, tasks) == before
    assert [{task: answer[task] for task in tasks} for answer in answers(new)] == before


def test_the_old_weights_are_as_they_were(added):
    old, new, _ = added
    before, after = (MultiTaskModel.from_pretrained(folder) for folder in (old, new))
    for task in before.tasks:
        one, other = before.task_model(task).state_dict(), after.task_model(task).state_dict()
        assert all(torch.equal(weight, other[name]) for name, weight in one.items())


@of_each_form
def test_the_new_task_is_trained_and_can_be_taken_out(added, tmp_path):
    _, new, _ = added
    adapter = load_file(new / "adapters" / "kind" / "adapter_model.safetensors")
    # B is zero until it is trained.
    assert all(weight.any() for name, weight in adapter.items() if "lora_B" in name)
    assert_taken_out(new, tmp_path / "kind")


@of_each_form
def test_a_resumed_addition_ends_with_the_same_bytes(added, tmp_path):
    old, new, run = added
    shutil.copytree(new, tmp_path / "out")
    for name in ("config.json", "metrics.json"):
        (tmp_path / "out" / name).unlink()
    (tmp_path / "out" / ".unfinished").touch()
    checkpoints = sorted((tmp_path / "out" / "checkpoints").iterdir())
    for later in checkpoints[1:]:
        shutil.rmtree(later)
    train(run | {"training": run["training"] | {"output_dir": str(tmp_path / "out")}}, onto=str(old), resume=True)
    for file in ("heads.safetensors", "adapters/kind/adapter_model.safetensors"):
        assert (tmp_path / "out" / file).read_bytes() == (new / file).read_bytes()


@of_each_form
def test_an_addition_does_not_go_on_with_another_model(added, tmp_path):
    old, new, run = added
    shutil.copytree(new, tmp_path / "out")
    (tmp_path / "out" / "metrics.json").unlink()
    (tmp_path / "out" / ".unfinished").touch()
    shutil.copytree(old, tmp_path / "other")
    name = next(file for file in ("heads.safetensors", "model.safetensors") if (old / file).exists())
    weights = {key: weight + 1 for key, weight in load_file(old / name).items()}
    save_file(weights, tmp_path / "other" / name, metadata={"format": "pt"})
    again = run | {"training": run["training"] | {"output_dir": str(tmp_path / "out")}}
    for onto in (str(tmp_path / "other"), None):
        with pytest.raises(UserError, match="the model that the tasks are put on"):
            train(again, onto=onto, resume=True)


@of_each_form
def test_a_checkpoint_of_an_addition_holds_the_new_weights_alone(added):
    _, new, _ = added
    names = set(load_file(max((new / "checkpoints").iterdir()) / "model.safetensors"))
    assert names
    assert all(".kind." in name for name in names)


def test_the_new_task_dropped_leaves_the_old_model(added, tmp_path):
    old, new, _ = added
    shutil.copytree(new, tmp_path / "model")
    drop_saved_task(tmp_path / "model", "kind")
    assert answers(tmp_path / "model") == answers(old)
    assert not (tmp_path / "model" / "adapters" / "kind").exists()
    assert "kind" not in json.loads((tmp_path / "model" / "metrics.json").read_text())["validation"]


def test_an_old_task_dropped_leaves_the_others(added, tmp_path):
    _, new, _ = added
    shutil.copytree(new, tmp_path / "model")
    drop_saved_task(tmp_path / "model", "topic")
    assert answers(tmp_path / "model") == answers(new, ["names", "kind"])


@of_each_form
def test_a_model_may_get_one_task_after_another(added, tmp_path):
    old, new, run = added
    again = json.loads(json.dumps(run))
    again["tasks"] = {"sort": again["tasks"]["kind"]}
    again["training"] |= {"output_dir": str(tmp_path / "out"), "max_steps": 3, "save_strategy": "no"}
    del again["training"]["save_steps"]
    train(again, onto=str(new))
    assert answers(tmp_path / "out", ["topic", "names", "kind"]) == answers(new)
    with pytest.raises(UserError, match=r"tasks.sort: the model has a task of this name already"):
        train(again | {"training": again["training"] | {"output_dir": str(tmp_path / "x")}}, onto=str(tmp_path / "out"))


def test_a_shared_adapter_is_merged_and_others_are_refused(added, tmp_path):
    old, new, _ = added
    with pytest.raises(UserError, match="do not all have the same adapter"):
        merge_model(new, tmp_path / "never")
    assert not (tmp_path / "never").exists()
    adapters = MultiTaskModel.from_pretrained(old).lanes.adapters
    if adapters != {"shared": ("shared",)}:
        reason = "do not all have the same adapter" if any(adapters.values()) else "no adapters"
        with pytest.raises(UserError, match=reason):
            merge_model(old, tmp_path / "never")
        return
    merge_model(old, tmp_path / "merged")
    assert not (tmp_path / "merged" / "adapters").exists()
    assert (tmp_path / "merged" / "run.yaml").read_bytes() == (old / "run.yaml").read_bytes()
    with torch.inference_mode():
        ids = torch.randint(5, 200, (3, 9), generator=torch.Generator().manual_seed(0))
        one, other = (MultiTaskModel.from_pretrained(folder)(ids).logits for folder in (old, tmp_path / "merged"))
    assert all(torch.allclose(one[task], other[task], atol=1e-5) for task in one)


@of_one_form
def test_what_would_change_the_model_is_refused_at_once_and_all_together(added, tmp_path):
    old, _, run = added
    changed = {**run, "lora": {"train_encoder": True}, "tasks": {**run["tasks"], "topic": run["tasks"]["kind"]}}
    changed["training"] = run["training"] | {"output_dir": str(old), "freeze": "embeddings"}
    before = {file: file.stat().st_mtime_ns for file in old.rglob("*")}
    with pytest.raises(UserError) as found:
        train(changed, onto=str(old), overwrite=True)
    for key in ("lora.train_encoder", "training.freeze", "training.output_dir", "tasks.topic"):
        assert key in str(found.value)
    assert {file: file.stat().st_mtime_ns for file in old.rglob("*")} == before


@of_one_form
def test_the_last_task_and_an_unknown_one_are_not_dropped(added, tmp_path):
    old, _, _ = added
    shutil.copytree(old, tmp_path / "model")
    with pytest.raises(UserError, match="there is no task 'weather'; the model has topic, names"):
        drop_saved_task(tmp_path / "model", "weather")
    drop_saved_task(tmp_path / "model", "topic")
    with pytest.raises(UserError, match="only task"):
        drop_saved_task(tmp_path / "model", "names")
    with pytest.raises(UserError, match="there is none"):
        drop_saved_task(tmp_path / "nowhere", "names")
