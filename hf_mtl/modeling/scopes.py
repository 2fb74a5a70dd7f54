"""Whose adapters and layers a model has: of all tasks, of groups of them, of one."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from peft import LoraConfig

from hf_mtl.errors import UserError
from hf_mtl.modeling.adapters import SHARED, adapted_layers, add_adapter, new_config, take_out
from hf_mtl.modeling.body import Body
from hf_mtl.modeling.groups import Group
from hf_mtl.modeling.lanes import Lanes
from hf_mtl.modeling.private_layers import PrivateLayers, copied, private_names


def lanes_of(settings: Mapping[str, Any] | None, tasks: Sequence[str], groups: Sequence[Group] = ()) -> Lanes:
    """The lanes of a new model's tasks.

    Tasks that are treated alike are in one lane: all of them, those of a group, or each with an adapter of its own.

    Args:
        settings: a run file's `lora`, with every default; None for none.
        tasks: the model's.
        groups: the model's.

    Raises:
        UserError: for a task that is called as the adapter of all tasks.
    """
    if settings is not None and SHARED in tasks:
        raise UserError(f"a task cannot be called {SHARED!r} beside adapters: that is the name of the one of all tasks")
    group_of = {task: group.name for group in groups for task in group.tasks}
    own = settings is not None and settings["scope"] != "shared"
    together = "" if settings is None else SHARED
    lanes = {task: task if own else group_of.get(task, together) for task in tasks}
    adapters = {lane: _adapters(settings, lane, group_of.get(task)) for task, lane in lanes.items()}
    if not has_copies(settings, groups):
        return Lanes(lanes, adapters)
    return Lanes(lanes, adapters, lane_groups(lanes, groups))


def has_copies(settings: Mapping[str, Any] | None, groups: Sequence[Group]) -> bool:
    """Whether groups have layers of their own: on a frozen encoder they have adapters of their own in place of them."""
    return bool(groups) and (settings is None or settings["train_encoder"])


def lane_groups(lanes: Mapping[str, str], groups: Sequence[Group]) -> dict[str, str]:
    """Lane → group, as `Lanes` takes it.

    Args:
        lanes: task → lane.
        groups: the first of them has the encoder's own layers.
    """
    first = [*groups[:1], *sorted(groups[1:], key=lambda group: group.private_layers)]
    return {lanes[task]: group.name for group in first for task in group.tasks}


def of_group(group: str) -> str:
    """The adapter of a group beside those of its tasks, one of which the group is called as."""
    return f"{SHARED}-{group}"


def _adapters(settings: Mapping[str, Any] | None, lane: str, group: str | None) -> tuple[str, ...]:
    if settings is None:
        return ()
    if settings["scope"] == "per_task":
        return (lane,)
    if settings["scope"] == "both":
        return (SHARED, lane) if group is None else (SHARED, of_group(group), lane)
    return (lane,) if group is None else (SHARED, lane)


def add_adapters(body: Body, settings: Mapping[str, Any]) -> None:
    """Puts new adapters into a body, whose other weights are then trained only if `train_encoder` says so.

    The adapter of all tasks is in all layers, or in the trunk where groups of tasks have one each above it.

    Args:
        body: its encoder and private layers are stock.
        settings: a run file's `lora`.

    Raises:
        UserError: for targets that the encoder does not have, or that cannot be adapted by task or group.
    """
    for _, part in body.parts():
        part.requires_grad_(settings["train_encoder"])
    own = settings["scope"] != "shared"
    depth = max((group.private_layers for group in body.groups), default=0)
    tops = tuple(f"{name}." for name in private_names(body.encoder, depth)) if depth else ()
    below = new_config(body.encoder, settings, by_task=own)
    if SHARED in {name for names in body.lanes.adapters.values() for name in names}:
        put_adapter(body, None, SHARED, below, lambda name: not name.startswith(tops))
    if body.groups and settings["scope"] != "per_task":
        # Rows of several groups meet in a layer of which there is one.
        above = new_config(body.encoder, settings, by_task=own or not body.private)
        for group in body.groups:
            name = of_group(group.name) if own else group.name
            if not put_adapter(body, group.name, name, above, lambda name: name.startswith(tops)) and not body.private:
                raise UserError(
                    f"sharing.private_layers: the encoder itself is not trained, so that its top {depth} layers are "
                    "private by their adapters alone, and they get none; see lora.target_modules, or set "
                    "private_layers to 0"
                )
    if own:
        for task, lane in body.lanes.tasks.items():
            put_adapter(body, body.lanes.groups.get(lane), task, below)


def put_adapter(
    body: Body, group: str | None, name: str, config: LoraConfig, wanted: Callable[[str], bool] = bool
) -> bool:
    """Puts one adapter into the layers that a group has.

    Args:
        body: the model's.
        group: the group; None for the layers of the encoder itself.
        name: the adapter's.
        config: its targets by full names.
        wanted: which of them get it; all by default.

    Returns:
        Whether there were any.
    """
    targets = sorted(target for target in config.target_modules or () if wanted(target))
    if targets:
        whole = body.encoder_of(group)
        add_adapter(whole, name, replace(config, target_modules=targets))
        body.settle(group, whole)
    return bool(targets)


def unite_trunk(body: Body, lanes: Sequence[str]) -> None:
    """Makes one adapter of those that groups have in the trunk, where they are the same, as read from disk.

    Args:
        body: has an adapter a lane, in the trunk and above it.
        lanes: those of the groups.

    Raises:
        UserError: if they are not the same.
    """
    first, *others = lanes
    depth = max(group.private_layers for group in body.groups)
    tops = tuple(f"{name}." for name in private_names(body.encoder, depth))
    layers = {name: layer for name, layer in adapted_layers(body.encoder).items() if not name.startswith(tops)}
    for name, layer in layers.items():
        for other in others:
            if not _same(layer, first, other):
                raise UserError(
                    f"the adapters of {first} and {other} differ in {name}, which is below the private layers; the "
                    "files are not as written"
                )
    _renamed(body, first, SHARED, set(layers))
    for layer in layers.values():
        for other in others:
            if other in layer.lora_A:
                take_out(layer, other)
    for lane in lanes:
        if not any(lane in layer.lora_A for _, part in body.parts() for layer in adapted_layers(part).values()):
            del body.encoder.peft_config[lane]


def regrouped(body: Body, gone: str) -> Body:
    """A body whose lanes no longer have a task, its groups made of those that are left.

    Args:
        body: nothing is hooked into its encoder.
        gone: the task.
    """
    if not body.groups:
        return body
    left = [replace(group, tasks=tuple(task for task in group.tasks if task != gone)) for group in body.groups]
    body = _with_first(body, [group for group in left if group.tasks])
    names = {group.name: group.tasks[0] if len(body.groups) > 1 else "" for group in body.groups}
    lanes = {lane: _new_lane(body, lane, names) for lane in body.lanes.adapters}
    renamed = {lane: new for lane, new in lanes.items() if body.lanes.adapters[lane] == (SHARED, lane) and new != lane}
    for old, new in renamed.items():
        _renamed(body, old, new)
    adapters = {
        lanes[lane]: tuple(dict.fromkeys(renamed.get(name, name) for name in found))
        for lane, found in body.lanes.adapters.items()
    }
    tasks = {task: lanes[lane] for task, lane in body.lanes.tasks.items()}
    groups = tuple(replace(group, name=names[group.name]) for group in body.groups if len(body.groups) > 1)
    dealt = lane_groups(tasks, groups) if body.lanes.groups and groups else None
    private = {names[name]: own for name, own in body.private.items()}
    return replace(body, lanes=Lanes(tasks, adapters, dealt), groups=groups, private=private)


def _with_first(body: Body, groups: Sequence[Group]) -> Body:
    """The body with some of its groups; the first of them has the encoder's own layers."""
    private = {group.name: body.private[group.name] for group in groups if group.name in body.private}
    first, *others = groups
    if (own := private.pop(first.name, None)) is not None:
        for place, group in enumerate(others):
            if group.private_layers < first.private_layers:
                # It has read layers of the encoder's own that become the first group's.
                private[group.name] = _deepened(body, group, first.private_layers)
                others[place] = replace(group, private_layers=first.private_layers)
        for name, module in own.items():
            body.encoder.set_submodule(name, module)
    return replace(body, groups=(first, *others), private=private)


