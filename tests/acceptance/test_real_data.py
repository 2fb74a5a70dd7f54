"""The road from real files to sequences and answers, on data sets that stand beside a checkout (skipped elsewhere)."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from hf_mtl.config import load_config
from hf_mtl.data.preparation import Prepared, prepare
from hf_mtl.inference.pipeline import MultiTaskPipeline
from hf_mtl.training.trainer import MultiTaskTrainer
from tests.tiny import save_tiny_encoder, tiny_tokenizer

DATA = Path(__file__).parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.exists(), reason="the shared data sets are not there")


def first_rows(source: Path, target: Path, count: int) -> str:
    """A copy of a file's first rows."""
    with source.open(encoding="utf-8") as lines:
        target.write_text("".join(line for _, line in zip(range(count), lines, strict=False)), encoding="utf-8")
    return str(target)


def run(folder: Path, name: str, dataset: dict, tasks: dict, count: int = 300, **others) -> dict:
    files = {
        split: first_rows(DATA / name / f"{split}.jsonl", folder / f"{split}.jsonl", count if split == "train" else 100)
        for split in ("train", "validation", "test")
    }
    save_tiny_encoder(folder / "encoder")
    return {
        "encoder": str(folder / "encoder"),
        "max_length": 48,
        "datasets": {"d": {"path": "json", "data_files": files, **dataset}},
        "tasks": {task: {"dataset": "d", **entry} for task, entry in tasks.items()},
        "training": {"output_dir": str(folder / "out"), "max_steps": 5, "per_device_train_batch_size": 16},
        **others,
    }


def tags_of(prepared: Prepared) -> list[tuple[int, int, str]]:
    """(row, word, tag) of all sequences of train, with the label's name."""
    (task,) = prepared.tasks.values()
    sequences = prepared.sequences["d"]["train"]
    found = []
    for sequence in sequences.take(range(len(sequences))):
        for word, tag in zip(sequence["ner.words"], sequence["ner.tags"], strict=True):
            found.append((sequence["row"], word, task.spec.label_list[tag]))
    return sorted(found)


def test_the_same_sentences_in_four_schemes_give_the_same_labels(tmp_path):
    read = {}
    for scheme in ("bio", "iob1", "bioes", "bilou"):
        config = load_config(
            {
                "encoder": "user/encoder",
                "max_length": 32,
                "datasets": {
                    "d": {
                        "path": "json",
                        "data_files": str(DATA / "hard" / f"tags_{scheme}.jsonl"),
                        "tokens_column": "tokens",
                    }
                },
                "tasks": {"ner": {"task_type": "token-classification", "dataset": "d", "label_column": "ner_tags"}},
                "training": {"output_dir": str(tmp_path)},
            }
        )
        read[scheme] = tags_of(prepare(config, tiny_tokenizer("wordpiece", 32)))
    assert read["bio"] == read["iob1"] == read["bioes"] == read["bilou"]
    rows = [json.loads(line)["ner_tags"] for line in (DATA / "hard" / "tags_bio.jsonl").open(encoding="utf-8")]
    assert read["bio"] == [(row, word, tag) for row, tags in enumerate(rows) for word, tag in enumerate(tags)]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_5000_tagged_tokens_are_cut_into_windows_and_every_tag_counts_once(tmp_path, kind):
    file = DATA / "hard" / "long_ner.jsonl"
    config = load_config(
        {
            "encoder": "user/encoder",
            "max_length": 64,
            "datasets": {"d": {"path": "json", "data_files": str(file), "tokens_column": "tokens"}},
            "tasks": {"ner": {"task_type": "token-classification", "dataset": "d", "label_column": "ner_tags"}},
            "training": {"output_dir": str(tmp_path)},
        }
    )
    rows = [json.loads(line)["ner_tags"] for line in file.open(encoding="utf-8")]
    found = tags_of(prepare(config, tiny_tokenizer(kind)))
    assert found == [(row, word, tag) for row, tags in enumerate(rows) for word, tag in enumerate(tags)]


@pytest.mark.parametrize(
    ("name", "dataset", "tasks"),
    [
        (
            "snips",
            {"text_column": "text", "tokens_column": "tokens"},
            {
                "intent": {"task_type": "text-classification", "label_column": "intent"},
                "slots": {"task_type": "token-classification", "label_column": "slot_tags"},
            },
        ),
        (
            "goemotions",
            {"text_column": "text"},
            {
                "emotions": {"task_type": "text-classification", "label_column": "labels"},
                "sentiment": {"task_type": "text-classification", "label_column": "sentiment"},
            },
        ),
        (
            "uner_zh",
            {"tokens_column": "tokens", "token_separator": ""},
            {"ner": {"task_type": "token-classification", "label_column": "ner_tags"}},
        ),
        (
            "stsb_open",
            {"text_column": "text_a", "text_pair_column": "text_b"},
            {"similar": {"task_type": "text-classification", "label_column": "label", "problem_type": "regression"}},
        ),
    ],
)
def test_real_data_sets_train_and_answer(tmp_path, name, dataset, tasks):
    # Enough rows that validation has no label which train lacks.
    trainer = MultiTaskTrainer.from_config(run(tmp_path, name, dataset, tasks, 4000), console=Console(quiet=True))
    metrics = trainer.train()
    assert set(metrics["validation"]) == set(metrics["test"]) == set(tasks)
    pipe = MultiTaskPipeline.from_pretrained(str(tmp_path / "out"))
    text = (
        {"text": "A man is eating.", "text_pair": "A man eats."}
        if name == "stsb_open"
        else "今天 it is sunny in Berlin"
    )
    assert set(pipe(text)) == set(tasks)
