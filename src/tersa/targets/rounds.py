"""Interleaved rounds: prepared networks are timed side by side.

Every side is warmed up until its time is steady. Then rounds alternate A B, B A, A B, ... so that whatever
else the machine does falls on both sides alike; a round makes as many calls as fill a few milliseconds,
because one call of a small network is as short as the noise. Garbage collection waits outside the rounds.

A round begins with untimed calls: where another network has run, the last-level cache comes back step by
step (LeNet's 13 MB in a cache of 32 MB: 2.4, 1.6, 1.2, 1.1, 1.1, 1.0 times its steady time;
`benchmarks/cache_recovery.py`). Timed, they would make whatever runs second in a pair look a tenth slower.

A round that the system interrupted to run something else (the kernel counts that) is made again with half the
calls, so that it fits between two interruptions of a busy machine: otherwise a side whose round is a little
longer than a time slice would look many times slower than one whose round is a little shorter.

A *side* is whatever can warm up and time a round: a session in this process (`Here`), or one in a process of
its own (`tersa.targets.worker`), which is how `tersa bench` measures. Sessions on another machine are timed
over there, by that machine's clock (`Session.elsewhere`).

Two processes that run one file differ by a few percent for as long as they live, whatever is done in them
(`statistics.PLACEMENT`). Sides that can be started anew are: `Effort.starts` times, each start with its share
of the rounds, so that an interval covers what a process brings with it. All of them end before the first
begins again: the system hands out first what it got back last, so that each finds the memory that another one
had; one that is restarted alone gets its own again, and is as fast or slow as before. The order in which they
end and begin alternates: what begins first is a little slower than its equal (`benchmarks/measuring.py`).

What rounds say is in `statistics.py`, what is stored of them in `measure.py`. What this does not do: measure
a cold start or memory (`worker.py`), energy (`energy.py`), or throughput of several streams.
"""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np

from tersa.errors import UsageError
from tersa.targets.base import Effort, Pixels, Session
from tersa.targets.statistics import Times

Clock = Callable[[], int]

ALIKE = 1.5
"""Sides whose calls differ by less than this factor make equally many in a round."""

OVERTIME, LEAST_ROUNDS = 5.0, 12
"""On a busy machine rounds end after so many times the seconds asked for, but not before so many rounds."""

RECOVERY, RECOVERY_ROUNDS = 8, 2.5
"""Untimed calls at the start of a round, or as many as fit into so many times its length; at least one, but
before a call of more than `LONGEST_MS`."""

LEAST_PER_START = 3
"""Rounds of a start. Calls so long that these rounds of all starts take `OVERTIME` have one start."""

TRIES, LONGEST_MS = 4, 100.0
"""A round that is interrupted is made again, up to so many times; a longer one is interrupted every time."""

WARM_SHARE = 0.05
"""Warm-up ends when three rounds in a row differ by less than this share of their median."""


@dataclass(frozen=True)
class Timing:
    """Timed rounds of one session.

    Attributes:
        times_ms: (rounds,) mean time of one call in each round.
        calls: calls in one round.
        warmup: calls before the first timed one of each start.
        starts: rounds of each start, in their order; empty for one start.
    """

    times_ms: Times
    calls: int
    warmup: int
    starts: tuple[int, ...] = ()


class Side(Protocol):
    """Something that can be timed in rounds."""

    def warm_up(self, effort: Effort) -> tuple[int, float]:
        """Call until the time is steady: (calls made, milliseconds of one call)."""
        ...

    def round(self, calls: int) -> float:
        """Mean milliseconds of one of so many calls, after untimed ones."""
        ...


@runtime_checkable
class Restartable(Side, Protocol):
    """A side that can be started anew."""

    def close(self) -> None:
        """End the process."""
        ...

    def restart(self) -> None:
        """Begin another process with the same network and batch, in place of one that may have ended."""
        ...


