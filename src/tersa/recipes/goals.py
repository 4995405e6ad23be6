"""What a user asks of a smaller network, and whether it was reached.

Goals come in two kinds. *Floors* guard the accuracy (`--max-loss`, `--min-accuracy`); *bounds* limit a cost
(`--size`, `--macs`, `--latency`, in `tersa adapt` also `--energy`), absolute or as a share of the baseline
(`0.5x`). While a network is being shrunk, goals are held against the validation split with a margin of one
standard error of the paired difference, and latency against the upper end of its interval; at the end, once,
against the test set and the final measurement without margin.

Example:
    >>> parse_bound("64kB", "size")
    Bound(value=64000.0, relative=False)
    >>> parse_bound("0.5x", "latency").limit(2.0)
    1.0
    >>> parse_bound("fast", "latency")
    Traceback (most recent call last):
    ...
    tersa.errors.UsageError: --latency 'fast' is not understood; write a share of the baseline (0.5x) ...
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Self, cast

from tersa.errors import UsageError, faults
from tersa.numerics import PairedLoss
from tersa.records.base import Record
from tersa.records.results import Figures, Goal

CostName = Literal["size", "latency", "macs", "parameters"]
"""Costs that every verb knows."""

Kind = Literal[CostName, "energy"]
"""Costs that may be bounded."""

UNITS: dict[str, dict[str, float]] = {
    "size": {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "kib": 1024, "mib": 1024**2},
    "latency": {"ms": 1, "us": 1e-3, "µs": 1e-3, "s": 1e3},
    "macs": {"": 1, "k": 1e3, "m": 1e6, "g": 1e9},
    "parameters": {"": 1, "k": 1e3, "m": 1e6},
    "energy": {"mj": 1, "uj": 1e-3, "µj": 1e-3, "j": 1e3},
}
FORMS = {
    "size": "64kB, 1.5MB or 64KiB",
    "latency": "2ms, 300us",
    "macs": "400k, 2M",
    "parameters": "10k, 1.5M",
    "energy": "2mJ, 500uJ or 0.1J",
}


class Bound(Record):
    """A limit on a cost: absolute, or a share of the baseline's.

    Attributes:
        value: in bytes, milliseconds, millijoules or MACs; or the share when `relative`.
        relative: the limit is `value` times the baseline's cost.
    """

    value: float
    relative: bool

    def limit(self, baseline: float) -> float:
        """The bound in absolute terms."""
        return self.value * baseline if self.relative else self.value

    def text(self, kind: Kind) -> str:
        """As on the command line.

        >>> parse_bound("64kB", "size").text("size"), parse_bound("0.5x", "macs").text("macs")
        ('64000', '0.5x')
        """
        unit = "x" if self.relative else {"latency": "ms", "energy": "mJ"}.get(kind, "")
        return f"{self.value:.12g}{unit}"


def parse_bound(text: str, kind: Kind, option: str | None = None) -> Bound:
    """Read `0.5x` or a number with a unit.

    Args:
        text: what was written.
        kind: of the quantity.
        option: where it was written, if not in the option of that kind.

    Raises:
        UsageError: not such a text, or not a positive number.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([a-zµ]*)\s*", text.strip().lower())
    unit = match.group(2) if match else None
    known = UNITS[kind]
    if match is None or float(match.group(1)) <= 0 or (unit != "x" and unit not in known):
        raise UsageError(
            f"--{option or kind} '{text}' is not understood; "
            f"write a share of the baseline (0.5x) or {FORMS[kind]}"
        )
    if unit == "x":
        return Bound(value=float(match.group(1)), relative=True)
    return Bound(value=float(match.group(1)) * known[str(unit)], relative=False)


class Goals(Record):
    """Everything asked of the result.

    Attributes:
        max_loss: points of accuracy that may be lost against the baseline, or None.
        min_accuracy: percent that must be kept, or None.
        size: of the artefact on disk.
        latency: at the target, batch and precision of the run.
        macs: multiply-accumulates for one image.
        parameters: trainable values that are left.
        energy: of one call at the target, by the machine's counters; of `tersa adapt` alone.
    """

    max_loss: float | None = None
    min_accuracy: float | None = None
    size: Bound | None = None
    latency: Bound | None = None
    macs: Bound | None = None
    parameters: Bound | None = None
    energy: Bound | None = None

    @classmethod
    def read(
        cls, *, max_loss: float | None = None, min_accuracy: float | None = None, **bounds: str | None
    ) -> Self:
        """Goals as they are written: floors as numbers, bounds as texts; what is None or empty is not asked.

        >>> Goals.read(max_loss=1.0, size="64kB", macs=None) == Goals(
        ...     max_loss=1.0, size=parse_bound("64kB", "size")
        ... )
        True

        Raises:
            UsageError: a text that is no bound.
        """
        read = {kind: parse_bound(text, cast(Kind, kind)) for kind, text in bounds.items() if text}
        return cls.model_validate({"max_loss": max_loss, "min_accuracy": min_accuracy, **read})

    @property
    def bounded(self) -> bool:
        """A cost is limited: shrinking ends as soon as every bound is reached."""
        return any((self.size, self.latency, self.macs, self.parameters, self.energy))

    @property
    def guarded(self) -> bool:
        """The accuracy has a floor."""
        return self.max_loss is not None or self.min_accuracy is not None

    def check(self) -> None:
        """All faults of the goals together.

        Raises:
            UsageError: numbers outside their range.
        """
        found: list[str] = []
        if self.max_loss is not None and not 0 <= self.max_loss < 100:
            found.append(f"--max-loss {self.max_loss:g} is not in 0..100 points")
        if self.min_accuracy is not None and not 0 < self.min_accuracy <= 100:
            found.append(f"--min-accuracy {self.min_accuracy:g} is not in 0..100 %")
        bounds = {
            "size": self.size,
            "latency": self.latency,
            "macs": self.macs,
            "parameters": self.parameters,
            "energy": self.energy,
        }
        for name, bound in bounds.items():
            if bound is not None and bound.relative and bound.value >= 1:
                found.append(f"--{name} {bound.value:g}x asks for nothing smaller; write a share below 1")
        if found:
            raise faults("goals", found)

    def allowed_loss(self, baseline_accuracy: float) -> float | None:
        """The stricter of the two floors as points that may be lost, or None."""
        losses = [self.max_loss] if self.max_loss is not None else []
        if self.min_accuracy is not None:
            losses.append(baseline_accuracy - self.min_accuracy)
        return min(losses) if losses else None


