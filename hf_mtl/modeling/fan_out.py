"""Copies of rows inside a stock encoder: what is below a layer reads each row once, what is above reads copies.

Stock encoders hand their layers more than states: masks, rotary tables, position biases, some by row and some not. By
its shape alone such a tensor cannot be told apart (a batch may have as many rows as DeBERTa has relative positions), so
the encoder is run on two rows and on three, and what has grown goes by row. No code per architecture.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum, auto
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import PreTrainedModel

from hf_mtl.errors import UserError
from hf_mtl.modeling.layers import layer_list

Path = tuple[int | str, ...]
"""Where an argument stands in a call: its place or its keyword, then its places in tuples, lists and dicts."""


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

    Raises:
        UserError: if the encoder has no such layer, or hands rows to its layers in a way that cannot be followed.
    """

    def __init__(self, encoder: PreTrainedModel, first: int, index: Callable[[], Tensor | None]) -> None:
        place, layers = layer_list(encoder)
        if not 0 <= first < len(layers):
            raise UserError(f"the encoder ({encoder.config.model_type}) has layers 0 to {len(layers) - 1}, no {first}")
        modules = _beside(encoder, place) | {f"{place}.{i}": layers[i] for i in range(first, len(layers))}
        self._handles = [
            modules[name].register_forward_pre_hook(_Rows(name, arguments, index).copy, with_kwargs=True)
            for name, arguments in _probe(encoder, modules, f"{place}.{first}").items()
        ]

    def remove(self) -> None:
        """Takes the hooks off: the encoder is stock again."""
        for handle in self._handles:
            handle.remove()


class _Kind(Enum):
    """What an argument is."""

    BY_ROW = auto()
    """To be copied."""
    FIXED = auto()
    """The same for every batch, or made of copies."""
    SINGLE = auto()
    """As FIXED, with one row, which stands for all: should it have more, it goes by row after all."""


