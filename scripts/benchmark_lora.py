"""LoRA: training speed of the scopes against full fine-tuning on the same rows, weights trained, and peak memory."""

import argparse
import itertools
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch

from hf_mtl.training.trainer import MultiTaskTrainer
from scripts.benchmark_runs import QUIET, in_turns, make_run
from scripts.benchmark_speed import own_steps

ALONE = "per_task, random batches of one task"
"""What is done where a batch cannot be mixed: each batch has rows of one task, drawn at random."""
SIDES: dict[str, dict[str, Any]] = {
    "full": {},
    "shared": {"lora": {"scope": "shared", "r": 8, "lora_dropout": 0.0}},
    "per_task": {"lora": {"scope": "per_task", "r": 8, "lora_dropout": 0.0}},
    "both": {"lora": {"scope": "both", "r": 8, "lora_dropout": 0.0}},
    ALONE: {
        "lora": {"scope": "per_task", "r": 8, "lora_dropout": 0.0},
        "sampling": {"batch": "single_task", "pool_size": 1},
    },
}
RATIOS = (("shared", "full"), ("per_task", "shared"), ("per_task", ALONE), ("both", "shared"))


def lora(arguments: argparse.Namespace) -> None:
    """Trains the two sides of each ratio in turns on the same rows, `turns` passes; prints a table and the ratios.

    Only two at a time: five models in turns push each other's weights and freed memory out of reach.
    """
    found: dict[str, list[float]] = {name: [] for name in SIDES}
    ratios, weights = [], {}
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(arguments.data, Path(folder), arguments)
        run["training"] |= {"num_train_epochs": arguments.turns + 1}
        # Before this process has models of its own: on Linux a new process begins with its parent's peak.
        peaks = {name: peak_apart(run | side) for name, side in SIDES.items()}
        for pair in RATIOS:
            trainers = {name: MultiTaskTrainer.from_config(run | SIDES[name], console=QUIET) for name in pair}
            rows = rows_of_a_pass(trainers)
            weights |= {name: weights_of(trainer) for name, trainer in trainers.items()}
            seconds = seconds_of_passes(trainers, arguments.turns)
            ratios.append([theirs / own for own, theirs in zip(*(seconds[name] for name in pair), strict=True)])
            for name in pair:
                found[name] += [rows / each for each in seconds[name]]
    print(f"{arguments.turns} passes of each side over the same {rows} rows in batches of {arguments.batch_size}")
    print("\n| scope | trained weights | of all | rows/s | peak memory |\n|---|--:|--:|--:|--:|")
    for name in SIDES:
        trained, every = weights[name]
        speed = f"{median(found[name]):.1f} | {peaks[name] / 2**20:.0f} MiB"
        print(f"| {name} | {trained:,} | {trained / every:.2%} | {speed} |")
    print("\nrows/s of one by the other's (median, least and most of a pass):")
    for (one, other), passes in zip(RATIOS, ratios, strict=True):
        print(f"({one}) / ({other}): {median(passes):.3f} ({min(passes):.3f}–{max(passes):.3f})")


def seconds_of_passes(trainers: Mapping[str, MultiTaskTrainer], turns: int) -> dict[str, list[float]]:
    """Seconds of each side's passes, after one that is not counted; the sides take turns at every step."""
    steps = max(trainer.course.steps_per_epoch for trainer in trainers.values())
    sides = {name: filled_up(trainer, steps) for name, trainer in trainers.items()}
    seconds = in_turns(sides, turns * steps, 1, warm_up=steps)
    return {
        name: [sum(each[start : start + steps]) for start in range(0, len(each), steps)]
        for name, each in seconds.items()
    }


def filled_up(trainer: MultiTaskTrainer, count: int) -> Iterator[None]:
    """An item per step of training; an epoch with fewer steps than `count` is filled up with items that do nothing."""
    steps, own = own_steps(trainer), trainer.course.steps_per_epoch
    while True:
        for number in range(count):
            if number < own:
                next(steps)
            yield


def rows_of_a_pass(trainers: Mapping[str, MultiTaskTrainer]) -> int:
    """How many rows an epoch has, a row cut into windows counted as so many; the same ones on all sides.

    Batches differ in length, and sides cut theirs otherwise, so only whole epochs are alike.
    """
    read = []
    for trainer in trainers.values():
        plan = trainer.course.epoch_plan(trainer.course.start())
        read.append(sorted(zip(plan.places.tolist(), plan.sequences.tolist(), strict=True)))
    if any(rows != read[0] for rows in read):
        raise RuntimeError("the sides do not read the same rows in an epoch")
    return len(read[0])


def weights_of(trainer: MultiTaskTrainer) -> tuple[int, int]:
    """How many numbers are trained, the heads' among them, and how many the model has."""
    weights = list(trainer.model.parameters())
    return sum(one.numel() for one in weights if one.requires_grad), sum(one.numel() for one in weights)


def peak_apart(run: dict[str, Any]) -> int:
    """`peak` in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(peak, run).result()


def peak(run: dict[str, Any]) -> int:
    """The bytes by which the memory grew at most in an epoch: the GPU's that tensors hold, else the resident memory.

    Imports, rows and the model's weights are there before.
    """
    import resource  # Windows has none.

    trainer = MultiTaskTrainer.from_config(run, console=QUIET)
    device = trainer.accelerator.device
    trainer.model.to(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        before = psutil.Process().memory_info().rss
    for _ in itertools.islice(own_steps(trainer), trainer.course.steps_per_epoch):
        pass
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) - before
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before
