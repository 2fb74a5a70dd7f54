"""Stock task models out of a multi-task model, and back in: weights are copied bit for bit."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from hf_mtl.modeling.body import Body
from hf_mtl.modeling.configuration import STOCK_KEY, bare
from hf_mtl.modeling.heads import head_class, head_config
from hf_mtl.modeling.lanes import Lanes
from hf_mtl.modeling.loading import drop_pooler
from hf_mtl.modeling.merging import merged_weights
from hf_mtl.tasks.spec import TaskSpec
from hf_mtl.tasks.task import Task
from hf_mtl.tasks.types import TASK_TYPES, build_task

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)

FREE = {"initializer_factor", "initializer_range", "tie_word_embeddings", "use_cache"}
"""Entries of a config that do not change a trained model's answers."""


def stock_task_model(
    task: Task, encoder: PreTrainedModel, head: PreTrainedModel, adapters: Sequence[str] = ()
) -> PreTrainedModel:
    """The stock model of a task, with copies of the encoder's and the head's weights, in evaluation mode.

    Args:
        task: the task.
        encoder: the shared one.
        head: the task's.
        adapters: those of the encoder that are merged into the copy.
    """
    config = head_config(task, encoder.config)
    plain = task.stock_spec(task.name, config)
    kept = {key: value for key, value in task.spec.to_dict().items() if value != getattr(plain, key)}
    if kept:
        setattr(config, STOCK_KEY, kept)
    with torch.device("meta"):
        model = task.auto_class.from_config(config, dtype=encoder.dtype)
    prefix = model.base_model_prefix
    weights = {
        f"{prefix}.{name}": value for name, value in merged_weights(encoder, adapters).items()
    } | head.state_dict()
    buffers = {f"{prefix}.{name}": value for name, value in encoder.named_buffers()}
    return fill(model, weights, buffers)


def task_model_parts(
    encoder: PreTrainedModel | None, models: Mapping[str, Any]
) -> tuple[Body, dict[str, PreTrainedModel], list[Task]]:
    """Body, heads and tasks of a multi-task model from stock task models.

    Args:
        encoder: the stock base model to share; None for that of the first task model.
        models: a stock task model for each task name.

    Raises:
        ValueError: for anything but stock task models of one architecture, size and precision.
    """
    if not models:
        raise ValueError("no task model was given; pass one for each task, by the task's name")
    specs = {name: stock_spec(name, model) for name, model in models.items()}
    first = next(iter(models))
    shared = _base(models[first]) if encoder is None else encoder
    if not isinstance(shared, PreTrainedModel) or type(shared) is not AutoModel._model_mapping.get(
        type(shared.config), None
    ):
        raise ValueError(
            f"encoder: {type(shared).__name__} is not a stock base model, as AutoModel.from_pretrained gives it"
        )
    for name, model in models.items():
        _check_fit(name, model, shared)
    with torch.device("meta"):
        body = AutoModel.from_config(bare(shared.config), dtype=shared.dtype)
    drop_pooler(body)
    fill(body, _body_weights(shared), dict(shared.named_buffers()))
    tasks = [build_task(spec) for spec in specs.values()]
    heads = {task.name: _head(task, models[task.name], body.config, body.device) for task in tasks}
    for name, model in models.items():
        if not _equal(_body_weights(_base(model)), _body_weights(shared)):
            logger.warning("task %s: its own encoder differs from the shared one, so its answers will change", name)
    return Body(body, Lanes(dict.fromkeys(specs, ""))), heads, tasks


def stock_spec(name: str, model: Any) -> TaskSpec:
    """The task of a stock model, from its class and its config.

    Raises:
        ValueError: if it is no stock model of a task type.
    """
    for task_class in TASK_TYPES.values():
        if isinstance(model, PreTrainedModel) and type(model) in _classes(task_class.auto_class, model.config):
            spec = task_class.stock_spec(name, model.config)
            known = {field.name for field in fields(spec)} - {"name", "task_type", "problem_type", "label_list"}
            kept = getattr(model.config, STOCK_KEY, None) or {}
            return replace(spec, **{key: value for key, value in kept.items() if key in known})
    wanted = ", ".join(task_class.auto_class.__name__ for task_class in TASK_TYPES.values())
    raise ValueError(f"{name}: {type(model).__name__} is not a stock task model; load one with {wanted}")


def _classes(auto_class: Any, config: PreTrainedConfig) -> tuple[type, ...]:
    found = auto_class._model_mapping.get(type(config), ())
    return tuple(found) if isinstance(found, (list, tuple)) else (found,)


def _base(model: PreTrainedModel) -> PreTrainedModel:
    return getattr(model, model.base_model_prefix)


def _head(
    task: Task, model: PreTrainedModel, encoder_config: PreTrainedConfig, device: torch.device
) -> PreTrainedModel:
    with torch.device("meta"):
        head = head_class(type(model))(head_config(task, encoder_config)).to(model.dtype)
    body = {f"{model.base_model_prefix}.{name}" for name in _body_weights(_base(model))}
    weights = {name: value for name, value in model.state_dict().items() if name not in body}
    return fill(head, weights, {}).to(device)


def _check_fit(name: str, model: PreTrainedModel, encoder: PreTrainedModel) -> None:
    """Refuse a task model whose head would not be the same on the shared encoder."""
    ours, theirs = encoder.config, model.config
    if theirs.model_type != ours.model_type:
        raise ValueError(f"{name}: a {theirs.model_type} model cannot share an encoder of type {ours.model_type}")
    general = {field.name for field in fields(PreTrainedConfig)} | FREE
    keys = [field.name for field in fields(theirs) if field.name not in general and "drop" not in field.name]
    differing = [key for key in keys if getattr(theirs, key) != getattr(ours, key, None)]
    if differing:
        found = ", ".join(
            f"{key} {getattr(theirs, key)!r} (encoder: {getattr(ours, key, None)!r})" for key in differing
        )
        raise ValueError(f"{name}: its config does not fit the shared encoder's: {found}")
    if model.dtype != encoder.dtype:
        raise ValueError(
            f"{name}: its weights are {model.dtype}, the encoder's {encoder.dtype}; load both with one dtype"
        )


def _body_weights(base: PreTrainedModel) -> dict[str, Tensor]:
    return {name: value for name, value in base.state_dict().items() if name.split(".")[0] != "pooler"}


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name].to(one[name].device)) for name in one)


def fill(model: Model, weights: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> Model:
    """Give a model on the meta device copies of weights, all of them and no others; then evaluation mode.

    Args:
        model: the model.
        weights: all that its checkpoint would hold.
        buffers: those that no checkpoint holds.

    Raises:
        RuntimeError: if weights are missing, left over or of another shape.
    """
    model.load_state_dict({name: value.detach().clone() for name, value in weights.items()}, strict=True, assign=True)
    # Buffers that no checkpoint holds: positions, rotary frequencies.
    for name in [name for name, buffer in model.named_buffers() if buffer.is_meta]:
        module, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(module), attribute, buffers[name].clone())
    return model.eval()
