"""One target over batch sizes: every network in a process of its own, timed in the same interleaved rounds.

For each batch size, smallest first: every network runs it for the first time (time, memory, outputs held
against what they must be), then all are timed together, each compared with the *reference*, the first network
that was given, and with no other where that one is not measured. Where an *anchor* is given, the reference on
the first target, it takes part in the rounds of every target, so that targets are compared by ratios within
rounds and not by two times from different minutes. A network whose memory or time ends at a batch size is a
`Gap` there and takes part no more; the others go on. So is one on another machine that fails there. The
anchor leaves in the same way, without a gap: its own target has that.

Energy is read afterwards, one network at a time, because a counter sees the whole machine.

Example:
    >>> Gap(model="m", target="t", precision="fp32", batch=64, kind="out of memory", reason="limit 1 GB").text
    'out of memory at batch 64: limit 1 GB'
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from tersa.errors import ModelError, TargetError
from tersa.records.base import Record
from tersa.records.results import Comparison, Measurement
from tersa.targets import energy
from tersa.targets.base import Effort, Pixels, Target
from tersa.targets.energy import Energy
from tersa.targets.lanes import UNLIMITED, Anchor, Candidate, Ended, Guarded, Lane, Limits, Remote
from tersa.targets.measure import Timed, check_output, compare_measured, measured
from tersa.targets.registry import compiles
from tersa.targets.rounds import Timing, time_rounds, time_sides
from tersa.targets.ssh import is_remote
from tersa.targets.worker import Died, Facts, Order, Worker, pack

GapKind = Literal["not offered", "out of memory", "over the time limit", "wrong outputs", "failed"]

TOLERANCES = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1, "int8": 2.5e-1, "packed": 1e-3}
"""Largest difference of a logit, relative to the largest (or 1).

