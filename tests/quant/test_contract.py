"""What every kind of levels promises, over the registry."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tersa.errors import TersaError, UsageError
from tersa.quant.packing import pack, unpack
from tersa.quant.quantiser import QUANTISERS, fake_quantise, levels, lowest_code, quantise
from tersa.quant.ranges import half_width, spread
from tersa.quant.rounding import uniform_like
from tersa.quant.signs import own_scale
from tersa.quant.spec import QuantSpec

BITS = {"binary": [1], "ternary": [2], "symmetric": [2, 8], "power-of-two": [3, 8]}
WHERE = {"clusters": ["layer"]}
EXTRA = {"percentile": {"percentile": 90.0}}
ALL = ["global", "layer", "channel", "percentile", "calibrated"]

MEAN_ROUNDING = 1e-4
"""Of the float32 mean of 2,000 values up to 1.5."""
TINY = 1e-30
"""Ranges below it have no levels (`ranges.SMALLEST`)."""


def specs(rounding: str = "nearest") -> list[QuantSpec]:
    """Every kind with few and many bits in every range it takes."""
    return [
        QuantSpec.model_validate(
            {"kind": kind, "bits": bits, "range": where, "rounding": rounding, **EXTRA.get(where, {})}
        )
        for kind in QUANTISERS
        for bits in BITS.get(kind, [1, 8])
        for where in WHERE.get(kind, ALL)
    ]


def name(spec: QuantSpec) -> str:
    return f"{spec.kind}-{spec.bits}-{spec.range}"


NEAREST = pytest.mark.parametrize("spec", specs(), ids=name)
STOCHASTIC = pytest.mark.parametrize("spec", specs("stochastic"), ids=name)
BOTH = pytest.mark.parametrize(
    "spec", [*specs(), *specs("stochastic")], ids=lambda spec: f"{name(spec)}-{spec.rounding}"
)
MEASURED = pytest.mark.parametrize("spec", [s for s in specs() if s.range != "calibrated"], ids=name)
NO_THRESHOLD = pytest.mark.parametrize(
    "spec", [s for s in specs() if not (s.kind == "ternary" and own_scale(s))], ids=name
)
PER_CHANNEL = pytest.mark.parametrize("spec", [s for s in specs() if s.range == "channel"], ids=name)


def weights(*shape: int, phase: float = 0.0) -> Tensor:
    """Non-trivial, some beyond [-1, 1], none symmetric around 0."""
    count = torch.Size(shape).numel()
    return (1.3 * torch.sin(torch.arange(count) * 0.7 + phase) ** 3 + 0.2).view(shape)


def bounds_of(x: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor] | None:
    return (torch.tensor(-0.8), torch.tensor(1.1)) if spec.range == "calibrated" else None


def draw(x: Tensor, spec: QuantSpec) -> Tensor | None:
    return uniform_like(x, seed=3) if spec.rounding == "stochastic" else None


@BOTH
def test_codes_and_levels_are_the_whole_tensor(spec: QuantSpec) -> None:
    x = weights(6, 5, 2)
    before = x.clone()
    found = quantise(x, spec, bounds=bounds_of(x, spec), uniform=draw(x, spec))
    assert torch.equal(x, before), "the input is left alone"
    places = found.codes.long() - lowest_code(spec)
    assert int(places.min()) >= 0
    assert int(places.max()) < found.levels.shape[-1] == spec.levels
    table = found.levels if found.levels.dim() == 2 else found.levels.expand(6, -1)
    assert torch.equal(table.gather(1, places.flatten(1)).view(6, 5, 2), found.values)
    assert bool((found.levels.diff(dim=-1) >= 0).all())
    assert torch.equal(unpack(pack(places, spec.bits), spec.bits, 60), places.flatten().int())
    if spec.kind != "clusters":
        assert torch.equal(levels(spec, found.low, found.high), found.levels)


@NEAREST
def test_snapping_twice_changes_nothing(spec: QuantSpec) -> None:
    x = weights(6, 10)
    once = quantise(x, spec, bounds=bounds_of(x, spec))
    again = quantise(once.values, spec, bounds=(once.low, once.high))
    assert torch.equal(again.values, once.values)
    assert torch.equal(again.codes, once.codes)


@MEASURED
def test_a_snapped_tensor_keeps_its_range(spec: QuantSpec) -> None:
    """Levels do not creep when the range is taken again at each update, as storage `inplace` does."""
    values = quantise(weights(6, 10), spec).values
    for _ in range(3):
        assert torch.equal(quantise(values, spec).values, values)


@NO_THRESHOLD
def test_nearest_is_nearest(spec: QuantSpec) -> None:
    """No level is nearer than the one taken (ternary with a mean for its scale has a threshold instead)."""
    x = weights(6, 10)
    found = quantise(x, spec, bounds=bounds_of(x, spec))
    table = found.levels if found.levels.dim() == 2 else found.levels.expand(6, -1)
    best = (x.unsqueeze(-1) - table.unsqueeze(1)).abs().amin(-1)
    ulps = 4 * torch.finfo(torch.float32).eps * 2  # of values up to 2, four roundings of the formula
    assert bool(((x - found.values).abs() <= best + ulps).all())


@STOCHASTIC
def test_stochastic_rounding_goes_to_a_neighbour_and_is_right_on_average(spec: QuantSpec) -> None:
    """Within 5 standard errors of 2,000 draws, for values between the first and the last level."""
    draws = 2000
    x = weights(4, 3).unsqueeze(-1).expand(4, 3, draws)  # (4, 3, D)
    found = quantise(x, spec, bounds=bounds_of(x, spec), uniform=uniform_like(x, seed=9))
    inside = (x >= spread(found.levels.amin(-1), x)) & (x <= spread(found.levels.amax(-1), x))
    assert int(inside[..., 0].sum()) > 1
    values = found.values.flatten(0, 1)  # (12, D)
    assert max(len(row.unique()) for row in values) == (
        1 if spec.kind == "clusters" and spec.bits == 8 else 2
    )
    error = (values.mean(1) - x[..., 0].flatten()).abs()
    gap = values.amax(1) - values.amin(1)
    allowed = 5 * gap / 2 / draws**0.5 + MEAN_ROUNDING
    assert bool((error <= allowed)[inside[..., 0].flatten()].all())


@NEAREST
def test_fake_values_are_the_values_and_the_gradient_is_the_closed_form(spec: QuantSpec) -> None:
    x = weights(6, 5).requires_grad_()
    bounds = bounds_of(x, spec)
    upstream = torch.cos(torch.arange(30.0)).view(6, 5)
    values = fake_quantise(x, spec, bounds=bounds)
    (grad,) = torch.autograd.grad((values * upstream).sum(), x)
    found = quantise(x, spec, bounds=bounds)
    assert torch.equal(values, found.values)
    low, high = spread(found.low, x), spread(found.high, x)
    if spec.kind in ("asymmetric", "clusters"):
        inside = (x >= low) & (x <= high)
    elif spec.kind in ("binary", "ternary") and own_scale(spec):
        inside = torch.ones_like(x).bool()
    else:
        inside = x.abs() <= half_width(low, high)
    assert torch.equal(grad, upstream * inside)
    if spec.range in ("global", "percentile", "calibrated"):
        assert not bool(inside.all()), "the test holds values outside"


@BOTH
def test_vmap_equals_a_loop(spec: QuantSpec) -> None:
    stack = torch.stack([weights(4, 6, phase=phase) for phase in (0.0, 1.0, 2.0)])
    draws = torch.stack([uniform_like(row, seed=5, tensor=k) for k, row in enumerate(stack)])

    def one(x: Tensor, u: Tensor) -> Tensor:
        return fake_quantise(
            x, spec, bounds=bounds_of(x, spec), uniform=u if spec.rounding == "stochastic" else None
        )

    def loss(x: Tensor, u: Tensor) -> Tensor:
        return (one(x, u) * torch.cos(x.detach())).sum()

    looped = torch.stack([one(x, u) for x, u in zip(stack, draws, strict=True)])
    assert torch.equal(torch.func.vmap(one)(stack, draws), looped)
    grads = torch.func.vmap(torch.func.grad(loss))(stack, draws)
    for x, u, grad in zip(stack, draws, grads, strict=True):
        assert torch.equal(torch.func.grad(loss)(x, u), grad)


@NEAREST
def test_nan_is_refused_at_the_door_and_passed_on_behind_it(spec: QuantSpec) -> None:
    for bad in (float("nan"), float("inf")):
        x = weights(3, 4)
        x[1, 2] = bad
        with pytest.raises(TersaError, match="1 of the 12 values to quantise are NaN or infinite"):
            quantise(x, spec, bounds=bounds_of(x, spec))
    x[1, 2] = float("nan")
    bounds = (torch.tensor(-1.0), torch.tensor(1.0))
    assert fake_quantise(x, spec, bounds=bounds).isnan()[1, 2]


@NEAREST
def test_all_equal(spec: QuantSpec) -> None:
    """One value in one range: kept where it is a level of its own range, and never NaN."""
    shapes, entries = [(1,), (5,), (4, 3), (2, 3, 1, 1), ()], [0.0, -0.0, 0.75, -3e-38, 1e30]
    for shape, value in itertools.product(shapes, entries):
        x = torch.full(shape, value)
        found = quantise(x, spec, bounds=bounds_of(x, spec))
        assert bool(found.values.isfinite().all())
        assert found.values.shape == found.codes.shape == x.shape
        if spec.range in ("layer", "channel", "percentile") and (value == 0 or abs(value) > TINY):
            assert torch.equal(found.values, x)


@PER_CHANNEL
def test_a_channel_alone_is_a_layer(spec: QuantSpec) -> None:
    x = weights(6, 10)
    whole = quantise(x, spec)
    alone = spec.model_copy(update={"range": "layer"})
    for row, values in zip(x, whole.values, strict=True):
        assert torch.equal(quantise(row, alone).values, values)
    bias = weights(7)
    assert torch.equal(quantise(bias, spec).values, quantise(bias, alone).values), "a bias is one channel"


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.floats(-100, 100, width=32, allow_subnormal=False), min_size=1, max_size=12),
    st.sampled_from(specs()),
)
def test_any_tensor_goes_to_its_levels_in_order(entries: list[float], spec: QuantSpec) -> None:
    """Every value is a level, order is kept, and twice is once."""
    x = torch.tensor(entries)
    found = quantise(x, spec, bounds=bounds_of(x, spec))
    assert set(found.values.tolist()) <= set(found.levels.flatten().tolist())
    ordered = quantise(x.sort().values, spec, bounds=(found.low, found.high))
    assert bool((ordered.codes.diff() >= 0).all())


@NEAREST
def test_bounds_that_do_not_fit_are_refused(spec: QuantSpec) -> None:
    x = weights(3, 4)
    one, three = torch.tensor(1.0), torch.ones(3)
    for bounds, words in [
        ((-three, one), "have shapes"),
        ((-torch.ones(4), torch.ones(4)), "have shapes"),
        ((one, -one), "low above high"),
        ((-3e38 * one, 3e38 * one), "wider than the largest float"),
        ((one * float("nan"), one), "not a number"),
    ]:
        with pytest.raises(UsageError, match=words):
            quantise(x, spec, bounds=bounds)


def test_what_cannot_be_quantised_is_refused() -> None:
    x, spec = weights(3), QuantSpec(kind="symmetric")
    chance = QuantSpec(kind="symmetric", rounding="stochastic")
    for call, words in [
        (lambda: quantise(x, QuantSpec()), "kind none has no levels; choose one of asymmetric, binary"),
        (lambda: quantise(torch.arange(3), spec), "must be floating"),
        (lambda: quantise(torch.zeros(0), spec), "one value or more"),
        (lambda: quantise(x, spec, uniform=x), "leave `uniform` out"),
        (lambda: quantise(x, chance), "needs `uniform`"),
        (lambda: quantise(x, chance, uniform=x[:2]), "make them equal"),
        (lambda: quantise(x, QuantSpec(kind="symmetric", range="calibrated")), "needs bounds"),
        (lambda: levels(QuantSpec(kind="clusters"), x[0], x[1]), "before it sees values"),
        (lambda: lowest_code(QuantSpec()), "kind none"),
    ]:
        with pytest.raises(UsageError, match=words):
            call()


def test_none_leaves_a_tensor_real() -> None:
    x = weights(3, 2)
    assert fake_quantise(x, QuantSpec()) is x
