"""What a run file may ask for on awkward rows: rows left out by choice, labels folded, spans of characters."""

import json
import re

import pytest

from tests.acceptance.hard_cases import PLACES, TEXT, WORDS, label, tags
from tests.acceptance.hard_files import HARD, TEXTS, Bench, Done, labelled, left_out, lines, message
from tests.tiny import tiny_tokenizer

BERLIN = {"start": 0, "end": 6, "label": "loc"}
SPANS = {"ner": {"task_type": "token-classification", "spans_column": "spans"}}


def written(bench: Bench, **splits: str) -> dict[str, str]:
    """Files of the splits."""
    for split, content in splits.items():
        (bench.folder / f"{split}.jsonl").write_text(content, encoding="utf-8")
    return {split: f"{split}.jsonl" for split in splits}


def rows(*pairs: tuple[str, str | None]) -> str:
    return lines([{"text": text, "label": own} for text, own in pairs])


def used(bench: Bench, split: str = "train") -> int:
    return len(set(bench.prepared().sequences["d"][split].dataset["row"]))


def in_order(done: Done) -> list[str]:
    assert done.status == 0, done.err
    return done.out.splitlines()


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        ({}, {}),
        ({"drop_duplicates": True}, {"drop_duplicates": [2, 5]}),
        ({"drop_conflicts": True}, {"drop_conflicts": [1, 2, 3, 4, 5, 6]}),
        ({"drop_conflicts": True, "drop_duplicates": True}, {"drop_conflicts": [1, 2, 3, 4, 5, 6]}),
        ({"min_characters": 12}, {"min_characters": [1, 2, 3]}),
        ({"max_characters": 12}, {"max_characters": [7, 8]}),
        ({"min_characters": 12, "max_characters": 13}, {"min_characters": [1, 2, 3], "max_characters": [8]}),
    ],
)
def test_rows_are_left_out_by_choice_alone_and_counted_by_reason(bench, copies, options, gone):
    config = bench.configure(str(copies / "duplicates_conflicting.jsonl"), {**TEXT, **options}, label())
    for command in ("check", "train"):
        told = [line for line in in_order(bench.run(command, config)) if " left out: " in line]
        assert len(told) == len(gone)
        for option, numbers in gone.items():
            (line,) = [line for line in told if option in line]
            assert line.startswith(f"d train: {len(numbers)} rows ")
            assert left_out([line]) == numbers
    assert used(bench) == 8 - sum(map(len, gone.values()))


@pytest.mark.skipif(not HARD.exists(), reason="the shared data sets are not there")
def test_the_shared_conflicts_are_counted_and_leaving_all_out_is_refused(bench):
    file = str(HARD / "duplicates_conflicting.jsonl")
    config = bench.configure(file, {**TEXT, "drop_duplicates": True}, label())
    assert len(left_out(in_order(bench.run("check", config)))) == 10
    assert used(bench) == 20
    config = bench.configure(file, {**TEXT, "drop_conflicts": True}, label())
    (line,) = message(bench.run("train", config))
    assert "30" in line
    assert "drop_conflicts" in line
    assert not bench.output.exists()


def test_leaks_are_always_counted_and_leave_train_if_asked(bench):
    files = written(
        bench,
        train=rows((TEXTS[0], "a"), (TEXTS[1], "b"), (TEXTS[2], "a"), ("", "a"), (TEXTS[3], "b"), (TEXTS[5], "a")),
        validation=rows((TEXTS[1], "a"), (TEXTS[4], "b"), ("", "b")),
        test=rows((TEXTS[2], "a"), (TEXTS[0], "b")),
    )
    printed = in_order(bench.run("check", bench.configure(files, TEXT, label())))
    assert "d: 1 of 3 texts of validation stand in train too" in printed
    assert "d: 2 of 2 texts of test stand in train too" in printed
    printed = in_order(bench.run("check", bench.configure(files, {**TEXT, "drop_leaks": True}, label())))
    (line,) = [line for line in printed if "drop_leaks" in line]
    assert line.startswith("d train: 3 rows ")
    assert left_out([line]) == [1, 2, 3], "a row without text is no leak"
    assert (used(bench), used(bench, "validation"), used(bench, "test")) == (2, 2, 2)


