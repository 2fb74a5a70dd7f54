"""The pass before the first step: it leaves nothing behind, and finds the micro-batch that fits into memory."""

import copy
import gc
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hf_mtl.batching.collator import Batch, Collator
from hf_mtl.config import load_config
from hf_mtl.data.preparation import Prepared, prepare
from hf_mtl.data.tokenizer import load_tokenizer
from hf_mtl.errors import UserError
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.training.course import Course
from hf_mtl.training.early_stopping import EarlyStopping
from hf_mtl.training.optimization import make_optimizer
from hf_mtl.training.rehearsal import fitting_size, rehearse
from hf_mtl.training.step import StepResult, train_step
from tests.runs import tiny_run

DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}


class Parts:
    """A tiny run's parts, as the trainer puts them together."""

    def __init__(self, folder: Path) -> None:
        run = tiny_run(folder, per_device_train_batch_size=8, num_train_epochs=1, optim="sgd", learning_rate=0.5)
        self.config = load_config(run)
        tokenizer = load_tokenizer(run["encoder"], self.config.max_length)
        self.prepared: Prepared = prepare(self.config, tokenizer)
        torch.manual_seed(0)
        tasks = list(self.prepared.tasks.values())
        self.fresh = {
            dropout: MultiTaskModel.from_encoder(run["encoder"], tasks, DROPOUT if dropout else None)
            for dropout in (False, True)
        }
        self.accelerator = Accelerator(cpu=True)
        self.collator = Collator.for_tasks(tokenizer, self.prepared.tasks, self.accelerator.device)

    def model(self, dropout: bool = False) -> MultiTaskModel:
        return copy.deepcopy(self.fresh[dropout]).train()

    def course(self) -> Course:
        return Course(self.config, self.prepared.split("train"), self.collator, self.accelerator)

    def train(self, model: MultiTaskModel, course: Course, steps: int) -> list[StepResult]:
        optimizer = make_optimizer(model, self.config.training)
        stopping = EarlyStopping(self.config.training, course.tasks)
        return [
            train_step(model, batches, optimizer, self.accelerator, dict.fromkeys(course.tasks, 1.0), 0.0)
            for _, (_, batches) in zip(range(steps), course.steps(course.start(), stopping), strict=False)
        ]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        yield Parts(folder)


def vector(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def first_weight(model: MultiTaskModel) -> nn.Parameter:
    return model.encoder.get_input_embeddings().weight


def generators() -> tuple[Any, ...]:
    _, keys, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), keys.tolist(), *rest


def small_device(model: MultiTaskModel, rows: int) -> list[int]:
    """As on a device with memory for so many rows; gives the rows of each pass."""
    passes: list[int] = []

    def hook(module: nn.Module, arguments: Any, inputs: dict[str, Any], output: Any) -> None:
        passes.append(len(inputs["input_ids"]))
        if passes[-1] > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    model.register_forward_hook(hook, with_kwargs=True)
    return passes


@pytest.mark.parametrize("rows", [0, 5])
def test_a_rehearsal_leaves_gradients_weights_and_generators_as_they_were(parts, rows):
    model, before = parts.model(dropout=True), generators()
    weights, ran = vector(model).clone(), []
    first_weight(model).register_hook(lambda _: ran.append(None))
    rehearse(model, parts.collator(parts.course().sources[0].take(range(rows))), parts.accelerator)
    assert ran
    assert generators() == before
    assert [name for name, parameter in model.named_parameters() if parameter.grad is not None] == []
    assert torch.equal(vector(model), weights)
    assert model.training


def test_a_run_with_a_rehearsal_takes_the_same_steps(parts):
    weights = []
    for rehearsed in (False, True):
        model, course = parts.model(dropout=True), parts.course()
        torch.manual_seed(3)
        if rehearsed:
            rehearse(model, course.largest_micro_batch(course.start(), 8), parts.accelerator)
        parts.train(model, course, 3)
        weights.append(vector(model))
    assert torch.equal(*weights)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, ValueError])
