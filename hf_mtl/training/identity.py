"""What must be the same for a stopped run to go on: versions, run file, rows."""

import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from typing import Any

from hf_mtl.config_keys import RunConfig
from hf_mtl.config_messages import shown
from hf_mtl.data.preparation import Prepared
from hf_mtl.errors import UserError
from hf_mtl.hub.publication import without_paths
from hf_mtl.training.checkpoint import Checkpoint

LIBRARIES = ("hf_mtl", "torch", "transformers", "accelerate", "peft", "datasets", "tokenizers", "numpy")
MAY_DIFFER = frozenset({
    "training.output_dir", "training.per_device_train_batch_size", "training.gradient_accumulation_steps",
    "training.per_device_eval_batch_size", "training.gradient_checkpointing", "training.dataloader_num_workers",
    "training.save_strategy", "training.save_steps", "training.save_total_limit", "training.on_nonfinite",
    "training.report_to", "training.push_to_hub", "training.hub_model_id", "training.hub_strategy",
    "training.hub_private_repo",
})  # fmt: skip
"""Keys that change where, when and how a run computes, but not what: the step's size is the checkpoint's."""


def identity(
    config: RunConfig, prepared: Prepared, encoder: str, commit: str | None = None, onto: str | None = None
) -> dict[str, Any]:
    """What a checkpoint is stamped with, as JSON. It names no place of the machine: checkpoints can be published.

    Args:
        config: the run.
        prepared: its rows.
        encoder: the fingerprint of the encoder that the run starts from: checkpoints hold only what is trained.
        commit: that the encoder is read from, if it is on the Hub.
        onto: that of the model that the run's tasks are put on, if there is one.
    """
    values = {
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "config": without_paths(config.model_dump(mode="json")),
        "data": {
            name: {split: sequences.fingerprint for split, sequences in splits.items()}
            for name, splits in prepared.sequences.items()
        },
        "encoder": encoder,
        "commit": commit,
        "onto": onto,
    }
    return json.loads(json.dumps(values))


def refuse_another(checkpoint: Checkpoint, now: Mapping[str, Any]) -> None:
    """Compares a checkpoint's stamp with this run's.

    Raises:
        UserError: if they differ, with every difference.
    """
    saved = checkpoint.state["identity"]
    found = [f"{name} {old} there, {new} now" for name, old, new in _differences(saved["versions"], now["versions"])]
    for key, old, new in _differences(saved["config"], now["config"]):
        if key not in MAY_DIFFER:
            found.append(f"{key}: {shown(old)} there, {shown(new)} now")
    if saved.get("onto") != now["onto"]:
        there, here = (stamp.get("onto") or "none" for stamp in (saved, now))
        found.append(f"the model that the tasks are put on: {there} there, {here} now (add-task names it)")
    elif not found and saved.get("encoder") != now["encoder"]:
        found.append(f"the encoder has other weights: {saved.get('encoder')} there, {now['encoder']} now")
    if not found:
        # Another version reads rows in its own way, and another run file other rows: that is said already.
        for key, old, new in _differences(saved["data"], now["data"]):
            dataset, _, split = key.rpartition(".")
            change = "is new" if old is None else "is gone" if new is None else "has other rows or another encoding"
            found.append(f"data set {dataset}, split {split}: {change}")
    if found:
        lines = "\n".join(f"  {line}" for line in found)
        raise UserError(
            f"--resume: {checkpoint.path} is of another run:\n{lines}\n"
            "Make these as they were there, or start anew with --overwrite"
        )


def _differences(old: Any, new: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) wherever two trees of JSON differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(key), new.get(key), f"{place}.{key}" if place else key)
    elif old != new:
        yield place, old, new
