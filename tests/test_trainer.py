"""A run from rows to a saved model, on tiny real models and files."""

import io
import json
from pathlib import Path

import datasets
import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import is_bf16_available
from rich.console import Console

from hf_mtl.config import load_config
from hf_mtl.errors import UserError
from hf_mtl.evaluation.splits import evaluate_saved
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.training.trainer import MultiTaskTrainer
from tests.runs import rows, tiny_run

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run = tiny_run(folder)
    trainer = MultiTaskTrainer.from_config(run, console=QUIET)
    trainer.train()
    return folder, run, trainer


def history(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "out" / "history.jsonl").open(encoding="utf-8")]


def test_a_run_leaves_model_tokenizer_run_metrics_and_history(finished):
    folder, run, trainer = finished
    names = {file.name for file in (folder / "out").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "run.yaml", "metrics.json", "history.jsonl"} <= names
    assert not [name for name in names if name.startswith(".")]
    metrics = json.loads((folder / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics == json.loads(json.dumps(trainer.metrics))
    assert set(metrics) == {"validation", "test", "score"}
    assert load_config(folder / "out" / "run.yaml") == load_config(run)
    tokenizer = json.loads((folder / "out" / "tokenizer.json").read_text(encoding="utf-8"))
    assert (tokenizer["truncation"], tokenizer["padding"]) == (None, None)


def test_it_learns(finished):
    _, _, trainer = finished
    losses = [entry["loss"] for entry in trainer.history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]


def test_the_history_holds_every_logging_step_and_evaluation(finished):
    folder, _, trainer = finished
    entries = history(folder)
    assert entries == json.loads(json.dumps(trainer.history))
    steps = [entry["step"] for entry in entries if "loss" in entry]
    assert steps == sorted({*range(3, trainer.course.total_steps + 1, 3), trainer.course.total_steps})
    assert [entry["epoch"] for entry in entries if entry.get("split") == "validation"] == [1.0, 2.0]
    seen = next(entry for entry in reversed(entries) if "rows_seen" in entry)["rows_seen"]
    train = trainer.prepared.split("train")["d"]
    assert seen == {task: 2 * int((train.items(task) > 0).sum()) for task in ("topic", "names")}


def test_the_saved_model_is_the_best_by_validation_and_measures_the_same_again(finished):
    folder, _, trainer = finished
    scores = [entry["score"] for entry in trainer.history if "score" in entry]
    assert trainer.metrics["score"] == max(scores)
    for split in ("validation", "test"):
        saved = evaluate_saved(str(folder / "out"), split)
        assert {task: result.metrics for task, result in saved.results.items()} == trainer.metrics[split]


def test_the_score_is_the_weighted_mean_of_each_tasks_first_metric(tmp_path):
    run = tiny_run(tmp_path, max_steps=2)
    run["tasks"]["topic"] |= {"score_weight": 3.0, "metrics": ["accuracy", "mcc"]}
    metrics = MultiTaskTrainer.from_config(run, console=QUIET).train()
    found = metrics["validation"]
    assert metrics["score"] == pytest.approx((3 * found["topic"]["accuracy"] + found["names"]["f1"]) / 4)


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not(tmp_path):
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run = tiny_run(tmp_path, max_steps=4, seed=seed, output_dir=str(tmp_path / name))
        MultiTaskTrainer.from_config(run, console=QUIET).train()
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


@pytest.mark.parametrize("strategy", ["proportional", "round_robin", "temperature", "weights"])
@pytest.mark.parametrize("batch", ["mixed", "single_task"])
def test_every_strategy_trains(tmp_path, strategy, batch):
    run = tiny_run(tmp_path, num_train_epochs=1)
    run["sampling"] = {"strategy": strategy, "batch": batch}
    run["sampling"] |= {"temperature": {"temperature": 2.0}, "weights": {"weights": {"d": 1}}}.get(strategy, {})
    trainer = MultiTaskTrainer.from_config(run, console=QUIET)
    trainer.train()
    seen = trainer.history[-2]["rows_seen"]
    items = {task: int((trainer.prepared.split("train")["d"].items(task) > 0).sum()) for task in seen}
    if strategy == "proportional":
        assert seen == items
    elif batch == "single_task":
        assert sum(seen.values()) == sum(items.values())


def test_accumulation_takes_the_same_steps_as_larger_batches(tmp_path):
    weights = []
    for size, accumulated in ((8, 1), (2, 4)):
        run = tiny_run(tmp_path, optim="sgd", max_steps=5, per_device_train_batch_size=size)
        run["training"] |= {"gradient_accumulation_steps": accumulated, "learning_rate": 0.05, "eval_strategy": "no"}
        trainer = MultiTaskTrainer.from_config(run, overwrite=True, console=QUIET)
        trainer.train()
        weights.append(torch.cat([tensor.flatten() for tensor in trainer.model.state_dict().values()]))
    assert torch.norm(weights[0] - weights[1]) < 1e-6 * torch.norm(weights[0])


def test_without_validation_the_last_weights_are_kept(tmp_path):
    run = tiny_run(tmp_path, max_steps=3)
    del run["datasets"]["d"]["data_files"]["validation"]
    said = Console(file=io.StringIO())
    trainer = MultiTaskTrainer.from_config(run, console=said)
    assert "no data set has a validation split: the last weights are kept" in said.file.getvalue()
    metrics = trainer.train()
    assert metrics["score"] is None
    assert metrics["validation"] == {}
    assert set(metrics["test"]) == {"topic", "names"}


def test_rows_in_memory_train_as_rows_from_files_do(tmp_path):
    run = tiny_run(tmp_path, max_steps=3)
    MultiTaskTrainer.from_config(run, console=QUIET).train()
    from_files = (tmp_path / "out" / "model.safetensors").read_bytes()
    memory = datasets.DatasetDict(
        {
            split: datasets.Dataset.from_list(rows(count, seed))
            for seed, (split, count) in enumerate({"train": 60, "validation": 20, "test": 20}.items())
        }
    )
    run["datasets"]["d"] = {"tokens_column": "tokens"}
    MultiTaskTrainer.from_config(run, datasets={"d": memory}, overwrite=True, console=QUIET).train()
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == from_files


def test_a_folder_that_holds_a_run_is_refused_and_stays_as_it_is(finished):
    folder, run, _ = finished
    before = {file: file.read_bytes() for file in (folder / "out").rglob("*") if file.is_file()}
    with pytest.raises(UserError, match="holds a run already .*--overwrite"):
        MultiTaskTrainer.from_config(run, console=QUIET)
    assert before == {file: file.read_bytes() for file in (folder / "out").rglob("*") if file.is_file()}


def test_wrong_rows_leave_no_output_folder(tmp_path):
    run = tiny_run(tmp_path)
    with (tmp_path / "validation.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"tokens": ["a"], "tags": ["B-place"], "topic": "sport"}) + "\n")
    with pytest.raises(UserError, match=r"validation.jsonl row 21: column 'topic': label 'sport' of task topic is"):
        MultiTaskTrainer.from_config(run, console=QUIET)
    assert not (tmp_path / "out").exists()


def test_a_loss_that_is_no_number_stops_the_run_and_names_step_and_task(tmp_path):
    run = tiny_run(tmp_path, learning_rate=1e30, optim="sgd", max_grad_norm=0.0)
    with pytest.raises(UserError, match=r"step \d+: the loss of .*topic.* is not a finite number"):
        MultiTaskTrainer.from_config(run, console=QUIET).train()
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_gradient_that_is_no_number_stops_the_run(tmp_path):
    trainer = MultiTaskTrainer.from_config(tiny_run(tmp_path, max_steps=1), console=QUIET)
    first = next(trainer.model.parameters())
    first.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(UserError, match="step 1: the gradient is not finite"):
        trainer.train()
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_task_that_sampling_never_draws_is_told(tmp_path):
    run = tiny_run(tmp_path, num_train_epochs=1)
    run["datasets"]["rare"] = run["datasets"]["d"]
    run["tasks"]["names"]["dataset"] = "rare"
    run["sampling"] = {"strategy": "weights", "weights": {"d": 1000, "rare": 1}}
    said = Console(file=io.StringIO())
    MultiTaskTrainer.from_config(run, console=said).train()
    assert "names: no row of it was drawn" in said.file.getvalue()
    assert "topic: no row of it" not in said.file.getvalue()


def test_a_tuned_threshold_is_saved_with_the_model(tmp_path):
    run = tiny_run(tmp_path, max_steps=6)
    for split in ("train", "validation", "test"):
        file = tmp_path / f"{split}.jsonl"
        made = [json.loads(line) for line in file.open(encoding="utf-8")]
        text = "".join(json.dumps(row | {"topics": [row["topic"]] if row["topic"] else []}) + "\n" for row in made)
        file.write_text(text, encoding="utf-8")
    run["tasks"]["topics"] = {
        "task_type": "text-classification",
        "dataset": "d",
        "label_column": "topics",
        "problem_type": "multi_label_classification",
        "threshold": "tune",
    }
    trainer = MultiTaskTrainer.from_config(run, console=QUIET)
    metrics = trainer.train()
    saved = MultiTaskModel.from_pretrained(tmp_path / "out")
    assert saved.tasks["topics"].spec.threshold == trainer.model.tasks["topics"].spec.threshold
    again = evaluate_saved(str(tmp_path / "out"), "validation").results["topics"].metrics
    assert again == metrics["validation"]["topics"]


def test_test_is_measured_without_the_files_of_train(tmp_path):
    run = tiny_run(tmp_path, max_steps=2)
    metrics = MultiTaskTrainer.from_config(run, console=QUIET).train()
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").unlink()
    results = evaluate_saved(str(tmp_path / "out"), "test").results
    assert {task: result.metrics for task, result in results.items()} == metrics["test"]


def test_accumulation_set_from_outside_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    with pytest.raises(UserError, match="unset it and write training.gradient_accumulation_steps"):
        MultiTaskTrainer.from_config(tiny_run(tmp_path), console=QUIET)


def test_several_processes_that_are_not_one_run_are_refused(tmp_path, monkeypatch):
    trainer = MultiTaskTrainer.from_config(tiny_run(tmp_path), console=QUIET)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="started 2 processes, but Accelerate sees 1"):
        MultiTaskTrainer(
            trainer.config, trainer.model, trainer.tokenizer, trainer.prepared, trainer.folder, console=QUIET
        )


def test_a_run_that_is_replaced_stays_until_the_new_one_is_saved(tmp_path):
    run = tiny_run(tmp_path, max_steps=2)
    MultiTaskTrainer.from_config(run, console=QUIET).train()
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    run["training"] |= {"learning_rate": 1e30, "optim": "sgd", "max_grad_norm": 0.0, "max_steps": 50}
    with pytest.raises(UserError, match="not a finite number"):
        MultiTaskTrainer.from_config(run, overwrite=True, console=QUIET).train()
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == weights
    run["training"] |= {"learning_rate": 0.01, "max_steps": 2}
    MultiTaskTrainer.from_config(run, overwrite=True, console=QUIET).train()
    assert (tmp_path / "out" / "model.safetensors").read_bytes() != weights


@pytest.mark.skipif(not is_bf16_available(), reason="this device cannot compute in bfloat16")
def test_bfloat16_trains_float32_weights_nearly_as_float32_does(tmp_path):
    losses = {}
    for bf16 in (False, True):
        AcceleratorState._reset_state()  # as Accelerate's own tests do: one process has one precision
        run = tiny_run(tmp_path, bf16=bf16, max_steps=8, logging_steps=8)
        trainer = MultiTaskTrainer.from_config(run, overwrite=True, console=QUIET)
        trainer.train()
        assert {tensor.dtype for tensor in trainer.model.parameters()} == {torch.float32}
        losses[bf16] = trainer.history[0]["loss"]
    with pytest.raises(UserError, match="training.bf16: AcceleratorState has already been initialized"):
        MultiTaskTrainer.from_config(tiny_run(tmp_path), overwrite=True, console=QUIET)
    AcceleratorState._reset_state()
    assert losses[True] != losses[False]
    assert losses[True] == pytest.approx(losses[False], rel=0.05)
