"""The folder that a run fills: locked while it lives, refused if it holds another run, written beside and moved in."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hf_mtl.config_keys import RunConfig
from hf_mtl.data.tokenizer import clear_call_state
from hf_mtl.errors import FinishedError, UserError
from hf_mtl.hub.card import is_changed, read_card, write_card
from hf_mtl.hub.contents import CARD, METRICS, RUN_FILE
from hf_mtl.hub.record import RECORD
from hf_mtl.modeling.adapted_folder import WEIGHTS
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.run_file import write_run_file
from hf_mtl.training.checkpoint import Checkpoint, Checkpoints

RESULTS = ("config.json", *WEIGHTS, METRICS)
"""What only a finished run has."""
UNFINISHED, LOCK = ".unfinished", ".lock"
"""A run's folder has the first until the run has come to its end, and the second is locked while it lives."""
SAVING = ".saving-"
WAIT = 6.0
"""Seconds until a lock counts as another run's: worker processes of a killed run hold it until they notice, 5 s."""


class RunFolder:
    """The `output_dir` of a run.

    Args:
        path: relative to the working directory.
        save_total_limit: how many checkpoints are kept.
        overwrite: whether a run that lies there is replaced.
        resume: whether a run that lies there is gone on with.

    Raises:
        FinishedError: if the run to go on with is finished.
        UserError: if the folder holds a run already, or cannot be one.
    """

    def __init__(
        self, path: str, save_total_limit: int | None = None, *, overwrite: bool = False, resume: bool = False
    ) -> None:
        if overwrite and resume:
            raise UserError("--overwrite starts anew and --resume goes on: give one of them")
        self.path, self.overwrite, self.resume = Path(path), overwrite, resume
        self.checkpoints = Checkpoints(self.path / "checkpoints", save_total_limit)
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"training.output_dir: {path} is a file; name a folder")
        self._lock = FileLock(self.path / LOCK)
        self._refuse_what_it_holds()

    def _refuse_what_it_holds(self) -> None:
        held = [name for name in RESULTS if (self.path / name).exists()]
        unfinished = (self.path / UNFINISHED).exists()
        whole = {"config.json", "metrics.json"} <= set(held) and not set(WEIGHTS).isdisjoint(held)
        if self.resume and whole and not unfinished:
            raise FinishedError(f"the run in {self.path} is finished: nothing is left to do")
        newest = self.checkpoints.newest()
        if not (self.overwrite or self.resume) and (held or newest):
            stopped = f"stopped after step {newest.step}" if newest and (unfinished or not held) else ""
            found = stopped or ", ".join(held)
            go_on = "--resume to go on with it, " if stopped else ""
            raise UserError(
                f"training.output_dir: {self.path} holds a run already ({found}); "
                f"give {go_on}--overwrite to replace it, or name another folder"
            )

    def newest(self) -> Checkpoint | None:
        """The checkpoint from which the run goes on; None where it starts anew."""
        return self.checkpoints.newest() if self.resume else None

    def open(self) -> None:
        """Makes and locks the folder, for the process that writes. Old results stay until the new ones are saved.

        Raises:
            UserError: if it cannot be written to, another run that lives is writing to it, or one has meanwhile.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=WAIT)
            self._refuse_what_it_holds()
            (self.path / UNFINISHED).touch()
            for left_over in self.path.glob(f"{SAVING}*"):
                shutil.rmtree(left_over, ignore_errors=True)
            self.checkpoints.clean()
            if not self.resume:
                self.checkpoints.clear()
            (self.path / "history.jsonl").touch()
        except Timeout:
            raise UserError(
                f"training.output_dir: another run is writing to {self.path}; wait for its end or name another folder"
            ) from None
        except UserError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise UserError(f"training.output_dir: {self.path} cannot be written to ({error.strerror})") from error

    def close(self) -> None:
        """Gives the lock back."""
        if self._lock.is_locked:
            (self.path / LOCK).unlink(missing_ok=True)
            self._lock.release()

    def save(
        self,
        model: MultiTaskModel,
        weights: Mapping[str, Tensor],
        tokenizer: PreTrainedTokenizerBase,
        config: RunConfig,
        metrics: dict[str, Any],
        record: dict[str, Any],
    ) -> None:
        """Writes model, tokenizer, what is known of the run and the card: all of them beside first, then into place.

        Args:
            model: the model.
            weights: its weights, whole.
            tokenizer: its tokenizer.
            config: the run.
            metrics: what `metrics.json` holds.
            record: what `training_info.json` holds.

        Raises:
            UserError: if the disk is full or the folder cannot be written to.
        """
        beside: Path | None = None
        try:
            beside = Path(tempfile.mkdtemp(prefix=SAVING, dir=self.path))
            write_folder(beside, model, weights, tokenizer, config, metrics, record)
            if self.overwrite or not is_changed(read_card(self.path / CARD)):
                if not self.overwrite and (self.path / CARD).exists():
                    shutil.copyfile(self.path / CARD, beside / CARD)  # its metadata may be the user's
                write_card(beside, str(self.path))
            written = sorted(beside.iterdir(), key=lambda file: file.name in RESULTS)
            old = {*self.path.glob("model*.safetensors*"), *(self.path / name for name in WEIGHTS)}
            for entry in old - {self.path / file.name for file in written if file.is_file()}:
                _remove(entry)
            for file in written:
                os.replace(file, self.path / file.name)
            (self.path / UNFINISHED).unlink()
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"training.output_dir: the model could not be written to {self.path} ({error}); make room there, or "
                "give write permission, then go on with --resume"
            ) from error
        finally:
            if beside is not None:
                shutil.rmtree(beside, ignore_errors=True)


def write_folder(
    folder: Path,
    model: MultiTaskModel,
    weights: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    config: RunConfig,
    metrics: dict[str, Any],
    record: dict[str, Any],
) -> None:
    """Fills a folder with a model, its tokenizer, and what is known of its run.

    Args:
        folder: it must be there.
        model: the model.
        weights: its weights, whole.
        tokenizer: as it encodes in training.
        config: the run.
        metrics: what `metrics.json` holds.
        record: what `training_info.json` holds.
    """
    model.save_pretrained(folder, state_dict=dict(weights))
    clear_call_state(tokenizer)
    tokenizer.save_pretrained(folder)
    write_run_file(config, folder / RUN_FILE)
    for name, values in ((METRICS, metrics), (RECORD, record)):
        text = json.dumps(values, ensure_ascii=False, indent=2)
        (folder / name).write_text(text + "\n", encoding="utf-8")


def _remove(entry: Path) -> None:
    if entry.is_dir():
        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)
