"""The loss of a step is the design's formula, whatever the micro-batches and absent tasks."""

import copy
import re

import pytest
import torch
from accelerate import Accelerator

from hf_mtl.batching.collator import Collator
from hf_mtl.config import load_config
from hf_mtl.training.loss import StepCounts, count_step, drop_absent_gradients, micro_batch_loss
from hf_mtl.training.optimization import freeze, make_optimizer
from hf_mtl.training.step import train_step
from tests.adapted import tiny_adapted
from tests.tiny import tiny_model, tiny_tokenizer

TASKS = ("topic", "moods", "score", "slots")


def sequence(text: str, **labels) -> dict:
    """An encoded sequence; `slots` tags its first pieces, the other tasks have one label."""
    ids = tiny_tokenizer()(text)["input_ids"]
    found = {"input_ids": ids}
    for task, label in labels.items():
        if task == "slots":
            tags = [-100, *label] + [-100] * (len(ids) - 1 - len(label))
            found |= {"slots.labels": tags, "slots.items": len(label)}
        else:
            found |= {f"{task}.label": label, f"{task}.items": 1}
    return found


ROWS = [
    sequence("Play a song", topic=1, slots=[0, 1]),
    sequence("It is cold in Berlin today", topic=2),
    sequence("happy", moods=[0]),
    sequence("Imagine by John Lennon", slots=[3, 4, 4], moods=[]),
    sequence("a book", topic=0, score=2.5),
    sequence("sad, sad story", moods=[1]),
]


LORA = {
    "shared": {"scope": "shared"},
    "per_task": {"scope": "per_task"},
    "both": {"scope": "both"},
    "dora": {"scope": "per_task", "use_dora": True},
    "encoder trained": {"scope": "both", "train_encoder": True},
}


@pytest.fixture
def model(tmp_path):
    return tiny_model(tmp_path).train()


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


def batches(model, rows, size):
    collator = Collator(0, 0, model.tasks)
    return [collator(rows[start : start + size]) for start in range(0, len(rows), size)]


def gradient(model) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_the_worked_example_of_the_design_gives_three():
    # A text, B tags; A 1.0 | A 3.0 and B 1+3 on 2 tokens | B 5 on 1 token | A 2.0.
    counts = StepCounts(items={"A": 3, "B": 3}, sequences={"A": 3, "B": 2}, rows=4, tokens=0)
    sums = [{"A": 1.0, "B": 0.0}, {"A": 3.0, "B": 4.0}, {"A": 0.0, "B": 5.0}, {"A": 2.0, "B": 0.0}]
    losses = [
        micro_batch_loss({task: torch.tensor(value) for task, value in part.items()}, counts, {"A": 1, "B": 1}, 2)
        for part in sums
    ]
    assert torch.stack(losses).sum() / 2 == 3.0


def test_counts_are_items_sequences_rows_and_pieces(model, accelerator):
    counts = count_step(batches(model, ROWS, 4), model.tasks, accelerator)
    assert counts.items == {"topic": 3, "moods": 3, "score": 1, "slots": 5}
    assert counts.sequences == {"topic": 3, "moods": 3, "score": 1, "slots": 2}
    assert counts.rows == 6
    assert counts.tokens == sum(len(row["input_ids"]) for row in ROWS)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_accumulation_does_not_change_the_gradient(model, accelerator, size):
    weights = {"topic": 1.0, "moods": 0.5, "score": 2.0, "slots": 1.5}
    found = []
    for cut in (len(ROWS), size):
        model.zero_grad()
        parts = batches(model, ROWS, cut)
        counts = count_step(parts, model.tasks, accelerator)
        for part in parts:
            micro_batch_loss(model(**part).loss_sums, counts, weights, 1).backward()
        found.append(gradient(model))
    # One vector: key.bias has a true gradient of 0, so that parts of it differ by more than their size.
    assert torch.norm(found[0] - found[1]) < 1e-6 * torch.norm(found[0])


