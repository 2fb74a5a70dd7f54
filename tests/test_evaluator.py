import copy
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from hf_mtl.batching.collator import Collator
from hf_mtl.data.encoding import Sequences
from hf_mtl.errors import UserError
from hf_mtl.evaluation.errors import write_errors
from hf_mtl.evaluation.splits import evaluate_saved, evaluate_split, metric_choices, tuned_thresholds
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.run_file import write_run_file
from tests.evaluated import MAX_LENGTH, ROWS, TASKS, by_text, encode, make_config, make_model, run, tuning_config
from tests.tiny import tiny_tokenizer


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def sequences() -> Sequences:
    return encode(ROWS)[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MultiTaskModel:
    return make_model(tmp_path_factory.mktemp("tiny"))


def test_every_row_with_a_label_counts_exactly_once_and_with_its_own_label(model, sequences):
    windows = np.bincount(sequences.dataset["row"][:])
    assert windows.max() > 3
    results = run(model, sequences)
    for task in TASKS:
        labelled = [row for row, cells in enumerate(ROWS) if cells[task] is not None]
        assert results[task].rows == labelled
        for row, answer in zip(labelled, results[task].answers, strict=True):
            gold = ROWS[row][task]
            if task in ("slots", "pos"):
                assert list(answer.words) == [word for word, tag in enumerate(gold) if tag is not None]
                assert len(answer.prediction) == len(answer.words)
            elif task == "stars":
                assert answer.reference == pytest.approx(gold)
            else:
                shown = model.tasks[task].shown_label(answer.reference)
                assert shown == (sorted(gold) if task == "moods" else gold)


def test_the_words_of_all_windows_are_joined_into_the_row(model, sequences):
    """Each word's tag is what its own window, read alone and unpadded, says of it."""
    expected: dict[int, dict[int, str]] = {}
    labels = model.tasks["pos"].spec.label_list
    for sequence in sequences.take(range(len(sequences))):
        with torch.no_grad():
            logits = model(torch.tensor([sequence["input_ids"]]), tasks=["pos"]).logits["pos"][0]
        for word, piece in zip(sequence["pos.words"], sequence["pos.pieces"], strict=True):
            assert piece >= 0
            found = expected.setdefault(sequence["row"], {})
            assert word not in found
            found[word] = labels[int(logits[piece].argmax())]
    result = run(model, sequences)["pos"]
    for row, answer in zip(result.rows, result.answers, strict=True):
        assert answer.prediction == [expected[row][word] for word in range(len(ROWS[row]["tokens"]))]
    assert {tag for answer in result.answers for tag in answer.prediction} == set(labels)


def test_text_tasks_read_the_first_window_alone(model, sequences):
    firsts = {entry["row"]: entry for entry in sequences.take(range(len(sequences))) if entry["window"] == 0}
    result = run(model, sequences)["topic"]
    for row, answer in zip(result.rows, result.answers, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([firsts[row]["input_ids"]]), tasks=["topic"]).logits["topic"][0]
        assert answer.prediction == int(logits.argmax())
        assert answer.score == pytest.approx(float(logits.softmax(-1).max()), abs=1e-4)
    assert len({answer.prediction for answer in result.answers}) > 1


@pytest.mark.parametrize("batch_size", [1, 3, 16, 1000])
def test_the_batch_size_does_not_change_the_results(model, sequences, batch_size):
    expected, found = run(model, sequences, 5), run(model, sequences, batch_size)
    assert by_text(found, ROWS) == by_text(expected, ROWS)
    for task in TASKS:
        same_metrics(found[task].metrics, expected[task].metrics)


def test_the_order_of_the_rows_does_not_change_the_results(model, sequences):
    shuffled = random.Random(3).sample(ROWS, len(ROWS))
    expected, found = run(model, sequences), run(model, encode(shuffled)[0])
    assert by_text(found, shuffled) == by_text(expected, ROWS)
    for task in TASKS:
        same_metrics(found[task].metrics, expected[task].metrics)


def same_metrics(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        if isinstance(value, dict):
            same_metrics(found[name], value)
        else:
            assert found[name] == pytest.approx(value, rel=1e-4), name


def test_evaluation_leaves_the_model_and_all_random_generators_as_they_were(model, sequences):
    model = copy.deepcopy(model).train()
    model.heads["topic"].eval()
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.5
    modes = [part.training for part in model.modules()]
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first, second = run(model, sequences), run(model, sequences)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert by_text(first, ROWS) == by_text(second, ROWS)
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    model(torch.tensor([[2, 5, 3]])).logits["topic"].sum().backward()


def test_the_mode_comes_back_when_a_batch_fails(model, sequences):
    model = copy.deepcopy(model).train()

    def fail(_: int) -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        run(model, sequences, on_batch=fail)
    assert model.training


def test_a_model_in_bfloat16_is_read_in_32_bits(model, sequences):
    results = run(copy.deepcopy(model).bfloat16(), sequences)
    assert [len(result.rows) for result in results.values()] == [
        sum(row[task] is not None for row in ROWS) for task in TASKS
    ]


def test_only_the_tasks_asked_for_are_read_and_progress_counts_their_sequences(model, sequences):
    seen: list[int] = []
    assert list(run(model, sequences, tasks=["topic"], on_batch=seen.append)) == ["topic"]
    assert sum(seen) == sum(row["topic"] is not None for row in ROWS)


def test_a_task_without_labels_in_a_split_has_no_metrics_and_is_left_out_of_the_run(model):
    rows = [{**row, "topic": None} for row in ROWS[:5]]
    sequences = encode(rows)[0]
    result = run(model, sequences)["topic"]
    assert (result.rows, result.answers, result.metrics) == ([], [], {})
    collator = Collator(pad_token_id=0, pad_token_type_id=0, tasks=model.tasks)
    assert list(evaluate_split(model, {"mail": sequences}, make_config(), collator)) == list(TASKS[1:])


class NamedMetric:
    """Stands in for a metric of the Hub: only its `compute` is called."""

    def __init__(self, **values: Any) -> None:
        self.values = values

    def compute(self, *, predictions: list, references: list) -> dict[str, Any]:
        return {**self.values, "rows": len(predictions)} if len(self.values) > 1 else self.values


def test_a_hub_metric_stands_under_its_name_and_is_never_nan(model, sequences):
    metrics = {"me/one": NamedMetric(f=np.float32(0.5)), "me/two": NamedMetric(r=float("nan"), s=1, note="text")}
    found = run(model, sequences, tasks=["topic"], hub_metrics={"topic": metrics})["topic"]
    hub = {name: value for name, value in found.metrics.items() if "/" in name}
    assert hub == {"me/one": 0.5, "me/two": 0.0, "me/two:r": 0.0, "me/two:s": 1.0, "me/two:rows": len(found.rows)}


def save_run(folder: Path, model: MultiTaskModel, rows: list[dict[str, Any]]) -> None:
    """A saved model with its tokenizer, rows of its test split and the run file that names them."""
    model.save_pretrained(folder)
    tiny_tokenizer("wordpiece", max_length=MAX_LENGTH).save_pretrained(folder)
    files = {"train": "train.jsonl", "test": "test.jsonl"}
    for file in files.values():
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = {"mail": {"path": "json", "data_files": files, "tokens_column": "tokens"}}
    write_run_file(make_config(datasets=data, base_dir=str(folder)), folder / "run.yaml")


def test_a_saved_model_is_evaluated_on_a_split_of_its_own_run_file(model, sequences, tmp_path):
    save_run(tmp_path, model, ROWS)
    saved = evaluate_saved(str(tmp_path), "test")
    expected = run(model, sequences)
    assert by_text(saved.results, ROWS) == by_text(expected, ROWS)
    for task in TASKS:
        same_metrics(saved.results[task].metrics, expected[task].metrics)
    with pytest.raises(UserError, match="no data set has a split validation"):
        evaluate_saved(str(tmp_path), "validation")
    with pytest.raises(UserError, match="did you mean test?"):
        evaluate_saved(str(tmp_path), "tests")
    (tmp_path / "run.yaml").unlink()
    with pytest.raises(UserError, match="no saved multi-task model could be read"):
        evaluate_saved(str(tmp_path), "test")


def test_wrong_answers_are_written_with_the_most_confident_first(model, tmp_path):
    save_run(tmp_path, model, ROWS)
    saved = evaluate_saved(str(tmp_path), "test")
    path = tmp_path / "errors.jsonl"
    assert write_errors(path, saved) == len(path.read_text(encoding="utf-8").splitlines())
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for task, result in saved.results.items():
        own = [line for line in lines if line["task"] == task]
        wrong = [row for row, answer in zip(result.rows, result.answers, strict=True) if answer[0] != answer[1]]
        assert sorted(line["row"] for line in own) == sorted(f"test.jsonl row {row + 1}" for row in wrong)
        assert {line["text"] for line in own} == {" ".join(ROWS[row]["tokens"]) for row in wrong}
        assert all(line["label"] != line["predicted"] for line in own)
        weights = [abs(line["label"] - line["predicted"]) if task == "stars" else line["score"] for line in own]
        assert weights == sorted(weights, reverse=True)
        if task in ("slots", "pos"):
            assert all(len(line["words"]) == len(line["label"]) == len(line["predicted"]) for line in own)


def test_wrong_spans_are_written_with_their_words_and_rows_left_out_are_told(model, tmp_path):
    tasks = {"slots": {"task_type": "token-classification", "dataset": "mail", "spans_column": "spans"}}
    rows = [
        {"text": f"to {name}, now", "spans": [{"start": 3, "end": 9, "label": "city"}]} for name in ("Berlin", "London")
    ]
    save_run(tmp_path, model, [*rows, {"text": " ", "spans": []}, {"text": "no spans", "spans": None}])
    data = {"mail": {"path": "json", "data_files": {"test": "test.jsonl"}, "text_column": "text"}}
    write_run_file(make_config(datasets=data, tasks=tasks, base_dir=str(tmp_path)), tmp_path / "run.yaml")
    said: list[str] = []
    saved = evaluate_saved(str(tmp_path), "test", progress=said.append)
    assert said[1:] == [
        "mail test: 1 rows without text left out: 3",
        "mail test: 1 rows without a label for any task left out: 4",
    ]
    assert write_errors(tmp_path / "errors.jsonl", saved)
    for line in map(json.loads, (tmp_path / "errors.jsonl").read_text(encoding="utf-8").splitlines()):
        assert line["words"] == ["to", line["text"][3:9], ",", "now"]
        assert line["label"] == ["O", "B-city", "O", "O"]
        assert len(line["predicted"]) == 4


def test_a_tuned_threshold_is_at_least_as_good_as_a_half(model, sequences):
    collator = Collator(pad_token_id=0, pad_token_type_id=0, tasks=model.tasks)
    found = tuned_thresholds(model, {"mail": sequences}, tuning_config(), collator)
    assert list(found) == ["moods"]
    before = run(model, sequences, tasks=["moods"])["moods"].metrics["f1_micro"]
    tuned = copy.deepcopy(model)
    tuned.tasks["moods"].spec = replace(tuned.tasks["moods"].spec, threshold=found["moods"])
    assert run(tuned, sequences, tasks=["moods"])["moods"].metrics["f1_micro"] >= before


def test_the_first_metric_of_the_run_file_or_of_the_task_stands_in_the_score(model):
    entries = make_config().tasks
    chosen = {"topic": "f1_macro", "moods": "f1_micro", "stars": "spearman", "slots": "f1", "pos": "f1_macro"}
    assert metric_choices(model.tasks, entries) == chosen
    named = {**entries, "topic": entries["topic"].model_copy(update={"metrics": ["mcc", "accuracy"]})}
    assert metric_choices(model.tasks, named) == chosen | {"topic": "mcc"}
    wrong = {
        **entries,
        "pos": entries["pos"].model_copy(update={"metrics": ["accuracy", "f1"]}),
        "stars": entries["stars"].model_copy(update={"metrics": ["rmse"]}),
    }
    with pytest.raises(UserError) as error:
        metric_choices(model.tasks, wrong)
    assert "tasks.pos.metrics[1]: 'f1' is not a metric of this task" in str(error.value)
    assert "tasks.stars.metrics[0]: 'rmse' cannot be first" in str(error.value)