FP32: another order of sums; packed too, where the network keeps sums of floats. FP16 and BF16 keep 11 and 8
bits of every activation. INT8 is held against ONNX Runtime's answer to the same file: a level that falls to
the other side in one runtime is carried through all layers after it. A wrong layer gives differences of the
size of the logits.
"""

START_S = 3.0
"""A network that takes longer to be ready (a compiler at work) is started once, and those beside it too."""


class Row(Measurement):
    """A measurement with all that `tersa bench` knows of it.

    Attributes:
        images_per_s: the batch over the median latency.
        load_ms: from the file to a session that can be called.
        first_ms: the first call with this batch.
        added_bytes: highest resident memory that loading and running up to here added to the process; None
            for a remote machine.
        size_bytes: of the file that the runtime loads.
        starts: processes, one after the other, that the rounds are from.
        executed: layers by precision, as the runtime says; empty where it does not.
        energy: of one call; None where it was neither measured nor estimated.
        test_accuracy: percent of the test images that this runtime gets right in this precision.
        test_images: how many they were.
    """

    images_per_s: float
    load_ms: float
    first_ms: float
    added_bytes: int | None
    size_bytes: int
    starts: int = 1
    executed: str = ""
    energy: Energy | None = None
    test_accuracy: float | None = None
    test_images: int = 0


class Gap(Record):
    """A combination without a measurement, and why.

    Attributes:
        batch: from which on, or None for all.
        kind: what happened.
        reason: in words.
    """

    model: str
    target: str
    precision: str
    batch: int | None = None
    kind: GapKind = "not offered"
    reason: str

    @property
    def text(self) -> str:
        """Kind, batch and reason in one line."""
        where = f" at batch {self.batch}" if self.batch is not None and self.kind != "not offered" else ""
        return f"{self.kind}{where}: {self.reason}"


class Cell(Record):
    """One target at one batch size.

    Attributes:
        comparisons: each row with the reference, which is then the first row of this cell; empty where the
            reference was not measured.
        across: each row with the anchor.
    """

    target: str
    batch: int
    rows: list[Row]
    comparisons: list[Comparison]
    across: list[Comparison]
    gaps: list[Gap]


class Contest:
    """The networks of one target; a context manager that ends their processes.

    Args:
        text: of the target, as the registry reads it.
        target: the same, parsed.
        candidates: what to run.
        limits: of each process.
        cores: that processes may run on; empty for all.
        led: the first candidate is the reference, which the others are compared with where it is measured.

    Attributes:
        lanes: candidates that are prepared and still take part.
        gaps: those that could not be prepared.
    """

    def __init__(
        self,
        text: str,
        target: Target,
        candidates: Sequence[Candidate],
        limits: Limits = UNLIMITED,
        cores: tuple[int, ...] = (),
        *,
        led: bool = True,
    ) -> None:
        self.text = text
        self.target = target.describe()
        self.limits = limits
        self.lanes: list[Lane] = []
        self.gaps: list[Gap] = []
        self._all: list[Lane] = []
        self._reference = candidates[0] if candidates and led else None
        self._turned = False
        patience = limits.patience(compiles=compiles(text))
        for candidate in candidates:
            try:
                lane = Lane(candidate, self._runner(target, candidate, cores), patience)
            except (TargetError, ModelError) as error:
                self.gaps.append(self._gap(candidate, None, "not offered", str(error)))
            except Died as error:
                self.gaps.append(self._gap(candidate, None, error.kind, f"while loading: {error}"))
            else:
                self.lanes.append(lane)
                self._all.append(lane)

    def __enter__(self) -> Contest:
        return self

    def __exit__(self, *_: object) -> None:
        for lane in self._all:
            lane.runner.close()

    @property
    def remote(self) -> bool:
        """The target runs on another machine."""
        return is_remote(self.text)

    def answer(self, lane: Lane, images: Pixels) -> Pixels:
        """Logits of a candidate by this runtime.

        Raises:
            Died: its process ended.
        """
        return lane.runner.answer(images)

    def at(
        self, batch: int, effort: Effort, anchor: Anchor | None = None, watts: float | None = None
    ) -> Cell:
        """Everything at one batch size.

        Args:
            batch: images per call.
            effort: how long to time.
            anchor: reference network on the first target; None on the first target itself, and on remote
                ones.
            watts: power for estimated energy where there is no counter.
        """
        gaps: list[Gap] = []
        ready = [lane for lane in self.lanes if self._starts(lane, batch, gaps)]
        beside = anchor.lane if ready and anchor is not None and anchor.starts(batch) else None
        timed, ended = self._timed([*([beside] if beside else []), *ready], batch, effort)
        for lane, error in ended:
            if anchor is not None and lane is beside:
                anchor.died(batch, error)
                continue
            gaps.append(self._gap(lane.candidate, batch, error.kind, str(error)))
            self._leave(lane)
        reference = next((side for lane, side in timed if lane is beside), None)
        if anchor is not None and reference is not None:
            anchor.took(reference)
        own = [(lane, side) for lane, side in timed if lane is not beside]
        rows = [self._row(lane, side, effort, watts, gaps) for lane, side in own]
        for lane, side in own:
            self._ends(lane, side, batch, gaps)
        leads = bool(own) and own[0][0].candidate is self._reference
        return Cell(
            target=self.target,
            batch=batch,
            rows=rows,
            comparisons=[compare_measured(own[0][1], side) for _, side in own[1:]] if leads else [],
            across=[compare_measured(reference, side) for _, side in own] if reference else [],
            gaps=gaps,
        )

    def _runner(self, target: Target, candidate: Candidate, cores: tuple[int, ...]) -> Worker | Remote:
        if not self.remote:
            parcel = pack(candidate.artefact, self.text)
            return Worker(
                Order(self.text, candidate.model, candidate.precision, parcel, self.limits.memory, cores)
            )
        start = time.perf_counter()
        session = target.prepare(candidate.artefact, candidate.model, candidate.precision)
        load_ms = session.load_ms if session.load_ms is not None else 1e3 * (time.perf_counter() - start)
        facts = Facts(
            *(session.model, session.target, session.precision, session.threads, session.runtime),
            *(session.device, session.executed, load_ms, 0),
            size_bytes=session.size_bytes or candidate.artefact.size_bytes,
        )
        return Remote(session, facts)

    def _starts(self, lane: Lane, batch: int, gaps: list[Gap]) -> bool:
        """Run the batch for the first time, and hold the outputs against the reference."""
        candidate = lane.candidate
        if candidate.batch not in (None, batch):
            reason = f"the file takes batches of {candidate.batch} only"
            gaps.append(self._gap(candidate, batch, "not offered", reason))
            return False
        size = 4 * batch * math.prod(candidate.artefact.header.shape)
        if self.limits.memory is not None and size > self.limits.memory:
            reason = f"limit {self.limits.memory / 1e9:.3g} GB: the images alone take {size / 1e9:.3g} GB"
            gaps.append(self._gap(candidate, batch, "out of memory", reason))
            self._leave(lane)
            return False
        images = candidate.images(batch)
        try:
            lane.first = lane.runner.first(images, lane.patience)
            wanted = candidate.reference(images)
            if wanted is not None:
                name = f"{candidate.model} on {self.target}"
                check_output(name, lane.first.logits, wanted, TOLERANCES[candidate.precision])
        except Died as error:
            gaps.append(self._gap(candidate, batch, error.kind, str(error)))
        except ModelError as error:
            gaps.append(self._gap(candidate, batch, "wrong outputs", str(error)))
        else:
            return True
        self._leave(lane)
        return False

    def _leave(self, lane: Lane) -> None:
        self.lanes = [one for one in self.lanes if one is not lane]

    def lose(self, lane: Lane, error: Died) -> None:
        """Take a network out whose process ended outside rounds."""
        self.gaps.append(self._gap(lane.candidate, None, error.kind, str(error)))
        self._leave(lane)

    def leave(self, gaps: Sequence[Gap]) -> None:
        """Take out the networks whose memory or time ended in an earlier run."""
        ended = {(gap.model, gap.precision) for gap in gaps if gap.kind != "not offered"}
        self.lanes = [
            one for one in self.lanes if (one.candidate.model, one.candidate.precision) not in ended
        ]

    def _timed(
        self, lanes: Sequence[Lane], batch: int, effort: Effort
    ) -> tuple[list[tuple[Lane, Timed]], list[tuple[Lane, Died]]]:
        """Interleaved rounds; a network whose process ends is left out, and the others start again."""
        left, ended = list(lanes), list[tuple[Lane, Died]]()
        while left:
            try:
                timings = self._rounds(left, effort)
            except Ended as found:
                ended.append((found.lane, found.error))
                left = [lane for lane in left if lane is not found.lane]
                continue
            except TargetError as error:  # of the connection that all of them share
                return [], [*ended, *((lane, Died(str(error))) for lane in left)]
            pairs = zip(left, timings, strict=True)
            return [(lane, Timed(measured(lane.facts, batch, one), one)) for lane, one in pairs], ended
        return [], ended

    def _rounds(self, lanes: Sequence[Lane], effort: Effort) -> list[Timing]:
        here = [lane.runner for lane in lanes if isinstance(lane.runner, Remote)]
        if here:
            return time_rounds([one.session for one in here], [one.images for one in here], effort)
        slow = any(isinstance(lane.runner, Worker) and lane.runner.start_s > START_S for lane in lanes)
        effort = replace(effort, starts=1) if slow else effort
        found = time_sides([Guarded(lane) for lane in lanes], effort, turned=self._turned)
        self._turned ^= len(found[0].starts) % 2 == 0 and bool(found[0].starts)
        return found

    def _row(self, lane: Lane, side: Timed, effort: Effort, watts: float | None, gaps: list[Gap]) -> Row:
        """What is stored of a network; one whose process ends while energy is read leaves with its times."""
        assert lane.first is not None
        facts, batch, seconds = lane.facts, side.measurement.batch, side.measurement.latency_ms.median / 1e3
        spent: Energy | None = None
        try:
            spent = None if self.remote else _energy(lane, batch, min(effort.seconds, 1.0))
            if spent is None and watts is not None:
                spent = energy.by_power(seconds, watts=watts, batch=batch)
        except Died as error:
            gaps.append(self._gap(lane.candidate, batch, error.kind, f"while its energy was read: {error}"))
            self._leave(lane)
        return Row(
            **side.measurement.model_dump(),
            images_per_s=batch / seconds,
            load_ms=facts.load_ms,
            first_ms=lane.first.ms,
            added_bytes=None if self.remote else max(facts.added_bytes, lane.first.added_bytes),
            size_bytes=facts.size_bytes,
            starts=max(1, len(side.timing.starts)),
            executed=facts.executed,
            energy=spent,
        )

    def _ends(self, lane: Lane, side: Timed, batch: int, gaps: list[Gap]) -> None:
        """Take a network out whose calls take longer than the limit; this batch size still counts."""
        call_s, limit = side.measurement.latency_ms.median / 1e3, self.limits.call_s
        if limit is not None and call_s > limit:
            reason = f"a call of {batch} images takes {call_s:.3g} s (limit {limit:g} s)"
            gaps.append(self._gap(lane.candidate, 2 * batch, "over the time limit", reason))
            self._leave(lane)

    def _gap(self, candidate: Candidate, batch: int | None, kind: GapKind, reason: str) -> Gap:
        return Gap(
            model=candidate.model,
            target=self.target,
            precision=candidate.precision,
            batch=batch,
            kind=kind,
            reason=reason,
        )


def _energy(lane: Lane, batch: int, seconds: float) -> Energy | None:
    """Energy of a call by the machine's counters, or None where it has none."""
    meter = energy.counters(lane.facts.device)
    if meter is None or not isinstance(lane.runner, Worker):
        return None
    before = meter.read()
    time.sleep(min(0.3, seconds))
    idle = energy.spent(before, meter.read(), meter.ranges) / min(0.3, seconds)
    before = meter.read()
    calls = lane.runner.keep_running(seconds)
    joules = energy.spent(before, meter.read(), meter.ranges)
    return energy.by_counters(joules, calls, batch, ", ".join(meter.ranges), idle)
