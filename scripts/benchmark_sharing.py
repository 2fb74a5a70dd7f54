"""Private top layers: training and prediction against a fully shared encoder, and what they add to its size."""

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from hf_mtl.inference.pipeline import MultiTaskPipeline
from hf_mtl.training.trainer import MultiTaskTrainer
from scripts.benchmark_lora import rows_of_a_pass
from scripts.benchmark_runs import QUIET, in_turns, make_run
from scripts.benchmark_scores import MODELS
from scripts.benchmark_speed import own_steps, read_texts

SHARED, ALONE = "one", "alone"
SIDES = (SHARED, "private_1", "private_2", "own_adapters")
"""Of the models whose scores are measured."""


def sharing(arguments: argparse.Namespace) -> None:
    """Trains every side in turns on the same rows and predicts the same texts; prints a table and ratios."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = make_run(arguments.data, folder, arguments)
        run["training"] |= {"num_train_epochs": arguments.turns + 1}
        trainers = {side: [MultiTaskTrainer.from_config(run | MODELS[side], console=QUIET)] for side in SIDES}
        rows = rows_of_a_pass({side: found for side, (found,) in trainers.items()})
        trainers[ALONE] = [MultiTaskTrainer.from_config(alone, console=QUIET) for alone in runs_alone(run)]
        sizes = {side: size(found, folder / side) for side, found in trainers.items()}
        trained = seconds_of_passes(trainers, arguments.turns)
        texts = read_texts(arguments)
        predicted = seconds_to_predict({side: pipelines(folder / side) for side in trainers}, texts, arguments)
    print(
        f"{arguments.turns} passes over {rows} rows in batches of {arguments.batch_size}, and over {len(texts)} texts"
    )
    print("\n| model | parameters | disk | training, rows/s | all tasks, texts/s |\n|---|--:|--:|--:|--:|")
    for side, (weights, disk) in sizes.items():
        speed = [
            count * arguments.turns / sum(seconds[side])
            for count, seconds in ((rows, trained), (len(texts), predicted))
        ]
        print(f"| {side} | {weights / 1e6:.2f} M | {disk / 1e6:.1f} MB | {speed[0]:.1f} | {speed[1]:.1f} |")
    print(f"\nof the speed of `{SHARED}` (median, least and most of a pass):")
    for side in trainers:
        told = [
            f"{what} {ratio(seconds, side)}" for what, seconds in (("training", trained), ("prediction", predicted))
        ]
        print(f"{side}: {', '.join(told)}")


def ratio(seconds: Mapping[str, list[float]], side: str) -> str:
    """How fast a side is, beside the shared one."""
    passes = [theirs / own for own, theirs in zip(seconds[side], seconds[SHARED], strict=True)]
    whole = sum(seconds[SHARED]) / sum(seconds[side])
    return f"{whole:.3f} ({median(passes):.3f}, {min(passes):.3f}–{max(passes):.3f})"


def runs_alone(run: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A run for each task."""
    for name, task in run["tasks"].items():
        yield run | {"tasks": {name: task}, "datasets": {task["dataset"]: run["datasets"][task["dataset"]]}}


def size(trainers: list[MultiTaskTrainer], folder: Path) -> tuple[int, int]:
    """Parameters and bytes of weights on disk; the models are saved."""
    for number, trainer in enumerate(trainers):
        trainer.model.save_pretrained(folder / str(number))
        trainer.tokenizer.save_pretrained(folder / str(number))
    weights = sum(weight.numel() for trainer in trainers for weight in trainer.model.parameters())
    return weights, sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


def seconds_of_passes(trainers: Mapping[str, list[MultiTaskTrainer]], turns: int) -> dict[str, list[float]]:
    """Seconds of each side's passes over its rows, after one that is not counted; sides take turns at every step."""
    count = {side: sum(one.course.steps_per_epoch for one in found) for side, found in trainers.items()}
    steps = max(count.values())
    seconds = in_turns(
        {side: passes(found, steps) for side, found in trainers.items()}, turns * steps, 1, warm_up=steps
    )
    return {
        side: [sum(each[start : start + steps]) for start in range(0, len(each), steps)]
        for side, each in seconds.items()
    }


def passes(trainers: list[MultiTaskTrainer], count: int) -> Iterator[None]:
    """An item per step of training; a pass has the steps of all models, and is filled up with items that do nothing."""
    steps = [own_steps(trainer) for trainer in trainers]
    while True:
        done = 0
        for trainer, own in zip(trainers, steps, strict=True):
            for _ in itertools.islice(own, trainer.course.steps_per_epoch):
                done += 1
                yield
        yield from itertools.repeat(None, count - done)


def pipelines(folder: Path) -> list[MultiTaskPipeline]:
    """A pipeline for each model that lies in the folder."""
    return [MultiTaskPipeline.from_pretrained(str(model)) for model in sorted(folder.iterdir())]


def seconds_to_predict(
    sides: Mapping[str, list[MultiTaskPipeline]], texts: list[str], arguments: argparse.Namespace
) -> dict[str, list[float]]:
    """Seconds of each side for all tasks of all texts, turn by turn, after one that is not counted."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(arguments.turns + 1):
        for side in sorted(sides, reverse=turn % 2 == 1):
            started = time.perf_counter()
            for pipe in sides[side]:
                pipe(texts, batch_size=arguments.batch_size)
            if turn:
                seconds[side].append(time.perf_counter() - started)
    return seconds
