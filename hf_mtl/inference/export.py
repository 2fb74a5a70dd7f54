"""Saved models made into others: a task as a stock checkpoint, adapters merged, a task dropped."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from hf_mtl.errors import UserError
from hf_mtl.inference.new_folder import new_folder, take_over
from hf_mtl.inference.pipeline import saved_tokenizer
from hf_mtl.modeling.adapted_folder import WEIGHTS
from hf_mtl.modeling.loading import quiet
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.modeling.surgery import drop_task, merged

RUN_FILES = ("run.yaml", "metrics.json", "training_info.json")
"""What a run leaves that holds for the merged model too."""


def export_task(
    model: str | os.PathLike[str], task: str, output_dir: str | os.PathLike[str], overwrite: bool = False
) -> str:
    """Write one task as a stock checkpoint with its tokenizer: `transformers.pipeline(task_type, model=output_dir)`.

    Args:
        model: the folder of a multi-task model, or its id on the Hub.
        task: the task's name.
        output_dir: the folder to write. It is written beside and renamed into place.
        overwrite: whether a checkpoint that lies there is replaced, with all that is in its folder.

    Returns:
        The task's type, the name of the stock pipeline that loads the checkpoint.

    Raises:
        UserError: if there is no such model or task, or the folder is not empty or cannot be written.
    """
    source = os.fspath(model)
    with new_folder(output_dir, overwrite) as new:
        multi_task = MultiTaskModel.from_pretrained(source)
        with quiet():
            multi_task.task_model(task).save_pretrained(new)
        saved_tokenizer(source).save_pretrained(new)
        return multi_task.tasks[task].spec.task_type


def merge_model(model: str | os.PathLike[str], output_dir: str | os.PathLike[str]) -> None:
    """Write a model whose tasks share an adapter as one without adapters, which answers the same.

    Args:
        model: the folder of a multi-task model, or its id on the Hub.
        output_dir: the folder to write. It is written beside and renamed into place.

    Raises:
        UserError: if there is no such model, its adapters cannot be merged, or the folder is not empty.
    """
    source = os.fspath(model)
    with new_folder(output_dir) as new:
        merged(MultiTaskModel.from_pretrained(source)).save_pretrained(new)
        saved_tokenizer(source).save_pretrained(new)
        for name in RUN_FILES:
            if found := cached_file(source, name, _raise_exceptions_for_missing_entries=False):
                shutil.copyfile(found, new / name)


def drop_saved_task(model: str | os.PathLike[str], task: str) -> None:
    """Take a task out of a saved model: its head, its own adapter and its metrics; the other tasks answer as before.

    Args:
        model: the model's folder, which is changed.
        task: the task's name.

    Raises:
        UserError: if there is no such folder or task, or no other task, or the folder cannot be written.
    """
    folder = Path(model)
    if not folder.is_dir():
        raise UserError(f"{model}: a task is dropped from a folder, and there is none; download the model first")
    left = drop_task(MultiTaskModel.from_pretrained(folder), task)
    with new_folder(folder, overwrite=True) as new:
        left.save_pretrained(new)
        metrics = folder / "metrics.json"
        if metrics.exists():
            kept = _without(json.loads(metrics.read_text(encoding="utf-8")), task)
            text = json.dumps(kept, ensure_ascii=False, indent=2)
            (new / "metrics.json").write_text(text + "\n", encoding="utf-8")
        for entry in folder.iterdir():
            if entry.name not in {"config.json", "metrics.json", *WEIGHTS}:
                take_over(entry, new / entry.name)


def _without(metrics: dict[str, Any], task: str) -> dict[str, Any]:
    """The metrics of the other tasks. The score was that of all: there is none of those that are left."""
    splits = {name: split for name, split in metrics.items() if isinstance(split, dict)}
    return {name: {key: split[key] for key in split if key != task} for name, split in splits.items()} | {"score": None}
