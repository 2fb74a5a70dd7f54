"""Rows that the options of a data set leave out: these and no others, counted by reason and named by their numbers."""

import json

import pytest

from hf_mtl.data.left_out import left_out
from hf_mtl.data.report import shared_texts
from hf_mtl.errors import DataError
from tests.test_preparation import NAMES, TOPIC, config_of, prepare, sequences_of
from tests.tiny import tiny_tokenizer

TEXTS = {"text_column": "text"}


def row(text, topic, **more):
    return {"text": text, "topic": topic, **more}


def read(folder, rows, tasks=None, validation=None, **options):
    """(texts of train that are read, lines that say what is left out)."""
    dataset = TEXTS | options
    if validation is not None:
        file = folder / "validation.jsonl"
        file.write_text("".join(json.dumps(one) + "\n" for one in validation), encoding="utf-8")
        dataset["data_files"] = {"train": str(folder / "rows.jsonl"), "validation": str(file)}
    config = config_of(folder, rows, dataset, tasks or {"topic": TOPIC})
    found = prepare(config, tiny_tokenizer("wordpiece", 16)).sequences["d"]
    places = [sequence["row"] for sequence in found["train"].take(range(len(found["train"])))]
    batch = found["train"].rows.batch(0, len(found["train"].rows))
    return [batch["text"][place] for place in places], list(left_out("d", found)), found, config


ROWS = [
    row("a song", "music"),
    row("rain", "weather"),
    row("a song", "music"),
    row("rain", "music"),
    row("snow", "weather"),
    row("a song", "music"),
    row("snow", None),
]


def test_without_options_every_row_is_read(tmp_path):
    texts, told, _, _ = read(tmp_path, ROWS)
    assert texts == ["a song", "rain", "a song", "rain", "snow", "a song"]
    assert told == ["d train: 1 rows without a label for any task left out: 7"]


def test_of_equal_rows_the_first_stays(tmp_path):
    texts, told, _, _ = read(tmp_path, ROWS, drop_duplicates=True)
    assert texts == ["a song", "rain", "rain", "snow"]
    assert told[0] == "d train: 2 rows that repeat a row before (drop_duplicates) left out: 3, 6"


def test_of_a_text_with_different_labels_no_row_stays_and_no_label_is_no_other_label(tmp_path):
    texts, told, _, _ = read(tmp_path, ROWS, drop_conflicts=True)
    assert texts == ["a song", "a song", "snow", "a song"]
    assert told[0] == "d train: 2 rows whose text has other labels elsewhere (drop_conflicts) left out: 2, 4"


def test_labels_of_every_task_count(tmp_path):
    mood = TOPIC | {"label_column": "mood"}
    rows = [
        row("a", "x", mood="good"),
        row("a", "x", mood="bad"),
        row("b", "x", mood="bad"),
        row("b", None, mood="bad"),
    ]
    assert read(tmp_path, rows, {"topic": TOPIC, "mood": mood}, drop_conflicts=True)[0] == ["b", "b"]
    assert read(tmp_path, rows, {"topic": TOPIC, "mood": mood}, drop_duplicates=True)[0] == ["a", "a", "b", "b"]
    assert read(tmp_path, rows, {"topic": TOPIC}, drop_duplicates=True)[0] == ["a", "b"]


def test_a_row_is_told_under_one_reason(tmp_path):
    rows = [*ROWS, row("x", "music"), row("x", "music"), row("x", "weather")]
    _, told, _, _ = read(tmp_path, rows, drop_duplicates=True, drop_conflicts=True, min_characters=3, max_characters=5)
    assert told == [
        "d train: 3 rows of fewer than 3 characters (min_characters) left out: 8, 9, 10",
        "d train: 3 rows of more than 5 characters (max_characters) left out: 1, 3, 6",
        "d train: 2 rows whose text has other labels elsewhere (drop_conflicts) left out: 2, 4",
        "d train: 1 rows without a label for any task left out: 7",
    ]


def test_characters_are_code_points_and_rows_without_text_are_told_as_such(tmp_path):
    rows = [row("👩‍👩‍👧", "a"), row("天气", "b"), row("", "a"), row(" ", "a")]
    texts, told, _, _ = read(tmp_path, rows, min_characters=3)
    assert texts == ["👩‍👩‍👧"]
    assert told == [
        "d train: 1 rows of fewer than 3 characters (min_characters) left out: 2",
        "d train: 2 rows without text left out: 3, 4",
    ]


def test_texts_of_other_splits_leave_train(tmp_path):
    texts, told, found, config = read(tmp_path, ROWS, validation=[row("rain", "weather")], drop_leaks=True)
    assert "rain" not in texts
    assert told[0] == "d train: 2 rows whose text stands in another split (drop_leaks) left out: 2, 4"
    splits = {name: sequences.rows for name, sequences in found.items()}
    assert list(shared_texts(splits, config.datasets["d"])) == ["0 of 1 texts of validation stand in train too"]


def test_a_share_is_cut_of_what_there_is_and_every_row_is_in_one_part(tmp_path):
    rows = [row(f"text {number}", "ab"[number % 2]) for number in range(40)] + [row("text 1", "b")] * 5
    _, told, found, _ = read(tmp_path, rows, splits={"validation": 0.25}, drop_duplicates=True)
    texts = [text for split in found.values() for text in split.rows.batch(0, 50)["text"]]
    assert sorted(texts) == sorted(f"text {number}" for number in range(40))
    assert sum(int(line.split(": ")[1].split()[0]) for line in told) == 5


