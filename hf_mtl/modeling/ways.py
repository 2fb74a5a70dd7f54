"""The ways of rows through an encoder: put into stock layers and PEFT's, and taken out again."""

from collections.abc import Iterator

from hf_mtl.errors import UserError
from hf_mtl.modeling.adapters import adapted_layers
from hf_mtl.modeling.body import Body
from hf_mtl.modeling.dealing import Dealer
from hf_mtl.modeling.fan_out import FanOut
from hf_mtl.modeling.lane_layer import LaneForward
from hf_mtl.modeling.lanes import Lanes
from hf_mtl.modeling.layers import Depths
from hf_mtl.modeling.row_arguments import Arguments, arguments_by_row


class Ways:
    """Has adapted layers follow the lanes, rows of several lanes copied where their ways part, and layers deal.

    Args:
        body: its encoder has its weights, not on the meta device.

    Attributes:
        copies_inside: whether rows are copied inside the encoder. Not where there is one lane; and not in encoders with
            adapters before their first layer, or whose layers are one and the same: there the rows of the input must be
            copied.
    """

    def __init__(self, body: Body) -> None:
        body.lanes.leave()
        self._follow(body)
        first = parting(body)
        self._fan_out = None if first is None else FanOut(body.encoder, first, body.lanes.index)
        self.copies_inside = self._fan_out is not None
        self._dealers = self._deal(body)

    def release(self) -> None:
        """Takes out what copies and deals: another model can have the encoder."""
        if self._fan_out is not None:
            self._fan_out.remove()
        for dealer in self._dealers:
            del dealer.module.forward

    def _follow(self, body: Body) -> None:
        for name, layer in adapted_layers(body.encoder).items():
            others = {
                group for own, groups in body.own_layers.items() if name.startswith(f"{own}.") for group in groups
            }
            layer.forward = LaneForward(layer, body.lanes, set(body.lanes.groups.values()) - others if others else None)
        for group, own in body.private.items():
            for layer in adapted_layers(own).values():
                layer.forward = LaneForward(layer, body.lanes, {group})

    def _deal(self, body: Body) -> list[Dealer]:
        if not body.private:
            return []
        arguments = self._arguments(body)
        dealers = []
        for name, groups in body.own_layers.items():
            module = body.encoder.get_submodule(name)
            copies = {group: body.private[group].get_submodule(name) for group in groups}
            dealers.append(Dealer(module, copies, arguments.get(name, Arguments(name, {})), body.lanes))
        # Not before the trial passes of all.
        for dealer in dealers:
            dealer.module.forward = dealer
        return dealers

    def _arguments(self, body: Body) -> dict[str, Arguments]:
        if self._fan_out is not None:
            return self._fan_out.arguments
        several = len(set(body.lanes.tasks.values())) > 1
        if not several:
            return {}
        depths = Depths(body.encoder)
        return arguments_by_row(body.encoder, min(depths.of(name) for name in body.own_layers))


def parting(body: Body) -> int | None:
    """The layer from which on lanes read copies of rows; None where that is none, or before the first."""
    lanes = set(body.lanes.tasks.values())
    if len(lanes) < 2:
        return None
    try:
        depths = Depths(body.encoder)
    except UserError:
        return None
    first = min(depths.of(name) for name in _apart(body))
    return first if first >= 0 else None


def _apart(body: Body) -> Iterator[str]:
    """The modules in which not all lanes are treated alike."""
    lanes: Lanes = body.lanes
    yield from body.own_layers
    for name, layer in adapted_layers(body.encoder).items():
        if (
            len({tuple(own for own in lanes.adapters[lane] if own in layer.lora_A) for lane in lanes.tasks.values()})
            > 1
        ):
            yield name
