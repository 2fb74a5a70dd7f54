"""The encoder and heads of a saved multi-task model, for a new model that is trained on from them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file
from transformers.utils.hub import get_checkpoint_shard_files

from hf_mtl.config_messages import shown
from hf_mtl.errors import UserError
from hf_mtl.modeling.configuration import MultiTaskConfig, task_specs
from hf_mtl.modeling.groups import Group, saved_groups
from hf_mtl.tasks.task import Task


def is_multi_task(source: str, revision: str | None = None, **access: Any) -> bool:
    """Whether a source holds a multi-task model; only its `config.json` is read."""
    entries, _ = PreTrainedConfig.get_config_dict(source, revision=revision or "main", **access)
    return entries.get("model_type") == MultiTaskConfig.model_type


def inner_config(encoder: str, config: MultiTaskConfig, heads: str) -> PreTrainedConfig:
    """The config of the encoder in a saved model.

    Args:
        encoder: as the user wrote it.
        config: the model's.
        heads: "keep" goes on with the layers of all groups.

    Raises:
        UserError: if the model has several encoders, or one that is not in its folder.
    """
    if config.lora is not None:
        raise UserError(
            f"encoder {encoder}: a multi-task model with adapters, which are no part of an encoder; merge it first "
            "(hf-mtl merge), or take one task's encoder with its adapter (hf-mtl export)"
        )
    if config.groups and heads != "keep":
        names = ", ".join(group["name"] for group in config.groups)
        raise UserError(
            f"encoder {encoder}: a multi-task model whose tasks have layers of their own ({names}), so that it has "
            "several encoders; go on with all of them (heads: keep), or take that of one task (hf-mtl export)"
        )
    return config.encoder_config


def part_of(source: str, prefix: str, revision: str | None = None, **access: Any) -> dict[str, Any]:
    """What `from_pretrained` takes beside a source to read one part of a saved multi-task model; nothing for others.

    Args:
        source: Hub id or folder.
        prefix: what the names of the part's weights begin with.
        revision: of a Hub repository.
        access: `token`, `cache_dir`, `local_files_only` and the like, as for `from_pretrained`.
    """
    # transformers renames by regular expressions; without this a part's weights would be taken for unknown ones.
    return {"key_mapping": {rf"^{prefix}\.": ""}} if is_multi_task(source, revision, **access) else {}


def begun_groups(
    encoder: str, source: str, groups: Sequence[Group], kept: Collection[str], revision: str | None = None
) -> dict[str, str]:
    """New group → the saved group whose layers it begins with; nothing where those are the encoder's own.

    They are where that is the first saved group, and where none of the new group's tasks is in the saved model.

    Args:
        encoder: as the user wrote it.
        source: where it is: a multi-task model.
        groups: of the new model, those that get layers of their own.
        kept: the tasks that go on from the saved model.
        revision: of a Hub repository.

    Raises:
        UserError: if the saved model has layers of groups that the new one has not.
    """
    entries, _ = PreTrainedConfig.get_config_dict(source, revision=revision or "main")
    saved = saved_groups(entries.get("groups") or (), [spec.name for spec in task_specs(entries.get("tasks", ()))])
    of_task = {task: group for group in saved for task in group.tasks if task in kept}
    begun = {}
    for group in groups:
        own = {of_task[task] for task in group.tasks if task in of_task}
        if saved and (len(own) > 1 or any(one.private_layers != group.private_layers for one in own)):
            break
        begun[group.name] = own.pop().name if own else ""
    if saved and len(begun) < max(len(groups), 1):
        wanted = [[task for task in group.tasks if task in kept] for group in saved]
        depth = max(group.private_layers for group in saved)
        raise UserError(
            f"heads: keep: the tasks of {encoder} have layers of their own, and go on with them where "
            f"sharing.private_layers is {depth} and sharing.groups keeps apart "
            f"{' and '.join('[' + ', '.join(names) + ']' for names in wanted if names)}, without lora or with "
            "lora.train_encoder; write so, or take one task's model (hf-mtl export)"
        )
    first = saved[0].name if saved else ""
    return {group: own for group, own in begun.items() if own not in ("", first)}


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


def _few(value: Any) -> str:
    if not isinstance(value, list):
        return shown(value)
    return f"[{', '.join(map(shown, value[:5]))}{', …' if len(value) > 5 else ''}]"


def check_heads(encoder: str, source: str, tasks: Mapping[str, Task], revision: str | None = None) -> frozenset[str]:
    """The tasks whose heads a saved model holds.

    Args:
        encoder: as the user wrote it.
        source: where it is.
        tasks: the new model's.
        revision: of a Hub repository.

    Raises:
        UserError: if it is no multi-task model, has none of the tasks, or one with other labels.
    """
    entries, _ = PreTrainedConfig.get_config_dict(source, revision=revision or "main")
    if entries.get("model_type") != MultiTaskConfig.model_type:
        raise UserError(f"heads: keep needs an encoder that is a multi-task model, and {encoder} is none; remove it")
    saved = {spec.name: spec for spec in task_specs(entries.get("tasks", ()))}
    kept = frozenset(tasks) & frozenset(saved)
    if not kept:
        raise UserError(f"heads: keep: {encoder} has tasks {', '.join(saved)}, and none of {', '.join(tasks)}")
    wrong = []
    for name in sorted(kept):
        for key in ("task_type", "problem_type", "label_list", "text_pair"):
            old, new = getattr(saved[name], key), getattr(tasks[name].spec, key)
            if old != new:
                wrong.append(
                    f"tasks.{name}: its {key} is {_few(new)} in this run, and {_few(old)} in {encoder}; make them "
                    "alike (label_list fixes labels and their order), give the task another name, or set heads: new"
                )
    if wrong:
        raise UserError("\n".join(wrong))
    return kept
