"""The rows that a model gets wrong, written out to be read: where, what the row says, what the model says."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hf_mtl.config import DatasetConfig
from hf_mtl.data.rows import RowSplit
from hf_mtl.data.texts import join_words
from hf_mtl.evaluation.evaluator import TaskResult
from hf_mtl.tasks.task import Answer, Task


def wrong_rows(task: Task, result: TaskResult, rows: RowSplit, config: DatasetConfig) -> Iterator[dict[str, Any]]:
    """The wrong answers of a task, the most confident first; numbers by their distance from the row's.

    Each is a dict of `task`, `row` (file and row number), `text`, `text_pair` (of pairs), `words` (those with a tag,
    if words are tagged), `label`, `predicted` and `score`. A row with any wrong tag is wrong.

    Args:
        task: the task.
        result: its result on the split.
        rows: the split's rows.
        config: of the data set; names the columns of the text.
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
            **_texts(rows, row, config, answer),
            "label": task.shown_label(answer.reference),
            "predicted": task.shown_label(answer.prediction),
            "score": answer.score,
        }


def write_errors(path: str | Path, entries: Iterable[Mapping[str, Any]]) -> int:
    """Writes entries as JSON lines; gives their number."""
    lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries]
    # Half a surrogate pair is no UTF-8; as an escape it is what JSON calls it.
    with Path(path).open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(lines)
    return len(lines)


def _weight(answer: Answer) -> float:
    if isinstance(answer.reference, float):
        return abs(answer.prediction - answer.reference)
    return answer.score


def _texts(rows: RowSplit, row: int, config: DatasetConfig, answer: Answer) -> dict[str, Any]:
    named = [config.text_column, config.text_pair_column, config.tokens_column]
    cells = {name: values[0] for name, values in rows.batch(row, row + 1, columns=[n for n in named if n]).items()}
    text, pair, tokens = (cells[name] if name else None for name in named)
    found = {"text": join_words(tokens, config.token_separator)[0] if text is None else text}
    if pair is not None:
        found["text_pair"] = pair
    if tokens is not None and answer.words is not None:
        found["words"] = [tokens[place] for place in answer.words]
    return found
