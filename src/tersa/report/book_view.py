"""What the page of the book of reproductions shows, as plain values.

Example:
    >>> PlaceView("Table 6.1", "1 holds", (("bp", "98.18 %", "98.00 %", "-0.18 points", "holds", ""),)).title
    'Table 6.1'
"""

from __future__ import annotations

from dataclasses import dataclass

from tersa.report.adapt_charts import Spot
from tersa.report.hardware_view import Tile


@dataclass(frozen=True)
class PlaceView:
    """One table or figure of a document.

    Attributes:
        title: `Table 6.1`.
        counts: values by verdict, in words.
        rows: what, published, ours, gap, verdict, why.
    """

    title: str
    counts: str
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class ChapterView:
    """One document.

    Attributes:
        number: `000`.
        title: what it asks.
        counts: values by verdict, in words.
        spots: percentages, published across and ours upwards.
        places: its tables and figures.
    """

    number: str
    title: str
    counts: str
    spots: tuple[Spot, ...]
    places: tuple[PlaceView, ...]


@dataclass(frozen=True)
class BookView:
    """The whole page.

    Attributes:
        subject: what it is of.
        verdict: the answer.
        detail: the answer in sentences.
        tiles: numbers of the answer.
        chapters: the documents.
        runs: name, command, length, processor, date, time of what it was made from.
        command: that writes it again.
        facts: (name, value).
    """

    subject: str
    verdict: str
    detail: str
    tiles: tuple[Tile, ...] = ()
    chapters: tuple[ChapterView, ...] = ()
    runs: tuple[tuple[str, ...], ...] = ()
    command: str = ""
    facts: tuple[tuple[str, str], ...] = ()
