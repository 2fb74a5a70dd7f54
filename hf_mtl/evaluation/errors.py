"""The rows that a model gets wrong, written out to be read: where, what the row says, what the model says."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hf_mtl.config_keys import DatasetConfig
from hf_mtl.data.row_split import RowSplit
from hf_mtl.data.texts import join_words
from hf_mtl.evaluation.evaluator import TaskResult
from hf_mtl.evaluation.splits import SavedEvaluation
from hf_mtl.tasks.spans import span_words
from hf_mtl.tasks.task import Answer, Task


def wrong_rows(
    task: Task, result: TaskResult, rows: RowSplit, config: DatasetConfig, span_columns: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """The wrong answers of a task, the most confident first; numbers by their distance from the row's.

    Each is a dict of `task`, `row` (file and row number), `text`, `text_pair` (of pairs), `words` (those with a tag,
    if words are tagged), `label`, `predicted` and `score`. A row with any wrong tag is wrong.

    Args:
        task: the task.
        result: its result on the split.
        rows: the split's rows.
        config: of the data set; names the columns of the text.
        span_columns: those columns of its tasks that hold spans, at whose edges words are cut.
    """
    wrong = [
        (row, answer)
        for row, answer in zip(result.rows, result.answers, strict=True)
        if answer.prediction != answer.reference
    ]
    for row, answer in sorted(wrong, key=lambda entry: -_weight(entry[1])):
        yield {
            "task": task.name,
            "row": rows.where(row),
            **_texts(rows, row, config, answer, span_columns),
            "label": task.shown_label(answer.reference),
            "predicted": task.shown_label(answer.prediction),
            "score": answer.score,
        }


def write_errors(path: str | Path, saved: SavedEvaluation) -> int:
    """Writes the wrong answers of all tasks as JSON lines, task after task; gives their number."""
    entries: list[dict[str, Any]] = []
    for name, result in saved.results.items():
        dataset = saved.config.tasks[name].dataset
        rows = saved.splits[dataset].rows
        own = [entry for task, entry in saved.config.tasks.items() if task in saved.model.tasks]
        spans = [entry.spans_column for entry in own if entry.dataset == dataset and entry.spans_column]
        entries += wrong_rows(saved.model.tasks[name], result, rows, saved.config.datasets[dataset], spans)
    # Half a surrogate pair is no UTF-8; as an escape it is what JSON calls it.
    with Path(path).open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    return len(entries)


def _weight(answer: Answer) -> float:
    if isinstance(answer.reference, float):
        return abs(answer.prediction - answer.reference)
    return answer.score


def _texts(
    rows: RowSplit, row: int, config: DatasetConfig, answer: Answer, span_columns: Sequence[str]
) -> dict[str, Any]:
    named = (config.text_column, config.text_pair_column, config.tokens_column)
    cells = rows.batch(row, row + 1, columns=[name for name in (*named, *span_columns) if name])
    text, pair, tokens = (cells[name][0] if name else None for name in named)
    found = {"text": join_words(tokens or (), config.token_separator)[0] if text is None else text}
    if pair is not None:
        found["text_pair"] = pair
    if tokens is None and text is not None and span_columns:
        words = span_words(text, [cells[column][0] for column in span_columns])
        tokens = [text[start:end] for start, end in words]
    if tokens is not None and answer.words is not None:
        found["words"] = [tokens[place] for place in answer.words]
    return found
