"""Files in, JSON lines out: every row, in order, whole or not at all."""

import gzip
import io
import json
import os

import pytest

from hf_mtl.errors import UserError
from hf_mtl.inference.files import predict_file, predict_texts, read_texts
from hf_mtl.inference.pipeline import MultiTaskPipeline
from hf_mtl.tasks.task import TaskSpec
from hf_mtl.tasks.types import build_task
from tests.tiny import tiny_model, tiny_tasks, tiny_tokenizer

TEXTS = ["Book a table", "今天晚上 🙂 \u2028 line", "Rate this book " * 40, "x", 'a "quoted", text']


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    same = TaskSpec(name="same", task_type="text-classification", label_list=["no", "yes"], text_pair=True)
    model = tiny_model(tmp_path_factory.mktemp("encoder"), "bert", [*tiny_tasks(), build_task(same)])
    return MultiTaskPipeline(model, tiny_tokenizer("wordpiece"), device="cpu")


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def lines(path):
    # Not splitlines: JSON may hold U+2028 as it is.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def assert_answers(pipe, row, answer, **options):
    assert list(answer) == ["topic", "moods", "score", "slots"]
    for task, value in pipe(row, **options).items():
        assert [{**entry, "score": 0} for entry in answer[task]] == [{**entry, "score": 0} for entry in value]
        assert [entry["score"] for entry in answer[task]] == pytest.approx(
            [entry["score"] for entry in value], abs=1e-5
        )


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".jsonl.gz", ".csv", ".tsv", ".txt"])
def test_every_row_is_answered_in_order(pipe, tmp_path, suffix):
    source, out = tmp_path / f"rows{suffix}", tmp_path / "out.jsonl"
    rows = [{"id": number, "text": text, "tags": ["a", None]} for number, text in enumerate(TEXTS)]
    if suffix == ".jsonl":
        write_lines(source, rows)
    elif suffix == ".json":
        source.write_text(json.dumps(rows), encoding="utf-8")
    elif suffix == ".jsonl.gz":
        source.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    elif suffix == ".txt":
        source.write_text("\n".join(TEXTS[:1] + [""] + TEXTS[1:]) + "\n", encoding="utf-8")
    else:
        sign = "," if suffix == ".csv" else "\t"
        cells = [sign.join([str(number), '"' + text.replace('"', '""') + '"']) for number, text in enumerate(TEXTS)]
        source.write_text("\n".join([f"id{sign}text", *cells]), encoding="utf-8")
    told = []
    done = predict_file(
        pipe, source, out, batch_size=2, progress=lambda *at: told.append(at), aggregation_strategy="simple"
    )
    found = lines(out)
    assert done == len(found) == 5
    assert told == [(number, 5) for number in range(1, 6)]
    for number, (row, text) in enumerate(zip(found, TEXTS, strict=True)):
        if suffix.startswith(".json"):
            assert (row.pop("id"), row.pop("tags")) == (number, ["a", None])
        elif suffix != ".txt":
            assert row.pop("id") == str(number)
        assert list(row)[0] == "text"
        assert row.pop("text") == text
        assert_answers(pipe, text, row, aggregation_strategy="simple")


def test_another_column_may_hold_the_text(pipe, tmp_path):
    source = write_lines(tmp_path / "a.jsonl", [{"review": "Rate this", "text": 3, "stars": 1.5}])
    predict_file(pipe, source, tmp_path / "out.jsonl", text_column="review", tasks=["topic"])
    [row] = lines(tmp_path / "out.jsonl")
    assert list(row) == ["text", "stars", "review", "topic"]
    assert (row["review"], row["text"], row["stars"]) == ("Rate this", 3, 1.5)


def test_pairs_come_from_two_columns(pipe, tmp_path):
    source = write_lines(tmp_path / "a.jsonl", [{"a": "Rate this", "b": "Play that", "id": 1}])
    predict_file(pipe, source, tmp_path / "out.jsonl", text_column="a", text_pair_column="b")
    [row] = lines(tmp_path / "out.jsonl")
    assert list(row) == ["id", "a", "b", "same"]
    assert row["same"][0]["label"] == pipe({"text": "Rate this", "text_pair": "Play that"})["same"][0]["label"]


def test_a_column_called_as_a_task_is_refused(pipe, tmp_path):
    source = write_lines(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "b", "topic": "books"}])
    with pytest.raises(UserError, match="column 'topic' and task topic have the same name"):
        predict_file(pipe, source, tmp_path / "out.jsonl")
    predict_file(pipe, source, tmp_path / "out.jsonl", tasks=["slots"])
    assert lines(tmp_path / "out.jsonl")[1]["topic"] == "books"


def test_all_bad_rows_are_named_before_anything_is_answered(pipe, tmp_path, capsys):
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "a"}\n{"text": null}\n{"txt": "b"}\n{"text": 3}\nnot json\n{"text": "\\ud800"}\n')
    with pytest.raises(UserError) as caught:
        predict_file(pipe, source)
    found = str(caught.value).split("\n")
    assert [line.split("a.jsonl ")[1][:5] for line in found] == ["row 2", "row 3", "row 4", "row 5", "row 6"]
    assert capsys.readouterr().out == ""


def test_a_missing_column_names_those_there_are(pipe, tmp_path):
    source = tmp_path / "a.csv"
    source.write_text("id,texte\n1,a\n")
    with pytest.raises(UserError, match="no column 'text'; name one of id, texte as text_column; did you mean texte?"):
        predict_file(pipe, source)


