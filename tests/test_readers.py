"""Every local format, good and ugly: read right, or refused with the place and the reason."""

import gzip
import json
import random
from pathlib import Path

import pytest

from hf_mtl.data import csv_reader, json_reader
from hf_mtl.data.files import SourceFile, source_files
from hf_mtl.data.readers import read_blocks, read_file
from hf_mtl.data.records import Block, Problems, ReadOptions, Record
from hf_mtl.errors import DataError

HARD = Path(__file__).parents[2] / "shared" / "data" / "hard"


def read(path: Path, format: str = "json", **options) -> list[Record]:
    problems = Problems()
    records = list(read_file(SourceFile(path.name, path), ReadOptions(format, **options), problems))
    problems.raise_if_any()
    return records


def refusal(path: Path, format: str = "json", **options) -> str:
    with pytest.raises(DataError) as caught:
        read(path, format, **options)
    return str(caught.value)


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def values(records: list[Record]) -> list[dict]:
    return [dict(record.values) for record in records]


ROWS = [{"text": "Gut! 很好", "label": "a"}, {"text": "b, c", "label": None}, {"label": 3, "text": "d"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


class TestJson:
    @pytest.mark.parametrize(
        "content",
        [
            LINES,
            LINES.rstrip("\n"),
            LINES.replace("\n", "\r\n"),
            "\n" + LINES.replace("\n", "\n \n"),
            LINES.encode("utf-8-sig"),
            LINES.encode("utf-16"),
            json.dumps(ROWS),
            json.dumps(ROWS, indent=1, ensure_ascii=False),
            json.dumps({"version": "1.0", "data": ROWS, "end": [1]}),
            json.dumps({"version": {"a": ["]"]}, "data": ROWS}, indent=2),
            "\n".join(json.dumps(row, indent=2) for row in ROWS),
        ],
        ids=["lines", "no_end", "crlf", "blank", "bom", "utf16", "array", "pretty", "wrapped", "wrapped_pretty", "jq"],
    )
    def test_every_shape_gives_the_same_rows(self, tmp_path, content):
        records = read(written(tmp_path, "a.json", content))
        assert values(records) == ROWS
        assert [record.row for record in records] == [1, 2, 3]

    def test_a_column_may_be_called_data(self, tmp_path):
        rows = [{"data": ["a", "b"], "label": "x"}, {"data": ["c"], "label": "y"}]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        assert values(read(written(tmp_path, "a.jsonl", lines))) == rows

    def test_gzip_is_unpacked(self, tmp_path):
        assert values(read(written(tmp_path, "a.jsonl.gz", gzip.compress(LINES.encode())))) == ROWS

    @pytest.mark.parametrize("size", [10, 70_000, 200_000])
    def test_an_array_is_read_piece_by_piece(self, tmp_path, size):
        rows = [
            {"text": "ä" * size, "n": 123456},
            {"text": '"]}\\', "n": 1.5e-3},
            {"text": "x" * 65_530, "n": True},
        ] * 3
        assert values(read(written(tmp_path, "a.json", json.dumps(rows)))) == rows

    def test_line_separators_inside_a_text_are_no_line_ends(self, tmp_path):
        row = {"text": "a\u2028b\u2029c\x85d"}
        assert values(read(written(tmp_path, "a.jsonl", json.dumps(row, ensure_ascii=False)))) == [row]

    def test_the_line_is_given_where_it_is_not_the_row(self, tmp_path):
        records = read(written(tmp_path, "a.jsonl", '{"a": 1}\n\n{"a": 2}\n'))
        assert [(record.row, record.line) for record in records] == [(1, 0), (2, 3)]

    def test_malformed_lines_are_all_named(self, tmp_path):
        message = refusal(written(tmp_path, "a.jsonl", '{"a": 1}\n{"a": "cut\n{"a": 2},\n{"a": 3}\n[1]\n'))
        assert message.splitlines() == [
            'a.jsonl row 2 (line 2): not JSON: Unterminated string starting at (character 7, near \'{"a": "cut\'); '
            "mend it, or write the file anew",
            "a.jsonl row 3 (line 3): not JSON: Extra data (character 9, near '{\"a\": 2},'); "
            "mend it, or write the file anew",
            'a.jsonl row 5 (line 5): a list, not an object; a row is {"column": value, …}',
        ]

    def test_a_malformed_first_line_does_not_hide_the_others(self, tmp_path):
        message = refusal(written(tmp_path, "a.jsonl", '{"a": \'x\'}\n{"a": 1}\n{oops}\n'))
        assert "row 1 (line 1)" in message
        assert "row 3 (line 3)" in message
        assert len(message.splitlines()) == 2

    def test_many_errors_are_shown_up_to_twenty_and_then_counted(self, tmp_path):
        lines = refusal(written(tmp_path, "a.jsonl", "{\n" * 33)).splitlines()
        assert len(lines) == 21
        assert lines[-1] == "… and 13 more errors"

    @pytest.mark.parametrize(
        "content", ["[{}, {}", "[{} {}]", '{"data": [{}, {}', '[{"a": "b]', "[{}, {}] x", '{"data": [{}]']
    )
    def test_a_broken_array_is_refused(self, tmp_path, content):
        assert "a.json row" in refusal(written(tmp_path, "a.json", content))

    def test_an_error_in_an_array_tells_the_line(self, tmp_path):
        message = refusal(written(tmp_path, "a.json", '[\n {"a": 1},\n {"a": },\n {"a": 3}]'))
        assert message.startswith("a.json row 2 (line 3): not JSON")

    def test_bad_bytes_are_named_by_row_in_every_shape(self, tmp_path):
        lines = written(tmp_path, "a.jsonl", b'{"a": "x"}\n{"a": "\xe9\xff"}\n')
        assert refusal(lines) == "a.jsonl row 2 (line 2): byte 0xE9 is not UTF-8; save the file as UTF-8"
        array = written(tmp_path, "b.json", b'[{"a": "x"},\n{"a": "\xe9\xff"}]')
        assert refusal(array) == "b.json row 2 (line 2): byte 0xE9 is not UTF-8; save the file as UTF-8"

    def test_deep_nesting_is_refused_not_crashed_on(self, tmp_path):
        assert "a.jsonl row 1" in refusal(written(tmp_path, "a.jsonl", '{"a": ' + "[" * 200_000))

    def test_what_is_no_gzip_or_cut_off_is_told(self, tmp_path):
        assert "not gzip" in refusal(written(tmp_path, "a.jsonl.gz", LINES))
        packed = gzip.compress((LINES * 200).encode())
        assert "cut off or damaged" in refusal(written(tmp_path, "b.jsonl.gz", packed[: len(packed) // 2]))


class TestCsv:
    @pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    def test_the_separator_is_found_in_the_header(self, tmp_path, separator, end):
        content = f'text{separator}label{end}"a{separator} b"{separator}x{end}c{separator}{end}'
        rows = values(read(written(tmp_path, "a.csv", content), "csv"))
        assert rows == [{"text": f"a{separator} b", "label": "x"}, {"text": "c", "label": None}]

    def test_cells_are_strings_and_only_the_empty_one_is_null(self, tmp_path):
        rows = values(read(written(tmp_path, "a.csv", 'a,b,c,d\nNA,null,"",0\nnan, ,1.0,True\n'), "csv"))
        assert rows == [{"a": "NA", "b": "null", "c": None, "d": "0"}, {"a": "nan", "b": " ", "c": "1.0", "d": "True"}]

    def test_a_row_over_several_lines_has_the_line_where_it_begins(self, tmp_path):
        records = read(written(tmp_path, "a.csv", 'text,label\n\n"a\nb ""c""",x\nd,y\n'), "csv")
        assert [(record.row, record.line) for record in records] == [(1, 3), (2, 5)]
        assert records[0].values["text"] == 'a\nb "c"'

    def test_a_byte_order_mark_is_no_part_of_the_first_name(self, tmp_path):
        for encoding in ("utf-8-sig", "utf-16"):
            path = written(tmp_path, f"{encoding}.csv", "text;label\n很好;x\n".encode(encoding))
            assert values(read(path, "csv")) == [{"text": "很好", "label": "x"}]
            assert values(read(path, "csv", encoding="utf-8")) == [{"text": "很好", "label": "x"}]

    def test_another_encoding_is_read_as_named_and_refused_if_not(self, tmp_path):
        path = written(tmp_path, "a.csv", "text,label\nplain,x\ncafé “x” €,y\n".encode("cp1252"))
        assert values(read(path, "csv", encoding="cp1252"))[1]["text"] == "café “x” €"
        message = refusal(path, "csv")
        assert message.startswith("a.csv row 2 (line 3): byte 0xE9 is not UTF-8")
        assert "csv: {encoding: cp1252}" in message
        chinese = written(tmp_path, "b.csv", "text,label\n很好,x\n".encode("gb18030"))
        assert values(read(chinese, "csv", encoding="gb18030"))[0]["text"] == "很好"

    def test_without_a_header_columns_have_given_names_or_numbers(self, tmp_path):
        path = written(tmp_path, "a.tsv", "a, b\tx\nc\ty\n")
        assert values(read(path, "csv", header=False)) == [{"0": "a, b", "1": "x"}, {"0": "c", "1": "y"}]
        rows = values(read(path, "csv", header=False, names=["text", "label"]))
        assert rows[0] == {"text": "a, b", "label": "x"}
        assert "2 cells, but csv.names has 3 names" in refusal(path, "csv", header=False, names=["a", "b", "c"])

    def test_names_replace_those_of_the_header(self, tmp_path):
        path = written(tmp_path, "a.csv", "x,y\n1,2\n")
        assert values(read(path, "csv", names=["text", "label"])) == [{"text": "1", "label": "2"}]

    def test_a_name_twice_in_the_header_is_refused(self, tmp_path):
        message = refusal(written(tmp_path, "a.csv", "text,label,label\na,b,c\n"), "csv")
        assert message == "a.csv line 1: the column 'label' stands twice among text, label, label; rename one"

    def test_rows_that_do_not_fit_the_header_are_named_with_their_cells(self, tmp_path):
        content = 'text,label,note\na,b,c\nd,e,f,g\nh,i\n"never closed,x,y\nk,l,m\n'
        lines = refusal(written(tmp_path, "a.csv", content), "csv").splitlines()
        assert lines[0].startswith("a.csv row 2 (line 3): 4 cells for 3 columns (text, label, note)")
        assert lines[1].startswith("a.csv row 3 (line 4): 2 cells for 3 columns")
        assert lines[2].startswith('a.csv row 4 (line 5): a quote (") opened on line 5 is never closed')
        assert len(lines) == 3

    def test_a_stray_quote_does_not_merge_rows(self, tmp_path):
        content = 'a\tx\n"hello in french\ttranslate\nmy 6\' 2" desk\tmeasure\nb\ty\n'
        message = refusal(written(tmp_path, "a.tsv", content), "csv", header=False)
        assert message.startswith('a.tsv row 2 (line 2): a quote (") opens a cell on line 2')
        assert "on line 3" in message

    def test_long_cells_are_read(self, tmp_path):
        text = "x" * 1_000_000
        assert values(read(written(tmp_path, "a.csv", f"text,label\n{text},a\n"), "csv"))[0]["text"] == text

    def test_one_column_needs_no_separator(self, tmp_path):
        assert values(read(written(tmp_path, "a.csv", "text\nhello\nworld\n"), "csv")) == [
            {"text": "hello"},
            {"text": "world"},
        ]


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
