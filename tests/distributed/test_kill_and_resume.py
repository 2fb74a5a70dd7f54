"""A run killed or stopped at any moment and resumed ends with the bytes of one that never was, killed for real.

One kill with one process and one with two, or 20 in all, some with three, with HF_MTL_FULL_TESTS=1.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import psutil
import pytest

from scripts.kill_and_resume import AIMS, Experiment, differences
from scripts.processes import Processes, python_command
from tests.distributed.launch import REPOSITORY, launch
from tests.runs import tiny_run

WRITING = AIMS[1]
KILLS: dict[int, list[str | None]] = {1: [WRITING], 2: [None]}
"""Processes → what each kill waits for."""
if os.environ.get("HF_MTL_FULL_TESTS") == "1":
    KILLS = {1: [*AIMS, *AIMS], 2: [*AIMS, None, WRITING], 3: [*AIMS, None, WRITING]}


@pytest.fixture(scope="module")
def experiment_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Experiment]:
    """Gives the experiment of so many processes, after one run to its end.

    In the run every random generator matters; it has a checkpoint every other step and an evaluation between them.
    """
    folder = tmp_path_factory.mktemp("run")
    often = {"logging_steps": 1, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 2}
    run = tiny_run(folder, num_train_epochs=10, eval_strategy="steps", eval_steps=7, **often)
    run["encoder_config"] = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    (folder / "run.yaml").write_text(json.dumps(run), encoding="utf-8")

    @cache
    def ran(processes: int) -> Experiment:
        experiment = Experiment(folder / "run.yaml", processes, tmp_path_factory.mktemp("experiment"), seed=5)
        assert experiment.run_to_end().saves[WRITING]
        return experiment

    return ran


@pytest.mark.parametrize("processes", KILLS)
def test_a_run_killed_at_any_moment_and_resumed_ends_as_one_never_stopped(experiment_of, processes):
    experiment = experiment_of(processes)
    for aim in KILLS[processes]:
        kill = experiment.kill(aim)
        assert kill.differences == [], kill.told


def test_processes_that_are_asked_to_stop_do_so_after_the_same_step_and_go_on_from_there(experiment_of, tmp_path):
    experiment, out = experiment_of(2), tmp_path / "out"
    arguments = ("train", str(experiment.config), "--set", f"training.output_dir={out}")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with Processes(
        python_command("hf_mtl", 2, *arguments),
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as started:
        history = out / "history.jsonl"
        while started.first.poll() is None and not (history.exists() and history.stat().st_size):
            time.sleep(0.02)
        # The launcher passes it on to its processes, kills them after 30 seconds, and ends with 1.
        started.first.send_signal(signal.SIGTERM)
        told, _ = started.first.communicate(timeout=120)
    assert started.first.returncode == 1
    newest = max(path.name for path in (out / "checkpoints").glob("step-*"))
    assert f"stopped after step {int(newest.removeprefix('step-'))} of 40" in told
    assert told.count("stopped after step") == 1
    assert launch("hf_mtl", 2, *arguments, "--resume").returncode == 0
    assert differences(experiment.reference, out) == []


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
