"""A layer whose rows go through the adapters of their lanes gives what PEFT's layers give one by one."""

import copy
import warnings

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn
from torch.nn import functional

from hf_mtl.modeling.adapters import adapted_layers, add_adapter
from hf_mtl.modeling.lane_layer import LaneForward, LaneLinear
from hf_mtl.modeling.lanes import Lanes
from tests.adapted import draw, rows_of, vector

CPU = torch.device("cpu")
DOUBLE = torch.float64
SLICES = {
    "one slice": ((6, 2),),
    "three slices": ((1, 2), (4, 3), (1, 1)),
    "empty slices": ((0, 2), (3, 2), (0, 1), (3, 2), (0, 2)),
    "a lane without an adapter": ((2, 2), (3, 0), (1, 1)),
    "rows behind the lanes": ((2, 2), (1, 3)),
    "no row in any lane": ((0, 2), (0, 2)),
}
"""(rows, rank) of each slice of six rows."""


def factors(slices, trained=True):
    generator = torch.Generator().manual_seed(1)
    shapes = [shape for _, rank in slices for shape in ((rank, 4), (3, rank))]
    return [torch.randn(*shape, generator=generator, dtype=DOUBLE).requires_grad_(trained) for shape in shapes]


def inputs(trained=True, bias=True, trained_base=True):
    generator = torch.Generator().manual_seed(2)
    x, weight, offset = (torch.randn(*shape, generator=generator, dtype=DOUBLE) for shape in ((6, 4), (3, 4), (3,)))
    return x.requires_grad_(trained), weight.requires_grad_(trained_base), offset.requires_grad_(trained_base) * bias


def plain(x, weight, bias, slices, scales, adapters):
    out, start = functional.linear(x, weight, bias), 0
    parts = []
    for (rows, _), scale, a, b in zip(slices, scales, adapters[::2], adapters[1::2], strict=True):
        part = slice(start, start := start + rows)
        parts.append(out[part] + scale * x[part] @ a.t() @ b.t())
    return torch.cat([*parts, out[start:]])


@pytest.mark.parametrize("trained_base", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("slices", SLICES.values(), ids=SLICES)
def test_values_and_gradients_are_those_of_the_formula(slices, bias, trained_base):
    x, weight, offset = inputs(trained_base=trained_base)
    offset = offset.detach().requires_grad_(trained_base) if bias else None
    counts, scales = tuple(rows for rows, _ in slices), tuple(0.5 + number for number in range(len(slices)))
    adapters = factors(slices)
    leaves = [leaf for leaf in (x, weight, offset, *adapters) if leaf is not None and leaf.requires_grad]
    found = LaneLinear.apply(x, weight, offset, counts, scales, *adapters)
    wanted = plain(x, weight, offset, slices, scales, adapters)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)
    direction = torch.randn(6, 3, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)
    ours, theirs = (torch.autograd.grad((out * direction).sum(), leaves) for out in (found, wanted))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-13)
    for (rows, rank), a, b in zip(slices, adapters[::2], adapters[1::2], strict=True):
        exact = [gradient.eq(0).all() for leaf, gradient in zip(leaves, ours, strict=True) if leaf is a or leaf is b]
        assert len(exact) == 2
        assert all(exact) == (rows == 0 or rank == 0)


@pytest.mark.parametrize("slices", SLICES.values(), ids=SLICES)
def test_the_gradients_are_the_slopes(slices):
    x, weight, offset = inputs()
    counts, scales = tuple(rows for rows, _ in slices), tuple(1.5 for _ in slices)
    leaves = (x, weight, offset.detach().requires_grad_(), *factors(slices))

    def layer(x, weight, offset, *adapters):
        return LaneLinear.apply(x, weight, offset, counts, scales, *adapters)

    assert torch.autograd.gradcheck(layer, leaves)


@pytest.mark.parametrize("still", ["x", "weight", "A", "B"])
def test_what_is_not_trained_gets_no_gradient_and_changes_no_other(still):
    slices = SLICES["three slices"]
    found = []
    for frozen in (None, still):
        x, weight, offset = inputs(trained=frozen != "x", trained_base=frozen != "weight")
        adapters = factors(slices)
        for adapter in {"A": adapters[::2], "B": adapters[1::2]}.get(frozen, []):
            adapter.requires_grad_(False)
        out = LaneLinear.apply(x, weight, offset.detach(), (1, 4, 1), (1.0, 2.0, 3.0), *adapters)
        out.square().sum().backward()
        found.append([leaf.grad for leaf in (x, weight, *adapters)])
    assert any(gradient is None for gradient in found[1])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True) if other is not None)


