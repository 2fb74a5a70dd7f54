"""Scores: one model for all tasks against one model a task."""

import argparse
import itertools
import tempfile
from pathlib import Path

from hf_mtl.training.trainer import MultiTaskTrainer
from scripts.benchmark_runs import make_run

RECIPE = {
    "learning_rate": 2e-4,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "warmup_steps": 0.1,
    "save_strategy": "no",
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
