"""Labelled spans of characters become tags of words, or the row that they do not fit is named."""

import datasets
import pytest

from hf_mtl.data.preparation import prepare
from hf_mtl.errors import DataError
from hf_mtl.tasks.labels import LabelError
from hf_mtl.tasks.spans import read_spans, span_tags, span_words
from tests.test_preparation import NAMES, TOPIC, config_of, prepared, sequences_of
from tests.tiny import tiny_tokenizer

SPANS = {"task_type": "token-classification", "dataset": "d", "spans_column": "spans"}
LONDON = "Adele sang in London. London, 2 times!"


def span(start, end, label="place"):
    return {"start": start, "end": end, "label": label}


def words_of(text, *spans):
    return [text[start:end] for start, end in span_words(text, [list(spans)])]


def test_words_are_runs_of_letters_signs_and_single_characters_where_no_blanks_are_written():
    assert words_of("Adele's café—l'été, 3.5 m²!") == [
        *["Adele", "'", "s", "café", "—", "l", "'", "été", ",", "3", ".", "5", "m²", "!"]
    ]
    assert words_of("我爱 Beijing北京") == ["我", "爱", "Beijing", "北", "京"]
    assert words_of("") == []


def test_a_span_that_ends_within_a_word_cuts_it():
    assert words_of("Londoner in Parisian", span(0, 6), span(12, 17)) == ["London", "er", "in", "Paris", "ian"]


@pytest.mark.parametrize("order", [1, -1])
def test_the_same_words_twice_are_told_apart(order):
    spans = [span(0, 5, "person"), span(22, 28)][::order]
    words = span_words(LONDON, [spans])
    tags = dict(
        zip([LONDON[start:end] + str(start) for start, end in words], span_tags(read_spans(spans), words), strict=True)
    )
    assert {word: tag for word, tag in tags.items() if tag != "O"} == {"Adele0": "B-person", "London22": "B-place"}


def test_a_span_of_several_words_begins_once_and_touching_spans_begin_each():
    text = "New York Paris"
    spans = [span(0, 8), span(9, 14)]
    assert span_tags(read_spans(spans), span_words(text, [spans])) == ["B-place", "I-place", "B-place"]


def test_blanks_at_the_edges_of_a_span_do_not_count():
    spans = [span(5, 14)]
    assert span_tags(read_spans(spans), span_words(LONDON, [spans]))[:4] == ["O", "B-place", "I-place", "O"]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("0-6", "are not a list; write"),
        ([[0, 6, "place"]], "is no span; a span has start, end and label"),
        ([{"start": 0, "end": 6}], "is no span"),
        ([span("0", 6)], "start and end are whole numbers of characters from 0 on"),
        ([span(0.0, 6)], "whole numbers"),
        ([span(True, 6)], "whole numbers"),
        ([span(-1, 6)], "from 0 on"),
        ([span(6, 6)], "its end is not behind its start"),
        ([span(0, 6, "")], "has an empty label"),
        ([span(0, 6, None)], "has no label"),
        ([span(0, 6), span(4, 9)], r"spans 0–6 \(place\) and 4–9 \(place\) overlap"),
        ([span(0, 9), span(2, 4)], "overlap"),
        ([span(0, 6), span(0, 6, "other")], "overlap"),
    ],
)
def test_what_is_no_list_of_spans_is_refused(cell, message):
    with pytest.raises(LabelError, match=message):
        read_spans(cell)


@pytest.mark.parametrize("wrong", [span(40, 45), span(5, 6)])
def test_a_span_without_a_word_is_refused(wrong):
    with pytest.raises(LabelError, match="holds no word: it is behind the end of the text, blank"):
        span_tags(read_spans([wrong]), span_words(LONDON, [[wrong]]))