class _Rows:
    """The rows among the arguments of one module.

    An object with a method, since a deep copy of a model would share a function and what it closes over.
    """

    def __init__(self, name: str, arguments: dict[Path, _Kind], index: Callable[[], Tensor | None]) -> None:
        self._name, self._arguments, self._index = name, arguments, index

    def copy(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        """The arguments with copies of their rows: a forward pre-hook."""
        index = self._index()
        if index is None:
            return None
        copied = partial(self._copied, index)
        return _changed(copied, args), _changed(copied, kwargs)

    def _copied(self, index: Tensor, path: Path, value: Tensor) -> Tensor:
        if value.dim() == 0:
            return value
        kind = self._arguments.get(path, _Kind.SINGLE)
        if kind is _Kind.SINGLE and value.shape[0] != 1:
            raise UserError(
                f"{self._name} of the encoder got {_shown(path)} of shape {list(value.shape)}, and the trial passes "
                "did not tell whether it goes by row; give the encoder input_ids, attention_mask, token_type_ids only"
            )
        if kind is not _Kind.BY_ROW:
            return value
        # One row may also stand for all of a larger batch.
        return value.index_select(0, index if value.shape[0] != 1 else torch.zeros_like(index))


def _changed(change: Callable[[Path, Tensor], Tensor], value: Any, path: Path = ()) -> Any:
    """The value with its tensors changed, those in tuples, lists and dicts too."""
    if isinstance(value, Tensor):
        return change(path, value)
    if type(value) in (tuple, list):
        return type(value)(_changed(change, part, (*path, place)) for place, part in enumerate(value))
    if type(value) is dict:
        return {key: _changed(change, part, (*path, key)) for key, part in value.items()}
    if isinstance(value, BlockMask):
        raise UserError("attn_implementation: with flex_attention rows cannot be copied inside the encoder; use sdpa")
    return value


def _shown(path: Path) -> str:
    return "argument " + ".".join(str(part) for part in path)


def _beside(encoder: PreTrainedModel, place: str) -> dict[str, nn.Module]:
    """The modules that stand beside the list of layers, or beside what holds it."""
    above = place.split(".")
    way = [".".join(above[:depth]) for depth in range(len(above))]
    return {
        f"{holder}.{name}".removeprefix("."): child
        for holder in way
        for name, child in encoder.get_submodule(holder).named_children()
        if f"{holder}.{name}".removeprefix(".") not in (*way, place)
    }


class _Trial:
    """A forward pass on a few rows, and what it hands to each module from the first layer with copies on.

    Attributes:
        shapes: of the tensors that a module gets.
        early: the modules that also run before that layer, when rows are not to be copied yet.
        count: the rows that come out.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        modules: dict[str, nn.Module],
        first: str,
        inputs: dict[str, Tensor],
        by_row: frozenset[tuple[str, Path]] = frozenset(),
        index: Tensor | None = None,
    ) -> None:
        self.shapes: dict[tuple[str, Path], torch.Size] = {}
        self.early: set[str] = set()
        self._first, self._begun, self._by_row, self._index = first, False, by_row, index
        self._rows = len(inputs["input_ids"])
        handles = [
            module.register_forward_pre_hook(partial(self._note, name), with_kwargs=True)
            for name, module in modules.items()
        ]
        try:
            self.count = len(encoder(**inputs)[0])
        finally:
            for handle in handles:
                handle.remove()

    def _note(self, name: str, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple | None:
        self._begun = self._begun or name == self._first
        if not self._begun:
            self.early.add(name)
            return None
        taken = partial(self._taken, name)
        return _changed(taken, args), _changed(taken, kwargs)

    def _taken(self, name: str, path: Path, value: Tensor) -> Tensor:
        self.shapes[name, path] = value.shape
        if self._index is not None and (name, path) in self._by_row and len(value) == self._rows:
            return value.index_select(0, self._index)
        return value


def _probe(encoder: PreTrainedModel, modules: dict[str, nn.Module], first: str) -> dict[str, dict[Path, _Kind]]:
    """What the arguments of each module are that gets rows which are not copied yet."""
    where = f"the encoder ({encoder.config.model_type}): rows cannot be copied before {first}"
    index = torch.tensor([1, 0, 1, 1, 0], device=encoder.device)
    try:
        with _as_it_was(encoder):
            few, more = (_Trial(encoder, modules, first, _inputs(encoder, rows)) for rows in (2, 3))
            by_row = frozenset(_by_row(few, more, where))
            trial = _Trial(encoder, modules, first, _inputs(encoder, 2), by_row, index)
    except (RuntimeError, ValueError, IndexError) as error:
        raise UserError(f"{where}: a trial pass failed ({error})") from error
    if trial.count != len(index):
        raise UserError(f"{where}: {trial.count} rows come out where there are {len(index)} copies")
    found: dict[str, dict[Path, _Kind]] = {}
    for (name, path), shape in trial.shapes.items():
        found.setdefault(name, {})[path] = _kind(shape, (name, path) in by_row and shape[0] != len(index))
    return {name: kinds for name, kinds in found.items() if _Kind.BY_ROW in kinds.values()}


def _kind(shape: torch.Size, by_row: bool) -> _Kind:
    if by_row:
        return _Kind.BY_ROW
    return _Kind.SINGLE if shape[:1] == (1,) else _Kind.FIXED


def _by_row(few: _Trial, more: _Trial, where: str) -> Iterator[tuple[str, Path]]:
    """The arguments whose first dimension is that of rows: two in one trial and three in the other."""
    for (name, path), shape in few.shapes.items():
        other = more.shapes.get((name, path), shape)
        if name in few.early or shape == other:
            continue
        if (shape[:1], other[:1]) != ((2,), (3,)) or shape[1:] != other[1:]:
            raise UserError(
                f"{where}: {_shown(path)} of {name} has shape {list(shape)} for two rows, {list(other)} for three; "
                "rows must be the first dimension (an attention implementation may have packed them: try sdpa)"
            )
        yield name, path


def _inputs(encoder: PreTrainedModel, rows: int) -> dict[str, Tensor]:
    """Rows of different lengths, since without padding most encoders make no masks."""
    pad = getattr(encoder.config, "pad_token_id", None) or 0
    mask = torch.arange(4) < 4 - torch.arange(rows)[:, None]
    ids = torch.full((rows, 4), 0 if pad else 1).where(mask, pad)
    return {"input_ids": ids.to(encoder.device), "attention_mask": mask.long().to(encoder.device)}


@contextmanager
def _as_it_was(encoder: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode, no gradients, nothing compiled; afterwards the modes are as before."""
    modes = {module: module.training for module in encoder.modules()}
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            encoder.eval()
            yield
    finally:
        for module, training in modes.items():
            module.training = training
