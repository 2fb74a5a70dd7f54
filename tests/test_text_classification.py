"""Labels of texts: what a cell may hold, and losses as the stock heads take them."""

import pytest
import torch
from torch.nn import functional

from hf_mtl.config_keys import TaskConfig
from hf_mtl.tasks.labels import LabelError
from hf_mtl.tasks.spec import TaskSpec
from hf_mtl.tasks.task import Window
from hf_mtl.tasks.text_classification import MULTI, REGRESSION, SINGLE, TextClassification, read_number

ONE = [Window([1], [(0, 1)], [0])]


def entry(**changes) -> TaskConfig:
    return TaskConfig(task_type="text-classification", dataset="d", label_column="label", **changes)


def built(cells, class_names=None, **changes):
    config = entry(**changes)
    task = TextClassification.from_rows("topic", config, lambda: iter(cells), class_names, False)
    return task, task.reader(config, lambda: iter(cells), class_names, {})


def read_first(cells, **changes):
    _, read = built(cells, **changes)
    return read(cells[0])


@pytest.mark.parametrize(
    ("cells", "labels"),
    [
        (["b", "a", None, "b"], ["a", "b"]),
        ([10, 9, -1], ["-1", "9", "10"]),
        (["10", "9"], ["9", "10"]),
        ([True, False], ["false", "true"]),
    ],
)
def test_labels_come_from_train_in_order(cells, labels):
    task, read = built(cells)
    assert task.spec.label_list == labels
    assert [task.shown_label(read(cell)) for cell in cells if cell is not None] == [
        str(cell).lower() for cell in cells if cell is not None
    ]


def test_label_list_fixes_the_order_and_integers_are_places_among_names():
    task, read = built(["b", 0, "1"], label_list=["b", "a"])
    assert task.spec.label_list == ["b", "a"]
    assert [read(cell) for cell in ("a", 0, 1, "1")] == [1, 0, 1, 1]


def test_a_class_label_gives_the_names_and_label_list_may_order_them_anew():
    task, read = built([0, 1], class_names=["neg", "pos"])
    assert task.spec.label_list == ["neg", "pos"]
    assert read(1) == 1
    task, read = built([0, 1], class_names=["neg", "pos"], label_list=["pos", "neg"])
    assert task.shown_label(read(1)) == "pos"


def test_a_class_labels_integers_are_places_although_its_names_are_numbers():
    task, read = built([0, 1, 2], class_names=["1", "2", "3"])
    assert [task.shown_label(read(cell)) for cell in (0, 1, 2)] == ["1", "2", "3"]
    task, read = built([[0, 2]], class_names=["1", "2", "3"])
    assert read([0, 2]) == [0, 2]


@pytest.mark.parametrize("cell", [[1, 0, 1], [0, 0], [0.0, 1.0, 0.0], [True, False, False], ["a", None], ["a", ""]])
@pytest.mark.parametrize("changes", [{}, {"label_list": ["a", "b", "c"]}])
def test_a_list_holds_the_labels_of_the_row_and_nothing_else(cell, changes):
    _, read = built([["a"], ["b"]], **changes)
    with pytest.raises(LabelError, match=r"labels \[.*(list the labels|take it out)"):
        read(cell)


def test_smoothing_is_refused_where_the_rows_show_several_labels():
    with pytest.raises(LabelError, match="no label_smoothing_factor"):
        built([["a"]], label_smoothing_factor=0.1)


@pytest.mark.parametrize("changes", [{}, {"class_weight": "balanced", "label_list": ["a", "b"]}])
def test_a_cell_that_is_no_label_is_refused_where_its_row_is_known(changes):
    task, read = built(["a", 1.5, "b"], **changes)
    assert task.spec.label_list == ["a", "b"]
    with pytest.raises(LabelError, match=r"label 1.5 is a number"):
        read(1.5)


@pytest.mark.parametrize(
    ("cells", "changes", "message"),
    [
        ([0, "0"], {}, "several kinds: integer .0., text .'0'."),
        ([1.5], {}, "problem_type: regression"),
        ([None], {}, "no row of train has a label"),
        ([["a"]], {"problem_type": SINGLE}, None),
        (["a"], {"problem_type": MULTI}, "not a list"),
    ],
)
def test_labels_of_a_wrong_kind_are_refused(cells, changes, message):
    with pytest.raises(LabelError, match=message):
        read_first(cells, **changes)


def test_an_unseen_label_is_refused_with_what_to_do():
    _, read = built(["a", "b"])
    with pytest.raises(
        LabelError, match="label 'c' of task topic is not in label_list .2 labels: a, b.; add it to tasks.topic"
    ):
        read("c")


