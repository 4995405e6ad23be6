"""Energy of calls from interleaved rounds: counters are read around many calls of one session after another.

    energy of a call = least over rounds of (counters after - counters before) / calls

A counter is brought up to date about every millisecond only, so a round lasts at least `ROUND_SECONDS`: it
is off by one part in fifty at most. Of the rounds the least counts: counters see the whole package or card,
and other work only ever adds. Rounds alternate A B, B A, ... as those of the clock do (`rounds.py`), and
begin with calls that are not counted, which bring a network's weights back into the caches.

Energy is all that was used in that time, idle power included: a faster network takes less of it, too.

Example:
    >>> class Constant:
    ...     ranges, now = {"package-0": 0}, 0
    ...     def read(self):
    ...         return Reading({"package-0": self.now})
    >>> meter = Constant()
    >>> def run(pixels):
    ...     meter.now += 2000  # microjoules, in a millisecond on this clock
    ...     return pixels
    >>> import numpy as np
    >>> session = Session("demo", "demo", "fp32", 1, "demo 1", run)
    >>> least_energies([session], [np.zeros((1, 1, 1, 1), np.float32)], meter, clock=lambda: 500 * meter.now)
    [Spent(millijoules=2.0, calls=250)]
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

from tersa.errors import TargetError, brief
from tersa.targets.base import Pixels, Session
from tersa.targets.energy import Meter, Reading, domains, spent
from tersa.targets.rounds import Clock, no_garbage_collection

ROUND_SECONDS = 0.05
"""A round of one session lasts so long at least: a counter that changes every millisecond is read to 2 %."""

ROUNDS = 5
"""Of one layer: there are many, and what errs in one evens out in their sum."""

UNTIMED = 0.1
"""Share of a round's time that goes to calls before it, one at least."""


class Spent(NamedTuple):
    """Energy of one call.

    Attributes:
        millijoules: of the round that took least.
        calls: in all rounds together.
    """

    millijoules: float
    calls: int


def least_energies(
    sessions: Sequence[Session],
    inputs: Sequence[Pixels],
    meter: Meter,
    *,
    seconds: float = ROUND_SECONDS,
    rounds: int = ROUNDS,
    clock: Clock = time.perf_counter_ns,
) -> list[Spent]:
    """Interleaved rounds of every session, in alternating order.

    Args:
        sessions: prepared networks, all on this machine.
        inputs: the batch of each, (N, C, H, W) float32 in 0..1.
        meter: counters that see them.
        seconds: of calls in a round, at least.
        rounds: of each session.
        clock: nanoseconds; a test passes its own.

    Raises:
        TargetError: the counters cannot be read any more.
    """
    least, calls = [math.inf] * len(sessions), [0] * len(sessions)
    sides = list(zip(sessions, inputs, strict=True))
    with no_garbage_collection():
        for turn in range(rounds):
            order = range(len(sides)) if turn % 2 == 0 else reversed(range(len(sides)))
            for place in order:
                found = _round(*sides[place], meter, seconds, clock)
                least[place] = min(least[place], found.millijoules)
                calls[place] += found.calls
    return [Spent(*pair) for pair in zip(least, calls, strict=True)]


def network_energies(
    sessions: Sequence[Session],
    images: Pixels,
    meter: Meter,
    *,
    seconds: float,
    clock: Clock = time.perf_counter_ns,
) -> list[float]:
    """Millijoules of one call of whole networks with the same batch.

    Args:
        sessions: prepared networks, all on this machine.
        images: the batch, (N, C, H, W) float32 in 0..1.
        meter: counters that see them.
        seconds: of calls of each, at least; more where `ROUNDS` rounds take longer.
        clock: nanoseconds; a test passes its own.

    Raises:
        TargetError: the counters cannot be read any more, or stand still.
    """
    each = max(ROUND_SECONDS, seconds / ROUNDS)
    found = least_energies(sessions, [images] * len(sessions), meter, seconds=each, clock=clock)
    if any(side.millijoules <= 0 for side in found):
        raise TargetError(
            f"the energy counters ({domains(meter)}) stand still: nothing was added in {each:g} s of calls; "
            "leave out --energy"
        )
    return [side.millijoules for side in found]


def _round(session: Session, images: Pixels, meter: Meter, seconds: float, clock: Clock) -> Spent:
    """Calls for a while, and what they took."""
    with session.pinned():
        _call(session, images, UNTIMED * seconds, clock)
        before = _read(meter)
        calls = _call(session, images, seconds, clock)
        after = _read(meter)
    return Spent(1000.0 * spent(before, after, meter.ranges) / calls, calls)


def _call(session: Session, images: Pixels, seconds: float, clock: Clock) -> int:
    """Calls until the time is over, one at least; how many."""
    run, end, calls = session.run, clock() + 1e9 * seconds, 0
    while True:
        run(images)
        calls += 1
        if clock() >= end:
            return calls


def _read(meter: Meter) -> Reading:
    try:
        return meter.read()
    except (OSError, ValueError) as error:
        raise TargetError(
            f"the energy counters ({domains(meter)}) cannot be read any more: {brief(error)}; "
            "--resume goes on"
        ) from None
