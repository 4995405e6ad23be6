"""The trainable values of a network at any widths, exactly: each parameter as a layer of its own.

    parameters(w) = sum over parameters of (size of its other dimensions) inputs(w) outputs(w)

Deployed files fold batch norms away, and constants such as the kernels of a shift are no parameters, so that
what is deployed (`resource.Parameters`) does not tell this number. The channel groups do: they know which
dimension of which parameter runs along which units. A parameter has at most two such dimensions.

Example:
    >>> from tersa.adapt.resource import Counter
    >>> from tersa.prune.groups import find_groups
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))
    >>> counter = Counter(weights_of(net, find_groups(net, (1, 8, 8))), Trainable())
    >>> counter.total([4]), counter.total([1])  # 1 (9 + 1) + 2 x 1 + 36 x 2 + 2
    (338.0, 86.0)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from tersa.adapt.anatomy import Anatomy, Channels, Family, Layer
from tersa.adapt.grid import Reading
from tersa.adapt.signature import require_even, slot_counts
from tersa.prune.groups import Groups

KIND = "parameter"
"""The operation of these layers; no table knows it."""


@dataclass(frozen=True)
class Trainable:
    """Values of the parameters that `weights_of` lists."""

    name: str = "parameters"
    unit: str = "parameters"
    start: float = 0.0

    def of(self, family: Family, inputs: int, outputs: int) -> Reading:
        """Of one parameter; its kernel holds the sizes that no width changes."""
        return Reading(float(inputs * outputs * math.prod(family.kernel)), True)


def weights_of(model: nn.Module, groups: Groups) -> Anatomy:
    """Every parameter of a network as a layer.

    Args:
        model: the network that `groups` belongs to.
        groups: its channel groups.

    Raises:
        ModelError: a group whose units bring unequal numbers of channels.
    """
    require_even(groups)
    runs: dict[str, dict[int, Channels]] = {}
    for slot in groups.slots:
        channels = _along(slot_counts(slot, groups), len(slot.units), groups)
        if channels.times:
            runs.setdefault(slot.name, {}).setdefault(slot.dim, channels)
    layers = [_layer(name, value, runs.get(name, {})) for name, value in model.named_parameters()]
    widths = tuple(len(group.units) for group in groups.groups)
    return Anatomy(tuple(layers), tuple(group.name for group in groups.groups), widths)


def _along(counts: Tensor, size: int, groups: Groups) -> Channels:
    """The size of one dimension, from how often each unit occurs along it."""
    each = [(place, int(counts[group.units[0]])) for place, group in enumerate(groups.groups)]
    times = tuple((place, count) for place, count in each if count)
    return Channels(size - sum(count * len(groups.groups[place].units) for place, count in times), times)


def _layer(name: str, value: Tensor, runs: dict[int, Channels]) -> Layer:
    assert len(runs) <= 2, f"{name} has channels along {len(runs)} dimensions"
    rest = math.prod(size for dim, size in enumerate(value.shape) if dim not in runs)
    inputs, outputs = [*runs.values(), Channels(1), Channels(1)][:2]
    return Layer(name, Family(KIND, (rest, 1)), inputs, outputs)
