"""Rows in memory and of the `datasets` library: the same cells, places and refusals as those of files."""

from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_mtl.errors import DataError
from tests.row_splits import ROWS, cells, load, refusal, write_lines

pytestmark = pytest.mark.usefixtures("cache")


class TestMemory:
    @pytest.mark.parametrize(
        "memory",
        [
            ROWS,
            {"train": ROWS},
            {"text": [row["text"] for row in ROWS], "label": [row["label"] for row in ROWS]},
            datasets.Dataset.from_list(ROWS),
            datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}),
            {"train": datasets.Dataset.from_list(ROWS)},
        ],
        ids=["list", "split_list", "columns", "dataset", "dataset_dict", "split_dataset"],
    )
    def test_rows_in_memory_have_many_shapes(self, tmp_path, memory):
        split = load(tmp_path, memory=memory)["train"]
        assert cells(split, "text") == [row["text"] for row in ROWS]
        assert cells(split, "label") == [row["label"] for row in ROWS]
        assert split.where(3) == "reviews[train] row 4"
        again = load(tmp_path, memory=memory)["train"]
        assert again.fingerprint == split.fingerprint

    def test_a_dataset_keeps_its_class_labels_and_minus_one_is_null(self, tmp_path):
        names = datasets.ClassLabel(names=["a", "b"])
        dataset = datasets.Dataset.from_dict(
            {"text": ["x", "y", "z"], "label": [1, -1, 0], "tags": [[0, -1], [], [1]], "n": [-1, 2, 3]},
            features=datasets.Features(
                {
                    "text": datasets.Value("string"),
                    "label": names,
                    "tags": datasets.List(names),
                    "n": datasets.Value("int64"),
                }
            ),
        )
        split = load(tmp_path, labels=("label", "tags", "n"), memory=dataset)["train"]
        assert split.class_names("label") == split.class_names("tags") == ["a", "b"]
        assert split.class_names("n") is None
        assert cells(split, "label") == [1, None, 0]
        assert cells(split, "tags") == [[0, None], [], [1]]
        assert cells(split, "n") == [-1, 2, 3], "-1 is a label where no names are given"

    def test_empty_strings_and_nan_of_a_dataset_are_null(self, tmp_path):
        dataset = datasets.Dataset.from_dict({"text": ["x", "y"], "s": ["", "a"], "f": [float("nan"), 1.0]})
        split = load(tmp_path, labels=("s", "f"), memory=dataset)["train"]
        assert (cells(split, "s"), cells(split, "f")) == ([None, "a"], [None, 1.0])

    def test_numbers_of_numpy_are_numbers(self, tmp_path):
        labels = [np.int64(3), np.float32("nan"), np.array([1, 2])]
        split = load(tmp_path, memory={"text": ["x", "y", "z"], "label": labels})["train"]
        assert cells(split, "label") == [3, None, [1, 2]]

    def test_a_selection_of_a_dataset_is_numbered_anew(self, tmp_path):
        dataset = datasets.Dataset.from_list(ROWS).select([5, 3, 8])
        split = load(tmp_path, memory=dataset)["train"]
        assert cells(split, "text") == ["text 5", "text 3", "text 8"]
        assert split.where(2) == "reviews[train] row 3"

    def test_what_a_column_must_not_hold_is_refused(self, tmp_path):
        dataset = datasets.Dataset.from_dict({"text": [1, 2], "tokens": ["a b", "c"], "label": [0, 1]})
        lines = refusal(tmp_path, memory=dataset, tokens_column="tokens").splitlines()
        assert "column 'text' holds Value('int64'); a text must be a string" in lines[0]
        assert "tokens must be a list of strings" in lines[1]
        assert "did you mean text?" in refusal(tmp_path, memory=dataset, text_column="txt")
        assert "columns of different lengths: text 2, label 1" in refusal(
            tmp_path, memory={"text": ["a", "b"], "label": [1]}
        )
        assert "row 2: str, not a dict" in refusal(tmp_path, memory=[ROWS[0], "text"])
        assert "has no rows" in refusal(tmp_path, memory=dataset.select([]))

    def test_streams_are_refused(self, tmp_path):
        stream = datasets.Dataset.from_list(ROWS).to_iterable_dataset()
        assert "IterableDataset; rows in memory are" in refusal(tmp_path, memory={"train": stream})

    def test_missing_rows_are_told(self, tmp_path):
        assert "no rows in memory were given" in refusal(tmp_path, path=None)


