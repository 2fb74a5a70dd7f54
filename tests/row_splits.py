"""Rows of a data set loaded from where they are, or what is told of them."""

import json
from pathlib import Path

import pytest

from hf_mtl.config_keys import DatasetConfig
from hf_mtl.data.row_split import RowSplit
from hf_mtl.data.rows import load_rows
from hf_mtl.errors import DataError


def write_lines(folder: Path, name: str, rows: list[dict]) -> None:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def load(folder: Path, labels=("label",), seed=0, memory=None, wanted=None, **config) -> dict[str, RowSplit]:
    config = {"text_column": "text", **config}
    if memory is None:
        config = {"path": "json", **config}
    return load_rows(
        "reviews", DatasetConfig(**config), labels, base_dir=folder, seed=seed, memory=memory, wanted=wanted
    )


def refusal(folder: Path, **options) -> str:
    with pytest.raises(DataError) as caught:
        load(folder, **options)
    return str(caught.value)


def cells(split: RowSplit, column: str) -> list:
    return split.batch(0, len(split))[column]


ROWS = [{"text": f"text {number}", "label": ["a", "b"][number % 2]} for number in range(40)]
