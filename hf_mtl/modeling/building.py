"""New models: a pretrained encoder made the body of a multi-task model, and a head for each task."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from hf_mtl.config_lora import LoraSection
from hf_mtl.config_section import written_out
from hf_mtl.config_sharing import SharingSection
from hf_mtl.modeling.base import Base, published_base
from hf_mtl.modeling.body import Body
from hf_mtl.modeling.groups import Group, settle_sharing
from hf_mtl.modeling.heads import check_name, new_head, stock_class
from hf_mtl.modeling.loading import drop_pooler, load_encoder, load_encoder_config, load_head
from hf_mtl.modeling.private_layers import new_private
from hf_mtl.modeling.saved_encoder import check_heads
from hf_mtl.modeling.scopes import add_adapters, has_copies, lanes_of
from hf_mtl.sources import encoder_source
from hf_mtl.tasks.task import Task


def new_parts(
    encoder: str,
    tasks: Sequence[Task],
    encoder_config: Mapping[str, Any] | None,
    revision: str | None,
    lora: Mapping[str, Any] | None,
    sharing: Mapping[str, Any] | None,
    heads: str = "new",
) -> tuple[Body, dict[str, PreTrainedModel]]:
    """Body and heads of a new model; see `MultiTaskModel.from_encoder`."""
    settings, named = _settings(lora), {task.name: task for task in tasks}
    config = load_encoder_config(encoder, encoder_config, revision)
    groups = _groups(tasks, config, settings, sharing)
    kept = check_heads(encoder, encoder_source(encoder), named, revision) if heads == "keep" else ()
    stock = load_encoder(encoder, config, revision, in_4bit=settings is not None and settings["load_in_4bit"])
    own = {name: load_head(encoder, task, stock.config, revision, keep=name in kept) for name, task in named.items()}
    base = None if settings is None else published_base(encoder, revision, stock, settings)
    return _body(stock, list(named), groups, settings, base), own


def outlined_parts(
    config: PreTrainedConfig, tasks: Sequence[Task], lora: Mapping[str, Any] | None, sharing: Mapping[str, Any] | None
) -> tuple[Body, dict[str, PreTrainedModel]]:
    """`new_parts` without values, on the meta device: what they are made of, and whether they can be made.

    Args:
        config: the encoder's.
        tasks: in order.
        lora: a run file's.
        sharing: a run file's.

    Raises:
        UserError: if the encoder cannot carry the tasks, adapters or groups.
    """
    settings = _settings(lora)
    groups = _groups(tasks, config, settings, sharing)
    with torch.device("meta"):
        stock = AutoModel.from_config(config)
        drop_pooler(stock)
        own = {task.name: new_head(task, config) for task in tasks}
        return _body(stock, list(own), groups, settings), own


def _settings(lora: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if lora is None else written_out(LoraSection, lora, "lora")


def _groups(
    tasks: Sequence[Task],
    config: PreTrainedConfig,
    settings: Mapping[str, Any] | None,
    sharing: Mapping[str, Any] | None,
) -> tuple[Group, ...]:
    for task in tasks:
        check_name(task.name)
        stock_class(task, config)
    return settle_sharing(written_out(SharingSection, sharing or {}, "sharing"), tasks, config, settings).groups


def _body(
    stock: PreTrainedModel,
    tasks: Sequence[str],
    groups: tuple[Group, ...],
    settings: Mapping[str, Any] | None,
    base: Base | None = None,
) -> Body:
    lanes = lanes_of(settings, tasks, groups)
    private = new_private(stock, groups) if has_copies(settings, groups) else {}
    body = Body(stock, lanes, groups, private, base)
    if settings is not None:
        add_adapters(body, settings)
    return body