@pytest.mark.parametrize("rows", [0, 1, 6])
def test_nothing_that_is_read_is_written_to(rows):
    x, weight, offset = inputs()
    leaves = [x[:rows].detach().requires_grad_(), weight, offset.detach().requires_grad_(), *factors([(rows, 2)])]
    before = [leaf.detach().clone() for leaf in leaves]
    LaneLinear.apply(*leaves[:3], (rows,), (2.0,), *leaves[3:]).sum().backward()
    assert all(torch.equal(one, other) for one, other in zip(leaves, before, strict=True))


class Stock(nn.Module):
    """Two linear layers, as an encoder has them."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 5, bias), nn.Linear(5, 6, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh())


CONFIGS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"first": 2}, "alpha_pattern": {"first": 5}},
    "dora": {"use_dora": True},
    "dropout": {"lora_dropout": 0.5},
    "dora and dropout": {"use_dora": True, "lora_dropout": 0.5},
}


def build(names: str, bias: bool = True, **config) -> nn.Module:
    """A stock model with an adapter of each name; "c" has one in the first layer alone, of another rank and scale."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Stock(bias).double()
        for name in names:
            targets = ["first"] if name == "c" else ["first", "second"]
            add_adapter(model, name, LoraConfig(target_modules=targets, r=6 if name == "c" else 3, **config))
        model.double()
    draw(model, scale=0.7)
    return model.eval()


def peft(model: nn.Module, x: Tensor, *names: str) -> Tensor:
    """PEFT's own forward."""
    for layer in adapted_layers(model).values():
        layer.set_adapter([name for name in names if name in layer.lora_A])
    return model(x)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(4), dtype=DOUBLE)


ROWS = rows_of(t=[3, 0], u=[0, 1, 5], v=[], w=[5, 2], x=[4, 5])
LANES = {"t": "a", "u": "b", "v": "c", "w": "", "x": "c"}


