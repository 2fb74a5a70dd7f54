"""Several processes encode a split as one does, and however they end, nothing is left of them."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import psutil
import pytest

from hf_mtl.config import load_config
from hf_mtl.config_keys import RunConfig
from hf_mtl.data import encoding, parts
from hf_mtl.data.encoding import RowEncoder, Sequences
from hf_mtl.data.preparation import prepare
from hf_mtl.errors import DataError, UserError
from tests.tiny import tiny_tokenizer

TOPIC = {"task_type": "text-classification", "dataset": "d", "label_column": "topic"}
NAMES = {"task_type": "token-classification", "dataset": "d", "label_column": "tags"}


def rows(count: int = 245) -> list[dict]:
    """Rows of which some are long, some without text or labels, and some have tags that break their scheme."""
    made = []
    for number in range(count):
        tokens = ["song"] * (number % 30) if number % 9 else []
        tags = ["I-x" if number % 7 == 0 else "B-x"] * len(tokens) if number % 4 else None
        made.append({"tokens": tokens, "topic": "abc"[number % 3] if number % 5 else None, "tags": tags})
    return made


def config_of(folder: Path, made: list[dict]) -> RunConfig:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    dataset = {"path": "json", "data_files": str(folder / "rows.jsonl"), "tokens_column": "tokens"}
    tasks = {"topic": TOPIC, "names": NAMES | {"tag_scheme": "BIO"}}
    training = {"output_dir": str(folder / "out")}
    return load_config(
        {"encoder": "u/e", "max_length": 16, "datasets": {"d": dataset}, "tasks": tasks} | {"training": training}
    )


def train(config: RunConfig, **memory) -> Sequences:
    return prepare(config, tiny_tokenizer("wordpiece", 16), **memory).sequences["d"]["train"]


def several(patch: pytest.MonkeyPatch, folder: Path, processes: int = 3) -> None:
    """From here on splits are encoded by so many processes, into an empty cache."""
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / f"cache{processes}")
    patch.setattr(parts, "LARGE_SPLIT", 1)
    patch.setattr(encoding, "BATCH", 10)
    patch.setattr(os, "sched_getaffinity", lambda _: set(range(processes)))


def cached(folder: Path) -> list[str]:
    """The kinds of files in the cache."""
    return sorted(path.name for path in folder.glob("cache*/hf_mtl/*/*"))


def failing(patch: pytest.MonkeyPatch, action) -> None:
    """What is done in place of the batch that begins with row 100."""
    stock = RowEncoder._encode_batch

    def encode(self, start, columns):
        if start == 100:
            action()
        return stock(self, start, columns)

    patch.setattr(RowEncoder, "_encode_batch", encode)


@pytest.mark.parametrize("processes", [2, 3, 7, 40])
def test_the_file_and_the_counts_are_those_of_one_process(tmp_path, monkeypatch, processes):
    config = config_of(tmp_path, rows())
    several(monkeypatch, tmp_path, 1)
    alone = train(config)
    several(monkeypatch, tmp_path, processes)
    found = train(config)
    files = [Path(split.dataset.cache_files[0]["filename"]) for split in (alone, found)]
    assert files[0] != files[1]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert found.summary.to_json() == alone.summary.to_json()
    assert found.summary.without_text > 20
    assert found.summary.without_label
    assert found.summary.notes["names"]
    assert found.summary.over_length
    assert sorted(path.name for path in files[1].parent.iterdir()) == ["sequences.arrow", "summary.json"]


def test_rows_in_memory_are_encoded_by_several_processes_too(tmp_path, monkeypatch):
    made = [{"tokens": ["song"] * (number % 9 + 1), "topic": "abc"[number % 3], "tags": None} for number in range(90)]
    memory = {"d": datasets.Dataset.from_list(made)}
    config = config_of(tmp_path, []).model_copy(deep=True)
    config.tasks.pop("names")
    several(monkeypatch, tmp_path, 1)
    alone = train(config, memory=memory)
    several(monkeypatch, tmp_path, 3)
    found = train(config, memory=memory)
    assert found.take(range(90)) == alone.take(range(90))
    assert found.summary == alone.summary


@pytest.mark.parametrize("wrong", [{5, 120, 240}, set(range(0, 245, 4))], ids=["few", "many"])
def test_rows_that_cannot_be_read_are_told_as_one_process_tells_them(tmp_path, monkeypatch, wrong):
    made = [row | ({"tokens": ["a"], "tags": ["O", "O"]} if n in wrong else {}) for n, row in enumerate(rows())]
    config = config_of(tmp_path, made)
    told = []
    for processes in (1, 3):
        several(monkeypatch, tmp_path, processes)
        with pytest.raises(DataError) as refused:
            train(config)
        told.append(str(refused.value))
    assert told[0] == told[1]
    assert len(told[0].splitlines()) == min(len(wrong), 21)
    assert "sequences.arrow" not in cached(tmp_path)


def nothing_is_left(folder: Path) -> bool:
    left = [path for path in (folder / "cache3" / "hf_mtl").iterdir() if path.name.startswith(".writing")]
    return not left and not multiprocessing.active_children() and "sequences.arrow" not in cached(folder)


def test_what_a_process_raises_is_raised_with_its_traceback(tmp_path, monkeypatch):
    config = config_of(tmp_path, rows())
    several(monkeypatch, tmp_path)

    def full() -> None:
        raise OSError(28, "No space left on device")

    failing(monkeypatch, full)
    with pytest.raises(OSError, match="No space left") as raised:
        train(config)
    assert raised.value.errno == 28
    assert "in full" in raised.value.__notes__[0]
    assert nothing_is_left(tmp_path)


def test_what_cannot_be_sent_is_told_all_the_same(tmp_path, monkeypatch):
    class OwnError(Exception):
        pass

    def fail() -> None:
        raise OwnError("of this test")

    config = config_of(tmp_path, rows())
    several(monkeypatch, tmp_path)
    failing(monkeypatch, fail)
    with pytest.raises(RuntimeError, match="OwnError: of this test"):
        train(config)
    assert nothing_is_left(tmp_path)


def test_a_killed_process_is_told_and_the_others_end(tmp_path, monkeypatch):
    config = config_of(tmp_path, rows())
    several(monkeypatch, tmp_path)
    failing(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(UserError, match=r"rows 81 to 160 was ended from outside \(exit code -9\)"):
        train(config)
    assert nothing_is_left(tmp_path)
    monkeypatch.undo()
    several(monkeypatch, tmp_path)
    assert len(train(config)), "the next start finds nothing half done"


def test_ctrl_c_ends_all_processes(tmp_path, monkeypatch):
    config = config_of(tmp_path, rows())
    several(monkeypatch, tmp_path)

    def press() -> None:
        os.kill(os.getppid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # That of the terminal reaches all.
        time.sleep(600)

    failing(monkeypatch, press)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    assert nothing_is_left(tmp_path)


def test_no_process_outlives_a_killed_run(tmp_path, monkeypatch):
    config = config_of(tmp_path, rows())
    several(monkeypatch, tmp_path)
    failing(monkeypatch, lambda: time.sleep(0.2))
    slow = RowEncoder._encode_batch
    monkeypatch.setattr(RowEncoder, "_encode_batch", lambda *batch: (time.sleep(0.05), slow(*batch))[1])
    run = multiprocessing.get_context("fork").Process(target=train, args=(config,))
    run.start()
    while len(others := psutil.Process(run.pid).children()) < 3:
        assert run.is_alive()
    run.kill()
    run.join()
    assert psutil.wait_procs(others, timeout=60)[1] == []


SCRIPT = """
import os, sys, threading, torch, datasets
from pathlib import Path
from hf_mtl.data import encoding, parts
from tests.test_parts import config_of, rows, train
from tests.tiny import tiny_tokenizer
folder = Path(sys.argv[1])
datasets.config.HF_DATASETS_CACHE = folder / "cache"
parts.LARGE_SPLIT, encoding.BATCH = 1, 10
os.sched_getaffinity = lambda _: {0, 1}
threading.Thread(target=threading.Event().wait, daemon=True).start()
torch.set_num_threads(2)
torch.ones(1000, 1000) @ torch.ones(1000, 1000)
tiny_tokenizer("wordpiece", 16)(["threads of the tokenizer"] * 1000)
print(len(train(config_of(folder, rows()))), os.environ.get("TOKENIZERS_PARALLELISM"))
"""


def test_a_script_without_a_guard_may_have_used_threads_before(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    count, setting = done.stdout.split()
    assert int(count) > 200
    assert setting == "None", "what was set for the processes is taken back"
    assert "fork" not in done.stderr


def test_a_small_split_and_a_daemonic_process_have_one_process(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert len(parts._parts(parts.LARGE_SPLIT - 1)) == 1
    assert len(parts._parts(parts.LARGE_SPLIT)) == parts.MOST_PROCESSES
    monkeypatch.setattr(multiprocessing.current_process(), "_config", {"daemon": True})
    assert len(parts._parts(parts.LARGE_SPLIT)) == 1


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 245, 100_001])
def test_parts_hold_every_row_once_and_are_cut_where_batches_are(monkeypatch, tmp_path, count):
    several(monkeypatch, tmp_path, 4)
    found = parts._parts(count)
    assert [row for start, stop in found for row in range(start, stop)] == list(range(count))
    assert all(start % 10 == 0 for start, _ in found)
