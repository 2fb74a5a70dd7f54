"""Text, CoNLL, the names of files, and awkward files of every format: read right, or refused."""

import gzip
import os
import random
from pathlib import Path

import pytest

from hf_mtl.data import csv_reader, json_reader
from hf_mtl.data.files import SourceFile, source_files
from hf_mtl.data.readers import read_blocks
from hf_mtl.data.records import Block, Problems, ReadOptions
from hf_mtl.errors import DataError
from tests.reading import HARD, read, refusal, values, written


class TestText:
    def test_a_line_is_a_row_and_blank_lines_are_none(self, tmp_path):
        records = read(written(tmp_path, "a.txt", "one, two\r\n \r\n three\u2028\n"), "text")
        assert values(records) == [{"text": "one, two"}, {"text": " three\u2028"}]
        assert [(record.row, record.line) for record in records] == [(1, 0), (2, 3)]

    def test_bad_bytes_are_named(self, tmp_path):
        assert refusal(written(tmp_path, "a.txt", b"a\n\n\xff\n"), "text").startswith("a.txt row 2 (line 3): byte 0xFF")


class TestConll:
    def test_the_first_column_is_the_tokens_and_the_last_the_labels(self, tmp_path):
        content = "-DOCSTART- -X- O\r\n\r\nAnna NNP B-per\r\nsleeps VBZ O   \r\n\r\n\r\nBerlin NNP B-loc"
        records = read(written(tmp_path, "a.conll", content), "conll", tokens="words", labels=("ner",))
        assert values(records) == [
            {"words": ["Anna", "sleeps"], "1": ["NNP", "VBZ"], "ner": ["B-per", "O"]},
            {"words": ["Berlin"], "1": ["NNP"], "ner": ["B-loc"]},
        ]
        assert [(record.row, record.line) for record in records] == [(1, 3), (2, 7)]

    def test_given_names_are_those_of_the_columns(self, tmp_path):
        path = written(tmp_path, "a.conll", "a\tX\tO\n")
        assert values(read(path, "conll", columns=["tokens", "pos", "ner"])) == [
            {"tokens": ["a"], "pos": ["X"], "ner": ["O"]}
        ]
        assert "name all columns" in refusal(path, "conll", labels=("pos", "ner"))

    def test_tabs_blanks_comments_and_hashtags_may_be_mixed(self, tmp_path):
        content = "# id = 1\n#\n#tag\tO\nthe B\n   \n# 2\n# x y z\nNew York\tB\n#nice O\n# O\n\n# O\nend O\n"
        records = read(written(tmp_path, "a.conll", content), "conll")
        assert [record.values["tokens"] for record in records] == [
            ["#tag", "the"],
            ["New York", "#nice", "#"],
            ["#", "end"],
        ]

    def test_lines_with_another_number_of_columns_are_refused(self, tmp_path):
        lines = refusal(written(tmp_path, "a.conll", "a O\nlonely\n\nx\tO\textra\tcells\ny O\n"), "conll").splitlines()
        assert lines == [
            "a.conll row 1 (line 2): 1 column where the file has 2: 'lonely'; mend the line",
            "a.conll row 2 (line 4): 4 columns where the file has 2: 'x\\tO\\textra\\tcells'; mend the line",
        ]

    def test_conll_u_is_known_by_its_columns(self, tmp_path):
        content = (
            "# sent_id = 1\n# text = It's du\n1\tIt\tit\tPRON\t_\t_\t0\troot\t_\t_\n2-3\tdu\t_\t_\t_\t_\t_\t_\t_\t_\n"
            "2\tde\tde\tADP\t_\t_\t1\tcase\t_\t_\n3\tle\tle\t_\t_\t_\t1\tdet\t_\t_\n3.1\tx\t_\t_\t_\t_\t_\t_\t_\t_\n\n"
        )
        row = values(read(written(tmp_path, "a.conllu", content), "conll", labels=("upos", "deprel")))[0]
        assert row["tokens"] == row["form"] == ["It", "de", "le"]
        assert row["upos"] == ["PRON", "ADP", None]
        assert row["text"] == "It's du"


