"""What the report and the terminal say of an adaptation: estimates, front, candidates, time; no drawings.

Example:
    >>> from tersa.records.adaptation import Checked
    >>> row = Checked(step=3, estimate_ms=1.1, first_ms=1.2, measured_ms=1.0, low=0.98, high=1.02, factor=0.9,
    ...               interpolated=2, layers=6)
    >>> off(row.estimate_ms, row.measured_ms)
    '+10.0 %'
"""

from __future__ import annotations

from tersa.records.adaptation import Adaptation, Candidate, Checked
from tersa.report.numbers import count, duration, percent, plural, si

STAGES = {
    "table": "measuring layers for the latency table",
    "energies": "measuring energies of layers",
    "solve": "importances and solving for widths",
    "cut": "searching for candidates' widths",
    "score": "scores without training",
    "finetune": "short fine-tunes",
    "evaluate": "validation accuracies",
    "measure": "measuring whole networks",
    "tune": "the closing fine-tune, exported and checked",
}


def off(estimate: float, measured: float) -> str:
    """How far an estimate is from its measurement."""
    return f"{100.0 * (estimate / measured - 1.0):+.1f} %"


def foretold(found: Adaptation) -> list[Checked]:
    """Measurements that an estimate went before: all but the baseline's, which sets the factor."""
    return [row for row in found.checked if row.step]


def check_rows(found: Adaptation) -> list[tuple[str, str, str, str, str]]:
    """Step, estimate, measured, interval and difference; the baseline's is as the layers sum up."""
    return [
        (
            str(row.step) if row.step else "baseline",
            f"{row.estimate_ms:.4g}",
            f"{row.measured_ms:.4g}",
            f"{row.low:.3g} to {row.high:.3g}" if row.step else "",
            off(row.estimate_ms, row.measured_ms),
        )
        for row in found.checked
    ]


def energy_rows(found: Adaptation) -> list[tuple[str, str, str, str]]:
    """Step, estimated and measured energy, and the difference; the baseline's is as the layers sum up."""
    return [
        (
            str(row.step) if row.step else "baseline",
            f"{row.estimate_mj:.4g}",
            f"{row.measured_mj:.4g}",
            off(row.estimate_mj, row.measured_mj),
        )
        for row in (found.energy.checked if found.energy else [])
    ]


def energy_words(found: Adaptation) -> str:
    """Where energies come from, in a few sentences; nothing where none was asked for."""
    used = found.energy
    if used is None:
        return ""
    text = f"Energy was measured by the counters of {used.counters}, idle power included. "
    text += f"{plural(used.points, 'layer')} make up the table"
    text += f", {count(used.measured)} of them measured in this run" if used.measured else ""
    text += f", on {used.machine}. The empty call takes {used.call_mj:.3g} mJ."
    if used.foreign:
        text += " The table was measured on another machine than this one."
    return text


def front_columns(found: Adaptation) -> tuple[str, ...]:
    """Of `front_rows`."""
    energy = ("estimate, mJ",) if found.energy else ()
    return ("step", "of the budget", "estimate, ms", *energy, "MACs", "parameters", "validation accuracy", "")


def front_rows(found: Adaptation) -> list[tuple[str, ...]]:
    """Step, share of the budget, estimates, MACs, parameters, accuracy, and whether it is beaten."""
    return [
        (
            str(point.step),
            f"{point.cost:.2f}",
            "" if point.estimate_ms is None else f"{point.estimate_ms:.4g}",
            *([] if point.estimate_mj is None else [f"{point.estimate_mj:.4g}"]),
            si(point.macs),
            si(point.parameters),
            percent(point.validation_accuracy),
            "beaten" if point.dominated else "",
        )
        for point in found.front
    ]


def second_rows(found: Adaptation) -> list[tuple[str, str]]:
    """Stage and time, in the order of the work."""
    known = [(STAGES[name], found.seconds[name]) for name in STAGES if name in found.seconds]
    return [(name, duration(seconds)) for name, seconds in known]


def table_words(found: Adaptation) -> str:
    """The table and its machine, in a sentence or two."""
    if not found.machine:
        return ""
    text = f"{plural(found.points, 'layer')} make up the table"
    text += f", {count(found.measured)} of them measured in this run" if found.measured else ""
    text += f", on {found.machine}. The empty call takes {1000.0 * found.call_ms:.1f} µs."
    if found.foreign:
        text += " It was measured on another machine than this one."
    if found.unknown:
        text += f" The table has nothing for {', '.join(found.unknown)}: their time is in the factor."
    return text


def check_words(found: Adaptation) -> str:
    """How well the table foretold, in a sentence."""
    rows = foretold(found)
    if not rows:
        return "No network but the baseline was measured whole: latency was not asked for."
    worst = max(abs(row.estimate_ms / row.measured_ms - 1.0) for row in rows)
    first = max(abs(row.first_ms / row.measured_ms - 1.0) for row in rows)
    each = plural(len(rows), "network")
    return (
        f"{each} on the way were measured beside the baseline: estimates were off by at most "
        f"{percent(100.0 * worst, 1)}, and by {percent(100.0 * first, 1)} with the baseline's factor alone."
    )


def race_words(found: Adaptation) -> str:
    """What was raced and the iterations of fine-tuning that took, in a sentence; nothing where none was.

    >>> row = Candidate(step=1, group="g", before=8, width=4, estimate_ms=None, cost=1.0, score=90.0,
    ...     scored_by="finetune", chosen=True, tries=1, cut_seconds=0.0, score_seconds=0.0,
    ...     evaluate_seconds=0.0, iterations=500, heat_score=70.0)
    >>> lost = row.model_copy(update={"chosen": False, "iterations": 50, "heat_score": None})
    >>> print(race_words(Adaptation(search="netadapt", candidates=[row, lost])))
    At 1 step 2 candidates raced for 50 iterations, and the best alone went on to 500: 550 in place of 1,000.
    """
    steps = {row.step for row in found.candidates if row.heat_score is not None}
    raced = [row for row in found.candidates if row.step in steps and row.iterations]
    if not raced:
        return ""
    most, least = max(row.iterations for row in raced), min(row.iterations for row in raced)
    spent = sum(row.iterations for row in raced)
    return (
        f"At {plural(len(steps), 'step')} {plural(len(raced), 'candidate')} raced for {count(least)} "
        f"iterations, and the best alone went on to {count(most)}: {count(spent)} in place of "
        f"{count(most * len(raced))}."
    )


def groups_of(found: Adaptation) -> list[tuple[str, float, float, float, int]]:
    """NetAdapt's time by group: name, seconds of cut, of score or fine-tune, of evaluation, times chosen."""
    by_group: dict[str, list[Candidate]] = {}
    for row in found.candidates:
        by_group.setdefault(row.group, []).append(row)
    return [
        (
            name,
            sum(row.cut_seconds for row in rows),
            sum(row.score_seconds for row in rows),
            sum(row.evaluate_seconds for row in rows),
            sum(row.chosen for row in rows),
        )
        for name, rows in by_group.items()
    ]
