"""What the page of a study shows, as plain values: the page's drawings read these and nothing else.

Everything is worked out before (`tersa.recipes.study_report`), so that the drawings need neither numpy nor
torch, and can be tried with any numbers. Accuracies are percent after the last epoch, on the test images
unless `StudyView.accuracies` says otherwise; intervals cover 95 % of the seeds' mean.

Example:
    >>> Spread(97.4, 97.1, 97.7, 5).text
    '97.40 [97.10, 97.70]'
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["holds", "refuted", "open"]


@dataclass(frozen=True)
class Spread:
    """A mean over seeds.

    Attributes:
        mean: of the accuracies, percent.
        low: lower end of its 95 % interval; the mean for one seed.
        high: upper end.
        count: seeds.
    """

    mean: float
    low: float
    high: float
    count: int

    @property
    def text(self) -> str:
        """The mean, with its interval where there are several seeds."""
        return f"{self.mean:.2f}" if self.count == 1 else f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Point:
    """One setting on a curve over bits.

    Attributes:
        bits: of a weight.
        spread: of its accuracy; None where every run failed.
        diverged: runs that ended in NaN or infinity, or failed.
    """

    bits: int
    spread: Spread | None
    diverged: int = 0


@dataclass(frozen=True)
class Line:
    """A curve over bits.

    Attributes:
        label: what tells it from the other lines of the panel.
        style: 0..3, the same for one label in all panels.
        points: by rising bits.
        published: (bits, accuracy) beside it.
    """

    label: str
    style: int
    points: tuple[Point, ...]
    published: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Panel:
    """One small chart of accuracy over bits.

    Attributes:
        title: of the panel.
        lines: at most four.
        reference: accuracy of the same network without quantisation, or None.
    """

    title: str
    lines: tuple[Line, ...]
    reference: float | None = None


@dataclass(frozen=True)
class Group:
    """Panels that belong together.

    Attributes:
        title: of the group.
        panels: in reading order.
    """

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Curve:
    """Values by epoch.

    Attributes:
        label: short, written at its end.
        strength: 0..1, how strongly it is drawn.
        values: one per epoch.
    """

    label: str
    strength: float
    values: tuple[float, ...]


@dataclass(frozen=True)
class EpochPanel:
    """Accuracy by epoch, one curve per bit width."""

    title: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Reach:
    """The least and greatest weight of a layer by epoch.

    Attributes:
        label: of the layer.
        strength: 0..1.
        epochs: 1 for the first.
        low: least weight after each.
        high: greatest.
    """

    label: str
    strength: float
    epochs: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class ReachPanel:
    """Where the weights of a network went while it was trained."""

    title: str
    layers: tuple[Reach, ...]


@dataclass(frozen=True)
class Angles:
    """Angles between a rule's update of a layer and backpropagation's.

    Attributes:
        label: of the layer.
        strength: 0..1.
        epochs: those with an angle; 1 for the first.
        degrees: after each, 0..180, mean over the runs.
    """

    label: str
    strength: float
    epochs: tuple[int, ...]
    degrees: tuple[float, ...]


@dataclass(frozen=True)
class AnglePanel:
    """Where a rule's updates pointed while a network was trained."""

    title: str
    layers: tuple[Angles, ...]


