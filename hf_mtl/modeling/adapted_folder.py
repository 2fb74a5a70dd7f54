"""The folder of a model with adapters: `adapters/<name>/`, `heads.safetensors`, and the encoder by its name.

Where the encoder itself was trained, its weights lie there too, as `model.safetensors`.
"""

import copy
from collections.abc import Mapping, Sequence
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
from hf_mtl.modeling.body import Body
from hf_mtl.modeling.conversion import Model, fill
from hf_mtl.modeling.groups import Group, check_depths
from hf_mtl.modeling.heads import new_head
from hf_mtl.modeling.lanes import Lanes
from hf_mtl.modeling.loading import drop_pooler
from hf_mtl.modeling.private_layers import new_private
from hf_mtl.modeling.regrouping import unite_trunk
from hf_mtl.modeling.scopes import lane_groups
from hf_mtl.tasks.task import Task

ADAPTERS, HEADS, ENCODER = "adapters", "heads.safetensors", "model.safetensors"
WEIGHTS = (ENCODER, HEADS, ADAPTERS)
"""What holds weights: the first, or with adapters the others, or all."""
TRUNK = "trunk"
"""The entry of a saved `lora` that lists groups whose adapters are one below the private layers."""


def saved_lanes(
    entries: Mapping[str, Any], tasks: Mapping[str, Task], groups: Sequence[Group]
) -> tuple[Lanes, Base | None]:
    """Lanes and base of a saved config's `lora`.

    Args:
        entries: the config's.
        tasks: the model's.
        groups: the model's.

    Raises:
        UserError: if it speaks of other tasks than the config, or cannot be read.
    """
    adapters = entries.get("adapters") if isinstance(entries, Mapping) else None
    if not isinstance(adapters, Mapping) or set(entries) - {TRUNK} != {"adapters", "base"}:
        raise UserError(f"config.json: lora is {entries!r}; it holds adapters and base")
    if set(adapters) != set(tasks):
        raise UserError(
            f"config.json: lora.adapters is for tasks {', '.join(adapters)}, and the model has {', '.join(tasks)}"
        )
    group_of = {task: group.name for group in groups for task in group.tasks}
    for task, name in adapters.items():
        # It names a folder too.
        allowed = list(dict.fromkeys(filter(None, (SHARED, group_of.get(task), task))))
        if name not in (None, *allowed):
            raise UserError(
                f"config.json: the adapter of {task} in lora is {name!r}; use {', '.join(map(repr, allowed))} or null"
            )
    # What has no adapter is in one lane, or in one a group.
    lanes = {task: adapters[task] or group_of.get(task, "") for task in tasks}
    base = base_of(entries["base"])
    own: dict[str, tuple[str, ...]] = {lane: (lane,) if adapters[task] else () for task, lane in lanes.items()}
    for name in entries.get(TRUNK) or ():
        if name not in own or name not in group_of.values():
            raise UserError(f"config.json: lora.{TRUNK} names {name!r}, which is no group with an adapter")
        own[name] = (SHARED, name)
    return Lanes(lanes, own, lane_groups(lanes, groups) if base is None else None), base


