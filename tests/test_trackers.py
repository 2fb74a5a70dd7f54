"""Trackers: what TensorBoard shows of a run, and what happens where a tracker is missing or cannot start."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate import Accelerator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hf_mtl.config import load_config
from hf_mtl.config_keys import RunConfig
from hf_mtl.errors import UserError
from hf_mtl.training.trackers import Trackers, check_trackers, plain_settings, tracking_arguments
from tests.run_dicts import changed


def training(step: int, loss: float) -> dict[str, Any]:
    return {
        "step": step,
        "epoch": step / 10,
        "loss": loss,
        "task_loss": {"slots": 0.25, "情感": 3.0},
        "rows_seen": {"slots": 4 * step, "情感": step, "topic": 0},
        "learning_rate": 5e-5,
        "grad_norm": 1.5,
        "rows_per_second": 119.25,
        "tokens_per_second": 2000.0,
    }


def evaluation(step: int, f1: float, score: float | None, split: str = "validation") -> dict[str, Any]:
    by_label = {"city": {"precision": 1.0, "recall": 0.5, "f1": 0.75, "support": 3}}
    metrics = {"slots": {"f1": f1, "accuracy": 1, "by_label": by_label}, "topic": {"f1_macro": None}}
    return {"step": step, "epoch": 1.0, "split": split, "metrics": metrics, "score": score}


def tracked(output_dir: Path, step: int = 0, report_to: tuple[str, ...] = ("tensorboard",), **changes: Any) -> Trackers:
    """Trackers that have started."""
    trackers = Trackers(Accelerator(cpu=True, **tracking_arguments(report_to, str(output_dir))))
    trackers.start(a_run(output_dir, **changes), step)
    return trackers


def a_run(output_dir: Path, **changes: Any) -> RunConfig:
    return load_config(changed(training__output_dir=str(output_dir), **changes))


def shown(folder: Path) -> dict[str, dict[int, float]]:
    """Tag → step → value, as TensorBoard shows them; no point stands twice."""
    events = EventAccumulator(str(folder))
    events.Reload()
    points = {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert all(len(dict(found)) == len(found) for found in points.values()), points
    return {tag: dict(found) for tag, found in points.items()}


def killed_a_minute_ago(folder: Path) -> None:
    """Dates the event files back: TensorBoard reads them in the order of the second in their names."""
    for file in folder.glob("events.out.tfevents.*"):
        name = re.sub(r"(?<=tfevents\.)\d+", lambda second: f"{int(second[0]) - 60:010d}", file.name)
        file.rename(file.with_name(name))


def test_a_logging_step_and_an_evaluation_stand_in_tensorboard_at_their_step(tmp_path: Path) -> None:
    trackers = tracked(tmp_path / "out")
    trackers.training(training(10, 0.75))
    trackers.evaluation(evaluation(10, f1=0.5, score=0.625))
    trackers.training(training(20, 0.5))
    trackers.end()
    points = shown(tmp_path / "out" / "runs" / "hf_mtl")
    assert points.pop("train/learning_rate")[10] == pytest.approx(5e-5)
    assert points == {
        "train/epoch": {10: 1.0, 20: 2.0},
        "train/loss": {10: 0.75, 20: 0.5},
        "train/slots/loss": {10: 0.25, 20: 0.25},
        "train/情感/loss": {10: 3.0, 20: 3.0},
        "train/slots/rows_seen": {10: 40, 20: 80},
        "train/情感/rows_seen": {10: 10, 20: 20},
        "train/topic/rows_seen": {10: 0, 20: 0},
        "train/grad_norm": {10: 1.5, 20: 1.5},
        "train/rows_per_second": {10: 119.25, 20: 119.25},
        "train/tokens_per_second": {10: 2000.0, 20: 2000.0},
        "eval/slots/f1": {10: 0.5},
        "eval/slots/accuracy": {10: 1.0},
        "eval/score": {10: 0.625},
    }


def test_another_split_than_validation_has_its_own_name_and_a_missing_score_is_left_out(tmp_path: Path) -> None:
    trackers = tracked(tmp_path)
    trackers.evaluation(evaluation(30, f1=0.5, score=None, split="test"))
    trackers.end()
    assert shown(tmp_path / "runs" / "hf_mtl") == {"test/slots/f1": {30: 0.5}, "test/slots/accuracy": {30: 1.0}}


def test_a_resumed_run_goes_on_where_it_stood_and_shows_no_step_twice(tmp_path: Path) -> None:
    killed = tracked(tmp_path)
    for step in (10, 20, 30):
        killed.training(training(step, loss=4.0))
    killed.evaluation(evaluation(20, f1=0.5, score=0.5))
    killed.evaluation(evaluation(30, f1=1.0, score=1.0))
    killed.end()
    folder = tmp_path / "runs" / "hf_mtl"
    killed_a_minute_ago(folder)
    resumed = tracked(tmp_path, step=20)
    resumed.training(training(30, loss=2.0))
    resumed.training(training(40, loss=1.0))
    resumed.end()
    points = shown(folder)
    assert points["train/loss"] == {10: 4.0, 20: 4.0, 30: 2.0, 40: 1.0}
    assert points["eval/score"] == {20: 0.5}
    assert len(list(folder.rglob("hparams.yml"))) == 1


def test_a_run_that_starts_anew_in_the_same_folder_shows_nothing_of_the_one_before(tmp_path: Path) -> None:
    for loss, steps in ((4.0, (1, 2, 3)), (2.0, (1, 2))):
        killed_a_minute_ago(tmp_path / "runs" / "hf_mtl")
        trackers = tracked(tmp_path)
        for step in steps:
            trackers.training(training(step, loss))
        trackers.end()
    assert shown(tmp_path / "runs" / "hf_mtl")["train/loss"] == {1: 2.0, 2: 2.0}


def test_a_second_run_of_the_same_process_writes_to_its_own_folder_alone_and_nothing_is_written_after_the_end(
    tmp_path: Path,
) -> None:
    for name, loss in (("a", 4.0), ("b", 2.0)):
        trackers = tracked(tmp_path / name)
        trackers.training(training(1, loss))
        trackers.end()
        trackers.end()
        trackers.training(training(2, loss))
    assert [shown(tmp_path / name / "runs" / "hf_mtl")["train/loss"] for name in "ab"] == [{1: 4.0}, {1: 2.0}]


def test_the_settings_are_flat_plain_values_without_the_folder_of_the_run_file(tmp_path: Path) -> None:
    weights = {"sport": 2.0, "a/b %": 1.0}
    tracked(tmp_path, tasks__topic__class_weight=weights, training__learning_rate=3e-4).end()
    (file,) = (tmp_path / "runs").rglob("hparams.yml")
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert all(isinstance(value, str | int | float) for value in settings.values())
    assert settings["training.learning_rate"] == 3e-4
    assert settings["tasks.slots.task_type"] == "token-classification"
    assert settings["datasets.reviews.data_files.validation"] == "b.jsonl"
    assert settings["tasks.topic.class_weight"] == '{"sport": 2.0, "a/b %": 1.0}'
    assert settings["encoder_config"] == "{}"
    assert not any("base_dir" in name for name in settings)
    assert all(re.fullmatch(r"[\w.\- ]+", name) for name in settings)


def test_settings_keep_lists_as_json_and_leave_out_what_is_not_set() -> None:
    values = {"a": {"b": [1, "é"], "c": None, "d": True}, "情感": {1: "x"}, "e": {"x:y": None}}
    assert plain_settings(values) == {"a.b": '[1, "é"]', "a.d": True, "情感.1": "x", "e": '{"x:y": null}'}


def test_the_environment_s_tensorboard_folder_holds_a_folder_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "all"))
    for name in "ab":
        trackers = tracked(tmp_path / "out" / name)
        trackers.training(training(1, 0.5))
        trackers.end()
        assert shown(tmp_path / "all" / name / "hf_mtl")["train/loss"] == {1: 0.5}
    assert not (tmp_path / "out").exists()


def test_without_trackers_nothing_is_written(tmp_path: Path) -> None:
    assert tracking_arguments([], str(tmp_path)) == {}
    trackers = tracked(tmp_path, report_to=())
    trackers.training(training(1, 0.5))
    trackers.evaluation(evaluation(1, 0.5, 0.5))
    trackers.end()
    assert not any(tmp_path.iterdir())


def test_a_tracker_that_cannot_start_is_the_user_s_to_mend(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    trackers = Trackers(Accelerator(cpu=True, **tracking_arguments(["tensorboard"], str(tmp_path))))
    with pytest.raises(UserError, match=r"^training\.report_to: tensorboard could not start \(\w+Error: .*runs"):
        trackers.start(a_run(tmp_path))
    trackers.end()


def test_trackers_that_are_not_installed_are_named_with_the_command_that_installs_them() -> None:
    missing = [name for name in ("trackio", "mlflow", "wandb") if importlib.util.find_spec(name) is None]
    if not missing:
        pytest.skip("all trackers are installed")
    check_trackers(["tensorboard"])
    with pytest.raises(UserError) as caught:
        check_trackers(["tensorboard", *missing, missing[0]])
    assert str(caught.value).startswith(f"training.report_to: {', '.join(missing)} ")
    assert f"`pip install {' '.join(missing)}`" in str(caught.value)


TWO_PROCESSES = """
import sys
from accelerate import Accelerator
from pathlib import Path
from tests.test_trackers import tracked, training
trackers = tracked(Path(sys.argv[1]))
assert trackers.accelerator.num_processes == 2
trackers.training(training(1, 0.5))
trackers.end()
trackers.accelerator.wait_for_everyone()
"""


def test_of_two_processes_the_first_alone_writes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(TWO_PROCESSES, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [*command, str(script), str(tmp_path / "out")], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert len(list((tmp_path / "out" / "runs" / "hf_mtl").glob("events.*"))) == 1
    assert shown(tmp_path / "out" / "runs" / "hf_mtl")["train/loss"] == {1: 0.5}
