"""One model made of another: adapters merged, a task taken out, tasks put on."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import AutoModel

from hf_mtl.errors import UserError
from hf_mtl.modeling.adapters import SHARED, adapted_layers, add_adapter, new_config, not_by_row, remove_adapter
from hf_mtl.modeling.conversion import fill
from hf_mtl.modeling.heads import check_name, new_head, stock_class
from hf_mtl.modeling.lanes import Lanes
from hf_mtl.modeling.loading import drop_pooler, load_head
from hf_mtl.modeling.merging import merged_weights
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.tasks.task import Task


def merged(model: MultiTaskModel) -> MultiTaskModel:
    """The same model without adapters: the one that all tasks share is merged into copies of the encoder's weights.

    Raises:
        UserError: if there is nothing to merge, or tasks have adapters of their own, which no one encoder can hold.
    """
    lanes = set(model.lanes.tasks.values())
    if lanes == {""}:
        raise UserError("the model has no adapters: nothing is to be merged")
    if len(lanes) > 1:
        own = ", ".join(f"{task}: {lane or 'none'}" for task, lane in model.lanes.tasks.items())
        raise UserError(
            f"the tasks do not all have the same adapter ({own}), so no one encoder can hold them; take each task out "
            "as a stock checkpoint instead: hf-mtl export MODEL --task TASK --output DIR"
        )
    with torch.device("meta"):
        encoder = AutoModel.from_config(model.encoder.config, dtype=model.encoder.dtype)
    drop_pooler(encoder)
    weights = merged_weights(model.encoder, model.lanes.adapters[lanes.pop()])
    fill(encoder, weights, dict(model.encoder.named_buffers()))
    return MultiTaskModel.of_parts(encoder, dict(model.heads.items()), list(model.tasks.values()))


def drop_task(model: MultiTaskModel, name: str) -> None:
    """Takes a task out of a model: its head, and the adapter that it alone has.

    Raises:
        UserError: if there is no such task, or no other.
    """
    if name not in model.tasks:
        raise UserError(f"there is no task {name!r}; the model has {', '.join(model.tasks)}")
    if len(model.tasks) == 1:
        raise UserError(f"{name} is the model's only task, so it cannot be dropped")
    lane = model.lanes.tasks.pop(name)
    if lane not in model.lanes.tasks.values():
        still = {adapter for other in model.lanes.tasks.values() for adapter in model.lanes.adapters[other]}
        for adapter in set(model.lanes.adapters.pop(lane)) - still:
            remove_adapter(model.encoder, adapter)
    del model.heads[name], model.tasks[name]


def new_part(model: MultiTaskModel, tasks: Sequence[Task], settings: Mapping[str, Any]) -> MultiTaskModel:
    """New tasks on a model's encoder, of which only their own heads and adapters are trained.

    Where all tasks of the model share one adapter, the new ones stand on it as it is; elsewhere on the bare encoder.

    Args:
        model: its encoder is the new one's too, with further adapters; `joined` makes it whole again.
        tasks: the new ones.
        settings: a run file's `lora`; its scope is not read, since each new task gets an adapter of its own.

    Raises:
        UserError: if a task cannot be put on this model.
    """
    encoder = model.encoder
    taken = sorted(task.name for task in tasks if task.name in model.tasks)
    if taken:
        raise UserError(f"the model has a task {taken[0]} already; give the new one another name, or drop the old one")
    for task in tasks:
        check_name(task.name)
        stock_class(task, encoder.config)
    for weight in encoder.parameters():
        weight.requires_grad_(False)
    model.lanes.leave()
    config = new_config(encoder, settings, by_task=True)
    if others := not_by_row(encoder, list(adapted_layers(encoder))):
        raise UserError(
            f"the model's shared adapter also changes how positions are read ({len(others)} layers of this "
            f"{encoder.config.model_type} encoder), so no task can stand beside it; merge it first (hf-mtl merge) and "
            "put the task on the merged model"
        )
    below = (SHARED,) if _can_stand_on_shared(model, settings) else ()
    lanes = Lanes({task.name: task.name for task in tasks}, {task.name: (*below, task.name) for task in tasks})
    for task in tasks:
        add_adapter(encoder, task.name, config)
    if model.base is None:
        heads = {task.name: new_head(task, encoder.config) for task in tasks}
    else:
        heads = {task.name: load_head(model.base.encoder, task, encoder.config, model.base.revision) for task in tasks}
    model.release()
    return MultiTaskModel.of_parts(encoder, heads, tasks, lanes, model.base)


def _can_stand_on_shared(model: MultiTaskModel, settings: Mapping[str, Any]) -> bool:
    """DoRA scales the whole weight, so it adds up with nothing."""
    shared = set(model.lanes.tasks.values()) == {SHARED}
    return shared and not settings["use_dora"] and not model.encoder.peft_config[SHARED].use_dora


def joined(model: MultiTaskModel, part: MultiTaskModel) -> MultiTaskModel:
    """A model and the part that was made on its encoder, as one."""
    part.release()
    lanes = Lanes(model.lanes.tasks | part.lanes.tasks, model.lanes.adapters | part.lanes.adapters)
    heads = {**dict(model.heads.items()), **dict(part.heads.items())}
    tasks = [*model.tasks.values(), *part.tasks.values()]
    return MultiTaskModel.of_parts(model.encoder, heads, tasks, lanes, model.base)