class TestLibrary:
    def test_parquet_files_are_read(self, tmp_path):
        for name in ("a", "b"):
            datasets.Dataset.from_list(ROWS[:3]).to_parquet(tmp_path / f"{name}.parquet")
        split = load(tmp_path, path="parquet", data_files="*.parquet")["train"]
        assert len(split) == 6
        assert split.where(4) == "b.parquet row 2"
        assert cells(split, "label") == [row["label"] for row in ROWS[:3]] * 2
        again = load(tmp_path, path="parquet", data_files="*.parquet")["train"]
        assert again.fingerprint == split.fingerprint

    def test_what_is_no_parquet_is_refused(self, tmp_path):
        (tmp_path / "a.parquet").write_text("text", encoding="utf-8")
        assert refusal(tmp_path, path="parquet", data_files="a.parquet").startswith(
            "a.parquet (split train of data set"
        )

    def test_a_parquet_file_that_cannot_be_used_is_told_in_one_message(self, tmp_path, capfd):
        pq.write_table(pa.table({"text": pa.array([], pa.string()), "label": []}), tmp_path / "empty.parquet")
        twice = pa.table([["a"], ["x"], ["y"]], names=["text", "label", "label"])
        pq.write_table(twice, tmp_path / "twice.parquet")
        told = {name: refusal(tmp_path, path="parquet", data_files=f"{name}.parquet") for name in ("empty", "twice")}
        assert "has no rows; name a file with rows" in told["empty"]
        assert "the column 'label' stands twice among text, label, label" in told["twice"]
        assert capfd.readouterr() == ("", "")

    def test_files_of_other_types_are_told_apart(self, tmp_path):
        for name, kind in (("a", pa.int32()), ("b", pa.int64())):
            pq.write_table(pa.table({"text": ["a"], "label": pa.array([1], kind)}), tmp_path / f"{name}.parquet")
        told = refusal(tmp_path, path="parquet", data_files=["a.parquet", "b.parquet"])
        assert told.startswith("b.parquet: column 'label' holds int64, and in a.parquet it holds int32")

    @pytest.mark.parametrize("column", ["text", "label"])
    def test_bytes_in_a_parquet_text_are_named_with_their_row(self, tmp_path, column):
        offsets = np.array([0, 1, 4, 5], np.int32)
        bad = pa.StringArray.from_buffers(3, pa.py_buffer(offsets), pa.py_buffer(b"ash\xe9b"))
        good = pa.array(["x", "y", "z"])
        columns = {name: bad if name == column else good for name in ("text", "label")}
        pq.write_table(pa.table(columns), tmp_path / "a.parquet")
        split = load(tmp_path, path="parquet", data_files="a.parquet")["train"]
        with pytest.raises(DataError, match=rf"^a.parquet row 2: column '{column}': byte 0xE9 is not UTF-8; write"):
            split.batch(0, 3)

    def test_a_saved_data_set_is_read(self, tmp_path):
        datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
        split = load(tmp_path, path="./saved")["train"]
        assert cells(split, "text") == [row["text"] for row in ROWS]
        datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)).save_to_disk(tmp_path / "splits")
        assert len(load(tmp_path, path="./splits")["train"]) == len(ROWS)

    def folder(self, tmp_path: Path) -> None:
        (tmp_path / "set").mkdir()
        for name in ("train", "dev"):
            write_lines(tmp_path / "set", f"{name}.jsonl", ROWS)
        files = "data_files: [{split: train, path: train.jsonl}, {split: dev, path: dev.jsonl}]"
        configs = "".join(f"- config_name: {name}\n  {files}\n" for name in ("small", "large"))
        (tmp_path / "set" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n", encoding="utf-8")

    def test_a_folder_laid_out_like_a_hub_set_is_read(self, tmp_path):
        self.folder(tmp_path)
        splits = load(tmp_path, path="./set", name="small", splits={"train": "train", "validation": "dev"})
        assert {role: len(split) for role, split in splits.items()} == {"train": 40, "validation": 40}
        assert splits["validation"].where(0) == "./set[dev] row 1"

    def test_a_configuration_that_is_missing_is_told_with_those_there_are(self, tmp_path):
        self.folder(tmp_path)
        for name in (None, "tiny"):
            message = refusal(tmp_path, path="./set", name=name)
            assert "['small', 'large']" in message
            assert message.endswith("write the configuration under name")

    def test_a_set_that_cannot_be_had_is_one_error(self, tmp_path, monkeypatch):
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        assert refusal(tmp_path, path="nobody/nothing").startswith("datasets.reviews: nobody/nothing cannot be fetched")
        assert "cannot be loaded" in refusal(tmp_path, path="./nothing")
