"""One model made of another: adapters merged, a task taken out, tasks put on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import AutoModel

from hf_mtl.errors import UserError
from hf_mtl.modeling.adapters import SHARED, adapted_layers, new_config, not_by_row, remove_adapter
from hf_mtl.modeling.body import Body
from hf_mtl.modeling.conversion import fill
from hf_mtl.modeling.groups import Group, new_groups
from hf_mtl.modeling.heads import check_name, new_head, stock_class
from hf_mtl.modeling.lanes import Lanes
from hf_mtl.modeling.loading import drop_pooler, load_head
from hf_mtl.modeling.merging import merged_weights
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.modeling.private_layers import new_private
from hf_mtl.modeling.regrouping import regrouped
from hf_mtl.modeling.scopes import lane_groups, lanes_of, own_tops, put_adapter
from hf_mtl.tasks.task import Task


def merged(model: MultiTaskModel) -> MultiTaskModel:
    """The same model without adapters: those of all tasks, or of all in a group, are merged into copies.

    Raises:
        UserError: if there is nothing to merge, or tasks have adapters of their own, which no one encoder can hold.
    """
    body = model.body
    if not any(body.lanes.adapters.values()):
        raise UserError("the model has no adapters: nothing is to be merged")
    names = {task: body.lanes.adapters[lane] for task, lane in body.lanes.tasks.items()}
    groups = body.groups or (Group("", tuple(model.tasks), 0),)
    if any(len({names[task] for task in group.tasks}) > 1 for group in groups) or not _one_trunk(body, names):
        own = ", ".join(f"{task}: {lane or 'none'}" for task, lane in model.lanes.tasks.items())
        raise UserError(
            f"the tasks do not all have the same adapter ({own}), so no one encoder can hold them; take each task out "
            "as a stock checkpoint instead: hf-mtl export MODEL --task TASK --output DIR"
        )
    with torch.device("meta"):
        encoder = AutoModel.from_config(body.encoder.config, dtype=body.encoder.dtype)
    drop_pooler(encoder)
    private = new_private(encoder, body.groups)
    for group in groups:
        whole = body.task_encoder(group.tasks[0])
        weights = merged_weights(whole, names[group.tasks[0]])
        part: nn.Module = private.get(group.name, encoder)
        fill(part, {name: weights[name] for name in part.state_dict()}, dict(whole.named_buffers()))
    lanes = lanes_of(None, list(model.tasks), body.groups)
    new = Body(encoder, lanes, body.groups, private)
    return MultiTaskModel.of_parts(new, dict(model.heads.items()), list(model.tasks.values()))


def _one_trunk(body: Body, names: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether all groups that will read a layer of the encoder's own read it with the same adapters.

    Args:
        body: the model's.
        names: the adapters of each task, the same for all in a group.
    """
    # The first group will have the encoder's own layers down to the bottom.
    tops = {group: own_tops(body, group) for group in body.groups[1:]}
    for name, layer in adapted_layers(body.encoder).items():
        readers = [group.tasks[0] for group in body.groups if not name.startswith(tops.get(group, ()))]
        if len({tuple(own for own in names[task] if own in layer.lora_A) for task in readers}) > 1:
            return False
    return True


def drop_task(model: MultiTaskModel, name: str) -> MultiTaskModel:
    """The model without a task: its head, and the adapter and layers that it alone has. The model itself is used up.

    Raises:
        UserError: if there is no such task, or no other.
    """
    if name not in model.tasks:
        raise UserError(f"there is no task {name!r}; the model has {', '.join(model.tasks)}")
    if len(model.tasks) == 1:
        raise UserError(f"{name} is the model's only task, so it cannot be dropped")
    model.release()
    body, lanes = model.body, model.lanes
    left = {task: lane for task, lane in lanes.tasks.items() if task != name}
    adapters = {lane: lanes.adapters[lane] for lane in left.values()}
    still = {adapter for names in adapters.values() for adapter in names}
    for adapter in {adapter for names in lanes.adapters.values() for adapter in names} - still:
        remove_adapter(body.encoder, adapter, [part for _, part in body.parts()])
    groups = {lane: group for lane, group in lanes.groups.items() if lane in adapters}
    body = regrouped(replace(body, lanes=Lanes(left, adapters, groups)), name)
    heads = {task: head for task, head in model.heads.items() if task != name}
    return MultiTaskModel.of_parts(body, heads, [task for task in model.tasks.values() if task.name != name])


