"""Trains every case with the number of processes it was launched with; the first process writes what came of it.

python -m tests.distributed.forked tests.distributed.same_numbers FOLDER 2 3 4
"""

import json
import os
import random
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn

from hf_mtl.training.optimization import make_optimizer
from hf_mtl.training.rehearsal import fitting_size, rehearse
from hf_mtl.training.step import train_step
from hf_mtl.training.trainer import MultiTaskTrainer
from tests.runs import rows, write_rows
from tests.tiny import save_tiny_encoder

STEPS = 10
QUIET = Console(quiet=True)
WAYS = {1: [(32, 1), (8, 4), (33, 1)], 2: [(16, 1)], 3: [(11, 1)], 4: [(8, 1)]}
"""Processes → (per_device_train_batch_size, gradient_accumulation_steps): a step has 32 or 33 sequences."""
STRATEGIES: dict[str, dict[str, Any]] = {
    "proportional": {},
    "round_robin": {},
    "temperature": {"temperature": 2.0},
    "weights": {"weights": {"words": 1, "articles": 2, "pairs": 3}},
}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    # The gradient's norm is well above 0.5, so clipping takes part.
    "sgd": {"optim": "sgd", "learning_rate": 0.2, "max_grad_norm": 0.5},
    "adamw": {"optim": "adamw_torch_fused", "learning_rate": 2e-3, "weight_decay": 0.1},
}
CASES = [f"{strategy} {batch}" for strategy in STRATEGIES for batch in ("mixed", "single_task")] + ["one_left"]
FEW = ["proportional mixed", "temperature single_task", "one_left"]
"""What is trained in every way, and with every optimizer: how rows are drawn is the same with any of them."""
TASKS: dict[str, dict[str, Any]] = {
    "topic": {"task_type": "text-classification", "dataset": "words", "label_column": "topic"},
    "names": {"task_type": "token-classification", "dataset": "words", "label_column": "tags"},
    "places": {"task_type": "token-classification", "dataset": "articles", "label_column": "tags", "loss_weight": 0.5},
    "agrees": {"task_type": "text-classification", "dataset": "pairs", "label_column": "agrees"},
}


def long_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows of several sentences with tags, longer than the runs' max_length."""
    draw = random.Random(seed)
    tagged = [row for row in rows(60, seed) if row["tags"]]
    made = []
    for _ in range(count):
        parts = draw.sample(tagged, draw.randint(4, 7))
        made.append({key: [value for part in parts for value in part[key]] for key in ("tokens", "tags")})
    return made


