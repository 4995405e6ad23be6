"""What the page of a hardware reproduction shows, as plain values: the page's drawings read these alone.

Everything is worked out before (`tersa.recipes.hardware_report`), so that the drawings need neither numpy nor
torch.

Example:
    >>> curve = Curve("fp32", 0, (Point(1, 12.0, 11.8, 12.3), Point(8, 70.0, 69.0, 71.5)))
    >>> round(curve.points[-1].images_per_s)
    114
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """One batch size.

    Attributes:
        batch: images per call.
        ms: median time of a call.
        low: lower end of its 95 % interval.
        high: upper end of it.
    """

    batch: int
    ms: float
    low: float
    high: float

    @property
    def images_per_s(self) -> float:
        """Throughput."""
        return 1000.0 * self.batch / self.ms


@dataclass(frozen=True)
class Curve:
    """One precision on one target.

    Attributes:
        label: the precision, and the model where it is not the original.
        style: 0..3.
        points: by batch.
    """

    label: str
    style: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Panel:
    """One target.

    Attributes:
        title: the target.
        curves: its precisions.
        ended: why curves end or are not there, in sentences.
    """

    title: str
    curves: tuple[Curve, ...]
    ended: tuple[str, ...] = ()


@dataclass(frozen=True)
class GroupView:
    """One network at one size.

    Attributes:
        title: `AlexNet, 224x224`.
        said: what the document says of its figures.
        panels: targets with a measurement.
    """

    title: str
    said: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class TableView:
    """One table of the document.

    Attributes:
        number: `4.3`, or `figure 4.1`.
        question: what it answers.
        columns: headers.
        rows: (cells, is the document's).
        note: below it.
    """

    number: str
    question: str
    columns: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], bool], ...]
    note: str = ""

    @property
    def heading(self) -> str:
        """`Table 4.3` or `Figure 4.1`."""
        if self.number.startswith("figure"):
            return self.number.capitalize()
        return f"Table {self.number}"


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
class HardwareView:
    """The whole page.

    Attributes:
        subject: what was measured.
        verdict: the answer.
        detail: the answer in sentences.
        notes: what a reader must know.
        tiles: numbers of the answer.
        tables: of the document.
        groups: time against batch.
        absent: (model, target and precision, why) of what was not measured.
        command: what the user typed.
        facts: (name, value) of the machine.
    """

    subject: str
    verdict: str
    detail: str
    notes: tuple[str, ...] = ()
    tiles: tuple[Tile, ...] = ()
    tables: tuple[TableView, ...] = ()
    groups: tuple[GroupView, ...] = ()
    absent: tuple[tuple[str, str, str], ...] = ()
    command: str = ""
    facts: tuple[tuple[str, str], ...] = ()
