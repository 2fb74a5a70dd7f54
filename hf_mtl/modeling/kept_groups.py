"""Groups of a saved multi-task model that a new model goes on with, each from its own layers (`heads: keep`)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file
from transformers.utils.hub import get_checkpoint_shard_files

from hf_mtl.errors import UserError
from hf_mtl.modeling.configuration import task_specs
from hf_mtl.modeling.groups import Group, group_list, saved_groups
from hf_mtl.tasks.task import Task
from hf_mtl.tasks.types import TASK_TYPES


@dataclass(frozen=True)
class KeptGroups:
    """What a saved model's groups are to a new one.

    Args:
        saved: the groups; none where all layers are everybody's.
        families: of the saved model's tasks.
        kept: the tasks that go on.
    """

    saved: tuple[Group, ...]
    families: Mapping[str, str]
    kept: Collection[str]

    @classmethod
    def read(cls, source: str, kept: Collection[str], revision: str | None = None) -> "KeptGroups":
        """Reads `config.json` of a multi-task model.

        Args:
            source: Hub id or folder.
            kept: the tasks that go on.
            revision: of a Hub repository.
        """
        entries, _ = PreTrainedConfig.get_config_dict(source, revision=revision or "main")
        families = {spec.name: TASK_TYPES[spec.task_type].family for spec in task_specs(entries.get("tasks", ()))}
        return cls(saved_groups(entries.get("groups") or (), list(families)), families, kept)

    def of(self, task: Task) -> Group:
        """The group that a task goes on in; a new one joins the first of its family, or the first of all."""
        if task.name in self.kept:
            return next(group for group in self.saved if task.name in group.tasks)
        alike = (group for group in self.saved if any(self.families[old] == task.family for old in group.tasks))
        return next(alike, self.saved[0])

    def as_saved(self, tasks: Sequence[Task]) -> tuple[Group, ...]:
        """Groups of the new model's tasks that leave apart and together what was so."""
        members: dict[Group, list[str]] = {}
        for task in tasks if self.saved else ():
            members.setdefault(self.of(task), []).append(task.name)
        if len(members) < 2:
            return ()
        return tuple(Group(names[0], tuple(names), group.private_layers) for group, names in members.items())

    def begun(self, encoder: str, tasks: Sequence[Task], groups: Sequence[Group]) -> dict[str, Group]:
        """New group → the saved group whose layers it begins with, where those are not the encoder's own.

        Args:
            encoder: the saved model, as the user wrote it.
            tasks: the new model's.
            groups: the new model's, those that get layers of their own; without any, all tasks are one group: `""`.

        Raises:
            UserError: if tasks are in one group that were in several, or have more layers of their own, or fewer.
        """
        if not self.saved:
            return {}
        begun: dict[str, Group] = {}
        for group in groups or [Group("", tuple(task.name for task in tasks), 0)]:
            old = {self.of(task) for task in tasks if task.name in group.tasks and task.name in self.kept}
            if len(old) > 1 or (groups and any(one.private_layers != group.private_layers for one in old)):
                raise UserError(
                    f"heads: keep: the tasks of {encoder} have top layers of their own ({group_list(self.saved)}), and "
                    "go on with them where sharing keeps them apart alike, without lora or with lora.train_encoder; "
                    "leave sharing out, or take one task's model (hf-mtl export)"
                )
            begun[group.name] = old.pop() if old else self.saved[0]
        return {name: old for name, old in begun.items() if old != self.saved[0]}


def group_weights(source: str, group: str, revision: str | None = None) -> dict[str, Tensor]:
    """The weights of a saved group's layers in float32, by their names in the stock encoder.

    Args:
        source: Hub id or folder of a multi-task model.
        group: the group's name.
        revision: of a Hub repository.
    """
    where: dict[str, Any] = {"revision": revision or "main"}
    file = cached_file(source, SAFE_WEIGHTS_NAME, _raise_exceptions_for_missing_entries=False, **where)
    files = [file]
    if file is None:
        files, _ = get_checkpoint_shard_files(
            source, str(cached_file(source, SAFE_WEIGHTS_INDEX_NAME, **where)), **where
        )
    found, prefix = {}, f"private.{group}."
    for file in files:
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118  (it is no mapping)
                if name.startswith(prefix):
                    found[name.removeprefix(prefix)] = weights.get_tensor(name).to(torch.float32)
    return found
