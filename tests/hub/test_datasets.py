"""The local Hub as `datasets` sees it, in a process that was told of it by environment variables."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from tests.hub.server import LocalHub

ROWS = [{"text": "Play a song", "label": 1}, {"text": "今天天气怎么样？", "label": 0}]
LOAD = """
import json, sys, datasets
found = []
for repo, config, split in json.loads(sys.argv[1]):
    try:
        found.append(datasets.load_dataset(repo, config, split=split).to_list())
    except Exception as error:
        found.append(f"{type(error).__name__}: {error}")
print(json.dumps(found))
"""


CONFIGS = b"""---
configs:
- config_name: first
  data_files: [{split: train, path: one/*.csv}]
- config_name: second
  data_files: [{split: train, path: two.csv}]
---
"""


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def comma_separated(rows: list[dict[str, Any]]) -> bytes:
    return ("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows)).encode()


@pytest.fixture
def filled(local_hub: LocalHub) -> LocalHub:
    local_hub.add("someone/lines", {"train.jsonl": lines(ROWS), "test.jsonl": lines(ROWS[1:])}, "dataset", private=True)
    local_hub.add("someone/tables", {"data/train-00000-of-00001.parquet": table(ROWS)}, "dataset")
    local_hub.add(
        "someone/configs",
        {"README.md": CONFIGS, "one/a.csv": comma_separated(ROWS), "two.csv": comma_separated(ROWS[:1])},
        "dataset",
    )
    local_hub.add("other/gated", {"train.jsonl": lines(ROWS)}, "dataset", gated=True)
    local_hub.add("other/private", {"train.jsonl": lines(ROWS)}, "dataset", private=True)
    return local_hub


def load(hub: LocalHub, folder: Path, wanted: list[tuple[str, str | None, str]], **variables: str) -> list[Any]:
    run = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(wanted)],
        env=hub.environment(folder) | variables,
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(run.stdout.splitlines()[-1])


def test_datasets_load_from_the_hub_and_later_without_it(filled: LocalHub, tmp_path: Path) -> None:
    wanted = {
        ("someone/lines", None, "train"): ROWS,
        ("someone/lines", None, "test"): ROWS[1:],
        ("someone/tables", None, "train"): ROWS,
        ("someone/configs", "first", "train"): ROWS,
        ("someone/configs", "second", "train"): ROWS[:1],
    }
    assert load(filled, tmp_path, list(wanted)) == list(wanted.values())
    assert any(call.method == "GET" and call.path.startswith("/lfs/") for call in filled.requests)  # the parquet file
    before = len(filled.requests)
    assert load(filled, tmp_path, list(wanted), HF_HUB_OFFLINE="1") == list(wanted.values())
    assert len(filled.requests) == before


def test_datasets_that_are_closed_are_named_as_such(filled: LocalHub, tmp_path: Path) -> None:
    gated, private, nowhere = load(
        filled, tmp_path, [(f"other/{name}", None, "train") for name in ("gated", "private", "nowhere")]
    )
    assert "DatasetNotFoundError: Dataset 'other/gated' is a gated dataset on the Hub." in gated
    assert "'other/private' doesn't exist on the Hub or cannot be accessed" in private
    assert "'other/nowhere' doesn't exist on the Hub or cannot be accessed" in nowhere
