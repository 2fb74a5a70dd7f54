"""What a model's folder says of itself, read once for its card and for its publication."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_mtl.errors import UserError
from hf_mtl.hub.record import RECORD
from hf_mtl.modeling.adapted_folder import ADAPTERS, HEADS
from hf_mtl.modeling.configuration import MultiTaskConfig, task_specs
from hf_mtl.run_file import UnreadableFileError, read_run_file
from hf_mtl.tasks.spec import TaskSpec

CARD = "README.md"
RUN_FILE, METRICS = "run.yaml", "metrics.json"


@dataclass(frozen=True)
class Contents:
    """A model's folder.

    Args:
        folder: where it lies.
        config: its `config.json`.
        tasks: in order.
        run: its `run.yaml`, as plain values; empty if there is none.
        metrics: its `metrics.json`; empty if there is none.
        record: its `training_info.json`; empty if there is none.
    """

    folder: Path
    config: dict[str, Any]
    tasks: list[TaskSpec]
    run: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def base(self) -> dict[str, Any] | None:
        """The encoder that adapters stand on and that is not in the folder."""
        return (self.config.get("lora") or {}).get("base")


def read_contents(folder: Path) -> Contents:
    """Reads what a model's folder says.

    Raises:
        UserError: if it holds no multi-task model, or half of one.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; give a model's folder (a run's output_dir)")
    if not (folder / "config.json").is_file():
        unfinished = (folder / ".unfinished").exists() or (folder / "checkpoints").is_dir()
        hint = "its run is not finished; end it with --resume" if unfinished else "give a run's output_dir"
        raise UserError(f"{folder}: there is no config.json, so it holds no model; {hint}")
    config = _json(folder / "config.json")
    if config.get("model_type") != MultiTaskConfig.model_type:
        raise UserError(
            f"{folder}: config.json is of a {config.get('model_type', 'nameless')} model, not of a multi-task model"
        )
    contents = Contents(
        folder,
        config,
        task_specs(config.get("tasks") or ()),
        _run(folder / RUN_FILE),
        _json(folder / METRICS, needed=False),
        _json(folder / RECORD, needed=False),
    )
    if missing := _missing(contents):
        raise UserError(f"{folder}: half a model: {', '.join(missing)} missing; take the folder as it was saved")
    return contents


def _missing(contents: Contents) -> list[str]:
    """Files without which the model cannot be read again."""
    folder, lora = contents.folder, contents.config.get("lora")
    needed = []
    if lora is None or lora.get("base") is None:
        needed.append("model.safetensors")
    if lora is not None:
        names = sorted({name for name in lora.get("adapters", {}).values() if name})
        needed += [HEADS, *(f"{ADAPTERS}/{name}/{file}" for name in names for file in ADAPTER_FILES)]
    needed.append("tokenizer_config.json")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        needed.remove("model.safetensors")
        needed += sorted(set(_json(index).get("weight_map", {}).values()))
    return [name for name in needed if not (folder / name).is_file()]


ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def _json(path: Path, *, needed: bool = True) -> dict[str, Any]:
    if not needed and not path.exists():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); take the folder as it was saved") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no JSON object; take the folder as it was saved")
    return values


def _run(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        values, _ = read_run_file(path)
    except UnreadableFileError as error:
        raise UserError(f"{path}: {error}; take the folder as it was saved") from None
    return values
