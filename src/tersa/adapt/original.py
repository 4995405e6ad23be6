"""NetAdapt's search for widths as it was published: the slow twin that the fast one is measured against.

    estimate(w):  read the table's file
                  for each layer (convolutions and fully connected ones alone):
                      the measured point, or else scipy's Rbf, cubic, through all points of the layer
    cut(group):   widths in eights from the present one down, the first whose estimate is below the constraint

Document 003 takes the repeated work out remedy by remedy: `How` says which. The published table has points
in steps of 8 channels of a convolution and 64 of a fully connected layer, so that seven of eight widths of a
fully connected layer are interpolated; an Rbf through P points solves P equations. A layer's Rbf is the same
whenever it is built, so an `Estimator` may build it a few times for real and charge the mean time for the
rest (`builds`): what it says to have taken is then the time of a search that did build them all.

Example:
    >>> from tersa.adapt.anatomy import Family, Layer
    >>> net = Anatomy((Layer("fc", Family("linear"), Channels(64), Channels(0, ((0, 1),))),), ("g",), (256,))
    >>> table = published_table(net, lambda family, inputs, outputs: inputs * outputs / 1000)
    >>> sorted(table[0])
    [(64, 64), (64, 128), (64, 192), (64, 256)]
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "table"
    >>> found = cut(Estimator(net, table, How(), file), 0, [256], 10.0)  # exactly it would be 152
    >>> found.width, found.tries, found.built
    (168, 12, 10)

References:
    Yang et al., NetAdapt (ECCV 2018), and its published code; document 003, sections 5.1, 5.4 and 5.5,
    figures 5.5 and 5.6.
"""

from __future__ import annotations

import marshal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.interpolate import Rbf

from tersa.adapt.anatomy import Anatomy, Channels, Family

CONV_STEP, DENSE_STEP, WIDTH_STEP = 8, 64, 8
"""Channels between points of the table, of a convolution and a fully connected layer, and between widths."""

THRESHOLD = 16
"""Widths that document 003's bisection leaves for trying one by one."""

Points = Mapping[tuple[int, int], float]


@dataclass(frozen=True)
class How:
    """Which of document 003's remedies are taken.

    Attributes:
        bisect: search by bisection, with its threshold, and not linearly.
        once: interpolators are built once for a layer, and kept.
        memory: the table stays in memory, and is not read for every estimate.
    """

    bisect: bool = False
    once: bool = False
    memory: bool = False


@dataclass(frozen=True)
class Found:
    """What a search for one group's width came to.

    Attributes:
        width: None where none is below the constraint.
        tries: estimates of the whole network.
        built: interpolators.
        seconds: of the processor that it took, those charged included.
    """

    width: int | None
    tries: int
    built: int
    seconds: float


def published_table(
    anatomy: Anatomy, cost: Callable[[Family, int, int], float]
) -> dict[int, dict[tuple[int, int], float]]:
    """The published grid of every layer that it has: place of the layer -> (inputs, outputs) -> cost.

    Args:
        anatomy: of the network.
        cost: of a layer; what fills the table takes no part in any comparison.
    """
    found: dict[int, dict[tuple[int, int], float]] = {}
    for place, layer in enumerate(anatomy.layers):
        family = layer.family
        if family.operation not in ("conv", "depthwise", "linear"):
            continue
        step = DENSE_STEP if family.operation == "linear" else CONV_STEP
        ins = _down(layer.inputs, anatomy.widths, step)
        if family.operation == "depthwise":
            found[place] = {(each, each): cost(family, each, each) for each in ins}
            continue
        outs = _down(layer.outputs, anatomy.widths, step)
        found[place] = {(i, o): cost(family, i, o) for i in ins for o in outs}
    return found


def _down(channels: Channels, widths: Sequence[int], step: int) -> list[int]:
    return sorted(range(channels.at(widths), 0, -step))


@dataclass
class Estimator:
    """Latency of the network at any widths, the published way.

    Attributes:
        anatomy: of the network.
        table: points of each layer.
        how: remedies taken.
        file: where the table is written to, and read from for every estimate.
        builds: interpolators of a layer that are built for real; None for all.
        charged: seconds of those that were not.
        built: interpolators, charged ones included.
    """

    anatomy: Anatomy
    table: Mapping[int, Points]
    how: How
    file: Path
    builds: int | None = None
    charged: float = 0.0
    built: int = 0
    _made: dict[int, tuple[Rbf, list[float]]] = field(default_factory=dict[int, tuple[Rbf, list[float]]])

    def __post_init__(self) -> None:
        self.file.write_bytes(marshal.dumps({place: dict(points) for place, points in self.table.items()}))

    def at(self, widths: Sequence[int]) -> float:
        """At the widths of all groups."""
        table = self.table if self.how.memory else marshal.loads(self.file.read_bytes())
        total = 0.0
        for place, points in table.items():
            layer = self.anatomy.layers[place]
            at = layer.inputs.at(widths), layer.outputs.at(widths)
            # Differs from the published code, whose Rbf fails there: a layer of one point has its cost.
            value = next(iter(points.values())) if len(points) == 1 else points.get(at)
            total += float(self._rbf(place, points)(*at)) if value is None else value
        return total

    def _rbf(self, place: int, points: Points) -> Rbf:
        """A new interpolator of one layer, or the one that is kept."""
        made = self._made.get(place)
        if made and self.how.once:
            return made[0]
        self.built += 1
        if made and self.builds is not None and len(made[1]) >= self.builds:
            self.charged += sum(made[1]) / len(made[1])
            return made[0]
        began = time.process_time()
        places = np.array(list(points), dtype=float)
        rbf = Rbf(places[:, 0], places[:, 1], np.array(list(points.values())), function="cubic")
        self._made[place] = rbf, [*(made[1] if made else ()), time.process_time() - began]
        return rbf


def cut(estimator: Estimator, group: int, widths: Sequence[int], constraint: float) -> Found:
    """The widest width of a group whose estimate is below a constraint.

    Args:
        estimator: of the whole network.
        group: to be narrowed.
        widths: of all groups.
        constraint: what the estimate must be below.
    """
    began, built, charged = time.process_time(), estimator.built, estimator.charged
    trial, tries = list(widths), 0

    def meets(width: int) -> bool:
        nonlocal tries
        tries += 1
        trial[group] = width
        return estimator.at(trial) < constraint

    now = widths[group]
    choices = list(range(now // WIDTH_STEP * WIDTH_STEP, WIDTH_STEP - 1, -WIDTH_STEP)) or [now]
    if estimator.how.bisect:
        choices = bisected(choices, meets)
    width = next((each for each in choices if meets(each)), None)
    seconds = time.process_time() - began + estimator.charged - charged
    return Found(width, tries, estimator.built - built, seconds)


def bisected(
    choices: Sequence[int], meets: Callable[[int], bool], *, threshold: int = THRESHOLD
) -> list[int]:
    """The few choices, widest first, among which document 003's bisection leaves the answer.

    Args:
        choices: widths, the widest first.
        meets: the constraint, with a width.
        threshold: most choices that may be left, less one.

    >>> asked = []
    >>> left = bisected(list(range(96, 0, -8)), lambda w: asked.append(w) or w <= 24, threshold=1)
    >>> left, asked
    ([32, 24], [56, 32, 24])
    """
    left, right = 0, len(choices) - 1
    while right - left > threshold:
        middle = (left + right) // 2
        if meets(choices[middle]):
            right = middle
        else:
            left = middle
    return list(choices[left : right + 1])
