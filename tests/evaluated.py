"""A model of five tasks with rows to measure it on."""

import random
from pathlib import Path
from typing import Any

import datasets
import torch

from hf_mtl.batching.collator import Collator
from hf_mtl.config import load_config
from hf_mtl.config_keys import RunConfig
from hf_mtl.data.encoding import Sequences
from hf_mtl.data.preparation import prepare
from hf_mtl.evaluation.evaluator import TaskResult, evaluate
from hf_mtl.modeling.model import MultiTaskModel
from tests.tiny import TEXTS, tiny_model, tiny_tokenizer

MAX_LENGTH = 16
"""So short that most of the rows below need several windows."""
TASKS = ("topic", "moods", "stars", "slots", "pos")
TAGS = ("O", "B-city", "I-city", None)


def make_rows() -> list[dict[str, Any]]:
    """Rows of 1 to 25 words; each task has labels on some of them, and the tags have gaps."""
    draw = random.Random(7)
    vocabulary = [word for text in TEXTS for word in text.split()]
    rows = []
    for number in range(40):
        tokens = draw.choices(vocabulary, k=draw.randint(1, 25))
        tags = draw.choices(TAGS, weights=(5, 2, 2, 1), k=len(tokens))
        row = {
            "tokens": tokens,
            "topic": draw.choice(["books", "music", "weather"]),
            "moods": draw.sample(["happy", "sad"], draw.randint(0, 2)),
            "stars": draw.random(),
            "slots": tags if any(tags) else ["O"] * len(tokens),
            "pos": draw.choices(["NOUN", "VERB"], k=len(tokens)),
        }
        for task in TASKS:
            if number > 2 and draw.random() < 0.3:
                row[task] = None
        rows.append(row)
    return rows


ROWS = make_rows()


def make_config(**changes: Any) -> RunConfig:
    kinds = {"topic": "single_label", "moods": "multi_label"}
    tasks: dict[str, Any] = {
        name: {"task_type": "text-classification", "problem_type": f"{kind}_classification"}
        for name, kind in kinds.items()
    }
    tasks["stars"] = {"task_type": "text-classification", "problem_type": "regression"}
    tasks["slots"] = tasks["pos"] = {"task_type": "token-classification"}
    run = {
        "encoder": "tiny",
        "max_length": MAX_LENGTH,
        "datasets": {"mail": {"tokens_column": "tokens"}},
        "tasks": {name: {**entry, "dataset": "mail", "label_column": name} for name, entry in tasks.items()},
        "training": {"output_dir": "out", "per_device_eval_batch_size": 4},
    }
    return load_config(run | changes)


def tuning_config() -> RunConfig:
    tasks = make_config().model_dump(mode="json", exclude_unset=True)["tasks"]
    tasks["moods"]["threshold"] = "tune"
    return make_config(tasks=tasks)


def encode(rows: list[dict[str, Any]]) -> tuple[Sequences, list]:
    """The rows as a validation split, and the tasks; train is always `ROWS`, so the labels are the same."""
    memory = {"train": datasets.Dataset.from_list(ROWS), "validation": datasets.Dataset.from_list(rows)}
    tokenizer = tiny_tokenizer("wordpiece", max_length=MAX_LENGTH)
    prepared = prepare(make_config(), tokenizer, memory={"mail": datasets.DatasetDict(memory)})
    return prepared.sequences["mail"]["validation"], list(prepared.tasks.values())


def make_model(folder: Path) -> MultiTaskModel:
    model = tiny_model(folder, tasks=encode(ROWS)[1])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)  # new weights are so small that every text looks the same
    return model


def run(model: MultiTaskModel, sequences: Sequences, batch_size: int = 4, **options: Any) -> dict[str, TaskResult]:
    collator = Collator(pad_token_id=0, pad_token_type_id=0, tasks=model.tasks)
    return evaluate(model, sequences, options.pop("tasks", TASKS), collator, batch_size, device="cpu", **options)


def by_text(results: dict[str, TaskResult], rows: list[dict[str, Any]]) -> dict[tuple[str, str], Any]:
    return {
        (task, " ".join(rows[row]["tokens"])): answer.prediction
        for task, result in results.items()
        for row, answer in zip(result.rows, result.answers, strict=True)
        if task != "stars"  # a number moves in its last digits with the length of the padding
    }
