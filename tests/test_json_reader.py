"""JSON, as lines and as arrays: read right, or refused with the place and the reason."""

import gzip
import json

import pytest

from tests.reading import LINES, ROWS, read, refusal, values, written


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


class TestDataColumn:
    """A column called "data" that holds objects is a row's own, and no list of rows."""

    ENTITIES = [{"start": 0, "end": 1, "label": "x"}]

    @pytest.mark.parametrize("data", [ENTITIES, []])
    @pytest.mark.parametrize(
        ("order", "indent"), [(("text", "data"), None), (("data", "text"), None), (("text", "data"), 1)]
    )
    @pytest.mark.parametrize("rows", [1, 3])
    def test_rows_with_it_are_rows(self, tmp_path, data, order, rows, indent):
        row = {key: {"text": "a b", "data": data}[key] for key in order}
        content = "".join(json.dumps(row, indent=indent) + "\n" for _ in range(rows))
        assert values(read(written(tmp_path, "a.jsonl", content), wanted=("text", "data"))) == [row] * rows

    def test_rows_of_nothing_else_are_rows_if_there_are_several(self, tmp_path):
        content = '{"data": [{"text": "a"}]}\n'
        assert values(read(written(tmp_path, "a.jsonl", content), wanted=("text",))) == [{"text": "a"}]
        twice = read(written(tmp_path, "b.jsonl", content * 2), wanted=("text",))
        assert values(twice) == [{"data": [{"text": "a"}]}] * 2

    def test_a_wanted_column_behind_a_list_over_several_lines_is_refused(self, tmp_path):
        content = json.dumps({"data": self.ENTITIES, "text": "a b"}, indent=1)
        told = refusal(written(tmp_path, "a.json", content), wanted=("text",))
        assert "the column 'text' beside them" in told

    @pytest.mark.parametrize("indent", [None, 1])
    def test_rows_under_two_keys_are_refused(self, tmp_path, indent):
        once = json.dumps({"data": ROWS, "more": 1}, indent=indent)
        content = once[:-1].rstrip() + "," + once[1:]
        told = refusal(written(tmp_path, "a.json", content), wanted=("text",))
        assert "the key 'data' stands twice" in told

    def test_bytes_beside_the_list_are_checked(self, tmp_path):
        content = json.dumps({"data": ROWS, "by": "@"}, indent=1).encode().replace(b"@", b"\xff")
        assert "byte 0xFF is not UTF-8" in refusal(written(tmp_path, "a.json", content), wanted=("text",))


def test_an_error_within_an_array_is_near_what_is_told_and_on_its_line(tmp_path):
    content = '[{"text": "a"},\n{"text": "b"},\n{"text": "c" "label": "y"}]'
    told = refusal(written(tmp_path, "a.json", content))
    assert told.startswith("a.json row 3 (line 3): not JSON:")
    assert "character" not in told


def test_the_key_that_stands_twice_is_named_in_a_wide_row_too(tmp_path):
    keys = ", ".join(f'"k{number}": 1' for number in range(20_000))
    assert "the key 'k7' stands twice" in refusal(written(tmp_path, "a.jsonl", f'{{{keys}, "k7": 2}}\n'))
