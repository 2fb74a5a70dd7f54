"""Rows of files: the same cells, places and refusals, read once and found again after that."""

from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest

from tests.row_splits import ROWS, cells, load, refusal, write_lines

pytestmark = pytest.mark.usefixtures("cache")


class TestCells:
    def test_labels_keep_their_json_types(self, tmp_path):
        labels = ["a", "0", 0, 1.5, True, ["x", None], [], None, "", float("nan"), {"k": 1}]
        write_lines(tmp_path, "a.jsonl", [{"text": "t", "label": label} for label in labels] + [{"text": "t"}])
        split = load(tmp_path, data_files="a.jsonl")["train"]
        read = cells(split, "label")
        assert read == ["a", "0", 0, 1.5, True, ["x", None], [], None, None, None, {"k": 1}, None]
        assert [type(label) for label in read[:5]] == [str, str, int, float, bool]
        assert split.json_columns == {"label"}
        assert split.class_names("label") is None

    def test_texts_may_be_null_or_absent_but_no_numbers(self, tmp_path):
        write_lines(tmp_path, "a.jsonl", [{"text": "t", "label": 1}, {"text": None, "label": 1}, {"label": 1}])
        assert cells(load(tmp_path, data_files="a.jsonl")["train"], "text") == ["t", None, None]
        write_lines(tmp_path, "b.jsonl", [{"text": "t", "label": 1}, {"text": 3.5}, {"text": ["a"]}])
        assert refusal(tmp_path, data_files="b.jsonl").splitlines() == [
            "b.jsonl row 2: column 'text' holds the number 3.5; a text must be a string",
            "b.jsonl row 3: column 'text' holds a list; a text must be a string",
        ]

    def test_tokens_are_lists_of_strings(self, tmp_path):
        config = {"text_column": None, "tokens_column": "tokens"}
        write_lines(tmp_path, "a.jsonl", [{"tokens": ["a", "", " "], "label": []}, {"tokens": None}, {"tokens": []}])
        assert cells(load(tmp_path, data_files="a.jsonl", **config)["train"], "tokens") == [["a", "", " "], None, []]
        write_lines(tmp_path, "b.jsonl", [{"tokens": "a b", "label": 1}, {"tokens": ["a", 2]}])
        lines = refusal(tmp_path, data_files="b.jsonl", **config).splitlines()
        assert lines[0] == "b.jsonl row 1: column 'tokens' holds a string; tokens must be a list of strings"
        assert lines[1] == "b.jsonl row 2: column 'tokens': token 2 is the number 2; tokens must be strings"

    def test_lists_in_a_csv_are_json_or_parted_by_blanks(self, tmp_path):
        content = 'tokens;label\na b;O B-x\n"[""a b"", ""c""]";"[""O"", ""[""]"\n[x;[y\n'
        (tmp_path / "a.csv").write_text(content, encoding="utf-8")
        config = {"path": "csv", "text_column": None, "tokens_column": "tokens", "data_files": "a.csv"}
        assert "a.csv row 3 (line 4): column 'tokens' begins with [ but is no JSON list" in refusal(tmp_path, **config)
        (tmp_path / "a.csv").write_text(content.replace("[x;", "x;"), encoding="utf-8")
        split = load(tmp_path, **config)["train"]
        assert cells(split, "tokens") == [["a", "b"], ["a b", "c"], ["x"]]
        assert cells(split, "label") == ["O B-x", ["O", "["], "[y"]

    @pytest.mark.parametrize("cell", ["['a', 'b']", "\"['to', 'Berlin']\"", "['a' 'b']"])
    def test_a_list_as_python_prints_it_is_refused(self, tmp_path, cell):
        (tmp_path / "a.csv").write_text(f"text;label\na b;{cell}\n", encoding="utf-8")
        told = refusal(tmp_path, path="csv", data_files="a.csv", csv={"sep": ";"})
        assert told.startswith("a.csv row 1 (line 2): column 'label' holds a list as Python prints it, [")

    def test_a_label_may_stand_in_brackets(self, tmp_path):
        (tmp_path / "a.csv").write_text("text,label\na b,[/b]\nc d,[x] y\n", encoding="utf-8")
        assert cells(load(tmp_path, path="csv", data_files="a.csv")["train"], "label") == ["[/b]", "[x] y"]

    def test_half_a_surrogate_pair_is_refused(self, tmp_path):
        (tmp_path / "a.jsonl").write_text('{"text": "ok \\ud83d\\ude00"}\n{"text": "no \\ud83d"}\n', encoding="utf-8")
        message = refusal(tmp_path, data_files="a.jsonl", labels=())
        assert message.startswith("a.jsonl row 2: column 'text', character 4: half of a surrogate pair (\\ud83d)")

    def test_the_second_text_is_read_too(self, tmp_path):
        write_lines(tmp_path, "a.jsonl", [{"text": "a", "b": "c", "label": 1.0}, {"text": "a", "label": 2.0}])
        split = load(tmp_path, data_files="a.jsonl", text_pair_column="b")["train"]
        assert cells(split, "b") == ["c", None]


