"""Checkpoints: whole or not there, safetensors and JSON alone, written beside and renamed into place."""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hf_mtl.errors import UserError

_NAME = re.compile(r"step-(\d{8,})")
_WRITING, _DELETING = ".writing-", ".deleting-"


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk.

    Args:
        path: its folder.
        step: the optimizer steps done when it was written.
    """

    path: Path
    step: int

    def file(self, name: str) -> Path:
        return self.path / f"{name}.safetensors"

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors saved under a name; none if nothing was.

        Raises:
            UserError: if the file is not whole, or no file of safetensors.
        """
        try:
            return load_file(self.file(name)) if self.file(name).exists() else {}
        except (OSError, SafetensorError) as error:
            raise self._unreadable(self.file(name).name, error) from error

    @property
    def state(self) -> dict[str, Any]:
        """Everything else.

        Raises:
            UserError: if it cannot be read.
        """
        try:
            return json.loads((self.path / "state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._unreadable("state.json", error) from error

    def _unreadable(self, file: str, error: Exception) -> UserError:
        told = " ".join(str(error).split())
        return UserError(
            f"checkpoint {self.path}: {file} cannot be read ({told}); remove it to go on from the one before"
        )


class Checkpoints:
    """The folder `checkpoints` of a run.

    Args:
        folder: where they lie; made with the first one.
        limit: how many are kept, the newest ones; None keeps all.
    """

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self.folder, self.limit = folder, limit

    def all(self) -> list[Checkpoint]:
        """The whole checkpoints, the oldest first."""
        names = [entry.name for entry in self.folder.iterdir()] if self.folder.is_dir() else []
        steps = {int(match[1]): name for name in names if (match := _NAME.fullmatch(name))}
        return [Checkpoint(self.folder / steps[step], step) for step in sorted(steps)]

    def newest(self) -> Checkpoint | None:
        found = self.all()
        return found[-1] if found else None

    def save(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor] | Path],
        state: Mapping[str, Any],
        keep: int | None = None,
    ) -> Checkpoint:
        """Writes a checkpoint; one of the same step is left as it is, since it holds the same.

        The folder gets its name when all its files are on the disk, so that a run killed at any moment leaves the
        checkpoints before it good.

        Args:
            step: the optimizer steps done.
            tensors: file name (without suffix) → name → tensor, or a file that holds the same tensors already (of
                another checkpoint, or, by its name alone, of this one), which is linked instead of written again.
            state: everything else, as JSON.
            keep: the step of an old checkpoint that is kept beyond the limit.

        Raises:
            UserError: if there is no room or no permission; earlier checkpoints are as they were.
        """
        made = Checkpoint(self.folder / f"step-{step:08d}", step)
        if made.path.exists():
            return made
        beside = Checkpoint(self.folder / f"{_WRITING}{made.path.name}", step)
        try:
            shutil.rmtree(beside.path, ignore_errors=True)
            beside.path.mkdir(parents=True)
            # The written files first: a link may be to one of them.
            for name in sorted(tensors, key=lambda name: isinstance(tensors[name], Path)):
                _write(tensors[name], beside.file(name))
            (beside.path / "state.json").write_text(json.dumps(state), encoding="utf-8")
            for file in beside.path.iterdir():
                _to_disk(file)
            _to_disk(beside.path)
            os.rename(beside.path, made.path)
            _to_disk(self.folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(beside.path, ignore_errors=True)
            raise UserError(
                f"the checkpoint of step {step} could not be written to {self.folder} ({error}); the ones before it "
                "are good: make room there, or give write permission, then go on with --resume"
            ) from error
        self._forget_old(keep)
        return made

    def _forget_old(self, keep: int | None) -> None:
        if self.limit is None:
            return
        for old in self.all()[: -self.limit]:
            if old.step != keep:
                # One that cannot be removed now is tried again after the next save.
                with suppress(OSError):
                    _remove(old.path)

    def clear(self) -> None:
        """Removes all of them."""
        for checkpoint in self.all():
            _remove(checkpoint.path)
        self.clean()

    def clean(self) -> None:
        """Removes what a killed run left half-written or half-deleted."""
        for entry in self._left_over():
            shutil.rmtree(entry, ignore_errors=True)

    def _left_over(self) -> Iterator[Path]:
        for entry in self.folder.iterdir() if self.folder.is_dir() else ():
            if entry.name.startswith((_WRITING, _DELETING)):
                yield entry


def _write(content: Mapping[str, Tensor] | Path, file: Path) -> None:
    if not isinstance(content, Path):
        save_file(dict(content), file, metadata={"format": "pt"})
        return
    source = file.parent / content if content.name == str(content) else content
    try:
        os.link(source, file)
    except OSError:
        # Not every file system has hard links.
        shutil.copyfile(source, file)


def _remove(folder: Path) -> None:
    # Renamed first: half a deleted folder must not look like a checkpoint.
    gone = folder.with_name(_DELETING + folder.name)
    os.rename(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
