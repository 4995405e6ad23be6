"""Writing weights into an array during training: what the network sees when cells are noisy or stuck.

A tensor's cells keep, beside the level each was last written to, what that writing got wrong. A step writes
only the cells whose level changed, and only those get new noise:

    x = (w - centre) / half                                place in the range, -1..1
    changed = |x - level| > 1e-5                           else the old writing stays
    level <- x,  deviation <- sigma N(0, 1)                of changed cells
    effective = w + half deviation                         both devices of the pair work
    effective = centre + half (p - n + share deviation)    one is stuck (share 1/sqrt 2), or both (share 0)

where p = max(x, 0) and n = max(-x, 0), or what G+ or G- is stuck at. A range that grows or shrinks rewrites
nothing: cells keep their conductance, and the scale is in the amplifier behind them. A range that is not
centred on 0 has its centre in a reference column without noise.

`program` says this in readable torch, for any device; `program_` is its compiled twin on the CPU, in place,
and draws numbers for changed cells alone. They agree to rounding (the quantile of the normal distribution is
computed to seven digits in the second). Without noise and faults both give the weights bit for bit.

What this does not do: drift during training, noise that depends on the level, verification loops.

Example:
    >>> weights = torch.tensor([[0.5, -1.0, 0.25]])
    >>> key = programming_key(torch.tensor([3]), step=0, tensor=0)
    >>> effective, cells = program(weights, blank(weights), None, own_range(1), torch.tensor([0.1]), key)
    >>> again, _ = program(weights, cells, None, own_range(1), torch.tensor([0.1]), key + 1)
    >>> bool((effective == again).all()), bool((effective == weights).any())
    (True, False)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tersa.quant.chance import hash_normal, programming_key
from tersa.quant.crossbar_kernel import alone, together
from tersa.quant.faults import Faults

__all__ = ["Cells", "Ranges", "blank", "given_range", "own_range", "program", "program_", "programming_key"]

SAME = 1e-5
"""Closer than this share of the half width is the same level: float32 rounding is 1e-7, 8 bits are 1/127."""
PARTNER = 0.5**0.5
"""Share of a pair's deviation that is left when one of its devices is stuck."""

GIVEN, LARGEST, EXTREMES = range(3)
"""Where a range comes from: it is given; -max|w| .. max|w|; min w .. max w."""
Measured = Literal["largest", "extremes"]


@dataclass(frozen=True)
class Ranges:
    """The range of one tensor's cells, per run.

    Attributes:
        origin: (R,) int64, `GIVEN`, `LARGEST` or `EXTREMES`.
        pieces: (R,) int64, equal parts of the tensor with a range of their own: 1, or its output channels.
        low: (R,) float32, used where `GIVEN`.
        high: (R,) float32, likewise.
    """

    origin: Tensor
    pieces: Tensor
    low: Tensor
    high: Tensor


def own_range(runs: int, measured: Measured = "largest", pieces: int = 1) -> Ranges:
    """Each run's own range, measured anew at each step: of the whole tensor, or of each of its `pieces`."""
    origin = EXTREMES if measured == "extremes" else LARGEST
    zeros = torch.zeros(runs)
    return Ranges(torch.full((runs,), origin), torch.full((runs,), pieces), zeros, zeros)


def given_range(low: Tensor, high: Tensor) -> Ranges:
    """A fixed range per run, (R,) each; weights outside are held at its ends."""
    runs = len(low)
    return Ranges(torch.full((runs,), GIVEN), torch.ones(runs, dtype=torch.int64), low.float(), high.float())


@dataclass(frozen=True)
class Cells:
    """State of one tensor's cells.

    Attributes:
        level: (R, n) float32, place in the range that was written last; NaN before the first writing.
        deviation: (R, n) float32, what that writing got wrong, as a share of the half width.
        half: (R, pieces) float32, half width of the range at the last step, for reads; where a run has fewer
            pieces than the stack's most, its row repeats them.
    """

    level: Tensor
    deviation: Tensor
    half: Tensor


def blank(weights: Tensor, pieces: int = 1) -> Cells:
    """Cells of weights (R, ...) that have never been written, with room for `pieces` half widths."""
    flat = weights.detach().reshape(len(weights), -1)
    nothing = torch.full_like(flat, float("nan"))
    return Cells(nothing, torch.zeros_like(flat), torch.zeros(len(flat), pieces, device=flat.device))