def optimizer_of(model, **changes):
    run = {
        "encoder": "user/encoder",
        "datasets": {"d": {"text_column": "text"}},
        "tasks": {"t": {"task_type": "text-classification", "dataset": "d", "label_column": "label"}},
        "training": {"output_dir": "out", "learning_rate": 0.01, "weight_decay": 0.1, **changes},
    }
    return make_optimizer(model, load_config(run).training)


def test_a_task_without_an_item_in_the_step_does_not_move(model, accelerator):
    optimizer = optimizer_of(model)
    weights = dict.fromkeys(TASKS, 1.0)
    train_step(model, batches(model, ROWS, 3), optimizer, accelerator, weights, 1.0)  # fills AdamW's momentum
    before = copy.deepcopy(model.state_dict())
    result = train_step(model, batches(model, ROWS[:2], 2), optimizer, accelerator, weights, 1.0)
    assert result.counts.items == {"topic": 2, "moods": 0, "score": 0, "slots": 2}
    for name, tensor in model.state_dict().items():
        absent = name.startswith(("heads.moods.", "heads.score."))
        if absent:
            assert torch.equal(tensor, before[name]), name
    assert not torch.equal(model.heads["topic"].classifier.weight, before["heads.topic.classifier.weight"])


def moved(model, before):
    """The parts that are not what they were: heads, adapters, and the encoder's own weights."""
    names = (name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name]))
    found = set()
    for name in names:
        adapter = re.search(r"\.lora_\w+\.(\w+)", name)
        found.add(adapter.group(1) if adapter else ".".join(name.split(".")[:2]) if "heads." in name else "encoder")
    return found


@pytest.mark.parametrize("lora", LORA.values(), ids=LORA)
def test_a_task_without_an_item_in_the_step_moves_no_adapter_of_its_own(tmp_path, accelerator, lora):
    model = tiny_adapted(tmp_path, **lora).train()
    freeze(model, "embeddings" if lora.get("train_encoder") else None)
    optimizer = optimizer_of(model)
    weights = dict.fromkeys(TASKS, 1.0)
    everything = {f"heads.{task}" for task in TASKS} | ({"encoder"} if lora.get("train_encoder") else set())
    before = copy.deepcopy(model.state_dict())
    train_step(model, batches(model, ROWS, 3), optimizer, accelerator, weights, 1.0)  # fills AdamW's momentum
    shared = {"shared"} if lora["scope"] != "per_task" else set()
    own = set(TASKS) if lora["scope"] != "shared" else set()
    assert moved(model, before) == everything | shared | own
    before = copy.deepcopy(model.state_dict())
    for size in (2, 1):
        train_step(model, batches(model, ROWS[:2], size), optimizer, accelerator, weights, 1.0)
    absent = {"moods", "score"}
    assert moved(model, before) == (everything - {f"heads.{task}" for task in absent}) | shared | (own - absent)
    embeddings = {name: tensor for name, tensor in model.state_dict().items() if ".embeddings." in name}
    assert embeddings
    assert all(torch.equal(tensor, before[name]) for name, tensor in embeddings.items())


def test_a_step_without_an_item_changes_nothing(model, accelerator):
    optimizer = optimizer_of(model)
    before = copy.deepcopy(model.state_dict())
    result = train_step(
        model, batches(model, [], 1) or [Collator(0, 0, model.tasks)([])], optimizer, accelerator, {}, 1.0
    )
    assert result.counts.rows == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_absent_heads_lose_their_gradient_and_present_ones_keep_it(model):
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    counts = StepCounts(items={"topic": 1, "moods": 0, "score": 0, "slots": 1}, sequences={}, rows=1, tokens=1)
    drop_absent_gradients(model, counts)
    assert all(parameter.grad is None for parameter in model.heads["moods"].parameters())
    assert all(parameter.grad is not None for parameter in model.heads["topic"].parameters())


def test_biases_and_norms_are_not_decayed(model):
    decayed, others = optimizer_of(model).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert decayed["weight_decay"] == 0.1
    assert others["weight_decay"] == 0.0
    assert {names[id(p)] for p in others["params"]} == {
        name for name in names.values() if name.endswith("bias") or "LayerNorm" in name
    }
