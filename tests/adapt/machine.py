"""A machine that does not exist: calls take the time, and the energy, that a formula says, on a clock and
counters of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx

from tersa.errors import TargetError
from tersa.export.artefact import Artefact
from tersa.targets.base import Pixels, Session
from tersa.targets.energy import Reading

CALL_MS = 1.0
CALL_MJ = 3.0


class FakeClock:
    """Time that passes only when a session is called."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> int:
        return round(self.now)


class FakeMeter:
    """Two counters that grow with calls only, an equal part each, and start again after `span`."""

    def __init__(self, span: int = 0, domains: tuple[str, ...] = ("package-0", "dram of 0")) -> None:
        self.millijoules = 0.0
        self.reads = 0
        self.ranges = dict.fromkeys(domains, span)

    def read(self) -> Reading:
        self.reads += 1
        each = round(1000 * self.millijoules / len(self.ranges))
        return Reading({name: each % span if span else each for name, span in self.ranges.items()})


def weights_of(artefact: Artefact) -> int:
    """Values in the file's tensors of two dimensions and more."""
    graph = onnx.load(artefact.path).graph
    return sum(int(np.prod(each.dims)) for each in graph.initializer if len(each.dims) > 1)


def by_weights(artefact: Artefact) -> float:
    """Ten microseconds per weight."""
    return 1e-2 * weights_of(artefact)


@dataclass(frozen=True)
class FakeTarget:
    """A runtime that takes `CALL_MS` and what a formula says of the file.

    Attributes:
        clock: that goes on.
        cost: milliseconds of a file.
        last: sessions that it prepares before it is gone; None for ever.
        version: of the runtime, part of the fingerprint.
        meter: that goes on, too.
        energy: millijoules of a file, beside `CALL_MJ`.
    """

    clock: FakeClock
    cost: Callable[[Artefact], float] = by_weights
    last: int | None = None
    version: str = "1"
    meter: FakeMeter = field(default_factory=FakeMeter)
    energy: Callable[[Artefact], float] = lambda artefact: 2.0 * by_weights(artefact)
    prepared: list[str] = field(default_factory=list)
    threads: int = 1
    name: ClassVar[str] = "fake"
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)

    def describe(self) -> str:
        return "fake@threads=1"

    def prepare(self, artefact: Artefact, model: str, precision: str | None = None) -> Session:
        if self.last is not None and len(self.prepared) >= self.last:
            raise TargetError("the machine is gone")
        self.prepared.append(model)
        took, used = 1e6 * (CALL_MS + self.cost(artefact)), CALL_MJ + self.energy(artefact)

        def run(pixels: Pixels) -> Pixels:
            self.clock.now += took
            self.meter.millijoules += used
            return np.zeros((len(pixels), 2), np.float32)

        return Session(model, self.describe(), "fp32", 1, f"fake {self.version}", run)
