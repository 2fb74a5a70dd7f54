"""Local files written and read: records, or what is told of them."""

import json
from pathlib import Path

import pytest

from hf_mtl.data.files import SourceFile
from hf_mtl.data.readers import read_file
from hf_mtl.data.records import Problems, ReadOptions, Record
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