def test_characters_are_code_points(bench):
    files = written(bench, train=rows(("👍🏽", "a"), ("abc", "b"), ("e\u0301a", "b"), ("ab", "a")))
    printed = in_order(bench.run("check", bench.configure(files, {**TEXT, "max_characters": 2}, label())))
    assert left_out(printed) == [2, 3]


def test_another_spelling_in_another_split_is_refused_or_folded(bench):
    files = written(bench, train=labelled("good", "good", "bad"), validation=labelled("GOOD ", "bad"))
    (line,) = message(bench.run("check", bench.configure(files, TEXT, label())))
    assert all(word in line for word in ("validation.jsonl row 1", "'GOOD '", "normalise_labels: true"))
    printed = in_order(bench.run("check", bench.configure(files, TEXT, label(normalise_labels=True))))
    assert any("topic validation: 1 " in line and "spelling" in line for line in printed), "folded labels are counted"


def test_spellings_of_one_label_are_no_conflict(bench):
    files = written(bench, train=rows((TEXTS[0], "good"), (TEXTS[0], "Good"), (TEXTS[1], "bad"), (TEXTS[2], "good")))
    config = bench.configure(files, {**TEXT, "drop_conflicts": True}, label(normalise_labels=True))
    assert left_out(in_order(bench.run("check", config))) == []
    config = bench.configure(files, {**TEXT, "drop_duplicates": True}, label(normalise_labels=True))
    assert left_out(in_order(bench.run("check", config))) == [2]


def spans_of(*rows: tuple[str, list]) -> str:
    return lines([{"text": text, "spans": [dict(zip(("start", "end", "label"), own, strict=False)) for own in spans]}
                  for text, spans in rows])  # fmt: skip


def found_spans(bench: Bench, row: int) -> list[tuple[int, int, str]]:
    """The entities on the pieces of a row that is one sequence: from the first piece's start to the last one's end."""
    prepared = bench.prepared()
    names = prepared.tasks["ner"].spec.label_list
    split = prepared.sequences["d"]["train"]
    (sequence,) = [one for one in split.take(range(len(split))) if one["row"] == row]
    text = split.rows.batch(row, row + 1)["text"][0]
    offsets = tiny_tokenizer("wordpiece", 32)(text, return_offsets_mapping=True)["offset_mapping"]
    entities: list[tuple[int, int, str]] = []
    for (start, end), tag in zip(offsets, sequence["ner.labels"], strict=True):
        name = "O" if tag == -100 else names[tag]
        if name.startswith("B-"):
            entities.append((start, end, name[2:]))
        elif entities and end > start and (name.startswith("I-") or (tag == -100 and start == entities[-1][1])):
            entities[-1] = (entities[-1][0], end, entities[-1][2])
    return entities


ROWS = [
    ("Berlin and New York and Berlin", [(24, 30, "loc")]),
    ("👍🏽 Anna lives in 北京 now", [(17, 19, "loc"), (3, 7, "per")]),
    ("Imagine by John Lennon, (London)", [(25, 31, "loc"), (11, 22, "per"), (0, 7, "work")]),
    ("nothing here", []),
    ("上海北京的天气", [(0, 2, "loc"), (2, 4, "loc")]),
]


def test_spans_are_places_in_the_text_by_code_points(bench):
    bench.configure(written(bench, train=spans_of(*ROWS)), TEXT, SPANS)
    assert [found_spans(bench, row) for row in range(5)] == [sorted(own) for _, own in ROWS]
    assert bench.prepared().tasks["ner"].spec.label_list == [*PLACES, "B-work", "I-work"]


