"""A run of several processes is stopped by a signal, and a run goes on on another number of processes."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from hf_mtl.training.trainer import MultiTaskTrainer
from scripts.kill_and_resume import Processes, python_command
from tests.distributed.launch import REPOSITORY, launch
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


def test_a_run_goes_on_with_the_same_steps_on_another_number_of_processes(tmp_path):
    sgd = {"optim": "sgd", "learning_rate": 0.05, "num_train_epochs": 2.5, "load_best_model_at_end": False}
    file, run = write_run(tmp_path, **sgd)
    MultiTaskTrainer.from_config(run, console=QUIET).train()
    for processes in (2, 3):
        out = killed_after(tmp_path / "out", 6, tmp_path / f"out{processes}")
        # Three processes do not divide a step of eight: each piece is dealt as evenly as it can be.
        done = launch("hf_mtl", processes, "train", str(file), "--resume", "--set", f"training.output_dir={out}")
        assert done.returncode == 0, done.stderr[-2000:]
        state = json.loads((out / "checkpoints" / "step-00000020" / "state.json").read_text(encoding="utf-8"))
        assert (state["processes"], state["step_size"]) == (processes, 8)
        reference, resumed = steps_told(tmp_path / "out"), steps_told(out)
        assert [line["step"] for line in resumed] == [line["step"] for line in reference]
        for line, other in zip(reference, resumed, strict=True):
            assert other["rows_seen"] == line["rows_seen"]
            assert other["loss"] == pytest.approx(line["loss"], rel=1e-4)
        expected = vector(tmp_path / "out")
        assert torch.norm(vector(out) - expected) < 1e-6 * torch.norm(expected)


def test_processes_that_are_asked_to_stop_do_so_after_the_same_step_and_go_on_from_there(tmp_path):
    dropout = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    file, run = write_run(tmp_path, num_train_epochs=12, save_total_limit=1)
    file.write_text(json.dumps(run | {"encoder_config": dropout}), encoding="utf-8")
    whole = tmp_path / "whole"
    assert launch("hf_mtl", 2, "train", str(file), "--set", f"training.output_dir={whole}").returncode == 0
    command = python_command("hf_mtl", 2, "train", str(file))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with Processes(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as started:
        history = tmp_path / "out" / "history.jsonl"
        while started.first.poll() is None and not (history.exists() and history.stat().st_size):
            time.sleep(0.02)
        # The launcher passes it on to its processes, kills them after 30 seconds, and ends with 1.
        started.first.send_signal(signal.SIGTERM)
        told, _ = started.first.communicate(timeout=120)
    assert started.first.returncode == 1
    (checkpoint,) = (tmp_path / "out" / "checkpoints").glob("step-*")
    assert f"stopped after step {int(checkpoint.name.removeprefix('step-'))} of 48" in told
    assert told.count("stopped after step") == 1
    assert launch("hf_mtl", 2, "train", str(file), "--resume").returncode == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_what_is_wrong_is_told_once_and_no_process_waits_for_another(tmp_path):
    file, _ = write_run(tmp_path)
    (tmp_path / "train.jsonl").write_text('{"tokens": 3}\n', encoding="utf-8")
    done = launch("hf_mtl", 2, "train", str(file), timeout=200)
    assert done.returncode == 1
    assert done.stderr.count("train.jsonl row 1") == 1
    assert not (tmp_path / "out").exists()
