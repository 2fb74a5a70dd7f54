"""Kills a run at random moments and resumes it: it must end as if it had never been stopped.

    python scripts/kill_and_resume.py CONFIG --times 20
    python scripts/kill_and_resume.py CONFIG --times 20 --processes 2 --seed 1

CONFIG is trained once to its end, in a temporary folder. Then, as often as asked: it is started anew, all its processes
are killed (SIGKILL) at one moment of its training, and it is resumed; one time in three it is killed a second time
before it may end. Every other kill is aimed at a save: it comes while a checkpoint or the trained model is being
written. In the end model.safetensors and metrics.json must have the bytes of the run that was never stopped, and
history.jsonl its lines, the speeds aside, with every step once; nothing half-written may be left.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder alone

from scripts.processes import Processes, python_command  # noqa: E402

AIMS = (None, ".writing-", None, ".saving-")
"""What the kills wait for, in turns: nothing but their moment, a checkpoint being written, the model being saved."""
HALF_WRITTEN = (".writing-", ".deleting-", ".saving-")
SPEEDS = ("rows_per_second", "tokens_per_second")
KILLED_AGAIN = 1 / 3
PATIENCE = 10, 60.0
"""A run that takes so many times as long as the first one, and so many seconds more, counts as hanging."""


@dataclass(frozen=True)
class Life:
    """The time a run took from the first file it wrote to the last.

    Args:
        seconds: how long.
        saves: (begin, end) in seconds of each save, by the prefix of what is being written.
    """

    seconds: float
    saves: dict[str, list[tuple[float, float]]]


@dataclass(frozen=True)
class Kill:
    """What came of a kill.

    Args:
        told: when it came and what stood on the disk then.
        differences: from the run that was never stopped; none if all is well.
    """

    told: str
    differences: list[str]


class Experiment:
    """One run file, trained once to its end and then again and again with kills.

    Args:
        config: the run file.
        processes: how many processes train.
        folder: where the runs and their output are written.
        seed: draws the moments.
    """

    def __init__(self, config: str | Path, processes: int, folder: Path, seed: int = 0) -> None:
        self.config, self.processes, self.folder = config, processes, folder
        self.draw = random.Random(seed)
        self.reference = folder / "never_stopped"
        self.tries = 0
        self.patience = float("inf")

    def run_to_end(self) -> Life:
        """Trains without a kill.

        Raises:
            RuntimeError: if that fails.
        """
        listing: dict[str, tuple[int, int]] = {}
        changes: list[float] = []
        seen: dict[str, list[float]] = {}

        def look() -> bool:
            nonlocal listing
            now, before, listing = time.monotonic(), listing, files(self.reference)
            if listing != before:
                changes.append(now)
            for path in listing:
                seen.setdefault(path, [now, now])[1] = now
            return False

        started = time.monotonic()
        with self._start(self.reference) as run:
            run.wait_for(look)
        self.patience = PATIENCE[0] * (time.monotonic() - started) + PATIENCE[1]
        self._refuse_failure(run, self.reference)
        began = changes[0]
        saves = {
            aim: [(first - began, last - began) for path, (first, last) in seen.items() if _is(path, aim)]
            for aim in AIMS
            if aim
        }
        self.life = Life(changes[-1] - began, saves)
        return self.life

    def kill(self, aim: str | None = None) -> Kill:
        """Starts the run anew, kills it within its life, resumes it and compares.

        Args:
            aim: one of `AIMS`; a run that saves nothing of that kind is killed at any moment.

        Raises:
            RuntimeError: if the run fails by itself.
            subprocess.TimeoutExpired: if it hangs before it is killed.
        """
        killed: float | None = None
        while killed is None:
            # A run that was faster than its draw has ended before: another draw.
            self.tries += 1
            output = self.folder / f"try_{self.tries}"
            moment, delay = self._moment(aim)
            with self._start(output) as run:
                killed = self._kill_at(run, output, moment, aim, delay)
            if killed is None:
                self._refuse_failure(run, output)
                shutil.rmtree(output)
        told = f"after {killed:.2f} of {self.life.seconds:.2f} s, with {_on_disk(output)}"
        try:
            if self.draw.random() < KILLED_AGAIN:
                with self._start(output, "--resume") as run:
                    again = self._kill_at(run, output, self.draw.uniform(0, max(self.life.seconds - killed, 0)))
                self._refuse_failure(run, output, killed=again is not None)
                told += "; had ended before a second kill" if again is None else f"; again after {again:.2f} s more"
            with self._start(output, "--resume") as run:
                run.wait_for(lambda: False)
            self._refuse_failure(run, output)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            return Kill(told, [f"--resume: {error}"])
        found = differences(self.reference, output)
        if not found:
            shutil.rmtree(output)
        return Kill(told, found)

    def _moment(self, aim: str | None) -> tuple[float, float]:
        """Seconds after the run's first file, and after that save's beginning which comes next then."""
        saves = self.life.saves[aim] if aim else []
        if not saves:
            return self.draw.uniform(0, self.life.seconds), 0.0
        begin, end = self.draw.choice(saves)
        return max(begin - self.life.seconds / 20, 0.0), self.draw.uniform(0, end - begin)

    def _kill_at(
        self, run: Processes, output: Path, moment: float, aim: str | None = None, delay: float = 0.0
    ) -> float | None:
        """Seconds from the run's first change of a file to the kill; None if it ended before."""
        before = files(output)
        if not run.wait_for(lambda: files(output) != before):
            return None
        began = time.monotonic()
        run.find()
        run.wait_for(lambda: time.monotonic() - began >= moment)
        if aim and self.life.saves[aim]:
            run.wait_for(lambda: any(_is(path, aim) for path in files(output)))
            time.sleep(delay)
        if run.first.poll() is not None:
            return None
        run.kill()
        return time.monotonic() - began

    def _refuse_failure(self, run: Processes, output: Path, *, killed: bool = False) -> None:
        if run.first.returncode and not killed:
            text = self._log(output).read_text(encoding="utf-8", errors="replace")
            lines = "\n".join(text.splitlines()[-40:])
            raise RuntimeError(f"the run failed by itself with exit status {run.first.returncode}:\n{lines}")

    def _start(self, output: Path, *options: str) -> Processes:
        arguments = ["train", str(self.config), "--set", f"training.output_dir={json.dumps(str(output))}", *options]
        with self._log(output).open("ab") as log:
            command = python_command("hf_mtl", self.processes, *arguments)
            return Processes(command, self.patience, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)

    def _log(self, output: Path) -> Path:
        return self.folder / f"{output.name}.log"


