"""What the page of a benchmark shows, as plain values: the page's drawings read these alone.

Everything is worked out before (`tersa.recipes.bench_report`), so that the drawings need neither numpy nor
torch.

Example:
    >>> Dot("lenet, torch, FP32", 0.5, 99.1, "0.50 ms").text
    '0.50 ms'
"""

from __future__ import annotations

from dataclasses import dataclass

from tersa.report.hardware_view import Panel


@dataclass(frozen=True)
class Tile:
    """A number of the answer: what it is, its value, and a note below."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Dot:
    """One combination in a chart of two quantities.

    Attributes:
        label: model, target and precision.
        x: latency of a call, ms.
        y: the other quantity.
        text: hover values below the label.
        best: no other is better in both.
    """

    label: str
    x: float
    y: float
    text: str
    best: bool = False


@dataclass(frozen=True)
class Against:
    """A chart of one quantity against latency.

    Attributes:
        key: identifies it in the page.
        question: its title.
        lead: what the picture shows, in a sentence.
        name: of the quantity, with its unit, at the axis.
        dots: combinations.
        log: the axis is logarithmic.
        up: more is better.
    """

    key: str
    question: str
    lead: str
    name: str
    dots: tuple[Dot, ...]
    log: bool = False
    up: bool = True


@dataclass(frozen=True)
class MeasuredRow:
    """One row of the table of all, as text.

    Attributes:
        bar: its latency over the largest of its batch, 0..1.
        tone: `faster`, `slower` or empty.
    """

    model: str
    target: str
    precision: str
    batch: str
    latency: str
    spread: str
    ratio: str
    interval: str
    verdict: str
    across: str
    throughput: str
    tone: str = ""


@dataclass(frozen=True)
class CostRow:
    """What else a combination costs, as text."""

    model: str
    target: str
    precision: str
    load: str
    first: str
    memory: str
    size: str
    accuracy: str
    energy: str
    executed: str


@dataclass(frozen=True)
class CrossView:
    """The cross table, as text; `own` marks the target that a model was made for.

    Attributes:
        targets: columns.
        rows: (model, made for, [(percent, own, slower)]).
        original: (name, [ms]).
        lead: how it was measured.
    """

    targets: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[tuple[str, bool, bool], ...]], ...]
    original: tuple[str, tuple[str, ...]]
    lead: str


@dataclass(frozen=True)
class LayerRow:
    """One layer: `share` in percent, `css` of its limit, the rest as text."""

    name: str
    kind: str
    share: float
    limit: str
    css: str
    time: str
    roof: str
    macs: str
    moved: str


@dataclass(frozen=True)
class LayersView:
    """Where the time of one network goes.

    Attributes:
        title: model, target, precision and batch.
        said: the answer in a sentence.
        machine: its ceilings in words.
        rows: layers in the order of their work.
    """

    title: str
    said: str
    machine: str
    rows: tuple[LayerRow, ...]


@dataclass(frozen=True)
class BenchView:
    """The whole page."""

    subject: str
    verdict: str
    detail: str
    tiles: tuple[Tile, ...]
    rows: tuple[MeasuredRow, ...]
    costs: tuple[CostRow, ...]
    energy: str
    panels: tuple[Panel, ...]
    against: tuple[Against, ...]
    cross: CrossView | None
    layers: tuple[LayersView, ...]
    gaps: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    command: str
    facts: tuple[tuple[str, str], ...]
    how: str = ""