def test_spans_are_trained_as_tags_of_words(tmp_path):
    text = "Play a song by Taylor Swift"
    tokens = text.split()
    by_spans = [{"text": text, "spans": [span(15, 27, "name")]}, {"text": text, "spans": []}, {"text": text}]
    by_tags = [
        {"tokens": tokens, "tags": ["O"] * 4 + ["B-name", "I-name"]},
        {"tokens": tokens, "tags": ["O"] * 6},
        {"tokens": tokens, "tags": None},
    ]
    one = prepared(tmp_path, by_spans, {"text_column": "text"}, {"names": SPANS})
    other = prepared(tmp_path, by_tags, {"tokens_column": "tokens"}, {"names": NAMES})
    assert one.tasks["names"].spec == other.tasks["names"].spec
    assert sequences_of(one) == sequences_of(other)
    found = one.sequences["d"]["train"].summary
    assert found.labels["names"] == {"name": 1}
    assert found.without_label_rows == [2]


def test_beside_words_a_span_tags_those_that_it_touches(tmp_path):
    rows = [{"text": "Taylor Swift's song", "tokens": ["Taylor", "Swift's", "song"], "spans": [span(0, 12, "name")]}]
    (sequence,) = sequences_of(
        prepared(tmp_path, rows, {"text_column": "text", "tokens_column": "tokens"}, {"names": SPANS})
    )
    assert sequence["names.tags"] == [1, 2, 0]


def test_a_row_whose_spans_do_not_fit_is_named(tmp_path):
    rows = [
        {"text": "Play", "spans": [span(0, 4, "name")], "topic": "a"},
        {"text": "Play", "spans": [span(0, 4, "name"), span(3, 4, "name")], "topic": "a"},
        {"text": "Play", "spans": [span(7, 9, "name")], "topic": "a"},
    ]
    with pytest.raises(DataError) as found:
        prepared(tmp_path, rows, {"text_column": "text"}, {"names": SPANS, "topic": TOPIC})
    lines = str(found.value).splitlines()
    assert sorted(line.split(": ")[0].rpartition("/")[2] for line in lines) == ["rows.jsonl row 2", "rows.jsonl row 3"]
    assert all("column 'spans'" in line for line in lines)


def test_a_label_that_is_not_listed_is_refused_and_types_may_be_listed(tmp_path):
    rows = [{"text": "Play", "spans": [span(0, 4, "name")]}]
    listed = prepared(tmp_path, rows, {"text_column": "text"}, {"names": SPANS | {"label_list": ["place", "name"]}})
    assert listed.tasks["names"].spec.label_list == ["O", "B-place", "I-place", "B-name", "I-name"]
    with pytest.raises(DataError, match=r"row 1: column 'spans': label 'name' of task names is not in"):
        prepared(tmp_path, rows, {"text_column": "text"}, {"names": SPANS | {"label_list": ["place"]}})


def test_marks_stay_with_their_letters():
    assert words_of("दिल्ली") == ["दिल्ली"]
    assert words_of("Zu\u0308rich!") == ["Zu\u0308rich", "!"]


def test_one_answer_for_the_words_of_a_piece_is_one_entity(tmp_path):
    rows = [{"text": "我在北京", "spans": [span(2, 4)]}]
    found = prepared(tmp_path, rows, {"text_column": "text"}, {"names": SPANS})
    task = found.tasks["names"]
    # As a tokenizer has it that knows 北京 as one piece.
    sequence = {"words": [0, 1, 2, 3], "pieces": [1, 2, 3, 3], "tags": [0, 0, 1, 2]}
    answer = task.join([(sequence, ([0, 0, 0, 1, 0], [1.0] * 5))])
    assert answer.prediction == answer.reference == ["O", "O", "B-place", "I-place"]


