"""How `tersa adapt` fitted a network to its target: what was estimated, measured, tried and chosen.

Example:
    >>> Adaptation(search="budget").checked
    []
"""

from __future__ import annotations

from typing import Literal

from tersa.records.base import Record


class Candidate(Record):
    """One way to go at a step of NetAdapt.

    Attributes:
        step: that it was a candidate for.
        group: layers that would be narrower.
        before: width of the group.
        width: that it would have.
        estimate_ms: of its network, from the table (corrected); None where latency was not asked.
        cost: share of the limit, 1 being the budget.
        score: what it was ranked by: a training-free score, or percent of validation accuracy.
        scored_by: name of the score, or `finetune`.
        chosen: it became the step.
        tries: estimates that the search for its width took.
        cut_seconds: of that search.
        score_seconds: of the score, or of the short fine-tune.
        evaluate_seconds: of the accuracy after it.
        iterations: of the short fine-tune that its accuracy is of; 0 where it was not fine-tuned.
        heat_score: percent of validation accuracy by which it won a race against the others; None where it
            lost (that is its score then) or where none was run.
    """

    step: int
    group: str
    before: int
    width: int
    estimate_ms: float | None
    cost: float
    score: float
    scored_by: str
    chosen: bool
    tries: int
    cut_seconds: float
    score_seconds: float
    evaluate_seconds: float
    iterations: int = 0
    heat_score: float | None = None


class Checked(Record):
    """An estimate from the table held against a measurement of the whole network.

    Attributes:
        step: of the trajectory, 0 for the baseline.
        estimate_ms: with the factor that was in use.
        first_ms: with the factor of the baseline alone.
        measured_ms: interleaved with the baseline: its latency over the speed-up.
        low: lower end of the 95 % interval, ms.
        high: upper end of it, ms.
        factor: in use from here on.
        interpolated: layers whose cost lies between measured ones.
        layers: in all.
    """

    step: int
    estimate_ms: float
    first_ms: float
    measured_ms: float
    low: float
    high: float
    factor: float
    interpolated: int
    layers: int


class CheckedEnergy(Record):
    """An estimate from the table of energies held against a measurement of the whole network.

    Attributes:
        step: of the trajectory, 0 for the baseline.
        estimate_mj: with the factor that was in use.
        first_mj: with the factor of the baseline alone.
        measured_mj: interleaved with the baseline: its energy times the ratio of the two.
        factor: in use from here on.
        interpolated: layers whose energy lies between measured ones.
        layers: in all.
    """

    step: int
    estimate_mj: float
    first_mj: float
    measured_mj: float
    factor: float
    interpolated: int
    layers: int


class EnergyUse(Record):
    """Energies of single layers and whole networks, where `tersa adapt` was asked for a limit on energy.

    Attributes:
        budget_mj: the limit.
        counters: that measured whole networks, by name.
        machine: whose energies the table holds.
        foreign: another machine's.
        points: layers of the table that this network uses.
        measured: of those, measured in this run.
        call_mj: the empty call.
        checked: estimates against measurements, along the trajectory.
    """

    budget_mj: float
    counters: str
    machine: str
    foreign: bool
    points: int
    measured: int
    call_mj: float
    checked: list[CheckedEnergy] = []  # noqa: RUF012 - pydantic copies defaults


class FrontPoint(Record):
    """One network of a Pareto front; its weights are those of its step.

    Attributes:
        step: of the trajectory.
        cost: share of the limits asked, 1 being on them.
        estimate_ms: from the table.
        macs: of one image.
        parameters: trainable values.
        validation_accuracy: percent, after a short fine-tune.
        dominated: another point is at least as good in everything.
        estimate_mj: energy, from the table; None where it was not asked for.
    """

    step: int
    cost: float
    estimate_ms: float | None
    macs: int
    parameters: int
    validation_accuracy: float
    dominated: bool = False
    estimate_mj: float | None = None


class Adaptation(Record):
    """How a network was fitted to its target.

    Attributes:
        search: `netadapt` or `budget`.
        budget_ms: the latency asked for, None where none was.
        machine: whose latencies the table holds; empty without a table, which only a latency asks for.
        foreign: another machine's.
        points: layers of the table that this network uses.
        measured: of those, measured in this run.
        call_ms: the empty call.
        unknown: operations that the table has no family for.
        checked: estimates against measurements, along the trajectory.
        candidates: of every step of NetAdapt.
        front: networks of a Pareto front.
        energy: of layers and networks, where a limit on it was asked.
        seconds: by stage: `table`, `energies`, `solve`, `cut`, `score`, `finetune`, `evaluate`, `measure`,
            `tune`; and `search`, the wall clock of choosing widths, most of these included.
    """

    search: Literal["netadapt", "budget"]
    budget_ms: float | None = None
    machine: str = ""
    foreign: bool = False
    points: int = 0
    measured: int = 0
    call_ms: float = 0.0
    unknown: list[str] = []  # noqa: RUF012 - pydantic copies defaults
    checked: list[Checked] = []  # noqa: RUF012 - pydantic copies defaults
    candidates: list[Candidate] = []  # noqa: RUF012 - pydantic copies defaults
    front: list[FrontPoint] = []  # noqa: RUF012 - pydantic copies defaults
    energy: EnergyUse | None = None
    seconds: dict[str, float] = {}  # noqa: RUF012 - pydantic copies defaults
