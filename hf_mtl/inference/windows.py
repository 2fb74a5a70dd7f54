"""Texts → encoder sequences: each text is encoded once for all tasks that read it with the same options."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hf_mtl.data.tokenizer import cut_pairs
from hf_mtl.errors import UserError
from hf_mtl.inference.options import Call, TaskCall
from hf_mtl.inference.texts import Text

# A tokenizer keeps truncation and stride as its own state: one thread at a time may set them and encode.
_TOKENIZER = threading.Lock()


@dataclass(slots=True, eq=False)
class Window:
    """One encoder sequence, the tasks that read it, and, after the encoder's pass, their logits.

    Each task's logits are `[1, labels]` or `[1, pieces, labels]`, unpadded.
    """

    text: Text
    readers: Sequence[TaskCall]
    input_ids: list[int]
    token_type_ids: list[int] | None
    encoding: Any
    logits: dict[str, Tensor] = field(default_factory=dict)

    def output(self, name: str) -> dict[str, Any]:
        """The window as the stock pipelines hand it from their forward to their postprocess."""
        output: dict[str, Any] = {"logits": self.logits[name]}
        if self.encoding is not None:
            output["sentence"] = self.text.text
            output["input_ids"] = [self.input_ids]
            output["offset_mapping"] = [self.encoding.offsets]
            output["special_tokens_mask"] = torch.tensor([self.encoding.special_tokens_mask])
        return output


def read_windows(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text], call: Call) -> list[list[Window]]:
    """The windows of each text: the first, which every task reads, then those of each stride.

    Raises:
        UserError: if a text cannot be encoded, or a task cannot read it.
    """
    found: list[list[Window]] = [[] for _ in texts]
    readers = [call.tasks_of(text) for text in texts]
    for paired in (False, True):
        # As in the stock pipelines, a pair whose second text is empty is encoded as a single text.
        places = [place for place, text in enumerate(texts) if bool(text.pair) == paired]
        strides = {reader.stride for place in places for reader in readers[place] if reader.stride is not None}
        for turn, stride in enumerate(sorted(strides) or [None]):
            several = []
            for place, sequences in zip(places, _encode(tokenizer, [texts[p] for p in places], stride), strict=True):
                if turn == 0:
                    found[place].append(Window(texts[place], readers[place], *sequences[0]))
                if len(sequences) > 1:
                    several.append(place)
                    striding = [reader for reader in readers[place] if reader.stride == stride]
                    found[place] += [Window(texts[place], striding, *sequence) for sequence in sequences[1:]]
            # The first window does not depend on the stride: texts without another are not encoded again.
            places = several
    return found


def _encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text], stride: int | None
) -> list[list[tuple[list[int], list[int] | None, Any]]]:
    """(input_ids, token_type_ids, encoding) of each window of each text; one window a text without a stride."""
    if not texts:
        return []
    windows = {} if stride is None else {"return_overflowing_tokens": True, "stride": stride}
    first, pairs = [text.text for text in texts], [text.pair or "" for text in texts] if texts[0].pair else None
    with _TOKENIZER:
        try:
            if pairs is not None and stride is None:
                first, pairs = cut_pairs(tokenizer, first, pairs, tokenizer.model_max_length)
            encoded = tokenizer(first, pairs, truncation=True, return_attention_mask=False, **windows)
        except Exception as error:
            if (fault := _fault(texts)) is not None:
                raise UserError(fault) from error
            raise
    kinds = encoded.get("token_type_ids")
    owners = encoded.get("overflow_to_sample_mapping", range(len(texts)))
    found: list[list[tuple[list[int], list[int] | None, Any]]] = [[] for _ in texts]
    for number, (owner, input_ids) in enumerate(zip(owners, encoded["input_ids"], strict=True)):
        if not input_ids:
            raise UserError(f"{texts[owner].place} has no piece that the model could read: {texts[owner].text!r}")
        # All zeros say no more than no token_type_ids at all.
        token_type_ids = kinds[number] if kinds is not None and any(kinds[number]) else None
        encoding = encoded.encodings[number] if tokenizer.is_fast else None
        found[owner].append((input_ids, token_type_ids, encoding))
    return found


def _fault(texts: Sequence[Text]) -> str | None:
    """Which text no tokenizer could read, if there is one."""
    for text in texts:
        try:
            (text.text + (text.pair or "")).encode()
        except UnicodeEncodeError:
            return f"{text.place} is no valid Unicode text (it holds half a surrogate pair): {text.text!r}"
    return None


def batches(windows: Iterable[Window], size: int) -> Iterator[list[Window]]:
    """The windows in batches of windows of like length; the longest come first, so that memory runs out at once."""
    ordered = sorted(windows, key=lambda window: len(window.input_ids), reverse=True)
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def collate(windows: Sequence[Window], pad_token_id: int) -> dict[str, Tensor]:
    """The encoder's inputs, each `[windows, longest]`, padded on the right."""
    shape = len(windows), max(len(window.input_ids) for window in windows)
    input_ids = np.full(shape, pad_token_id, dtype=np.int64)
    attention_mask = np.zeros(shape, dtype=np.int64)
    token_type_ids = np.zeros(shape, dtype=np.int64)
    for row, window in enumerate(windows):
        length = len(window.input_ids)
        input_ids[row, :length] = window.input_ids
        attention_mask[row, :length] = 1
        if window.token_type_ids is not None:
            token_type_ids[row, :length] = window.token_type_ids
    batch = {"input_ids": input_ids, "attention_mask": attention_mask}
    if any(window.token_type_ids is not None for window in windows):
        batch["token_type_ids"] = token_type_ids
    return {key: torch.from_numpy(array) for key, array in batch.items()}


def share_out(windows: Sequence[Window], logits: dict[str, Tensor]) -> None:
    """Give each window its own part of the logits, of which a task has a row for each window that it reads."""
    rows = dict.fromkeys(logits, 0)
    for window in windows:
        length = len(window.input_ids)
        for reader in window.readers:
            row = rows[reader.name]
            rows[reader.name] = row + 1
            own = logits[reader.name][row : row + 1]
            window.logits[reader.name] = own[:, :length] if own.dim() == 3 else own
