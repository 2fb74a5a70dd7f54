"""A run that is stopped, in whatever way, goes on as if it had not been."""

import json
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hf_mtl.errors import FinishedError, StoppedError, UserError
from hf_mtl.training.trainer import MultiTaskTrainer
from tests.runs import rows, tiny_run, write_rows

QUIET = Console(quiet=True)
DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}


def make_run(folder: Path, **training: Any) -> dict[str, Any]:
    """A run of 16 steps with dropout, two data sets, and draws that reach from one epoch into the next."""
    run = tiny_run(folder, num_train_epochs=1.75, logging_steps=2, save_strategy="steps", save_steps=1)
    more = write_rows(folder / "more.jsonl", rows(9, 7))
    run["datasets"]["more"] = {"path": "json", "data_files": str(more), "tokens_column": "tokens"}
    run["tasks"]["more"] = run["tasks"]["topic"] | {"dataset": "more"}
    run["sampling"] = {"strategy": "round_robin", "pool_size": 3}
    run["encoder_config"] = DROPOUT
    run["training"] |= {"eval_strategy": "steps", "eval_steps": 3, **training}
    return run


def train(run: dict[str, Any], **options: Any) -> MultiTaskTrainer:
    trainer = MultiTaskTrainer.from_config(run, console=QUIET, **options)
    trainer.train()
    return trainer


def results(folder: Path) -> tuple[bytes, list[dict[str, Any]], Any]:
    """What a run leaves, but for its speed: weights, history, metrics."""
    lines = [json.loads(line) for line in (folder / "history.jsonl").open(encoding="utf-8")]
    told = [{key: value for key, value in line.items() if "per_second" not in key} for line in lines]
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    files = [*sorted(folder.glob("*.safetensors")), *sorted(folder.glob("adapters/*/*.safetensors"))]
    assert files
    return b"".join(file.read_bytes() for file in files), told, metrics


def killed_after(finished: Path, step: int, folder: Path) -> Path:
    """The folder as a kill after a checkpoint leaves it: half a further checkpoint, and lines of steps after it."""
    shutil.copytree(finished, folder)
    for name in ("config.json", "model.safetensors", "heads.safetensors", "metrics.json"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "adapters", ignore_errors=True)
    (folder / ".unfinished").touch()
    for checkpoint in (folder / "checkpoints").iterdir():
        if int(checkpoint.name.removeprefix("step-")) > step:
            shutil.rmtree(checkpoint)
    (folder / "checkpoints" / f".writing-step-{step + 1:08d}").mkdir()
    (folder / "checkpoints" / f".writing-step-{step + 1:08d}" / "model.safetensors").write_bytes(b"half")
    return folder


VARIANTS = {
    "mixed": {},
    "early stopping by task": {"early_stopping": "per_task", "early_stopping_patience": 1, "learning_rate": 1e-2},
    "early stopping of the run": {
        "early_stopping": "overall",
        "early_stopping_threshold": 0.9,
        "logging_steps": 500,
    },
    "best weights between checkpoints": {"save_steps": 4, "eval_steps": 1, "dataloader_num_workers": 1},
}
MOMENTS = (1, 3, 6, 8, 9, 11)
"""Steps after which runs are resumed: at every distance from a step that is logged (2) and one that is measured (3)."""


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """Gives (folder, run, trainer) of a variant, which is trained once."""

    @cache
    def made(variant):
        folder = tmp_path_factory.mktemp("run")
        run = make_run(folder, **VARIANTS[variant])
        return folder, run, train(run)

    return made


@pytest.fixture(params=VARIANTS)
def finished(request, finished_run):
    return finished_run(request.param)


@pytest.fixture
def mixed(finished_run):
    return finished_run("mixed")


