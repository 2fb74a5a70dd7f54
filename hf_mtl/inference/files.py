"""Rows of texts in, JSON lines with the answers out: files, a command's arguments, standard input."""

import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from hf_mtl.config_keys import CsvConfig
from hf_mtl.config_section import written_out
from hf_mtl.data.columns import CellError, Columns
from hf_mtl.data.files import SourceFile
from hf_mtl.data.readers import read_file
from hf_mtl.data.records import Problems, ReadOptions, Record, place
from hf_mtl.errors import DataError, UserError
from hf_mtl.inference.pipeline import MultiTaskPipeline

FORMATS = {".txt": "text", ".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv"}
BATCH_SIZE = 32

Progress = Callable[[int, int], None]
"""Is told how many rows are answered, and of how many."""


@dataclass(frozen=True)
class TextFile:
    """A file whose rows hold texts: a line a text (`.txt`), JSON (`.jsonl`, `.json`) or csv (`.csv`, `.tsv`).

    Any of these may be packed (`.gz`). Blank lines are no rows.

    Args:
        path: the file.
        text_column: the column of the text; that of a `.txt` is `text`.
        text_pair_column: that of the second text, where rows are pairs.
        csv: how a csv is written, as in a run file: sep, encoding, header, names.
    """

    path: str
    text_column: str = "text"
    text_pair_column: str | None = None
    csv: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not Path(self.path).is_file():
            raise UserError(f"there is no file {self.path}")
        if self.text_column == self.text_pair_column:
            raise UserError(f"text_pair_column: {self.text_column!r} is the text_column, too; name the second text's")
        if self.source.suffix not in FORMATS:
            raise UserError(f"{self.path}: its name must end in one of {', '.join(FORMATS)} (or these and .gz)")
        if self.csv and FORMATS[self.source.suffix] != "csv":
            raise UserError(f"{self.path}: csv is for .csv and .tsv files; leave it out")

    @property
    def source(self) -> SourceFile:
        return SourceFile(self.path, Path(self.path))

    @property
    def columns(self) -> Columns:
        keys = {self.text_column: "text_column"}
        if self.text_pair_column is not None:
            keys[self.text_pair_column] = "text_pair_column"
        return Columns(keys, None, {})

    def check(self, tasks: Iterable[str]) -> int:
        """Read the file once, before anything is answered; gives the number of its rows.

        Args:
            tasks: the tasks whose answers are to be put beside the columns.

        Raises:
            UserError: naming the rows that cannot be read, or a column that is called as a task.
        """
        problems = Problems()
        names, count = set(tasks), 0
        absent, first = set(self.columns.texts), None
        for record in self._records(problems):
            count += 1
            for column in (*record.values, *self.columns.texts):
                if column in names:
                    raise UserError(
                        f"{self.path}: column {column!r} and task {column} have the same name; rename the column, or "
                        "leave the task out"
                    )
            absent.difference_update(record.values)
            first = first or record
            try:
                text, *pair = self.columns.read(record.values)
                if text is None or not all((other or "").strip() for other in pair):
                    # A pair without its second text is no pair: the encoder would read it as a single text.
                    what = "no text" if text is None else "no second text"
                    problems.add(f"{place(self.path, record.row, record.line)}: there is {what}; give one")
            except CellError as error:
                problems.add(f"{place(self.path, record.row, record.line)}: {error}")
        if absent and first is not None:
            raise DataError(self._absent(min(absent), first))
        problems.raise_if_any()
        return count

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """The rows, one by one."""
        return (record.values for record in self._records(Problems()))

    def _records(self, problems: Problems) -> Iterator[Record]:
        form = FORMATS[self.source.suffix]
        options = written_out(CsvConfig, self.csv or {}, "csv") if form == "csv" else {}
        return read_file(self.source, ReadOptions(form, **options, wanted=self.columns.names), problems)

    def _absent(self, column: str, record: Record) -> str:
        near = get_close_matches(column, list(record.values), n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        key = self.columns.texts[column]
        return f"{self.path} has no column {column!r}; name one of {', '.join(record.values)} as {key}{hint}"


def predict_file(
    pipe: MultiTaskPipeline,
    source: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    text_column: str = "text",
    text_pair_column: str | None = None,
    csv: Mapping[str, Any] | None = None,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
    **options: Any,
) -> int:
    """Answer every row of a file; a JSON line each, in the order of the rows.

    A line is the row's other columns, its text (and second text), and each task's answer under the task's name.

    Args:
        pipe: the pipeline.
        source: a `.txt` (a line a text), `.jsonl`, `.json`, `.csv` or `.tsv` file, also packed as `.gz`.
        output: the file to write: beside first, and renamed into place when it is complete. None: standard output.
        text_column: the column of the text.
        text_pair_column: the column of the second text, for tasks trained on pairs.
        csv: how a csv is written, as in a run file: sep, encoding, header, names.
        batch_size: sequences per pass of the encoder.
        progress: is told how many rows are answered, and of how many.
        options: those of the pipeline's call.

    Returns:
        How many rows were answered.

    Raises:
        UserError: naming the rows that cannot be read, before any is answered; or if the output cannot be written.
    """
    file = TextFile(os.fspath(source), text_column, text_pair_column, csv)
    if output is not None and Path(output).exists() and Path(output).samefile(file.path):
        raise UserError(f"output {output} is the input; name another file")
    total = file.check(call.name for call in pipe.resolve(options).tasks)
    done = 0
    with _destination(output) as stream:
        for line in _lines(pipe, file.rows(), file.columns, batch_size, options):
            stream.write(line)
            done += 1
            if progress is not None:
                progress(done, total)
    return done


def predict_texts(
    pipe: MultiTaskPipeline,
    texts: Iterable[str],
    output: str | os.PathLike[str] | None = None,
    *,
    batch_size: int | None = None,
    **options: Any,
) -> int:
    """Answer texts, a JSON line each: `{"text": ..., task: answer, ...}`.

    Args:
        pipe: the pipeline.
        texts: the texts; they are read as they are answered.
        output: as in `predict_file`.
        batch_size: sequences per pass of the encoder; by default each text is answered before the next one is read.
        options: those of the pipeline's call.

    Returns:
        How many texts were answered.
    """
    if any(call.name == "text" for call in pipe.resolve(options).tasks):
        raise UserError("a task is called text, as the column of the texts; leave it out with tasks")
    done = 0
    with _destination(output) as stream:
        rows = ({"text": text} for text in texts)
        for line in _lines(pipe, rows, Columns({"text": "text_column"}, None, {}), batch_size, options):
            stream.write(line)
            stream.flush()
            done += 1
    return done


def read_texts(stream: TextIO) -> Iterator[str]:
    """The lines of a stream, without blank ones: the texts that a command is given on standard input."""
    return (text for line in stream if (text := line.rstrip("\r\n")).strip())


def _lines(
    pipe: MultiTaskPipeline,
    rows: Iterable[Mapping[str, Any]],
    columns: Columns,
    batch_size: int | None,
    options: Mapping[str, Any],
) -> Iterator[str]:
    """A line of JSON for each row."""
    waiting: deque[Mapping[str, Any]] = deque()

    def inputs() -> Iterator[Any]:
        for row in rows:
            waiting.append(row)
            text, *pair = (row[column] for column in columns.texts)
            yield {"text": text, "text_pair": pair[0]} if pair else text

    for answers in pipe(inputs(), batch_size=batch_size, **options):
        row = waiting.popleft()
        others = {column: value for column, value in row.items() if column not in columns.texts}
        texts = {column: row[column] for column in columns.texts}
        yield json.dumps({**others, **texts, **answers}, ensure_ascii=False, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    """The Python value of a numpy number (the stock pipelines' scores)."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no place in JSON")


@contextmanager
def _destination(output: str | os.PathLike[str] | None) -> Iterator[TextIO]:
    """Standard output, or a file that is in its place only once it is complete."""
    if output is None:
        yield sys.stdout
        return
    path = Path(output)
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"output {output}: " + ("this is a folder" if path.is_dir() else "its folder does not exist"))
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        # Half a surrogate pair is no UTF-8; as an escape it is what JSON calls it.
        with beside.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
            yield stream
        os.replace(beside, path)
    except OSError as error:
        raise UserError(f"output {output} cannot be written: {error.strerror or error}") from error
    finally:
        beside.unlink(missing_ok=True)
