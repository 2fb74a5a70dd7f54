"""Signals that ask a run to stop are noticed, told once, and handed back."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hf_mtl.training.stopping import StopSignals

ASKED = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture(autouse=True)
def before() -> Iterator[list[int]]:
    """Handlers that stood there before: what they are called with."""
    called: list[int] = []
    kept = {number: signal.signal(number, lambda got, _: called.append(got)) for number in ASKED}
    yield called
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("number", ASKED)
def test_a_signal_is_noticed_and_told_once(before, number):
    said: list[str] = []
    with StopSignals(said.append) as signals:
        assert signals.received is None
        assert said == []
        signal.raise_signal(number)
        assert signals.received == number
        signal.raise_signal(number)
        signal.raise_signal(signal.SIGTERM)
        assert signals.received == number
    assert said == ["stopping after this step, with a checkpoint; Ctrl-C once more stops at once\n"]
    assert before == []


@pytest.mark.parametrize("first", ASKED)
def test_a_second_ctrl_c_stops_at_once_unless_it_is_the_same_key_press(clock, first):
    with StopSignals(lambda _: None) as signals:
        signal.raise_signal(first)
        clock[0] += 0.5
        signal.raise_signal(signal.SIGINT)
        clock[0] += 5
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert signals.received == first


def test_a_later_sigterm_asks_for_nothing_new(clock):
    with StopSignals(lambda _: None) as signals:
        signal.raise_signal(signal.SIGINT)
        clock[0] += 5
        signal.raise_signal(signal.SIGTERM)
        assert signals.received == signal.SIGINT


def test_the_handlers_of_before_are_put_back_also_after_an_error(before):
    handlers = [signal.getsignal(number) for number in ASKED]

    def fail() -> None:
        assert not set(handlers) & {signal.getsignal(number) for number in ASKED}
        raise RuntimeError("a step failed")

    with pytest.raises(RuntimeError, match="a step failed"), StopSignals(lambda _: None):
        fail()
    assert [signal.getsignal(number) for number in ASKED] == handlers
    signal.raise_signal(signal.SIGTERM)
    assert before == [signal.SIGTERM]


def test_a_signal_that_is_ignored_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with StopSignals(lambda _: None) as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.received is None
        signal.raise_signal(signal.SIGTERM)
        assert signals.received == signal.SIGTERM
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_outside_the_main_thread_signals_are_left_alone(before):
    found: list[int | None] = []
    handled = threading.Event()

    def work() -> None:
        with StopSignals(lambda _: None) as signals:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
            handled.wait(30)
            found.append(signals.received)

    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive() and not before:
        thread.join(0.01)
    handled.set()
    thread.join()
    assert found == [None]
    assert before == [signal.SIGTERM]


PROGRAM = """
import sys, time
from hf_mtl.training.stopping import StopSignals, to_stderr

with StopSignals(to_stderr) as signals:
    to_stderr("ready\\n")
    while signals.received is None:
        time.sleep(0.01)
    sys.stdin.readline()  # the step under way is finished
sys.stdout.write(f"saved after signal {signals.received}\\n")
sys.stdout.flush()
time.sleep(60)
"""


def start() -> subprocess.Popen[str]:
    command, pipe = [sys.executable, "-c", PROGRAM], subprocess.PIPE
    return subprocess.Popen(command, cwd=Path(__file__).parents[1], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_a_process_that_is_asked_to_stop_finishes_its_step_and_dies_of_the_next_signal_after_that():
    with start() as process:
        try:
            assert process.stderr.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
            assert process.stderr.readline().startswith("stopping after this step")
            process.send_signal(signal.SIGTERM)
            assert process.poll() is None
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "saved after signal 15\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == -signal.SIGTERM
        finally:
            process.kill()


def test_it_finishes_its_step_also_when_nobody_reads_what_it_says():
    with start() as process:
        try:
            assert process.stderr.readline() == "ready\n"
            process.stderr.close()
            process.send_signal(signal.SIGTERM)
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "saved after signal 15\n"
        finally:
            process.kill()