class TestPlaces:
    def test_rows_are_named_by_file_row_and_line(self, tmp_path):
        write_lines(tmp_path, "a.jsonl", ROWS[:2])
        write_lines(tmp_path, "b.jsonl", ROWS[:3])
        split = load(tmp_path, data_files=["b.jsonl", "a.jsonl"])["train"]
        assert [split.where(index) for index in (0, 2, 4)] == ["b.jsonl row 1", "b.jsonl row 3", "a.jsonl row 2"]
        (tmp_path / "a.csv").write_text("text,label\nx,y\n", encoding="utf-8")
        assert load(tmp_path, path="csv", data_files="a.csv")["train"].where(0) == "a.csv row 1 (line 2)"

    def test_a_column_that_is_not_there_is_told_with_the_nearest(self, tmp_path):
        write_lines(tmp_path, "a.jsonl", [{"txt": "a", "lable": 1, "id": 3}, {"txt": "a", "more": 1}])
        found = "of data set reviews); columns: txt, lable, id, more; did you mean"
        assert refusal(tmp_path, data_files="a.jsonl").splitlines() == [
            f"a.jsonl has no column 'text' (text_column {found} txt?",
            f"a.jsonl has no column 'label' (label_column {found} lable?",
        ]

    def test_errors_of_all_splits_come_together(self, tmp_path):
        write_lines(tmp_path, "a.jsonl", [{"text": 1, "label": 1}])
        (tmp_path / "b.jsonl").write_text("\n\n", encoding="utf-8")
        lines = refusal(tmp_path, data_files={"train": "a.jsonl", "validation": "b.jsonl"}).splitlines()
        assert lines[0].startswith("a.jsonl row 1: column 'text'")
        assert lines[1].startswith("b.jsonl has no rows (split validation of data set reviews); ")

    def test_errors_of_all_files_and_rows_are_counted(self, tmp_path):
        write_lines(tmp_path, "a.jsonl", [{"text": 1, "label": 1}] * 15)
        write_lines(tmp_path, "b.jsonl", [{"text": 1, "label": 1}] * 15)
        lines = refusal(tmp_path, data_files=["a.jsonl", "b.jsonl"]).splitlines()
        assert len(lines) == 21
        assert lines[19].startswith("b.jsonl row 5")
        assert lines[20] == "… and 10 more errors"

    def test_a_column_named_for_two_things_is_refused(self, tmp_path):
        write_lines(tmp_path, "a.jsonl", ROWS)
        assert "'text' is named as text_column and as label_column" in refusal(
            tmp_path, data_files="a.jsonl", labels=("text",)
        )


