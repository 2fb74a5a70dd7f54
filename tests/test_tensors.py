"""Model, optimizer and random generators go on to the bit from what was written of them."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hf_mtl.config_keys import TrainingConfig
from hf_mtl.training.optimization import make_optimizer, make_schedule
from hf_mtl.training.tensors import (
    Generators,
    changing_tensors,
    load_model,
    load_optimizer,
    model_tensors,
    optimizer_tensors,
)

NEVER, LATE = "never", "late"
"""Heads: one never has a gradient, the other not until the run is resumed."""
OPTIMIZERS = ("adamw_torch_fused", "adamw_torch", "sgd", "sgd with momentum")


class Heads(nn.Module):
    """A stem and three heads; the stem has a normalisation with buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.3))
        self.heads = nn.ModuleDict({name: nn.Linear(5, 2) for name in (NEVER, LATE, "early")})

    def forward(self, inputs: Tensor, names: list[str]) -> Tensor:
        states = self.stem(inputs)
        return torch.stack([self.heads[name](states) for name in names]).square().sum()


def make(optim: str, seed: int) -> tuple[Heads, Optimizer, LRScheduler]:
    torch.manual_seed(seed)
    model = Heads()
    name = optim.split()[0]
    training = TrainingConfig(output_dir="out", optim=name, learning_rate=0.05, weight_decay=0.1, warmup_steps=2)
    optimizer = make_optimizer(model, training)
    if "momentum" in optim:
        optimizer = torch.optim.SGD(optimizer.param_groups, lr=0.05, momentum=0.9)
    return model, optimizer, make_schedule(optimizer, training, 10)


def train(model: Heads, optimizer: Optimizer, schedule: LRScheduler, steps: range) -> None:
    for step in steps:
        inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        model(inputs, ["early", LATE] if step > 4 else ["early"]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()


def written(folder: Path, name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    save_file(tensors, folder / name)
    return load_file(folder / name)


@pytest.mark.parametrize("optim", OPTIMIZERS)
def test_model_and_optimizer_go_on_to_the_bit(tmp_path, optim):
    model, optimizer, schedule = make(optim, 0)
    train(model, optimizer, schedule, range(3))
    generators, rate = Generators.now(), json.dumps(schedule.state_dict())
    weights = written(tmp_path, "model", model_tensors(model))
    tensors, groups = optimizer_tensors(optimizer, model)
    tensors, groups = written(tmp_path, "optimizer", tensors), json.loads(json.dumps(groups))
    assert not [name for name in tensors if NEVER in name or LATE in name]
    train(model, optimizer, schedule, range(3, 8))

    again, other, its_schedule = make(optim, 1)
    train(again, other, its_schedule, range(5, 6))  # leaves other states, to be replaced
    load_model(again, weights)
    load_optimizer(other, again, tensors, groups)
    its_schedule.load_state_dict(json.loads(rate))
    generators.restore()
    train(again, other, its_schedule, range(3, 8))
    wanted = model_tensors(model)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model_tensors(again).items())
    ends = optimizer_tensors(optimizer, model), optimizer_tensors(other, again)
    assert ends[0][0].keys() == ends[1][0].keys()
    assert all(torch.equal(tensor, ends[1][0][name]) for name, tensor in ends[0][0].items())
    assert json.loads(json.dumps(ends[0][1])) == json.loads(json.dumps(ends[1][1]))


def test_an_optimizer_s_tensors_are_called_by_parameter_and_entry():
    model, optimizer, schedule = make("adamw_torch_fused", 0)
    assert optimizer_tensors(optimizer, model)[0] == {}
    train(model, optimizer, schedule, range(1))
    moved = [name for name, _ in model.named_parameters() if LATE not in name and NEVER not in name]
    tensors, groups = optimizer_tensors(optimizer, model)
    assert set(tensors) == {f"{name}.{entry}" for name in moved for entry in ("step", "exp_avg", "exp_avg_sq")}
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert not [group for group in groups if "params" in group]


def test_every_tensor_can_be_written_whatever_its_strides(tmp_path):
    model, _, _ = make("sgd", 0)
    model.stem[0].weight = nn.Parameter(torch.randn(3, 5).t())
    assert not model.stem[0].weight.is_contiguous()
    weights = model_tensors(model)
    assert weights.keys() == model.state_dict().keys()
    back = written(tmp_path, "model", weights)
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())


def test_weights_of_another_model_are_refused():
    model, _, _ = make("sgd", 0)
    weights = model_tensors(model)
    del weights["stem.0.bias"]
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(
        RuntimeError, match=r"these weights are not the model's: missing \['stem.0.bias'\], besides \[\]"
    ):
        load_model(model, weights)
    more = model_tensors(model) | {"more": torch.zeros(1)}
    with pytest.raises(RuntimeError, match=r"missing \[\], besides \['more'\]"):
        load_model(model, more)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("frozen", [["stem.0.weight", "heads.early.bias"], []])
def test_what_is_not_trained_is_neither_written_nor_missed(tmp_path, frozen):
    model, optimizer, schedule = make("adamw_torch_fused", 0)
    weights = dict(model.named_parameters())
    for name in frozen:
        weights[name].requires_grad_(False)
    train(model, optimizer, schedule, range(3))
    tensors = written(tmp_path, "model", changing_tensors(model))
    assert model.state_dict().keys() - tensors.keys() == set(frozen)
    assert {name for name in tensors if "running" in name}
    wanted = model_tensors(model)
    again, *_ = make("adamw_torch_fused", 1)
    with torch.no_grad():
        for name in frozen:
            dict(again.named_parameters())[name].copy_(wanted[name]).requires_grad_(False)
    load_model(again, tensors)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model_tensors(again).items())
    if frozen:
        # Where it is trained now, it would keep what it began with.
        dict(again.named_parameters())[frozen[0]].requires_grad_(True)
        with pytest.raises(RuntimeError, match=rf"missing \['{frozen[0]}'\]"):
            load_model(again, tensors)


def draw_all() -> list:
    """One draw of each kind from each generator; the second normal number of a pair is kept for the next call."""
    return [
        torch.rand(3).tolist(),
        torch.randn(1).tolist(),
        np.random.random(3).tolist(),
        np.random.standard_normal(),
        random.random(),
        random.gauss(0, 1),
        random.getrandbits(64),
    ]


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_random_generators_go_on_where_they_were(tmp_path, calls):
    torch.manual_seed(3)
    np.random.seed(4)
    random.seed(5)
    for _ in range(calls):
        draw_all()
    tensors = written(tmp_path, "random", Generators.now().tensors())
    wanted = [draw_all() for _ in range(3)]
    torch.manual_seed(6)
    np.random.seed(7)
    random.seed(8)
    assert [draw_all() for _ in range(3)] != wanted
    Generators.of_tensors(tensors).restore()
    assert [draw_all() for _ in range(3)] == wanted


def test_taking_the_states_draws_nothing_and_keeps_them():
    before = Generators.now()
    wanted = [draw_all() for _ in range(2)]
    before.restore()
    Generators.now().tensors()
    assert [draw_all() for _ in range(2)] == wanted
    before.restore()
    assert [draw_all() for _ in range(2)] == wanted


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_device_s_generator_goes_on_where_it_was(tmp_path):
    torch.cuda.manual_seed(3)
    tensors = written(tmp_path, "random", Generators.now().tensors())
    wanted = torch.rand(5, device="cuda")
    Generators.of_tensors(tensors).restore()
    assert torch.equal(torch.rand(5, device="cuda"), wanted)
