"""Speed: training against a bare loop, prediction against stock pipelines, and the time before the first step."""

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

import torch
from torch import nn
from torch.nn import functional
from transformers import pipeline

from hf_mtl.batching.collator import Batch
from hf_mtl.data.texts import join_words
from hf_mtl.inference.pipeline import MultiTaskPipeline
from hf_mtl.training.early_stopping import EarlyStopping
from hf_mtl.training.history import StepLog
from hf_mtl.training.optimization import make_optimizer
from hf_mtl.training.progress import TrainingProgress
from hf_mtl.training.step import train_step
from hf_mtl.training.tensors import Generators
from hf_mtl.training.trainer import MultiTaskTrainer
from scripts.benchmark_runs import QUIET, in_turns, make_run, read_lines


class BareModel(nn.Module):
    """The same encoder with a plain linear layer a task: the least that trains on these batches."""

    def __init__(self, trainer: MultiTaskTrainer) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(trainer.model.encoder)
        hidden = self.encoder.config.hidden_size
        self.heads = nn.ModuleDict(
            {name: nn.Linear(hidden, task.num_labels) for name, task in trainer.model.tasks.items()}
        )

    def forward(self, batch: Batch) -> torch.Tensor:
        states = self.encoder(batch["input_ids"], batch["attention_mask"]).last_hidden_state
        losses = []
        for name, head in self.heads.items():
            labels = batch["labels"][name]["labels"]
            if len(labels):
                own = states[batch["rows"][name]]
                logits = head(own if labels.dim() > 1 else own[:, 0])
                losses.append(functional.cross_entropy(logits.flatten(0, -2), labels.flatten()))
        return torch.stack(losses).sum()


def own_batches(trainer: MultiTaskTrainer) -> Iterator[list[Batch]]:
    """The batches of every step of a run."""
    stopping = EarlyStopping(trainer.training, list(trainer.model.tasks))
    return (batches for _, batches in trainer.course.steps(trainer.course.start(), stopping))


def bare_steps(model: BareModel, batches: list[Batch]) -> Iterator[None]:
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
    progress = TrainingProgress(trainer.course.total_steps, QUIET)
    for batches in own_batches(trainer):
        Generators.now()
        result = train_step(model, batches, optimizer, trainer.accelerator, trainer.loss_weights, 1.0)
        log.add(result, 1.0, 1e-4)
        progress.step(result, 1.0)
        yield


def train(arguments: argparse.Namespace) -> None:
    """Training against a bare loop on the same batches."""
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(arguments.data, Path(folder), arguments)
        trainer = MultiTaskTrainer.from_config(run, console=QUIET)
        total = min(trainer.course.steps_per_epoch, arguments.steps * (arguments.turns + 1))
        batches = [step[0] for step in itertools.islice(own_batches(trainer), total)]
        rows = sum(len(batch["input_ids"]) for batch in batches[arguments.steps :])
        sides = {"bare": bare_steps(BareModel(trainer), batches), "hf_mtl": own_steps(trainer)}
        turns = in_turns(sides, total // arguments.steps - 1, arguments.steps)
    seconds = {name: sum(each) for name, each in turns.items()}
    pieces = sum(int(batch["attention_mask"].sum()) for batch in batches)
    places = sum(batch["attention_mask"].numel() for batch in batches)
    print(f"training, rows/s: bare loop {rows / seconds['bare']:.1f}, hf_mtl {rows / seconds['hf_mtl']:.1f}")
    print(f"hf_mtl / bare loop: {seconds['bare'] / seconds['hf_mtl']:.3f} over {rows} rows")
    print(f"padding: {1 - pieces / places:.1%} of all places")


def read_texts(arguments: argparse.Namespace) -> list[str]:
    """`--texts` texts of the sets, mixed."""
    texts = []
    for name in arguments.sets:
        for row in map(
            json.loads, read_lines(arguments.data / name / "train.jsonl", arguments.texts // len(arguments.sets))
        ):
            texts.append(row["text"] if "text" in row else join_words(row["tokens"], " ")[0])
    random.Random(1).shuffle(texts)
    return texts


def predict(arguments: argparse.Namespace) -> None:
    """All tasks in one pass against three stock pipelines, one after the other."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trainer = MultiTaskTrainer.from_config(make_run(arguments.data, folder, arguments), console=QUIET)
        trainer.model.save_pretrained(folder / "model")
        trainer.tokenizer.save_pretrained(folder / "model")
        ours = MultiTaskPipeline.from_pretrained(str(folder / "model"))
        stock = {}
        for task, one in trainer.model.tasks.items():
            trainer.model.task_model(task).save_pretrained(folder / task)
            trainer.tokenizer.save_pretrained(folder / task)
            options = {"truncation": True} if one.family == "sentence" else {}
            stock[task] = (pipeline(one.spec.task_type, model=str(folder / task)), options)
    texts = read_texts(arguments)
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
from hf_mtl.training.early_stopping import EarlyStopping
from hf_mtl.training.trainer import MultiTaskTrainer
imported = time.perf_counter()
trainer = MultiTaskTrainer.from_config(json.load(open(sys.argv[1])), console=Console(quiet=True))
stopping = EarlyStopping(trainer.training, list(trainer.model.tasks))
next(trainer.course.steps(trainer.course.start(), stopping))
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
