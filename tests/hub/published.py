"""Trained models, and commands that talk to a local Hub."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub

from hf_mtl.training.trainer import MultiTaskTrainer
from tests.hub.server import LocalHub
from tests.runs import tiny_run

TEXT = "Play a song by John Lennon please"


def trained(folder: Path, **changes: Any) -> Path:
    """The folder of a finished tiny run; `changes` are keys of the run file."""
    run = tiny_run(folder, num_train_epochs=1)
    training = {**run["training"], **changes.pop("training", {})}
    MultiTaskTrainer.from_config({**run, **changes, "training": training}).train()
    return Path(training["output_dir"])


def command(
    hub: LocalHub, home: Path, *arguments: str, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`hf-mtl` as a process of its own. Nothing that it prints holds the token, and nothing is a traceback."""
    environment = hub.environment(home) | {"OMP_NUM_THREADS": "1"} | dict(variables or {})
    done = subprocess.run(
        [sys.executable, "-m", "hf_mtl", *arguments], env=environment, capture_output=True, text=True, timeout=300
    )
    assert environment.get("HF_TOKEN", hub.token) not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def python(hub: LocalHub, home: Path, code: str, **variables: str) -> str:
    """What a script prints."""
    environment = hub.environment(home) | {"OMP_NUM_THREADS": "1"} | variables
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, cwd=home
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def said(done: subprocess.CompletedProcess[str]) -> str:
    """The message of a command that found the user's input at fault: one, on stderr, with exit status 2."""
    assert done.returncode == 2, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip() and not re.search(r"\d+%\||it/s|B/s", line)]
    return "\n".join(lines)


def calls(hub: LocalHub, method: str, pattern: str) -> int:
    """How often the Hub was called so."""
    return sum(call.method == method and re.search(pattern, call.path) is not None for call in hub.requests)


def leaks(files: Mapping[str, bytes], *words: str) -> list[tuple[str, str]]:
    """(file, word) of the words that stand in a published file."""
    return [(name, word) for name, content in files.items() for word in words if word.encode() in content]


def here() -> list[str]:
    """What only this machine knows, and no published file may say."""
    return [os.getcwd(), os.path.expanduser("~") + os.sep, huggingface_hub.constants.HF_HUB_CACHE]
