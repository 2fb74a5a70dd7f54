"""Rows → sequences: each row's text is encoded once, and every task lays its labels on the pieces."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from hf_mtl.config_keys import DatasetConfig
from hf_mtl.data.records import Problems
from hf_mtl.data.row_split import RowSplit
from hf_mtl.data.texts import WordError, find_words, join_words
from hf_mtl.data.tokenizer import cut_pairs
from hf_mtl.tasks.labels import LabelError
from hf_mtl.tasks.spans import check_within, span_words
from hf_mtl.tasks.task import Task, Window

BATCH = 500
SHOWN_ROWS = 20
WINDOW_OVERLAP = 4
"""Overlapping windows share this part of `max_length`: a quarter."""


@dataclass
class Summary:
    """What was counted while one split was encoded. Rows are places in the split, up to 20 of them."""

    rows: int = 0
    sequences: int = 0
    over_length: int = 0
    without_text: int = 0
    without_text_rows: list[int] = field(default_factory=list)
    without_label: int = 0
    without_label_rows: list[int] = field(default_factory=list)
    task_without_label: Counter[str] = field(default_factory=Counter)
    labels: dict[str, Counter[str]] = field(default_factory=dict)
    notes: dict[str, Counter[str]] = field(default_factory=dict)

    def extend(self, behind: "Summary") -> None:
        """Takes in what was counted of rows that stand behind these in the same split."""
        self.sequences += behind.sequences
        self.over_length += behind.over_length
        self.without_text += behind.without_text
        self.without_text_rows = (self.without_text_rows + behind.without_text_rows)[:SHOWN_ROWS]
        self.without_label += behind.without_label
        self.without_label_rows = (self.without_label_rows + behind.without_label_rows)[:SHOWN_ROWS]
        self.task_without_label.update(behind.task_without_label)
        for own, other in ((self.labels, behind.labels), (self.notes, behind.notes)):
            for task, counts in other.items():
                own[task].update(counts)

    def to_json(self) -> str:
        return json.dumps(vars(self), ensure_ascii=False)  # asdict would count a Counter's pairs anew

    @classmethod
    def from_json(cls, text: str) -> "Summary":
        values = json.loads(text)
        values["task_without_label"] = Counter(values["task_without_label"])
        for key in ("labels", "notes"):
            values[key] = {task: Counter(counts) for task, counts in values[key].items()}
        return cls(**values)


@dataclass(frozen=True)
class Sequences:
    """The encoded sequences of one split of one data set.

    Columns: `input_ids`, `token_type_ids` (pairs only), `length` (pieces), `row` (index into `rows`), `window`, and
    `<task>.<column>` for the columns of each task's `encode`. The `fingerprint` changes with the rows and with all that
    determines how they are encoded.
    """

    dataset: datasets.Dataset
    rows: RowSplit
    summary: Summary
    fingerprint: str

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def lengths(self) -> np.ndarray:
        return self._numbers("length")

    def items(self, task: str) -> np.ndarray:
        """Items of a task in each sequence; zeros for a task of another data set."""
        column = f"{task}.items"
        if column not in self.dataset.column_names:
            return np.zeros(len(self), dtype=np.int32)
        return self._numbers(column)

    def take(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The sequences at `indices`, each as a dict of its columns."""
        columns = self.dataset[[int(index) for index in indices]]
        names = list(columns)
        return [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def _numbers(self, column: str) -> np.ndarray:
        return self.dataset.data.column(column).to_numpy()


Reader = Callable[[Any], Any]


class RowEncoder:
    """Encodes the rows of one split.

    Args:
        split: the rows.
        config: the data set's entry in the run file.
        tasks: the tasks of this data set.
        label_columns: task → column.
        span_columns: those of them that hold spans.
        readers: task → function cell → label.
        notes: task → counter that the readers write to.
        tokenizer: gives ids, and offsets where words are tagged.
        max_length: pieces of a sequence, special ones included.
    """

    def __init__(
        self,
        split: RowSplit,
        config: DatasetConfig,
        tasks: Mapping[str, Task],
        label_columns: Mapping[str, str],
        span_columns: Sequence[str],
        readers: Mapping[str, Reader],
        notes: Mapping[str, Counter[str]],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
    ) -> None:
        self.split, self.config, self.tasks = split, config, tasks
        self.label_columns, self.span_columns, self.readers = label_columns, span_columns, readers
        self.tokenizer, self.max_length = tokenizer, max_length
        self.windowed = any(task.reads_windows for task in tasks.values())
        self.problems = Problems("row")
        self.summary = Summary(
            rows=len(split), labels={name: Counter() for name in tasks}, notes={name: notes[name] for name in tasks}
        )

    def features(self) -> datasets.Features:
        columns: dict[str, Any] = {"input_ids": datasets.List(datasets.Value("int32"))}
        if self.config.text_pair_column:
            columns["token_type_ids"] = datasets.List(datasets.Value("int8"))
        columns |= {
            "length": datasets.Value("int32"),
            "row": datasets.Value("int64"),
            "window": datasets.Value("int32"),
        }
        for name, task in self.tasks.items():
            own = {"items": datasets.Value("int32"), **task.columns()}
            columns |= {f"{name}.{key}": feature for key, feature in own.items()}
        return datasets.Features(columns)

    def batches(self, start: int, stop: int) -> Iterator[dict[str, list]]:
        """Columns of the sequences of the rows from `start` to before `stop`, a batch of rows at a time.

        Rows that cannot be read are put to `problems`.
        """
        for first in range(start, stop, BATCH):
            columns = self._encode_batch(first, self.split.batch(first, min(first + BATCH, stop)))
            if columns["input_ids"]:
                yield columns

    def _encode_batch(self, start: int, columns: dict[str, list]) -> dict[str, list]:
        texts, pairs, words, kept = self._texts(start, columns)
        result: dict[str, list] = {name: [] for name in self.features()}
        if not kept:
            return result
        for offset, windows, extra in self._tokenize(kept, texts, pairs):
            row = start + offset
            if all(windows[0].special):
                # Characters that the tokenizer drops, such as zero-width spaces, give the model nothing to read.
                self.summary.without_text += 1
                self._name(self.summary.without_text_rows, row)
                continue
            labels = {name: columns[column][offset] for name, column in self.label_columns.items()}
            encoded = self._lay_on(row, labels, windows, words[offset])
            if encoded is None:
                continue
            for number, window in enumerate(windows):
                result["input_ids"].append(window.input_ids)
                if "token_type_ids" in result:
                    result["token_type_ids"].append(extra)
                result["length"].append(len(window.input_ids))
                result["row"].append(row)
                result["window"].append(number)
                for name in self.tasks:
                    for key, value in encoded[name][number].items():
                        result[f"{name}.{key}"].append(value)
        self.summary.sequences += len(result["row"])
        return result

    def _texts(self, start: int, columns: dict[str, list]) -> tuple[dict, dict, dict, list[int]]:
        """Texts, second texts and words of the batch's rows that have a text, and those rows' places in the batch."""
        config = self.config
        texts: dict[int, str] = {}
        pairs: dict[int, str] = {}
        words: dict[int, list[tuple[int, int]] | None] = {}
        for offset in range(len(columns["_row"])):
            tokens = columns[config.tokens_column][offset] if config.tokens_column else None
            text = columns[config.text_column][offset] if config.text_column else None
            spans = None
            try:
                if tokens is not None and not config.text_column:
                    text, spans = join_words(tokens, config.token_separator)
                elif tokens is not None and text is not None:
                    spans = find_words(tokens, text)
                own = {name: columns[name][offset] for name in self.span_columns}
                if text is not None and own:
                    check_within(text, own)
                    spans = span_words(text, own.values()) if spans is None else spans
                if not tokens and config.tokens_column:
                    self._check_no_words(columns, offset)
            except (WordError, LabelError) as error:
                self._refuse(start + offset, str(error))
                continue
            second = columns[config.text_pair_column][offset] if config.text_pair_column else None
            # A pair without its second text is no pair: the stock pipelines would read it as a single text.
            half = config.text_pair_column is not None and not (second or "").strip()
            if text is None or not text.strip() or half:
                self.summary.without_text += 1
                self._name(self.summary.without_text_rows, start + offset)
                continue
            texts[offset], pairs[offset], words[offset] = text, second or "", spans
        return texts, pairs, words, list(texts)

    def _check_no_words(self, columns: dict[str, list], offset: int) -> None:
        for name, column in self.label_columns.items():
            cell = columns[column][offset]
            if self.tasks[name].reads_windows and isinstance(cell, list) and cell and column not in self.span_columns:
                raise LabelError(f"column {column!r}: {len(cell)} tags for 0 words; every word needs one tag")

    def _tokenize(
        self, kept: list[int], texts: dict[int, str], pairs: dict[int, str]
    ) -> Iterator[tuple[int, list[Window], list[int] | None]]:
        """(place in the batch, windows, token types) of each row."""
        first = [texts[offset] for offset in kept]
        pair = [pairs[offset] for offset in kept] if self.config.text_pair_column else None
        if pair is not None:
            first, pair = cut_pairs(self.tokenizer, first, pair, self.max_length)
        options: dict[str, Any] = {"truncation": True, "max_length": self.max_length}
        if self.windowed:
            options |= {"return_overflowing_tokens": True, "stride": self.max_length // WINDOW_OVERLAP}
        encoded = self.tokenizer(
            first,
            pair,
            return_offsets_mapping=self.tokenizer.is_fast,
            return_special_tokens_mask=True,
            return_token_type_ids=pair is not None,
            **options,
        )
        owners = encoded.get("overflow_to_sample_mapping", range(len(encoded["input_ids"])))
        windows: list[list[Window]] = [[] for _ in kept]
        places: dict[int, int] = {}
        for place, owner in enumerate(owners):
            places.setdefault(owner, place)
            ids = encoded["input_ids"][place]
            offsets = encoded["offset_mapping"][place] if self.tokenizer.is_fast else [(0, 0)] * len(ids)
            windows[owner].append(Window(ids, offsets, encoded["special_tokens_mask"][place]))
        for owner, offset in enumerate(kept):
            longer = len(windows[owner]) > 1
            if not self.windowed and self.tokenizer.is_fast:
                longer = bool(encoded.encodings[owner].overflowing)
            self.summary.over_length += longer
            yield offset, windows[owner], encoded["token_type_ids"][places[owner]] if pair is not None else None

    def _lay_on(
        self, row: int, labels: Mapping[str, Any], windows: list[Window], words: list[tuple[int, int]] | None
    ) -> dict[str, list[dict]] | None:
        """Each task's columns of a row, or None for a row that is refused or says nothing about any task."""
        encoded: dict[str, list[dict]] = {}
        read: dict[str, Any] = {}
        for name, task in self.tasks.items():
            try:
                read[name] = None if labels[name] is None else self.readers[name](labels[name])
                encoded[name] = task.encode(read[name], windows, words)
            except LabelError as error:
                message = str(error) if f"task {name} " in str(error) else f"task {name}: {error}"
                self._refuse(row, f"column {self.label_columns[name]!r}: {message}")
                return None
        told = {name for name in encoded if any(columns["items"] for columns in encoded[name])}
        for name in self.tasks:
            if read[name] is None:
                self.summary.task_without_label[name] += 1
            else:
                self.summary.labels[name].update(self.tasks[name].label_counts(read[name]))
                self.summary.notes[name].update(self.tasks[name].notes(encoded[name]))
        if not told:
            self.summary.without_label += 1
            self._name(self.summary.without_label_rows, row)
            return None
        return encoded

    def _refuse(self, row: int, message: str) -> None:
        # To find a row's place takes a while, and there may be a million.
        self.problems.add("" if self.problems.is_full else f"{self.split.where(row)}: {message}")

    @staticmethod
    def _name(rows: list[int], row: int) -> None:
        if len(rows) < SHOWN_ROWS:
            rows.append(row)