@pytest.mark.parametrize("shape", [(6, 6), (6, 3, 6), (6, 2, 3, 6)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_each_lane_s_rows_are_what_peft_gives_for_its_adapter(config, bias, shape):
    ours, theirs = build("abc", bias, **config), build("abc", bias, **config)
    lanes = Lanes(LANES)
    assert follow_layers(ours, lanes)
    x = drawn(*shape)
    with torch.no_grad():
        shares = lanes.take(ROWS, 6, list(LANES), CPU)
        found = shares.split(ours(x[lanes.index()]))
        every = {task: peft(theirs, x, lane) if lane else build("", bias)(x) for task, lane in LANES.items()}
    for task, rows in ROWS.items():
        torch.testing.assert_close(found[task], every[task][rows], rtol=0, atol=1e-12)
        assert not len(rows) or (found[task] - every["u" if task != "u" else "t"][rows]).abs().max() > 1e-2


@pytest.mark.parametrize("config", [CONFIGS["plain"], CONFIGS["rslora"], CONFIGS["patterns"], CONFIGS["dropout"]])
def test_a_lane_with_several_adapters_gives_their_sum_whatever_their_ranks_and_scales(config):
    ours, theirs = build("abc", **config), build("abc", **config)
    lanes = Lanes({"t": "a", "u": "u"}, {"u": ("a", "b", "c")})
    follow_layers(ours, lanes)
    x = drawn(6, 3, 6)
    for tasks in (["u"], ["t", "u"]):
        with torch.no_grad():
            shares = lanes.take(None, 6, tasks, CPU)
            found = shares.split(ours(x if lanes.index() is None else x[lanes.index()]))
            torch.testing.assert_close(found["u"], peft(theirs, x, "a", "b", "c"), rtol=0, atol=1e-12)


def follow_layers(model: nn.Module, lanes: Lanes) -> dict[str, nn.Module]:
    """As `follow` of an encoder, for a model that has no list of layers."""
    layers = adapted_layers(model)
    for layer in layers.values():
        layer.forward = LaneForward(layer, lanes)
    return layers


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_gradients_of_a_mixed_pass_are_those_of_each_lane_alone(config):
    model, lanes = build("abc", **config), Lanes(LANES)
    follow_layers(model, lanes)
    weights, x = dict(model.named_parameters()), drawn(6, 3, 6)

    def gradients(tasks):
        shares = lanes.take(ROWS, 6, tasks, CPU)
        states = shares.split(model(x if lanes.index() is None else x[lanes.index()]))
        total = sum((number + 1) * states[task].square().sum() for number, task in enumerate(LANES) if task in tasks)
        return torch.autograd.grad(total, list(weights.values()), allow_unused=True, materialize_grads=True)

    found, alone = gradients(list(LANES)), [gradients([task]) for task in LANES]
    for name, one, others in zip(weights, found, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(one, sum(others), rtol=1e-10, atol=1e-12, msg=name)
        assert one.abs().sum() > 0


@pytest.mark.parametrize("dora", [False, True])
def test_dropout_drops_in_training_and_only_what_adapters_read(dora):
    model, lanes = build("ab", lora_dropout=0.5, use_dora=dora), Lanes({"t": "a", "u": ""})
    follow_layers(model, lanes)
    x = drawn(6, 3, 6)

    def run(seed):
        torch.manual_seed(seed)
        shares = lanes.take(None, 6, ["t", "u"], CPU)
        return shares.split(model(x[lanes.index()]))

    assert torch.equal(run(0)["t"], run(1)["t"])
    still = run(0)["u"]
    model.train()
    one, same, other = run(0), run(0), run(1)
    assert torch.equal(one["t"], same["t"])
    assert (one["t"] - other["t"]).abs().max() > 1e-2
    assert torch.equal(one["u"], other["u"])
    torch.testing.assert_close(one["u"], still, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dora", [False, True])
def test_dropout_is_peft_s_to_the_draw(dora):
    ours, theirs = (build("a", lora_dropout=0.5, use_dora=dora).train() for _ in range(2))
    lanes, x = Lanes({"t": "a"}), drawn(6, 3, 6)
    follow_layers(ours, lanes)
    lanes.take(None, 6, ["t"], CPU)
    torch.manual_seed(0)
    found = ours(x)
    torch.manual_seed(0)
    torch.testing.assert_close(found, peft(theirs, x, "a"), rtol=0, atol=1e-12)


def test_outside_of_any_batch_the_layer_is_the_stock_one():
    model, lanes, x = build("ab"), Lanes({"t": "a", "u": "b"}), drawn(4, 6)
    follow_layers(model, lanes)
    assert torch.equal(model(x), build("")(x))
    lanes.take(None, 4, ["t", "u"], CPU)
    assert model(x[lanes.index()]).shape == (8, 6)
    lanes.leave()
    assert torch.equal(model(x), build("")(x))


def test_rows_that_are_not_those_of_the_lanes_are_refused():
    model, lanes = build("ab"), Lanes({"t": "a", "u": "b"})
    follow_layers(model, lanes)
    lanes.take(rows_of(t=[0, 1], u=[1]), 2, ["t", "u"], CPU)
    with pytest.raises(RuntimeError, match="a layer got 2 rows in place of 3: it cannot be adapted by task"):
        model(drawn(2, 6))


@pytest.mark.parametrize("config", [CONFIGS["plain"], CONFIGS["dora"]], ids=["plain", "dora"])
def test_mixed_precision_computes_in_bfloat16_and_gives_gradients_in_the_weights_type(config):
    model, lanes = build("abc", **config).float(), Lanes(LANES)
    follow_layers(model, lanes)
    x, found = drawn(6, 3, 6).float(), []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            shares = lanes.take(ROWS, 6, list(LANES), CPU)
            out = model(x[lanes.index()])
            states = shares.split(out)
        assert out.dtype == (torch.bfloat16 if enabled else torch.float32)
        model.zero_grad()
        sum(value.float().square().sum() for value in states.values()).backward()
        assert {weight.grad.dtype for weight in model.parameters()} == {torch.float32}
        found.append([vector(states).float(), vector({name: w.grad for name, w in model.named_parameters()})])
    for one, other in zip(*found, strict=True):
        assert 0 < (one - other).norm() < 0.05 * one.norm()


def test_a_copy_of_a_layer_has_weights_and_lanes_of_its_own():
    model, lanes, x = build("ab"), Lanes({"t": "a", "u": "b"}), drawn(4, 6)
    layers = follow_layers(model, lanes)
    twin = copy.deepcopy(model)
    assert {id(layer.forward.layer) for layer in adapted_layers(twin).values()} == {
        id(layer) for layer in adapted_layers(twin).values()
    }
    assert all(layer.forward.lanes is not lanes for layer in adapted_layers(twin).values())
    lanes.take(None, 4, ["t"], CPU)
    before = model(x)
    with torch.no_grad():
        for weight in twin.parameters():
            weight.zero_()
    assert torch.equal(model(x), before)
    assert layers["first"].forward.lanes is lanes


def test_adapters_are_put_in_without_a_warning():
    model = Stock()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in "ab":
            add_adapter(model, name, LoraConfig(target_modules=["first"]))
    assert {name for name, weight in model.named_parameters() if weight.requires_grad} == {
        name for name, _ in model.named_parameters()
    }


def test_which_adapters_peft_holds_to_be_active_does_not_matter():
    model, lanes, x = build("ab"), Lanes({"t": "a"}), drawn(4, 6)
    layers = follow_layers(model, lanes)
    lanes.take(None, 4, ["t"], CPU)
    found = model(x)
    for layer in layers.values():
        layer.set_adapter("b")
    assert torch.equal(model(x), found)
