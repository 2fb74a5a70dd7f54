"""Adapters and private layers in two processes: the numbers of one, no task moved without an item, runs that go on.

`work` trains the cases in each process and writes what came of them.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hf_mtl.training.optimization import make_optimizer
from hf_mtl.training.step import train_step
from hf_mtl.training.trainer import MultiTaskTrainer
from tests.adapted import draw
from tests.distributed.launch import work_together
from tests.distributed.same_numbers import QUIET, make_run, only_words, write_inputs
from tests.runs import tiny_run
from tests.test_resume import killed_after, results

PRIVATE = {"private_layers": 1}
CASES: dict[str, dict[str, Any]] = {
    "per_task": {"lora": {"scope": "per_task"}},
    "both": {"lora": {"scope": "both", "r": 4}},
    "dora": {"lora": {"scope": "per_task", "use_dora": True, "layers_to_transform": [1]}},
    "encoder too": {"lora": {"scope": "both", "train_encoder": True}},
    "private layers": {"sharing": PRIVATE},
    "private layers with adapters by group": {"lora": {"train_encoder": True}, "sharing": PRIVATE},
    "private layers with adapters by task": {"lora": {"scope": "per_task", "train_encoder": True}, "sharing": PRIVATE},
    "adapters by group": {"lora": {}, "sharing": PRIVATE},
}
"""What each run file says."""
TASKS = ["topic", "names"]
STEPS: dict[str, list[tuple[list[int], list[str]]]] = {
    "every task everywhere": [([0, 1, 2], TASKS), ([3, 4], TASKS)],
    "names on the second process only": [([5, 6], ["topic"]), ([7, 0, 1], TASKS)],
    "rows on the first process only": [([2, 3, 4], TASKS), ([], TASKS)],
    "topic alone": [([5], ["topic"]), ([6, 7], ["topic"])],
    "names alone, on the second process only": [([], TASKS), ([1, 2], ["names"])],
}
"""Step → (rows, tasks that are read) of each process."""


def trainer_of(folder: Path, optimizer: str, entries: dict[str, Any]) -> MultiTaskTrainer:
    run = only_words(make_run(folder, optimizer, 2, 1), folder / "words.jsonl") | entries
    trainer = MultiTaskTrainer.from_config(run, overwrite=True, console=QUIET)
    draw(trainer.model)
    return trainer


def parts(trainer: MultiTaskTrainer) -> dict[str, Tensor]:
    """The weights of each part of the model as one vector."""
    model = trainer.model
    tops = {"encoder.layer.1."} if model.private else set()
    found: dict[str, list[Tensor]] = {}
    for name, weight in model.named_parameters():
        room, _, path = name.partition(".")
        task, _, _ = path.partition(".")
        if adapter := re.search(r"\.lora_\w+\.(\w+)", name):
            part = f"adapter {adapter[1]}"
        elif room in ("heads", "private"):
            part = f"{room} {task}"
        else:
            part = "private topic" if path.startswith(tuple(tops)) else "encoder"
        found.setdefault(part, []).append(weight)
    return {name: torch.cat([weight.detach().flatten() for weight in weights]) for name, weights in found.items()}


def train(
    folder: Path, optimizer: str, entries: dict[str, Any], processes: int
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """All weights before and after the steps, and which parts each step moved; one process does the work of two."""
    trainer = trainer_of(folder, optimizer, entries)
    accelerator = trainer.accelerator
    assert accelerator.num_processes == processes
    data = trainer.prepared.split("train")["words"]
    labelled = [place for place in range(len(data)) if data.items("topic")[place] and data.items("names")[place]]
    model, optimizer = accelerator.prepare(trainer.model, make_optimizer(trainer.model, trainer.training))
    model.train()
    first, moved = torch.cat(list(parts(trainer).values())), {}
    for name, shares in STEPS.items():
        batches = [trainer.collator(data.take([labelled[row] for row in rows]), tasks) for rows, tasks in shares]
        own = batches if processes == 1 else batches[accelerator.process_index : accelerator.process_index + 1]
        before = parts(trainer)
        result = train_step(model, own, optimizer, accelerator, trainer.loss_weights, 1.0)
        assert result.finite
        after = parts(trainer)
        moved[name] = sorted(part for part in after if not torch.equal(before[part], after[part]))
        gathered = accelerator.gather(torch.cat(list(after.values()))[None])
        assert len(gathered) == processes
        assert all(torch.equal(one, gathered[0]) for one in gathered)
    return first, torch.cat(list(parts(trainer).values())), moved


RUNS: dict[str, dict[str, Any]] = {
    "adapters": {"lora": {"scope": "both", "lora_dropout": 0.1}},
    "private": {"sharing": PRIVATE},
}
"""What is stopped and goes on."""


def write_run(folder: Path, entries: dict[str, Any]) -> None:
    run = tiny_run(folder, save_strategy="steps", save_steps=2, max_steps=6, logging_steps=1)
    run |= entries | {"encoder_config": {"hidden_dropout_prob": 0.1}}
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")


def resume(folder: Path) -> None:
    """A whole run, and the same once more from a checkpoint in its middle."""
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    trainer = MultiTaskTrainer.from_config(run, console=QUIET)
    trainer.train()
    out = folder / "resumed"
    if trainer.accelerator.is_main_process:
        killed_after(folder / "out", 4, out)
    trainer.accelerator.wait_for_everyone()
    run["training"] |= {"output_dir": str(out)}
    MultiTaskTrainer.from_config(run, console=QUIET, resume=True).train()


def work(folder: Path, processes: int) -> None:
    """What each process does; the first one writes what came of it."""
    weights, moved = {}, {}
    for name, entries in CASES.items():
        for optimizer in ("sgd", "adamw"):
            case = f"{name} {optimizer}"
            weights[f"{case} before"], weights[case], moved[case] = train(folder, optimizer, entries, processes)
    if processes == 2:
        for name in RUNS:
            resume(folder / name)
    if int(os.environ.get("RANK", "0")) == 0:
        save_file(weights, folder / f"{processes}.safetensors")
        (folder / f"{processes}.json").write_text(json.dumps(moved), encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    write_inputs(folder)
    for name, entries in RUNS.items():
        write_run(folder / name, entries)
    work(folder, 1)
    work_together("tests.distributed.test_own_parts", folder, 2)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_end_where_one_ends(folder, case):
    one, two = (load_file(folder / f"{processes}.safetensors") for processes in (1, 2))
    before, wanted, found = one[f"{case} sgd before"], one[f"{case} sgd"], two[f"{case} sgd"]
    assert torch.equal(before, two[f"{case} sgd before"])
    assert (found - wanted).norm() < 1e-6 * wanted.norm()
    assert (found - wanted).norm() < 1e-4 * (wanted - before).norm()
    assert (found - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("processes", [1, 2])
def test_what_a_task_has_of_its_own_moves_if_and_only_if_some_process_has_an_item_of_it(
    folder, processes, optimizer, case
):
    moved = json.loads((folder / f"{processes}.json").read_text(encoding="utf-8"))[f"{case} {optimizer}"]
    lora, private = CASES[case].get("lora"), "sharing" in CASES[case]
    scope = None if lora is None else lora.get("scope", "shared")
    whole = lora is None or lora.get("train_encoder", False)
    always = {"encoder"} if whole else set()
    always |= {"adapter shared"} if scope in ("shared", "both") else set()
    own = {"heads"} | ({"adapter"} if lora is not None else set()) | ({"private"} if private and whole else set())
    present = dict.fromkeys(STEPS, TASKS) | {
        "topic alone": ["topic"],
        "names alone, on the second process only": ["names"],
    }
    for step, tasks in present.items():
        assert set(moved[step]) == always | {f"{part} {task}" for task in tasks for part in own}, step


@pytest.mark.parametrize("name", RUNS)
def test_a_run_goes_on_with_the_same_bytes(folder, name):
    whole, resumed = folder / name / "out", folder / name / "resumed"
    state = json.loads((resumed / "checkpoints" / "step-00000006" / "state.json").read_text(encoding="utf-8"))
    assert state["processes"] == 2
    if name == "adapters":
        assert {path.name for path in (resumed / "adapters").iterdir()} == set(TASKS)
    assert results(resumed) == results(whole)
