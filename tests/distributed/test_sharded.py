"""A model spread over processes (FSDP2) is written whole, and trains on as one that is not.

`work` is what each of the processes does.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.optim import Optimizer

from hf_mtl.batching.collator import Batch, Collator
from hf_mtl.config import load_config
from hf_mtl.data.preparation import prepare
from hf_mtl.data.tokenizer import load_tokenizer
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.training.checkpoint import Checkpoint, Checkpoints
from hf_mtl.training.course import Course
from hf_mtl.training.early_stopping import EarlyStopping
from hf_mtl.training.optimization import make_optimizer
from hf_mtl.training.step import train_step
from hf_mtl.training.tensors import load_model, load_optimizer, model_tensors, optimizer_tensors
from tests.distributed.launch import work_together
from tests.runs import tiny_run

PROCESSES, SAVED, STEPS = 2, 3, 6
OPTIMIZERS = ("adamw_torch_fused", "adamw_torch")
WAYS = ("plain", "spread")
NEVER = "names"
"""A task without a row in the steps that are taken, so that its head never has a gradient."""


class Run:
    """One process's model and optimizer, plain (DDP) or spread (FSDP2)."""

    def __init__(self, folder: Path, accelerator: Accelerator, optim: str, way: str) -> None:
        self.accelerator = accelerator
        self.model: MultiTaskModel = MultiTaskModel.from_pretrained(folder / "model").train()
        prepared: nn.Module = self.model
        if way == "plain":
            prepared = accelerator.prepare(self.model)
        else:
            mesh = init_device_mesh("cpu", (accelerator.num_processes,))
            for part in (*self.model.encoder.encoder.layer, *self.model.heads.values(), self.model):
                fully_shard(part, mesh=mesh)
        self.prepared = prepared
        training = load_config(json.loads((folder / "run.json").read_text(encoding="utf-8"))).training
        self.optimizer: Optimizer = make_optimizer(self.model, training.model_copy(update={"optim": optim}))
        self.norms: list[float] = []

    def train(self, steps: Sequence[list[Batch]]) -> None:
        weights = dict.fromkeys(self.model.tasks, 1.0)
        for batches in steps:
            result = train_step(self.prepared, batches, self.optimizer, self.accelerator, weights, 0.0)
            self.norms.append(result.grad_norm)

    def save(self, folder: Path) -> Checkpoint:
        """As the run's keeper writes it: all processes gather, the first one writes."""
        tensors, groups = optimizer_tensors(self.optimizer, self.model)
        parts = {"model": model_tensors(self.model), "optimizer": tensors}
        if self.accelerator.is_main_process:
            Checkpoints(folder).save(SAVED, parts, {"groups": groups})
        self.accelerator.wait_for_everyone()
        found = Checkpoints(folder).newest()
        assert found is not None
        return found

    def restore(self, checkpoint: Checkpoint) -> None:
        load_model(self.model, checkpoint.tensors("model"))
        load_optimizer(self.optimizer, self.model, checkpoint.tensors("optimizer"), checkpoint.state["groups"])

    def tensors(self) -> dict[str, Tensor]:
        optimizer, _ = optimizer_tensors(self.optimizer, self.model)
        return {f"model.{name}": tensor.clone() for name, tensor in model_tensors(self.model).items()} | {
            f"optimizer.{name}": tensor.clone() for name, tensor in optimizer.items()
        }


def read(folder: Path, accelerator: Accelerator) -> list[list[Batch]]:
    """This process's micro-batches of the first steps."""
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    config = load_config(run)
    tokenizer = load_tokenizer(run["encoder"], config.max_length)
    prepared = prepare(config, tokenizer)
    collator = Collator.for_tasks(tokenizer, prepared.tasks, accelerator.device)
    course = Course(config, prepared.split("train"), collator, accelerator)
    stopping = EarlyStopping(config.training, course.tasks)
    stopping.paused[NEVER] = 0.0
    return [batches for _, (_, batches) in zip(range(STEPS), course.steps(course.start(), stopping), strict=False)]