def new_part(
    model: MultiTaskModel, tasks: Sequence[Task], settings: Mapping[str, Any], private_layers: int = 0
) -> MultiTaskModel:
    """New tasks on a model's encoder, of which only their own heads, and adapters or layers, are trained.

    A new adapter stands on the layers of a group of the task's family, where there are groups; and on the adapter that
    all tasks share, or all of that group, where there is one.

    Args:
        model: its encoder is the new one's too, with further adapters; `joined` makes it whole again.
        tasks: the new ones.
        settings: a run file's `lora`; its scope is not read, since each new task gets an adapter of its own.
        private_layers: how many copies of the encoder's top layers the tasks of a family get in place of adapters.

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
    if private_layers:
        check_without_adapters(model)
    for _, part in model.body.parts():
        part.requires_grad_(False)
    model.lanes.leave()
    body = _with_layers(model, tasks, private_layers) if private_layers else _with_adapters(model, tasks, settings)
    if model.base is None:
        heads = {task.name: new_head(task, encoder.config) for task in tasks}
    else:
        heads = {task.name: load_head(model.base.encoder, task, encoder.config, model.base.revision) for task in tasks}
    return MultiTaskModel.of_parts(body, heads, tasks)


def check_without_adapters(model: MultiTaskModel) -> None:
    """Looks whether new private layers can be put on a model: a copied layer has no adapters.

    Raises:
        UserError: if they cannot.
    """
    if any(model.lanes.adapters.values()):
        raise UserError(
            "private layers are put on a model without adapters; merge them first (hf-mtl merge), or give the task an "
            "adapter instead"
        )


def _with_layers(model: MultiTaskModel, tasks: Sequence[Task], private_layers: int) -> Body:
    groups = new_groups("family", private_layers, tasks, model.encoder.config)
    lanes = lanes_of(None, [task.name for task in tasks], groups)
    model.release()
    private = new_private(model.encoder, groups, all_of_them=True)
    for own in private.values():
        own.requires_grad_(True)
    return Body(model.encoder, lanes, groups, private)


def _with_adapters(model: MultiTaskModel, tasks: Sequence[Task], settings: Mapping[str, Any]) -> Body:
    encoder = model.encoder
    config = new_config(encoder, settings, lambda name: True)
    if others := not_by_row(encoder, list(adapted_layers(encoder))):
        raise UserError(
            f"the model's shared adapter also changes how positions are read ({len(others)} layers of this "
            f"{encoder.config.model_type} encoder), so no task can stand beside it; merge it first (hf-mtl merge) and "
            "put the task on the merged model"
        )
    joins = {task.name: _group_for(model, task) for task in tasks}
    adapters = {name: (*_below(model, group, settings), name) for name, group in joins.items()}
    groups = tuple(
        Group(group.name, tuple(name for name in joins if joins[name] == group), group.private_layers)
        for group in dict.fromkeys(group for group in joins.values() if group is not None)
    )
    own = {task: task for task in joins}
    lanes = Lanes(own, adapters, lane_groups(own, groups) if model.private else None)
    body = replace(model.body, lanes=lanes, groups=groups)
    model.release()
    for name, group in joins.items():
        put_adapter(body, None if group is None else group.name, name, config)
    return body


def _group_for(model: MultiTaskModel, task: Task) -> Group | None:
    """The first group with a task of the new one's family, or the first of all."""
    alike = (group for group in model.groups if any(model.tasks[old].family == task.family for old in group.tasks))
    return next(alike, model.groups[0] if model.groups else None)


def _below(model: MultiTaskModel, group: Group | None, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The adapters of all tasks; DoRA scales the whole weight, so it adds up with nothing."""
    found = {model.lanes.adapters[model.lanes.tasks[task]] for task in (group.tasks if group else model.tasks)}
    names = found.pop() if len(found) == 1 else ()
    shared = names in ((SHARED,), (SHARED, group.name if group else SHARED))
    dora = settings["use_dora"] or any(
        one.use_dora for name, one in getattr(model.encoder, "peft_config", {}).items() if name in names
    )
    return names if shared and not dora else ()


def joined(model: MultiTaskModel, part: MultiTaskModel) -> MultiTaskModel:
    """A model and the part that was made on its encoder, as one."""
    part.release()
    groups = {group.name: group for group in model.groups}
    if part.groups and not groups:
        depth = max(group.private_layers for group in part.groups)
        first = Group(next(iter(model.tasks)), tuple(model.tasks), depth)
        groups = {first.name: first}
    for group in part.groups:
        old = groups.get(group.name)
        groups[group.name] = group if old is None else replace(old, tasks=(*old.tasks, *group.tasks))
    lanes = model.lanes
    if groups and not model.groups:
        # The tasks that were there are a group now.
        lanes = lanes_of(None, list(model.tasks), list(groups.values())[:1])
    own = lanes.tasks | part.lanes.tasks
    private = {**model.body.private, **part.body.private}
    everything = tuple(groups.values())
    body = Body(
        model.encoder,
        Lanes(own, lanes.adapters | part.lanes.adapters, lane_groups(own, everything) if private else None),
        everything,
        private,
        model.base,
    )
    heads = {**dict(model.heads.items()), **dict(part.heads.items())}
    return MultiTaskModel.of_parts(body, heads, [*model.tasks.values(), *part.tasks.values()])
