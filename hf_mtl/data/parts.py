"""The sequences of a split on disk; those of a large one are encoded in parts, each by a process of its own.

The file, the counts and the errors are those of one process.
"""

import gc
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import pyarrow as pa
from datasets.arrow_writer import ArrowWriter

from hf_mtl.data import encoding
from hf_mtl.data.encoding import RowEncoder, Summary
from hf_mtl.data.records import Problems
from hf_mtl.errors import UserError

LARGE_SPLIT = 50_000
"""Rows; one process encodes fewer in a few seconds."""
MOST_PROCESSES = 8
THREADS = "TOKENIZERS_PARALLELISM"

Part = tuple[int, int]
"""The first row, and the one behind the last."""
Outcome = tuple[Summary, Problems]


def write_sequences(encoder: RowEncoder, path: Path) -> None:
    """Writes an Arrow file of the sequences of all rows; what is counted stands in the encoder's `summary` then.

    Raises:
        DataError: naming the rows that cannot be read.
        UserError: if a process was ended from outside.
    """
    parts = _parts(len(encoder.split))
    if len(parts) == 1:
        _write(encoder, parts[0], path)
        encoder.problems.raise_if_any()
        return
    files = [path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(len(parts))]
    for summary, problems in _encode_parts(encoder, parts, files):
        encoder.summary.extend(summary)
        encoder.problems.take(problems)
    encoder.problems.raise_if_any()
    _join(encoder, files, path)


def _parts(rows: int) -> list[Part]:
    """Runs of rows of about one size, as many as there are processes to encode them; cut where batches are."""
    batches = -(-rows // encoding.BATCH)
    count = max(1, min(_processes(rows), batches))
    edges = [min(rows, batches * number // count * encoding.BATCH) for number in range(count + 1)]
    return list(zip(edges, edges[1:], strict=False))


def _processes(rows: int) -> int:
    # Forked as `datasets` and data loaders do it: nothing is pickled, no script needs a guard, memory is shared. Where
    # that is not safe (macOS) or not allowed (in a daemonic process) one process encodes all.
    if rows < LARGE_SPLIT or not sys.platform.startswith("linux") or multiprocessing.current_process().daemon:
        return 1
    return min(len(os.sched_getaffinity(0)), MOST_PROCESSES)


def _write(encoder: RowEncoder, part: Part, path: Path, parent: int | None = None) -> None:
    with ArrowWriter(path=str(path), features=encoder.features()) as writer:
        for batch in encoder.batches(*part):
            if parent is not None and os.getppid() != parent:
                os._exit(1)  # The first process was killed, and nobody waits for this one.
            writer.write_batch(batch)
        writer.finalize()


def _encode_parts(encoder: RowEncoder, parts: Sequence[Part], files: Sequence[Path]) -> list[Outcome]:
    """What was counted in each part, once all are written. However this ends, no process is left."""
    context = multiprocessing.get_context("fork")
    processes: list[BaseProcess] = []
    waiting: dict[Connection, int] = {}
    outcomes: dict[int, Outcome] = {}
    try:
        with _no_threads():
            for number, (part, file) in enumerate(zip(parts, files, strict=True)):
                receiver, sender = context.Pipe(duplex=False)
                arguments = (encoder, part, file, sender, os.getpid())
                process = context.Process(target=_encode_part, args=arguments, daemon=True)
                processes.append(process)
                process.start()
                # With the other end in one process alone, the pipe ends when that process does.
                sender.close()
                waiting[receiver] = number
        while waiting:
            ready = wait(list(waiting))
            for receiver in [one for one in waiting if one in ready]:
                number = waiting.pop(receiver)
                outcomes[number] = _received(receiver, processes[number], parts[number])
    finally:
        for started in processes:
            if started.pid is not None:
                started.kill()
                started.join()
    return [outcomes[number] for number in range(len(parts))]


def _received(receiver: Connection, process: BaseProcess, part: Part) -> Outcome:
    with receiver:
        try:
            found = receiver.recv()
        except EOFError:
            process.join()
            raise UserError(
                f"a process that encoded rows {part[0] + 1} to {part[1]} was ended from outside (exit code "
                f"{process.exitcode}); if memory ran out, free some, then start again"
            ) from None
    if isinstance(found, BaseException):
        raise found
    return found


def _encode_part(encoder: RowEncoder, part: Part, file: Path, sender: Connection, parent: int) -> None:
    """What a process does: writes its part, and sends what was counted or what went wrong."""
    # Ctrl-C in a terminal reaches all processes: the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.freeze()  # What was there before belongs to the first process, and may hold memory of a GPU.
    try:
        _write(encoder, part, file, parent)
        sender.send((encoder.summary, encoder.problems))
    except Exception as error:
        sender.send(_with_traceback(error))


def _with_traceback(error: Exception) -> Exception:
    """An exception as another process can raise it; its traceback, which cannot be sent, is a note."""
    told = traceback.format_exc()
    error.add_note(told)
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(told)


@contextmanager
def _no_threads() -> Iterator[None]:
    """Tokenizers' threads are not there in a forked process, and would be waited for."""
    before = os.environ.get(THREADS)
    os.environ[THREADS] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[THREADS]
        else:
            os.environ[THREADS] = before


def _join(encoder: RowEncoder, files: Sequence[Path], path: Path) -> None:
    """Puts the parts behind one another, mapped, so that no memory is needed for them."""
    schema = encoder.features().arrow_schema
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for file in files:
            with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as batches:
                for batch in batches:
                    writer.write_batch(batch)
            file.unlink()
