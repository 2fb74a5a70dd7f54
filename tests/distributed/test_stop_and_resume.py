"""A run goes on on another number of processes, and what is wrong is told once."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from hf_mtl.training.trainer import MultiTaskTrainer
from tests.distributed.launch import launch
from tests.runs import tiny_run
from tests.test_resume import killed_after

QUIET = Console(quiet=True)


def write_run(folder: Path, **training: Any) -> tuple[Path, dict[str, Any]]:
    run = tiny_run(folder, save_strategy="steps", save_steps=2, logging_steps=1, **training)
    (folder / "run.yaml").write_text(json.dumps(run), encoding="utf-8")
    return folder / "run.yaml", run


def steps_told(folder: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "history.jsonl").open(encoding="utf-8"))
    return [line for line in lines if "loss" in line]


def vector(folder: Path) -> torch.Tensor:
    return torch.cat([tensor.flatten() for _, tensor in sorted(load_file(folder / "model.safetensors").items())])


def assert_same_run(out: Path, reference: Path, processes: int) -> None:
    """The same steps, up to rounding; the last of them in so many processes."""
    state = json.loads((out / "checkpoints" / "step-00000020" / "state.json").read_text(encoding="utf-8"))
    assert (state["processes"], state["step_size"]) == (processes, 8)
    wanted, found = steps_told(reference), steps_told(out)
    assert [line["step"] for line in found] == [line["step"] for line in wanted]
    for line, other in zip(wanted, found, strict=True):
        assert other["rows_seen"] == line["rows_seen"]
        assert other["loss"] == pytest.approx(line["loss"], rel=1e-4)
    assert torch.norm(vector(out) - vector(reference)) < 1e-6 * torch.norm(vector(reference))


def test_a_run_goes_on_with_the_same_steps_on_another_number_of_processes(tmp_path):
    sgd = {"optim": "sgd", "learning_rate": 0.05, "num_train_epochs": 2.5, "load_best_model_at_end": False}
    file, run = write_run(tmp_path, **sgd)
    MultiTaskTrainer.from_config(run, console=QUIET).train()
    # Three processes do not divide a step of eight: each piece is dealt as evenly as it can be.
    more = killed_after(tmp_path / "out", 6, tmp_path / "more")
    done = launch("hf_mtl", 3, "train", str(file), "--resume", "--set", f"training.output_dir={more}")
    assert done.returncode == 0, done.stderr[-2000:]
    assert_same_run(more, tmp_path / "out", 3)
    fewer = killed_after(more, 12, tmp_path / "fewer")
    run["training"] |= {"output_dir": str(fewer)}
    MultiTaskTrainer.from_config(run, console=QUIET, resume=True).train()
    assert_same_run(fewer, tmp_path / "out", 1)


def test_what_is_wrong_is_told_once_and_no_process_waits_for_another(tmp_path):
    file, _ = write_run(tmp_path)
    (tmp_path / "train.jsonl").write_text('{"tokens": 3}\n', encoding="utf-8")
    done = launch("hf_mtl", 2, "train", str(file), timeout=200)
    assert done.returncode == 1
    assert done.stderr.count("train.jsonl row 1") == 1
    assert not (tmp_path / "out").exists()
