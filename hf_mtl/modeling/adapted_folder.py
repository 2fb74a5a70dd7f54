"""The folder of a model with adapters: `adapters/<name>/`, `heads.safetensors`, and the encoder by its name.

Where the encoder itself was trained, its weights lie there too, as `model.safetensors`.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file

from hf_mtl.errors import UserError
from hf_mtl.modeling.adapter_files import read_adapter, write_adapter
from hf_mtl.modeling.adapters import SHARED, stock_name
from hf_mtl.modeling.base import Base, base_of
from hf_mtl.modeling.conversion import fill
from hf_mtl.modeling.heads import new_head
from hf_mtl.modeling.lanes import Lanes
from hf_mtl.modeling.loading import drop_pooler
from hf_mtl.tasks.task import Task

ADAPTERS, HEADS, ENCODER = "adapters", "heads.safetensors", "model.safetensors"
WEIGHTS = (ENCODER, HEADS, ADAPTERS)
"""What holds weights: the first, or with adapters the others, or all."""


def saved_lanes(entries: Mapping[str, Any], tasks: Mapping[str, Task]) -> tuple[Lanes, Base | None]:
    """Lanes and base of a saved config's `lora`.

    Raises:
        UserError: if it speaks of other tasks than the config, or cannot be read.
    """
    adapters = entries.get("adapters") if isinstance(entries, Mapping) else None
    if not isinstance(adapters, Mapping) or set(entries) != {"adapters", "base"}:
        raise UserError(f"config.json: lora is {entries!r}; it holds adapters and base")
    if set(adapters) != set(tasks):
        raise UserError(
            f"config.json: lora.adapters is for tasks {', '.join(adapters)}, and the model has {', '.join(tasks)}"
        )
    for task, name in adapters.items():
        # It names a folder too.
        if name not in (None, SHARED, task):
            raise UserError(f"config.json: the adapter of {task} in lora is {name!r}; use {SHARED!r}, {task!r} or null")
    return Lanes({task: adapters[task] or "" for task in tasks}), base_of(entries["base"])


def write_adapted(
    folder: Path,
    config: PreTrainedConfig,
    encoder: PreTrainedModel,
    lanes: Lanes,
    base: Base | None,
    weights: Mapping[str, Tensor],
) -> None:
    """Writes a model with adapters.

    Args:
        folder: made if it is not there.
        config: the model's.
        encoder: with adapters.
        lanes: the model's.
        base: what the encoder was before; None if it has been trained, and is written too.
        weights: the whole model's, by name.
    """
    if base is not None and any(
        weight.requires_grad for name, weight in encoder.named_parameters() if stock_name(name) is not None
    ):
        raise UserError(
            "the encoder's own weights can be trained (requires_grad), and a model with adapters on a published "
            "encoder is saved without them; keep them frozen, or make the model with train_encoder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    own = {name.removeprefix("encoder."): weight for name, weight in weights.items() if name.startswith("encoder.")}
    for lane in dict.fromkeys(lanes.tasks.values()):
        if lane:
            name = base.peft_name if base is not None else None
            write_adapter(folder / ADAPTERS / lane, encoder, lanes.adapters[lane], own, name)
    heads = {name: _plain(weight) for name, weight in weights.items() if name.startswith("heads.")}
    save_file(heads, folder / HEADS, metadata={"format": "pt"})
    if base is None:
        stock = {stock_name(name): weight for name, weight in own.items()}
        tensors = {f"encoder.{name}": _plain(weight) for name, weight in stock.items() if name is not None}
        save_file(tensors, folder / ENCODER, metadata={"format": "pt"})
    saved = copy.deepcopy(config)
    saved.dtype = encoder.dtype
    adapters = {task: lane or None for task, lane in lanes.tasks.items()}
    saved.lora = {"adapters": adapters, "base": None if base is None else dict(vars(base))}
    saved.save_pretrained(folder)


def read_adapted(
    source: str, config: Any, tasks: Mapping[str, Task], lanes: Lanes, base: Base | None, **where: Any
) -> tuple[PreTrainedModel, dict[str, PreTrainedModel]]:
    """Encoder with adapters, and heads.

    Args:
        source: a folder, or the id of a repository.
        config: the saved `MultiTaskConfig`.
        tasks: the model's.
        lanes: the model's; its adapters are put in, and the layers do not follow it yet.
        base: the encoder below the adapters; None if it lies in the folder.
        where: `revision`, `token` and the like, as for `from_pretrained`.

    Raises:
        UserError: if anything is missing, left over, of another shape, or of another encoder.
        OSError: if a file is not there.
    """
    if base is not None:
        access = {key: value for key, value in where.items() if key not in ("revision", "subfolder")}
        encoder = base.load(config.encoder_config, **access).requires_grad_(False)
    else:
        encoder = _own_encoder(source, config.encoder_config, where)
    subfolder = where.pop("subfolder", "")
    for lane in dict.fromkeys(lanes.tasks.values()):
        if lane:
            place = "/".join(filter(None, (subfolder, ADAPTERS, lane)))
            read_adapter(encoder, lane, source, subfolder=place, **where)
    weights = _read(source, HEADS, subfolder=subfolder, **where)
    heads = {}
    for name, task in tasks.items():
        with torch.device("meta"):
            head = new_head(task, config.encoder_config)
        prefix = f"heads.{name}."
        own = {key.removeprefix(prefix): weights.pop(key) for key in list(weights) if key.startswith(prefix)}
        heads[name] = _filled(head, own, f"{source}: {HEADS}, task {name}")
    if weights:
        raise UserError(f"model {source}: {HEADS} has weights that are no task's: {', '.join(sorted(weights)[:5])}")
    return encoder, heads


def _own_encoder(source: str, config: PreTrainedConfig, where: Mapping[str, Any]) -> PreTrainedModel:
    encoder = AutoModel.from_config(config)
    drop_pooler(encoder)
    weights = _read(source, ENCODER, **where)
    own = {name.removeprefix("encoder."): weight for name, weight in weights.items()}
    return _filled(encoder, own, f"{source}: {ENCODER}")


def _filled(model: PreTrainedModel, weights: Mapping[str, Tensor], told: str) -> PreTrainedModel:
    try:
        return fill(model, weights, dict(model.named_buffers()))
    except RuntimeError as error:
        raise UserError(f"model {told}: the weights do not fit config.json; {' '.join(str(error).split())}") from error


def _read(source: str, file: str, **where: Any) -> dict[str, Tensor]:
    try:
        return load_file(str(cached_file(source, file, **where)))
    except SafetensorError as error:
        raise UserError(
            f"model {source}: {file} is not whole ({error}); take it again from where it was made"
        ) from error


def _plain(weight: Tensor) -> Tensor:
    return weight.detach().cpu().contiguous()
