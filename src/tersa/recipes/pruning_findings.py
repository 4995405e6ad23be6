"""What the curves say about each of the document's findings, in words that are computed from them.

A walk is judged by one number, its mean validation accuracy while channels go (the area under its curve):

    area = integral of accuracy over removed channels / channels removed in all             percent

Two walks differ *clearly* where their areas are more than `TIE` points apart, in the same direction for every
seed that both have. With one seed there is no interval: `TIE` is what a difference must exceed to be told.

A finding is split into checks: all true, it holds; some, it holds in part; none, it is not seen here, be it
that the curves say otherwise or that they tie; where a curve is missing, it is open.

Example:
    >>> verdict([True, True]), verdict([True, False]), verdict([False]), verdict([True, None])
    ('holds', 'in part', 'not seen', 'open')
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from tersa.recipes.pruning_curves import FIGURES, Figure, Point
from tersa.recipes.pruning_store import Walked

TIE = 0.5
"""Points of mean accuracy: walks that are closer are told as a tie."""

Check = bool | None


@dataclass(frozen=True)
class Finding:
    """One finding of the document.

    Attributes:
        number: of its figure.
        document: what the document says, in this project's words.
        here: the mean accuracies of the figure's curves, in words.
        verdict: `holds`, `in part`, `not seen` or `open`.
    """

    number: str
    document: str
    here: str
    verdict: str


def area(points: Sequence[Point]) -> float:
    """Mean validation accuracy of a walk, percent; steps count by the channels that they removed."""
    whole = points[-1].removed - points[0].removed
    if whole == 0:
        return points[0].validation_accuracy
    parts = (
        (b.removed - a.removed) * (a.validation_accuracy + b.validation_accuracy) / 2
        for a, b in pairwise(points)
    )
    return sum(parts) / whole


class Areas:
    """The areas of all curves that are done, by name and seed."""

    def __init__(self, walked: Sequence[Walked]) -> None:
        self.known: dict[str, dict[int, float]] = {}
        for each in walked:
            if each.status == "done":
                self.known.setdefault(each.curve.name, {})[each.curve.seed] = area(each.points)

    def mean(self, name: str) -> float | None:
        """Over the seeds, percent; None for a curve that is not there."""
        return fmean(self.known[name].values()) if name in self.known else None

    def gap(self, first: str, second: str) -> float | None:
        """Points that the first is above the second, over the seeds that both have."""
        found = self._gaps(first, second)
        return fmean(found) if found else None

    def above(self, first: str, second: str) -> Check:
        """The first is clearly above the second."""
        found = self._gaps(first, second)
        return bool(fmean(found) > TIE and min(found) > 0) if found else None

    def leaders(self, names: Sequence[str]) -> list[str] | None:
        """The best, and all that it is not clearly above; None where a curve is missing."""
        means = {name: self.mean(name) for name in names}
        if not names or any(mean is None for mean in means.values()):
            return None
        best = max(names, key=lambda name: means[name] or 0.0)
        return [best, *(name for name in names if name != best and not self.above(best, name))]

    def tied(self, names: Sequence[str]) -> Check:
        """No one is clearly above another."""
        found = self.leaders(names)
        return None if found is None else len(found) == len(names)

    def _gaps(self, first: str, second: str) -> list[float]:
        one, two = self.known.get(first, {}), self.known.get(second, {})
        return [one[seed] - two[seed] for seed in one if seed in two]


def verdict(checks: Sequence[Check]) -> str:
    """What a finding's checks add up to."""
    if not checks or None in checks:
        return "open"
    return "holds" if all(checks) else "in part" if any(checks) else "not seen"


Lines = Mapping[str, str]
"""Label of a line and the name of its curve."""


def _criterion_each_layer(areas: Areas, panels: Sequence[Lines]) -> list[Check]:
    leading = [_leads(areas, lines, "Taylor") for lines in panels]
    sums = [areas.mean(lines["random"]) for lines in panels]
    first, *_, last = sums
    return [*leading, None if first is None or last is None else first + TIE < last]


def _worse_than_random(areas: Areas, panels: Sequence[Lines]) -> list[Check]:
    (lines,) = panels
    return [areas.above(lines["random"], name) for label, name in lines.items() if label != "random"]


def _normalised(areas: Areas, panels: Sequence[Lines]) -> list[Check]:
    gains = [areas.above(lines["l2"], lines["none"]) for lines in panels]
    return [*gains, *(_not(areas.above(lines["l1"], lines["l2"])) for lines in panels)]


def _taylor_best(areas: Areas, panels: Sequence[Lines]) -> list[Check]:
    (lines,) = panels
    found = areas.leaders(list(lines.values()))
    return [None] if found is None else [lines["Taylor"] in found, found == [lines["Taylor"]]]


def _fewer_would_not_do(areas: Areas, panels: Sequence[Lines]) -> list[Check]:
    """From 10 to 50 iterations gains clearly, and more than from 50 to 100."""
    found: list[Check] = []
    for lines in panels:
        ten, fifty, hundred = lines.values()
        small, large = areas.gap(hundred, fifty), areas.gap(fifty, ten)
        if small is None or large is None:
            found.append(None)
        else:
            found.append(bool(areas.above(fifty, ten)) and small < large)
    return found


