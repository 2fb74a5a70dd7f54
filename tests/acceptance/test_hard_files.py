"""Awkward files through check, train and predict: read right, or refused in one message, and nothing in between."""

import gzip
import json
import re
from pathlib import Path

import pytest

from hf_mtl.errors import UserError
from hf_mtl.inference.files import predict_file
from hf_mtl.inference.pipeline import MultiTaskPipeline
from tests.acceptance.hard_cases import (
    ANSWERED,
    CONLL,
    FILES,
    NOT_ANSWERED,
    PAIR,
    SCORE,
    TEXT,
    WORDS,
    Case,
    Read,
    Refused,
    label,
    tags,
)
from tests.acceptance.hard_files import AWKWARD_TEXTS, HARD, Bench, left_out, lines, message
from tests.tiny import TOKENIZERS, tiny_tokenizer

COPIED = [pytest.param(case, case.copy, id=case.name) for case in FILES if case.copy is not None]
SHARED = [
    pytest.param(case, case.shared, id=case.name, marks=pytest.mark.skipif(not HARD.exists(), reason="no shared data"))
    for case in FILES
    if case.shared is not None
]
WRONG_LABELS = (
    "integer_labels.csv",
    "multilabel_lists.jsonl",
    "ner_integer_outside.jsonl",
    "ner_length_mismatch.jsonl",
    "regression_labels.jsonl",
    "tags_invalid.jsonl",
    "unseen_label",
    "unseen_tag",
)


def configure(bench: Bench, case: Case, folder: Path) -> Path:
    """The run file of a case."""
    path = folder / case.file
    tasks = {name: dict(task) for name, task in case.tasks.items()}
    for task in tasks.values():
        if isinstance(task.get("label_list"), str):
            task["label_list"] = str(folder / task["label_list"])
    return bench.configure(
        {split: str(path / f"{split}.jsonl") for split in case.splits} or str(path), case.dataset, tasks
    )


def holds(lines: list[str], words: tuple[str, ...]) -> bool:
    return any(all(word in line for word in words) for line in lines)


def check(bench: Bench, config: Path, expected: Read | Refused, case: Case) -> None:
    if isinstance(expected, Refused):
        check_refused(bench, config, expected, case.file)
    else:
        check_read(bench, config, expected, first=next(iter(case.tasks)))


def check_refused(bench: Bench, config: Path, expected: Refused, name: str) -> None:
    told = message(bench.run("check", config))
    for words in expected.lines:
        assert holds(told, words), f"{words} not in {told}"
    for line in told:
        assert line.startswith(("…", "data set d")) or name in line or "datasets.d." in line, line
    # Training refuses in the same words, and writes nothing.
    assert message(bench.run("train", config)) == told
    assert not bench.output.exists()


def check_read(bench: Bench, config: Path, expected: Read, first: str) -> None:
    checked, trained = bench.run("check", config), bench.run("train", config)
    assert (checked.status, trained.status) == (0, 0), checked.err + trained.err
    assert (bench.output / "model.safetensors").exists()
    prepared = bench.prepared()
    used = sum(len(set(split.dataset["row"])) for split in prepared.sequences["d"].values())
    assert used == expected.rows - len(expected.left_out)
    # Whatever is left out is told where nobody runs check, too.
    assert left_out(checked.out.splitlines()) == left_out(trained.out.splitlines()) == list(expected.left_out)
    if expected.labels:
        assert tuple(prepared.tasks[first].spec.label_list or ()) == expected.labels
    for words in expected.told:
        assert holds(checked.out.splitlines(), words), f"{words} not in {checked.out}"


@pytest.mark.parametrize(("case", "expected"), COPIED)
def test_a_file_of_each_kind_is_read_right_or_refused(bench, copies, case, expected):
    check(bench, configure(bench, case, copies), expected, case)


@pytest.mark.parametrize(("case", "expected"), SHARED)
def test_a_shared_awkward_file_is_read_right_or_refused(bench, case, expected):
    check(bench, configure(bench, case, HARD), expected, case)


@pytest.mark.skipif(not HARD.exists(), reason="the shared data sets are not there")
def test_no_shared_awkward_file_is_without_an_expectation():
    known = {case.file for case in FILES if case.shared is not None}
    there = {path.relative_to(HARD).parts[0] for path in HARD.rglob("*")} - {"README.md"}
    assert there - known == {"ner_integer_tags.names.json"}


@pytest.mark.parametrize(("case", "expected"), [param for param in COPIED if isinstance(param.values[1], Refused)])
def test_every_line_of_a_refusal_says_what_to_do(bench, copies, case, expected):
    told = message(bench.run("check", configure(bench, case, copies)))
    silent = [line for line in told if "; " not in line and not line.startswith("…")]
    assert not silent


@pytest.mark.parametrize(("case", "expected"), [param for param in COPIED if param.values[0].file in WRONG_LABELS])
def test_a_label_that_is_refused_is_named_with_its_column(bench, copies, case, expected):
    if isinstance(expected, Refused):
        told = message(bench.run("check", configure(bench, case, copies)))
        (column, *_) = [task["label_column"] for task in case.tasks.values()]
        assert all(re.search(f"column '?{column}'?[^\\w]", line) for line in told), told


def texts(bench: Bench, column: str = "text") -> list:
    rows = bench.prepared().sequences["d"]["train"].rows
    return rows.batch(0, len(rows))[column]


