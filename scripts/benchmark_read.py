"""Reading: hf_mtl's row readers beside `datasets.load_dataset` on the same files."""

import argparse
import csv
import json
import random
import tempfile
import time
from pathlib import Path

import datasets

from hf_mtl.config_keys import DatasetConfig
from hf_mtl.data.rows import load_rows

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def read(arguments: argparse.Namespace) -> None:
    """Reads a JSON-lines and a csv file of `--megabytes` in turns, each time into an empty cache; prints ratios."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = write_files(folder, arguments.megabytes * 1_000_000)
        for kind, file in (("json", folder / "rows.jsonl"), ("csv", folder / "rows.csv")):
            seconds: dict[str, list[float]] = {"hf_mtl": [], "datasets": []}
            for turn in range(arguments.turns):
                for side in sorted(seconds, reverse=turn % 2 == 1):
                    with tempfile.TemporaryDirectory() as cache:
                        datasets.config.HF_DATASETS_CACHE = Path(cache)
                        started = time.perf_counter()
                        found = ours(kind, file) if side == "hf_mtl" else theirs(kind, file, cache)
                        seconds[side].append(time.perf_counter() - started)
                        if found != rows:
                            raise RuntimeError(f"{side} has read {found} of {rows} rows")
            size = file.stat().st_size / 1e6
            speed = {side: arguments.turns * rows / sum(times) for side, times in seconds.items()}
            told = ", ".join(f"{side} {value:,.0f}" for side, value in speed.items())
            print(f"{kind}, {size:.0f} MB, {rows:,} rows: rows/s {told}; {speed['hf_mtl'] / speed['datasets']:.2f}")


def write_files(folder: Path, size: int) -> int:
    """The same rows as JSON lines and as csv; gives their number."""
    draw = random.Random(0)
    words = ["".join(draw.choices(LETTERS, k=draw.randint(2, 10))) for _ in range(5000)]
    count = written = 0
    with (
        (folder / "rows.jsonl").open("w", encoding="utf-8") as lines,
        (folder / "rows.csv").open("w", newline="") as cells,
    ):
        writer = csv.writer(cells)
        writer.writerow(["text", "label"])
        while written < size:
            text, label = " ".join(draw.choices(words, k=draw.randint(5, 30))), draw.choice("abcd")
            written += lines.write(json.dumps({"text": text, "label": label}) + "\n")
            writer.writerow([text, label])
            count += 1
    return count


def ours(kind: str, file: Path) -> int:
    """The rows of a file as a run reads them."""
    config = DatasetConfig(path=kind, data_files={"train": str(file)}, text_column="text")
    return len(load_rows("d", config, ["label"], base_dir=None, seed=0)["train"])


def theirs(kind: str, file: Path, cache: str) -> int:
    """The rows of a file as `datasets` reads them."""
    return len(datasets.load_dataset(kind, data_files=str(file), split="train", cache_dir=cache))
