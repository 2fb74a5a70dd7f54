"""New models: a pretrained encoder made the body of a multi-task model, and a head for each task."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from hf_mtl.config_lora import LoraSection
from hf_mtl.config_section import written_out
from hf_mtl.config_sharing import SharingSection
from hf_mtl.errors import UserError
from hf_mtl.modeling.base import Base, published_base
from hf_mtl.modeling.body import Body
from hf_mtl.modeling.groups import Group, settle_sharing
from hf_mtl.modeling.heads import check_name, new_head, stock_class
from hf_mtl.modeling.kept_groups import KeptGroups, group_weights
from hf_mtl.modeling.loading import load_encoder, load_encoder_config, load_head, outlined_encoder
from hf_mtl.modeling.private_layers import new_private, private_names
from hf_mtl.modeling.saved_encoder import check_heads
from hf_mtl.modeling.scopes import add_adapters, has_copies, lanes_of
from hf_mtl.sources import encoder_source
from hf_mtl.tasks.task import Task


@dataclass(frozen=True)
class Plan:
    """Of what a new model is made.

    Args:
        encoder: as the user wrote it.
        revision: of a Hub repository.
        config: the encoder's.
        tasks: in order.
        lora: the adapters, with every default; None for none.
        groups: the groups of tasks.
        kept: the tasks whose heads are taken over.
        begun: group → the group of the saved model that it begins as; see `KeptGroups`.
    """

    encoder: str
    revision: str | None
    config: PreTrainedConfig
    tasks: Sequence[Task]
    lora: dict[str, Any] | None
    groups: tuple[Group, ...]
    kept: Collection[str] = ()
    begun: Mapping[str, Group] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        encoder: str,
        tasks: Sequence[Task],
        encoder_config: Mapping[str, Any] | None = None,
        revision: str | None = None,
        lora: Mapping[str, Any] | None = None,
        sharing: Mapping[str, Any] | None = None,
        heads: str = "new",
    ) -> "Plan":
        """What the arguments of `MultiTaskModel.from_encoder` come to.

        Raises:
            UserError: if the encoder cannot carry the tasks, adapters or groups.
        """
        config = load_encoder_config(encoder, encoder_config, revision, heads)
        settings = None if lora is None else written_out(LoraSection, lora, "lora")
        for task in tasks:
            check_name(task.name)
            stock_class(task, config)
        shared = written_out(SharingSection, sharing or {}, "sharing")
        said = shared != written_out(SharingSection, {}, "sharing")
        if heads != "keep":
            groups = settle_sharing(shared, tasks, config, settings).groups if sharing else ()
            return cls(encoder, revision, config, tasks, settings, groups)
        source = encoder_source(encoder)
        heads_kept = check_heads(encoder, source, {task.name: task for task in tasks}, revision)
        kept = KeptGroups.read(source, heads_kept, revision)
        groups = settle_sharing(shared, tasks, config, settings).groups if said else kept.as_saved(tasks)
        frozen = settings is not None and not settings["train_encoder"]
        begun = kept.begun(encoder, config, tasks, groups, frozen)
        return cls(encoder, revision, config, tasks, settings, groups, heads_kept, begun)


def new_parts(plan: Plan) -> tuple[Body, dict[str, PreTrainedModel]]:
    """Body and heads of a new model.

    Raises:
        UserError: if the encoder cannot be loaded or cannot carry the adapters.
    """
    encoder, revision = plan.encoder, plan.revision
    in_4bit = plan.lora is not None and plan.lora["load_in_4bit"]
    stock = load_encoder(encoder, plan.config, revision, in_4bit=in_4bit)
    heads = {
        task.name: load_head(encoder, task, stock.config, revision, keep=task.name in plan.kept) for task in plan.tasks
    }
    base = None if plan.lora is None else published_base(encoder, revision, stock, plan.lora)
    body = _stock_body(stock, plan, base)
    for name, saved in plan.begun.items():
        _begin(body, name, saved, group_weights(encoder_source(encoder), saved.name, revision))
    return _adapted(body, plan), heads


def outlined_parts(plan: Plan) -> tuple[Body, dict[str, PreTrainedModel]]:
    """`new_parts` without values, on the meta device: whether they can be made, and what they cost."""
    stock = outlined_encoder(plan.config)
    with torch.device("meta"):
        heads = {task.name: new_head(task, plan.config) for task in plan.tasks}
        return _adapted(_stock_body(stock, plan), plan), heads


def _stock_body(stock: PreTrainedModel, plan: Plan, base: Base | None = None) -> Body:
    lanes = lanes_of(plan.lora, [task.name for task in plan.tasks], plan.groups)
    private = new_private(stock, plan.groups) if has_copies(plan.lora, plan.groups) else {}
    return Body(stock, lanes, plan.groups, private, base)


def _begin(body: Body, group: str, saved: Group, weights: Mapping[str, Tensor]) -> None:
    """Gives a group the weights of a saved one, by their names in the stock encoder."""
    part = body.private.get(group, body.encoder)
    tops = tuple(f"{name}." for name in private_names(body.encoder, saved.private_layers))
    if weights.keys() != {name for name in part.state_dict() if name.startswith(tops)}:
        raise UserError("the saved model's groups do not fit its config; its folder is not as it was written")
    part.load_state_dict(weights, strict=False)


def _adapted(body: Body, plan: Plan) -> Body:
    if plan.lora is not None:
        add_adapters(body, plan.lora)
    return body