def test_a_rehearsal_that_fails_leaves_nothing_behind_either(parts, error):
    model, before = parts.model(dropout=True), generators()

    def fail(*_: Any) -> None:
        raise error("in the middle of the backward")

    # The backward has been through the heads by then.
    first_weight(model).register_hook(fail)
    with pytest.raises(error, match="in the middle"):
        rehearse(model, parts.collator(parts.course().sources[0].take(range(5))), parts.accelerator)
    assert generators() == before
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is not None]


def find(parts: Parts, model: MultiTaskModel, size: int, say: Callable[[str], None]) -> int:
    course = parts.course()

    def largest(rows: int) -> Batch:
        return course.largest_micro_batch(course.start(), rows)

    return fitting_size(model, largest, size, parts.accelerator, say)


@pytest.mark.parametrize(
    ("size", "fits", "tried"),
    [(8, 100, [8]), (8, 8, [8]), (8, 7, [8, 4]), (8, 2, [8, 4, 2]), (8, 1, [8, 4, 2, 1]), (7, 2, [7, 3, 1])],
)
def test_the_micro_batch_is_halved_until_it_fits(parts, size, fits, tried):
    model, before, said = parts.model(dropout=True), generators(), []
    passes = small_device(model, fits)
    assert find(parts, model, size, said.append) == tried[-1]
    assert passes == tried
    assert [line.split(";")[0] for line in said] == [
        f"out of memory: {now} sequences a process at a time in place of {last}"
        for last, now in zip(tried, tried[1:], strict=False)
    ]
    assert generators() == before
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is not None]


def test_a_run_on_a_small_device_takes_the_same_steps_with_more_micro_batches(parts):
    results, weights, passes = [], [], []
    for fits in (100, 3):
        model, course = parts.model(), parts.course()
        passes.append(small_device(model, fits))
        course.per_device = find(parts, model, course.per_device, lambda _: None)
        passes[-1].clear()
        results.append(parts.train(model, course, 4))
        weights.append(vector(model))
    assert [sum(rows) for rows in passes] == [32, 32]
    assert [len(rows) for rows in passes] == [4, 16]
    for large, small in zip(*results, strict=True):
        assert large.counts == small.counts
        assert small.loss_sums == pytest.approx(large.loss_sums, rel=1e-4)
        assert small.grad_norm == pytest.approx(large.grad_norm, rel=1e-3)
    moved = weights[0] - vector(parts.model())
    assert torch.norm(weights[0] - weights[1]) < 1e-4 * torch.norm(moved)


def test_where_not_one_sequence_fits_the_error_says_what_to_do(parts):
    model, said = parts.model(), []
    passes = small_device(model, 0)
    with pytest.raises(UserError, match=r"one sequence .* does not fit on this device; lower max_length"):
        find(parts, model, 4, said.append)
    assert passes == [4, 2, 1]
    assert len(said) == 2


@pytest.mark.parametrize("frozen", [False, True])
def test_the_optimizer_s_moments_have_their_room(parts, frozen):
    """They are not there yet, and each of the two is as large as the weights that are trained."""
    model, found = parts.model(), []
    shape = first_weight(model).requires_grad_(not frozen).shape
    model.encoder.register_forward_pre_hook(
        lambda *_: found.append(sum(type(one) is Tensor and one.shape == shape for one in gc.get_objects()))
    )
    rehearse(model, parts.collator([]), parts.accelerator)
    find(parts, model, 1, lambda _: None)
    rehearse(model, parts.collator([]), parts.accelerator)
    assert [number - found[0] for number in found] == [0, 0 if frozen else 2, 0]


def test_another_error_is_not_taken_for_a_want_of_memory(parts):
    model = parts.model()
    model.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("size mismatch")))
    with pytest.raises(RuntimeError, match="size mismatch"):
        find(parts, model, 8, lambda _: None)