def test_texts_are_read_to_the_character(bench, copies):
    bench.configure(str(copies / "unicode.jsonl"), TEXT, label())
    assert texts(bench) == AWKWARD_TEXTS
    bench.configure(str(copies / "csv_semicolon_bom.csv"), {"path": "csv", **TEXT}, label())
    assert texts(bench) == ["I am happy", "she is\r\nangry", 'they "were"; sad']
    bench.configure(
        str(copies / "csv_semicolon_cp1252.csv"), {"path": "csv", **TEXT, "csv": {"encoding": "cp1252"}}, label()
    )
    assert texts(bench) == ["café", "“so” €…"]
    bench.configure(str(copies / "conll_mixed_right.conll"), {**CONLL, **WORDS}, tags())
    assert texts(bench, "tokens") == [["#tag", "the"], ["New York", "#nice"]]


def test_four_schemes_and_integers_give_the_same_tags(bench, copies):
    found = {}
    for scheme in ("bio", "iob1", "bioes", "bilou"):
        bench.configure(str(copies / f"tags_{scheme}.jsonl"), WORDS, tags())
        found[scheme] = [sequence["ner.tags"] for sequence in bench.prepared().sequences["d"]["train"].take(range(2))]
    names = ["O", "B-loc", "I-loc", "B-per", "I-per"]
    rows = [["O", "B-per", "I-per", "O"], ["B-loc", "B-loc", "I-loc", "O", "B-loc"]]
    assert list(found.values()) == [[[names.index(tag) for tag in row] for row in rows]] * 4


@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta"])
def test_special_tokens_in_a_text_are_text(tmp_path, copies, architecture):
    bench = Bench(tmp_path, architecture)
    bench.configure(str(copies / "unicode.jsonl"), TEXT, label())
    tokenizer = tiny_tokenizer(TOKENIZERS[architecture])
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    last = bench.prepared().sequences["d"]["train"].take([len(AWKWARD_TEXTS) - 1])[0]
    assert "[SEP]" in AWKWARD_TEXTS[last["row"]]
    assert not special & set(last["input_ids"][1:-1])


@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta"])
def test_50000_letters_without_a_blank_are_read_in_every_tokenizer(tmp_path, copies, architecture):
    bench = Bench(tmp_path, architecture)
    bench.configure(str(copies / "long_text.jsonl"), TEXT, label())
    prepared = bench.prepared().sequences["d"]["train"]
    assert len(prepared) == 7
    assert prepared.lengths.max() <= 32
    assert prepared.summary.over_length >= 2


@pytest.mark.parametrize(("name", "other"), [("rows.jsonl", "rows.jsonl.gz"), ("rows.jsonl.gz", "rows.jsonl")])
def test_a_file_is_read_by_its_name_also_when_its_bytes_are_known(bench, copies, tmp_path, name, other):
    content = lines([{"text": name, "label": "a"}, {"text": other, "label": "b"}]).encode()
    content = gzip.compress(content) if name.endswith(".gz") else content
    for path in (tmp_path / name, tmp_path / other):
        path.write_bytes(content)
    assert bench.run("check", bench.configure(str(tmp_path / name), TEXT, label())).status == 0
    assert "gzip" in "".join(message(bench.run("check", bench.configure(str(tmp_path / other), TEXT, label()))))


@pytest.fixture(scope="module")
def pipe(copies, tmp_path_factory):
    made = Bench(tmp_path_factory.mktemp("model"))
    rows = [{"text": "Anna sleeps", "tokens": ["Anna", "sleeps"], "ner_tags": ["B-per", "O"], "label": n} for n in "ab"]
    (made.folder / "rows.jsonl").write_text(lines(rows * 4), encoding="utf-8")
    done = made.run("train", made.configure("rows.jsonl", {**TEXT, **WORDS}, {**label(), **tags()}))
    assert done.status == 0, done.err
    return MultiTaskPipeline.from_pretrained(str(made.output))


@pytest.mark.parametrize(("name", "count"), ANSWERED.items())
@pytest.mark.parametrize("folder", ["copies", "shared"])
def test_every_row_of_a_file_is_answered(pipe, copies, tmp_path, folder, name, count):
    if folder == "shared" and not HARD.exists():
        pytest.skip("the shared data sets are not there")
    output = tmp_path / "out.jsonl"
    answered = predict_file(pipe, (HARD if folder == "shared" else copies) / name, output)
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").split("\n")[:-1]]
    assert len(rows) == answered
    assert answered == count or folder == "copies"
    assert all({"text", "topic", "ner"} <= set(row) for row in rows)
    if name == "unicode.jsonl" and folder == "copies":
        assert [row["text"] for row in rows] == AWKWARD_TEXTS


@pytest.mark.parametrize(("name", "words"), NOT_ANSWERED.items())
def test_a_file_that_cannot_be_answered_whole_is_not_answered(pipe, tmp_path, name, words):
    if not HARD.exists():
        pytest.skip("the shared data sets are not there")
    with pytest.raises(UserError) as refused:
        predict_file(pipe, HARD / name, tmp_path / "out.jsonl")
    assert holds(str(refused.value).splitlines(), words)
    assert not list(tmp_path.iterdir())


def test_a_pair_without_its_second_text_is_not_answered(copies, tmp_path):
    made, file = Bench(tmp_path), str(copies / "pair_missing_second.jsonl")
    assert made.run("train", made.configure(file, PAIR, SCORE)).status == 0
    output = tmp_path / "answers.jsonl"
    columns = ("--text-column", "text_a", "--text-pair-column", "text_b")
    told = message(made.run("predict", made.output, "--input", file, "--output", output, *columns))
    # In training such a row is left out: the encoder would read it as a single text.
    assert [line.split(":")[0] for line in told] == [f"{file} row {row}" for row in (2, 3, 5)]
    assert not output.exists()
