"""Commands that start processes, which can be killed all at one moment and are never left behind."""

import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import psutil

POLL = 0.001
"""Seconds between two looks."""


def python_command(module: str, processes: int, *arguments: str) -> list[str]:
    """The command that runs a module with this Python, in several processes with torchrun."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
    return [sys.executable, "-m", *(launcher if processes > 1 else []), module, *arguments]


class Processes:
    """A command and all processes that come of it; leaving the context kills what still runs.

    A signal to one process group would not reach them all, since torchrun gives each worker a session of its own.

    Args:
        command: what to start.
        patience: the seconds for which `wait_for` waits, counted from here.
        options: for `subprocess.Popen`.
    """

    def __init__(self, command: Sequence[str], patience: float = math.inf, **options: Any) -> None:
        self.first = subprocess.Popen(command, start_new_session=True, **options)
        self.known = [psutil.Process(self.first.pid)]
        self.patience, self.started = patience, time.monotonic()

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def find(self) -> None:
        """Notes all processes there are by now, so that `kill` reaches them without a search."""
        for member in self.known:
            with suppress(psutil.NoSuchProcess):
                self.known += [child for child in member.children() if child not in self.known]

    def kill(self) -> None:
        """SIGKILL to all; returns when they are gone."""
        for number, member in enumerate(self.known):
            with suppress(psutil.NoSuchProcess):
                member.suspend()
            if number == len(self.known) - 1:
                # All known ones stand still by now, so that none can start another one unseen.
                self.find()
        for member in self.known:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        self.first.wait()
        while any(map(_runs, self.known)):
            time.sleep(POLL)

    def wait_for(self, condition: Callable[[], bool]) -> bool:
        """Waits until the condition holds; False if the command ends before.

        Raises:
            subprocess.TimeoutExpired: if neither happens in time.
        """
        while self.first.poll() is None:
            if condition():
                return True
            if time.monotonic() - self.started > self.patience:
                raise subprocess.TimeoutExpired(self.first.args, self.patience)
            time.sleep(POLL)
        return False


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False
