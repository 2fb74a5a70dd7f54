"""Options of training that change how a run computes, or when it ends."""

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hf_mtl.errors import UserError
from hf_mtl.training.trainer import MultiTaskTrainer
from tests.runs import tiny_run

QUIET = Console(quiet=True)
DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}


def weights(run):
    trainer = MultiTaskTrainer.from_config(run, overwrite=True, console=QUIET)
    trainer.train()
    return trainer, torch.cat([tensor.flatten() for tensor in trainer.model.state_dict().values()])


def test_gradient_checkpointing_trains_the_same_model(tmp_path):
    run = tiny_run(tmp_path, max_steps=5, eval_strategy="no") | {"encoder_config": DROPOUT}
    _, plain = weights(run)
    run["training"]["gradient_checkpointing"] = True
    trainer, saving = weights(run)
    assert trainer.model.is_activation_checkpointing
    assert torch.norm(plain - saving) < 1e-6 * torch.norm(plain)


def test_a_compiled_encoder_trains_the_same_model_under_the_same_names(tmp_path):
    run = tiny_run(tmp_path, max_steps=2, eval_strategy="no", optim="sgd")
    run["encoder_config"] = {"num_hidden_layers": 1}  # compiling one takes long enough
    plain_trainer, plain = weights(run)
    run["training"]["torch_compile"] = True
    trainer, compiled = weights(run)
    assert list(trainer.model.state_dict()) == list(plain_trainer.model.state_dict())
    assert torch.norm(plain - compiled) < 1e-5 * torch.norm(plain)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a device for half precision")
def test_half_precision_without_a_device_for_it_is_refused(tmp_path):
    with pytest.raises(UserError, match="training.fp16: half precision needs a GPU; set it to false, or use bf16"):
        MultiTaskTrainer.from_config(tiny_run(tmp_path, fp16=True), console=QUIET)


def test_a_run_ends_early_when_the_score_gains_no_more(tmp_path):
    run = tiny_run(tmp_path, num_train_epochs=20, early_stopping="overall", early_stopping_threshold=0.9)
    trainer, _ = weights(run)
    evaluations = [line["epoch"] for line in trainer.history if "score" in line]
    assert evaluations == [1.0, 2.0]
    assert trainer.history[-1]["step"] == 2 * trainer.course.steps_per_epoch


def test_a_paused_task_stays_as_it_is_and_is_still_measured(tmp_path):
    run = tiny_run(tmp_path, num_train_epochs=4, early_stopping="per_task", early_stopping_threshold=0.99)
    run["training"] |= {"load_best_model_at_end": False, "logging_steps": 1}
    run["datasets"]["unmeasured"] = run["datasets"]["d"] | {"data_files": {"train": str(tmp_path / "train.jsonl")}}
    run["tasks"]["names"]["dataset"] = "unmeasured"
    trainer = MultiTaskTrainer.from_config(run, console=QUIET)
    heads = []

    def remember(*_):
        if not trainer.model.training:
            heads.append({name: tensor.clone() for name, tensor in trainer.model.heads["topic"].state_dict().items()})

    trainer.model.register_forward_pre_hook(remember)
    trainer.train()
    measured = [line["step"] for line in trainer.history if "score" in line and "topic" in line["metrics"]]
    assert len(measured) == 4
    seen = {line["step"]: line["rows_seen"] for line in trainer.history if "rows_seen" in line}
    assert seen[measured[1]]["topic"] == seen[measured[3]]["topic"]
    assert seen[measured[1]]["names"] < seen[measured[3]]["names"]
    # From the next epoch on its data set is out of the plan, so the epochs are shorter.
    assert measured[3] - measured[2] < measured[1] - measured[0]
    assert all(heads[-1][name].equal(tensor) for name, tensor in trainer.model.heads["topic"].state_dict().items())
    passes = len(heads) // 5  # four times validation, once test
    assert all(heads[passes * 2][name].equal(tensor) for name, tensor in heads[-1].items())
    assert not all(heads[0][name].equal(tensor) for name, tensor in heads[-1].items())


def test_trackers_are_told_what_the_history_is_told(tmp_path):
    run = tiny_run(tmp_path, report_to=["tensorboard"], num_train_epochs=1, logging_steps=2)
    trainer, _ = weights(run)
    told = EventAccumulator(str(tmp_path / "out" / "runs" / "hf_mtl")).Reload()
    losses = {line["step"]: line["task_loss"]["topic"] for line in trainer.history if "loss" in line}
    found = {event.step: event.value for event in told.Scalars("train/topic/loss")}
    assert found == pytest.approx(losses)
    (score,) = told.Scalars("eval/score")
    assert score.value == pytest.approx(trainer.metrics["score"])
    assert "eval/names/f1" in told.Tags()["scalars"]
