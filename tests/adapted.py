"""Tiny models with adapters that change the answers: new adapters change nothing, so theirs are drawn."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hf_mtl.config_lora import LoraSection
from hf_mtl.inference.pipeline import MultiTaskPipeline
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.tasks.task import Task
from tests.tiny import save_tiny_encoder, tiny_batch, tiny_tasks, tiny_tokenizer

TEXTS = ["Play the newest song by Taylor Swift", "今天天气怎么样？", "Hi", "I am happy, she is angry", "Rate this book"]


def rows_of(**rows: Sequence[int]) -> dict[str, Tensor]:
    return {task: torch.tensor(found, dtype=torch.int64) for task, found in rows.items()}


MIXED = rows_of(topic=[0, 3, 4], moods=[3], score=[], slots=[4, 3, 1])
"""Rows of the five texts that feed three tasks (3), two (4), one (0, 1) and none (2); and a task without a row."""
OTHERS = rows_of(topic=[], moods=[1, 0], score=[2, 4, 0, 1], slots=[2])
SIZES: dict[str, dict[str, Any]] = {"deberta-v2": {"share_att_key": True}}
NOTHING = rows_of(topic=[], moods=[], score=[], slots=[])


def settings(**lora: Any) -> dict[str, Any]:
    """A run file's `lora` with every default."""
    return LoraSection(**lora).model_dump()


def draw(model: nn.Module, seed: int = 0, scale: float = 0.2) -> None:
    """Draws what a new adapter has as zeros or ones, and heads whose logits tell states apart."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            drawn = torch.randn(weight.shape, generator=generator).to(weight)
            if ".lora_B." in name:
                weight.copy_(scale * drawn)
            elif ".lora_magnitude_vector." in name:
                weight.mul_(1 + scale * drawn)
            elif name.startswith("heads.") and weight.dim() == 2:
                weight.copy_(0.3 * drawn)


def tiny_adapted(
    folder: str | Path, architecture: str = "bert", tasks: Sequence[Task] | None = None, seed: int = 0, **lora: Any
) -> MultiTaskModel:
    """A model whose adapters are drawn, in evaluation mode, on a tiny encoder that lies in `folder` or is written."""
    if not Path(folder, "config.json").exists():
        save_tiny_encoder(folder, architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tasks = tiny_tasks() if tasks is None else tasks
        model = MultiTaskModel.from_encoder(str(folder), tasks, lora=settings(**lora))
    draw(model, seed)
    return model


class Tiny:
    """Tiny encoders in a folder, and models on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._models: dict[str, MultiTaskModel] = {}

    def encoder(self, architecture: str = "bert") -> Path:
        """The folder of an encoder; DeBERTa's projections read positions too, as in the published ones of version 3."""
        folder = self.folder / architecture
        if not folder.exists():
            save_tiny_encoder(folder, architecture, **SIZES.get(architecture, {}))
        return folder

    def model(self, architecture: str = "bert", **lora: Any) -> MultiTaskModel:
        """A model to look at: its other users see what is done to it."""
        key = f"{architecture} {lora}"
        if key not in self._models:
            self._models[key] = tiny_adapted(self.encoder(architecture), architecture, **lora)
        return self._models[key]

    def new(self, architecture: str = "bert", **lora: Any) -> MultiTaskModel:
        """A model of one's own."""
        return copy.deepcopy(self.model(architecture, **lora))


def five_texts(architecture: str = "bert") -> dict[str, Tensor]:
    return dict(tiny_batch(architecture, TEXTS))


def chosen(batch: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    return {key: value[rows] for key, value in batch.items()}


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def gradient(model: nn.Module, values: Mapping[str, Tensor], *, some: bool = False) -> dict[str, Tensor]:
    """The gradients of all trained weights, by name, in a direction that is drawn by the values' names and shapes.

    Args:
        model: whose weights.
        values: by task.
        some: whether there may be weights that the values do not depend on: their gradient is given as zeros.
    """
    total = sum((value * _direction(name, value)).sum() for name, value in values.items())
    weights = trained(model)
    found = torch.autograd.grad(total, list(weights.values()), allow_unused=some, materialize_grads=some)
    return dict(zip(weights, found, strict=True))


def _direction(name: str, value: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(sum(map(ord, name)) + value.shape[0])
    return torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)


def vector(tensors: Mapping[str, Tensor]) -> Tensor:
    """All as one vector: the true gradient of a key's bias is 0, so that parts of it differ by more than their size."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors.values()])


def assert_near(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], tolerance: float) -> None:
    """As one vector, relative to its length."""
    assert found.keys() == wanted.keys()
    one, other = vector(found), vector(wanted)
    assert other.norm() > 0
    assert (one - other).norm() <= tolerance * other.norm()


def alone(model: MultiTaskModel, batch: Mapping[str, Tensor], rows: Mapping[str, Tensor], task: str) -> Tensor:
    """A task's logits for its rows from a batch of these."""
    return model(**chosen(batch, rows[task]), tasks=[task]).logits[task]


def assert_as_alone(
    model: MultiTaskModel, batch: Mapping[str, Tensor], rows: Mapping[str, Tensor], tolerance: float
) -> dict[str, Tensor]:
    """A mixed batch has the logits and the gradients of the tasks one by one; gives its logits."""
    mixed = model(**batch, rows=rows).logits
    gradients, total = gradient(model, mixed), dict.fromkeys(trained(model), torch.zeros(()))
    for task, found in rows.items():
        assert len(mixed[task]) == len(found)
        if len(found):
            logits = alone(model, batch, rows, task)
            torch.testing.assert_close(mixed[task], logits, rtol=0, atol=tolerance)
            one = gradient(model, {task: logits}, some=True)
            total = {name: before + one[name] for name, before in total.items()}
    assert_near(gradients, total, tolerance)
    return mixed


def assert_threads_answer_alike(model: MultiTaskModel, asked: Sequence[list[str] | None]) -> None:
    """Several threads that ask one model for the tasks get the answers of one thread that asks them in turn."""
    pipe = MultiTaskPipeline(model, tiny_tokenizer())
    asked = [tasks for tasks in asked for _ in range(5)]
    texts = [TEXTS[number % 5 :] + TEXTS[: number % 3] for number in range(len(asked))]

    def answer(number: int) -> Any:
        options = {} if asked[number] is None else {"tasks": asked[number]}
        return pipe(texts[number], batch_size=2, **options)

    wanted = [answer(number) for number in range(len(asked))]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(answer, range(len(asked)))) == wanted


def change_config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes what a saved model's config.json says."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    change(config)
    path.write_text(json.dumps(config), encoding="utf-8")
