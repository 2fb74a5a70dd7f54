"""The encoder and heads of a saved multi-task model, for a new model that is trained on from them."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

from hf_mtl.config_messages import shown
from hf_mtl.errors import UserError
from hf_mtl.modeling.configuration import MultiTaskConfig, task_specs
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
