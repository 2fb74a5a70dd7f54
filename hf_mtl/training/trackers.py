"""Experiment trackers (TensorBoard, Trackio, Weights & Biases, MLflow), driven through Accelerate."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import ProjectConfiguration

from hf_mtl.config_keys import RunConfig
from hf_mtl.errors import UserError

PROJECT = "hf_mtl"
"""The trackers' project (MLflow: experiment, TensorBoard: folder) unless the environment names another."""
_SETTING = re.compile(r"[\w.\- ]+")
"""What MLflow takes as the name of a parameter."""


class Trackers:
    """The run's trackers, on the first process; without any, nothing is done. The x axis is the optimizer step.

    Args:
        accelerator: made with `tracking_arguments`.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator

    def start(self, config: RunConfig, step: int = 0) -> None:
        """Begins a run in every tracker, or goes on with it.

        Args:
            config: the run, kept as the trackers' settings.
            step: the step after which the run goes on; 0 for a new one.

        Raises:
            UserError: if a tracker cannot start, for want of a login, say.
        """
        names = [str(name) for name in self.accelerator.log_with]
        if not names:
            return
        project = os.environ.get("WANDB_PROJECT", PROJECT) if "wandb" in names else PROJECT
        settings = plain_settings(config.model_dump(exclude={"base_dir"}))
        try:
            self.accelerator.init_trackers(project, init_kwargs=_run_arguments(config.training.output_dir, step))
            for tracker in self.accelerator.trackers:
                # TensorBoard makes a folder of the settings at each start; a resumed run has one already.
                if step == 0 or tracker.name != "tensorboard":
                    tracker.store_init_configuration(settings)
        except Exception as error:  # each library has errors of its own
            self.accelerator.trackers.clear()
            raise UserError(
                f"training.report_to: {', '.join(names)} could not start ({type(error).__name__}: {error}); "
                "mend that, or leave the tracker out"
            ) from error

    def training(self, entry: Mapping[str, Any]) -> None:
        """Sends a logging step's object of `history.jsonl`: `train/loss`, `train/TASK/loss` and so on."""
        values: dict[str, Any] = {}
        for name, value in entry.items():
            if isinstance(value, Mapping):
                values |= {f"train/{task}/{name.removeprefix('task_')}": inner for task, inner in value.items()}
            else:
                values[f"train/{name}"] = value
        del values["train/step"]
        self._log(values, entry["step"])

    def evaluation(self, entry: Mapping[str, Any]) -> None:
        """Sends an evaluation's object of `history.jsonl`: `eval/TASK/METRIC`, `eval/score`; no metrics by label."""
        prefix = "eval" if entry["split"] == "validation" else entry["split"]
        values = {
            f"{prefix}/{task}/{metric}": value
            for task, metrics in entry["metrics"].items()
            for metric, value in metrics.items()
        }
        self._log(values | {f"{prefix}/score": entry["score"]}, entry["step"])

    def end(self) -> None:
        """Closes the trackers; a second call does nothing."""
        # Not accelerator.end_training(), which also takes the processes' group down.
        trackers = list(self.accelerator.trackers)
        self.accelerator.trackers.clear()
        for tracker in trackers:
            tracker.finish()

    def _log(self, values: Mapping[str, Any], step: int) -> None:
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        if numbers:
            self.accelerator.log(numbers, step=step)


def check_trackers(report_to: Sequence[str]) -> None:
    """Refuses trackers whose package is missing; Accelerate leaves them out without a word.

    Raises:
        UserError: if some are not installed.
    """
    available = {str(name) for name in get_available_trackers()}
    missing = [name for name in dict.fromkeys(report_to) if name not in available]
    if missing:
        raise UserError(
            f"training.report_to: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed; run "
            f"`pip install {' '.join(missing)}`, or take {'it' if len(missing) == 1 else 'them'} out of report_to"
        )


def tracking_arguments(report_to: Sequence[str], output_dir: str) -> dict[str, Any]:
    """What `Accelerator` is to be given: the trackers, and where TensorBoard writes.

    That is `output_dir/runs`, as with transformers' `Trainer`; or, where the environment has
    `TENSORBOARD_LOGGING_DIR`, a folder in there of the output_dir's name, so that runs do not mix.
    """
    if not report_to:
        return {}
    given = os.environ.get("TENSORBOARD_LOGGING_DIR")
    folder = Path(given).expanduser() / _run_name(output_dir) if given else Path(output_dir) / "runs"
    return {"log_with": list(report_to), "project_config": ProjectConfiguration(logging_dir=str(folder))}


def plain_settings(values: Mapping[Any, Any], prefix: str = "") -> dict[str, str | int | float]:
    """Nested values as flat ones: `training.learning_rate: 5e-05`.

    None is left out; lists, empty mappings and mappings with keys that not every tracker takes become JSON.
    """
    settings: dict[str, str | int | float] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and all(_SETTING.fullmatch(str(inner)) for inner in value):
            settings |= plain_settings(value, f"{name}.")
        elif isinstance(value, str | int | float):
            settings[name] = value
        elif value is not None:
            settings[name] = json.dumps(value, ensure_ascii=False)
    return settings


def _run_name(output_dir: str) -> str:
    return Path(output_dir).resolve().name


def _run_arguments(output_dir: str, step: int) -> dict[str, dict[str, Any]]:
    """What each tracker is begun with: the run has the output_dir's name."""
    run = _run_name(output_dir)
    return {
        # Points of a killed or replaced run beyond this step no longer show, or not once the step is reached again.
        "tensorboard": {"purge_step": step + 1},
        "trackio": {"name": run, "resume": "allow" if step else "never"},
        "wandb": {"name": os.environ.get("WANDB_NAME", run)},
        "mlflow": {"run_name": run},
    }
