"""Filling a table of layers: those of a network, one at a time, in one process, interleaved.

Points are shuffled (the same way each time) and measured in blocks: the sessions of a block are called in
turn, round by round, so that whatever else the machine does falls on wide and narrow layers alike. Of the
rounds the fastest counts: other work only ever adds, and nine rounds are too few for a median on a busy
machine. A block is stored when it is done. Layers that the table knows already are not measured again.

A layer of images is measured in company (`single.py`), which is measured without it first, in the same run:
a machine may be faster on another day.

    cost = T(company with the layer) - T(company),      of a layer alone  cost = T(layer) - T(empty call)

What is measured of a block is a `Gauge`'s: `Stopwatch` takes the times; `energies.py` has the one for energy.

Example:
    >>> from tersa.adapt.anatomy import Anatomy, Channels, Family, Layer
    >>> net = Anatomy((Layer("fc", Family("linear"), Channels(0, ((0, 4),)), Channels(2)),), ("g",), (3,))
    >>> [(each.inputs, each.outputs) for each in wanted(net)]
    [(4, 2), (8, 2), (12, 2)]
"""

from __future__ import annotations

import math
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from tersa.adapt.anatomy import Anatomy, Channels, Family, Layer
from tersa.adapt.grid import axis
from tersa.adapt.single import EMPTY, lone_layer
from tersa.adapt.table import TIMES, Machine, Quantity, Row, TableFile, choose_machine, machine_of
from tersa.errors import TersaError, UsageError
from tersa.targets.base import Effort, Pixels, Session, Target
from tersa.targets.rounds import Clock, time_rounds

BLOCK = 12
"""Sessions that are called in turn."""

BLOCK_BYTES = 256 * 2**20
"""Weights of one block, at most; a layer above it makes a block alone."""

EFFORT = Effort(seconds=0.02, rounds=9, round_ms=0.5, warmup_seconds=0.01)
"""For one layer: short, because there are many, and what errs in one evens out in their sum."""

EMPTY_EFFORT = Effort(seconds=0.3, rounds=60, round_ms=0.5, warmup_seconds=0.1)


@dataclass(frozen=True)
class Wanted:
    """One layer to be measured."""

    family: Family
    inputs: int
    outputs: int

    @property
    def company(self) -> Wanted | None:
        """What is measured without the layer, and taken off; None for the empty call."""
        family, taken = self.family.company, self.family.taken(self.inputs)
        return None if family is None else Wanted(family, taken, taken)

    @property
    def weight_bytes(self) -> int:
        """Of its weights in memory, about."""
        if self.family.square:
            return 0
        return 4 * self.inputs * self.outputs * math.prod(self.family.kernel)


class Measured(NamedTuple):
    """One session's call.

    Attributes:
        value: in the unit of the quantity.
        about: what else the file keeps of a layer, or of the empty call.
    """

    value: float
    about: Row


class Gauge(Protocol):
    """What measures prepared layers, and knows what the file has of them."""

    @property
    def quantity(self) -> Quantity:
        """What is measured."""
        ...

    def stale(self, file: TableFile, machine: str) -> bool:
        """What the file has of this machine was measured otherwise, and is measured again."""
        ...

    def measure(
        self, sessions: Sequence[Session], inputs: Sequence[Pixels], *, empty: bool
    ) -> list[Measured]:
        """A call of each session.

        Args:
            sessions: prepared layers.
            inputs: the batch of each, (N, C, H, W) float32 in 0..1.
            empty: it is the empty call alone, which is taken off every layer.

        Raises:
            TargetError: they cannot be measured.
        """
        ...


@dataclass(frozen=True)
class Stopwatch:
    """Milliseconds of a call in the fastest round, and rounds.

    Attributes:
        clock: nanoseconds; a test passes its own.
    """

    clock: Clock = time.perf_counter_ns

    @property
    def quantity(self) -> Quantity:
        """Times."""
        return TIMES

    def stale(self, file: TableFile, machine: str) -> bool:
        """Never: the runtime and its version are part of the machine."""
        return False

    def measure(
        self, sessions: Sequence[Session], inputs: Sequence[Pixels], *, empty: bool
    ) -> list[Measured]:
        """Interleaved rounds."""
        timings = time_rounds(sessions, inputs, EMPTY_EFFORT if empty else EFFORT, self.clock)
        return [
            Measured(float(timing.times_ms.min()), () if empty else (len(timing.times_ms),))
            for timing in timings
        ]


