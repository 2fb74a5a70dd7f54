"""New models: a pretrained encoder made the body of a multi-task model, and a head for each task."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel

from hf_mtl.config_lora import LoraSection
from hf_mtl.config_section import written_out
from hf_mtl.config_sharing import SharingSection
from hf_mtl.modeling.base import published_base
from hf_mtl.modeling.body import Body
from hf_mtl.modeling.groups import settle_sharing
from hf_mtl.modeling.heads import check_name, stock_class
from hf_mtl.modeling.loading import load_encoder, load_encoder_config, load_head
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
    settings = None if lora is None else written_out(LoraSection, lora, "lora")
    config = load_encoder_config(encoder, encoder_config, revision)
    for task in tasks:
        check_name(task.name)
        stock_class(task, config)
    groups = settle_sharing(written_out(SharingSection, sharing or {}, "sharing"), tasks, config, settings).groups
    named = {task.name: task for task in tasks}
    kept = check_heads(encoder, encoder_source(encoder), named, revision) if heads == "keep" else ()
    stock = load_encoder(encoder, config, revision, in_4bit=settings is not None and settings["load_in_4bit"])
    own = {name: load_head(encoder, task, stock.config, revision, keep=name in kept) for name, task in named.items()}
    lanes = lanes_of(settings, list(named), groups)
    private = new_private(stock, groups) if has_copies(settings, groups) else {}
    base = None if settings is None else published_base(encoder, revision, stock, settings)
    body = Body(stock, lanes, groups, private, base)
    if settings is not None:
        add_adapters(body, settings)
    return body, own
