"""A layer with adapters whose rows go through those of their lanes: PEFT's layer, with a forward for mixed batches.

PEFT's own mixed batches are for inference alone, and gather rows by index. Here the base product of all rows is
computed once, and each lane's slice gets what its adapter makes of it.
"""

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from hf_mtl.modeling.lanes import Lanes


class LaneLinear(torch.autograd.Function):
    """A linear layer and the low-rank products of consecutive slices of its rows, in one pass.

    Written out since the layers of an encoder are small enough for every further pass over the states to be felt, and
    every call too. The low-rank products are written first, and the layer's own product adds to them: that costs it
    next to nothing, while a low-rank product that adds to it would read and write all states once more.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        counts: tuple[int, ...],
        scales: tuple[float, ...],
        *adapters: Tensor,
    ) -> Tensor:
        """`x W^T + b`, and `scale · x A^T B^T` on each slice.

        Args:
            ctx: torch's.
            x: `[rows, in]`.
            weight: `[out, in]`.
            bias: `[out]`.
            counts: the rows of each slice, from the first row on.
            scales: by slice.
            adapters: A `[r, in]` and B `[out, r]` of each slice, in turn.
        """
        out = x.new_empty(len(x), len(weight))
        out = out.zero_() if bias is None else out.copy_(bias)
        # The thin factor comes first in each product: on a CPU that is up to five times as fast as its transpose.
        lows = [a.mm(part.t()) for a, part in zip(adapters[::2], _parts(counts, x), strict=False)]
        for low, b, scale, part in zip(lows, adapters[1::2], scales, _parts(counts, out), strict=False):
            part.addmm_(low.t(), b.t(), alpha=scale)
        out.addmm_(x, weight.t())
        ctx.counts, ctx.scales, ctx.has_bias = counts, scales, bias is not None
        ctx.save_for_backward(x, weight, *adapters, *lows)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *rest = ctx.saved_tensors
        number, needed = len(ctx.counts), ctx.needs_input_grad
        adapters, lows = rest[: 2 * number], rest[2 * number :]
        grad_x = torch.empty_like(x) if needed[0] else None
        read, parts = _parts(ctx.counts, x), _parts(ctx.counts, grad)
        written = () if grad_x is None else _parts(ctx.counts, grad_x)
        found: list[Tensor | None] = []
        for place, (part, low, scale) in enumerate(zip(parts, lows, ctx.scales, strict=False)):
            a, b = adapters[2 * place : 2 * place + 2]
            grad_low = b.t().mm(part.t()).mul_(scale)
            found.append(grad_low.mm(read[place]) if needed[5 + 2 * place] else None)
            found.append(low.mm(part).t().mul(scale) if needed[6 + 2 * place] else None)
            if written:
                written[place].addmm_(grad_low.t(), a, beta=0)
        for rest_of_rows in written[number:]:
            rest_of_rows.zero_()
        if grad_x is not None:
            grad_x.addmm_(grad, weight)
        grad_weight = grad.t().mm(x) if needed[1] else None
        grad_bias = grad.sum(0) if ctx.has_bias and needed[2] else None
        return grad_x, grad_weight, grad_bias, None, None, *found


class LaneForward:
    """The forward of a PEFT layer whose rows go through the adapters of their lanes.

    Args:
        layer: PEFT's.
        lanes: the model's.
        groups: those whose rows come here; None for those of all lanes.
    """

    def __init__(self, layer: LoraLayer, lanes: Lanes, groups: Collection[str] | None = None) -> None:
        self.layer, self.lanes, self.groups = layer, lanes, groups

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        base = self.layer.base_layer
        slices = [(self._names(lane), rows) for lane, rows in self.lanes.route.slices if self._comes(lane)]
        if not slices:
            # The bare encoder, outside of any batch.
            return base(x, *args, **kwargs)
        if len({names for names, _ in slices}) == 1:
            # All that comes is treated alike: rows that are not copied yet, positions in DeBERTa's projections.
            slices = [(slices[0][0], len(x))]
        total = sum(rows for _, rows in slices)
        if len(x) != max(total, 1):
            raise RuntimeError(f"a layer got {len(x)} rows in place of {total}: it cannot be adapted by task")
        if not any(names for names, _ in slices):
            return base(x, *args, **kwargs)
        if type(base) is nn.Linear and not self.layer.lora_variant and not self._drops():
            return self._fused(x, slices)
        return self._apart(x, slices, base(x, *args, **kwargs))

    def _comes(self, lane: str) -> bool:
        return self.groups is None or self.lanes.groups[lane] in self.groups

    def _names(self, lane: str) -> tuple[str, ...]:
        """The adapters that this layer has for a lane."""
        return tuple(name for name in self.lanes.adapters[lane] if name in self.layer.lora_A)

    def _drops(self) -> bool:
        return self.layer.training and any(isinstance(drop, nn.Dropout) for drop in self.layer.lora_dropout.values())

    def _fused(self, x: Tensor, slices: list[tuple[tuple[str, ...], int]]) -> Tensor:
        device = x.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else x.dtype
        per_row = x.shape[1:-1].numel()
        counts, scales, adapters = [], [], []
        for names, rows in slices:
            counts.append(rows * per_row)
            scales.append(self.layer.scaling[names[0]] if names else 0.0)
            adapters += [self._a(names, x), self._b(names, x)]
        weight, bias = self.layer.base_layer.weight, self.layer.base_layer.bias
        with torch.autocast(device, enabled=False) if autocast else nullcontext():
            out = LaneLinear.apply(
                x.reshape(-1, x.shape[-1]).to(dtype),
                weight.to(dtype),
                None if bias is None else bias.to(dtype),
                tuple(counts),
                tuple(scales),
                *(adapter.to(dtype) for adapter in adapters),
            )
        return out.view(*x.shape[:-1], out.shape[-1])

    def _a(self, names: tuple[str, ...], x: Tensor) -> Tensor:
        """A of several adapters as that of one, whose rank is theirs together."""
        found = [self.layer.lora_A[name].weight for name in names]
        return found[0] if len(found) == 1 else torch.cat([*found, x.new_empty(0, self.layer.in_features)])

    def _b(self, names: tuple[str, ...], x: Tensor) -> Tensor:
        """B of several adapters, at the scale of the first."""
        found = [self.layer.lora_B[name].weight for name in names]
        if len(found) == 1:
            return found[0]
        scaling = self.layer.scaling
        found[1:] = [
            part if scaling[name] == scaling[names[0]] else part * (scaling[name] / scaling[names[0]])
            for name, part in zip(names[1:], found[1:], strict=True)
        ]
        return torch.cat([*found, x.new_empty(self.layer.out_features, 0)], dim=1)

    def _apart(self, x: Tensor, slices: list[tuple[tuple[str, ...], int]], result: Tensor) -> Tensor:
        """As PEFT's own forward, slice by slice: with dropout, DoRA, or a base that is not a plain linear layer."""
        dtype, counts = result.dtype, _all(tuple(rows for _, rows in slices), x)
        parts = []
        for (names, _), part, own in zip([*slices, ((), 0)], x.split(counts), result.split(counts), strict=True):
            for name in names:
                own = self._adapted(name, part, own)
            parts.append(own.to(dtype))
        return torch.cat(parts)

    def _adapted(self, name: str, x: Tensor, result: Tensor) -> Tensor:
        layer = self.layer
        x = layer._cast_input_dtype(x, layer.lora_A[name].weight.dtype)
        if name in layer.lora_variant:
            return layer.lora_variant[name].forward(layer, active_adapter=name, x=x, result=result)
        return result + layer.lora_B[name](layer.lora_A[name](layer.lora_dropout[name](x))) * layer.scaling[name]


def _all(counts: tuple[int, ...], x: Tensor) -> list[int]:
    """The counts, and that of the rows that are left."""
    return [*counts, len(x) - sum(counts)]


def _parts(counts: tuple[int, ...], x: Tensor) -> Sequence[Tensor]:
    """The slices of the rows, and the rows that are left, if any."""
    return (x,) if counts == (len(x),) else x.split(_all(counts, x))
