import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from seqeval.metrics import classification_report
from sklearn import metrics as sk

from hf_mtl.errors import UserError
from hf_mtl.metrics.hub import hub_metric
from hf_mtl.metrics.memory import MemoryMetric
from hf_mtl.metrics.multi_label import MultiLabelMetric
from hf_mtl.metrics.regression import RegressionMetric
from hf_mtl.metrics.single_label import SingleLabelMetric
from hf_mtl.metrics.spans import SpanMetric
from hf_mtl.metrics.tags import TagMetric

LABELS = ["sport", "天气", "z", "none"]
BIO = ["O", "B-person", "I-person", "B-电影", "I-电影", "I-job-title"]
ids = st.integers(0, len(LABELS) - 1)
flags = st.lists(st.integers(0, 1), min_size=len(LABELS), max_size=len(LABELS))
numbers = st.floats(-1e6, 1e6, width=32)
quick = settings(max_examples=25, deadline=None)


def pairs(element: st.SearchStrategy) -> st.SearchStrategy:
    """(prediction, reference) of each row."""
    return st.lists(st.tuples(element, element), min_size=1, max_size=25)


def tagged(tags: list[str]) -> st.SearchStrategy:
    """(predicted, gold) tags of each row, as many of both, some rows empty but not the first."""
    words = st.tuples(st.sampled_from(tags), st.sampled_from(tags))
    rows = st.tuples(st.lists(words, min_size=1, max_size=6), st.lists(st.lists(words, max_size=6), max_size=6))
    return rows.map(
        lambda found: [tuple(map(list, zip(*row, strict=True))) or ([], []) for row in [found[0], *found[1]]]
    )


def compute(metric: MemoryMetric, rows: list) -> dict:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictions, references = zip(*rows, strict=True)
        return metric.compute(predictions=list(predictions), references=list(references))


def same(found: dict, expected: dict) -> None:
    """`expected`'s numbers are found; by_label holds the very same labels."""
    assert set(found) == set(expected)
    for name, value in expected.items():
        if name == "by_label":
            assert set(found[name]) == set(value)
            for label, numbers_ in value.items():
                assert found[name][label] == pytest.approx(numbers_), label
        else:
            assert type(found[name]) is float
            assert found[name] == pytest.approx(value), name


def by_label(report: dict, names: dict) -> dict:
    """The labels `names` (key in the report → name) of a `classification_report`."""
    keys = ("precision", "recall", "f1-score", "support")
    return {
        name: dict(zip(("precision", "recall", "f1", "support"), (report[key][part] for part in keys), strict=True))
        for key, name in names.items()
    }


@quick
@given(pairs(ids))
def test_single_label_metrics_are_those_of_scikit_learn(rows):
    predicted, gold = zip(*rows, strict=True)
    present = sorted({*predicted, *gold})
    report = sk.classification_report(gold, predicted, labels=present, output_dict=True, zero_division=0)
    found = compute(SingleLabelMetric(LABELS), rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            "accuracy": sk.accuracy_score(gold, predicted),
            "f1_macro": sk.f1_score(gold, predicted, average="macro", zero_division=0),
            "f1_micro": sk.f1_score(gold, predicted, average="micro", zero_division=0),
            "precision": sk.precision_score(gold, predicted, average="macro", zero_division=0),
            "recall": sk.recall_score(gold, predicted, average="macro", zero_division=0),
            "mcc": sk.matthews_corrcoef(gold, predicted),
            "by_label": by_label(report, {str(index): LABELS[index] for index in present}),
        }
    same(found, expected)
    mean = sum(label["f1"] for label in found["by_label"].values()) / len(present)
    assert mean == pytest.approx(found["f1_macro"])


@quick
@given(pairs(flags))
def test_multi_label_metrics_are_those_of_scikit_learn(rows):
    predicted, gold = (np.array(side) for side in zip(*rows, strict=True))
    report = sk.classification_report(gold, predicted, output_dict=True, zero_division=0)
    expected = {
        "exact_match": sk.accuracy_score(gold, predicted),
        "f1_micro": sk.f1_score(gold, predicted, average="micro", zero_division=0),
        "f1_macro": sk.f1_score(gold, predicted, average="macro", zero_division=0),
        "by_label": by_label(report, {str(index): label for index, label in enumerate(LABELS)}),
    }
    same(compute(MultiLabelMetric(LABELS), rows), expected)


@quick
@given(pairs(st.integers(0, 1)))
def test_a_multi_label_task_of_one_label_measures_that_label(rows):
    predicted, gold = zip(*rows, strict=True)
    found = compute(MultiLabelMetric(["urgent"]), [([p], [g]) for p, g in rows])
    f1 = sk.f1_score(gold, predicted, zero_division=0)
    assert found["f1_micro"] == found["f1_macro"] == found["by_label"]["urgent"]["f1"] == pytest.approx(f1)
    assert found["by_label"]["urgent"]["support"] == sum(gold)


@quick
@given(pairs(numbers))
def test_regression_metrics_are_those_of_scipy_and_never_nan(rows):
    predicted, gold = zip(*rows, strict=True)
    found = compute(RegressionMetric(), rows)
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(gold, predicted))
    if min(len(set(predicted)), len(set(gold))) == 1:
        assert found["pearson"] == found["spearman"] == 0.0
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = stats.pearsonr(gold, predicted).statistic, stats.spearmanr(gold, predicted).statistic
        assert (found["pearson"], found["spearman"]) == pytest.approx(expected)


def test_a_prediction_that_is_not_finite_is_an_error_that_says_so():
    with pytest.raises(ValueError, match="not a finite number"):
        RegressionMetric().compute(predictions=[0.5, float("nan")], references=[0.0, 1.0])


