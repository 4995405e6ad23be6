"""What a joint search tried and found: `result.json`, the Pareto front, and which network is taken.

A network is on the front where no other is at least as good in accuracy and every cost, and better in one.
Of the front's networks within all goals the one is taken whose costs are least together (geometric mean of
its shares of the baseline's); where only costs are bounded, the most accurate one. Where none is within all
goals, the one that misses them least.

Example:
    >>> def row(number: int, accuracy: float, macs: int) -> TriedNetwork:
    ...     return TriedNetwork(number=number, width=1, ratios={}, bits={}, validation_accuracy=accuracy,
    ...         loss_points=0, standard_error=0, parameters=9, macs=macs, size_bytes=9, channels={},
    ...         violation=0)
    >>> rows = [row(0, 99.0, 100), row(1, 98.0, 50), row(2, 97.0, 60)]
    >>> [one.number for one in front(rows, ("macs",))]
    [0, 1]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tersa.recipes.goals import CostName, Goals, Start
from tersa.records.base import SCHEMA, Record
from tersa.records.results import Agreement, Comparison, Environment, Figures, Goal

FIELDS: dict[CostName, str] = {
    "latency": "latency_ms",
    "size": "size_bytes",
    "macs": "macs",
    "parameters": "parameters",
}


class TriedNetwork(Record):
    """One network that was tried.

    Attributes:
        number: of the trial in the storage.
        width: share of the channels that it was built and trained with.
        ratios: share of those that were pruned, by layer (`network` for one ratio for all).
        bits: of each layer's weights; empty for float weights.
        validation_accuracy: percent, after its fine-tune.
        loss_points: of validation accuracy against the baseline, on the same images.
        standard_error: of `loss_points`.
        parameters: trainable values left.
        macs: for one image.
        size_bytes: of its file: coded where weights have few bits, else ONNX.
        latency_ms: median, from rounds interleaved with the baseline's: its latency over the speed-up; None
            where it was not measured.
        channels: left in each layer.
        violation: by how much goals are missed on validation, see `joint_networks.violation`; 0: within all.
        on_front: no other is at least as good in everything and better in something.
        seconds: it took.
    """

    number: int
    width: float
    ratios: dict[str, float]
    bits: dict[str, int]
    validation_accuracy: float
    loss_points: float
    standard_error: float
    parameters: int
    macs: int
    size_bytes: int
    latency_ms: float | None = None
    channels: dict[str, int]
    violation: float
    on_front: bool = False
    seconds: float = 0.0

    def cost(self, name: CostName) -> float:
        """One of its costs; infinity where it was not measured."""
        value = getattr(self, FIELDS[name])
        return math.inf if value is None else float(value)


class SearchResult(Record):
    """Everything that one search found.

    Attributes:
        costs: that were set against accuracy.
        storage: where trials are kept, without a password.
        study: name there.
        trials: networks that were tried, in order; those that diverged are counted in `diverged`.
        chosen: number of the trial that became the result.
        comparison: baseline and result, measured at the end.
        agreement: the coded file's network with the one that was coded, on the test images.
    """

    schema_version: int = SCHEMA
    verb: Literal["search"] = "search"
    name: str
    command: str
    data: str
    model: str
    target: str
    batch: int
    costs: list[CostName]
    storage: str
    study: str
    seed: int
    baseline: Figures
    result: Figures
    compression: float
    acceleration: float
    size_ratio: float
    speedup: float
    loss_points: float
    goals: list[Goal]
    verdict: str
    detail: str
    chosen: int
    front: list[TriedNetwork]
    trials: list[TriedNetwork]
    diverged: int
    comparison: Comparison
    agreement: Agreement
    environment: Environment
    artefacts: list[str]
    report: str
    seconds: float

    def absolute(self, folder: Path) -> SearchResult:
        """The same with whole paths, as scripts want them."""
        paths = [str(folder / name) for name in self.artefacts]
        return self.model_copy(update={"artefacts": paths, "report": str(folder / self.report)})


def distinct(rows: Sequence[TriedNetwork]) -> int:
    """Networks of different settings; a setting that was sampled again has a row again."""
    return len({(row.width, *row.ratios.items(), *row.bits.items()) for row in rows})


def front(rows: Sequence[TriedNetwork], costs: Sequence[CostName]) -> list[TriedNetwork]:
    """The networks that no other dominates, most accurate first; of equal ones the first."""

    def merits(row: TriedNetwork) -> tuple[float, ...]:
        return (row.validation_accuracy, *(-row.cost(name) for name in costs))

    unique = list({merits(row): row for row in reversed(rows)}.values())
    kept = [
        row
        for row in unique
        if not any(
            all(b >= a for a, b in zip(merits(row), merits(other), strict=True))
            and merits(other) != merits(row)
            for other in unique
        )
    ]
    return sorted(kept, key=lambda row: (-row.validation_accuracy, *(row.cost(name) for name in costs)))


def pick(rows: Sequence[TriedNetwork], costs: Sequence[CostName], goals: Goals, start: Start) -> TriedNetwork:
    """The network to take; see the head of this file."""
    within = front([row for row in rows if row.violation <= 0], costs)
    if not within:
        return min(rows, key=lambda row: (row.violation, -row.validation_accuracy, row.number))
    if goals.bounded and not goals.guarded:
        return within[0]
    return min(within, key=lambda row: (burden(row, costs, start), -row.validation_accuracy, row.number))


def burden(row: TriedNetwork, costs: Sequence[CostName], start: Start) -> float:
    """Geometric mean of a network's costs as shares of the baseline's."""
    base = {
        "latency": start.latency_ms,
        "size": start.size_bytes,
        "macs": start.macs,
        "parameters": start.parameters,
    }
    shares = [row.cost(name) / base[name] for name in costs]
    return math.prod(shares) ** (1 / len(shares))
