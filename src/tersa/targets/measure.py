"""What is stored of timed networks: measurements, and which is faster, or that there is no difference.

Networks are timed side by side (`rounds.py`), after their outputs were compared with a reference. A result
that is not faster comes with its likely reason.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tersa.errors import ModelError
from tersa.records.results import Comparison, Measurement
from tersa.targets.base import Effort, Pixels, Session
from tersa.targets.rounds import Clock, Timing, time_rounds
from tersa.targets.statistics import Summary, compare_rounds, summarise

Logits = npt.NDArray[np.floating]

SMALL_CALL_MS = 0.05
"""Below this a call is mostly the runtime's own work: checking inputs, memory, starting operators."""


class Named(Protocol):
    """What a stored measurement names of a prepared network; `Session` and `worker.Facts` have it."""

    @property
    def model(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def runtime(self) -> str: ...
    @property
    def device(self) -> str: ...


@dataclass(frozen=True)
class Timed:
    """One side of a measurement: what is stored of it, and its rounds."""

    measurement: Measurement
    timing: Timing


def measure_timed(
    sessions: Sequence[Session],
    images: Pixels | Sequence[Pixels],
    *,
    effort: Effort | None = None,
    reference: Sequence[Logits | None] | None = None,
    tolerance: float = 1e-3,
    clock: Clock = time.perf_counter_ns,
) -> list[Timed]:
    """Latency of every session from interleaved rounds, with the rounds themselves.

    Args:
        sessions: prepared networks.
        images: one batch for all, (N, C, H, W) float32 in 0..1, or one for each.
        effort: how long to measure; None for the default.
        reference: logits that each session must give for its images before it is timed; None where unknown.
        tolerance: of any logit, relative to the largest (or 1).
        clock: nanoseconds; a test passes its own.

    Raises:
        ModelError: a session does not give its reference.
    """
    inputs = [images] * len(sessions) if isinstance(images, np.ndarray) else list(images)
    if reference is not None:
        for session, batch, wanted in zip(sessions, inputs, reference, strict=True):
            if wanted is not None:
                with session.pinned():
                    found = session.run(batch)
                check_output(f"{session.model} on {session.target}", found, wanted, tolerance)
    timings = time_rounds(sessions, inputs, effort or Effort(), clock)
    return [Timed(measured(s, len(x), t), t) for s, x, t in zip(sessions, inputs, timings, strict=True)]


def measure(
    sessions: Sequence[Session],
    images: Pixels | Sequence[Pixels],
    *,
    effort: Effort | None = None,
    reference: Sequence[Logits | None] | None = None,
    tolerance: float = 1e-3,
    clock: Clock = time.perf_counter_ns,
) -> list[Measurement]:
    """Latency of every session from interleaved rounds; arguments and errors as for `measure_timed`."""
    timed = measure_timed(
        sessions, images, effort=effort, reference=reference, tolerance=tolerance, clock=clock
    )
    return [side.measurement for side in timed]


def compare(
    before: Session,
    after: Session,
    images: Pixels | Sequence[Pixels],
    *,
    effort: Effort | None = None,
    reference: Sequence[Logits | None] | None = None,
    tolerance: float = 1e-3,
    clock: Clock = time.perf_counter_ns,
) -> Comparison:
    """Baseline against result, from interleaved rounds; arguments and errors as for `measure_timed`."""
    first, second = measure_timed(
        [before, after], images, effort=effort, reference=reference, tolerance=tolerance, clock=clock
    )
    return compare_measured(first, second)


def compare_measured(first: Timed, second: Timed) -> Comparison:
    """The comparison of two sides that were timed in the same rounds."""
    before, after = first.measurement, second.measurement
    ratio = compare_rounds(first.timing.times_ms, second.timing.times_ms, first.timing.starts)
    return Comparison(
        target=after.target,
        precision=after.precision,
        before=before,
        after=after,
        speedup=ratio.speedup,
        low=ratio.low,
        high=ratio.high,
        verdict=ratio.verdict,
        reason="" if ratio.verdict == "faster" else likely_reason(before, after),
    )


def likely_reason(before: Measurement, after: Measurement) -> str:
    """In plain words, the likely cause of a result that is not faster."""
    call = after.latency_ms.median
    unsteady = max(_spread(before), _spread(after))
    if call < SMALL_CALL_MS and before.latency_ms.median < 4 * SMALL_CALL_MS:
        return f"one call takes {call:.3g} ms: the runtime's fixed cost dominates"
    if unsteady > 0.25:
        return f"the machine was busy: times vary by {100 * unsteady:.0f} % between rounds"
    if after.precision == "int8" and before.precision != "int8":
        return "converting between float and INT8 costs as much as the integer arithmetic saves"
    if after.threads > 1:
        return f"the smaller layers do not keep {after.threads} threads busy"
    return "the layers that became smaller take a small share of the time"


def not_offered(target: str, precision: str, reason: str) -> Comparison:
    """A combination that a runtime does not have, for tables that leave nothing blank."""
    return Comparison(target=target, precision=precision, verdict="not offered", reason=reason)


def _spread(side: Measurement) -> float:
    return (side.latency_ms.p90 - side.latency_ms.p10) / side.latency_ms.median


def measured(session: Named, batch: int, timing: Timing) -> Measurement:
    """The row that is stored of one side's rounds."""
    found: Summary = summarise(timing.times_ms, timing.starts)
    return Measurement(
        model=session.model,
        target=session.target,
        precision=session.precision,
        batch=batch,
        threads=session.threads,
        latency_ms=found.quantiles,
        rounds=len(timing.times_ms),
        warmup=timing.warmup,
        calls=timing.calls * len(timing.times_ms),
        low=found.low,
        high=found.high,
        outliers=found.outliers,
        drift=found.drift,
        runtime=session.runtime,
        device=session.device,
    )


def check_output(name: str, found: Logits, wanted: Logits, tolerance: float) -> None:
    """Refuse logits that are not the reference's.

    Args:
        name: of the session, for the error.
        found: (N, K), what it gives.
        wanted: (N, K), what it must give.
        tolerance: of any logit, relative to the largest (or 1).

    Raises:
        ModelError: they differ by more, or are not numbers.
    """
    difference = float(np.abs(found - wanted).max()) if found.shape == wanted.shape else math.inf
    allowed = tolerance * max(1.0, float(np.abs(wanted).max()))
    if not difference <= allowed:
        raise ModelError(
            f"{name} does not give the trained network's outputs: "
            f"logits differ by {difference:.3g} (allowed {allowed:.3g}); it is not timed"
        )