def test_only_the_first_rows_are_named(tmp_path):
    _, (told,), _, _ = read(tmp_path, [row("one", "a"), row("two", "b")] * 30, drop_duplicates=True)
    named = ", ".join(map(str, range(3, 23)))
    assert told == f"d train: 58 rows that repeat a row before (drop_duplicates) left out: {named}, …"


def test_a_choice_is_read_anew_when_it_changes(tmp_path):
    prints = {
        read(tmp_path, ROWS, **options)[2]["train"].fingerprint
        for options in ({}, {"drop_duplicates": True}, {"drop_conflicts": True}, {"drop_leaks": True})
    }
    # Nothing leaks, and yet it is another entry of the run file.
    assert len(prints) == 4


def test_a_choice_that_leaves_nothing_is_refused(tmp_path):
    with pytest.raises(DataError) as found:
        read(tmp_path, ROWS, max_characters=1)
    assert str(found.value) == (
        "data set d, split train: its options leave out every row: 7 of more than 1 characters (max_characters)"
    )


def test_words_and_pairs_have_texts_too(tmp_path):
    rows = [{"tokens": ["a", "b"], "tags": ["O", "O"]}, {"tokens": ["a", "b"], "tags": ["O", "B-x"]}]
    config = config_of(tmp_path, rows * 2, {"tokens_column": "tokens", "drop_duplicates": True}, {"names": NAMES})
    assert len(sequences_of(prepare(config, tiny_tokenizer("wordpiece", 16)))) == 2
    pairs = [row("a", "x", other="b"), row("a", "x", other="c"), row("a", "y", other="b")]
    assert read(tmp_path, pairs, text_pair_column="other", drop_conflicts=True)[1] == [
        "d train: 2 rows whose text has other labels elsewhere (drop_conflicts) left out: 1, 3"
    ]
    assert read(tmp_path, pairs, text_pair_column="other", min_characters=2)[1] == []


@pytest.mark.parametrize(
    ("keys", "one", "other"),
    [
        ({"label_separator": ";"}, "x; y", "y;x"),
        ({"problem_type": "multi_label_classification"}, ["x", "y"], ["y", "x"]),
        ({"problem_type": "regression"}, 1, 1.0),
        ({"normalise_labels": True}, "Good", "good "),
        (
            {"task_type": "token-classification", "label_column": None, "spans_column": "topic"},
            [{"start": 0, "end": 1, "label": "x", "id": 7}, {"start": 2, "end": 3, "label": "y"}],
            [{"start": 2, "end": 3, "label": "y"}, {"label": "x", "start": 0, "end": 1, "id": 9}],
        ),
    ],
)
def test_labels_that_say_the_same_are_no_conflict(tmp_path, keys, one, other):
    rows = [row("a b", one), row("a b", other)]
    assert read(tmp_path, rows, {"topic": TOPIC | keys}, drop_conflicts=True)[0] == ["a b", "a b"]
    assert read(tmp_path, rows, {"topic": TOPIC | keys}, drop_duplicates=True)[0] == ["a b"]


def test_pairs_without_a_text_are_left_out_as_such_and_not_for_their_length(tmp_path):
    pairs = [("one song", "rain"), ("a", ""), ("a", "b"), (" ", "a long text"), ("a", ""), (None, "rain and snow")]
    rows = [{"text": one, "b": other, "topic": "music"} for one, other in pairs]
    options = {"min_characters": 5, "max_characters": 12, "drop_duplicates": True}
    _, told, _, _ = read(tmp_path, rows, text_pair_column="b", **options)
    assert told == [
        "d train: 1 rows of fewer than 5 characters (min_characters) left out: 3",
        "d train: 4 rows without text left out: 2, 4, 5, 6",
    ]


def test_a_label_that_cannot_be_read_is_no_other_label_and_is_refused(tmp_path):
    rows = [row("a b", 1), row("a b", "x"), row("c d", 2), row("a b", "x")]
    regression = {"topic": TOPIC | {"problem_type": "regression"}}
    with pytest.raises(DataError) as found:
        read(tmp_path, rows, regression, drop_conflicts=True, drop_duplicates=True)
    assert [line.split(":")[0].rpartition("/")[2] for line in str(found.value).splitlines()] == [
        "rows.jsonl row 2",
        "rows.jsonl row 4",
    ]


def test_what_empties_a_split_is_told(tmp_path):
    told = []
    files = {"train": str(tmp_path / "rows.jsonl"), "validation": str(tmp_path / "v.jsonl")}
    (tmp_path / "v.jsonl").write_text(json.dumps(row("far too long a text", "music")) + "\n", encoding="utf-8")
    config = config_of(tmp_path, ROWS, TEXTS | {"max_characters": 10, "data_files": files}, {"topic": TOPIC})
    prepare(config, tiny_tokenizer("wordpiece", 16), progress=told.append)
    assert told[-1] == (
        "d: split validation is left out, for none of its rows can be used: "
        "1 rows of more than 10 characters (max_characters) left out: 1"
    )


def test_pairs_without_text_are_no_leaks(tmp_path):
    pair = [{"text": "", "second": "", "topic": "music"}, {"text": "a", "second": "b", "topic": "music"}]
    options = {"text_pair_column": "second"}
    _, _, found, config = read(tmp_path, pair, validation=pair[:1] + [pair[1] | {"second": "c"}], **options)
    splits = {name: sequences.rows for name, sequences in found.items()}
    assert list(shared_texts(splits, config.datasets["d"])) == ["0 of 2 texts of validation stand in train too"]
