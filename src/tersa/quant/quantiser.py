"""The door to all quantisers: one tensor, one spec.

    quantise        values on levels, their codes, and the levels; checked
    fake_quantise   the same values with a straight-through gradient; for training, unchecked
    levels          all values that a range offers
    measure         the range that a tensor gets under a spec

Values, codes and levels belong together bit for bit: value = levels[code - lowest_code(spec)], so that codes
and levels are the whole tensor.

The straight-through gradient of a value is 1 within the range and 0 outside. Where the scale is a mean
(binary and ternary with ranges `layer` and `channel`) it is 1 everywhere. Bounds get no gradient
(`learned.lsq` has one).

Tensors here have no run axis; `torch.func.vmap` maps `fake_quantise` over runs. Storage is not looked at: it
says what training does with the result.

Example:
    >>> found = quantise(torch.tensor([-0.5, 0.1, 2.0]), QuantSpec(kind="symmetric", bits=3, range="global"))
    >>> found.values.tolist(), found.codes.tolist()
    ([-0.6666666865348816, 0.0, 1.0], [-2, 0, 3])
    >>> levels(QuantSpec(kind="ternary"), torch.tensor(-0.5), torch.tensor(0.25)).tolist()
    [-0.5, 0.0, 0.5]
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tersa.errors import TersaError, UsageError
from tersa.quant import learned
from tersa.quant.base import Bounds, Quantiser
from tersa.quant.clusters import CLUSTERS
from tersa.quant.powers import POWER_OF_TWO
from tersa.quant.primitives import ste
from tersa.quant.ranges import spread
from tersa.quant.signs import BINARY, TERNARY
from tersa.quant.spec import QuantSpec
from tersa.quant.uniform import ASYMMETRIC, SYMMETRIC

QUANTISERS: dict[str, Quantiser] = {
    "symmetric": SYMMETRIC,
    "asymmetric": ASYMMETRIC,
    "binary": BINARY,
    "ternary": TERNARY,
    "power-of-two": POWER_OF_TWO,
    "clusters": CLUSTERS,
}
"""Every kind of levels by name; `none` is no quantiser."""


@dataclass(frozen=True)
class Quantised:
    """A tensor on its levels.

    Attributes:
        values: shaped like the tensor.
        codes: int16, shaped like the tensor; see `lowest_code`.
        low: lower end of the range, (), or (O,) of range `channel`.
        high: upper end.
        levels: the table, (L,) or (O, L), lowest first; neighbours can be equal in a degenerate range.
    """

    values: Tensor
    codes: Tensor
    low: Tensor
    high: Tensor
    levels: Tensor


def quantise(
    x: Tensor, spec: QuantSpec, *, bounds: Bounds | None = None, uniform: Tensor | None = None
) -> Quantised:
    """Snap a tensor to its levels.

    Args:
        x: float32 (or float64), any shape; it is left alone and its gradient is not followed.
        spec: what to do.
        bounds: low and high, both () or both (O,), taken instead of measured ones; `calibrated` needs them.
        uniform: numbers in [0, 1) shaped like x, for stochastic rounding alone (`rounding.uniform_like`).

    Raises:
        UsageError: kind `none`, an empty or integer tensor, bounds or uniform numbers that do not fit.
        TersaError: x holds NaN or infinity.
    """
    quantiser = _quantiser(spec)
    x = x.detach()
    _check_values(x)
    _check_uniform(x, spec, uniform)
    if bounds is not None:
        _check_bounds(x, bounds)
    low, high = measure(x, spec) if bounds is None else (bounds[0].detach(), bounds[1].detach())
    _check_width(low, high)
    found = quantiser.snap(x, spread(low, x), spread(high, x), spec, uniform)
    table = quantiser.levels(low, high, spec) if found.table is None else found.table
    return Quantised(found.values, found.codes.to(torch.int16), low, high, table)


def fake_quantise(
    x: Tensor, spec: QuantSpec, *, bounds: Bounds | None = None, uniform: Tensor | None = None
) -> Tensor:
    """The values of `quantise`, bit for bit, with the straight-through gradient described in the module.

    Kind `none` gives x. Nothing is checked, so that it can be mapped and compiled: NaN gives NaN.

    Args:
        x: floating, any shape.
        spec: what to do.
        bounds: as for `quantise`; no gradient goes to them.
        uniform: numbers in [0, 1) shaped like x; needed for stochastic rounding.
    """
    if not spec.active:
        return x
    quantiser = _quantiser(spec)
    low, high = measure(x, spec) if bounds is None else bounds
    low, high = spread(low.detach(), x), spread(high.detach(), x)
    found = quantiser.snap(x.detach(), low, high, spec, uniform)
    return ste(found.values, quantiser.surrogate(x, low, high, spec))


def levels(spec: QuantSpec, low: Tensor, high: Tensor) -> Tensor:
    """All levels of a range, lowest first: (L,) for bounds (), (O, L) for bounds (O,).

    Raises:
        UsageError: kind `none`, which has none, or `clusters`, whose values decide them.
    """
    return _quantiser(spec).levels(low, high, spec)


def measure(x: Tensor, spec: QuantSpec) -> Bounds:
    """Low and high of a tensor under a spec, () or (O,), without its gradient.

    They are (-a, a) for binary and ternary where a is a mean, and LSQ's starting step for range `learned`.

    Raises:
        UsageError: kind `none`, or a calibrated range, which has to be handed over.
    """
    quantiser = _quantiser(spec)
    if spec.range == "learned":
        return learned.step_bounds(learned.initial_step(x, spec.bits), spec.bits)
    return quantiser.bounds(x, spec)


def lowest_code(spec: QuantSpec) -> int:
    """The code of the first level: -(2^(n-1) - 1) for kinds that count from the middle, else 0.

    >>> lowest_code(QuantSpec(kind="symmetric", bits=4)), lowest_code(QuantSpec(kind="binary"))
    (-7, 0)
    """
    return _quantiser(spec).lowest(spec)


def _quantiser(spec: QuantSpec) -> Quantiser:
    if not spec.active:
        raise UsageError(f"kind none has no levels; choose one of {', '.join(sorted(QUANTISERS))}")
    return QUANTISERS[spec.kind]


def _check_values(x: Tensor) -> None:
    if not x.is_floating_point() or not x.numel():
        raise UsageError(
            f"a tensor of {x.dtype} with shape {tuple(x.shape)} cannot be quantised; "
            "it must be floating and hold one value or more"
        )
    damaged = int((~x.isfinite()).sum())
    if damaged:
        raise TersaError(
            f"{damaged} of the {x.numel()} values to quantise are NaN or infinite, not on any level; "
            "the training diverged or its input is damaged: lower the learning rate or check the data"
        )


def _check_uniform(x: Tensor, spec: QuantSpec, uniform: Tensor | None) -> None:
    if spec.rounding == "nearest" and uniform is not None:
        raise UsageError("rounding nearest draws nothing; leave `uniform` out or choose rounding stochastic")
    if spec.rounding == "stochastic" and uniform is None:
        raise UsageError("rounding stochastic needs `uniform`, numbers in [0, 1): see rounding.uniform_like")
    if uniform is not None and uniform.shape != x.shape:
        raise UsageError(
            f"`uniform` has shape {tuple(uniform.shape)}, the tensor {tuple(x.shape)}; make them equal"
        )


def _check_bounds(x: Tensor, bounds: Bounds) -> None:
    low, high = bounds
    allowed = {(), tuple(x.shape[:1])} if x.dim() > 1 else {()}
    if low.shape != high.shape or tuple(low.shape) not in allowed:
        raise UsageError(
            f"bounds have shapes {tuple(low.shape)} and {tuple(high.shape)}; for a tensor of shape "
            f"{tuple(x.shape)} both must be one of {sorted(allowed)}"
        )
    if bool((low > high).any()):
        raise UsageError("bounds are low above high; give the lower end first")


def _check_width(low: Tensor, high: Tensor) -> None:
    if not bool((high - low).isfinite().all()):
        raise UsageError("the range is wider than the largest float or not a number; scale the values down")
