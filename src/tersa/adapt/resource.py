"""What a network costs, of any kind, through one interface: a cost per layer, and their sum.

    latency   sum over layers of the table's milliseconds, times the network's factor, plus the empty call
    macs, parameters, bytes (4 per parameter)                                      counted, always exact
    any other table (energy in millijoules, where it was measured)                 as latency

The factor makes the estimate of a network that was measured whole equal to the measurement: what layers gain
or lose in each other's company. It is measured on the baseline and again as the network shrinks.

Example:
    >>> from tersa.adapt.anatomy import Anatomy, Channels, Family, Layer
    >>> net = Anatomy((Layer("fc", Family("linear"), Channels(0, ((0, 4),)), Channels(2)),), ("g",), (3,))
    >>> estimate(net, Parameters()).value, estimate(net, Macs(), [1]).value
    (26.0, 8.0)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tersa.adapt.anatomy import Anatomy, Family
from tersa.adapt.grid import Grid, Reading
from tersa.errors import DataError


class Resource(Protocol):
    """A cost of layers.

    Attributes:
        name: `latency`, `macs`, `parameters`, `bytes`, `energy`.
        unit: of its values.
        start: cost of a network without layers.
    """

    @property
    def name(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def start(self) -> float: ...

    def of(self, family: Family, inputs: int, outputs: int) -> Reading:
        """The cost of one layer."""
        ...


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one image."""

    name: str = "macs"
    unit: str = "MACs"
    start: float = 0.0

    def of(self, family: Family, inputs: int, outputs: int) -> Reading:
        """Of convolutions, fully connected layers and products; other layers have none."""
        return Reading(float(family.macs(inputs, outputs)), True)


@dataclass(frozen=True)
class Parameters:
    """Weights and biases as they are deployed, batch norm folded; `each` is what one of them counts.

    The trainable values of the network are another number, counted from its groups (`weights.py`).
    """

    name: str = "parameters"
    unit: str = "parameters"
    start: float = 0.0
    each: int = 1

    def of(self, family: Family, inputs: int, outputs: int) -> Reading:
        """Of convolutions and fully connected layers; other layers have none."""
        weights = family.weights(inputs, outputs)
        return Reading(float(self.each * (weights + (outputs if weights and family.bias else 0))), True)


def byte_size() -> Parameters:
    """Bytes of the weights in float32."""
    return Parameters("bytes", "bytes", each=4)


class Table:
    """Measured costs in memory.

    Args:
        points: family key -> (inputs, outputs) -> cost.
        name: of the cost.
        unit: of it.
        start: cost of an empty call.
        factor: that every layer's cost is multiplied by.

    Raises:
        DataError: a cost that is no number.
    """

    def __init__(
        self,
        points: Mapping[str, Mapping[tuple[int, int], float]],
        *,
        name: str = "latency",
        unit: str = "ms",
        start: float = 0.0,
        factor: float = 1.0,
    ) -> None:
        self.name, self.unit, self.start, self.factor = name, unit, start, factor
        self._grids = {key: Grid(key, values) for key, values in points.items()}
        self._by_family: dict[Family, Grid] = {}

    def of(self, family: Family, inputs: int, outputs: int) -> Reading:
        """The cost of one layer, without the factor.

        Raises:
            DataError: the table has a hole there.
        """
        grid = self._by_family.get(family)
        if grid is None:
            found = self._grids.get(family.key())
            if found is None:
                raise DataError(f"the table has no '{family.text()}'; measure it first (tersa adapt)")
            grid = self._by_family[family] = found
        return grid.at(inputs, outputs)

    def plain(self, layers: Iterable[tuple[Family, int, int]]) -> float:
        """The sum over layers, without factor and empty call."""
        return sum(self.of(*layer).value for layer in layers)


@dataclass(frozen=True)
class Estimate:
    """The cost of a network.

    Attributes:
        value: in the resource's unit.
        exact: layers whose cost was measured.
        interpolated: layers whose cost lies between measured ones.
    """

    value: float
    exact: int
    interpolated: int


def estimate(anatomy: Anatomy, resource: Resource, widths: Sequence[int] | None = None) -> Estimate:
    """The cost of a network at the widths of its groups (None: as it is)."""
    readings = [resource.of(*layer) for layer in anatomy.channels(widths)]
    exact = sum(reading.exact for reading in readings)
    factor = resource.factor if isinstance(resource, Table) else 1.0
    value = resource.start + factor * sum(reading.value for reading in readings)
    return Estimate(value, exact, len(readings) - exact)


def factor_of(measured: float, plain: float, start: float) -> float:
    """The factor that makes an estimate a measurement; 1 where nothing was estimated.

    Args:
        measured: cost of the whole network.
        plain: sum over its layers.
        start: the empty call.
    """
    return max(measured - start, 0.0) / plain if plain > 0 else 1.0


class Counter:
    """The cost of a network at any widths, fast: only layers that a changed width touches are looked up.

    Args:
        anatomy: the network.
        resource: what is counted.
    """

    def __init__(self, anatomy: Anatomy, resource: Resource) -> None:
        self.anatomy, self.resource = anatomy, resource
        self.queries = 0
        self._touched = [
            [place for place, layer in enumerate(anatomy.layers) if group in layer.groups]
            for group in range(len(anatomy.groups))
        ]

    @property
    def factor(self) -> float:
        """Of a table; 1 for what is counted."""
        return self.resource.factor if isinstance(self.resource, Table) else 1.0

    def total(self, widths: Sequence[int]) -> float:
        """The cost at some widths."""
        self.queries += len(self.anatomy.layers)
        layers = (self._layer(place, widths) for place in range(len(self.anatomy.layers)))
        return self.resource.start + self.factor * sum(layers)

    def touched(self, group: int, widths: Sequence[int]) -> float:
        """The part of the cost that depends on one group's width."""
        self.queries += len(self._touched[group])
        return self.factor * sum(self._layer(place, widths) for place in self._touched[group])

    def _layer(self, place: int, widths: Sequence[int]) -> float:
        layer = self.anatomy.layers[place]
        return self.resource.of(layer.family, layer.inputs.at(widths), layer.outputs.at(widths)).value
