"""What the page of a pruning reproduction shows, as plain values: the page's drawings read these alone.

Everything is worked out before (`tersa.recipes.pruning_report`), so that the drawings need neither numpy nor
torch. Accuracies are percent.

Example:
    >>> run = Run(0, (Spot(0, 99.2, 99.1), Spot(22, 98.9, None)))
    >>> Line("Taylor", 0, (run,)).runs[0].spots[-1].removed
    22
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Spot:
    """One point of a walk.

    Attributes:
        removed: channels that are gone.
        validation: accuracy.
        test: accuracy, None where it was not read.
    """

    removed: int
    validation: float
    test: float | None


@dataclass(frozen=True)
class Run:
    """One walk.

    Attributes:
        seed: of it.
        spots: in order.
    """

    seed: int
    spots: tuple[Spot, ...]


@dataclass(frozen=True)
class Line:
    """A curve of a panel, with every seed that walked it.

    Attributes:
        label: what tells it from the other lines of the panel.
        style: 0..3, the same for one label in all panels of a figure.
        runs: one per seed.
    """

    label: str
    style: int
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Panel:
    """One small chart of accuracy over removed channels.

    Attributes:
        title: of the panel.
        lines: those that were walked.
        missing: labels of those that were not.
    """

    title: str
    lines: tuple[Line, ...]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class FigureView:
    """One figure of the document.

    Attributes:
        number: `4.5`.
        question: what it answers.
        panels: those with at least one line.
        document: what the document says.
        here: mean accuracies over the walks, in words.
        verdict: `holds`, `in part`, `not seen` or `open`.
        shows: how it was made (`2 % of the channels a step, seed 0, bf16 while training`).
    """

    number: str
    question: str
    panels: tuple[Panel, ...]
    document: str
    here: str
    verdict: str
    shows: str


@dataclass(frozen=True)
class Tile:
    """A number of the answer.

    Attributes:
        label: what it is.
        value: as text.
        note: below it.
    """

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Row:
    """One row of table 4.1, as text.

    Attributes:
        name: of the network.
        note: its floor and seed, or where it is printed.
        validation_loss: points.
        test_loss: points.
        compression: in parameters.
        acceleration: in MACs.
        widths: channels left.
        published: the document's.
    """

    name: str
    note: str
    validation_loss: str
    test_loss: str
    compression: str
    acceleration: str
    widths: str
    published: bool = False


@dataclass(frozen=True)
class CurveRow:
    """One curve in the table of all, as text.

    Attributes:
        name: of the curve.
        seed: of the walk.
        mean: validation accuracy over the walk.
        kept: channels that are gone at the last point within each of the page's bounds.
        seconds: of the walk.
    """

    name: str
    seed: str
    mean: str
    kept: tuple[str, ...]
    seconds: str


@dataclass(frozen=True)
class PruningView:
    """The whole page.

    Attributes:
        subject: data and network.
        verdict: the answer.
        detail: the answer in sentences.
        warning: what a reader of a shortened trial must know, or empty.
        tiles: numbers of the answer.
        figures: of the document.
        absent: figures without a curve, in words, or empty.
        rows: of table 4.1.
        unfilled: why the table has no row of ours, or empty.
        bounds: accuracies of `CurveRow.kept`, percent.
        curves: every walk.
        troubles: (curve, what went wrong).
        command: what the user typed.
        facts: (name, value) of machine and protocol.
    """

    subject: str
    verdict: str
    detail: str
    warning: str = ""
    tiles: tuple[Tile, ...] = ()
    figures: tuple[FigureView, ...] = ()
    absent: str = ""
    rows: tuple[Row, ...] = ()
    unfilled: str = ""
    bounds: tuple[float, ...] = ()
    curves: tuple[CurveRow, ...] = ()
    troubles: tuple[tuple[str, str], ...] = ()
    command: str = ""
    facts: tuple[tuple[str, str], ...] = ()
