"""A tiny run with real files: what the tests of training, evaluation and the command line stand on."""

import json
import random
from pathlib import Path
from typing import Any

from tests.tiny import save_tiny_encoder

SENTENCES = {
    "books": "Rate the book {name} five stars",
    "music": "Play a song by {name} please",
    "weather": "What is the weather in {name} tomorrow",
}
NAMES = ["Berlin", "New York", "John Lennon", "Taylor Swift", "Imagine", "London", "Nobu", "St. John"]


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows with words, tags and a topic; every fifth lacks the topic, every seventh the tags."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        topic = draw.choice(list(SENTENCES))
        name = draw.choice(NAMES).split()
        before, after = (part.split() for part in SENTENCES[topic].split("{name}"))
        tags = ["O"] * len(before) + ["B-name"] + ["I-name"] * (len(name) - 1) + ["O"] * len(after)
        made.append(
            {
                "tokens": [*before, *name, *after],
                "tags": None if number % 7 == 3 else tags,
                "topic": None if number % 5 == 4 else topic,
            }
        )
    return made


def write_rows(path: Path, made: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made), encoding="utf-8")
    return path


def tiny_run(folder: Path, architecture: str = "bert", **training: Any) -> dict[str, Any]:
    """A run file as a dict; its encoder and rows are written to `folder`."""
    save_tiny_encoder(folder / "encoder", architecture)
    files = {}
    for seed, (split, count) in enumerate({"train": 60, "validation": 20, "test": 20}.items()):
        files[split] = str(write_rows(folder / f"{split}.jsonl", rows(count, seed)))
    return {
        "encoder": str(folder / "encoder"),
        "max_length": 32,
        "datasets": {"d": {"path": "json", "data_files": files, "tokens_column": "tokens"}},
        "tasks": {
            "topic": {"task_type": "text-classification", "dataset": "d", "label_column": "topic"},
            "names": {"task_type": "token-classification", "dataset": "d", "label_column": "tags"},
        },
        "training": {
            "output_dir": str(folder / "out"),
            "learning_rate": 5e-3,
            "num_train_epochs": 2,
            "per_device_train_batch_size": 8,
            "logging_steps": 3,
            **training,
        },
    }
