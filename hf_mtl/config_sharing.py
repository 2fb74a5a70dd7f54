"""The keys of a run file's `sharing`, and the checks that take more than one of them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from hf_mtl.config_lora import LoraSection
from hf_mtl.config_messages import Problem
from hf_mtl.config_section import UNREAD, Section, Text

ONE_TASK = "layers are private to some of several tasks, and there is one task; use 0"

Names = Annotated[list[Text], Field(min_length=1)]


class SharingSection(Section):
    """What the tasks share of the encoder."""

    private_layers: Annotated[int, Field(ge=0)] | Literal["auto"] | None = None
    """How many top layers every group of tasks keeps for itself; auto: a third where groups differ; 0 for none.

    By default auto where the encoder itself is trained, without adapters, and is of a tested type; else 0. With
    `heads: keep` as the saved model has it.
    """
    groups: Literal["family", "task"] | Annotated[list[Names], Field(min_length=1)] = "family"
    """Whose top layers are the same: family, those of tasks about whole texts and of tasks about words; task; lists."""


def sharing_problems(
    sharing: SharingSection, tasks: Mapping[str, Any], lora: LoraSection | None, freeze: Any
) -> Iterator[Problem]:
    """What is wrong between the keys of `sharing`, and between them and others.

    Args:
        sharing: what could be read of the section.
        tasks: the type of each of the run's, where it could be read.
        lora: the run's, if it has one that could be read.
        freeze: the run's `training.freeze`.
    """
    if isinstance(sharing.groups, list) and tasks:
        for message in list_problems(sharing.groups, list(tasks)):
            yield ("sharing", "groups"), message
    # Only a number asks for private layers; without one it is looked whether there can be any.
    if not isinstance(sharing.private_layers, int) or not sharing.private_layers:
        return
    place = ("sharing", "private_layers")
    if len(tasks) == 1:
        yield place, ONE_TASK
    elif len(tasks) > 1 and _in_one_group(sharing.groups, tasks):
        yield place, in_one_group(sharing.private_layers, sharing.groups)
    if lora not in (None, UNREAD) and lora.scope == "per_task" and lora.train_encoder is False:
        hint = "use 0, lora.scope shared or both, or lora.train_encoder"
        yield place, f"with lora.scope per_task every task has an adapter of its own in these layers already; {hint}"
    if freeze == "encoder":
        yield place, "training.freeze encoder leaves nothing to make private; remove one of them"


def _in_one_group(groups: Any, tasks: Mapping[str, Any]) -> bool:
    """Whether it can be told already that there is one group: tasks of one type are of one family."""
    if groups == "family":
        return len(set(tasks.values())) == 1 and UNREAD not in tasks.values()
    return isinstance(groups, list) and len(groups) == 1 and not list(list_problems(groups, list(tasks)))


def in_one_group(private_layers: int, groups: Any) -> str:
    """What is wrong with a number of private layers where all tasks are in one group.

    Args:
        private_layers: the number.
        groups: the run file's.
    """
    if groups == "family":
        why, instead = "all tasks are of one family", "set sharing.groups to task or to lists of tasks"
    else:
        why, instead = "sharing.groups puts all tasks together", "make several of them"
    return (
        f"{private_layers}, and there is one group, since {why}: nothing would be private; {instead}, or leave it out"
    )


def list_problems(groups: Sequence[Sequence[str]], tasks: Sequence[str]) -> Iterator[str]:
    """What is wrong with lists of tasks that are to be groups.

    Args:
        groups: the lists.
        tasks: the run's.
    """
    named = Counter(name for group in groups for name in group)
    if unknown := [name for name in named if name not in tasks]:
        yield f"{', '.join(unknown)}: no such task; the run has {', '.join(tasks)}"
    if twice := [name for name, times in named.items() if times > 1]:
        yield f"{', '.join(twice)}: named more than once; a task is in one group"
    if missing := [name for name in tasks if name not in named]:
        yield f"{', '.join(missing)}: in no group; every task is in one"
