"""Labels that differ in spelling alone: refused with the pairs, or folded into the most frequent spelling."""

import pytest

from hf_mtl.errors import DataError
from hf_mtl.tasks.labels import LabelError, LabelIndex, found_labels
from tests.test_preparation import TOPIC, prepared

SPELT = ["Good", "good ", "good ", "bad", "bad\u00a0", "BAD", "bad", "so  so", "so so"]


def rows_of(labels):
    return [{"text": f"text {number}", "topic": label} for number, label in enumerate(labels)]


def test_spellings_of_one_label_are_refused_with_how_often_each_occurs(tmp_path):
    with pytest.raises(LabelError) as found:
        found_labels(SPELT, normalise=False)
    for told in (r"'bad' (2), 'BAD' (1), 'bad\xa0' (1)", "'good ' (2), 'Good' (1)", "normalise_labels: true"):
        assert told in str(found.value)
    with pytest.raises(DataError, match="data set d, column topic, task topic: labels that differ in spelling alone"):
        prepared(tmp_path, rows_of(SPELT), {"text_column": "text"}, {"topic": TOPIC})


def test_folded_they_are_the_most_frequent_spelling(tmp_path):
    found = prepared(tmp_path, rows_of(SPELT), {"text_column": "text"}, {"topic": TOPIC | {"normalise_labels": True}})
    assert found.tasks["topic"].spec.label_list == ["bad", "good ", "so  so"]
    assert found.sequences["d"]["train"].summary.labels["topic"] == {"bad": 4, "good ": 3, "so  so": 2}


def test_labels_of_several_are_folded_one_by_one(tmp_path):
    rows = rows_of([["Good", "bad"], ["good"], ["good", "Good"], ["good"]])
    task = TOPIC | {"problem_type": "multi_label_classification", "normalise_labels": True}
    found = prepared(tmp_path, rows, {"text_column": "text"}, {"topic": task})
    assert found.sequences["d"]["train"].summary.labels["topic"] == {"good": 4, "bad": 1}


def test_words_that_differ_by_more_stay_apart():
    assert found_labels(["no", "on", "No.", "n o"]) == ["No.", "n o", "no", "on"]


def test_a_listed_label_stands_for_its_spellings():
    index = LabelIndex(["Good", "bad"], "topic", normalise=True)
    assert [index(cell) for cell in ("good", " GOOD", "Good", "Bad\t", 1)] == [0, 0, 0, 1, 1]
    with pytest.raises(LabelError, match="is not in label_list"):
        index("goods")
    with pytest.raises(LabelError, match="normalise_labels: true to take it for 'Good'"):
        LabelIndex(["Good", "bad"], "topic")("good")
    with pytest.raises(LabelError, match="'Good' in two spellings"):
        LabelIndex(["Good", "good"], "topic", normalise=True)


def test_two_spellings_in_a_list_are_refused_where_the_column_is_known(tmp_path):
    task = TOPIC | {"normalise_labels": True, "label_list": ["Sport", "sport"]}
    with pytest.raises(DataError, match="column topic, task topic: label_list has 'Sport' in two spellings"):
        prepared(tmp_path, rows_of(["Sport"]), {"text_column": "text"}, {"topic": task})


def test_words_that_upper_case_alone_makes_equal_stay_apart():
    assert found_labels(["Maße", "Masse", "masse"], normalise=True) == ["Masse", "Maße"]


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (["caf\u00e9", "cafe\u0301"], r"'cafe\u0301' (1), 'caf\xe9' (1)"),
        (["good", "good\u200b"], r"'good' (1), 'good\u200b' (1)"),
        (["1", "1.0", "0"], "'1' (1), '1.0' (1)"),
    ],
)
def test_what_looks_or_counts_the_same_is_one_label_in_two_spellings(labels, told):
    with pytest.raises(LabelError) as found:
        found_labels(labels, normalise=False)
    assert told in str(found.value)


def test_versions_are_no_whole_numbers():
    assert found_labels(["1.0", "1.1", "10", "1.0.0"], normalise=False) == ["1.0", "1.0.0", "1.1", "10"]


@pytest.mark.parametrize(
    ("labels", "row"), [(["good", "good", "Good"], 3), (["1", "2", 1, "1"], 3), ([["a"], ["a", "b"], ["A"], ["a"]], 3)]
)
def test_a_row_with_the_rarest_is_named(tmp_path, labels, row):
    with pytest.raises(DataError, match=rf"stands for example in .*rows\.jsonl row {row}$"):
        prepared(tmp_path, rows_of(labels), {"text_column": "text"}, {"topic": TOPIC})


def test_a_column_of_what_is_no_label_is_refused_with_a_row(tmp_path):
    with pytest.raises(DataError, match=r"label {'a': 1} is an object; .* for example in .*rows\.jsonl row 2$"):
        prepared(tmp_path, rows_of([None, {"a": 1}, {"b": 2}]), {"text_column": "text"}, {"topic": TOPIC})


def test_digits_without_end_are_a_label(tmp_path):
    digits = "7" * 5000
    assert found_labels([digits, "1"]) == ["1", digits]
    assert LabelIndex(["a", "b"], "topic", normalise=True).places == {"a": 0, "b": 1}
    with pytest.raises(LabelError, match="is not in label_list"):
        LabelIndex(["a", "b"], "topic")(digits)
