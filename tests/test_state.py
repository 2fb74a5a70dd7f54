"""A checkpoint holds the best weights, whatever was saved, measured or left out before."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from hf_mtl.config_keys import TrainingConfig
from hf_mtl.training.checkpoint import Checkpoints
from hf_mtl.training.early_stopping import EarlyStopping
from hf_mtl.training.history import History, StepLog
from hf_mtl.training.optimization import make_optimizer, make_schedule
from hf_mtl.training.position import Position
from hf_mtl.training.state import Best, Keeper, RunState
from hf_mtl.training.tensors import model_tensors
from tests.tiny import tiny_model


def make_keeper(folder: Path) -> tuple[Keeper, RunState, History]:
    training = TrainingConfig(output_dir=str(folder))
    model, accelerator = tiny_model(folder / "encoder"), Accelerator(cpu=True)
    optimizer = make_optimizer(model, training)
    schedule = make_schedule(optimizer, training, 10)
    keeper = Keeper(Checkpoints(folder / "checkpoints"), accelerator, model, optimizer, schedule, 8, {"config": {}})
    tasks = tuple(model.tasks)
    state = RunState(
        Position(0, 0, 0, 10, {}, tasks), StepLog(dict.fromkeys(tasks, 1.0)), EarlyStopping(training, tasks)
    )
    return keeper, state, History(None)


def step(keeper: Keeper, state: RunState) -> dict[str, torch.Tensor]:
    """A step that sets every weight; gives them."""
    state.position = state.position.after_step()
    with torch.no_grad():
        for parameter in keeper.model.parameters():
            parameter.fill_(state.position.step)
    return {name: tensor.clone() for name, tensor in model_tensors(keeper.model).items()}


@pytest.mark.parametrize("earlier_best", [False, True])
@pytest.mark.parametrize("resumed", [False, True])
def test_a_step_saved_before_it_was_measured_may_turn_out_to_be_the_best(tmp_path, earlier_best, resumed):
    keeper, state, history = make_keeper(tmp_path)
    weights = step(keeper, state)
    if earlier_best:
        state.best = Best(0.3, 1, {}, weights)
        keeper.save(state, history)
    weights = step(keeper, state)
    keeper.save(state, history)  # asked to stop after this step
    if resumed:
        checkpoint = keeper.checkpoints.newest()
        keeper, state, history = make_keeper(tmp_path)
        keeper.restore(checkpoint, state)
    state.best = Best(0.5, 2, {}, weights)
    keeper.save(state, history)
    for number in (3, 4):
        step(keeper, state)
        keeper.save(state, history)
        found = keeper.checkpoints.newest()
        assert (found.step, found.state["best"]) == (number, {"score": 0.5, "step": 2, "metrics": {}})
        assert found.tensors("best").keys() == weights.keys()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in found.tensors("best").items())
    again, other, _ = make_keeper(tmp_path / "again")
    again.restore(found, other)
    assert replace(other.best, weights={}) == replace(state.best, weights={})
    assert other.position == state.position
