"""Calls a module's `work(folder, processes)` in several processes at once, one number of them after the other.

    python -m tests.distributed.forked MODULE FOLDER 2 3 4

The processes are forked once the module is imported, since importing takes longer than most work. Each is told what
torchrun would tell it; if one fails, the others are killed.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from torch.distributed import TCPStore

Work = Callable[[Path, int], None]


def start(work: Work, folder: Path, rank: int, processes: int, port: int) -> int:
    """The id of a process that does the work and ends."""
    if process := os.fork():
        return process
    status = 1
    try:
        ranks = dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank))
        sizes = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        # The first process would else keep the store by which all meet, and may end before the others.
        store = {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
        os.environ.update(ranks | sizes | address | store)
        work(folder, processes)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run(work: Work, folder: Path, processes: int) -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    running = {start(work, folder, rank, processes, store.port) for rank in range(processes)}
    while running:
        process, status = os.wait()
        running.discard(process)
        if status:
            for other in running:
                os.kill(other, signal.SIGKILL)
            sys.exit(1)


def main(module: str, folder: str, *numbers: str) -> None:
    work = import_module(module).work
    for processes in map(int, numbers):
        run(work, Path(folder), processes)


if __name__ == "__main__":
    main(*sys.argv[1:])
