"""Groups of a saved multi-task model that a new model goes on with, each from its own layers (`heads: keep`)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file
from transformers.utils.hub import get_checkpoint_shard_files

from hf_mtl.errors import UserError
from hf_mtl.modeling.configuration import task_specs
from hf_mtl.modeling.groups import Group, count_layers, group_list, saved_groups
from hf_mtl.tasks.task import Task
from hf_mtl.tasks.types import TASK_TYPES


@dataclass(frozen=True)
class KeptGroups:
    """What a saved model's groups are to a new one.

    Args:
        saved: the groups; none where all layers are everybody's.
        layers: of the saved model's encoder; 0 where there are no groups.
        families: of the saved model's tasks.
        kept: the tasks that go on.
    """

    saved: tuple[Group, ...]
    layers: int
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
        config = AutoConfig.from_pretrained(source, revision=revision or "main", trust_remote_code=False)
        families = {spec.name: TASK_TYPES[spec.task_type].family for spec in task_specs(config.tasks)}
        saved = saved_groups(config.groups or (), list(families))
        return cls(saved, count_layers(config.encoder_config) if saved else 0, families, kept)

    def of(self, task: Task) -> Group:
        """The group that a task goes on in; a new one joins the first of its family, or the first of all."""
        if task.name in self.kept:
            return next(group for group in self.saved if task.name in group.tasks)
        alike = (group for group in self.saved if any(self.families[old] == task.family for old in group.tasks))
        return next(alike, self.saved[0])

    def as_saved(self, tasks: Sequence[Task]) -> tuple[Group, ...]:
        """Groups of the new model's tasks that leave apart and together what was so.

        The group with the fewest layers of its own comes first: it has the encoder's, which the others' trunks hold.
        """
        members: dict[Group, list[str]] = {}
        for task in tasks if self.saved else ():
            members.setdefault(self.of(task), []).append(task.name)
        if len(members) < 2:
            return ()
        groups = [Group(names[0], tuple(names), group.private_layers) for group, names in members.items()]
        return tuple(sorted(groups, key=lambda group: group.private_layers))

    def begun(
        self, encoder: str, config: PreTrainedConfig, tasks: Sequence[Task], groups: Sequence[Group], frozen: bool
    ) -> dict[str, Group]:
        """New group → the saved group whose layers it begins with, where those are not the encoder's own.

        Args:
            encoder: the saved model, as the user wrote it.
            config: the new encoder's.
            tasks: the new model's.
            groups: the new model's, those that get layers of their own; without any, all tasks are one group: `""`.
            frozen: whether adapters are trained on the encoder as it is, which the new model then does not hold.

        Raises:
            UserError: if tasks are in one group that were in several, or have more layers of their own, or fewer.
        """
        if not self.saved:
            return {}
        if count_layers(config) != self.layers:
            raise UserError(
                f"encoder_config: {encoder} has {self.layers} layers, of which the top ones are those of groups of "
                "tasks; leave the number of layers as it is"
            )
        begun: dict[str, Group] = {}
        for group in groups or [Group("", tuple(task.name for task in tasks), 0)]:
            own = [task for task in tasks if task.name in group.tasks]
            old = {self.of(task) for task in own if task.name in self.kept} or {self.of(own[0])}
            if len(old) > 1 or frozen or (groups and any(one.private_layers != group.private_layers for one in old)):
                raise UserError(
                    f"heads: keep: the tasks of {encoder} have top layers of their own ({group_list(self.saved)}), and "
                    "go on with them where sharing keeps them apart alike, without lora or with lora.train_encoder; "
                    "leave sharing out, or take one task's model (hf-mtl export)"
                )
            begun[group.name] = old.pop()
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
    found: dict[str, Tensor] = {}
    prefix = f"private.{group}."
    for file in files:
        with safe_open(file, "pt") as weights:
            names = [name for name in list(weights.keys()) if name.startswith(prefix)]
            found |= {name.removeprefix(prefix): weights.get_tensor(name).to(torch.float32) for name in names}
    return found