def pair_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Pairs of sentences, which agree when they have the same topic."""
    draw = random.Random(seed)
    labelled = [row for row in rows(60, seed) if row["topic"]]
    made = []
    for _ in range(count):
        one, other = draw.sample(labelled, 2)
        texts = {"text": " ".join(one["tokens"]), "other": " ".join(other["tokens"])}
        made.append(texts | {"agrees": str(one["topic"] == other["topic"])})
    return made


def write_inputs(folder: Path) -> None:
    """The encoder and the rows of all cases; to be called once, before the launches."""
    save_tiny_encoder(folder / "encoder")
    write_rows(folder / "words.jsonl", rows(48, 0))
    write_rows(folder / "articles.jsonl", long_rows(12, 1))
    write_rows(folder / "pairs.jsonl", pair_rows(30, 2))
    # Row 25 has no label at all: 33 and 34 sequences, one more than a step.
    write_rows(folder / "words_33.jsonl", rows(34, 3))
    write_rows(folder / "words_34.jsonl", rows(35, 3))


def make_run(folder: Path, optimizer: str, per_device: int, accumulation: int) -> dict[str, Any]:
    """A run over rows that lack labels of some tasks, rows of several windows, and pairs of texts."""
    return {
        "encoder": str(folder / "encoder"),
        "max_length": 24,
        "datasets": {
            "words": {"path": "json", "data_files": str(folder / "words.jsonl"), "tokens_column": "tokens"},
            "articles": {"path": "json", "data_files": str(folder / "articles.jsonl"), "tokens_column": "tokens"},
            "pairs": {
                "path": "json",
                "data_files": str(folder / "pairs.jsonl"),
                "text_column": "text",
                "text_pair_column": "other",
            },
        },
        "tasks": TASKS,
        "sampling": {"pool_size": 2},
        "training": {
            "output_dir": str(folder / "out"),
            "max_steps": STEPS,
            "per_device_train_batch_size": per_device,
            "gradient_accumulation_steps": accumulation,
            "eval_strategy": "no",
            "save_strategy": "no",
            "logging_steps": 1,
            "seed": 7,
            **OPTIMIZERS[optimizer],
        },
    }


def only_words(run: dict[str, Any], file: Path) -> dict[str, Any]:
    """The run with one data set alone, whose rows have two tasks."""
    tasks = {name: task for name, task in TASKS.items() if task["dataset"] == "words"}
    return run | {"datasets": {"words": run["datasets"]["words"] | {"data_files": str(file)}}, "tasks": tasks}


def names(processes: int, per_device: int, accumulation: int) -> list[str]:
    """The cases that are trained in a way: all of them in those of up to two processes, whose steps have 32."""
    every = CASES if processes * per_device * accumulation == 32 and processes <= 2 else FEW
    return [f"{case} {optimizer}" for optimizer in OPTIMIZERS for case in (every if optimizer == "sgd" else FEW)]


def make_case(folder: Path, name: str, processes: int, per_device: int, accumulation: int) -> dict[str, Any]:
    """The run of a case."""
    *_, optimizer = name.split()
    run = make_run(folder, optimizer, per_device, accumulation)
    if name.startswith("one_left"):
        return only_words(run, folder / f"words_{processes * per_device * accumulation + 1}.jsonl")
    strategy, batch, _ = name.split()
    return run | {"sampling": {"strategy": strategy, "batch": batch, "pool_size": 2, **STRATEGIES[strategy]}}


def vector(module: nn.Module) -> Tensor:
    """All parameters of a module, `[parameters]`."""
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def train_cases(folder: Path, processes: int, per_device: int, accumulation: int) -> None:
    """Trains every case; the first process writes parameters before and after, and the history."""
    parameters, histories = {}, {}
    for name in names(processes, per_device, accumulation):
        run = make_case(folder, name, processes, per_device, accumulation)
        trainer = MultiTaskTrainer.from_config(run, overwrite=True, console=QUIET)
        assert trainer.accelerator.num_processes == processes
        parameters[f"{name} before"] = vector(trainer.model).clone()
        trainer.train()
        parameters[name], histories[name] = vector(trainer.model), trainer.history
    if trainer.accelerator.is_main_process:
        written = folder / f"{processes}x{per_device}x{accumulation}"
        save_file(parameters, written.with_suffix(".safetensors"))
        written.with_suffix(".json").write_text(json.dumps(histories), encoding="utf-8")


def absent_steps(folder: Path, processes: int) -> dict[str, dict[str, bool]]:
    """Steps in which processes lack rows or labels: which parts of the model each moved, and if all processes agree."""
    run = only_words(make_run(folder, "adamw", 2, 1), folder / "words.jsonl")
    trainer = MultiTaskTrainer.from_config(run, overwrite=True, console=QUIET)
    accelerator, rank = trainer.accelerator, trainer.accelerator.process_index
    assert accelerator.num_processes == processes
    train = trainer.prepared.split("train")["words"]
    labelled = [place for place in range(len(train)) if train.items("topic")[place] and train.items("names")[place]]
    own = train.take(labelled[2 * rank : 2 * rank + 2])
    collate, first = trainer.collator, rank == 0
    steps = {
        "every task everywhere": collate(own),
        "no names": collate(own, ["topic"]),
        "names on the first process only": collate(own, ["topic", "names"] if first else ["topic"]),
        "rows on the first process only": collate(own if first else []),
        "names alone, on the first process only": collate(own if first else [], ["names"]),
        "no rows": collate([]),
    }
    model, optimizer = accelerator.prepare(trainer.model, make_optimizer(trainer.model, trainer.training))
    model.train()
    found: dict[str, dict[str, bool]] = {}
    for name, batch in steps.items():
        parts = {"encoder": trainer.model.encoder, **trainer.model.heads}
        before = {part: vector(module).clone() for part, module in parts.items()}
        train_step(model, [batch], optimizer, accelerator, trainer.loss_weights, 1.0)
        found[name] = {part: not torch.equal(before[part], vector(module)) for part, module in parts.items()}
        gathered = accelerator.gather(vector(trainer.model)[None])
        found[name]["agree"] = len(gathered) == processes and bool((gathered == gathered[0]).all())
    return found


def fit(folder: Path) -> None:
    """The size of micro-batch that all processes settle on where the second one has no memory for more than 4 rows."""
    trainer = MultiTaskTrainer.from_config(make_run(folder, "sgd", 16, 1), overwrite=True, console=QUIET)
    accelerator = trainer.accelerator
    model = accelerator.prepare(trainer.model).train()

    def refuse(module: nn.Module, inputs: tuple, keywords: dict) -> None:
        if accelerator.process_index == 1 and len(keywords["input_ids"]) > 4:
            raise torch.OutOfMemoryError("out of memory")

    trainer.model.encoder.register_forward_pre_hook(refuse, with_kwargs=True)
    largest = partial(trainer.course.largest_micro_batch, trainer.course.start())
    size = fitting_size(model, largest, 16, accelerator, lambda _: None)
    rehearse(model, trainer.collator([]), accelerator)
    told = {"processes": accelerator.num_processes, "size": size}
    (folder / f"fit_{accelerator.process_index}.json").write_text(json.dumps(told), encoding="utf-8")


def work(folder: Path, processes: int) -> None:
    """What each process does; the first one writes what came of it."""
    for per_device, accumulation in WAYS[processes]:
        train_cases(folder, processes, per_device, accumulation)
    found = absent_steps(folder, processes)
    if int(os.environ.get("RANK", "0")) == 0:
        (folder / f"absent_{processes}.json").write_text(json.dumps(found), encoding="utf-8")
    if processes == 2:
        fit(folder)