@pytest.mark.parametrize(
    ("name", "message"), [("none.jsonl", "there is no file"), ("a.xlsx", "must end in one of .txt")]
)
def test_a_file_that_cannot_be_read_is_refused(pipe, tmp_path, name, message):
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    with pytest.raises(UserError, match=message):
        predict_file(pipe, tmp_path / name)


def test_the_output_is_whole_or_not_there(pipe, tmp_path):
    source = write_lines(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "b"}])
    out = tmp_path / "out.jsonl"
    out.write_text("old")

    def stop(done, total):
        assert out.read_text() == "old"
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_file(pipe, source, out, progress=stop)
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "out.jsonl"]
    assert predict_file(pipe, source, out) == 2
    assert len(lines(out)) == 2
    assert os.stat(out).st_mode == os.stat(source).st_mode


def test_an_output_that_cannot_be_is_refused(pipe, tmp_path):
    source = write_lines(tmp_path / "a.jsonl", [{"text": "a"}])
    with pytest.raises(UserError, match="is the input"):
        predict_file(pipe, source, source)
    with pytest.raises(UserError, match="this is a folder"):
        predict_file(pipe, source, tmp_path)
    with pytest.raises(UserError, match="folder does not exist"):
        predict_file(pipe, source, tmp_path / "no" / "out.jsonl")


def test_an_empty_file_gives_an_empty_file(pipe, tmp_path):
    source = write_lines(tmp_path / "a.jsonl", [])
    assert predict_file(pipe, source, tmp_path / "out.jsonl") == 0
    assert (tmp_path / "out.jsonl").read_text() == ""


def test_other_columns_keep_what_they_hold(pipe, tmp_path):
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "a", "half": "\\ud800", "big": 12345678901234567890, "deep": {"a": [1, null]}}\n')
    predict_file(pipe, source, tmp_path / "out.jsonl", tasks=["topic"])
    [row] = lines(tmp_path / "out.jsonl")
    assert (row["half"], row["big"], row["deep"]) == ("\ud800", 12345678901234567890, {"a": [1, None]})


def test_texts_are_answered_on_standard_output(pipe, capsys):
    assert predict_texts(pipe, TEXTS[:2], tasks=["topic"]) == 2
    found = [json.loads(line) for line in capsys.readouterr().out.split("\n") if line]
    assert [row["text"] for row in found] == TEXTS[:2]
    assert [list(row) for row in found] == [["text", "topic"]] * 2


def test_lines_of_a_stream_are_answered_as_they_come(pipe, capsys):
    answered = []

    def stream():
        for number in range(3):
            answered.append(capsys.readouterr().out.count("\n"))
            yield f"Rate {number}\n"

    predict_texts(pipe, read_texts(stream()))
    assert answered == [0, 1, 1]


def test_blank_lines_of_a_stream_are_no_texts():
    assert list(read_texts(io.StringIO("a\n\n  \nb \nc"))) == ["a", "b ", "c"]


def test_a_task_called_text_cannot_stand_beside_the_text(tmp_path):
    spec = TaskSpec(name="text", task_type="text-classification", label_list=["a", "b"])
    pipe = MultiTaskPipeline(
        tiny_model(tmp_path, "bert", [build_task(spec)]), tiny_tokenizer("wordpiece"), device="cpu"
    )
    with pytest.raises(UserError, match="task is called text"):
        predict_texts(pipe, ["a"])


def test_a_csv_is_read_as_it_is_said_to_be_written(pipe, tmp_path):
    path = tmp_path / "in.csv"
    path.write_bytes("Café;1\nOlé;2\n".encode("cp1252"))
    with pytest.raises(UserError, match=r"encoding: cp1252"):
        predict_file(pipe, path, tmp_path / "out.jsonl")
    csv = {"sep": ";", "encoding": "cp1252", "header": False, "names": ["text", "id"]}
    assert predict_file(pipe, path, tmp_path / "out.jsonl", csv=csv) == 2
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["text"], row["id"]) for row in rows] == [("Café", "1"), ("Olé", "2")]
    with pytest.raises(UserError, match="csv: encoding: "):
        predict_file(pipe, path, tmp_path / "no.jsonl", csv={"encoding": "klingon"})
    other = tmp_path / "in.jsonl"
    other.write_text('{"text": "a"}\n', encoding="utf-8")
    with pytest.raises(UserError, match="csv is for .csv and .tsv files"):
        predict_file(pipe, other, csv=csv)


def test_a_first_row_without_text_is_named_and_no_column_is_missed(pipe, tmp_path):
    source = write_lines(tmp_path / "rows.jsonl", [{"id": 1}, {"id": 2, "text": "a"}, {"id": 3}])
    with pytest.raises(UserError) as found:
        predict_file(pipe, source)
    assert [line.partition(": ")[0].rpartition("/")[2] for line in str(found.value).splitlines()] == [
        "rows.jsonl row 1",
        "rows.jsonl row 3",
    ]


def test_one_column_is_not_both_texts_of_a_pair(pipe, tmp_path):
    source = write_lines(tmp_path / "rows.jsonl", [{"text": "a"}])
    with pytest.raises(UserError, match="text_pair_column: 'text' is the text_column, too"):
        predict_file(pipe, source, text_pair_column="text")


def test_a_pair_of_long_texts_takes_no_longer_than_its_texts(pipe, tmp_path):
    """What a tokenizer cuts off of two texts in every combination would be some gigabytes here."""
    rows = [{"text": "Book a table " * 20_000, "second": "Rate this book " * 20_000}]
    source, out = write_lines(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl"
    assert predict_file(pipe, source, out, text_pair_column="second") == 1
    short = {"text": "Book a table " * 100, "text_pair": "Rate this book " * 101}
    assert lines(out)[0]["same"] == pipe(short)["same"]
