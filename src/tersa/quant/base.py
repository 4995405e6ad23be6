"""What a quantiser is: five pure functions of a tensor and its range.

    bounds     where the levels lie: (low, high) from the values and the spec
    snap       values on levels, and their codes
    levels     the table of all levels of a range; value = levels[code - lowest], bit for bit
    surrogate  the function whose gradient stands in for the snap's, which is 0 nearly everywhere
    lowest     the code of the first level

They know of one tensor and no run axis, hold no state, look at no value to decide what to do next (so that
`torch.func.vmap` maps them), and pass NaN on; the checks are in `quantiser.py`, the door to them. A new kind
is a file with these five and a line in `quantiser.QUANTISERS`.

Bounds are () for a tensor and (O,) for the channels of its first axis; `snap` and `surrogate` get them
shaped to broadcast with x.

Example:
    >>> from tersa.quant.spec import QuantSpec
    >>> centred(QuantSpec(kind="symmetric", bits=3)), from_zero(QuantSpec(kind="asymmetric", bits=3))
    (-3, 0)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from tersa.quant.spec import QuantSpec

Bounds = tuple[Tensor, Tensor]
"""Lower and upper end, () or (O,)."""


@dataclass(frozen=True)
class Snapped:
    """What a snap gives.

    Attributes:
        values: levels, shaped like x.
        codes: whole numbers in x's floating type, so that NaN stays NaN.
        table: the levels, (L,) lowest first, of kinds whose levels the values decide; else None.
    """

    values: Tensor
    codes: Tensor
    table: Tensor | None = None


class Snap(Protocol):
    """Values to levels."""

    def __call__(
        self, x: Tensor, low: Tensor, high: Tensor, spec: QuantSpec, uniform: Tensor | None
    ) -> Snapped:
        """Snap x.

        Args:
            x: any shape, floating.
            low: lower end, broadcastable with x.
            high: upper end.
            spec: its kind is this quantiser's.
            uniform: numbers in [0, 1) shaped like x for stochastic rounding; None for nearest.
        """
        ...


@dataclass(frozen=True)
class Quantiser:
    """One kind of levels; see the module for what its functions are.

    Attributes:
        snap: see `Snap`.
        levels: (low, high, spec) to the table, (..., L) for bounds (...), lowest first.
        surrogate: (x, low, high, spec) to a tensor shaped like x.
        bounds: (x, spec) to (low, high).
        lowest: of a spec.
    """

    snap: Snap
    levels: Callable[[Tensor, Tensor, QuantSpec], Tensor]
    surrogate: Callable[[Tensor, Tensor, Tensor, QuantSpec], Tensor]
    bounds: Callable[[Tensor, QuantSpec], Bounds]
    lowest: Callable[[QuantSpec], int]


def centred(spec: QuantSpec) -> int:
    """Codes -q .. q with q = 2^(n-1) - 1: 0 means 0."""
    return -largest_code(spec.bits)


def from_zero(spec: QuantSpec) -> int:
    """Codes 0 .. 2^n - 1: 0 means the lowest level."""
    return 0


def largest_code(bits: int) -> int:
    """q = 2^(n-1) - 1, of codes that mirror around 0."""
    return 2 ** (bits - 1) - 1
