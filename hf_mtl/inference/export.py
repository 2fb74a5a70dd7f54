"""One task out of a multi-task model: a stock checkpoint that needs transformers alone."""

import os
import shutil
import tempfile
from pathlib import Path

from hf_mtl.errors import UserError
from hf_mtl.inference.pipeline import saved_tokenizer
from hf_mtl.modeling.model import MultiTaskModel


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
    folder = Path(output_dir).absolute()
    _check_folder(folder, overwrite)
    source = os.fspath(model)
    multi_task = MultiTaskModel.from_pretrained(source)
    stock = multi_task.task_model(task)
    tokenizer = saved_tokenizer(source)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Under the same parent, as renaming needs one file system.
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}") from error
    try:
        new = beside / "new"
        new.mkdir()
        stock.save_pretrained(new)
        tokenizer.save_pretrained(new)
        _put_in_place(new, folder, beside / "old")
        return multi_task.tasks[task].spec.task_type
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _put_in_place(new: Path, folder: Path, old: Path) -> None:
    if folder.exists():
        os.rename(folder, old)
    try:
        os.rename(new, folder)
    except OSError:
        if old.exists():
            os.rename(old, folder)
        raise


def _check_folder(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise UserError(f"{folder} is not empty; name another folder, or ask to overwrite it")
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no checkpoint (config.json), so it is not overwritten; name another folder")
