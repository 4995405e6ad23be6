"""What the page of a joint search shows, as plain values.

Example:
    >>> FrontRow("3", ("99.1 %",), True).taken
    True
"""

from __future__ import annotations

from dataclasses import dataclass

from tersa.report.adapt_charts import Spot
from tersa.report.network_view import Tile
from tersa.report.recipe_view import GoalRow


@dataclass(frozen=True)
class FrontRow:
    """One network of the front, as text.

    Attributes:
        number: of its trial.
        cells: accuracy and costs.
        taken: it became the result.
    """

    number: str
    cells: tuple[str, ...]
    taken: bool


@dataclass(frozen=True)
class CostChart:
    """Accuracy over one cost.

    Attributes:
        key: identifies it in the page.
        question: its title.
        name: of the cost, with its unit.
        spots: every network; those on the front are taken.
    """

    key: str
    question: str
    name: str
    spots: tuple[Spot, ...]


@dataclass(frozen=True)
class JointView:
    """The whole page.

    Attributes:
        columns: of the front's table, after the number.
        layers: name, channels before and after, bits; of the network that was taken.
    """

    subject: str
    verdict: str
    detail: str
    tiles: tuple[Tile, ...] = ()
    charts: tuple[CostChart, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[FrontRow, ...] = ()
    goals: tuple[GoalRow, ...] = ()
    layers: tuple[tuple[str, str, str], ...] = ()
    command: str = ""
    facts: tuple[tuple[str, str], ...] = ()
