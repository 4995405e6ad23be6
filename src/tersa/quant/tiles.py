"""How many tiles a network takes, and how full they are.

Document 000 speaks of chips of 4,096 synapses, and counts synapses: a network of P weights and biases takes
ceil(P / 4096) tiles, one synapse a weight, wherever they lie. `by_count` counts so; with pairs each weight
takes two devices. `by_geometry` lays them out: a layer's matrix has one row per input and one more for the
bias, one column per output (two with pairs), a convolution is a matrix of C k^2 rows, and each matrix is cut
into blocks of a tile's size. No two blocks share a tile, so a narrow layer leaves most of its tiles empty.

What this does not do: fold layers, share tiles, or repeat a convolution's tiles for speed.

Example:
    >>> by_count(3190)  # 784 -> 4 -> 10
    Placement(synapses=3190, tiles=1, capacity=4096)
    >>> by_count(3190, pairs=True).tiles
    2
    >>> by_geometry([(4, 784), (10, 4)])
    Placement(synapses=3190, tiles=14, capacity=4096)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tersa.errors import UsageError

SIDE = 64
"""Rows and columns of a tile of 4,096 synapses."""


@dataclass(frozen=True)
class Placement:
    """Where a network goes.

    Attributes:
        synapses: devices that hold a number.
        tiles: that are begun.
        capacity: devices of one tile.
    """

    synapses: int
    tiles: int
    capacity: int

    @property
    def occupancy(self) -> float:
        """Share of the devices of these tiles that hold a number, 0..1."""
        return self.synapses / (self.tiles * self.capacity)


def by_count(parameters: int, *, pairs: bool = False, capacity: int = SIDE * SIDE) -> Placement:
    """Tiles by the number of synapses, as document 000 counts.

    Args:
        parameters: weights and biases of the network.
        pairs: two devices a weight (G+ and G-), not one.
        capacity: devices of one tile.

    Raises:
        UsageError: less than one parameter or one device.
    """
    _check(parameters=parameters, capacity=capacity)
    synapses = parameters * (2 if pairs else 1)
    return Placement(synapses, math.ceil(synapses / capacity), capacity)


def by_geometry(
    shapes: Sequence[tuple[int, ...]], *, pairs: bool = False, rows: int = SIDE, columns: int = SIDE
) -> Placement:
    """Tiles by layout: each layer's matrix is cut into blocks of rows x columns.

    Args:
        shapes: of one run's weights, (O, I) or (O, C, k, k); each layer has a bias, which is one more row.
        pairs: two columns an output (G+ and G-), not one.
        rows: inputs of a tile.
        columns: outputs of a tile.

    Raises:
        UsageError: no layer, or a side below one.
    """
    _check(layers=len(shapes), rows=rows, columns=columns)
    synapses = tiles = 0
    for outputs, *inputs in shapes:
        tall, wide = math.prod(inputs) + 1, outputs * (2 if pairs else 1)
        synapses += tall * wide
        tiles += math.ceil(tall / rows) * math.ceil(wide / columns)
    return Placement(synapses, tiles, rows * columns)


def _check(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise UsageError(f"tiles: {name} is {size}; must be 1 or more")
