"""What a model's folder says of itself, read once for its card and for its publication."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from transformers.utils import cached_file

from hf_mtl.errors import UserError
from hf_mtl.hub.record import RECORD
from hf_mtl.modeling.adapted_folder import ADAPTERS, HEADS
from hf_mtl.modeling.configuration import MultiTaskConfig, task_specs
from hf_mtl.run_file import UnreadableFileError, read_run_file
from hf_mtl.tasks.spec import TaskSpec

CARD = "README.md"
RUN_FILE, METRICS = "run.yaml", "metrics.json"


class _Loose(BaseModel):
    model_config = ConfigDict(extra="allow")


class _Base(_Loose):
    encoder: str
    revision: str | None = None


class _Lora(_Loose):
    adapters: dict[str, str | None]
    base: _Base | None = None


class _Config(_Loose):
    encoder_config: dict[str, Any]
    tasks: list[dict[str, Any]]
    lora: _Lora | None = None
    groups: list[dict[str, Any]] | None = None


class _Metrics(_Loose):
    validation: dict[str, dict[str, Any]] = {}
    test: dict[str, dict[str, Any]] = {}


class _Split(_Loose):
    rows: int


class _Data(_Loose):
    id: str | None = None
    name: str | None = None
    revision: str | None = None
    license: str | list[str] | None = None
    language: str | list[str] | None = None
    splits: dict[str, _Split] = {}
    remarks: list[str] = []


class _Record(_Loose):
    encoder: dict[str, str | None]
    datasets: dict[str, _Data]
    tasks: list[str]
    steps: int
    seconds: float
    processes: int
    hardware: str
    versions: dict[str, str]


class _Index(_Loose):
    weight_map: dict[str, str]


class _Run(_Loose):
    datasets: dict[str, dict[str, Any]] = {}
    tasks: dict[str, dict[str, Any]] = {}
    training: dict[str, Any] = {}


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
    config = _read(folder / "config.json", _Loose)
    if config.get("model_type") != MultiTaskConfig.model_type:
        raise UserError(
            f"{folder}: config.json is of a {config.get('model_type', 'nameless')} model, not of a multi-task model"
        )
    contents = Contents(
        folder,
        _shaped(folder / "config.json", config, _Config),
        task_specs(config["tasks"]),
        _run(folder / RUN_FILE),
        _read(folder / METRICS, _Metrics),
        _read(folder / RECORD, _Record),
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
        needed += sorted(set(_read(index, _Index).get("weight_map", {}).values()))
    return [name for name in needed if not (folder / name).is_file()]


ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def saved_record(source: str) -> dict[str, Any]:
    """The `training_info.json` of a saved model; empty if there is none.

    Args:
        source: a folder, or the id of a repository.
    """
    found = cached_file(source, RECORD, _raise_exceptions_for_missing_entries=False)
    return {} if found is None else _read(Path(found), _Record)


def _read(path: Path, shape: type[BaseModel]) -> dict[str, Any]:
    """A file's JSON object; empty if there is no file."""
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); take the folder as it was saved") from error
    return _shaped(path, values, shape)


def _shaped(path: Path, values: Any, shape: type[BaseModel]) -> dict[str, Any]:
    try:
        shape.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        told = f"{place}: {first['msg'].lower()}"
        raise UserError(f"{path} is not as a run leaves it ({told}); take the folder as it was saved") from None
    return dict(values)


def _run(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        values, _ = read_run_file(path)
    except UnreadableFileError as error:
        raise UserError(f"{path}: {error}; take the folder as it was saved") from None
    return _shaped(path, values, _Run)
