"""csv in the dialects there are: read right, or refused with the place and the reason."""

import pytest

from tests.reading import read, refusal, values, written


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
