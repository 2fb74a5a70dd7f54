"""The folder that a run leaves: refused if it holds a run, written beside and moved into place."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from hf_mtl.config_keys import RunConfig
from hf_mtl.data.tokenizer import clear_call_state
from hf_mtl.errors import UserError
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.run_file import write_run_file

RESULTS = ("config.json", "model.safetensors", "metrics.json")
"""Files that only a finished run has; `history.jsonl` alone is what an interrupted one leaves."""


class RunFolder:
    """The `output_dir` of a run.

    Args:
        path: relative to the working directory.
        overwrite: whether a run that lies there is replaced.

    Raises:
        UserError: if the folder holds a run already, or cannot be one.
    """

    def __init__(self, path: str, *, overwrite: bool) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"training.output_dir: {path} is a file; name a folder")
        held = [name for name in RESULTS if (self.path / name).exists()]
        if held and not overwrite:
            raise UserError(
                f"training.output_dir: {path} holds a run already ({', '.join(held)}); "
                "give --overwrite to replace it, or name another folder"
            )

    def open(self) -> Path:
        """Makes the folder; gives the path of `history.jsonl`. A run that is replaced stays until the new one is saved.

        Raises:
            UserError: if it cannot be written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / "history.jsonl").touch()
        except OSError as error:
            raise UserError(f"training.output_dir: {self.path} cannot be written to ({error.strerror})") from error
        return self.path / "history.jsonl"

    def save(
        self, model: MultiTaskModel, tokenizer: PreTrainedTokenizerBase, config: RunConfig, metrics: dict[str, Any]
    ) -> None:
        """Writes model, tokenizer, `run.yaml` and `metrics.json`: all of them beside first, then into place.

        Raises:
            UserError: if the disk is full or the folder cannot be written to.
        """
        beside = Path(tempfile.mkdtemp(prefix=".saving-", dir=self.path))
        try:
            model.save_pretrained(beside)
            clear_call_state(tokenizer)
            tokenizer.save_pretrained(beside)
            write_run_file(config, beside / "run.yaml")
            text = json.dumps(metrics, ensure_ascii=False, indent=2)
            (beside / "metrics.json").write_text(text + "\n", encoding="utf-8")
            written = sorted(beside.iterdir(), key=lambda file: file.name in RESULTS)
            for old in set(self.path.glob("model*.safetensors*")) - {self.path / file.name for file in written}:
                old.unlink()
            for file in written:
                os.replace(file, self.path / file.name)
        except OSError as error:
            raise UserError(f"training.output_dir: the model could not be written to {self.path} ({error})") from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)
