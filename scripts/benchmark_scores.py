"""Scores: one model for all tasks, shared in several ways, and one model a task."""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hf_mtl.training.trainer import MultiTaskTrainer
from scripts.benchmark_runs import SETS, make_run

RECIPE = {
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "warmup_steps": 0.1,
    "save_strategy": "no",
}
LEARNING_RATE = 2e-4
LORA_RATES = {"learning_rate": 1e-3, "head_learning_rate": 1e-2}
"""Of adapters on an encoder that is not trained itself."""
MODELS: dict[str, dict[str, Any]] = {
    "one": {},
    "alone": {},
    **{scope: {"lora": {"scope": scope, "r": 8, "lora_alpha": 16}} for scope in ("shared", "per_task", "both")},
    "private_1": {"sharing": {"private_layers": 1}},
    "private_2": {"sharing": {"private_layers": 2}},
    "private_2_by_task": {"sharing": {"private_layers": 2, "groups": "task"}},
    "auto": {"sharing": {"private_layers": "auto"}},
    "own_adapters": {"lora": {"scope": "per_task", "r": 16, "lora_alpha": 16, "train_encoder": True}},
}
"""What the run file of each model says; `alone` is a model a task."""
MIXTURES = (
    (["clinc150", "goemotions", "wnut17"], 1500, 3),
    (["snips"], 1000, 3),
    (["snips"], 20_000, 1),
    (["stsb_open", "goemotions", "wnut17"], 1500, 3),
)
"""Sets, rows of each at most, and epochs, of what ways of sharing are compared on; of snips the second are all rows."""
SHARINGS = "one,private_1,private_2,own_adapters,alone"
METRICS = ("f1", "f1_macro", "accuracy", "spearman")
SPLITS = ("validation", "test")


def model_names(text: str) -> list[str]:
    """Reads `--models`: names separated by commas."""
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in MODELS]:
        raise argparse.ArgumentTypeError(f"{', '.join(map(repr, unknown))}: use some of {', '.join(MODELS)}")
    return list(dict.fromkeys(names))


def scores(arguments: argparse.Namespace) -> None:
    """Trains every model of `--models` for each seed; prints each one's metrics at once, and a table at the end."""
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


def mixtures(arguments: argparse.Namespace) -> None:
    """`scores` of the ways of sharing on every mixture, of the last weights."""
    for sets, rows, epochs in MIXTURES:
        print(f"\n{', '.join(sets)}: {rows} rows of each at most, {epochs} epochs")
        chosen = {"sets": sets, "rows": rows, "epochs": epochs, "models": model_names(SHARINGS), "eval_strategy": "no"}
        scores(argparse.Namespace(**vars(arguments) | chosen))


def read_results(file: Path | None) -> list[dict[str, Any]]:
    """What `--results` holds of earlier runs."""
    if file is None:
        return []
    file.touch()  # It fails now, and not when the first model is trained.
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def models(arguments: argparse.Namespace, tasks: Sequence[str]) -> Iterator[dict[str, Any]]:
    """All that determines each model to train, seed by seed."""
    of_task = {task: name for name in arguments.sets for task in SETS[name][1]}
    for seed in arguments.seeds:
        for name in arguments.models:
            frozen = "lora" in MODELS[name] and not MODELS[name]["lora"].get("train_encoder")
            for own in [[task] for task in tasks] if name == "alone" else [list(tasks)]:
                yield {
                    "model": name,
                    # A model a task is the same beside whatever others.
                    "sets": [of_task[task] for task in own] if name == "alone" else arguments.sets,
                    "tasks": own,
                    "seed": seed,
                    "encoder": arguments.encoder,
                    "rows": arguments.rows,
                    "epochs": arguments.epochs,
                    "eval_strategy": arguments.eval_strategy,
                    **(LORA_RATES if frozen else {"learning_rate": LEARNING_RATE}),
                }


def measure(model: dict[str, Any], run: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Trains one model; its metrics on validation and test, by task."""
    tasks = {task: run["tasks"][task] for task in model["tasks"]}
    part = run | {
        "tasks": tasks,
        "datasets": {one["dataset"]: run["datasets"][one["dataset"]] for one in tasks.values()},
    }
    part |= MODELS[model["model"]]
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
    """Each metric's mean over the seeds (lowest–highest), a column a model."""
    found: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for result in results:
        for split, tasks in result["metrics"].items():
            for task, metrics in tasks.items():
                for metric, value in metrics.items():
                    row = found.setdefault((split, task, metric), {})
                    row.setdefault(result["model"]["model"], []).append(value)
    names = [name for name in MODELS if any(name in row for row in found.values())]
    print(f"\n| split | task | metric | {' | '.join(names)} |\n|---|---|---|{'--:|' * len(names)}")
    for row, values in sorted(found.items(), key=lambda entry: (SPLITS.index(entry[0][0]), entry[0])):
        cells = (_spread(values[name]) if name in values else "" for name in names)
        print(f"| {' | '.join((*row, *cells))} |")


def _spread(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.3f} ({min(values):.3f}–{max(values):.3f})"