class TestCache:
    def test_a_second_start_reads_nothing_again(self, tmp_path, monkeypatch):
        write_lines(tmp_path, "a.jsonl", ROWS)
        first = load(tmp_path, data_files="a.jsonl")["train"]
        monkeypatch.setattr("hf_mtl.data.local_rows.read_blocks", None)
        second = load(tmp_path, data_files="a.jsonl")["train"]
        assert second.fingerprint == first.fingerprint
        assert second.batch(0, 40) == first.batch(0, 40)
        assert second.dataset.cache_files, "the rows are memory-mapped"

    def test_a_changed_file_is_noticed_and_a_moved_one_is_not(self, tmp_path):
        write_lines(tmp_path, "a.jsonl", ROWS)
        first = load(tmp_path, data_files="a.jsonl")["train"]
        (tmp_path / "a.jsonl").rename(tmp_path / "b.jsonl")
        moved = load(tmp_path, data_files="b.jsonl")["train"]
        assert (moved.fingerprint, moved.where(0)) == (first.fingerprint, "b.jsonl row 1")
        write_lines(tmp_path, "a.jsonl", [*ROWS[:-1], {"text": "new", "label": "a"}])
        changed = load(tmp_path, data_files="a.jsonl")["train"]
        assert changed.fingerprint != first.fingerprint
        assert cells(changed, "text")[-1] == "new"

    def test_the_way_of_reading_is_part_of_the_fingerprint(self, tmp_path):
        (tmp_path / "a.csv").write_text("text,label\nx;y,z\n", encoding="utf-8")
        plain = load(tmp_path, path="csv", data_files="a.csv")["train"].fingerprint
        named = load(tmp_path, path="csv", data_files="a.csv", csv={"names": ["text", "label"]})["train"].fingerprint
        other = load(tmp_path, path="csv", data_files="a.csv", labels=())["train"].fingerprint
        assert len({plain, named, other}) == 3

    def test_a_name_that_changes_the_way_of_reading_is_noticed(self, tmp_path):
        (tmp_path / "a.csv").write_text("label,text\ta\n1,x\ty\n", encoding="utf-8")
        with_commas = load(tmp_path, path="csv", data_files="a.csv", text_column="text\ta")["train"]
        assert cells(with_commas, "label") == ["1"]
        (tmp_path / "a.csv").rename(tmp_path / "a.tsv")
        assert "has no column 'text\\ta'" in refusal(tmp_path, path="csv", data_files="a.tsv", text_column="text\ta")

    def test_a_refused_file_leaves_nothing(self, tmp_path, cache):
        (tmp_path / "a.jsonl").write_text('{"text": "a", "label": 1}\n{', encoding="utf-8")
        refusal(tmp_path, data_files="a.jsonl")
        assert [path for path in cache.rglob("*") if path.is_file()] == []

    def test_the_same_file_may_be_read_twice_at_once(self, tmp_path):
        write_lines(tmp_path, "a.jsonl", ROWS * 50)
        with ThreadPool(3) as pool:
            splits = pool.map(lambda _: load(tmp_path, data_files="a.jsonl")["train"], range(3))
        assert [len(split) for split in splits] == [2000] * 3


