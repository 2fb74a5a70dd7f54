"""Copies of rows inside a stock encoder: what is below a layer reads each row once, what is above reads copies."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_mtl.modeling.row_arguments import Arguments, Kind, arguments_by_row


class FanOut:
    """Has the rows of every batch copied before a layer of a stock encoder.

    The embeddings and the layers below `first` read the rows as they came; `first`, the layers above it and all that
    the encoder does behind them read the copies, which are also what the encoder gives.

    Hooks do this, on the layers and on the modules beside them that also read rows (DeBERTa's convolution). A deep copy
    of a model that holds this object and that of `index` has hooks of its own, which ask the copy. `torch.compile` does
    not watch hooks: put this into an encoder, or take it out, before the first compiled call.

    Args:
        encoder: has its weights, not on the meta device: it is run on a few rows, and left as it was.
        first: the first layer that reads copies, from 0.
        index: asked in every forward pass, and again where gradients need a pass once more: the row of the batch that
            each copy is of, `[copies]`, at least one, in any order; None to leave the rows as they are.

    Attributes:
        arguments: of the modules from `first` on.

    Raises:
        UserError: if the encoder has no such layer, or hands rows to its layers in a way that cannot be followed.
    """

    def __init__(self, encoder: PreTrainedModel, first: int, index: Callable[[], Tensor | None]) -> None:
        self.arguments = arguments_by_row(encoder, first)
        self._handles = [
            encoder.get_submodule(name).register_forward_pre_hook(_Rows(found, index).copy, with_kwargs=True)
            for name, found in self.arguments.items()
            if Kind.BY_ROW in found.kinds.values()
        ]

    def remove(self) -> None:
        """Takes the hooks off: the encoder is stock again."""
        for handle in self._handles:
            handle.remove()


class _Rows:
    """Copies the rows among the arguments of one module.

    An object with a method, since a deep copy of a model would share a function and what it closes over.
    """

    def __init__(self, arguments: Arguments, index: Callable[[], Tensor | None]) -> None:
        self._arguments, self._index = arguments, index

    def copy(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        """The arguments with copies of their rows: a forward pre-hook."""
        index = self._index()
        return None if index is None else self._arguments.changed(partial(_copied, index), args, kwargs)


def _copied(index: Tensor, kind: Kind, value: Tensor) -> Tensor:
    if kind is Kind.COPIED:
        return value
    # One row may also stand for all of a larger batch.
    return value.index_select(0, index if value.shape[0] != 1 else torch.zeros_like(index))