@quick
@given(tagged(BIO))
def test_span_metrics_are_those_of_seqeval(rows):
    predicted, gold = map(list, zip(*rows, strict=True))
    report = classification_report(gold, predicted, output_dict=True, zero_division=0) if any_span(rows) else {}
    found = compute(SpanMetric(BIO), rows)
    micro = report.get("micro avg", {"precision": 0.0, "recall": 0.0, "f1-score": 0.0})
    types = {name: name for name in report if not name.endswith(" avg")}
    flat = [(g, p) for row in zip(gold, predicted, strict=True) for g, p in zip(*row, strict=True)]
    expected = {
        "precision": micro["precision"],
        "recall": micro["recall"],
        "f1": micro["f1-score"],
        "accuracy": sum(g == p for g, p in flat) / len(flat),
        "by_label": by_label(report, types),
    }
    same(found, expected)


def any_span(rows: list) -> bool:
    return any(tag != "O" for row in rows for tags in row for tag in tags)


def test_spans_do_not_run_from_a_row_into_the_next():
    rows = [(["B-a"], ["B-a"]), (["I-a"], ["O"])]
    assert compute(SpanMetric(["O", "B-a", "I-a"]), rows)["f1"] == pytest.approx(2 / 3)


@quick
@given(tagged(["NOUN", "VERB", "O", "_"]))
def test_tag_metrics_are_those_of_scikit_learn_over_all_words(rows):
    predicted, gold = ([tag for row in rows for tag in row[side]] for side in (0, 1))
    present = sorted({*predicted, *gold})
    report = sk.classification_report(gold, predicted, labels=present, output_dict=True, zero_division=0)
    expected = {
        "accuracy": sk.accuracy_score(gold, predicted),
        "f1_macro": sk.f1_score(gold, predicted, average="macro", zero_division=0),
        "by_label": by_label(report, {tag: tag for tag in present}),
    }
    same(compute(TagMetric(["NOUN", "VERB", "O", "_"]), rows), expected)


ALL = [
    (SingleLabelMetric(LABELS), [(1, 1), (2, 0)]),
    (MultiLabelMetric(LABELS), [([0, 1, 0, 0], [0, 1, 1, 0])]),
    (RegressionMetric(), [(1.0, 2.0), (2.0, 2.5)]),
    (SpanMetric(BIO), [(["O", "B-person"], ["O", "B-person"])]),
    (TagMetric(["X", "Y"]), [(["X", "Y"], ["X", "X"])]),
]


@pytest.mark.parametrize(("metric", "rows"), ALL, ids=lambda value: type(value).__name__)
def test_a_metric_can_be_used_again_and_its_instances_do_not_mix(metric, rows):
    other = type(metric)(metric.label_list)
    first = compute(metric, rows)
    other.add_batch(predictions=[rows[0][0]], references=[rows[0][1]])
    assert compute(metric, rows) == first
    assert len(other) == 1


@pytest.mark.parametrize(("metric", "rows"), ALL, ids=lambda value: type(value).__name__)
def test_no_rows_and_sides_of_different_length_are_errors_that_say_so(metric, rows):
    with pytest.raises(ValueError, match="needs at least one prediction"):
        metric.compute(predictions=[], references=[])
    with pytest.raises(ValueError, match="Mismatch in the number of predictions"):
        metric.compute(predictions=[rows[0][0]] * 2, references=[rows[0][1]])


@pytest.mark.parametrize("metric", [SpanMetric(BIO), TagMetric(BIO)], ids=lambda metric: type(metric).__name__)
def test_rows_without_any_tag_and_rows_of_different_length_are_errors(metric):
    with pytest.raises(ValueError, match="all of the rows it was given are empty"):
        metric.compute(predictions=[[], []], references=[[], []])
    with pytest.raises(ValueError, match=r"inconsistent numbers|shorter|longer"):
        metric.compute(predictions=[["O"], ["O", "O"]], references=[["O", "O"], ["O"]])


IN_A_BARE_HOME = """
import socket
def refuse(*_, **__):
    raise AssertionError("the network was asked")
socket.socket.connect = socket.getaddrinfo = refuse
from tests.test_metrics import ALL, compute
for metric, rows in ALL:
    compute(type(metric)(metric.label_list), rows)
"""


def test_metrics_leave_nothing_on_the_disk_and_ask_no_network(tmp_path):
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_", "TMP"))}
    places = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", IN_A_BARE_HOME], env=keep | places, check=True)
    assert list(tmp_path.rglob("*")) == []


METRIC_OF_A_FOLDER = """
import datasets
import evaluate

class Hits(evaluate.Metric):
    def _info(self):
        kind = datasets.Value("int64")
        features = datasets.Features({"predictions": kind, "references": kind})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references):
        return {"hits": sum(p == r for p, r in zip(predictions, references))}
"""


def test_a_metric_of_a_folder_is_loaded_and_one_that_is_not_there_is_a_user_error(tmp_path, monkeypatch):
    (tmp_path / "hits").mkdir()
    (tmp_path / "hits" / "hits.py").write_text(METRIC_OF_A_FOLDER)
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("evaluate.config.HF_MODULES_CACHE", str(tmp_path / "modules"))
    metric = hub_metric(str(tmp_path / "hits"))
    assert metric.compute(predictions=[1, 2, 3], references=[1, 2, 0]) == {"hits": 2}
    with pytest.raises(UserError, match=r"metric '.*absent' could not be loaded: .*without a network"):
        hub_metric(str(tmp_path / "absent"))
    with pytest.raises(UserError, match="'bleu' is not built in"):
        hub_metric("bleu")
