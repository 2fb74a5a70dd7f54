"""Layers that deal: of the rows that reach a stock layer, each group of tasks has its own go through its own copy."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hf_mtl.errors import UserError
from hf_mtl.modeling.lanes import Lanes
from hf_mtl.modeling.row_arguments import Arguments, Kind


class Dealer:
    """The forward of a stock module of which some groups have a copy.

    The stock module stays where it is and keeps its hooks, attributes and names. A deep copy of a model that holds it,
    the copies and the lanes has a dealer of its own.

    Args:
        module: the stock one, of the groups without a copy.
        copies: by group.
        arguments: of the stock module's calls.
        lanes: the model's.
    """

    def __init__(self, module: nn.Module, copies: Mapping[str, nn.Module], arguments: Arguments, lanes: Lanes) -> None:
        self.module, self.copies, self.arguments, self.lanes = module, dict(copies), arguments, lanes

    # Numbers of rows are new in every batch: compiled, each would be compiled anew. What is dealt to may be compiled.
    @torch.compiler.disable(recursive=False)
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        parts = self._parts()
        if len(parts) < 2:
            return self._run(parts[0][0] if parts else None, *args, **kwargs)
        results = []
        start, some = 0, any(rows for _, rows in parts)
        for place, (copy, rows) in enumerate(parts):
            # Stock layers refuse zero rows, and a process without rows must pass through all copies nevertheless: one
            # row of another group's goes through, of which nothing comes out.
            own = slice(start, start := start + rows) if rows else slice(0, 1)
            taken, named = self.arguments.changed(partial(_rows, own), args, kwargs)
            result = self._run(copy, *taken, **named)
            results.append(result if rows or not (some or place) else _none_of(result))
        return self._joined(results)

    def _parts(self) -> list[tuple[str | None, int]]:
        """(group, rows) in the order of the rows; None for those without a copy, which stand together."""
        parts: dict[str | None, int] = {}
        for lane, rows in self.lanes.route.slices:
            group = self.lanes.groups[lane]
            key = group if group in self.copies else None
            parts[key] = parts.get(key, 0) + rows
        return list(parts.items())

    def _run(self, group: str | None, *args: Any, **kwargs: Any) -> Any:
        if group is not None:
            return self.copies[group](*args, **kwargs)
        # The instance's forward is this object.
        return type(self.module).forward(self.module, *args, **kwargs)

    def _joined(self, results: list[Any]) -> Any:
        if isinstance(results[0], Tensor):
            return torch.cat(results)
        if type(results[0]) is tuple:
            return tuple(self._joined(list(parts)) for parts in zip(*results, strict=True))
        if all(result is None for result in results):
            return None
        raise UserError(
            f"{self.arguments.name} of the encoder gives {type(results[0]).__name__}, which cannot be put together "
            "from the rows of several groups; set sharing.private_layers to 0"
        )


def _rows(own: slice, _: Kind, value: Tensor) -> Tensor:
    # One row may stand for all.
    return value if value.shape[0] == 1 else value[own]


def _none_of(result: Any) -> Any:
    if type(result) is tuple:
        return tuple(_none_of(part) for part in result)
    return result[:0] if isinstance(result, Tensor) else result