@dataclass(frozen=True)
class Filled:
    """What filling a table came to.

    Attributes:
        machine: whose points are used.
        measured: points measured now.
        known: points that were there.
        seconds: of measuring.
        foreign: the points are another machine's.
    """

    machine: Machine
    measured: int
    known: int
    seconds: float
    foreign: bool = False


def wanted(anatomy: Anatomy) -> list[Wanted]:
    """The grid points of every family of a network, each once, up to its present widths."""
    found: dict[Wanted, None] = {}
    for layer in anatomy.layers:
        for inputs, outputs in _grid(layer, anatomy.widths):
            found[Wanted(layer.family, inputs, outputs)] = None
    return list(found)


def _grid(layer: Layer, widths: Sequence[int]) -> list[tuple[int, int]]:
    ins = _along(layer.inputs, widths)
    if layer.family.square:
        return [(each, each) for each in ins]
    outs = _along(layer.outputs, widths)
    return [
        (i, o) for i in ins for o in outs if i % layer.family.groups == 0 and o % layer.family.groups == 0
    ]


def _along(channels: Channels, widths: Sequence[int]) -> list[int]:
    """Measured numbers of channels: in the steps of the one group behind them, or of their sum."""
    if len(channels.times) == 1:
        ((group, each),) = channels.times
        return [channels.fixed + each * width for width in axis(widths[group])]
    return axis(channels.at(widths)) if channels.times else [channels.fixed]


def fill(
    file: TableFile,
    anatomy: Anatomy,
    target: Target,
    *,
    allow_foreign: bool = False,
    fresh: bool = False,
    progress: Callable[[int, int], None] = lambda done, of: None,
    gauge: Gauge | None = None,
) -> Filled:
    """Measure what a network needs and the table lacks.

    Args:
        file: the table.
        anatomy: of the network at its full widths.
        target: where its latency or energy counts.
        allow_foreign: use another machine's points where the file has none of this one.
        fresh: measure this network's layers and the empty call again; each takes the place of the old one
            when it is measured, other networks' layers stay.
        progress: told how many points are done, of how many.
        gauge: what is measured; None for times, by the clock.

    Raises:
        UsageError: a foreign table that is not allowed, or is to be measured again, or lacks points of this
            network.
        TargetError, ModelError: the runtime cannot run a layer; points measured so far are kept.
    """
    began, gauge = time.perf_counter(), gauge or Stopwatch()
    quantity = gauge.quantity
    with tempfile.TemporaryDirectory(prefix="tersa.") as folder:
        place = Path(folder)
        empty = lone_layer(EMPTY, 1, 1, place / "empty.onnx")
        session = target.prepare(empty.artefact, "empty call")
        own = machine_of(session)
        machine = _chosen(file, own, quantity, allow_foreign=allow_foreign, fresh=fresh)
        fresh = fresh or (machine == own and gauge.stale(file, own.key))
        if fresh:
            file.drop_damaged(own.key, quantity)
        missing = _missing(file, machine, anatomy, quantity, own=own, fresh=fresh)
        there = len(wanted(anatomy)) - len(missing)
        if machine != own:
            session.close()
            return Filled(machine, 0, there, time.perf_counter() - began, foreign=True)
        call = None if fresh else file.call(own.key, quantity)
        if call is None:
            ((call, about),) = gauge.measure([session], [empty.pixels], empty=True)
            file.set_call(own, call, *about, of=quantity)
        session.close()
        random.Random(0).shuffle(missing)
        done, beside = 0, dict.fromkeys(each.company for each in missing)
        progress(done, len(missing))
        known: dict[Wanted | None, float] = {None: call}
        for block in _blocks([each for each in beside if each]):
            measured = _measure(block, target, place, gauge)
            known |= {each: value for each, (value, _) in zip(block, measured, strict=True)}
        for block in _blocks(missing):
            rows: list[Row] = []
            for each, (value, about) in zip(block, _measure(block, target, place, gauge), strict=True):
                cost = max(0.0, value - known[each.company])
                rows.append((each.family.key(), each.inputs, each.outputs, cost, *about))
            file.add(own, rows, quantity)
            done += len(block)
            progress(done, len(missing))
    return Filled(own, len(missing), there, time.perf_counter() - began)