def interruptions() -> int:
    """How often the kernel took the processor from this thread so far; 0 where it does not count."""
    if sys.platform != "linux":
        return 0
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


def never() -> int:
    """The count of a test, whose clock stands still while others run."""
    return 0


@dataclass
class Here:
    """A session in this process, with the batch that it is given.

    Attributes:
        session: prepared network.
        images: (N, C, H, W) float32 in 0..1.
        clock: nanoseconds.
        interrupted: counts what the system took from this thread.
        untimed: calls that begin a round; known after the warm-up.
    """

    session: Session
    images: Pixels
    clock: Clock = time.perf_counter_ns
    interrupted: Callable[[], int] = interruptions
    untimed: int = field(default=1, init=False)

    def warm_up(self, effort: Effort) -> tuple[int, float]:
        """Call until three rounds agree or the time is over: (calls made, milliseconds of one call)."""
        made, per_call = _warm_up(self.session, self.images, effort, self.clock)
        self.untimed = untimed_calls(per_call, effort.round_ms)
        return made, per_call

    def round(self, calls: int) -> float:
        """Mean milliseconds of one call, of the first try without an interruption, else of the quickest."""
        found = math.inf
        with self.session.pinned():
            for _ in range(TRIES):
                for _ in range(self.untimed):
                    self.session.run(self.images)
                before = self.interrupted()
                ms = _time(self.session, self.images, calls, self.clock)
                if self.interrupted() == before:
                    return ms
                if calls * ms > LONGEST_MS:
                    return min(found, ms)
                found = min(found, ms)
                calls = max(1, calls // 2)
        return found


def time_rounds(
    sessions: Sequence[Session], inputs: Sequence[Pixels], effort: Effort, clock: Clock = time.perf_counter_ns
) -> list[Timing]:
    """Interleaved rounds of every session, in alternating order.

    Args:
        sessions: prepared networks; the round i of all of them form a pair (or a tuple).
        inputs: the batch of each session, (N, C, H, W) float32 in 0..1.
        effort: how long to measure.
        clock: nanoseconds; a test passes its own.

    Raises:
        UsageError: sessions of this machine and of another one in the same rounds.
    """
    sides = list(zip(sessions, inputs, strict=True))
    count = interruptions if clock is time.perf_counter_ns else never
    devices = sorted({session.device for session, _ in sides if session.elsewhere is not None})
    if not devices:
        wall = time.monotonic if count is interruptions else lambda: 0.0
        return time_sides([Here(session, images, clock, count) for session, images in sides], effort, wall)
    elsewhere = sessions[0].elsewhere
    if elsewhere is None or len(devices) > 1 or any(session.elsewhere is None for session in sessions):
        raise UsageError(
            f"rounds are interleaved on one machine, these sessions run here and on {', '.join(devices)}; "
            "measure each machine by itself"
        )
    found = elsewhere(sessions, inputs, effort)
    return [Timing(np.array(one.times_ms, np.float64), one.calls, one.warmup) for one in found]


def time_sides(
    sides: Sequence[Side],
    effort: Effort,
    wall: Callable[[], float] = time.monotonic,
    *,
    turned: bool = False,
) -> list[Timing]:
    """Warm every side up, then time interleaved rounds in alternating order; so for every start.

    Args:
        sides: what takes turns; more starts than one need `Restartable` ones.
        effort: how long.
        wall: seconds, for the end of rounds on a busy machine; a test passes its own.
        turned: the sides were started last in the other order, by an earlier call.
    """
    warm = [side.warm_up(effort) for side in sides]
    calls = calls_of([per_call for _, per_call in warm], effort.round_ms)
    longest = max(count * per_call for count, (_, per_call) in zip(calls, warm, strict=True))
    again = [side for side in sides if isinstance(side, Restartable)]
    too_long = LEAST_PER_START * effort.starts * longest > OVERTIME * effort.seconds * 1000.0
    starts = effort.starts if len(again) == len(sides) and not too_long else 1
    rounds = max(LEAST_PER_START, min(effort.rounds, int(effort.seconds * 1000.0 / longest)) // starts)
    patience = OVERTIME * effort.seconds * len(sides) / starts
    parts = [_rounds(sides, calls, rounds, patience, wall)]
    for start in range(1, starts):
        order = again[::-1] if (start % 2 == 1) != turned else again
        for side in order:
            side.close()
        for side in order:
            side.restart()
        for side in order:
            side.warm_up(replace(effort, start=start))
        parts.append(_rounds(sides, calls, rounds, patience, wall))
    times = np.concatenate(parts, axis=1)
    lengths = tuple(part.shape[1] for part in parts) if starts > 1 else ()
    return [Timing(times[i], calls[i], warm[i][0], lengths) for i in range(len(sides))]


def _rounds(
    sides: Sequence[Side], calls: Sequence[int], rounds: int, patience: float, wall: Callable[[], float]
) -> Times:
    """Interleaved rounds, (sides, rounds); fewer on a machine so busy that they take too long."""
    times = np.empty((len(sides), rounds))
    end = wall() + patience
    with no_garbage_collection():
        for turn in range(rounds):
            order = range(len(sides)) if turn % 2 == 0 else reversed(range(len(sides)))
            for index in order:
                times[index, turn] = sides[index].round(calls[index])
            if turn + 1 >= LEAST_ROUNDS and wall() > end:
                return times[:, : turn + 1]
    return times


def untimed_calls(per_call_ms: float, round_ms: float) -> int:
    """Calls that bring a network's weights back into the caches; none where that is a small part of one call.

    >>> [untimed_calls(ms, 4.0) for ms in (0.5, 3.0, 30.0, 300.0)], untimed_calls(0.5, 0.5)
    ([8, 3, 1, 0], 2)
    """
    if per_call_ms > LONGEST_MS:
        return 0
    return max(1, min(RECOVERY, int(RECOVERY_ROUNDS * round_ms / per_call_ms)))


def calls_of(per_call_ms: Sequence[float], round_ms: float) -> list[int]:
    """Calls in a round of each side: as many as fill it, and equally many for sides of about the same speed.

    What is left of colder caches weighs more in fewer calls: a side with fewer would look slower.

    Args:
        per_call_ms: of each side.
        round_ms: that a round takes at least.

    >>> calls_of([0.5, 0.55, 2.0], 4.0)
    [8, 8, 2]
    """
    alone = [max(1, math.ceil(round_ms / each)) for each in per_call_ms]
    return [
        max(
            count
            for count, other in zip(alone, per_call_ms, strict=True)
            if each / ALIKE <= other <= each * ALIKE
        )
        for each in per_call_ms
    ]


def _time(session: Session, images: Pixels, calls: int, clock: Clock) -> float:
    """Mean milliseconds of one of `calls` calls."""
    run = session.run
    start = clock()
    for _ in range(calls):
        run(images)
    return (clock() - start) / calls / 1e6


def _warm_up(session: Session, images: Pixels, effort: Effort, clock: Clock) -> tuple[int, float]:
    """Call until three rounds agree or the time is over, which one call may fill; (calls, ms of one)."""
    made, count = 1, 1
    recent: list[float] = []
    start = clock()
    with session.pinned():
        session.run(images)
        while True:
            per_call = max(_time(session, images, count, clock), 1e-6)
            made += count
            recent = [*recent[-2:], per_call]
            count = max(1, math.ceil(effort.round_ms / per_call))
            middle = sorted(recent)[len(recent) // 2]
            steady = len(recent) == 3 and max(recent) - min(recent) < WARM_SHARE * middle
            over = (clock() - start) / 1e9 > effort.warmup_seconds
            if steady or (over and (len(recent) == 3 or per_call > effort.warmup_seconds * 1e3)):
                return made, middle


@contextmanager
def no_garbage_collection() -> Generator[None]:
    """Collect now, and not again inside the block."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