def test_a_run_resumed_after_any_checkpoint_ends_with_the_same_bytes(finished, tmp_path):
    folder, run, trainer = finished
    steps = {int(found.name.removeprefix("step-")) for found in (folder / "out" / "checkpoints").iterdir()}
    assert max(steps) == trainer.history[-1]["step"]
    for step in sorted(steps & {*MOMENTS, max(steps)} if len(steps) > 4 else steps):
        out = killed_after(folder / "out", step, tmp_path / str(step))
        train(run | {"training": run["training"] | {"output_dir": str(out)}}, resume=True)
        assert results(out) == results(folder / "out"), f"resumed after step {step}"
        assert not [file.name for file in out.rglob(".*")]


def test_tasks_are_paused_and_rejoin_in_the_run_that_stops_task_by_task(finished_run):
    """So that the tests above meet both: a pause in the middle of an epoch, and an epoch planned without a task."""
    folder, _, _ = finished_run("early stopping by task")
    states = [json.loads(file.read_text()) for file in sorted((folder / "out").glob("checkpoints/*/state.json"))]
    paused = [set(state["early_stopping"]["paused"]) for state in states]
    assert any(paused)
    assert any(before - after for before, after in zip(paused, paused[1:], strict=False))
    assert any(len(state["position"]["active"]) < 3 for state in states)


def test_a_run_resumed_without_a_checkpoint_starts_anew(mixed, tmp_path):
    folder, run, _ = mixed
    out = killed_after(folder / "out", 0, tmp_path / "out")
    train(run | {"training": run["training"] | {"output_dir": str(out)}}, resume=True)
    assert results(out) == results(folder / "out")


def test_a_finished_run_has_nothing_to_resume(mixed):
    _, run, _ = mixed
    with pytest.raises(FinishedError, match="is finished: nothing is left to do"):
        MultiTaskTrainer.from_config(run, console=QUIET, resume=True)


