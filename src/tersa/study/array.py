"""Training on a crossbar: what the network computes with is what the array gives back, not what was asked.

After each update the levels are programmed into the array (`tersa.quant.programming`): cells whose level
changed get new programming noise, stuck devices keep their conductance. The network's next forward pass, and
the errors that travel back, go through those effective weights; each read adds its own noise to a layer's
outputs (`tersa.quant.reading`). The update itself works on the levels:
noise is met again and again but never summed up. Runs without noise and faults see their levels, bit for bit.

Tensors that a rule adds to the network (decoders, classifiers) are outside the array.

Example:
    >>> asks([Cell()]), asks([Cell(), Cell(quant="symmetric", bits=3, program_noise=0.05)])
    (False, True)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tersa.quant.chance import READS, generator, programming_key
from tersa.quant.faults import Faults, Stuck, draw_faults
from tersa.quant.programming import EXTREMES, GIVEN, LARGEST, Cells, Ranges, blank, program, program_
from tersa.quant.reading import Reading, Window
from tersa.rules.network import Network
from tersa.study.cell import Cell


def asks(cells: Sequence[Cell]) -> bool:
    """Some run is trained on an array that is not ideal."""
    return any(cell.program_noise or cell.read_noise or cell.stuck for cell in cells)


@dataclass(frozen=True)
class Array:
    """The arrays of a stack of runs.

    Attributes:
        effective: what the network computes with, one tensor (R, ...) for each of the network's.
        cells: state of each tensor's devices.
        faults: stuck devices of each tensor, None for none.
        ranges: where each tensor's levels lie.
        sigma: programming noise of each run, (R,).
        seeds: of each run, (R,) int64.
    """

    effective: list[Tensor]
    cells: list[Cells]
    faults: list[Faults | None]
    ranges: list[Ranges]
    sigma: Tensor
    seeds: Tensor

    @classmethod
    def of(
        cls,
        cells: Sequence[Cell],
        values: Sequence[Tensor],
        calibrated: Mapping[int, list[tuple[float, float]]],
    ) -> Array:
        """The arrays at the start, not programmed yet.

        Args:
            cells: one per run.
            values: the network's tensors, (R, ...) each.
            calibrated: run -> fixed range of each tensor.
        """
        seeds = [cell.seed for cell in cells]
        ranges = [_ranges(cells, calibrated, value, t) for t, value in enumerate(values)]
        stuck = [Stuck(random=cell.stuck, levels=2 ** max(cell.bits - 1, 1)) for cell in cells]
        return cls(
            [torch.empty_like(value) for value in values],
            [blank(value, int(each.pieces.max())) for value, each in zip(values, ranges, strict=True)],
            [
                draw_faults(stuck, seeds, t, value[0].numel()) if any(cell.stuck for cell in cells) else None
                for t, value in enumerate(values)
            ],
            ranges,
            torch.tensor([cell.program_noise for cell in cells], device=values[0].device),
            torch.tensor(seeds, dtype=torch.int64),
        )

    @torch.no_grad()
    def write_(self, values: Sequence[Tensor], tensors: Sequence[int], step: int) -> None:
        """Program the named tensors' levels.

        Args:
            values: levels asked for, (R, ...) each.
            tensors: which of them.
            step: update that they come from.
        """
        for t in tensors:
            key = programming_key(self.seeds, step, t)
            old = (self.cells[t], self.faults[t], self.ranges[t], self.sigma)
            if values[t].device.type == "cpu":
                program_(self.effective[t], values[t], *old, key)
            else:
                found, self.cells[t] = program(values[t], *old, key.to(values[t].device))
                self.effective[t].copy_(found)

    def reading(self, network: Network, cells: Sequence[Cell]) -> Reading | None:
        """Noise of each read, or None where no run has any."""
        if not any(cell.read_noise for cell in cells):
            return None
        halves = [(self.cells[2 * i].half, self.cells[2 * i + 1].half) for i in range(len(network.layers))]
        windows = [Window(layer.kernel, layer.stride, layer.padding) for layer in network.layers]
        sigma = torch.tensor([cell.read_noise for cell in cells])
        return Reading(sigma, halves, windows, [generator(cell.seed, READS) for cell in cells])


def _ranges(
    cells: Sequence[Cell], calibrated: Mapping[int, list[tuple[float, float]]], value: Tensor, tensor: int
) -> Ranges:
    """Where the levels of one tensor lie, run by run."""
    origin: list[int] = []
    pieces: list[int] = []
    ends: list[tuple[float, float]] = []
    for run, cell in enumerate(cells):
        given = cell.quant != "none" and cell.range in ("global", "calibrated")
        low, high = calibrated[run][tensor] if run in calibrated else (cell.low, cell.high)
        if cell.quant != "asymmetric":
            high = max(abs(low), abs(high))
            low = -high
        origin.append(GIVEN if given else EXTREMES if cell.quant == "asymmetric" else LARGEST)
        pieces.append(value.shape[1] if cell.range == "channel" and value.dim() > 2 else 1)
        ends.append((low, high))
    low_of, high_of = torch.tensor(ends).unbind(1)
    return Ranges(torch.tensor(origin), torch.tensor(pieces), low_of.contiguous(), high_of.contiguous())