def _fifty_do(areas: Areas, panels: Sequence[Lines]) -> list[Check]:
    """100 iterations are not clearly above 50."""
    found: list[Check] = []
    for lines in panels:
        _, fifty, hundred = lines.values()
        found.append(_not(areas.above(hundred, fifty)))
    return found


def _all_alike(areas: Areas, panels: Sequence[Lines]) -> list[Check]:
    return [areas.tied(list(lines.values())) for lines in panels]


def _still_needed(areas: Areas, panels: Sequence[Lines]) -> list[Check]:
    """l2 is clearly above none for Taylor and activation, and not for the weights."""
    gains = [areas.above(lines["l2"], lines["none"]) for lines in panels]
    taylor, weights, activation = gains
    return [taylor, activation, _not(weights)]


def _random_suffers(areas: Areas, panels: Sequence[Lines]) -> list[Check]:
    found = [areas.leaders(list(lines.values())) for lines in panels]
    return [
        None if best is None else lines["random"] not in best
        for lines, best in zip(panels, found, strict=True)
    ]


def _then_activation(areas: Areas, panels: Sequence[Lines]) -> list[Check]:
    (lines,) = panels
    rest = [name for label, name in lines.items() if label != "Taylor"]
    second = areas.leaders(rest)
    return [*_taylor_best(areas, panels), None if second is None else lines["activation"] in second]


def _everything_learns(areas: Areas, panels: Sequence[Lines]) -> list[Check]:
    """Retraining all layers leads, and computing the criterion once stays close behind."""
    found: list[Check] = []
    for lines in panels:
        everything = "100 iterations, all layers"
        found += [
            _leads(areas, lines, everything),
            _not(areas.above(lines[everything], lines["criterion once"])),
        ]
    return found


def _again_matters(areas: Areas, panels: Sequence[Lines]) -> list[Check]:
    (lines,) = panels
    return [areas.above(lines["100 iterations, all layers"], lines["criterion once"])]


def _leads(areas: Areas, lines: Lines, label: str) -> Check:
    found = areas.leaders(list(lines.values()))
    return None if found is None else lines[label] in found


def _not(check: Check) -> Check:
    return None if check is None else not check


CLAIMS: dict[str, tuple[str, Callable[[Areas, Sequence[Lines]], list[Check]]]] = {
    "4.1": (
        "Taylor is best, seldom passed and then in conv1; the earlier the layer, the more its maps matter.",
        _criterion_each_layer,
    ),
    "4.2": ("Without a normalisation every criterion is worse than chance.", _worse_than_random),
    "4.3": ("Normalising helps every criterion, and l2 is the best way.", _normalised),
    "4.4": ("With l2, Taylor is best.", _taylor_best),
    "4.5": ("From 10 to 50 iterations gains much, from 50 to 100 little.", _fewer_would_not_do),
    "4.6": ("50 iterations do nearly as well as 100, more so than in conv1.", _fifty_do),
    "4.7": ("50 iterations do nearly as well as 100, more so than in conv2.", _fifty_do),
    "4.8": ("10 iterations are far behind; 50 and 100 are almost the same.", _fewer_would_not_do),
    "4.9": ("All criteria are alike, random too: retraining weighs more than the choice.", _all_alike),
    "4.10": ("Over the whole network Taylor is best.", _taylor_best),
    "4.11": ("A normalisation is still needed, but for the weights' criterion.", _still_needed),
    "4.12": ("No criterion is clearly best, but random is no longer good.", _random_suffers),
    "4.13": ("No criterion is clearly best.", _all_alike),
    "4.14": ("Taylor is best, activation close behind.", _then_activation),
    "4.15": (
        "Retraining all layers is best, computing the criterion once is close behind.",
        _everything_learns,
    ),
    "4.16": ("Computing the criterion again at every step is clearly better.", _again_matters),
}
"""What the document says of each figure, and the checks that it is split into."""


def findings(walked: Sequence[Walked]) -> list[Finding]:
    """Every figure of which at least one curve is there, judged."""
    areas = Areas(walked)
    return [judge(figure, areas) for figure in FIGURES if _any(figure, areas)]


def judge(figure: Figure, areas: Areas) -> Finding:
    """A figure's finding against its curves."""
    claim, checks = CLAIMS[figure.number]
    panels = [{label: curve.name for label, curve in panel.lines} for panel in figure.panels]
    return Finding(figure.number, claim, standing(figure, areas), verdict(checks(areas, panels)))


def standing(figure: Figure, areas: Areas) -> str:
    """Mean accuracies of a figure's curves, best first in each panel, without those that are not there."""
    parts: list[str] = []
    for panel in figure.panels:
        known = [
            (mean, label) for label, curve in panel.lines if (mean := areas.mean(curve.name)) is not None
        ]
        texts = [f"{label} {mean:.1f}" for mean, label in sorted(known, key=lambda each: -each[0])]
        title = f"{panel.title}: " if len(figure.panels) > 1 else ""
        parts += [title + ", ".join(texts)] if texts else []
    return "; ".join(parts)


def _any(figure: Figure, areas: Areas) -> bool:
    return any(curve.name in areas.known for panel in figure.panels for _, curve in panel.lines)
