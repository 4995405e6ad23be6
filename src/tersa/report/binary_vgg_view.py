"""What the page of document 004's reproduction shows, as plain values.

Example:
    >>> BinaryRow("cnv", "BNN-PYNQ", "cnv+w1a1", "1/1", "84.22", "", "", "", "", "", "not run").ours
    ''
"""

from __future__ import annotations

from dataclasses import dataclass

from tersa.report.network_view import Tile
from tersa.report.study_view import EpochPanel


@dataclass(frozen=True)
class BinaryRow:
    """One row of table II, as text; empty where there is nothing.

    Attributes:
        name: of the row here.
        network: as the document prints it.
        model: spec.
        bits: of weights and activations.
        published: accuracy.
        ours: accuracy.
        gap: ours minus published, points.
        epochs: ours.
        size: packed weights.
        work: binary, integer and float multiply-accumulates.
        note: what differs, or why it was not run.
        page: address of the run's own page, within the folder; empty where it was not run.
    """

    name: str
    network: str
    model: str
    bits: str
    published: str
    ours: str
    gap: str
    epochs: str
    size: str
    work: str
    note: str
    page: str = ""


@dataclass(frozen=True)
class BinaryVggView:
    """The page.

    Attributes:
        subject: what was run.
        verdict: the answer in one line.
        detail: below it.
        warning: what a reader must know of the data, or empty.
        tiles: the answer in numbers.
        rows: of the table.
        epochs: one chart per row that was trained.
        command: that made it.
        facts: name and value.
    """

    subject: str
    verdict: str
    detail: str
    warning: str = ""
    tiles: tuple[Tile, ...] = ()
    rows: tuple[BinaryRow, ...] = ()
    epochs: tuple[EpochPanel, ...] = ()
    command: str = ""
    facts: tuple[tuple[str, str], ...] = ()
