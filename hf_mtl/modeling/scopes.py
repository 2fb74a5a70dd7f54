"""Whose adapters and layers a model has: of all tasks, of groups of them, of one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from peft import LoraConfig

from hf_mtl.errors import UserError
from hf_mtl.modeling.adapters import SHARED, add_adapter, new_config
from hf_mtl.modeling.body import Body
from hf_mtl.modeling.groups import Group
from hf_mtl.modeling.lanes import Lanes
from hf_mtl.modeling.private_layers import private_names


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