def count_missing(
    path: Path,
    anatomy: Anatomy,
    target: Target,
    *,
    allow_foreign: bool = False,
    fresh: bool = False,
    gauge: Gauge | None = None,
) -> tuple[int, int]:
    """How many of a network's layers `fill` would find in a table, and how many it would measure.

    Args:
        path: of the table; it need not exist, and is not made.
        anatomy: of the network.
        target: where its latency or energy counts.
        allow_foreign: see `fill`.
        fresh: see `fill`.
        gauge: see `fill`.

    Raises:
        UsageError: as `fill`.
    """
    asked, gauge = wanted(anatomy), gauge or Stopwatch()
    if not path.is_file():
        return 0, len(asked)
    with tempfile.TemporaryDirectory(prefix="tersa.") as folder, TableFile(path) as file:
        session = target.prepare(lone_layer(EMPTY, 1, 1, Path(folder) / "empty.onnx").artefact, "empty call")
        own = machine_of(session)
        session.close()
        machine = _chosen(file, own, gauge.quantity, allow_foreign=allow_foreign, fresh=fresh)
        fresh = fresh or (machine == own and gauge.stale(file, own.key))
        missing = _missing(file, machine, anatomy, gauge.quantity, own=own, fresh=fresh)
    return len(asked) - len(missing), len(missing)


def _chosen(
    file: TableFile, own: Machine, quantity: Quantity, *, allow_foreign: bool, fresh: bool
) -> Machine:
    """Whose points are used; another machine's cannot be measured again here."""
    machine = choose_machine(file, own, allow_foreign=allow_foreign, of=quantity)
    if fresh and machine != own:
        raise UsageError(
            f"--fresh-table measures here ({own.text}), and the layers that --allow-foreign takes from "
            f"{file.path} are those of {machine.text}; leave out one of the two"
        )
    return machine


def _missing(
    file: TableFile, machine: Machine, anatomy: Anatomy, quantity: Quantity, *, own: Machine, fresh: bool
) -> list[Wanted]:
    """The points of a network that must be measured; another machine's table must have them all."""
    asked = wanted(anatomy)
    known = {} if fresh else file.points(machine.key, quantity)
    found = [each for each in asked if (each.inputs, each.outputs) not in known.get(each.family.key(), {})]
    if found and machine != own:
        first = found[0]
        raise UsageError(
            f"{file.path} was measured elsewhere ({machine.text}) and lacks {len(found)} layers of this "
            f"network, such as '{first.family.text()}' at {first.inputs} to {first.outputs} channels; "
            "measure them there, or here into another --table"
        )
    return found


def _blocks(points: Sequence[Wanted]) -> list[list[Wanted]]:
    """Points that are measured together."""
    found: list[list[Wanted]] = []
    held = 0
    for each in points:
        if not found or len(found[-1]) == BLOCK or held + each.weight_bytes > BLOCK_BYTES:
            found.append([])
            held = 0
        found[-1].append(each)
        held += each.weight_bytes
    return found


def _measure(block: Sequence[Wanted], target: Target, folder: Path, gauge: Gauge) -> list[Measured]:
    """Interleaved rounds of a few layers."""
    sessions: list[Session] = []
    inputs: list[Pixels] = []
    with ExitStack() as held:
        for number, each in enumerate(block):
            lone = lone_layer(each.family, each.inputs, each.outputs, folder / f"{number}.onnx")
            try:
                sessions.append(target.prepare(lone.artefact, each.family.text()))
            except TersaError as error:
                what = f"'{each.family.text()}' at {each.inputs} to {each.outputs} channels"
                raise type(error)(f"{target.describe()} cannot run {what}: {error}") from error
            held.callback(sessions[-1].close)
            inputs.append(lone.pixels)
        return gauge.measure(sessions, inputs, empty=False)
