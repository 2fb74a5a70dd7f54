"""Which arguments of a stock encoder's modules go by row: what grows when the batch does.

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

PACKED = "attn_implementation: with flex_attention rows cannot be copied inside the encoder; use sdpa"
"""Its masks are no tensors."""


class Kind(Enum):
    """What an argument is."""

    BY_ROW = auto()
    """A row for each of the batch."""
    COPIED = auto()
    """A row for each copy: made of what was copied before."""
    FIXED = auto()
    """The same for every batch."""
    SINGLE = auto()
    """As FIXED, with one row, which stands for all: should it have more, it goes by row after all."""


class Arguments:
    """The arguments of one module of an encoder.

    Args:
        name: the module's.
        kinds: what each tensor among them is, as trial passes have shown.
    """

    def __init__(self, name: str, kinds: dict[Path, Kind]) -> None:
        self.name, self.kinds = name, kinds

    def changed(
        self, change: Callable[[Kind, Tensor], Tensor], args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]]:
        """The arguments of a call with their rows changed.

        Args:
            change: given what goes by row, and of which kind it is; a value with a single row stands for all of them.
            args: of the call.
            kwargs: of the call.

        Raises:
            UserError: for a value that may go by row or not, and for masks that hold rows where none can get at them.
        """
        taken = partial(self._taken, change)
        return _changed(taken, args), _changed(taken, kwargs)

    def _taken(self, change: Callable[[Kind, Tensor], Tensor], path: Path, value: Tensor) -> Tensor:
        if value.dim() == 0:
            return value
        kind = self.kinds.get(path, Kind.SINGLE)
        if kind is Kind.SINGLE and value.shape[0] != 1:
            raise UserError(
                f"{self.name} of the encoder got {_shown(path)} of shape {list(value.shape)}, and the trial passes "
                "did not tell whether it goes by row; give the encoder input_ids, attention_mask, token_type_ids only"
            )
        return change(kind, value) if kind in (Kind.BY_ROW, Kind.COPIED) else value


def arguments_by_row(encoder: PreTrainedModel, first: int) -> dict[str, Arguments]:
    """What the modules get that run from a layer on: that layer, those above it, and what stands beside the layers.

    Args:
        encoder: has its weights, not on the meta device: it is run on a few rows, and left as it was.
        first: the layer from which on rows are copied, from 0.

    Raises:
        UserError: if the encoder has no such layer, or hands rows to its layers in a way that cannot be followed.
    """
    place, layers = layer_list(encoder)
    if not 0 <= first < len(layers):
        raise UserError(f"the encoder ({encoder.config.model_type}) has layers 0 to {len(layers) - 1}, no {first}")
    modules = _beside(encoder, place) | {f"{place}.{i}": layers[i] for i in range(first, len(layers))}
    return {name: Arguments(name, kinds) for name, kinds in _probe(encoder, modules, f"{place}.{first}").items()}


def _changed(change: Callable[[Path, Tensor], Tensor], value: Any, path: Path = ()) -> Any:
    """The value with its tensors changed, those in tuples, lists and dicts too."""
    if isinstance(value, Tensor):
        return change(path, value)
    if type(value) in (tuple, list):
        return type(value)(_changed(change, part, (*path, place)) for place, part in enumerate(value))
    if type(value) is dict:
        return {key: _changed(change, part, (*path, key)) for key, part in value.items()}
    if isinstance(value, BlockMask):
        raise UserError(PACKED)
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


def _probe(encoder: PreTrainedModel, modules: dict[str, nn.Module], first: str) -> dict[str, dict[Path, Kind]]:
    """What each argument is, by module."""
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
    found: dict[str, dict[Path, Kind]] = {}
    for (name, path), shape in trial.shapes.items():
        if (name, path) in by_row:
            kind = Kind.COPIED if shape[0] == len(index) else Kind.BY_ROW
        else:
            kind = Kind.SINGLE if shape[:1] == (1,) else Kind.FIXED
        found.setdefault(name, {})[path] = kind
    return found


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