def program(
    weights: Tensor, cells: Cells, faults: Faults | None, ranges: Ranges, sigma: Tensor, key: Tensor
) -> tuple[Tensor, Cells]:
    """What the array gives for these weights, and its cells after writing them.

    Args:
        weights: levels asked for, (R, ...).
        cells: as the last step left them.
        faults: of this tensor, None for none.
        ranges: of this tensor.
        sigma: deviation of a written weight, as a share of the half width, (R,).
        key: from `programming_key`, (R,) int64.

    Returns:
        Effective weights shaped like `weights`, and new cells.
    """
    flat = weights.detach().reshape(len(weights), -1)
    low, high, table = _spread(flat, ranges, cells.half.shape[1])
    centre, half = (high + low) / 2, (high - low) / 2
    inside = torch.minimum(torch.maximum(flat, low), high)
    x = (inside - centre) * torch.where(half > 0, 1 / half, 0.0)
    changed = ~((x - cells.level).abs() <= SAME)
    level = torch.where(changed, x, cells.level)
    fresh = sigma[:, None] * hash_normal(key, flat.shape[1])
    deviation = torch.where(changed, fresh, cells.deviation)
    effective = inside + half * deviation
    if faults is not None:
        effective = _pinned(effective, x, deviation, centre, half, faults)
    return effective.reshape(weights.shape), Cells(level, deviation, table)


def program_(
    effective: Tensor,
    weights: Tensor,
    cells: Cells,
    faults: Faults | None,
    ranges: Ranges,
    sigma: Tensor,
    key: Tensor,
) -> None:
    """`program` on the CPU, compiled and in place: `effective` and `cells` are written.

    Args:
        effective: (R, ...) float32, contiguous, not the weights themselves.
        weights: likewise; the others as for `program`.
    """
    runs = len(weights)
    flat, out = weights.detach().reshape(runs, -1), effective.detach().view(runs, -1)
    if faults is None:
        faults = nothing_stuck(runs)
    kernel = alone if torch.get_num_threads() == 1 else together
    kernel(
        out.numpy(), flat.numpy(), cells.level.numpy(), cells.deviation.numpy(), cells.half.numpy(),
        faults.starts.numpy(), faults.index.numpy(), faults.positive.numpy(), faults.negative.numpy(),
        ranges.origin.numpy(), ranges.pieces.numpy(), ranges.low.numpy(), ranges.high.numpy(),
        sigma.numpy(), key.numpy(),
    )  # fmt: skip


def nothing_stuck(runs: int) -> Faults:
    """The map of a tensor whose devices all work."""
    nothing = torch.zeros(0)
    return Faults(torch.zeros(runs + 1, dtype=torch.int64), nothing.long(), nothing, nothing)


def _spread(flat: Tensor, ranges: Ranges, room: int) -> tuple[Tensor, Tensor, Tensor]:
    """Range of each weight, low and high (R, n), and the half widths of pieces (R, room)."""
    lows, highs, tables = [], [], []
    for run, row in enumerate(flat):
        pieces = int(ranges.pieces[run])
        parts = row.view(pieces, -1)
        if ranges.origin[run] == GIVEN:
            low, high = ranges.low[run].expand(pieces), ranges.high[run].expand(pieces)
        elif ranges.origin[run] == LARGEST:
            high = parts.abs().amax(1)
            low = -high
        else:
            low, high = parts.amin(1), parts.amax(1)
        width = parts.shape[1]
        lows.append(low.repeat_interleave(width))
        highs.append(high.repeat_interleave(width))
        tables.append(((high - low) / 2).repeat_interleave(room // pieces))
    return torch.stack(lows), torch.stack(highs), torch.stack(tables)


def _pinned(
    effective: Tensor, x: Tensor, deviation: Tensor, centre: Tensor, half: Tensor, faults: Faults
) -> Tensor:
    """Effective weights where devices are stuck."""
    positive, negative = (each.to(x.device) for each in faults.dense(x.shape[1]))
    stuck = (~positive.isnan()).int() + (~negative.isnan()).int()
    p = torch.where(positive.isnan(), x.clamp(min=0), positive)
    n = torch.where(negative.isnan(), (-x).clamp(min=0), negative)
    pinned = centre + half * (p - n + torch.where(stuck == 1, PARTNER * deviation, 0.0))
    return torch.where(stuck > 0, pinned, effective)