def test_lists_are_several_labels_and_a_separator_cuts_text():
    task, read = built([["b", "a"], []])
    assert task.spec.problem_type == MULTI
    assert read(["b", "b"]) == [1]
    assert read([]) == []
    task, read = built(["b|a", "c| a|"], label_separator="|")
    assert task.spec.label_list == ["a", "b", "c"]
    assert read("c| a|") == [0, 2]


@pytest.mark.parametrize("cell", ["five", "1_0", True, float("inf"), [1.0]])
def test_a_regression_label_is_a_finite_number(cell):
    _, read = built([1], problem_type=REGRESSION)
    assert read("3.5") == 3.5
    with pytest.raises(LabelError, match="not a number"):
        read(cell)


def spec(kind: str) -> TaskSpec:
    labels = None if kind == REGRESSION else ["a", "b", "c"]
    return TaskSpec(name="t", task_type="text-classification", problem_type=kind, label_list=labels, threshold=0.5)


def test_losses_are_the_stock_heads_losses_summed():
    logits = torch.randn(4, 3)
    loss, items = TextClassification(spec(SINGLE)).loss(logits, {"labels": torch.tensor([0, 1, 2, 1])})
    assert items == 4
    assert torch.allclose(loss / items, functional.cross_entropy(logits, torch.tensor([0, 1, 2, 1])))
    target = torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
    loss, items = TextClassification(spec(MULTI)).loss(logits, {"labels": target})
    assert torch.allclose(loss / items, functional.binary_cross_entropy_with_logits(logits, target))
    loss, items = TextClassification(spec(REGRESSION)).loss(logits[:, :1], {"labels": target[:, 0]})
    assert torch.allclose(loss / items, functional.mse_loss(logits[:, 0], target[:, 0]))


def test_a_class_weight_multiplies_its_items_loss_and_not_their_number():
    logits, target = torch.randn(3, 3), torch.tensor([0, 2, 2])
    plain = TextClassification(spec(SINGLE), class_weight=[2.0, 1.0, 0.5])
    loss, items = plain.loss(logits, {"labels": target})
    each = functional.cross_entropy(logits, target, reduction="none")
    assert items == 3
    assert torch.allclose(loss, 2 * each[0] + 0.5 * (each[1] + each[2]))


def test_balanced_weights_make_every_label_weigh_the_same():
    task, _ = built(["a"] * 9 + ["b"], class_weight="balanced")
    assert torch.allclose(task.class_weight * torch.tensor([9.0, 1.0]), torch.tensor([5.0, 5.0]))


@pytest.mark.parametrize("kind", [SINGLE, MULTI, REGRESSION])
def test_zero_rows_give_a_loss_of_zero_with_a_gradient(kind):
    task = TextClassification(spec(kind))
    logits = torch.zeros(0, task.num_labels, requires_grad=True)
    loss, items = task.loss(logits, task.collate([], 4))
    loss.backward()
    assert loss == 0
    assert items == 0
    assert logits.grad is not None


def test_a_text_label_counts_in_the_first_window():
    columns = TextClassification(spec(SINGLE)).encode(2, ONE * 3, None)
    assert [window["items"] for window in columns] == [1, 0, 0]


def test_a_multi_label_answer_depends_on_the_threshold():
    task = TextClassification(spec(MULTI))
    answer = task.join([({"label": [1]}, torch.tensor([0.5, 0.4, 0.9]).numpy())])
    assert answer.prediction == [1, 0, 1]
    assert answer.reference == [0, 1, 0]


@pytest.mark.parametrize(
    "cells",
    [
        [[1, 0], [0, 1]],
        [[0, 1], None, [], [1, 0]],
        [[True, False], [False, True]],
        [[1, 0, 0], [0, 1, 0]],
        [[1.0, 0.0]],
    ],
)
@pytest.mark.parametrize("listed", [{}, {"label_list": ["neg", "pos"]}])
def test_a_0_or_1_for_every_label_is_refused(cells, listed):
    with pytest.raises(LabelError, match=r"look like a 0 or 1 for every label; list the labels that the row has"):
        built(cells, **listed)


@pytest.mark.parametrize("cells", [[[1, 0], [0]], [[0], [1]], [[1, 0], [2, 0]], [["0", "1"]]])
def test_lists_of_numbers_are_labels_where_some_row_shows_it(cells):
    assert built(cells)[0].spec.label_list in (["0", "1"], ["0", "1", "2"])


@pytest.mark.parametrize("cell", [10**400, 1e39, b"1.5", "9" * 400])
def test_a_number_that_float32_does_not_hold_is_refused(cell):
    with pytest.raises(LabelError, match=r"is not a number|float32 holds at most"):
        read_number(cell)