def files(output: Path) -> dict[str, tuple[int, int]]:
    """Path → (time of change, size) of what lies in a run's folder and in its checkpoints' folder."""
    found = {}
    for folder in (output, output / "checkpoints"):
        with suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    state = entry.stat()
                    found[entry.path] = state.st_mtime_ns, state.st_size
    return found


def _is(path: str, prefix: str | tuple[str, ...]) -> bool:
    return Path(path).name.startswith(prefix)


def _on_disk(output: Path) -> str:
    """The newest checkpoint, and what is half-written or half-deleted."""
    newest = max((path.name for path in output.glob("checkpoints/step-*")), default="no checkpoint")
    return ", ".join([newest, *sorted(Path(path).name for path in files(output) if _is(path, HALF_WRITTEN))])


def differences(reference: Path, output: Path) -> list[str]:
    """In what a run's folder differs from that of the same run, never stopped; a line each."""
    found = []
    for name in ("model.safetensors", "metrics.json"):
        if not (output / name).exists():
            found.append(f"{name} is missing")
        elif (output / name).read_bytes() != (reference / name).read_bytes():
            found.append(f"{name} has other bytes")
    expected, entries = history(reference), history(output)
    steps = [entry["step"] for entry in entries if "loss" in entry]
    if any(later <= step for step, later in zip(steps, steps[1:], strict=False)):
        found.append(f"history.jsonl: the steps do not ascend: {steps}")
    for number, (one, other) in enumerate(zip_longest(entries, expected, fillvalue={}), start=1):
        if one != other:
            keys = [key for key in one | other if one.get(key) != other.get(key)]
            found.append(f"history.jsonl line {number} is the first with another {', '.join(keys)}")
            break
    return found + [
        f"{Path(path).name} is left over" for path in files(output) if _is(path, (*HALF_WRITTEN, ".unfinished"))
    ]


def history(output: Path) -> list[dict[str, Any]]:
    """The objects of history.jsonl without the speeds, which no two runs share."""
    lines = (output / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in SPEEDS} for line in lines]


def main() -> int:
    """Reads the arguments, kills and resumes; the exit status is 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", metavar="CONFIG", help="the run file; it should write checkpoints (save_strategy)")
    parser.add_argument("--times", type=_count, default=20, help="how often to kill (default: %(default)s)")
    parser.add_argument("--processes", type=_count, default=1, help="how many processes train (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="draws the moments (default: %(default)s)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _leave)
    folder = Path(tempfile.mkdtemp(prefix="kill_and_resume_"))
    experiment = Experiment(arguments.config, arguments.processes, folder, arguments.seed)
    different = 0
    try:
        print("training once to the end", flush=True)
        life = experiment.run_to_end()
        saves = ", ".join(f"{len(times)} {prefix}*" for prefix, times in life.saves.items())
        print(f"never stopped: {life.seconds:.2f} s from the first file to the last; saves seen: {saves}", flush=True)
        for number in range(arguments.times):
            kill = experiment.kill(AIMS[number % len(AIMS)])
            different += bool(kill.differences)
            result = "; ".join(kill.differences) or "resumed: no difference"
            print(f"kill {number + 1}/{arguments.times}: {kill.told}; {result}", flush=True)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        if different:
            print(f"the runs that differ are in {folder}", flush=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{arguments.times} kills, {different} differences")
    return int(different > 0)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
