"""Evaluation on several processes, started for real: `work` is what each of them does."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from hf_mtl.batching.collator import Collator
from hf_mtl.evaluation.splits import evaluate_split, tuned_thresholds
from hf_mtl.modeling.model import MultiTaskModel
from tests.distributed.launch import work_together
from tests.evaluated import ROWS, encode, make_model, tuning_config

LONG = max((row for row in ROWS if row["pos"]), key=lambda row: len(row["tokens"]))
SHORT = {**LONG, "tokens": ["book"], "slots": ["O"], "pos": ["NOUN"]}
SPLITS = {
    "odd": ROWS[:37],
    "two rows": ROWS[:2],
    "one row": [LONG],
    # Dealt as they stand, both long rows would go to the first process.
    "two long rows": [LONG, *[SHORT] * 10, LONG],
    "tasks without labels": [{**row, "topic": None, "moods": None} for row in ROWS[3:8]],
}
Report = dict[str, Any]


def report(model: MultiTaskModel, accelerator: Accelerator | None) -> Report:
    """What a process is told of all splits."""
    collator = Collator(pad_token_id=0, pad_token_type_id=0, tasks=model.tasks)
    config, found = tuning_config(), {}
    for name, rows in SPLITS.items():
        split, batches = {"mail": encode(rows)[0]}, []
        results = evaluate_split(model, split, config, collator, batches.append, accelerator)
        found[name] = {
            "batches": batches,
            "results": {task: [one.rows, one.answers, one.metrics] for task, one in results.items()},
            "thresholds": tuned_thresholds(model, split, config, collator, accelerator),
        }
    return json.loads(json.dumps(found))


def work(folder: Path, processes: int) -> None:
    """One process: evaluates, then once more with the model spread over the processes, and then trains it."""
    accelerator = Accelerator(cpu=True)
    model = MultiTaskModel.from_pretrained(folder)
    found = {"processes": accelerator.num_processes, "plain": report(model, accelerator)}
    mesh = init_device_mesh("cpu", (accelerator.num_processes,))
    # Heads too: each gathers its parameters for itself, so all processes must call it as often.
    for part in (*model.encoder.encoder.layer, *model.heads.values(), model):
        fully_shard(part, mesh=mesh)
    found["spread"] = report(model, accelerator)
    model(torch.tensor([[2, 5, 3]])).logits["topic"].sum().backward()
    found["gradient"] = float(model.heads["topic"].classifier.weight.grad.full_tensor().norm())
    (folder / f"{accelerator.process_index}.json").write_text(json.dumps(found), encoding="utf-8")
    accelerator.end_training()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        patch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
        make_model(folder / "encoder").save_pretrained(folder)
        yield folder


@pytest.fixture(scope="module")
def alone(folder: Path) -> Report:
    return report(MultiTaskModel.from_pretrained(folder), None)


@pytest.fixture(scope="module")
def processes(folder: Path) -> list[Report]:
    """What each of three processes found: most splits cannot be dealt evenly to so many, and one has too few rows."""
    work_together("tests.distributed.test_evaluation", folder, 3)
    found = [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(3)]
    assert [one["processes"] for one in found] == [3] * 3
    return found


def same(found: Any, expected: Any) -> bool:
    """Equal, numbers up to the rounding of sums in batches of other widths."""
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(same(found[key], value) for key, value in expected.items())
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    return found == (pytest.approx(expected, rel=1e-4) if isinstance(expected, float) else expected)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", ["plain", "spread"])
def test_every_process_has_each_row_once_and_the_results_of_one_process_alone(alone, processes, kind, split):
    results = [one[kind][split]["results"] for one in processes]
    assert results[0]
    for task, (rows, answers, _) in results[0].items():
        assert rows == [row for row, cells in enumerate(SPLITS[split]) if cells[task] is not None]
        assert len(answers) == len(rows)
    assert same(results[0], alone[split]["results"])
    assert all(found == results[0] for found in results)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", ["plain", "spread"])
def test_every_process_settles_on_the_threshold_of_one_process_alone(alone, processes, kind, split):
    found = [one[kind][split]["thresholds"] for one in processes]
    assert same(found[0], alone[split]["thresholds"])
    assert all(thresholds == found[0] for thresholds in found)
    assert set(found[0]) == ({"moods"} if any(row["moods"] is not None for row in SPLITS[split]) else set())


@pytest.mark.parametrize("split", SPLITS)
def test_no_sequence_is_read_twice_and_all_processes_run_as_many_batches(alone, processes, split):
    batches = [one["plain"][split]["batches"] for one in processes]
    assert np.sum(batches) == sum(alone[split]["batches"])
    assert len({len(own) for own in batches}) == 1
    assert any(sum(own) == 0 for own in batches) == (len(SPLITS[split]) < len(processes))


@pytest.mark.parametrize("split", ["odd", "two long rows"])
def test_the_work_is_shared_to_within_the_windows_of_one_row(processes, split):
    windows = np.bincount(encode(SPLITS[split])[0].dataset["row"][:])
    assert windows.max() > 3
    assert split != "odd" or np.count_nonzero(windows) % len(processes) > 0
    counts = [sum(one["plain"][split]["batches"]) for one in processes]
    assert max(counts) - min(counts) <= windows.max()


def test_a_model_spread_over_the_processes_can_be_trained_after_an_evaluation(processes):
    gradients = {one["gradient"] for one in processes}
    assert len(gradients) == 1
    assert gradients.pop() > 0
