"""Groups of tasks that change: read from disk, or with a task less; adapters and layers come to be called otherwise."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from hf_mtl.errors import UserError
from hf_mtl.modeling.adapters import SHARED, adapted_layers, add_adapter, take_out
from hf_mtl.modeling.body import Body
from hf_mtl.modeling.groups import Group
from hf_mtl.modeling.lanes import Lanes
from hf_mtl.modeling.private_layers import PrivateLayers, copied, private_names
from hf_mtl.modeling.scopes import lane_groups, own_tops, shared_tops


def unite_trunk(body: Body, lanes: Sequence[str]) -> None:
    """Makes one adapter of those that groups have in the trunk, where they are the same, as read from disk.

    Args:
        body: has an adapter a lane, in the trunk and above it.
        lanes: those of the groups.

    Raises:
        UserError: if they are not the same.
    """
    tops = {group.name: own_tops(body, group) for group in body.groups}
    # What any of them reads of the encoder's own layers, the one with the fewest of its own reads.
    first, *others = sorted(lanes, key=lambda lane: len(tops[lane]))
    above = (*shared_tops(body), *tops[first])
    layers = {name: layer for name, layer in adapted_layers(body.encoder).items() if not name.startswith(above)}
    readers = {name: [lane for lane in others if not name.startswith(tops[lane])] for name in layers}
    for name, layer in layers.items():
        for other in readers[name]:
            if not _same(layer, first, other):
                raise UserError(
                    f"the adapters of {first} and {other} differ in {name}, which is below the private layers; the "
                    "files are not as written"
                )
    _renamed(body, first, SHARED, set(layers))
    for name, layer in layers.items():
        for other in readers[name]:
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
    """Calls an adapter otherwise, in all layers that have it or in some; there may be none."""
    if old not in body.encoder.peft_config:
        return
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
