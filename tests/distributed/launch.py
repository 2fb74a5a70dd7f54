"""Starts a module in several processes, for real, and leaves none of them behind."""

import os
import subprocess
from pathlib import Path

from scripts.processes import Processes, python_command

REPOSITORY = Path(__file__).parents[2]


def launch(module: str, processes: int, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Runs `python -m module` from the repository's root, with torchrun for more than one process.

    Raises:
        subprocess.TimeoutExpired: after so many seconds; all processes are killed then. Its notes have the last output.
    """
    command = python_command(module, processes, *arguments)
    with Processes(
        command,
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        try:
            stdout, stderr = started.first.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as error:
            started.kill()
            _, stderr = started.first.communicate()
            error.add_note(stderr[-4000:])
            raise
    return subprocess.CompletedProcess(command, started.first.returncode, stdout, stderr)


def work_together(module: str, folder: Path, *processes: int, timeout: float = 900) -> None:
    """Calls the module's `work(folder, processes)` in so many processes at once, one number of them after the other."""
    done = launch("tests.distributed.forked", 1, module, str(folder), *map(str, processes), timeout=timeout)
    assert done.returncode == 0, done.stderr[-4000:]
