"""The page of a run under a learning rule or a quantiser: that of a study of one cell, `report.html`.

`tersa report` writes it again from `result.json`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tersa.recipes.study_report import view_of as study_view
from tersa.report.numbers import count
from tersa.report.study_page import write
from tersa.report.study_view import StudyView
from tersa.study.cell import CellResult

if TYPE_CHECKING:
    from tersa.recipes.learn import LearnedRun

REPORT = "report.html"


def write_report(folder: Path, result: LearnedRun) -> str:
    """Write the page of a finished run; its headline."""
    view = view_of(result)
    write(view, folder / REPORT)
    return view.verdict


def view_of(result: LearnedRun) -> StudyView:
    """Everything that the page shows; the document's expectations, which one cell cannot decide, are not."""
    row = CellResult(
        key=result.cell.key,
        cell=result.cell,
        status=result.status,
        test_accuracy=result.test_accuracy,
        epochs=result.epochs,
        layers=result.layers,
        seconds=result.seconds,
        stacked=1,
        message=result.message,
    )
    view = study_view(
        [row],
        result.name,
        command=result.command,
        verb="train",
        facts=(
            ("parameters", count(result.parameters)),
            ("device", result.device),
            ("processor", result.environment.processor),
            ("Python", result.environment.python),
            *result.environment.versions.items(),
            ("date", result.environment.date),
        ),
    )
    return replace(view, judged=())