def test_labels_may_look_like_tags_and_places_stand_for_listed_ones(tmp_path):
    rows = [{"text": "Play it", "spans": [span(0, 4, "E-mail"), span(5, 7, "U-Bahn")]}]
    found = prepared(tmp_path, rows, {"text_column": "text"}, {"names": SPANS})
    assert found.tasks["names"].spec.label_list == ["O", "B-E-mail", "I-E-mail", "B-U-Bahn", "I-U-Bahn"]
    assert sequences_of(found)[0]["names.tags"] == [1, 3]
    rows = [{"text": "Play it", "spans": [span(0, 4, 1), span(5, 7, "0")]}]
    listed = prepared(tmp_path, rows, {"text_column": "text"}, {"names": SPANS | {"label_list": ["place", "name"]}})
    assert sequences_of(listed)[0]["names.tags"] == [3, 1]


def test_the_weight_of_a_type_holds_for_both_its_tags(tmp_path):
    rows = [{"text": "Play", "spans": [span(0, 4, "name")]}]
    task = SPANS | {"class_weight": {"name": 3.0}}
    found = prepared(tmp_path, rows, {"text_column": "text"}, {"names": task})
    assert found.tasks["names"].class_weight.tolist() == [1.0, 3.0, 3.0]


@pytest.mark.parametrize(
    ("task", "column", "cell", "message"),
    [
        (SPANS, "spans", [[0, 5, "person"]], "is no span; a span has start, end and label"),
        (NAMES, "tags", 3, "tags 3 are not a list"),
    ],
    ids=["spans", "tags"],
)
def test_where_no_cell_can_be_read_the_rows_are_named(tmp_path, task, column, cell, message):
    columns = {"text_column": "text", "tokens_column": "tokens"}
    made = [{"text": LONDON, "tokens": ["Adele"], column: own} for own in (None, cell, cell)]
    with pytest.raises(DataError) as refused:
        prepared(tmp_path, made, columns, {"names": task})
    lines = str(refused.value).splitlines()
    assert [line.partition(": ")[0].rpartition("/")[2] for line in lines] == ["rows.jsonl row 2", "rows.jsonl row 3"]
    assert all(f"column {column!r}: " in line and message in line for line in lines)


def test_a_column_of_spans_that_is_not_there_is_called_so(tmp_path):
    with pytest.raises(DataError, match=r"has no column 'spans' \(spans_column of data set d\)"):
        prepared(tmp_path, [{"text": LONDON}], {"text_column": "text"}, {"names": SPANS})


def test_labels_of_spans_may_be_places_in_the_names_of_the_data_set(tmp_path):
    names = datasets.ClassLabel(names=["place", "person"])
    own = {"start": datasets.Value("int32"), "end": datasets.Value("int32"), "label": names}
    features = datasets.Features({"text": datasets.Value("string"), "spans": datasets.List(own)})
    cells = {"text": [LONDON, "x"], "spans": [[span(0, 5, 1), span(15, 21, 0)], []]}
    config = config_of(tmp_path, [], {"text_column": "text", "path": None, "data_files": None}, {"names": SPANS})
    for told in (features, None):
        cells["spans"] = cells["spans"] if told else [[span(0, 5, "person"), span(15, 21)], []]
        memory = {"d": datasets.Dataset.from_dict(cells, features=told)}
        found = prepare(config, tiny_tokenizer("wordpiece", 16), memory=memory)
        assert sorted(found.tasks["names"].spec.label_list) == ["B-person", "B-place", "I-person", "I-place", "O"]
        assert found.sequences["d"]["train"].summary.labels["names"] == {"person": 1, "place": 1}
    wrong = datasets.Dataset.from_dict({"text": [LONDON], "spans": [[span(0, 5, -1)]]}, features=features)
    with pytest.raises(DataError, match=r"d.train. row 1: column 'spans': .*-1 has no name"):
        prepare(config, tiny_tokenizer("wordpiece", 16), memory={"d": wrong})


@pytest.mark.parametrize(
    ("label", "told"), [(None, "has no label"), (" ", "has an empty label"), ("O", "labelled O, which means no entity")]
)
def test_a_span_needs_a_label_that_says_something(label, told):
    with pytest.raises(LabelError, match=told):
        read_spans([{"start": 0, "end": 1, "label": label}])
