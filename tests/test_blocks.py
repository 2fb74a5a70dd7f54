"""Rows read many at a time, straight into Arrow: the same rows, numbers and errors as read one by one."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from hf_mtl.data import csv_reader, json_blocks, json_reader
from hf_mtl.data.columns import Columns
from hf_mtl.data.files import SourceFile
from hf_mtl.data.local_rows import RowTable
from hf_mtl.data.readers import read_blocks
from hf_mtl.data.records import Block, Problems, ReadOptions, as_list

COLUMNS = Columns({"a": "text_column"}, None, {"b": "label_column"})
TEXTS = ["x", "é很", "NA", "null", "", " ", "1", "-0", "a b", "\ufeff", "\x00", "\x1c", "\x85", "\u2028", "😀", "[1]"]
CSV_TEXTS = [*TEXTS, 'say "hi"', '"', '""', "a,b", "a\nb", "a\r\nb", "a\rb", "\t", "6' 2\" x"]
JSON_TEXTS = [*TEXTS, 'say "hi"', "\\", '\\"', "a\nb", "\ud800", '{"a": 1}', '": "', "\x7f"]
SCALARS = [1, 0, -1, True, False, None, 2**63, 2**64, -(2**63) - 1, 10**30, 0.1, -0.0, 1e400, float("nan"), 1e-7, 1.0]
DAMAGE = [bytes([byte]) for byte in b'",\n\r\t\\{}[]: \x00\xe9\xff\xf0']
DAMAGE += [b"\r\n", b"\xef\xbb\xbf", b'""', b"-0", b"\\u", b"\xed\xa0\x80"]


def csv_file(draw: random.Random) -> tuple[bytes, dict[str, Any]]:
    separator, end = draw.choice(",,,;\t é"), draw.choice(["\n", "\n", "\r\n", "\r"])
    texts = draw.sample(CSV_TEXTS, 3) if draw.random() < 0.7 else TEXTS[:8]
    always = draw.random() < 0.3
    width = draw.choice([1, 2, 2, 2, 3])

    def cell(text: str) -> str:
        if always or any(sign in text for sign in '"\r\n' + separator) and draw.random() < 0.97:
            return '"' + text.replace('"', '""') + '"'
        return text

    rows = [["a", "b", "c"][:width]] + [draw.choices(texts, k=width) for _ in range(draw.randint(1, 12))]
    content = "".join(separator.join(map(cell, row)) + end for row in rows)
    encoding = draw.choice(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16"])
    options = {"sep": separator, "header": draw.random() < 0.8}
    return content.encode(encoding), options if draw.random() < 0.7 else {"sep": separator}


def json_file(draw: random.Random) -> tuple[bytes, dict[str, Any]]:
    def value(kind: int) -> Any:
        if kind == 0:
            return draw.choice(texts)
        return draw.choice(scalars) if kind == 1 else draw.choices(texts, k=draw.randint(0, 2))

    scalars = draw.sample(SCALARS, 3)
    texts = draw.sample(JSON_TEXTS, 3) if draw.random() < 0.4 else TEXTS[:8]
    names = draw.sample(["a", "b", "c", 'd"', "é"], draw.randint(1, 3))
    kinds = [draw.choice([0, 0, 0, 1, 2]) for _ in names]
    separators = draw.choice([(", ", ": "), (",", ":"), (" ,  ", " : ")])
    is_ascii = draw.random() < 0.5
    lines = []
    for _ in range(draw.randint(1, 12)):
        row = {name: value(kind) for name, kind in zip(names, kinds, strict=True)}
        lines.append(json.dumps(row, ensure_ascii=is_ascii, separators=separators))
    end = draw.choice(["\n", "\n", " \n", "\r\n"])
    return (end.join(lines) + draw.choice(["", end])).encode("utf-8", "replace"), {}


WRITERS = {"csv": csv_file, "json": json_file}


def damaged(content: bytes, draw: random.Random) -> bytes:
    for _ in range(draw.choice([0, 0, 0, 1, 2])):
        place = draw.randint(0, len(content))
        content = content[:place] + draw.choice(DAMAGE) + content[place + draw.randint(0, 2) :]
    return content


def files(format: str, count: int, seed: int = 0) -> Iterator[tuple[bytes, ReadOptions]]:
    draw = random.Random(seed)
    for _ in range(count):
        content, options = WRITERS[format](draw)
        yield damaged(content, draw), ReadOptions(format, **options)


def found(path: Path, options: ReadOptions) -> tuple[str, list[str], int]:
    problems = Problems()
    blocks = list(read_blocks(SourceFile("rows", path), options, problems))
    records = [row for one in blocks for row in (one.records() if isinstance(one, Block) else [one])]
    columns = [cells for one in blocks if isinstance(one, Block) for cells in one.columns.values()]
    return repr(records), problems.messages, sum(isinstance(cells, pa.Array) for cells in columns)


def one_by_one(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(json_reader, "plain_objects", lambda _: None)
    patch.setattr(csv_reader, "plain_rows", lambda *_: None)
    patch.setattr(csv_reader, "_good", lambda *_: None)
    patch.setattr(csv_reader, "PIECE", 0)


@pytest.mark.parametrize("piece", [0, 12, 1 << 20])
@pytest.mark.parametrize("format", sorted(WRITERS))
def test_random_files_are_read_as_row_by_row(tmp_path, monkeypatch, format, piece):
    path = tmp_path / f"rows.{format}"
    monkeypatch.setattr(csv_reader, "PIECE", piece)
    monkeypatch.setattr(csv_reader, "LINES_OF_A_CELL", piece % 7)
    monkeypatch.setattr(json_reader, "CHUNK", piece)
    monkeypatch.setattr(json_blocks, "MOST_VALUES", 4)
    in_arrow = 0
    for content, options in files(format, 300, seed=piece):
        path.write_bytes(content)
        records, messages, count = found(path, options)
        in_arrow += count
        with pytest.MonkeyPatch.context() as patch:
            one_by_one(patch)
            assert (records, messages) == found(path, options)[:2], content
    assert in_arrow > 25


@pytest.mark.parametrize("format", sorted(WRITERS))
def test_cells_checked_together_are_those_checked_one_by_one(tmp_path, format):
    path = tmp_path / f"rows.{format}"

    def cells(options: ReadOptions) -> tuple[str, list[str]]:
        table, problems = RowTable("d", COLUMNS, from_csv=format == "csv"), Problems()
        blocks = list(table.batches("rows", 0, read_blocks(SourceFile("rows", path), options, problems), problems))
        rows = [list(row) for block in blocks for row in zip(*map(as_list, block), strict=True)]
        return repr(rows), table.problems.messages

    def cells_by_row(options: ReadOptions) -> tuple[str, list[str]]:
        table, problems = RowTable("d", COLUMNS, from_csv=format == "csv"), Problems()
        blocks = read_blocks(SourceFile("rows", path), options, problems)
        records = (row for one in blocks for row in (one.records() if isinstance(one, Block) else [one]))
        return repr(list(table.rows("rows", 0, records))), table.problems.messages + problems.messages

    for content, options in files(format, 200, seed=1):
        path.write_bytes(content)
        together, messages = cells(options)
        with pytest.MonkeyPatch.context() as patch:
            one_by_one(patch)
            alone, expected = cells_by_row(options)
        assert together == alone, content
        assert sorted(messages) == sorted(expected), content


def test_rows_over_several_lines_keep_their_lines_in_a_block(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b'a,b\r\n"x\r\n\r\ny",1\r\nz,"say ""hi"""\r\n"","2\n"\r\nlast,row')
    (block,) = read_blocks(SourceFile("rows", path), ReadOptions("csv"), Problems())
    assert isinstance(block, Block)
    assert [(record.row, record.line, *record.values.values()) for record in block.records()] == [
        (1, 2, "x\r\n\r\ny", "1"),
        (2, 5, "z", 'say "hi"'),
        (3, 6, None, "2\n"),
        (4, 8, "last", "row"),
    ]
