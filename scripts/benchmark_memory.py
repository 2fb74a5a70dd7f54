"""Memory: whether a long run with logging, evaluation and checkpoints keeps to what it had."""

import argparse
import gc
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoModel, BertConfig, BertTokenizer

from hf_mtl.training.state import Keeper
from hf_mtl.training.trainer import MultiTaskTrainer
from scripts.benchmark_runs import QUIET, timed

WORDS = [f"word{number}" for number in range(200)]
SAMPLES = 10
SAVES = 10
"""Evaluations and checkpoints between two samples of the memory."""


def tiny_run(folder: Path, steps: int) -> dict[str, Any]:
    """A run of a random encoder of 2 layers, 32 wide, on made-up rows of topics and tags, saved to `folder`."""
    vocab = {piece: place for place, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    AutoModel.from_config(BertConfig(vocab_size=len(vocab), **sizes)).save_pretrained(folder / "encoder")
    BertTokenizer(vocab=vocab).save_pretrained(folder / "encoder")
    draw, files = random.Random(0), {}
    for split, count in {"train": 400, "validation": 50, "test": 50}.items():
        files[split] = str(folder / f"{split}.jsonl")
        with open(files[split], "w", encoding="utf-8") as rows:
            for _ in range(count):
                tokens = draw.choices(WORDS, k=draw.randint(3, 30))
                tags = ["B-odd" if int(token[4:]) % 2 else "O" for token in tokens]
                rows.write(json.dumps({"tokens": tokens, "tags": tags, "topic": draw.choice("abc")}) + "\n")
    between = max(steps // (SAMPLES * SAVES), 1)
    return {
        "encoder": str(folder / "encoder"),
        "max_length": 40,
        "datasets": {"d": {"path": "json", "data_files": files, "tokens_column": "tokens"}},
        "tasks": {
            "topic": {"task_type": "text-classification", "dataset": "d", "label_column": "topic"},
            "tags": {"task_type": "token-classification", "dataset": "d", "label_column": "tags"},
        },
        "training": {
            "output_dir": str(folder / "out"),
            "max_steps": steps,
            "logging_steps": between,
            "eval_strategy": "steps",
            "eval_steps": between,
            "save_strategy": "steps",
            "save_steps": between,
            "save_total_limit": 1,
        },
    }


def memory(arguments: argparse.Namespace) -> None:
    """Trains a tiny model and prints the resident memory after every tenth of the steps."""
    torch.set_num_threads(1)
    process, resident, saves = psutil.Process(), list[float](), 0

    def sample(_: float) -> None:
        nonlocal saves
        saves += 1
        if saves % SAVES == 0:
            gc.collect()
            resident.append(process.memory_info().rss / 2**20)
            print(f"after {saves * arguments.steps // (SAMPLES * SAVES)} steps: {resident[-1]:.1f} MiB", flush=True)

    with tempfile.TemporaryDirectory() as name:
        trainer = MultiTaskTrainer.from_config(tiny_run(Path(name), arguments.steps), console=QUIET)
        with timed(Keeper, "save", sample):
            trainer.train()
    middle = resident[len(resident) // 2 - 1]
    print(f"last / first: {resident[-1] / resident[0]:.4f}, last / middle: {resident[-1] / middle:.4f}")
