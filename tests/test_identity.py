"""A run goes on only as the run it was: what may differ, and how the rest is named."""

import copy
import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest

from hf_mtl.config import load_config
from hf_mtl.data.preparation import prepare
from hf_mtl.errors import UserError
from hf_mtl.training.checkpoint import Checkpoint, Checkpoints
from hf_mtl.training.identity import LIBRARIES, MAY_DIFFER, identity, refuse_another
from tests.runs import rows, write_rows
from tests.tiny import tiny_tokenizer

SPLITS = {"train": 0, "validation": 1}


def make_run(folder: Path, **training: Any) -> dict[str, Any]:
    """Two data sets of small files; one has a dot in its name."""
    found = {}
    for name, seed in (("mail", 0), ("notes.v2", 5)):
        files = {split: str(folder / f"{name}_{split}.jsonl") for split in SPLITS}
        for split, file in files.items():
            if not Path(file).exists():
                write_rows(Path(file), rows(9, seed + SPLITS[split]))
        found[name] = {"path": "json", "data_files": files, "tokens_column": "tokens"}
    return {
        "encoder": "tiny",
        "max_length": 32,
        "datasets": found,
        "tasks": {
            "topic": {"task_type": "text-classification", "dataset": "mail", "label_column": "topic"},
            "names": {"task_type": "token-classification", "dataset": "notes.v2", "label_column": "tags"},
        },
        "training": {"output_dir": "out", **training},
    }


def stamp(run: dict[str, Any]) -> dict[str, Any]:
    config = load_config(run)
    return identity(config, prepare(config, tiny_tokenizer()), "encoder")


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture
def saved(tmp_path: Path) -> Checkpoint:
    return Checkpoints(tmp_path / "checkpoints").save(7, {}, {"identity": stamp(make_run(tmp_path))})


def differences(checkpoint: Checkpoint, now: dict[str, Any]) -> list[str]:
    """The lines that name what differs."""
    with pytest.raises(UserError) as caught:
        refuse_another(checkpoint, now)
    first, *lines, last = str(caught.value).splitlines()
    assert first == f"--resume: {checkpoint.path} is of another run:"
    assert last == "Make these as they were there, or start anew with --overwrite"
    return [line.strip() for line in lines]


def leaves(tree: Any, *place: str) -> Iterator[tuple[str, ...]]:
    """The places of all values that are no mappings."""
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from leaves(value, *place, key)
    else:
        yield place


def changed(tree: Any, value: Any, *place: str) -> Any:
    tree = copy.deepcopy(tree)
    *outer, key = place
    at = tree
    for name in outer:
        at = at[name]
    at[key] = value
    return tree


def test_the_same_run_goes_on(saved, tmp_path):
    refuse_another(saved, stamp(make_run(tmp_path)))


def test_a_stamp_is_plain_json(tmp_path):
    found = stamp(make_run(tmp_path))
    assert json.loads(json.dumps(found)) == found
    assert found["versions"] == {name: importlib.metadata.version(name) for name in LIBRARIES}
    assert set(LIBRARIES) >= {"hf_mtl", "torch", "transformers", "accelerate", "datasets", "tokenizers", "numpy"}
    assert found["data"].keys() == {"mail", "notes.v2"}


OTHERWISE: dict[str, Any] = {
    "output_dir": "elsewhere",
    "per_device_train_batch_size": 3,
    "gradient_accumulation_steps": 5,
    "per_device_eval_batch_size": 3,
    "gradient_checkpointing": True,
    "dataloader_num_workers": 2,
    "save_strategy": "no",
    "save_total_limit": 2,
    "on_nonfinite": "skip",
    "report_to": ["tensorboard"],
    "push_to_hub": True,
    "hub_model_id": "user/name",
    "hub_strategy": "end",
    "hub_private_repo": True,
}


@pytest.mark.parametrize("key", OTHERWISE)
def test_where_when_and_how_a_run_computes_may_differ(saved, tmp_path, key):
    refuse_another(saved, stamp(make_run(tmp_path, **{key: OTHERWISE[key]})))