def write_adapted(folder: Path, config: PreTrainedConfig, body: Body, weights: Mapping[str, Tensor]) -> None:
    """Writes a model with adapters.

    Args:
        folder: made if it is not there.
        config: the model's.
        body: the model's; without a base its encoder and private layers have been trained, and are written too.
        weights: the whole model's, by name.
    """
    lanes, base = body.lanes, body.base
    if base is not None and any(
        weight.requires_grad for name, weight in body.encoder.named_parameters() if stock_name(name) is not None
    ):
        raise UserError(
            "the encoder's own weights can be trained (requires_grad), and a model with adapters on a published "
            "encoder is saved without them; keep them frozen, or make the model with train_encoder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    peft_name = base.peft_name if base is not None else None
    for lane, names in lanes.adapters.items():
        if names:
            group = lanes.groups.get(lane)
            write_adapter(
                folder / ADAPTERS / lane, body.encoder_of(group), names, body.weights_of(group, weights), peft_name
            )
    heads = {name: _plain(weight) for name, weight in weights.items() if name.startswith("heads.")}
    save_file(heads, folder / HEADS, metadata={"format": "pt"})
    if base is None:
        stock = {stock_name(name): weight for name, weight in weights.items() if not name.startswith("heads.")}
        tensors = {name: _plain(weight) for name, weight in stock.items() if name is not None}
        save_file(tensors, folder / ENCODER, metadata={"format": "pt"})
    saved = copy.deepcopy(config)
    saved.dtype = body.encoder.dtype
    adapters = {task: lane if lanes.adapters[lane] else None for task, lane in lanes.tasks.items()}
    saved.lora = {"adapters": adapters, "base": None if base is None else dict(vars(base))}
    if trunk := [group.name for group in body.groups if lanes.adapters.get(group.name) == (SHARED, group.name)]:
        saved.lora[TRUNK] = trunk
    saved.save_pretrained(folder)


def read_adapted(
    source: str, config: Any, tasks: Mapping[str, Task], groups: tuple[Group, ...], **where: Any
) -> tuple[Body, dict[str, PreTrainedModel]]:
    """Encoder with adapters, and heads.

    Args:
        source: a folder, or the id of a repository.
        config: the saved `MultiTaskConfig`.
        tasks: the model's.
        groups: the model's.
        where: `revision`, `token` and the like, as for `from_pretrained`.

    Raises:
        UserError: if anything is missing, left over, of another shape, or of another encoder.
        OSError: if a file is not there.
    """
    lanes, base = saved_lanes(config.lora, tasks, groups)
    if base is not None:
        access = {key: value for key, value in where.items() if key not in ("revision", "subfolder")}
        encoder = base.load(config.encoder_config, **access).requires_grad_(False)
        check_depths(groups, encoder)
        body = Body(encoder, lanes, groups, base=base)
    else:
        body = _own_body(source, config.encoder_config, lanes, groups, where)
    subfolder = where.pop("subfolder", "")
    for lane, names in lanes.adapters.items():
        if names:
            place = "/".join(filter(None, (subfolder, ADAPTERS, lane)))
            whole = body.encoder_of(lanes.groups.get(lane))
            read_adapter(whole, lane, source, subfolder=place, **where)
            body.settle(lanes.groups.get(lane), whole)
    if shared := [lane for lane, names in lanes.adapters.items() if names == (SHARED, lane)]:
        try:
            unite_trunk(body, shared)
        except UserError as error:
            raise UserError(f"model {source}: {error}") from None
    return body, _heads(source, config, tasks, _read(source, HEADS, subfolder=subfolder, **where))


def _heads(
    source: str, config: Any, tasks: Mapping[str, Task], weights: dict[str, Tensor]
) -> dict[str, PreTrainedModel]:
    heads = {}
    for name, task in tasks.items():
        with torch.device("meta"):
            head = new_head(task, config.encoder_config)
        heads[name] = _filled(head, _taken(weights, f"heads.{name}."), f"{source}: {HEADS}, task {name}")
    if weights:
        raise UserError(f"model {source}: {HEADS} has weights that are no task's: {', '.join(sorted(weights)[:5])}")
    return heads


def _own_body(
    source: str, config: PreTrainedConfig, lanes: Lanes, groups: tuple[Group, ...], where: Mapping[str, Any]
) -> Body:
    encoder = AutoModel.from_config(config)
    drop_pooler(encoder)
    check_depths(groups, encoder)
    body = Body(encoder, lanes, groups, new_private(encoder, groups))
    weights = _read(source, ENCODER, **where)
    for prefix, part in body.parts():
        _filled(part, _taken(weights, f"{prefix}."), f"{source}: {ENCODER}, {prefix}")
    if weights:
        raise UserError(
            f"model {source}: {ENCODER} has weights that are no part of the model's: {', '.join(sorted(weights)[:5])}"
        )
    return body


def _taken(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): weights.pop(key) for key in list(weights) if key.startswith(prefix)}


def _filled(model: Model, weights: Mapping[str, Tensor], told: str) -> Model:
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
