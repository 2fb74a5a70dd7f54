"""The quickstart's rows: well formed, the same every time, and held out in earnest."""

import json
from collections import Counter
from pathlib import Path

import pytest

from scripts import quickstart_data
from scripts.quickstart_data import Row, assert_held_out, build, save

TYPES = {"person", "place", "organisation", "product", "date"}


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, list[Row]]]:
    return build(seed=0)


def labels(rows: list[Row], column: str) -> list:
    return [row.cells[column] for row in rows if row.cells.get(column) is not None]


@pytest.mark.parametrize(("split", "least"), [("train", 700), ("validation", 120), ("test", 200)])
def test_every_task_has_enough_rows(rows: dict, split: str, least: int) -> None:
    assert len(labels(rows["news"][split], "topic")) >= least
    assert len(labels(rows["news"][split], "tags")) >= least
    assert len(labels(rows["reviews"][split], "sentiment")) >= least


def test_no_label_is_rare(rows: dict) -> None:
    for splits, column, number in ((rows["news"], "topic", 8), (rows["reviews"], "sentiment", 3)):
        for split in quickstart_data.SPLITS:
            counts = Counter(labels(splits[split], column))
            assert len(counts) == number
            assert max(counts.values()) - min(counts.values()) <= 1


def test_some_news_rows_say_nothing_about_one_of_their_tasks(rows: dict) -> None:
    for split_rows in rows["news"].values():
        kinds = {(row.cells["topic"] is None, row.cells["tags"] is None) for row in split_rows}
        assert kinds == {(False, False), (False, True), (True, False)}


def test_tags_are_valid_bio_and_as_many_as_tokens(rows: dict) -> None:
    for split_rows in rows["news"].values():
        found = set()
        for row in split_rows:
            tags = row.cells["tags"]
            if tags is None:
                continue
            assert len(tags) == len(row.cells["tokens"])
            for before, tag in zip(["O", *tags], tags, strict=False):
                if tag.startswith("I-"):
                    assert before[2:] == tag[2:]
                found |= {tag[2:]} - {""}
        assert found == TYPES


def test_tokens_stand_in_the_text_in_order_and_leave_only_blanks(rows: dict) -> None:
    for split_rows in rows["news"].values():
        for row in split_rows:
            rest = row.cells["text"]
            for token in row.cells["tokens"]:
                before, found, rest = rest.partition(token)
                assert found
                assert not before.strip()
            assert not rest.strip()


def test_names_and_wordings_of_a_split_are_its_own(rows: dict) -> None:
    assert_held_out(rows)
    wordings, names = (
        {
            split: frozenset().union(
                *(getattr(row.sentence, kind) for splits in rows.values() for row in splits[split])
            )
            for split in quickstart_data.SPLITS
        }
        for kind in ("wordings", "names")
    )
    for held_out, other in (("test", "train"), ("validation", "train"), ("test", "validation")):
        assert not wordings[held_out] & wordings[other]
        assert not names[held_out] & names[other]
    assert min(len(found) for found in names.values()) > 100


def test_a_name_of_test_in_a_text_of_train_is_noticed(rows: dict) -> None:
    name = min(rows["news"]["test"][0].sentence.names | {"Medina"})
    row = rows["reviews"]["train"][0]
    spoilt = Row({**row.cells, "text": f"{row.cells['text']} ask {name.lower()}"}, row.sentence)
    changed = {**rows, "reviews": {**rows["reviews"], "train": [spoilt, *rows["reviews"]["train"][1:]]}}
    with pytest.raises(AssertionError, match=f"test and train share .*{name}"):
        assert_held_out(changed)


def test_no_text_comes_twice(rows: dict) -> None:
    for splits in rows.values():
        texts = [row.cells["text"] for split_rows in splits.values() for row in split_rows]
        assert len(set(texts)) == len(texts)


def test_a_seed_gives_the_same_bytes_and_another_seed_others(rows: dict, tmp_path: Path) -> None:
    first, again, other = (
        [path.read_bytes() for path in save(data, tmp_path / name)]
        for name, data in (("first", rows), ("again", build(seed=0)), ("other", build(seed=1)))
    )
    assert first == again
    assert all(one != two for one, two in zip(first, other, strict=True))


def test_the_command_writes_a_json_object_a_line_and_says_how_many(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    quickstart_data.main(["--output-dir", str(tmp_path)])
    printed = capsys.readouterr().out
    paths = sorted(tmp_path.rglob("*.jsonl"))
    assert len(paths) == 6
    for path in paths:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert f"{path}: {len(lines)} rows" in printed
        assert {"text"} < set(lines[0])
