"""Tiny models whose groups of tasks have top layers of their own, and the stock models that they are worth."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from hf_mtl.modeling.loading import drop_pooler
from hf_mtl.modeling.model import MultiTaskModel
from tests.adapted import SIZES, Tiny, chosen, draw, gradient
from tests.tiny import save_tiny_encoder, tiny_tasks

LISTS = [["topic", "moods"], ["score"], ["slots"]]
"""Three groups, of which one has no row in `tests.adapted.MIXED`."""
TASKS = ["topic", "moods", "score", "slots"]
MADE: dict[str, MultiTaskModel] = {}
"""Models by all that they were made of, to be copied: a copy takes a tenth of the time."""


def encoder_folder(tiny: Tiny, architecture: str = "bert", layers: int = 3, **changes: Any) -> Path:
    """A tiny encoder with more layers than most."""
    folder = tiny.folder / f"{architecture} {layers} {changes}"
    if not folder.exists():
        changes["n_layers" if architecture == "distilbert" else "num_hidden_layers"] = layers
        save_tiny_encoder(folder, architecture, **SIZES.get(architecture, {}) | changes)
    return folder


def grouped(
    tiny: Tiny,
    architecture: str = "bert",
    groups: str | Sequence[Sequence[str]] = LISTS,
    private_layers: int = 1,
    lora: Mapping[str, Any] | None = None,
    encoder_config: Mapping[str, Any] | None = None,
    layers: int = 3,
) -> MultiTaskModel:
    """A model of one's own whose private layers, adapters and heads are drawn, in evaluation mode."""
    folder = str(encoder_folder(tiny, architecture, layers))
    made = f"{folder} {groups} {private_layers} {lora} {encoder_config}"
    if made not in MADE:
        MADE[made] = _grouped(folder, {"private_layers": private_layers, "groups": groups}, lora, encoder_config)
    return copy.deepcopy(MADE[made])


def _grouped(
    folder: str, sharing: Mapping[str, Any], lora: Mapping[str, Any] | None, encoder_config: Mapping[str, Any] | None
) -> MultiTaskModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MultiTaskModel.from_encoder(folder, tiny_tasks(), encoder_config, lora=lora, sharing=sharing)
    draw(model)
    stir(model)
    return model


def stir(model: nn.Module, seed: int = 0, scale: float = 0.1) -> None:
    """Makes copies of layers different from what they are copies of."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith("private.") and ".lora_" not in name:
                weight.add_(scale * torch.randn(weight.shape, generator=generator).to(weight))


def stock_encoder(model: MultiTaskModel, group: str) -> PreTrainedModel:
    """The stock encoder that a group has, put together by the names of the weights alone."""
    weights = model.state_dict()
    with torch.random.fork_rng(devices=[]):
        stock = AutoModel.from_config(model.encoder.config).to(model.dtype)
    drop_pooler(stock)
    names = stock.state_dict()
    own = f"private.{group}."
    stock.load_state_dict({name: weights.get(f"{own}{name}", weights[f"encoder.{name}"]) for name in names})
    stock.train(model.training)
    return stock


def stock_gradient(model: MultiTaskModel, batch: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of separate stock encoders whose trunk is tied, in the direction that `gradient` draws."""
    total = {name: torch.zeros_like(weight) for name, weight in body_weights(model).items()}
    for group in model.groups:
        stock = stock_encoder(model, group.name)
        states = {task: stock(**chosen(batch, rows[task])).last_hidden_state for task in group.tasks if len(rows[task])}
        if states:
            for name, found in gradient(stock, states).items():
                own = f"private.{group.name}.{name}"
                total[own if own in total else f"encoder.{name}"] += found
    return total


def body_weights(model: MultiTaskModel) -> dict[str, Tensor]:
    """All weights but the heads'."""
    return {name: weight for name, weight in model.named_parameters() if not name.startswith("heads.")}


def body_gradient(model: MultiTaskModel, batch: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of the weights below the heads, of a mixed batch."""
    found = gradient(model, model.encode(**batch, rows=rows), some=True)
    return {name: value for name, value in found.items() if not name.startswith("heads.")}


def stock_logits(
    model: MultiTaskModel, batch: Mapping[str, Tensor], rows: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """What each task's own stock model answers to its rows."""
    found = {}
    for task in model.tasks:
        stock = model.task_model(task)
        if rows is None or len(rows[task]):
            found[task] = stock(**(batch if rows is None else chosen(batch, rows[task]))).logits
    return found


def assert_logits(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], tolerance: float) -> None:
    for task, value in found.items():
        if task in wanted:
            # One head gives the score without its last dimension.
            torch.testing.assert_close(value, wanted[task].reshape(value.shape), rtol=0, atol=tolerance)
        else:
            assert len(value) == 0


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
