"""What the page of a recipe shows, as plain values.

Example:
    >>> FigureCell("MACs", "2.30 M", "1.10 M", "2.1×").change
    '2.1×'
"""

from __future__ import annotations

from dataclasses import dataclass

from tersa.report.network_view import Tile


@dataclass(frozen=True)
class FigureCell:
    """One figure of a step, as text; empty where it is not known."""

    label: str
    before: str
    after: str
    change: str


@dataclass(frozen=True)
class GoalRow:
    """One goal of a step, as text.

    Attributes:
        step: that it was asked of.
        reason: why it was missed, empty when met.
    """

    step: str
    text: str
    asked: str
    reached: str
    met: bool
    reason: str


@dataclass(frozen=True)
class StepRow:
    """One step, as text.

    Attributes:
        uses: names of the steps that it went on from.
        cells: its figures before and after.
        files: paths within the folder.
        page: address of its own page within the folder; empty where it has none.
    """

    name: str
    job: str
    uses: str
    verdict: str
    model: str
    cells: tuple[FigureCell, ...]
    files: tuple[str, ...]
    page: str
    time: str


@dataclass(frozen=True)
class RecipeView:
    """The whole page.

    Attributes:
        recipe: TOML text that does the same again.
    """

    subject: str
    verdict: str
    detail: str
    tiles: tuple[Tile, ...] = ()
    rows: tuple[StepRow, ...] = ()
    goals: tuple[GoalRow, ...] = ()
    recipe: str = ""
    command: str = ""
    facts: tuple[tuple[str, str], ...] = ()
