"""Folders written beside and renamed into place: whole or not there."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from hf_mtl.errors import UserError


@contextmanager
def new_folder(output_dir: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """An empty folder to fill, which takes its place when all has gone well.

    Args:
        output_dir: where it goes.
        overwrite: whether a checkpoint that lies there is replaced, with all that is in its folder.

    Raises:
        UserError: if something lies there, or the folder cannot be written.
    """
    folder = Path(output_dir).absolute()
    _check_folder(folder, overwrite)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Under the same parent, as renaming needs one file system.
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}") from error
    try:
        new = beside / "new"
        new.mkdir()
        yield new
        _put_in_place(new, folder, beside / "old")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder} cannot be written: {getattr(error, 'strerror', None) or error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def take_over(entry: Path, place: Path) -> None:
    """The same file or folder in another place, without a copy where the file system has hard links."""
    if entry.is_dir():
        shutil.copytree(entry, place, copy_function=_link)
    else:
        _link(entry, place)


def _link(source: str | Path, place: str | Path) -> None:
    try:
        os.link(source, place)
    except OSError:
        shutil.copy2(source, place)


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