@dataclass(frozen=True)
class HeatMap:
    """Mean accuracies in a table of colours.

    Attributes:
        title: of the map.
        columns: headers.
        rows: (label, value per column); None where there is no cell.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]


@dataclass(frozen=True)
class Ranked:
    """One setting with its accuracy.

    Attributes:
        label: what tells it from the others.
        spread: None where every run failed.
        published: of the document, or None.
        seconds: of one run.
    """

    label: str
    spread: Spread | None
    published: float | None
    seconds: float


@dataclass(frozen=True)
class Compared:
    """A published accuracy beside ours.

    Attributes:
        label: of the cell.
        published: percent, one seed.
        ours: percent.
    """

    label: str
    published: float
    ours: Spread


@dataclass(frozen=True)
class Summary:
    """How well one rule's cells, or all of them, agree with the published ones.

    Attributes:
        name: of the rule, or `all`.
        cells: compared.
        learned: of these, published at the threshold or above.
        spearman: rank correlation over the learned ones; None where it cannot be taken.
        agreement: share of all cells on the same side of the threshold, 0..1.
        gap: median of ours minus published over the learned ones, points; None without any.
        off: median of its absolute value.
    """

    name: str
    cells: int
    learned: int
    spearman: float | None
    agreement: float
    gap: float | None
    off: float | None


@dataclass(frozen=True)
class Effect:
    """A paired test between two values of one field.

    Attributes:
        field: of the cells.
        first: a value.
        second: the one it is compared with.
        difference: mean of second minus first, points.
        low: lower end of its 95 % interval.
        high: upper end.
        p: corrected for the number of tests on the page.
        pairs: of cells that are equal in everything else.
        test: `paired t`, `signed rank`, or `none` for a single pair.
    """

    field: str
    first: str
    second: str
    difference: float
    low: float
    high: float
    p: float
    pairs: int
    test: str


@dataclass(frozen=True)
class Judged:
    """A hypothesis of the document.

    Attributes:
        name: `H1` .. `H5`.
        claim: in one sentence.
        verdict: by this study's cells.
        evidence: the numbers.
        published: the document's own verdict.
    """

    name: str
    claim: str
    verdict: Verdict
    evidence: str
    published: Verdict


@dataclass(frozen=True)
class WeightRow:
    """A row of the document's tables 5.1 and 5.2, for one setting.

    Attributes:
        label: rule, network and range.
        bits: of a weight.
        variance: least and greatest over layers and epochs.
        weight: least and greatest.
        published: the same four numbers of the document, or None.
    """

    label: str
    bits: int
    variance: tuple[float, float]
    weight: tuple[float, float]
    published: tuple[float, float, float, float] | None


@dataclass(frozen=True)
class Cost:
    """What one update costs.

    Attributes:
        rule: its name.
        microseconds: measured, of one update of one run.
        macs: multiply-accumulates, counted.
        order: as the document prints it, or empty.
    """

    rule: str
    microseconds: float
    macs: float
    order: str


@dataclass(frozen=True)
class Picture:
    """What a network looks at.

    Attributes:
        title: what is shown.
        text: how to read it.
        png: base64.
        width: pixels.
        height: pixels.
    """

    title: str
    text: str
    png: str
    width: int
    height: int


@dataclass(frozen=True)
class Trouble:
    """A run that failed or diverged.

    Attributes:
        label: its setting.
        status: `failed` or `diverged`.
        message: why.
    """

    label: str
    status: str
    message: str


@dataclass(frozen=True)
class Tile:
    """A number at the top."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class StudyView:
    """Everything on the page, in its order.

    Attributes:
        name: of the study.
        verb: that wrote the page (`study report`, `reproduce quantized-training`).
        subject: data sets and networks in a line.
        verdict: the answer, in words.
        detail: what it rests on.
        warning: what a reader must know before the numbers (`--quick`), or empty.
        accuracies: what they are: `test accuracy`, `validation accuracy`, or `accuracy` where runs differ.
        tiles: at most five.
        groups: accuracy over bits.
        styles: (style, label) of the lines.
        left_out: what was not drawn, in words, or empty.
        compared: published cells beside ours.
        summaries: per rule, and all.
        source: where the published values come from.
        ranked: settings, best first.
        maps: heat maps.
        effects: paired tests.
        judged: the five hypotheses.
        epochs: training curves.
        angles: between the updates of rules and of backpropagation.
        reaches: ranges of weights.
        weights: tables 5.1 and 5.2.
        costs: of a rule.
        pictures: what networks look at.
        troubles: failed and diverged runs.
        command: that made it.
        facts: (name, value) of how it was run.
    """

    name: str
    verb: str
    subject: str
    verdict: str
    detail: str
    warning: str = ""
    accuracies: str = "test accuracy"
    tiles: tuple[Tile, ...] = ()
    groups: tuple[Group, ...] = ()
    styles: tuple[tuple[int, str], ...] = ()
    left_out: str = ""
    compared: tuple[Compared, ...] = ()
    summaries: tuple[Summary, ...] = ()
    source: str = ""
    ranked: tuple[Ranked, ...] = ()
    maps: tuple[HeatMap, ...] = ()
    effects: tuple[Effect, ...] = ()
    judged: tuple[Judged, ...] = ()
    epochs: tuple[EpochPanel, ...] = ()
    angles: tuple[AnglePanel, ...] = ()
    reaches: tuple[ReachPanel, ...] = ()
    weights: tuple[WeightRow, ...] = ()
    costs: tuple[Cost, ...] = ()
    pictures: tuple[Picture, ...] = ()
    troubles: tuple[Trouble, ...] = ()
    command: str = ""
    facts: tuple[tuple[str, str], ...] = ()
