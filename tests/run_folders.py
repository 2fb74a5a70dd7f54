"""Folders of runs that were finished, or stopped."""

from pathlib import Path
from typing import Any

from hf_mtl.config import load_config
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.training.output import RunFolder
from hf_mtl.training.tensors import model_tensors
from tests.run_dicts import RUN
from tests.test_checkpoint import TENSORS
from tests.tiny import tiny_tokenizer

RESULTS = ("config.json", "model.safetensors", "metrics.json")
"""Of a run that trains the whole encoder."""
FACTS = {
    "encoder": {"folder": "encoder"}, "datasets": {}, "tasks": [], "steps": 3, "seconds": 1.0, "processes": 1,
    "hardware": "CPU", "versions": {},
}  # fmt: skip
"""What `training_info.json` holds."""


def finish(folder: RunFolder, model: MultiTaskModel, metrics: dict[str, Any] | None = None) -> None:
    """What a run does at its end."""
    folder.save(model, model_tensors(model), tiny_tokenizer(), load_config(RUN), metrics or {"score": 0.5}, FACTS)
    folder.close()


def finished(out: str, model: MultiTaskModel, metrics: dict[str, Any] | None = None, **options: bool) -> RunFolder:
    folder = RunFolder(out, **options)
    folder.open()
    folder.checkpoints.save(3, TENSORS, {})
    finish(folder, model, metrics)
    return folder


def stopped(out: str, step: int | None = 4, **options: bool) -> None:
    """A run that was stopped after its last checkpoint."""
    folder = RunFolder(out, **options)
    folder.open()
    if step is not None:
        folder.checkpoints.save(step, TENSORS, {})
    folder.close()


def contents(out: str) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in Path(out).rglob("*") if file.is_file()}
