"""What of a model's folder is published, and in what form."""

import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from hf_mtl.config_defaults import FILE_FORMATS
from hf_mtl.errors import UserError
from hf_mtl.hub.card import published_card
from hf_mtl.hub.contents import CARD, METRICS, RUN_FILE, Contents
from hf_mtl.hub.record import RECORD
from hf_mtl.modeling.adapted_folder import ADAPTERS, HEADS
from hf_mtl.run_file import dump_yaml
from hf_mtl.sources import PACKAGE

MODEL_FILES = ("config.json", "model*.safetensors", "model.safetensors.index.json", HEADS, f"{ADAPTERS}/*/adapter_*")
TOKENIZER_FILES = (
    "tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model",
    "chat_template.*",
)  # fmt: skip
OF_THE_RUN = (METRICS, RECORD)
WEIGHTS = re.compile(rf"model[^/]*\.safetensors(\.index\.json)?|{HEADS}|{ADAPTERS}/.+")
"""What a repository may hold of an earlier model, and the new one takes out if it does not have it."""
LOCAL = re.compile(r"[.~]|.*[/\\].*[/\\]|[/\\]|[A-Za-z]:[/\\]")
"""What no Hub id looks like."""


@dataclass(frozen=True)
class Publication:
    """Files to publish: path in the repository → content, or the file that has it."""

    files: Mapping[str, bytes | Path]

    def stale(self, present: list[str]) -> list[str]:
        """Weights that lie in the repository and are no part of the model."""
        return sorted(name for name in present if WEIGHTS.fullmatch(name) and name not in self.files)


def publication(contents: Contents, repository: str, card_there: str = "") -> Publication:
    """What is published of a multi-task model.

    Args:
        contents: the model's folder.
        repository: its id.
        card_there: the card that is in the repository; one that was changed there stays.

    Raises:
        UserError: if nobody else could read it.
    """
    check_base(contents)
    files: dict[str, bytes | Path] = {}
    for pattern in (*MODEL_FILES, *TOKENIZER_FILES, *OF_THE_RUN):
        for file in sorted(contents.folder.glob(pattern)):
            if file.is_file():
                files[file.relative_to(contents.folder).as_posix()] = file
    if (base := contents.base) is not None and not base["encoder"].startswith(PACKAGE):
        for file in sorted(contents.folder.glob(f"{ADAPTERS}/*/adapter_config.json")):
            files[file.relative_to(contents.folder).as_posix()] = _adapter_config(file, base)
    if contents.run:
        files[RUN_FILE] = published_run(contents).encode()
    if (card := published_card(contents, repository, card_there)) is not None:
        files[CARD] = card.encode()
    return Publication(files)


def check_base(contents: Contents, *, adapters_only: bool = False) -> None:
    """Looks whether somebody else will find the encoder.

    Args:
        contents: the model's folder.
        adapters_only: whether it must not be a part of the model.

    Raises:
        UserError: if not.
    """
    base = contents.base
    if adapters_only and base is None:
        why = "the encoder was trained too" if contents.config.get("lora") else "it has no adapters"
        raise UserError(f"{contents.folder}: --adapters-only: {why}, so that the model needs its encoder; leave it out")
    if base is not None and not base["encoder"].startswith(PACKAGE) and LOCAL.match(base["encoder"]):
        raise UserError(
            f"{contents.folder}: its adapters stand on the encoder in a folder of this machine "
            f"({PurePath(base['encoder']).name}), which nobody else has; name its repository as lora.base.encoder in "
            "config.json, or publish a merged model (hf-mtl merge) or single tasks (hf-mtl export)"
        )


def _adapter_config(file: Path, base: Mapping[str, Any]) -> bytes:
    """PEFT's file with the encoder that the model's config names, which may have been a folder when it was written."""
    entries = json.loads(file.read_text(encoding="utf-8"))
    entries |= {"base_model_name_or_path": base["encoder"], "revision": base["revision"]}
    return (json.dumps(entries, indent=2, sort_keys=True) + "\n").encode()


def published_run(contents: Contents) -> str:
    """The run file without `base_dir`, and of every local path the file's name alone."""
    cut = without_paths(contents.run)
    if "folder" in contents.record.get("encoder", {}):
        cut["encoder"] = contents.record["encoder"]["folder"]
    written = io.StringIO()
    dump_yaml(cut, written)
    return written.getvalue()


def without_paths(run: Mapping[str, Any]) -> dict[str, Any]:
    """A run's values without `base_dir`, and of every local path the last name alone."""
    cut: dict[str, Any] = {key: value for key, value in run.items() if key != "base_dir"}
    encoder = str(run.get("encoder", ""))
    in_folder = os.path.isdir(os.path.join(str(run.get("base_dir") or ""), os.path.expanduser(encoder)))
    if not encoder.startswith(PACKAGE) and (in_folder or LOCAL.match(encoder)):
        cut["encoder"] = PurePath(encoder).name
    cut["datasets"] = {name: dict(_without_paths(entry)) for name, entry in (run.get("datasets") or {}).items()}
    cut["tasks"] = {name: dict(_task(entry)) for name, entry in (run.get("tasks") or {}).items()}
    training = dict(run.get("training") or {})
    if "output_dir" in training:
        training["output_dir"] = PurePath(training["output_dir"]).name or "out"
    return cut | {"training": training}


def _without_paths(dataset: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in dataset.items():
        if key == "data_files" and isinstance(value, Mapping):
            yield key, {split: _names(files) for split, files in value.items()}
        elif key == "path" and value not in FILE_FORMATS and isinstance(value, str) and is_local(value):
            yield key, PurePath(value).name
        else:
            yield key, value


def is_local(path: str) -> bool:
    """Whether a data set's path is a folder, as `datasets` sees it."""
    return LOCAL.match(path) is not None or os.path.isdir(path)


def _task(entry: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in entry.items():
        yield key, PurePath(value).name if key == "label_list" and isinstance(value, str) else value


def _names(files: Any) -> Any:
    return [PurePath(file).name for file in files] if isinstance(files, list) else PurePath(str(files)).name
