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
    tops = shared_tops(body)
    config = _config(body, settings, tops)
    if SHARED in {name for found in body.lanes.adapters.values() for name in found}:
        put_adapter(body, None, SHARED, config, lambda name: not name.startswith(tops))
    if settings["scope"] != "per_task":
        for group in body.groups:
            _add_above(body, group, of_group(group.name) if own else group.name, config)
    if own:
        for task, lane in body.lanes.tasks.items():
            put_adapter(body, body.lanes.groups.get(lane), task, config)


def own_tops(body: Body, group: Group) -> tuple[str, ...]:
    """How the names begin of the layers in which a group has an adapter of its own, beside the one of all tasks.

    These are its copies; of the encoder's own layers the top ones, down to the first that another group reads as part
    of the trunk. Without copies they are the same in all groups.

    Args:
        body: the model's.
        group: one of its groups.
    """
    least = min(one.private_layers for one in body.groups)
    depth = group.private_layers if group.name in body.private else least
    return tuple(f"{name}." for name in private_names(body.encoder, depth))


def shared_tops(body: Body) -> tuple[str, ...]:
    """How the names begin of the layers of the encoder itself that have no adapter of all tasks, but one a group."""
    own = (own_tops(body, group) for group in body.groups if group.name not in body.private)
    return tuple(dict.fromkeys(name for names in own for name in names))


def _config(body: Body, settings: Mapping[str, Any], tops: tuple[str, ...]) -> LoraConfig:
    """The config of every new adapter, each of which is then put into some of the layers."""
    if settings["scope"] != "shared":
        others = ", or use scope: shared" + (" and private_layers: 0" if body.groups and not body.private else "")
        return new_config(body.encoder, settings, lambda name: True, others)
    if not body.groups or body.private:
        return new_config(body.encoder, settings)
    # Rows of several groups meet in a layer of which there is one.
    return new_config(
        body.encoder, settings, lambda name: name.startswith(tops), ", or use private_layers: 0 or train_encoder: true"
    )


def _add_above(body: Body, group: Group, name: str, config: LoraConfig) -> None:
    tops = own_tops(body, group)
    if not put_adapter(body, group.name, name, config, lambda target: target.startswith(tops)) and not body.private:
        raise UserError(
            f"sharing.private_layers: the encoder itself is not trained, so that its top {group.private_layers} layers "
            "are private by their adapters alone, and they get none; see lora.target_modules, or set private_layers to "
            "0"
        )


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