class TestFiles:
    def found(self, folder: Path, typed) -> list[str]:
        return [file.name for files in source_files("k", typed, folder).values() for file in files]

    def test_names_lists_and_patterns_start_at_the_run_file(self, tmp_path):
        (tmp_path / "d").mkdir()
        for name in ("d/b.jsonl", "d/a.jsonl", "d/[x].jsonl", "d/c.csv"):
            written(tmp_path, name, "")
        assert self.found(tmp_path, "d/a.jsonl") == ["d/a.jsonl"]
        assert self.found(tmp_path, ["d/b.jsonl", "d/a.jsonl"]) == ["d/b.jsonl", "d/a.jsonl"]
        assert self.found(tmp_path, {"train": "d/*.jsonl"}) == ["d/[x].jsonl", "d/a.jsonl", "d/b.jsonl"]
        assert self.found(tmp_path, "d/[x].jsonl") == ["d/[x].jsonl"], "a name that exists is no pattern"
        assert self.found(tmp_path, str(tmp_path / "**" / "*.csv")) == [str(tmp_path / "d" / "c.csv")]

    def test_the_home_folder_may_be_a_tilde(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        written(tmp_path, "a.jsonl", "")
        assert self.found(Path("/"), "~/a.jsonl") == ["~/a.jsonl"]
        assert self.found(Path("/"), "~/*.jsonl") == [str(tmp_path / "a.jsonl")]

    def test_what_is_not_there_is_told_with_the_nearest_name(self, tmp_path):
        written(tmp_path, "train.jsonl", "")
        with pytest.raises(DataError) as caught:
            self.found(tmp_path, {"train": "trian.jsonl", "test": "*.csv", "validation": "no/a.jsonl", "more": "."})
        lines = str(caught.value).splitlines()
        assert (
            lines[0]
            == f"k.train: there is no file trian.jsonl: {tmp_path} holds no trian.jsonl; did you mean train.jsonl?"
        )
        assert lines[1].startswith("k.test: no file matches the pattern *.csv")
        assert lines[2].endswith(f"the folder {tmp_path / 'no'} does not exist")
        assert "is a folder" in lines[3]

    def test_a_file_named_twice_is_refused(self, tmp_path):
        written(tmp_path, "a.jsonl", "")
        with pytest.raises(DataError, match="named twice"):
            self.found(tmp_path, ["a.jsonl", "*.jsonl"])


@pytest.mark.skipif(not HARD.is_dir(), reason="the shared development data is not here")
class TestUglyFiles:
    @pytest.mark.parametrize(
        ("name", "format", "rows"),
        [
            ("csv_semicolon_bom.csv", "csv", 120),
            ("multilabel_strings.csv", "csv", 45),
            ("utf16_bom.jsonl", "json", 20),
            ("crlf_bom.jsonl", "json", 20),
            ("array.json", "json", 20),
            ("wrapped.json", "json", 20),
            ("ok.jsonl.gz", "json", 400),
            ("unicode.jsonl", "json", 18),
            ("long_text.jsonl", "json", 8),
            ("conll_docstart_crlf.conll", "conll", 41),
        ],
    )
    def test_awkward_files_are_read(self, name, format, rows):
        assert len(read(HARD / name, format)) == rows

    @pytest.mark.parametrize(
        ("name", "format", "told"),
        [
            ("csv_semicolon_cp1252.csv", "csv", "row 1 (line 2): byte 0xFA"),
            ("invalid_utf8.csv", "csv", "row 6 (line 7): byte 0xC3"),
            ("invalid_utf8.jsonl", "json", "row 10 (line 10): byte 0xE4"),
            ("duplicate_header.csv", "csv", "'label' stands twice"),
            ("ragged.csv", "csv", "row 5 (line 6): a quote"),
            ("conll_mixed_separators.conll", "conll", "(line 710): 1 column"),
            ("truncated.jsonl.gz", "json", "cut off"),
            ("not_gzip.jsonl.gz", "json", "not gzip"),
            ("malformed_lines.jsonl", "json", "row 9 (line 9)"),
            ("last_line_cut.jsonl", "json", "row 10 (line 10)"),
        ],
    )
    def test_wrong_files_are_refused(self, name, format, told):
        assert told in refusal(HARD / name, format)


GOOD = [
    '{"a": 1}',
    '{"a": "x"}',
    '{"a": ["x", 2]}',
    '{"a": "\\\\"}',
    '{"a": "\\\\\\"{\\u007b"}',
    '{"a": "é"}',
    '{"a": NaN}',
]
PIECES = {
    "json": [
        *[*GOOD, *GOOD, '{"a": 1, "b": 2}', '{"b": 1, "a": 2}', '{"a": 1, "a": 1}', '{"a": "\\\\", "a": 2}', "{}"],
        *['{"a": {"a": 1}}', '{"a": {"a": 1, "a": 1}}', "5", "[", "]", ",", "\n", "\r\n", " ", '"a": 1', "\udcff"],
        *['{"a": [1', '{"b": 2}]},5', '{"a": [{"a": 1}', '{"a": 2}]}', '{"a": 1},{"a": 1}', '{"a": 1', '"b": 2}'],
        *["{\n", "{", "}"],
    ],
    "csv": [
        *["a", ",", ",", '"', '"x"', '"x\ny"', '""', "\n", "\n", "\r\n", "\r", " ", "é", "\udcff"],
        *["x,y\n", "1,2\n", "1,\n", "x,y\r\n"],
    ],
}  # fmt: skip


@pytest.mark.parametrize("format", sorted(PIECES))
def test_rows_read_together_are_the_rows_read_one_by_one(tmp_path, monkeypatch, format):
    path = tmp_path / f"rows.{format}"

    def found(piece: int) -> tuple:
        monkeypatch.setattr(csv_reader, "PIECE", piece)
        problems = Problems()
        blocks = list(read_blocks(SourceFile("rows", path), ReadOptions(format), problems))
        records = [row for one in blocks for row in (one.records() if isinstance(one, Block) else [one])]
        return records, problems.messages, [one for one in blocks if isinstance(one, Block)]

    together = 0
    draw = random.Random(0)
    for _ in range(1500):
        # Few kinds of pieces at a time, so that rows like one another stand together.
        pieces = draw.choices(draw.sample(PIECES[format], 3), k=draw.randint(1, 9))
        head, end = ("x,y\n", "") if format == "csv" else ("", "\n" if draw.random() < 0.8 else "")
        path.write_bytes((head + end.join(pieces)).encode("utf-8", "surrogateescape"))
        records, messages, blocks = found(1 << 17)
        together += sum(len(block.rows) > 1 for block in blocks)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(json_reader, "plain_objects", lambda _: None)
            patch.setattr(csv_reader, "plain_rows", lambda *_: None)
            patch.setattr(csv_reader, "_good", lambda *_: None)
            expected = found(1)
        assert (repr(records), messages) == (repr(expected[0]), expected[1])
        assert not expected[2]
    assert together > 50


ENCODING = {"csv": {"encoding": "utf-8"}}  # as a run file has it


class TestOtherContent:
    """What is no text is told by its first bytes."""

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            (b"PK\x03\x04 and more", "a zip archive, as Excel's .xlsx are"),
            (b"PAR1 and more", "a parquet file; write path: parquet"),
            ('{"text": "a"}\n'.encode("utf-16-le"), "UTF-16 without a byte order mark"),
        ],
    )
    @pytest.mark.parametrize("format", ["json", "csv", "text"])
    def test_it_is_named(self, tmp_path, content, told, format):
        assert told in refusal(written(tmp_path, "a.x", content), format, **ENCODING.get(format, {}))

    def test_a_null_byte_in_a_text_is_read(self, tmp_path):
        assert values(read(written(tmp_path, "a.csv", b"text,label\na\0b,x\n"), "csv"))[0]["text"] == "a\0b"

    def test_what_is_packed_twice_is_told(self, tmp_path):
        path = written(tmp_path, "a.jsonl.gz", gzip.compress(gzip.compress(b'{"text": "a"}\n')))
        assert "packed twice" in refusal(path)


class TestNames:
    def test_a_pipe_and_a_name_too_long_and_a_link_to_nothing_are_refused(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.jsonl")
        (tmp_path / "link.jsonl").symlink_to("gone.jsonl")
        for name, told in (
            ("pipe.jsonl", "is a pipe or a device"),
            ("x" * 300 + ".jsonl", "cannot be opened"),
            ("link.jsonl", "is a link to gone.jsonl, which is not there"),
        ):
            with pytest.raises(DataError, match=told):
                source_files("datasets.d.data_files", name, tmp_path)


def test_a_line_of_bad_bytes_is_told_once_and_is_no_row(tmp_path):
    problems = Problems()
    path = written(tmp_path, "a.txt", b"a\n\xff\nb\n")
    found = list(read_blocks(SourceFile("a.txt", path), ReadOptions("text"), problems))
    assert [record.values["text"] for record in found] == ["a", "b"]
    assert problems.count == 1
