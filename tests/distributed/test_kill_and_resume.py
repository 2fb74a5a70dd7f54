"""A run killed at any moment and resumed ends with the bytes of one that was never stopped, killed for real.

One kill for each number of processes, or 20 in all with HF_MTL_FULL_TESTS=1.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from scripts.kill_and_resume import AIMS, Experiment, differences
from scripts.processes import Processes
from tests.distributed.launch import launch
from tests.runs import tiny_run

WRITING = AIMS[1]
KILLS: dict[int, list[str | None]] = {1: [WRITING], 2: [None], 3: [None]}
"""Processes → what each kill waits for."""
if os.environ.get("HF_MTL_FULL_TESTS") == "1":
    KILLS = {1: [*AIMS, *AIMS], 2: [*AIMS, None, WRITING], 3: [*AIMS, None, WRITING]}


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    """A run whose every random generator matters, with a checkpoint every other step and an evaluation between them."""
    often = {"logging_steps": 1, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 2}
    run = tiny_run(tmp_path, num_train_epochs=20, eval_strategy="steps", eval_steps=7, **often)
    run["encoder_config"] = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(run), encoding="utf-8")
    return file


@pytest.mark.parametrize("processes", KILLS)
def test_a_run_killed_at_any_moment_and_resumed_ends_as_one_never_stopped(run_file, tmp_path, processes):
    experiment = Experiment(run_file, processes, tmp_path, seed=5)
    life = experiment.run_to_end()
    assert life.saves[WRITING]
    for aim in KILLS[processes]:
        kill = experiment.kill(aim)
        assert kill.differences == [], kill.told


def write_output(folder: Path, *, steps: list[int], weights: bytes = b"weights") -> Path:
    """What a finished run leaves, as far as it is compared."""
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "metrics.json").write_text("{}", encoding="utf-8")
    lines = [json.dumps({"step": step, "loss": 1 / step, "rows_per_second": id(folder)}) + "\n" for step in steps]
    (folder / "history.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def test_every_difference_from_a_run_never_stopped_is_told(tmp_path):
    reference = write_output(tmp_path / "reference", steps=[1, 2, 3])
    assert differences(reference, write_output(tmp_path / "same", steps=[1, 2, 3])) == []
    other = write_output(tmp_path / "other", steps=[1, 2, 3], weights=b"weight!")
    assert differences(reference, other) == ["model.safetensors has other bytes"]
    twice = differences(reference, write_output(tmp_path / "twice", steps=[1, 2, 2, 3]))
    assert twice == [
        "history.jsonl: the steps do not ascend: [1, 2, 2, 3]",
        "history.jsonl line 3 is the first with another step, loss",
    ]
    short = differences(reference, write_output(tmp_path / "short", steps=[1, 2]))
    assert short == ["history.jsonl line 3 is the first with another step, loss"]
    (other / "checkpoints" / ".writing-step-00000002").mkdir(parents=True)
    (other / "metrics.json").unlink()
    assert {".writing-step-00000002 is left over", "metrics.json is missing"} < set(differences(reference, other))
    shutil.copy(reference / "model.safetensors", other)
    assert "model.safetensors has other bytes" not in differences(reference, other)


STARTS_ANOTHER = """
import subprocess, sys
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
print(subprocess.Popen(sleep, start_new_session=True).pid, flush=True)
subprocess.run(sleep)
"""


def test_a_kill_reaches_processes_that_have_a_session_of_their_own():
    with Processes([sys.executable, "-c", STARTS_ANOTHER], stdout=subprocess.PIPE, text=True) as started:
        other = psutil.Process(int(started.first.stdout.readline()))
        assert other.is_running()
    assert started.first.returncode == -9
    assert not other.is_running() or other.status() == psutil.STATUS_ZOMBIE


def test_a_command_that_hangs_is_not_waited_for_without_end():
    sleeps = [sys.executable, "-c", "import time; time.sleep(600)"]
    with Processes(sleeps, patience=0.1) as started, pytest.raises(subprocess.TimeoutExpired):
        started.wait_for(lambda: False)
    assert started.first.returncode == -9


def test_a_launch_that_takes_too_long_is_killed():
    statement = "import time; time.sleep(601)"
    with pytest.raises(subprocess.TimeoutExpired):
        launch("timeit", 1, "-n1", "-r1", statement, timeout=2)
    assert not any(statement in (process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))
