"""Rows become sequences as the stock pipelines would encode their texts; what is left out is counted and named."""

import json
from pathlib import Path

import datasets
import pytest

from hf_mtl.config import load_config
from hf_mtl.data.left_out import left_out
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
    assert summary.without_text_rows == [1, 2]
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
    assert summary.without_label_rows == [2, 4]
    assert summary.without_text_rows == [3]
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
    assert "row 1: column 'tags': task names: 2 tags for 1 words" in message
    assert "row 3: column 'tags': task names: tag 'S-x' is not one of BIO" in message


def test_a_split_without_a_usable_row_is_refused(tmp_path):
    with pytest.raises(DataError, match="no row of train has a label"):
        prepared(tmp_path, [{"text": "a", "topic": None}], {"text_column": "text"}, {"topic": TOPIC})
    with pytest.raises(DataError, match="no row can be used .1 rows; 1 without text"):
        prepared(tmp_path, [{"text": " ", "topic": "x"}], {"text_column": "text"}, {"topic": TOPIC})


def test_rows_left_out_are_named_by_file_and_number_there(tmp_path):
    for name in ("one", "two"):
        lines = [{"text": "a", "topic": "x"}, {"text": f"b {name}", "topic": None}, {"text": "", "topic": "x"}]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
    files = ["one.jsonl", "two.jsonl"]
    config = config_of(tmp_path, [], {"text_column": "text", "data_files": files}, {"topic": TOPIC})
    config = config.model_copy(update={"base_dir": str(tmp_path)})
    found = prepare(config, tiny_tokenizer("wordpiece", 16))
    assert list(left_out("d", found.sequences["d"])) == [
        "d train: 2 rows without text left out: one.jsonl row 3, two.jsonl row 3",
        "d train: 2 rows without a label for any task left out: one.jsonl row 2, two.jsonl row 2",
    ]


def test_rows_of_a_share_are_named_by_their_numbers_in_train(tmp_path):
    rows = [{"text": f"text {number}", "topic": "a" if number % 2 else None} for number in range(20)]
    dataset = {"text_column": "text", "splits": {"train": "train", "validation": 0.3}}
    found = prepared(tmp_path, rows, dataset, {"topic": TOPIC})
    named = [line.partition("left out: ")[2] for line in left_out("d", found.sequences["d"])]
    assert sorted(int(number) for line in named for number in line.split(", ")) == list(range(1, 21, 2))


@pytest.mark.parametrize(("cell", "tag"), [([0, 1, 2], "B-x"), ("0 1 2", "B-x"), (["O", "B-x", "I-x"], "B-x")])
def test_label_list_may_be_a_file_and_tags_places_in_it(tmp_path, cell, tag):
    (tmp_path / "names.json").write_text('["O", "B-x", "I-x"]', encoding="utf-8")
    entry = NAMES | {"label_list": str(tmp_path / "names.json")}
    rows = [{"tokens": ["a", "b", "c"], "tags": cell}]
    (sequence,) = sequences_of(prepared(tmp_path, rows, {"tokens_column": "tokens"}, {"names": entry}))
    assert sequence["names.tags"] == [0, 1, 2]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[" * 100_000, id="deep"),
        '["a", "\\ud83d"]',
        '["a", "a"]',
        '["1", 1]',
        '["a", ""]',
        '{"a": 1}',
        "[]",
        "[",
    ],
)
def test_a_label_list_file_is_a_list_of_different_names(tmp_path, text):
    (tmp_path / "names.json").write_text(text, encoding="utf-8")
    entry = TOPIC | {"label_list": str(tmp_path / "names.json")}
    with pytest.raises(DataError, match=r"tasks.topic.label_list: .*names.json"):
        prepared(tmp_path, [{"text": "a", "topic": "a"}], {"text_column": "text"}, {"topic": entry})


def test_what_is_cached_is_found_again_after_other_splits_and_with_another_loss_weight(tmp_path):
    rows = [{"text": f"text {number}", "topic": "ab"[number % 2]} for number in range(20)]
    dataset = {"text_column": "text", "splits": {"train": "train", "validation": 0.3}}
    tokenizer = tiny_tokenizer("wordpiece", 16)
    files = []
    for weight in (1.0, 2.0):
        found = prepare(
            config_of(tmp_path, rows, dataset, {"topic": TOPIC | {"loss_weight": weight}}), tokenizer
        ).sequences["d"]
        files.append([split.dataset.cache_files[0]["filename"] for split in found.values()])
        tokenizer("one", truncation=True, max_length=9, padding="max_length")
    assert files[0] == files[1]