def test_the_steps_between_checkpoints_and_the_folder_of_the_run_file_may_differ(saved, tmp_path):
    refuse_another(saved, stamp(make_run(tmp_path, save_strategy="steps", save_steps=3)))
    refuse_another(saved, stamp(make_run(tmp_path) | {"base_dir": str(tmp_path)}))
    tested = {f"training.{key}" for key in OTHERWISE} | {"training.save_steps"}
    assert tested == MAY_DIFFER


def test_every_other_key_is_refused_by_its_name(saved):
    now, refused = saved.state["identity"], []
    for place in leaves(now["config"]):
        key, other = ".".join(place), changed(now, "something else", "config", *place)
        if key in MAY_DIFFER:
            refuse_another(saved, other)
            continue
        (line,) = differences(saved, other)
        assert line.startswith(f"{key}: ")
        assert line.endswith(" there, 'something else' now")
        refused.append(key)
    assert len(refused) > 50
    assert {"encoder", "max_length", "training.learning_rate", "training.seed", "tasks.topic.loss_weight"} <= {*refused}


def test_a_changed_learning_rate_is_named_with_both_values(saved, tmp_path):
    found = differences(saved, stamp(make_run(tmp_path, learning_rate=1e-3)))
    assert found == ["training.learning_rate: 5e-05 there, 0.001 now"]


def test_a_key_that_is_new_or_gone_is_named(saved):
    now = saved.state["identity"]
    more = changed(now, {"a": 1}, "config", "encoder_config")
    assert differences(saved, more) == ["encoder_config.a: null there, 1 now"]
    less = copy.deepcopy(now)
    del less["config"]["tasks"]["topic"]
    (line,) = differences(saved, less)
    assert line.startswith("tasks.topic: ")


@pytest.mark.parametrize("dataset", ["mail", "notes.v2"])
@pytest.mark.parametrize("split", SPLITS)
def test_a_changed_row_is_refused_with_its_data_set_and_split(saved, tmp_path, dataset, split):
    file = tmp_path / f"{dataset}_{split}.jsonl"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("B-name", "I-name", 1), encoding="utf-8")
    found = differences(saved, stamp(make_run(tmp_path)))
    assert found == [f"data set {dataset}, split {split}: has other rows or another encoding"]
    file.write_text(text, encoding="utf-8")
    refuse_another(saved, stamp(make_run(tmp_path)))


def test_a_split_that_is_new_or_gone_is_refused(saved):
    now = saved.state["identity"]
    more = changed(now, "abc", "data", "mail", "test")
    assert differences(saved, more) == ["data set mail, split test: is new"]
    less = copy.deepcopy(now)
    del less["data"]["notes.v2"]["validation"]
    assert differences(saved, less) == ["data set notes.v2, split validation: is gone"]


def test_another_encoder_is_refused_where_nothing_else_explains_it(saved):
    """Checkpoints hold only the weights that are trained: the others must be those the run began with."""
    now = changed(saved.state["identity"], "another", "encoder")
    assert differences(saved, now) == ["the encoder has other weights: encoder there, another now"]
    both = changed(now, "elsewhere", "config", "encoder")
    (line,) = differences(saved, both)
    assert line.startswith("encoder: ")


def test_a_changed_entry_of_lora_is_named(saved):
    now = changed(saved.state["identity"], {"scope": "shared", "r": 4}, "config", "lora")
    assert [line.split(":")[0] for line in differences(saved, now)] == ["lora"]
    found = Checkpoints(saved.path.parent / "more").save(8, {}, {"identity": now})
    other = changed(now, 8, "config", "lora", "r")
    assert differences(found, other) == ["lora.r: 4 there, 8 now"]


@pytest.mark.parametrize("library", LIBRARIES)
def test_another_version_of_a_library_is_refused_by_its_name(saved, library):
    now = changed(saved.state["identity"], "99.0", "versions", library)
    assert differences(saved, now) == [f"{library} {importlib.metadata.version(library)} there, 99.0 now"]


def test_all_differences_are_told_at_once_and_rows_only_where_nothing_else_explains_them(saved, tmp_path):
    now = stamp(make_run(tmp_path, seed=1, learning_rate=1e-3))
    now = changed(now, "0.9", "versions", "tokenizers")
    now = changed(now, "abc", "data", "mail", "train")
    found = differences(saved, now)
    assert [line.split()[0] for line in found] == ["tokenizers", "training.learning_rate:", "training.seed:"]
