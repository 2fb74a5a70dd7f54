"""Signals that ask a run to stop: the step under way is finished, and the run is saved."""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

ASKED = (signal.SIGTERM, signal.SIGINT)
SAME_KEY_PRESS = 1.0
"""Seconds within which a second SIGINT is the same wish: a launcher passes on the terminal's own to its processes."""


class StopSignals:
    """Notices SIGTERM and SIGINT while it is entered. A second Ctrl-C stops at once, as `KeyboardInterrupt`.

    A signal that is ignored stays so (nohup), and only the main thread can notice any.

    Args:
        say: told, once, that the run is about to stop; called in a signal handler, so it must not wait for a lock.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.received: int | None = None
        self._first = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in ASKED:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._notice)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _notice(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._first = number, time.monotonic()
            self.say("stopping after this step, with a checkpoint; Ctrl-C once more stops at once\n")
        elif number == signal.SIGINT and time.monotonic() - self._first > SAME_KEY_PRESS:
            raise KeyboardInterrupt


def to_stderr(line: str) -> None:
    """Writes to standard error, past all buffers and locks; a reader that has gone is no error."""
    with suppress(OSError):
        os.write(2, line.encode())
