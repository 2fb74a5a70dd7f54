"""Rows become sequences as the stock pipelines would encode their texts; what is left out is counted and named."""

import json
from pathlib import Path

import pytest

from hf_mtl.config import load_config
from hf_mtl.data.preparation import Prepared, prepare
from hf_mtl.errors import DataError
from tests.tiny import tiny_tokenizer

TOPIC = {"task_type": "text-classification", "dataset": "d", "label_column": "topic"}
NAMES = {"task_type": "token-classification", "dataset": "d", "label_column": "tags"}


def config_of(folder: Path, rows: list[dict], dataset: dict, tasks: dict, max_length: int = 16):
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_config(
        {
            "encoder": "user/encoder",
            "max_length": max_length,
            "datasets": {"d": {"path": "json", "data_files": str(file), **dataset}},
            "tasks": tasks,
            "training": {"output_dir": str(folder / "out")},
        }
    )


def prepared(folder: Path, rows, dataset, tasks, max_length=16, kind="wordpiece") -> Prepared:
    config = config_of(folder, rows, dataset, tasks, max_length)
    return prepare(config, tiny_tokenizer(kind, max_length))


def sequences_of(found: Prepared) -> list[dict]:
    train = found.sequences["d"]["train"]
    return train.take(range(len(train)))


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_a_text_is_encoded_as_the_stock_pipeline_encodes_it(tmp_path, kind):
    texts = ["Play [SEP] a song 👩‍👩‍👧", "明天早上北京的天气怎么样？" * 4, " padded  text "]
    rows = [{"text": text, "topic": "a"} for text in texts]
    found = sequences_of(prepared(tmp_path, rows, {"text_column": "text"}, {"topic": TOPIC}, kind=kind))
    tokenizer = tiny_tokenizer(kind, 16)
    assert [row["input_ids"] for row in found] == [tokenizer(text, truncation=True)["input_ids"] for text in texts]


def test_a_row_that_feeds_two_tasks_is_encoded_once(tmp_path):
    rows = [{"tokens": ["Book", "Nobu"], "topic": "x", "tags": ["O", "B-name"]}]
    (sequence,) = sequences_of(prepared(tmp_path, rows, {"tokens_column": "tokens"}, {"topic": TOPIC, "names": NAMES}))
    assert sequence["topic.items"] == 1
    assert sequence["names.items"] == 2


def test_windows_of_a_long_row_overlap_and_the_first_is_the_truncated_text(tmp_path):
    tokens = ["song"] * 60
    rows = [{"tokens": tokens, "topic": "x", "tags": ["O"] * 60}]
    found = prepared(tmp_path, rows, {"tokens_column": "tokens"}, {"topic": TOPIC, "names": NAMES})
    windows = sequences_of(found)
    assert len(windows) > 1
    assert windows[0]["input_ids"] == tiny_tokenizer("wordpiece", 16)(" ".join(tokens), truncation=True)["input_ids"]
    assert [window["topic.items"] for window in windows] == [1] + [0] * (len(windows) - 1)
    assert sum(window["names.items"] for window in windows) == 60
    assert found.sequences["d"]["train"].summary.over_length == 1


def test_pairs_carry_token_types_and_half_pairs_are_left_out(tmp_path):
    rows = [
        {"a": "one", "b": "two", "topic": "x"},
        {"a": "one", "b": None, "topic": "x"},
        {"a": "", "b": "y", "topic": "x"},
    ]
    found = prepared(tmp_path, rows, {"text_column": "a", "text_pair_column": "b"}, {"topic": TOPIC})
    (sequence,) = sequences_of(found)
    expected = tiny_tokenizer("wordpiece", 16)("one", "two", return_token_type_ids=True)
    assert sequence["input_ids"] == expected["input_ids"]
    assert sequence["token_type_ids"] == expected["token_type_ids"]
    summary = found.sequences["d"]["train"].summary
    assert summary.without_text_rows == [2, 3]
    assert found.tasks["topic"].spec.text_pair


def test_rows_without_a_label_are_kept_for_the_other_task_and_counted(tmp_path):
    rows = [
        {"tokens": ["a"], "topic": "x", "tags": None},
        {"tokens": ["a"], "topic": None, "tags": ["O"]},
        {"tokens": ["a"], "tags": None},
        {"tokens": [], "topic": "x", "tags": []},
        {"tokens": ["a"], "topic": "", "tags": [None]},
    ]
    found = prepared(tmp_path, rows, {"tokens_column": "tokens"}, {"topic": TOPIC, "names": NAMES})
    assert [(row["topic.items"], row["names.items"]) for row in sequences_of(found)] == [(1, 0), (0, 1)]
    summary = found.sequences["d"]["train"].summary
    assert summary.without_label_rows == [3, 5]
    assert summary.without_text_rows == [4]
    assert summary.task_without_label["topic"] == 3


def test_the_cache_is_read_again_until_the_file_or_an_option_changes(tmp_path):
    rows = [{"text": "one", "topic": "a"}, {"text": "two", "topic": "b"}]
    files = []
    for changed, max_length in ((rows, 16), (rows, 16), (rows, 12), ([*rows, {"text": "x", "topic": "c"}], 16)):
        found = prepared(tmp_path, changed, {"text_column": "text"}, {"topic": TOPIC}, max_length)
        files.append(found.sequences["d"]["train"].dataset.cache_files[0]["filename"])
    assert files[0] == files[1]
    assert len(set(files)) == 3
    assert found.tasks["topic"].spec.label_list == ["a", "b", "c"]


def test_words_that_are_not_in_the_text_are_refused_with_row_and_word(tmp_path):
    rows = [{"text": "to Berlin", "tokens": ["to", "Paris"], "tags": ["O", "B-name"]}]
    with pytest.raises(DataError, match=r"rows.jsonl row 1: word 2 'Paris' does not stand in the text"):
        prepared(tmp_path, rows, {"text_column": "text", "tokens_column": "tokens"}, {"names": NAMES})


def test_all_rows_that_cannot_be_read_are_named_at_once(tmp_path):
    rows = [
        {"tokens": ["a"], "tags": ["O", "O"]},
        {"tokens": ["a"], "tags": ["B-x"]},
        {"tokens": ["a"], "tags": ["S-x"]},
    ]
    entry = NAMES | {"tag_scheme": "BIO"}
    with pytest.raises(DataError) as refused:
        prepared(tmp_path, rows, {"tokens_column": "tokens"}, {"names": entry})
    message = str(refused.value)
    assert "row 1: task names: 2 tags for 1 words" in message
    assert "row 3: task names: tag 'S-x' is not one of BIO" in message


def test_a_split_without_a_usable_row_is_refused(tmp_path):
    with pytest.raises(DataError, match="no row of train has a label"):
        prepared(tmp_path, [{"text": "a", "topic": None}], {"text_column": "text"}, {"topic": TOPIC})
    with pytest.raises(DataError, match="no row can be used .1 rows; 1 without text"):
        prepared(tmp_path, [{"text": " ", "topic": "x"}], {"text_column": "text"}, {"topic": TOPIC})
