"""Sequences to tensors: one encoder input for sequences of any data sets, and each task's labels for its rows."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hf_mtl.tasks.task import Task


class Batch(TypedDict):
    """A micro-batch, as the model's `forward` takes it.

    `rows[task]` are the rows with an item of the task, `[rows of the task]`; `labels[task]` are the task's own tensors
    for these rows, in their order. Every task is in both, if need be with zero rows.
    """

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: NotRequired[Tensor]
    rows: dict[str, Tensor]
    labels: dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Collator:
    """Pads sequences to the longest of them and gathers each task's labels.

    Args:
        pad_token_id: fills `input_ids`.
        pad_token_type_id: fills `token_type_ids`.
        tasks: the tasks of the model, by name.
        padding_side: the tokenizer's, right or left.
        pad_to_multiple_of: widths are rounded up to a multiple of this.
    """

    pad_token_id: int
    pad_token_type_id: int
    tasks: Mapping[str, Task]
    padding_side: str = "right"
    pad_to_multiple_of: int | None = None

    def __post_init__(self) -> None:
        if self.padding_side not in ("right", "left"):
            raise ValueError(f"padding_side is {self.padding_side!r}; it must be right or left")

    @classmethod
    def for_tasks(
        cls, tokenizer: PreTrainedTokenizerBase, tasks: Mapping[str, Task], device: torch.device
    ) -> "Collator":
        """The collator of a model's tasks; on CUDA widths are multiples of 8, which its matrix units want."""
        return cls(
            pad_token_id=int(tokenizer.pad_token_id),
            pad_token_type_id=tokenizer.pad_token_type_id,
            tasks=tasks,
            padding_side=tokenizer.padding_side,
            pad_to_multiple_of=8 if device.type == "cuda" else None,
        )

    def __call__(self, sequences: Sequence[Mapping[str, Any]], active: Collection[str] | None = None) -> Batch:
        """A batch of the sequences, `[rows, length]`.

        Without a sequence, one row of one pad token stands in, since encoders refuse zero rows; no task reads it.

        Args:
            sequences: rows of encoded data sets, each with the columns of its own data set's tasks.
            active: the tasks whose labels are read; the others get zero rows. None reads all.

        Raises:
            ValueError: a name in `active` that is no task of the model.
        """
        if active is not None and (unknown := set(active) - set(self.tasks)):
            raise ValueError(f"active names {sorted(unknown)}; the model has the tasks {list(self.tasks)}")
        texts = sequences or [{"input_ids": [self.pad_token_id]}]
        lengths = np.array([len(text["input_ids"]) for text in texts])
        mask = self._mask(lengths)
        batch: Batch = {
            "input_ids": _filled(mask, self.pad_token_id, [text["input_ids"] for text in texts]),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
            "rows": {},
            "labels": {},
        }
        if any("token_type_ids" in text for text in texts):
            # A single text among pairs is all first text, as its own tokenizer call would have said.
            types = [text.get("token_type_ids", [0] * len(text["input_ids"])) for text in texts]
            batch["token_type_ids"] = _filled(mask, self.pad_token_type_id, types)
        for name, task in self.tasks.items():
            read = active is None or name in active
            rows = [row for row, text in enumerate(texts) if read and text.get(f"{name}.items", 0) > 0]
            labels = task.collate([_columns(texts[row], f"{name}.") for row in rows], mask.shape[1])
            if self.padding_side == "left":
                labels = _moved(labels, task, torch.from_numpy(mask.shape[1] - lengths[rows]))
            batch["rows"][name] = torch.tensor(rows, dtype=torch.int64)
            batch["labels"][name] = labels
        return batch

    def _mask(self, lengths: np.ndarray) -> np.ndarray:
        """Where the texts' own pieces stand, `[rows, length]`."""
        multiple = self.pad_to_multiple_of or 1
        width = -(-int(lengths.max()) // multiple) * multiple
        mask = np.arange(width) < lengths[:, None]
        return mask if self.padding_side == "right" else mask[:, ::-1]


def _filled(mask: np.ndarray, padding: int, values: Sequence[Sequence[int]]) -> Tensor:
    result = np.full(mask.shape, padding, dtype=np.int64)
    result[mask] = np.fromiter(chain.from_iterable(values), np.int64)
    return torch.from_numpy(result)


def _columns(sequence: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in sequence.items() if key.startswith(prefix)}


def _moved(labels: dict[str, Tensor], task: Task, gaps: Tensor) -> dict[str, Tensor]:
    """Labels that lie along the pieces, moved behind the padding on the left of their row.

    Args:
        labels: tensors `[rows, ...]`, those along the pieces `[rows, length, ...]` with the padding at the end.
        task: the task whose labels these are.
        gaps: the pieces of padding in each row, `[rows]`.
    """
    one, two = task.collate([], 1), task.collate([], 2)
    moved = dict(labels)
    for key, values in labels.items():
        if one[key].shape != two[key].shape:  # the labels' shape follows the texts' length: a label a piece
            places = (torch.arange(values.shape[1]) - gaps[:, None]) % values.shape[1]
            moved[key] = values[torch.arange(len(values))[:, None], places]
    return moved