def work(folder: Path, processes: int) -> None:
    """One process: every optimizer, spread or not, straight and gone on with from a checkpoint of either way."""
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == processes
    steps, found, norms, shards = read(folder, accelerator), {}, {}, {}
    for optim in OPTIMIZERS:
        saved = {}
        for way in WAYS:
            run = Run(folder, accelerator, optim, way)
            run.train(steps[:SAVED])
            saved[way] = run.save(folder / f"{optim} {way}")
            run.train(steps[SAVED:])
            found[f"{optim} {way}"], norms[f"{optim} {way}"] = run.tensors(), run.norms
        for way, before in ((way, before) for way in WAYS for before in WAYS):
            run = Run(folder, accelerator, optim, way)
            run.train(steps[:1])  # leaves states that are to be replaced
            run.restore(saved[before])
            shards[f"{optim} {way}"] = sum(
                getattr(entry, "_local_tensor", entry).numel()
                for entries in run.optimizer.state.values()
                for entry in entries.values()
            )
            run.train(steps[SAVED:])
            found[f"{optim} {way} after {before}"] = run.tensors()
    flat = {f"{case}/{name}": tensor for case, tensors in found.items() for name, tensor in tensors.items()}
    save_file(flat, folder / f"{accelerator.process_index}.safetensors")
    report = {"norms": norms, "shards": shards, "tasks": [len(batch["rows"][NEVER]) for [batch] in steps]}
    (folder / f"{accelerator.process_index}.json").write_text(json.dumps(report), encoding="utf-8")
    accelerator.end_training()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[str, dict[str, Tensor]], Any]]:
    """Of each process: case → tensor by name, and what else it tells."""
    folder = tmp_path_factory.mktemp("sharded")
    run = tiny_run(folder, per_device_train_batch_size=4, optim="sgd", learning_rate=0.05, weight_decay=0.1)
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        patch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
        config = load_config(run)
        tasks = list(prepare(config, load_tokenizer(run["encoder"], config.max_length)).tasks.values())
        torch.manual_seed(0)
        MultiTaskModel.from_encoder(run["encoder"], tasks).save_pretrained(folder / "model")
        work_together("tests.distributed.test_sharded", folder, PROCESSES)
    told = []
    for rank in range(PROCESSES):
        cases: dict[str, dict[str, Tensor]] = {}
        for name, tensor in load_file(folder / f"{rank}.safetensors").items():
            case, _, name = name.partition("/")
            cases.setdefault(case, {})[name] = tensor
        told.append((cases, json.loads((folder / f"{rank}.json").read_text(encoding="utf-8"))))
    return told


def distance(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    """The norm of the difference of all numbers, in parts of their norm."""
    assert one.keys() == two.keys()
    vectors = [torch.cat([tensor.flatten() for tensor in tensors.values()]) for tensors in (one, two)]
    return float(torch.norm(vectors[0] - vectors[1]) / torch.norm(vectors[1]))


def rounding(optim: str) -> float:
    """The fused optimizer rounds by the place in memory, which is another one in a piece of a tensor.

    Most of the distance that comes of it is that of `key.bias`, whose true gradient is 0.
    """
    return 1e-3 if optim == "adamw_torch_fused" else 0.0


@pytest.mark.parametrize("optim", OPTIMIZERS)
def test_a_model_spread_over_the_processes_takes_the_same_steps_as_a_plain_one(found, optim):
    for cases, report in found:
        assert distance(cases[f"{optim} spread"], cases[f"{optim} plain"]) <= rounding(optim)
        norms = report["norms"]
        assert norms[f"{optim} spread"] == pytest.approx(norms[f"{optim} plain"], rel=1e-5)
        assert min(norms[f"{optim} plain"]) > 0.01


@pytest.mark.parametrize("optim", OPTIMIZERS)
@pytest.mark.parametrize("way", WAYS)
def test_it_goes_on_to_the_bit_from_its_checkpoint(found, optim, way):
    for cases, _ in found:
        assert distance(cases[f"{optim} {way} after {way}"], cases[f"{optim} {way}"]) == 0


@pytest.mark.parametrize("optim", OPTIMIZERS)
@pytest.mark.parametrize("way", WAYS)
def test_it_goes_on_from_a_checkpoint_of_the_other_way(found, optim, way):
    other = WAYS[1 - WAYS.index(way)]
    for cases, _ in found:
        assert distance(cases[f"{optim} {way} after {other}"], cases[f"{optim} {way}"]) <= rounding(optim)


def test_all_processes_are_given_the_whole_tensors(found):
    (first, _), (second, _) = found
    assert first.keys() == second.keys()
    assert [case for case in first if distance(first[case], second[case])] == []


def test_the_optimizer_s_states_are_spread_when_they_are_put_back(found):
    plain, spread = ([report["shards"][f"adamw_torch_fused {way}"] for _, report in found] for way in WAYS)
    assert 0.4 * min(plain) < min(spread) <= max(spread) < 0.6 * min(plain)


def test_a_parameter_that_never_had_a_gradient_has_no_state_and_stays_as_it_was(found):
    for cases, report in found:
        assert sum(report["tasks"]) == 0
        for way in WAYS:
            names = [name for name in cases[f"adamw_torch {way} after spread"] if name.startswith("optimizer.")]
            assert names
            assert not [name for name in names if f"heads.{NEVER}" in name]
