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
FILES = ("rows.jsonl", "lists.jsonl", "rows.csv", "quoted.csv")


def read(arguments: argparse.Namespace) -> None:
    """Reads files of the same rows in turns, each time into an empty cache; prints ratios of time and of work.

    The first JSON lines have `--megabytes`.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = write_files(folder, arguments.megabytes * 1_000_000)
        for file in (folder / name for name in FILES):
            kind = "csv" if file.suffix == ".csv" else "json"
            seconds: dict[str, list[float]] = {"hf_mtl": [], "datasets": []}
            work: dict[str, list[float]] = {"hf_mtl": [], "datasets": []}
            for turn in range(arguments.turns):
                for side in sorted(seconds, reverse=turn % 2 == 1):
                    with tempfile.TemporaryDirectory() as cache:
                        datasets.config.HF_DATASETS_CACHE = Path(cache)
                        started, worked = time.perf_counter(), time.process_time()
                        found = ours(kind, file) if side == "hf_mtl" else theirs(kind, file, cache)
                        seconds[side].append(time.perf_counter() - started)
                        work[side].append(time.process_time() - worked)
                        if found != rows:
                            raise RuntimeError(f"{side} has read {found} of {rows} rows")
            size = file.stat().st_size / 1e6
            share = sum(work["datasets"]) / sum(work["hf_mtl"])
            speed = {side: arguments.turns * rows / sum(times) for side, times in seconds.items()}
            told = ", ".join(f"{side} {value:,.0f}" for side, value in speed.items())
            ratio = speed["hf_mtl"] / speed["datasets"]
            print(f"{file.name}, {size:.0f} MB, {rows:,} rows: rows/s {told}; {ratio:.2f} (processor time {share:.2f})")


def write_files(folder: Path, size: int) -> int:
    """The same rows as JSON lines and as csv, plain and not; gives their number.

    In the one JSON file that is not plain, a text has an escape, and its words stand beside it as a list.
    """
    draw = random.Random(0)
    words = ["".join(draw.choices(LETTERS, k=draw.randint(2, 10))) for _ in range(5000)]
    count = written = 0
    with (
        (folder / "rows.jsonl").open("w", encoding="utf-8") as lines,
        (folder / "lists.jsonl").open("w", encoding="utf-8") as lists,
        (folder / "rows.csv").open("w", newline="") as cells,
        (folder / "quoted.csv").open("w", newline="") as quoted,
    ):
        writers = [csv.writer(cells), csv.writer(quoted, quoting=csv.QUOTE_ALL)]
        for writer in writers:
            writer.writerow(["text", "label"])
        while written < size:
            text, label = " ".join(draw.choices(words, k=draw.randint(5, 30))), draw.choice("abcd")
            written += lines.write(json.dumps({"text": text, "label": label}) + "\n")
            lists.write(json.dumps({"text": f'"{text}"', "words": text.split(), "label": label}) + "\n")
            for writer in writers:
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