@dataclass(frozen=True)
class Standing:
    """Where one candidate stands, on the validation split.

    Attributes:
        accuracy: percent.
        loss: against the baseline on the same images.
        macs: for one image.
        size_bytes: of its artefact.
        latency_ms: cautious (upper end of the interval), None where not measured.
        parameters: trainable values.
        energy_mj: of one call, None where not measured.
    """

    accuracy: float
    loss: PairedLoss
    macs: int
    size_bytes: int | None = None
    latency_ms: float | None = None
    parameters: int | None = None
    energy_mj: float | None = None


@dataclass(frozen=True)
class Start:
    """The baseline's costs, which relative goals refer to; the energy is 0 where it is not asked for."""

    accuracy: float
    macs: int
    size_bytes: int
    latency_ms: float
    parameters: int = 0
    energy_mj: float = 0.0


def keeps_accuracy(goals: Goals, start: Start, standing: Standing) -> bool:
    """The floors hold on validation with one standard error to spare."""
    allowed = goals.allowed_loss(start.accuracy)
    return allowed is None or standing.loss.pessimistic <= allowed


def within_bounds(goals: Goals, start: Start, standing: Standing) -> bool:
    """Every bound holds; a cost that was not measured counts as missed."""
    pairs = (
        (goals.macs, standing.macs, start.macs),
        (goals.size, standing.size_bytes, start.size_bytes),
        (goals.latency, standing.latency_ms, start.latency_ms),
        (goals.parameters, standing.parameters, start.parameters),
        (goals.energy, standing.energy_mj, start.energy_mj),
    )
    return all(
        bound is None or (value is not None and value <= bound.limit(reference))
        for bound, value, reference in pairs
    )


def file_goal(name: str, most_bytes: int, size_bytes: int, text: str, reason: str) -> Goal:
    """A limit on the bytes of a file, and whether it was kept.

    Args:
        name: of the goal.
        most_bytes: the limit.
        size_bytes: on disk.
        text: the goal as a sentence.
        reason: why it was missed, should it have been.
    """
    met = size_bytes <= most_bytes
    return Goal(
        name=name,
        asked=most_bytes,
        reached=size_bytes,
        unit="bytes",
        met=met,
        text=text,
        reason="" if met else reason,
    )


def judged(
    goals: Goals, before: Figures, after: Figures, loss_points: float, reasons: dict[str, str]
) -> list[Goal]:
    """The final word on every goal, from the test set and the final measurement.

    Args:
        goals: what was asked.
        before: figures of the baseline.
        after: figures of the result.
        loss_points: lost on the test set.
        reasons: goal name -> why it was missed, for those that were.
    """
    rows: list[Goal] = []

    def row(name: str, asked: float, reached: float, unit: str, met: bool, text: str) -> None:
        reason = "" if met else reasons.get(name, "")
        rows.append(
            Goal(name=name, asked=asked, reached=reached, unit=unit, met=met, text=text, reason=reason)
        )

    slack = 1e-9  # points are differences of percentages: 0.24 asked and 0.24 reached must count as met
    if goals.max_loss is not None:
        text = f"lose at most {goals.max_loss:g} points"
        row("max-loss", goals.max_loss, loss_points, "points", loss_points <= goals.max_loss + slack, text)
    if goals.min_accuracy is not None:
        met = after.test_accuracy >= goals.min_accuracy - slack
        row(
            "min-accuracy",
            goals.min_accuracy,
            after.test_accuracy,
            "%",
            met,
            f"keep {goals.min_accuracy:g} %",
        )
    costs = (
        ("size", goals.size, before.size_bytes, after.size_bytes, "bytes"),
        ("latency", goals.latency, before.latency_ms.median, after.latency_ms.median, "ms"),
        ("macs", goals.macs, before.macs, after.macs, "MACs"),
        ("parameters", goals.parameters, before.parameters, after.parameters, "parameters"),
        ("energy", goals.energy, before.energy_mj, after.energy_mj, "mJ"),
    )
    for name, bound, old, new, unit in costs:
        if bound is not None:
            assert old is not None, "an energy that is asked for is measured"
            assert new is not None
            limit = bound.limit(old)
            share = f"{bound.value:g} times the baseline's {name}" if bound.relative else f"{limit:g} {unit}"
            by = f", measured by {after.energy_by}" if name == "energy" else ""
            row(name, limit, new, unit, new <= limit, f"at most {share}{by}")
    return rows
