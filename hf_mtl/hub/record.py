"""`training_info.json`: what was so while a run trained, for the model card. Nothing in it is a path of the machine."""

import os
import platform
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import torch
from huggingface_hub import HfApi

from hf_mtl.config_defaults import FILE_FORMATS
from hf_mtl.config_keys import DatasetConfig, RunConfig
from hf_mtl.data.encoding import Sequences
from hf_mtl.data.left_out import left_out
from hf_mtl.data.report import shared_texts
from hf_mtl.sources import PACKAGE

RECORD = "training_info.json"
PATIENCE = 10.0
"""Seconds that the Hub has to tell a data set's licence."""
COMMIT = re.compile(r"[/\\]([0-9a-f]{40})[/\\][^/\\]+\.arrow$")
"""How `datasets` keeps the rows of each commit."""


def run_record(
    config: RunConfig,
    datasets: Mapping[str, Any],
    encoder: Mapping[str, Any],
    versions: Mapping[str, str],
    *,
    seconds: float,
    steps: int,
    processes: int,
    device: torch.device,
) -> dict[str, Any]:
    """What a finished run was.

    Args:
        config: the run.
        datasets: from `data_record`.
        encoder: from `encoder_record`, or that of the model that tasks were put on.
        versions: of the libraries.
        seconds: from the run's start to its end, stops not counted.
        steps: optimizer steps.
        processes: of the run.
        device: that it computed on.
    """
    return {
        "encoder": dict(encoder),
        "datasets": dict(datasets),
        "tasks": list(config.tasks),
        "steps": steps,
        "seconds": round(seconds, 1),
        "processes": processes,
        "hardware": _hardware(device),
        "versions": {"python": platform.python_version(), **versions},
    }


def data_record(config: RunConfig, sequences: Mapping[str, Mapping[str, Sequences]]) -> dict[str, Any]:
    """Where the rows came from; what the Hub says of its data sets is asked for now, and left out if it cannot be had.

    Args:
        config: the run.
        sequences: its rows, by data set and split.
    """
    return {name: _dataset(config.datasets[name], splits) for name, splits in sequences.items()}


def encoder_record(config: RunConfig, commit: str | None) -> dict[str, Any]:
    """Where the encoder came from: a repository by its id; of a folder the last part of its name alone.

    Args:
        config: the run.
        commit: that of the encoder's repository, where it is known.
    """
    if config.encoder.startswith(PACKAGE):
        return {"package": config.encoder.removeprefix(PACKAGE).partition("/")[0]}
    if os.path.isdir(os.path.join(config.base_dir or "", os.path.expanduser(config.encoder))):
        return {"folder": PurePath(config.encoder).name}
    return {"id": config.encoder, "commit": commit}


def _dataset(config: DatasetConfig, splits: Mapping[str, Sequences]) -> dict[str, Any]:
    """Where rows came from, and how many were read and left out."""
    found: dict[str, Any] = {}
    if config.path is not None and config.path not in FILE_FORMATS:
        # As `datasets` sees it: a folder of that name goes before a repository.
        if config.path.startswith((".", "~", os.sep)) or os.path.isdir(config.path):
            found["folder"] = PurePath(config.path).name
        else:
            found |= {"id": config.path, "name": config.name} | _on_the_hub(config, splits)
    elif config.path is not None:
        found["format"] = config.path
    found["splits"] = {
        split: {
            "rows": one.summary.rows,
            "sequences": one.summary.sequences,
            "over_length": one.summary.over_length,
        }
        for split, one in splits.items()
    }
    # Which rows they are is the business of whoever has the rows.
    remarks = [line.rpartition(": ")[0] for line in left_out("", splits)]
    remarks += shared_texts({name: split.rows for name, split in splits.items()}, config)
    found["remarks"] = [line.strip() for line in remarks if not line.startswith("0 of")]
    return found


def _on_the_hub(config: DatasetConfig, splits: Mapping[str, Sequences]) -> dict[str, Any]:
    """The commit that was read, and what the data set's own card says of licence and languages, where it can be had."""
    files = [file["filename"] for one in splits.values() for file in one.rows.dataset.cache_files]
    commits = {match.group(1) for match in map(COMMIT.search, files) if match}
    commit = commits.pop() if len(commits) == 1 else None
    found = {"revision": commit or config.revision}
    try:
        card = HfApi().dataset_info(str(config.path), revision=found["revision"], timeout=PATIENCE).card_data
    except Exception:  # whatever it is, a licence in a card is not worth a run
        return found
    if card is not None:
        found |= {"license": card.license, "language": card.language}
    return found


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    return f"CPU ({platform.machine()}, {os.cpu_count()} cores)"
