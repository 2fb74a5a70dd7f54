"""Scores: one model for all tasks, with and without LoRA, and one model a task."""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hf_mtl.training.trainer import MultiTaskTrainer
from scripts.benchmark_runs import make_run

RECIPE = {
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "warmup_steps": 0.1,
    "save_strategy": "no",
}
LEARNING_RATE = 2e-4
LORA = {"r": 8, "lora_alpha": 16}
LORA_RATES = {"learning_rate": 1e-3, "head_learning_rate": 1e-2}
SCOPES = ("shared", "per_task", "both")
GROUPS = ("one", "alone", *SCOPES)
METRICS = ("f1", "f1_macro", "accuracy")
SPLITS = ("validation", "test")


def group_names(text: str) -> list[str]:
    """Reads `--groups`: names separated by commas."""
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in GROUPS]:
        raise argparse.ArgumentTypeError(f"{', '.join(map(repr, unknown))}: use some of {', '.join(GROUPS)}")
    return list(dict.fromkeys(names))


def scores(arguments: argparse.Namespace) -> None:
    """Trains every model of the groups for each seed; prints each one's metrics at once, and a table at the end."""
    known = read_results(arguments.results)
    found = []
    with tempfile.TemporaryDirectory() as name:
        run = make_run(arguments.data, Path(name), arguments)
        for dataset, entry in run["datasets"].items():
            entry["data_files"] |= {split: str(arguments.data / dataset / f"{split}.jsonl") for split in SPLITS}
        try:
            for model in models(arguments, list(run["tasks"])):
                metrics = next((result["metrics"] for result in known if result["model"] == model), None)
                result = {"model": model, "metrics": metrics or measure(model, run)}
                found.append(result)
                line = json.dumps(result)
                print(line, flush=True)
                if arguments.results and not metrics:
                    with arguments.results.open("a", encoding="utf-8") as file:
                        file.write(f"{line}\n")
        finally:
            # Also of what there is when stopped early.
            if found:
                print_table(found)


def read_results(file: Path | None) -> list[dict[str, Any]]:
    """What `--results` holds of earlier runs."""
    if file is None:
        return []
    file.touch()  # It fails now, and not when the first model is trained.
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def models(arguments: argparse.Namespace, tasks: Sequence[str]) -> Iterator[dict[str, Any]]:
    """All that determines each model to train, seed by seed."""
    for seed in arguments.seeds:
        for group in arguments.groups:
            for names in [[task] for task in tasks] if group == "alone" else [list(tasks)]:
                yield {
                    "group": group,
                    "tasks": names,
                    "seed": seed,
                    "encoder": arguments.encoder,
                    "rows": arguments.rows,
                    "epochs": arguments.epochs,
                    "eval_strategy": arguments.eval_strategy,
                    **(LORA_RATES if group in SCOPES else {"learning_rate": LEARNING_RATE}),
                }


def measure(model: dict[str, Any], run: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Trains one model; its metrics on validation and test, by task."""
    tasks = {task: run["tasks"][task] for task in model["tasks"]}
    part = run | {
        "tasks": tasks,
        "datasets": {one["dataset"]: run["datasets"][one["dataset"]] for one in tasks.values()},
    }
    if model["group"] in SCOPES:
        part["lora"] = LORA | {"scope": model["group"]}
    settings = {"seed": model["seed"], "num_train_epochs": model["epochs"]}
    settings |= {key: model[key] for key in ("eval_strategy", *LORA_RATES) if key in model}
    with tempfile.TemporaryDirectory() as folder:
        part["training"] = RECIPE | settings | {"output_dir": str(Path(folder, "out"))}
        measured = MultiTaskTrainer.from_config(part).train()
    return {
        split: {
            task: {
                metric: round(measured[split][task][metric], 4) for metric in METRICS if metric in measured[split][task]
            }
            for task in tasks
        }
        for split in SPLITS
    }


def print_table(results: Sequence[dict[str, Any]]) -> None:
    """Each metric's value of every seed, and their mean."""
    found: dict[tuple[str, str, str, int], list[float]] = {}
    for result in results:
        place = GROUPS.index(result["model"]["group"])
        for split, tasks in result["metrics"].items():
            for task, metrics in tasks.items():
                for metric, value in metrics.items():
                    found.setdefault((split, task, metric, place), []).append(value)
    print("\n| split | task | metric | model | seeds | mean |\n|---|---|---|---|---|--:|")
    for (split, task, metric, place), values in sorted(found.items()):
        shown = ", ".join(f"{value:.3f}" for value in values)
        print(f"| {split} | {task} | {metric} | {GROUPS[place]} | {shown} | {sum(values) / len(values):.3f} |")