class TestSplits:
    def files(self, folder: Path, *names: str) -> dict[str, str]:
        for name in names:
            write_lines(folder, f"{name}.jsonl", ROWS)
        return {name: f"{name}.jsonl" for name in names}

    def test_splits_of_the_usual_names_are_found(self, tmp_path):
        assert list(load(tmp_path, data_files=self.files(tmp_path, "test", "train"))) == ["train", "test"]

    def test_a_split_may_have_another_name(self, tmp_path):
        files = self.files(tmp_path, "big", "dev")
        splits = load(tmp_path, data_files=files, splits={"train": "big", "validation": "dev"})
        assert splits["validation"].sources == ["dev.jsonl"]

    def test_what_is_not_there_is_told_with_what_is(self, tmp_path):
        memory = {"train": ROWS, "dev": ROWS}
        message = refusal(tmp_path, memory=memory, splits={"validation": "valid"})
        assert message == (
            "datasets.reviews.splits.validation: there is no split 'valid'; the splits are train, dev; "
            "write for example splits: {validation: dev}"
        )
        assert "there is no split 'train'; the splits are dev" in refusal(tmp_path, memory={"dev": ROWS})

    def test_only_wanted_splits_are_read(self, tmp_path):
        files = self.files(tmp_path, "train", "test")
        (tmp_path / "train.jsonl").write_text("broken", encoding="utf-8")
        assert list(load(tmp_path, data_files=files, wanted=["test"])) == ["test"]

    def test_shares_are_cut_from_train(self, tmp_path):
        config = {"data_files": self.files(tmp_path, "train"), "splits": {"validation": 0.2, "test": 0.1}}
        splits = load(tmp_path, **config)
        assert {role: len(split) for role, split in splits.items()} == {"train": 28, "validation": 8, "test": 4}
        assert sorted(sum((cells(split, "text") for split in splits.values()), [])) == sorted(r["text"] for r in ROWS)
        assert sorted(cells(splits["validation"], "label")) == ["a"] * 4 + ["b"] * 4
        row = splits["test"].dataset[0]["_row"]
        assert splits["test"].where(0) == f"train.jsonl row {row}"
        assert len({split.fingerprint for split in splits.values()}) == 3
        alone = load(tmp_path, wanted=["test"], **config)
        assert list(alone) == ["test"]
        assert alone["test"].fingerprint == splits["test"].fingerprint
        other = load(tmp_path, seed=1, **config)["test"]
        assert cells(other, "text") != cells(splits["test"], "text")
        assert other.fingerprint != splits["test"].fingerprint

    def test_equal_texts_stay_together_also_as_tokens_and_pairs(self, tmp_path):
        tokens = [{"tokens": ["w", str(number // 3)], "label": ["O", "O"]} for number in range(60)]
        splits = load(tmp_path, memory=tokens, text_column=None, tokens_column="tokens", splits={"validation": 0.2})
        sides = [{tuple(words) for words in cells(split, "tokens")} for split in splits.values()]
        assert not sides[0] & sides[1]
        pairs = [{"text": "same", "b": str(number), "label": 1.0} for number in range(40)]
        splits = load(tmp_path, memory=pairs, text_pair_column="b", splits={"validation": 0.25})
        assert len(splits["validation"]) == 10

    def test_labels_are_balanced_by_a_column_whose_values_repeat(self, tmp_path):
        rows = [
            {"text": f"t{number}", "tags": ["O", f"B-{number}"], "label": "rare" if number % 10 == 0 else "common"}
            for number in range(200)
        ]
        splits = load(tmp_path, labels=("tags", "label"), memory=rows, splits={"validation": 0.1})
        assert cells(splits["validation"], "label").count("rare") == 2

    def test_a_share_that_cannot_be_cut_is_refused(self, tmp_path):
        message = refusal(tmp_path, memory=[{"text": "same", "label": 1}] * 9, splits={"validation": 0.1})
        assert message.startswith("datasets.reviews.splits.validation: 0.1 cannot be cut from train")


class TestSeveralFiles:
    def test_a_column_misspelt_in_one_of_them_is_refused(self, tmp_path):
        (tmp_path / "a.csv").write_text("text,label\na b,x\n", encoding="utf-8")
        (tmp_path / "b.csv").write_text("text,lable\nc d,y\n", encoding="utf-8")
        told = refusal(tmp_path, path="csv", data_files=["a.csv", "b.csv"])
        assert told == "b.csv has no column 'label', which other files have, but 'lable'; rename it"

    def test_a_file_may_be_without_a_column_or_have_another_of_the_kind(self, tmp_path):
        (tmp_path / "a.csv").write_text("text,label\na b,x\n", encoding="utf-8")
        (tmp_path / "b.csv").write_text("text,label2\nc d,y\n", encoding="utf-8")
        (tmp_path / "c.csv").write_text("text\ne f\n", encoding="utf-8")
        found = load(tmp_path, path="csv", data_files=["a.csv", "b.csv", "c.csv"])["train"]
        assert cells(found, "label") == ["x", None, None]
