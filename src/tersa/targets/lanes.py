"""A network that takes part in the rounds of a target: prepared in a process of its own, or over there.

A `Lane` is a candidate with what runs it, a `Worker` here or a `Remote` on another machine. The `Anchor` is
the lane that takes part in the rounds of every other target. `Guarded` is a lane in rounds: it says which one
ended. Who takes part at which batch size is decided in `sweep.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tersa.errors import ModelError, TargetError
from tersa.export.artefact import Artefact
from tersa.targets.base import Effort, Pixels, Session
from tersa.targets.measure import Timed
from tersa.targets.worker import Died, Facts, First, Worker

PATIENCE = 5.0
"""A first call may take this many times the limit of a call before its process is ended: it also warms up."""

COMPILING_S = 600.0
"""Seconds for a first call that compiles, which is not what a limit of a call is about."""


@dataclass(frozen=True)
class Limits:
    """Where raising the batch ends.

    Attributes:
        memory: bytes of one process.
        call_s: seconds of one call.
    """

    memory: int | None = None
    call_s: float | None = None

    def patience(self, *, compiles: bool = False) -> float | None:
        """Seconds that a first call may take, or None for any time.

        >>> Limits(call_s=4.0).patience(), Limits(call_s=4.0).patience(compiles=True), Limits().patience()
        (20.0, 620.0, None)
        """
        if self.call_s is None:
            return None
        return max(10.0, PATIENCE * self.call_s) + (COMPILING_S if compiles else 0.0)


UNLIMITED = Limits()


@dataclass(frozen=True)
class Candidate:
    """One network in one precision.

    Attributes:
        model: what tables call it.
        precision: to run it in.
        artefact: its file.
        images: the batch of a given size.
        reference: logits that it must give for its images; None where nothing is known.
        batch: the only batch size that the file takes, or None for any.
    """

    model: str
    precision: str
    artefact: Artefact
    images: Callable[[int], Pixels]
    reference: Callable[[Pixels], Pixels | None]
    batch: int | None = None


@dataclass
class Remote:
    """A session on another machine, seen like a `Worker`: what goes wrong over there is `Died`."""

    session: Session
    facts: Facts
    images: Pixels = field(init=False)

    def first(self, images: Pixels, patience: float | None = None) -> First:
        """Run a batch there; the time is not the runtime's alone: the pixels travel."""
        del patience
        start = time.perf_counter()
        logits = self.answer(images)
        self.images = images
        return First(1e3 * (time.perf_counter() - start), logits, 0)

    def answer(self, images: Pixels) -> Pixels:
        """Logits (N, K) of images."""
        try:
            return self.session.run(images)
        except TargetError as error:
            raise Died(str(error)) from error

    def close(self) -> None:
        """Leave nothing running over there."""
        self.session.close()


@dataclass
class Lane:
    """A candidate that is prepared on the target.

    Attributes:
        candidate: the network.
        runner: what runs it.
        patience: seconds that its first call may take.
        first: its first call with the batch at hand.
    """

    candidate: Candidate
    runner: Worker | Remote
    patience: float | None = None
    first: First | None = None

    @property
    def facts(self) -> Facts:
        """Of the prepared network."""
        return self.runner.facts

    def renew(self) -> None:
        """Another process in place of one that ended; `Worker.restart` would run the batch that ended it.

        Raises:
            Died: it cannot be started again.
        """
        assert isinstance(self.runner, Worker)
        self.runner.close()
        try:
            self.runner = Worker(self.runner.order)
        except (TargetError, ModelError) as error:
            raise Died(f"it could not be started again: {error}") from error


class Anchor:
    """The reference network on the first target, for the rounds of every other target.

    Args:
        lane: the network in a process of its own.
        last: the largest batch that it takes part in: its own target's last.
        limits: as for all others; like them it stays for the batch at which calls take too long.

    Attributes:
        notes: what is not compared with it any more, and why.
    """

    def __init__(self, lane: Lane, last: int, limits: Limits = UNLIMITED) -> None:
        self.lane = lane
        self.last = last
        self.limits = limits
        self.notes: list[str] = []
        self._dead = False

    def starts(self, batch: int) -> bool:
        """Run the batch for the first time; a process that ended at a larger one is started again."""
        if batch > self.last or self.lane.candidate.batch not in (None, batch):
            return False
        if self._dead:
            try:
                self.lane.renew()
            except Died as error:
                self.last = 0
                self._note(f"for good ({error}): later targets are not compared with it any more")
                return False
            self._dead = False
        try:
            images = self.lane.candidate.images(batch)
            self.lane.first = self.lane.runner.first(images, self.lane.patience)
        except Died as error:
            self.died(batch, error)
            return False
        return True

    def died(self, batch: int, error: Died) -> None:
        """Its process ended at this batch."""
        self._dead = True
        self.last = min(self.last, batch - 1)
        self._note(f"beside another target ({error}): nothing is compared with it from batch {batch} on")

    def took(self, side: Timed) -> None:
        """A batch whose calls take longer than the limit was its last."""
        limit, found = self.limits.call_s, side.measurement
        if limit is not None and found.latency_ms.median / 1e3 > limit:
            self.last = min(self.last, found.batch)

    def _note(self, text: str) -> None:
        facts = self.lane.facts
        self.notes.append(f"{facts.model} on {facts.target} in {facts.precision} ended {text}")


class Ended(Exception):
    """A lane's process ended inside rounds."""

    def __init__(self, lane: Lane, error: Died) -> None:
        super().__init__(str(error))
        self.lane, self.error = lane, error


@dataclass(frozen=True)
class Guarded:
    """A `rounds.Restartable` that says which lane ended."""

    lane: Lane

    def warm_up(self, effort: Effort) -> tuple[int, float]:
        """As `rounds.Side`."""
        assert isinstance(self.lane.runner, Worker)
        try:
            if self.lane.runner.closed:  # between two starts, when the process of another one ended
                self.lane.runner.restart()
            return self.lane.runner.warm_up(effort)
        except Died as error:
            raise Ended(self.lane, error) from error

    def round(self, calls: int) -> float:
        """As `rounds.Side`."""
        assert isinstance(self.lane.runner, Worker)
        try:
            return self.lane.runner.round(calls)
        except Died as error:
            raise Ended(self.lane, error) from error

    def close(self) -> None:
        """As `rounds.Restartable`."""
        self.lane.runner.close()

    def restart(self) -> None:
        """As `rounds.Restartable`."""
        assert isinstance(self.lane.runner, Worker)
        try:
            self.lane.runner.restart()
        except Died as error:
            raise Ended(self.lane, error) from error
