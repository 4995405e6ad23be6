"""What the page of one trained network shows, as plain values: the page's drawings read these alone.

Everything is worked out before (`tersa.recipes.network_report`), so that the drawings need neither numpy nor
torch. Accuracies and chances are percent, pictures the base64 of a PNG file.

Example:
    >>> Certainty("", "car", (Chance("car", 92.5, right=True), Chance("truck", 7.5))).said
    'car'
"""

from __future__ import annotations

from dataclasses import dataclass

from tersa.report.study_view import EpochPanel


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
    note: str = ""


@dataclass(frozen=True)
class CostRow:
    """What one layer costs, as text.

    Attributes:
        name: of the layer.
        kind: `Conv2d 3x3`.
        bits: of weights and inputs (`1/1`).
        weights: number of them.
        size: of them as they are packed.
        binary: multiply-accumulates of 1 bit by 1 bit.
        integer: of up to 8 bits by up to 8 bits.
        real: of floating point.
        share: of all multiply-accumulates, 0..1, for the bar.
    """

    name: str
    kind: str
    bits: str
    weights: str
    size: str
    binary: str
    integer: str
    real: str
    share: float


@dataclass(frozen=True)
class Chance:
    """One class of one image.

    Attributes:
        label: of the class.
        percent: that the network gives it.
        right: it is the image's class.
    """

    label: str
    percent: float
    right: bool = False


@dataclass(frozen=True)
class Certainty:
    """The probabilities of one image.

    Attributes:
        png: the image.
        label: what it shows.
        chances: of every class (of the most likely ones, where there are many), best first.
    """

    png: str
    label: str
    chances: tuple[Chance, ...]

    @property
    def said(self) -> str:
        """The class that the network names."""
        return self.chances[0].label


@dataclass(frozen=True)
class Picture:
    """A picture with its title and what it shows.

    Attributes:
        title: of it.
        text: what to look for.
        png: of it.
        width: pixels of the page.
        height: pixels of the page.
    """

    title: str
    text: str
    png: str
    width: int
    height: int


@dataclass(frozen=True)
class NetworkView:
    """The page of one network.

    Attributes:
        subject: model and data.
        verdict: the answer, in one line.
        detail: below it.
        warning: what a reader must know, or empty.
        tiles: the answer in numbers.
        epochs: accuracy over epochs; None where there is no history.
        costs: every layer with weights, in order.
        total: their sum, or None.
        cost_words: the sums in a sentence.
        confusion: counts (true class, said class).
        classes: their names.
        certainties: single images.
        looks: integrated gradients.
        batch: training images as the network sees them, or None where nothing changes them.
        command: that made it.
        facts: name and value.
    """

    subject: str
    verdict: str
    detail: str
    warning: str = ""
    tiles: tuple[Tile, ...] = ()
    epochs: EpochPanel | None = None
    costs: tuple[CostRow, ...] = ()
    total: CostRow | None = None
    cost_words: str = ""
    confusion: tuple[tuple[int, ...], ...] = ()
    classes: tuple[str, ...] = ()
    certainties: tuple[Certainty, ...] = ()
    looks: tuple[Picture, ...] = ()
    batch: Picture | None = None
    command: str = ""
    facts: tuple[tuple[str, str], ...] = ()