def test_spans_are_counted_and_trained_on(bench):
    config = bench.configure(written(bench, train=spans_of(*ROWS) + '{"text": "so", "spans": null}\n'), TEXT, SPANS)
    printed = in_order(bench.run("check", config))
    counts = {cells[1].strip(): cells[2].strip() for line in printed if len(cells := line.split("│")) == 5}
    assert counts | {"loc": "5", "per": "2", "work": "1", "rows without label": "1"} == counts
    assert left_out(printed) == [6]
    assert bench.run("train", config).status == 0


def test_a_long_text_keeps_every_span(bench):
    text = "Berlin is so " * 60
    own = [(place, place + 6, "loc") for place in range(0, len(text), 13)]
    bench.configure(written(bench, train=spans_of((text, own))), TEXT, SPANS)
    prepared = bench.prepared()
    split = prepared.sequences["d"]["train"]
    tagged = [tag for one in split.take(range(len(split))) for tag in one["ner.tags"]]
    assert len(split) > 5
    assert tagged.count(prepared.tasks["ner"].spec.label_list.index("B-loc")) == 60


def test_spans_and_tags_of_the_same_words_are_the_same_labels(bench):
    made = {
        "tokens": ["Anna", "met", "Anna", "in", "New", "York"],
        "ner_tags": ["O", "O", "B-per", "O", "B-loc", "I-loc"],
    }
    spans = [{"start": 9, "end": 13, "label": "per"}, {"start": 17, "end": 25, "label": "loc"}]
    row = {**made, "text": "Anna met Anna in New York", "spans": spans}
    ways = [(WORDS, tags()), ({**TEXT, **WORDS}, tags()), (TEXT, SPANS), ({**TEXT, **WORDS}, SPANS)]
    found = []
    for dataset, task in ways:
        bench.configure(written(bench, train=lines([row])), dataset, task)
        found.append(bench.prepared().sequences["d"]["train"].take([0])[0]["ner.labels"])
    assert found[0] == found[1] == found[2] == found[3]


@pytest.mark.parametrize(
    ("spans", "words"),
    [
        ([BERLIN, {"start": 3, "end": 10, "label": "per"}], ("overlap", "0–6", "3–10")),
        ([BERLIN, {**BERLIN, "label": "per"}], ("overlap", "loc", "per")),
        ([{"start": 11, "end": 40, "label": "loc"}], ("40", "end of the text")),
        ([{"start": 40, "end": 46, "label": "loc"}], ("40", "end of the text")),
        ([{"start": 6, "end": 6, "label": "loc"}], ("end",)),
        ([{"start": -1, "end": 6, "label": "loc"}], ("-1", "from 0")),
        ([{"start": "0", "end": 6, "label": "loc"}], ("'0'", "whole numbers")),
        ([{"start": 6, "end": 7, "label": "loc"}], ("6–7", "blank")),
        ([{"start": 0, "end": 6}], ("start, end and label",)),
        ([[0, 6, "loc"]], ("start, end and label",)),
        (BERLIN, ("a list", "start")),
    ],
    ids=["overlap", "twice", "past", "behind", "empty", "negative", "text", "blank", "key", "list", "object"],
)  # fmt: skip
def test_spans_that_cannot_be_are_refused_with_their_row_and_column(bench, spans, words):
    content = spans_of(("Berlin and York", [(0, 6, "loc")])) + json.dumps({"text": "Berlin and York", "spans": spans})
    config = bench.configure(written(bench, train=content + "\n"), TEXT, SPANS)
    (line,) = message(bench.run("check", config))
    assert line.startswith("train.jsonl row 2: ")
    assert all(word in line for word in words), line
    assert message(bench.run("train", config)) == [line]
    assert not bench.output.exists()


def test_a_span_that_is_refused_is_named_with_its_column(bench):
    config = bench.configure(written(bench, train=spans_of(ROWS[0], ("Berlin", [(2, 1, "loc")]))), TEXT, SPANS)
    (line,) = message(bench.run("check", config))
    assert re.search("column '?spans'?[^\\w]", line), line
