"""The answer of a pruning reproduction, put together from what is stored.

One sentence from table 4.1 (`recipes.pruning_results`) and from which findings of the document hold
(`recipes.pruning_findings`); then four questions: which criterion, does normalising help, how much
retraining, does the criterion have to be computed again. A question whose curves are not there is left out,
a difference within a tie is told as one, and one seed is said to have no interval.

Example:
    >>> listed(["Taylor"]), listed(["Taylor", "weights", "random"])
    ('Taylor', 'Taylor, weights and random')
"""

from __future__ import annotations

from collections.abc import Sequence

from tersa.recipes.pruning_curves import FIGURES, Figure
from tersa.recipes.pruning_findings import TIE, Areas, Finding
from tersa.recipes.pruning_results import TableRow
from tersa.recipes.pruning_store import Walked
from tersa.report.numbers import factor, percent, plural, plus_minus


def headline(rows: Sequence[TableRow], found: Sequence[Finding], walked: Sequence[Walked]) -> str:
    """The answer in one sentence."""
    parts: list[str] = []
    if rows:
        least = min((row for row in rows if row.floor == rows[0].floor), key=lambda row: row.compression)
        more = " or more" if sum(row.floor == least.floor for row in rows) > 1 else ""
        fewer = f"{factor(least.compression)} fewer parameters and {factor(least.acceleration)} fewer MACs"
        parts.append(f"Taylor with l2 keeps {percent(least.validation_accuracy)} with {fewer}{more}")
    decided = [each for each in found if each.verdict != "open"]
    if decided:
        ways = [each.verdict for each in decided]
        tally = f"{ways.count('holds')} of the document's {len(decided)} findings hold"
        tally += f", {ways.count('in part')} in part" if "in part" in ways else ""
        parts.append(tally)
    if not parts:
        done = sum(each.status == "done" for each in walked)
        parts.append(f"{plural(done, 'curve')} pruned, too few for a finding of the document")
    return "; ".join(parts)


def details(walked: Sequence[Walked]) -> str:
    """The answer in sentences: criterion, normalisation, retraining, computing the criterion again."""
    areas = Areas(walked)
    said = [_criteria(areas), _normalising(areas), _retraining(areas), _again(areas)]
    seeds = {each.curve.seed for each in walked}
    if any(said):
        said.append(
            "One seed a curve: there are no intervals, and differences below "
            f"{TIE:g} points of mean accuracy count as ties."
            if len(seeds) < 2
            else f"Seeds {listed([str(seed) for seed in sorted(seeds)])}; where a curve has several, a "
            "difference must have one direction in all of them."
        )
    return " ".join(part for part in said if part)


def _criteria(areas: Areas) -> str:
    """The best criterion over the whole network under each protocol."""
    parts: list[str] = []
    for number, protocol in (
        ("4.4", "without retraining"),
        ("4.10", "with 100 iterations"),
        ("4.14", "with the criterion computed once"),
    ):
        labels = {curve.name: label for label, curve in _figure(number).panels[0].lines}
        best = areas.leaders(list(labels))
        if best is not None:
            tie = " (a tie)" if len(best) > 1 else ""
            parts.append(f"{listed([labels[name] for name in best])}{tie} {protocol}")
    return f"Best over the whole network with l2: {'; '.join(parts)}." if parts else ""


def _normalising(areas: Areas) -> str:
    """What l2 adds, with and without retraining."""
    parts: list[str] = []
    for number, protocol in (("4.3", "without retraining"), ("4.11", "with 100 iterations")):
        gains = _gains(areas, number, "l2", "none")
        parts += [f"{gains} {protocol}"] if gains else []
    return f"Normalising by l2 adds {listed(parts)}, by criterion." if parts else ""


def _retraining(areas: Areas) -> str:
    """What more iterations add over the whole network."""
    parts: list[str] = []
    for more, less in (("50", "10"), ("100", "50")):
        gains = _gains(areas, "4.8", f"{more} iterations", f"{less} iterations")
        parts += [f"{gains} from {less} to {more}"] if gains else []
    return f"More iterations over the whole network add {listed(parts)}." if parts else ""


def _again(areas: Areas) -> str:
    """What computing the criterion at every step adds."""
    lines = {label: curve.name for label, curve in _figure("4.16").panels[0].lines}
    every, once = lines["100 iterations, all layers"], lines["criterion once"]
    gap = areas.gap(every, once)
    if gap is None:
        return ""
    if not (areas.above(every, once) or areas.above(once, every)):
        return f"Computing Taylor again at every step: no difference to be told ({plus_minus(gap)} points)."
    return f"Computing Taylor again at every step, over the whole network: {plus_minus(gap)} points."


def _gains(areas: Areas, number: str, first: str, second: str) -> str:
    """Points that one line is above another, over the panels of a figure: `+1.24 to +1.55 points`."""
    gaps: list[float] = []
    for panel in _figure(number).panels:
        names = {label: curve.name for label, curve in panel.lines}
        gap = areas.gap(names[first], names[second])
        gaps += [gap] if gap is not None else []
    ends = list(dict.fromkeys(plus_minus(end) for end in (min(gaps), max(gaps)))) if gaps else []
    return f"{' to '.join(ends)} points" if ends else ""


def _figure(number: str) -> Figure:
    return next(figure for figure in FIGURES if figure.number == number)


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""