def test_another_version_of_the_tokenizers_encodes_anew(tmp_path, monkeypatch):
    files = []
    for version in ("1", "2"):
        monkeypatch.setattr("tokenizers.__version__", version)
        found = prepared(tmp_path, [{"text": "one", "topic": "a"}], {"text_column": "text"}, {"topic": TOPIC})
        files.append(found.sequences["d"]["train"].dataset.cache_files[0]["filename"])
    assert files[0] != files[1]


def test_a_test_split_without_labels_is_left_out_with_a_word_and_no_other_is(tmp_path):
    named = datasets.Features({"text": datasets.Value("string"), "topic": datasets.ClassLabel(names=["a", "b"])})

    def rows(label):
        return datasets.Dataset.from_dict({"text": ["one", "two"], "topic": [label, label]}, features=named)

    config = config_of(tmp_path, [], {"text_column": "text", "path": None, "data_files": None}, {"topic": TOPIC})
    said = []
    memory = {"d": datasets.DatasetDict(train=rows(0), test=rows(-1))}
    found = prepare(config, tiny_tokenizer("wordpiece", 16), memory=memory, progress=said.append)
    assert list(found.sequences["d"]) == ["train"]
    assert said[1] == (
        "d: split test is left out, for none of its rows can be used: "
        "2 rows without a label for any task left out: 1, 2"
    )
    with pytest.raises(DataError, match="split test: no row can be used .2 rows"):
        prepare(config, tiny_tokenizer("wordpiece", 16), memory=memory, tasks=found.tasks, wanted=["test"])
    memory = {"d": datasets.DatasetDict(train=rows(-1))}
    with pytest.raises(DataError, match="split train: no row can be used"):
        prepare(config, tiny_tokenizer("wordpiece", 16), memory=memory)


def test_a_task_without_a_label_in_train_is_refused_although_others_have_some(tmp_path):
    rows = [{"tokens": ["a"], "topic": None, "tags": ["O"]}]
    tasks = {"topic": TOPIC | {"label_list": ["x", "y"]}, "names": NAMES}
    with pytest.raises(DataError, match="no row has a label for task topic"):
        prepared(tmp_path, rows, {"tokens_column": "tokens"}, tasks)


def test_a_null_word_of_a_list_that_datasets_read_is_refused_with_its_row(tmp_path):
    config = config_of(tmp_path, [], {"tokens_column": "tokens", "path": None, "data_files": None}, {"names": NAMES})
    memory = {"d": datasets.Dataset.from_dict({"tokens": [["a"], ["a", None]], "tags": [["O"], ["O", "O"]]})}
    with pytest.raises(DataError, match=r"d.train. row 2: word 2 is null"):
        prepare(config, tiny_tokenizer("wordpiece", 16), memory=memory)


def test_a_settled_task_is_read_without_its_label_list_file(tmp_path):
    names = tmp_path / "names.json"
    names.write_text('["a", "b"]', encoding="utf-8")
    config = config_of(
        tmp_path,
        [{"text": "one", "topic": "b"}],
        {"text_column": "text"},
        {"topic": TOPIC | {"label_list": str(names)}},
    )
    tokenizer = tiny_tokenizer("wordpiece", 16)
    found = prepare(config, tokenizer)
    names.unlink()
    again = prepare(config, tokenizer, tasks=found.tasks)
    assert sequences_of(again) == sequences_of(found)
    with pytest.raises(DataError, match=r"tasks.topic.label_list: .*cannot be read"):
        prepare(config, tokenizer)


def test_what_is_cached_may_be_read_by_whom_the_cache_belongs_to(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "plain").mkdir()
    prepared(tmp_path, [{"text": "one", "topic": "a"}], {"text_column": "text"}, {"topic": TOPIC})
    folders = list((tmp_path / "cache" / "hf_mtl").iterdir())
    assert len(folders) == 3
    assert {folder.stat().st_mode for folder in folders} == {(tmp_path / "plain").stat().st_mode}
