"""Groups of tasks, whose members share their top layers: which there are, and how many layers each has for itself."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from hf_mtl.config_sharing import ONE_TASK, in_one_group, list_problems
from hf_mtl.errors import UserError
from hf_mtl.modeling.heads import TESTED
from hf_mtl.modeling.layers import layer_list
from hf_mtl.modeling.loading import outlined_encoder
from hf_mtl.modeling.row_arguments import PACKED
from hf_mtl.tasks.task import Task


@dataclass(frozen=True)
class Group:
    """Tasks with the same top layers.

    Args:
        name: that of its first task.
        tasks: its tasks, in the order of the model's.
        private_layers: how many layers from the top are its own; the first group of a model has the encoder's.
    """

    name: str
    tasks: tuple[str, ...]
    private_layers: int

    def to_dict(self) -> dict[str, Any]:
        """The entry in `config.json`."""
        return asdict(self) | {"tasks": list(self.tasks)}


@dataclass(frozen=True)
class Sharing:
    """What the tasks of a model share.

    Args:
        groups: in the order of their first tasks; none where all layers are everybody's.
        why: why there are none, where no number is given.
    """

    groups: tuple[Group, ...] = ()
    why: str | None = None


def settle_sharing(
    settings: Mapping[str, Any], tasks: Sequence[Task], config: PreTrainedConfig, lora: Mapping[str, Any] | None = None
) -> Sharing:
    """The groups that a run file's `sharing` makes.

    `auto` is a third of the layers, rounded up, where there are tasks about whole texts and tasks about words, in
    several groups: those are the mixtures in which a fully shared encoder was seen to cost a task. Without a word it is
    `auto`, but 0 beside adapters, and for encoders that the tests do not hold against the stock ones.

    Args:
        settings: the run file's `sharing`.
        tasks: the run's.
        config: the encoder's.
        lora: the run file's, with every default.

    Raises:
        UserError: if the encoder has no layers of its own, or too few, or nothing is left to be private.
    """
    wanted = settings["private_layers"]
    if wanted == 0:
        return Sharing()
    if lora is not None and lora["scope"] == "per_task" and not lora["train_encoder"]:
        why = "sharing: with lora.scope per_task every task has an adapter of its own in every layer"
        if isinstance(wanted, int):
            raise UserError(f"{why}; set private_layers to 0, or lora.train_encoder")
        return Sharing(why=f"{why}, so that no layers are private")
    if wanted is None and (unasked := _why_not_unasked(config, lora)):
        return Sharing(why=unasked)
    if isinstance(wanted, int):
        groups = new_groups(settings["groups"], wanted, tasks, config)
        if len(groups) == 1:
            wrong = ONE_TASK if len(tasks) == 1 else in_one_group(wanted, settings["groups"])
            raise UserError(f"sharing.private_layers: {wrong}")
        return Sharing(groups)
    members = _members(settings["groups"], tasks)
    if len(members) == 1 or len({task.family for task in tasks}) == 1:
        return Sharing(why=_why_none(tasks, settings["groups"], len(members)))
    return _third(members, config)


def _third(members: Sequence[tuple[str, ...]], config: PreTrainedConfig) -> Sharing:
    """Groups with a third of the layers each, where the encoder has layers to spare."""
    try:
        layers = count_layers(config)
    except UserError as error:
        return Sharing(why=f"sharing: {error}, so that all of it is shared")
    if config._attn_implementation == "flex_attention":
        raise UserError(PACKED)
    if layers == 1:
        return Sharing(why="sharing: the encoder has one layer, which stays everybody's")
    return Sharing(tuple(Group(names[0], names, math.ceil(layers / 3)) for names in members))


def new_groups(
    wanted: str | Sequence[Sequence[str]], private_layers: int, tasks: Sequence[Task], config: PreTrainedConfig
) -> tuple[Group, ...]:
    """Groups of tasks with a number of private layers.

    Args:
        wanted: a run file's `sharing.groups`.
        private_layers: a number that a user has given.
        tasks: the tasks.
        config: the encoder's.

    Raises:
        UserError: if the encoder has no layers of its own, or too few.
    """
    check_private_layers(private_layers, config, "private layers")
    return tuple(Group(names[0], names, private_layers) for names in _members(wanted, tasks))


def check_private_layers(private_layers: int, config: PreTrainedConfig, key: str) -> None:
    """Refuses a number that a user has given.

    Args:
        private_layers: the number.
        config: the encoder's.
        key: where it was given.

    Raises:
        UserError: if the encoder has no layers of its own, or too few.
    """
    try:
        layers = count_layers(config)
    except UserError as error:
        raise UserError(f"{key}: {error}; use 0") from None
    if config._attn_implementation == "flex_attention":
        raise UserError(PACKED)
    if private_layers >= layers:
        raise UserError(
            f"{key}: {private_layers}, and the encoder ({config.model_type}) has {layers}, of which one at "
            f"least is everybody's; use {layers - 1} at most"
        )


def _why_not_unasked(config: PreTrainedConfig, lora: Mapping[str, Any] | None) -> str | None:
    """Why no layers are private where `private_layers` says nothing; None where there may be some."""
    shared = "so that all layers are shared; for private ones give private_layers, a number or auto"
    if lora is not None:
        return f"sharing: lora trains adapters, {shared}"
    if config._attn_implementation == "flex_attention":
        return "sharing: with attn_implementation flex_attention all layers are shared"
    if config.model_type not in TESTED:
        return f"sharing: private layers have not been tested for the encoder's type ({config.model_type}), {shared}"
    return None


def _why_none(tasks: Sequence[Task], wanted: str | Sequence[Sequence[str]], groups: int) -> str:
    if len(tasks) == 1:
        return "sharing: there is one task, so that no layers are private"
    if len({task.family for task in tasks}) > 1 or (groups == 1 and wanted != "family"):
        return "sharing: all tasks are in one group, so that all layers are shared"
    instead = "sharing.groups and " if wanted == "family" else ""
    return (
        "sharing: all tasks are of one family, so that all layers are shared; for private ones give "
        f"{instead}a number in private_layers"
    )


def trained_tops(private_layers: int, layers: int, first: int, last: int) -> int:
    """How many of the top layers can come to differ, where some are not trained: down to the lowest that is.

    Args:
        private_layers: how many there may be.
        layers: of the encoder.
        first: the first layer that is not trained, from 0.
        last: the last one.
    """
    tops = range(layers - private_layers, layers)
    return next((layers - number for number in tops if not first <= number <= last), 0)


def check_trained(private_layers: int, config: PreTrainedConfig, first: int, last: int) -> None:
    """Refuses a number that a user has given, where some of these layers are not trained.

    Args:
        private_layers: the number; there are as many layers.
        config: the encoder's.
        first: the first layer that is not trained, from 0.
        last: the last one.

    Raises:
        UserError: if some are not: they would be the same in every group.
    """
    layers = count_layers(config)
    if frozen := [str(number) for number in range(layers - private_layers, layers) if first <= number <= last]:
        raise UserError(
            f"sharing.private_layers: {private_layers}, those from layer {layers - private_layers} on, and "
            f"training.freeze leaves layer {', '.join(frozen)} untrained, the same in every group; use fewer (0 for "
            "none), or freeze layers below them only"
        )


def _members(wanted: str | Sequence[Sequence[str]], tasks: Sequence[Task]) -> list[tuple[str, ...]]:
    """The tasks of each group, all in the order of the tasks."""
    if not isinstance(wanted, str) and (problems := list(list_problems(wanted, [task.name for task in tasks]))):
        raise UserError(f"sharing.groups: {'; '.join(problems)}")
    if isinstance(wanted, str):
        keys = {task.name: task.family if wanted == "family" else task.name for task in tasks}
    else:
        keys = {name: str(number) for number, names in enumerate(wanted) for name in names}
    found: dict[str, list[str]] = {}
    for task in tasks:
        found.setdefault(keys[task.name], []).append(task.name)
    return [tuple(names) for names in found.values()]


def check_depths(groups: Sequence[Group], encoder: PreTrainedModel) -> None:
    """Holds groups of a saved config against its encoder.

    Raises:
        UserError: if a group has as many layers as the encoder, or more.
    """
    if groups:
        layers = len(layer_list(encoder)[1])
        for group in groups:
            if group.private_layers >= layers:
                raise UserError(
                    f"config.json: groups: {group.name} has {group.private_layers} private layers, and the encoder has "
                    f"{layers}, of which one at least is everybody's"
                )


def count_layers(config: PreTrainedConfig) -> int:
    """The layers of an encoder, which is not built for it.

    Raises:
        UserError: if it has no list of them, or transformers does not make such an encoder.
    """
    return len(layer_list(outlined_encoder(config))[1])


def saved_groups(entries: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> tuple[Group, ...]:
    """The groups of a saved config.

    Raises:
        UserError: if they are not groups of these tasks.
    """
    known = {field.name for field in fields(Group)}
    if not isinstance(entries, list | tuple) or not all(
        isinstance(entry, Mapping) and set(entry) == known and isinstance(entry["tasks"], list | tuple)
        for entry in entries
    ):
        raise UserError(
            f"config.json: groups is {entries!r}; it is a list, whose entries have {', '.join(sorted(known))}"
        )
    groups = tuple(Group(entry["name"], tuple(entry["tasks"]), entry["private_layers"]) for entry in entries)
    named = [str(name) for group in groups for name in group.tasks]
    if groups and sorted(named) != sorted(tasks):
        raise UserError(
            f"config.json: groups has the tasks {', '.join(named)}, and the model has {', '.join(tasks)}; "
            "every task is in one group"
        )
    for group in groups:
        layers = group.private_layers
        if group.name not in group.tasks or type(layers) is not int or layers < 1:
            raise UserError(
                f"config.json: groups: {group.to_dict()!r} is no group: it is called as one of its tasks, and has one "
                "private layer at least"
            )
    return groups


def group_list(groups: Sequence[Group]) -> str:
    """For people: which tasks have how many layers for themselves."""
    return "; ".join(f"{', '.join(group.tasks)}: {group.private_layers}" for group in groups)