def _deepened(body: Body, group: Group, depth: int) -> PrivateLayers:
    """The layers of a group, and copies of the encoder's own below them."""
    own = dict(body.private[group.name].items())
    names = private_names(body.encoder, depth)
    layers = PrivateLayers({name: own[name] if name in own else copied(body.encoder, name) for name in names})
    lanes = {lane for lane, name in body.lanes.groups.items() if name == group.name}
    kept = {name for lane in lanes for name in body.lanes.adapters.get(lane, ())}
    for path, layer in adapted_layers(layers).items():
        for name in set(layer.lora_A) - kept:
            take_out(layer, name)
        if not layer.lora_A:
            layers.set_submodule(path, layer.get_base_layer())
    return layers


def _new_lane(body: Body, lane: str, names: Mapping[str, str]) -> str:
    """What the lane of a group is called when the group is called otherwise; a task's own keeps its name."""
    found = body.lanes.adapters[lane]
    if lane not in names or found not in ((), (SHARED, lane)):
        return lane
    return names[lane] or (SHARED if found else "")


def _renamed(body: Body, old: str, new: str, layers: Collection[str] | None = None) -> None:
    """Calls an adapter otherwise, in all layers that have it or in some."""
    config = body.encoder.peft_config[old]
    for _, part in body.parts():
        found = {name: layer for name, layer in adapted_layers(part).items() if old in layer.lora_A}
        found = {name: layer for name, layer in found.items() if layers is None or name in layers}
        if not found:
            continue
        add_adapter(part, new, replace(config, target_modules=sorted(found)))
        for layer in found.values():
            with torch.no_grad():
                for kind, weight in _weights(layer, new).items():
                    weight.copy_(_weights(layer, old)[kind])
            take_out(layer, old)
    body.encoder.peft_config[new] = config
    if layers is None:
        del body.encoder.peft_config[old]


def _same(layer: Any, first: str, other: str) -> bool:
    if first not in layer.lora_A or other not in layer.lora_A:
        return first not in layer.lora_A and other not in layer.lora_A
    pairs = zip(_weights(layer, first).values(), _weights(layer, other).values(), strict=True)
    return all(torch.equal(one, two) for one, two in pairs)


def _weights(layer: Any, name: str) -> dict[str, torch.Tensor]:
    found = {"A": layer.lora_A[name].weight, "B": layer.lora_B[name].weight}
    return found | ({"m": layer.lora_magnitude_vector[name].weight} if name in layer.lora_variant else {})