@pytest.fixture
def heeded():
    """Tests started in the background inherit an ignored SIGINT, which a run goes on ignoring."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, inherited)


@pytest.mark.parametrize(
    ("variant", "number", "step"),
    [
        ("mixed", signal.SIGTERM, 1),
        ("mixed", signal.SIGINT, 6),
        ("early stopping by task", signal.SIGTERM, 6),
        ("early stopping of the run", signal.SIGINT, "the last"),
        ("best weights between checkpoints", signal.SIGTERM, "the last"),
        ("best weights between checkpoints", signal.SIGINT, 6),
    ],
)
def test_a_signal_stops_after_the_step_and_the_run_goes_on_from_there(
    heeded, finished_run, tmp_path, variant, number, step
):
    folder, run, whole = finished_run(variant)
    step = whole.history[-1]["step"] if step == "the last" else step
    run = run | {
        "training": run["training"] | {"output_dir": str(tmp_path / "out"), "save_strategy": "no", "save_steps": None}
    }
    trainer = MultiTaskTrainer.from_config(run, console=QUIET)
    done = []

    def ask(*_: Any) -> None:
        if trainer.model.training:
            done.append(None)
            if len(done) == step:
                os.kill(os.getpid(), number)

    trainer.model.register_forward_hook(ask)
    before = signal.getsignal(number)
    with pytest.raises(StoppedError, match=rf"stopped after step {step} of 16, .*--resume") as stopped:
        trainer.train()
    assert stopped.value.status == 128 + number
    assert signal.getsignal(number) == before
    assert [found.name for found in (tmp_path / "out" / "checkpoints").iterdir()] == [f"step-{step:08d}"]
    with pytest.raises(UserError, match=f"stopped after step {step}.*--resume to go on"):
        MultiTaskTrainer.from_config(run, console=QUIET)
    train(run, resume=True)
    assert results(tmp_path / "out") == results(folder / "out")


def poison(trainer: MultiTaskTrainer, calls: int) -> None:
    """From one training step on, the loss of the task `more` is no number, once."""
    done = []

    def hook(module: Any, inputs: Any, output: Any) -> None:
        if trainer.model.training:
            done.append(None)
            if len(done) == calls:
                output.loss_sums["more"] = output.loss_sums["more"] * float("nan")

    trainer.model.register_forward_hook(hook)


def test_a_loss_that_is_no_number_leaves_a_checkpoint_of_the_step_before(mixed, tmp_path):
    folder, run, _ = mixed
    run = run | {
        "training": run["training"] | {"output_dir": str(tmp_path / "out"), "save_strategy": "no", "save_steps": None}
    }
    trainer = MultiTaskTrainer.from_config(run, console=QUIET)
    poison(trainer, 6)
    with pytest.raises(UserError, match=r"step 6: the loss of more \(data set more\) is not a finite .*after step 5"):
        trainer.train()
    # The fault gone, the run is the one that never met it.
    train(run, resume=True)
    assert results(tmp_path / "out") == results(folder / "out")


def test_a_step_whose_loss_is_no_number_can_be_left_out(tmp_path):
    run = make_run(tmp_path, on_nonfinite="skip", save_strategy="no", save_steps=None)
    trainer = MultiTaskTrainer.from_config(run, console=QUIET)
    before = {}

    def remember(step: int, weights: dict[str, Any]) -> None:
        before[step] = {name: tensor.clone() for name, tensor in weights.items()}

    poison(trainer, 6)
    trainer.model.register_forward_pre_hook(
        lambda *_: remember(len(before) + 1, trainer.model.state_dict()) if trainer.model.training else None
    )
    trainer.train()
    assert all(before[6][name].equal(weight) for name, weight in before[7].items())
    assert not all(before[7][name].equal(weight) for name, weight in before[8].items())
    logged = {line["step"]: line for line in trainer.history if "loss" in line}
    assert "steps_not_finite" not in logged[4]
    assert logged[6]["steps_not_finite"] == logged[16]["steps_not_finite"] == 1


def test_a_trainer_trains_once(tmp_path):
    trainer = train(make_run(tmp_path, save_strategy="no", save_steps=None, max_steps=1))
    with pytest.raises(UserError, match="has trained already; make a new one with from_config.*resume=True"):
        trainer.train()


def test_what_differs_from_the_checkpoint_is_said_and_refused(mixed, tmp_path):
    folder, run, _ = mixed
    out = killed_after(folder / "out", 4, tmp_path / "out")
    training = run["training"] | {"output_dir": str(out), "learning_rate": 0.1, "save_total_limit": 3}
    with pytest.raises(UserError, match=r"(?s)is of another run:\n  training.learning_rate: 0.005 there, 0.1 now\n\S"):
        train(run | {"training": training}, resume=True)
    changed = write_rows(tmp_path / "more.jsonl", rows(9, 8))
    datasets = run["datasets"] | {"more": run["datasets"]["more"] | {"data_files": {"train": str(changed)}}}
    with pytest.raises(UserError, match=r"is of another run:\n  data set more, split train: has other rows"):
        train(run | {"datasets": datasets, "training": training | {"learning_rate": 5e-3}}, resume=True)


def test_old_checkpoints_are_forgotten_but_the_best_is_kept(tmp_path):
    run = make_run(tmp_path, save_total_limit=2, eval_steps=1)
    trainer = train(run)
    scores = {line["step"]: line["score"] for line in trainer.history if "score" in line}
    best = max(scores, key=scores.__getitem__)
    kept = {int(found.name.removeprefix("step-")) for found in (tmp_path / "out" / "checkpoints").iterdir()}
    assert kept == {15, 16, best}


@contextmanager
def files_limited(size: int) -> Iterator[None]:
    """Files are limited in size: a write beyond fails as on a full disk, but for the error's name."""
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_without_room_the_last_checkpoint_stays_good_and_the_run_goes_on_when_there_is_some(tmp_path):
    run = make_run(tmp_path, max_steps=4)
    train(run | {"training": run["training"] | {"output_dir": str(tmp_path / "whole")}})
    message = "the checkpoint of step 1 could not be written.*go on with --resume"
    with files_limited(60_000), pytest.raises(UserError, match=f"(?s){message}"):
        train(run)
    assert not list((tmp_path / "out" / "checkpoints").iterdir())
    train(run, resume=True)
    assert results(tmp_path / "out") == results(tmp_path / "whole")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_a_clear_error(tmp_path):
    run = make_run(tmp_path)
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(UserError, match="cannot be written to"):
        train(run)
