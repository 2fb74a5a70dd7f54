"""The collator: sequences of any data sets to one encoder input and each task's labels."""

import pytest
import torch

from hf_mtl.batching.collator import Collator
from hf_mtl.tasks.spec import TaskSpec
from hf_mtl.tasks.types import build_task

PAD = 9


def tasks():
    specs = (
        TaskSpec(
            name="topic",
            task_type="text-classification",
            problem_type="single_label_classification",
            label_list=["books", "music", "weather"],
        ),
        TaskSpec(
            name="moods",
            task_type="text-classification",
            problem_type="multi_label_classification",
            label_list=["happy", "sad"],
            threshold=0.5,
        ),
        TaskSpec(name="score", task_type="text-classification", problem_type="regression"),
        TaskSpec(name="slots", task_type="token-classification", label_list=["O", "B-x", "I-x"], tag_scheme="BIO"),
    )
    return {spec.name: build_task(spec) for spec in specs}


def collator(**changes):
    return Collator(**({"pad_token_id": PAD, "pad_token_type_id": 3, "tasks": tasks()} | changes))


def titled(ids, topic=None, slots=None):
    """A sequence of a data set with the tasks topic and slots."""
    tags = slots or [-100] * len(ids)
    return {
        "input_ids": ids,
        "length": len(ids),
        "row": 0,
        "window": 0,
        "topic.label": topic or 0,
        "topic.items": int(topic is not None),
        "slots.labels": tags,
        "slots.words": [],
        "slots.items": sum(tag != -100 for tag in tags),
    }


def rated(ids, moods=None, score=None):
    """A sequence of a data set of pairs with the tasks moods and score."""
    return {
        "input_ids": ids,
        "token_type_ids": [0] * (len(ids) - 1) + [1],
        "length": len(ids),
        "row": 0,
        "window": 0,
        "moods.label": moods or [],
        "moods.items": int(moods is not None),
        "score.label": score or 0.0,
        "score.items": int(score is not None),
    }


MIXED = [
    titled([1, 5, 6, 2], topic=2, slots=[-100, 1, 2, -100]),
    rated([1, 7, 2], moods=[], score=1.5),
    titled([1, 2], topic=1),
    titled([1, 4, 4, 4, 2], slots=[-100, 0, -100, -100, -100]),
    rated([1, 2], moods=[0, 1]),
]


def test_texts_are_padded_to_the_longest_of_the_batch():
    batch = collator()(MIXED)
    assert batch["input_ids"].tolist() == [
        [1, 5, 6, 2, PAD],
        [1, 7, 2, PAD, PAD],
        [1, 2, PAD, PAD, PAD],
        [1, 4, 4, 4, 2],
        [1, 2, PAD, PAD, PAD],
    ]
    assert batch["attention_mask"].sum(dim=1).tolist() == [4, 3, 2, 5, 2]
    assert (batch["input_ids"] == PAD).equal(batch["attention_mask"] == 0)
    assert {batch[key].dtype for key in ("input_ids", "attention_mask", "token_type_ids")} == {torch.int64}


def test_every_task_gets_the_rows_with_an_item_of_it_and_their_labels_in_the_same_order():
    batch = collator()(MIXED)
    assert {name: rows.tolist() for name, rows in batch["rows"].items()} == {
        "topic": [0, 2],
        "moods": [1, 4],
        "score": [1],
        "slots": [0, 3],
    }
    assert {rows.dtype for rows in batch["rows"].values()} == {torch.int64}
    labels = {name: tensors["labels"].tolist() for name, tensors in batch["labels"].items()}
    assert labels == {
        "topic": [2, 1],
        "moods": [[0.0, 0.0], [1.0, 1.0]],
        "score": [1.5],
        "slots": [[-100, 1, 2, -100, -100], [-100, 0, -100, -100, -100]],
    }


def test_a_task_that_is_not_active_gets_zero_rows_and_its_labels_are_not_read():
    batch = collator()(MIXED, active=("topic", "score"))
    assert {name: len(rows) for name, rows in batch["rows"].items()} == {"topic": 2, "moods": 0, "score": 1, "slots": 0}
    assert {name: len(tensors["labels"]) for name, tensors in batch["labels"].items()} == {
        "topic": 2,
        "moods": 0,
        "score": 1,
        "slots": 0,
    }
    assert batch["input_ids"].shape == (5, 5)
    with pytest.raises(ValueError, match="^active"):
        collator()(MIXED, active=("topics",))


def test_without_a_sequence_one_row_of_padding_stands_in_that_no_task_reads():
    batch = collator()([])
    assert batch["input_ids"].tolist() == [[PAD]]
    assert batch["attention_mask"].tolist() == [[1]]
    assert "token_type_ids" not in batch
    assert {name: rows.tolist() for name, rows in batch["rows"].items()} == dict.fromkeys(tasks(), [])


@pytest.mark.parametrize("name", list(tasks()))
def test_zero_rows_of_a_task_have_a_loss_of_zero_with_a_graph(name):
    batch = collator()([])
    task = tasks()[name]
    shape = (0, 1, 3) if name == "slots" else (0, task.num_labels)
    logits = torch.zeros(shape, requires_grad=True)
    loss, items = task.loss(logits, batch["labels"][name])
    loss.backward()
    assert (loss.item(), items.item(), logits.grad.shape) == (0.0, 0, shape)


def test_token_types_are_there_only_if_a_sequence_has_them():
    batch = collator()(MIXED)
    assert batch["token_type_ids"].tolist() == [
        [0, 0, 0, 0, 3],
        [0, 0, 1, 3, 3],
        [0, 0, 3, 3, 3],
        [0, 0, 0, 0, 0],
        [0, 1, 3, 3, 3],
    ]
    assert "token_type_ids" not in collator()([MIXED[0], MIXED[2]])


def test_widths_are_rounded_up_to_a_multiple():
    batch = collator(pad_to_multiple_of=8)(MIXED)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (5, 8)
    assert batch["labels"]["slots"]["labels"].shape == (2, 8)
    assert collator(pad_to_multiple_of=5)(MIXED)["input_ids"].shape == (5, 5)


def test_on_the_left_padding_moves_the_labels_of_pieces_with_the_pieces():
    batch = collator(padding_side="left", pad_to_multiple_of=3)(MIXED)
    assert batch["input_ids"].tolist()[:2] == [[PAD, PAD, 1, 5, 6, 2], [PAD, PAD, PAD, 1, 7, 2]]
    assert batch["attention_mask"].tolist()[2] == [0, 0, 0, 0, 1, 1]
    assert batch["token_type_ids"].tolist()[1] == [3, 3, 3, 0, 0, 1]
    assert batch["labels"]["slots"]["labels"].tolist() == [
        [-100, -100, -100, 1, 2, -100],
        [-100, -100, 0, -100, -100, -100],
    ]
    right = collator(pad_to_multiple_of=3)(MIXED)
    for name in ("topic", "moods", "score"):
        assert batch["labels"][name]["labels"].equal(right["labels"][name]["labels"])


def test_on_the_left_labels_as_wide_as_the_texts_by_chance_stay():
    # Two labels and two pieces: the moods' labels are no labels of pieces.
    batch = collator(padding_side="left")([rated([1, 2], moods=[0]), rated([2], moods=[1])])
    assert batch["labels"]["moods"]["labels"].tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_another_padding_side_is_refused():
    with pytest.raises(ValueError, match="^padding_side"):
        collator(padding_side="top")
