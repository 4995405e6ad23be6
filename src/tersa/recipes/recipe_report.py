"""The page of `tersa run`, from its recipe and result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tomlkit

from tersa.recipes.recipe import Recipe
from tersa.recipes.recipe_kind import Cost
from tersa.recipes.recipe_result import RecipeResult, StepResult
from tersa.records.results import Goal
from tersa.report.network_view import Tile
from tersa.report.numbers import change, duration, factor, milliseconds, percent, plural, si, size
from tersa.report.recipe_page import REPORT, write
from tersa.report.recipe_view import FigureCell, GoalRow, RecipeView, StepRow

__all__ = ["REPORT", "view_of", "write_report"]

NOTHING = Cost()


def write_report(folder: Path, recipe: Recipe, result: RecipeResult) -> None:
    """Write `report.html` into the folder of a recipe."""
    write(view_of(recipe, result), folder / REPORT)


def view_of(recipe: Recipe, result: RecipeResult) -> RecipeView:
    """Everything that the page shows, as plain values."""
    missed = sum(not goal.met for goal in result.goals)
    asked = f" {plural(missed, 'goal')} missed." if missed else " Every goal was met." if result.goals else ""
    return RecipeView(
        subject=f"{result.name} on {result.data}" if result.data else result.name,
        verdict=result.verdict,
        detail=f"{result.description}{asked}".strip(),
        tiles=_tiles(result),
        rows=tuple(_row(step) for step in result.steps),
        goals=tuple(row for step in result.steps for row in goal_rows(step.name, step.goals)),
        recipe=text_of(recipe),
        command=result.command,
        facts=(
            *(("data", result.data) for _ in range(bool(result.data))),
            ("processor", f"{result.environment.processor}, {plural(result.environment.cores, 'core')}"),
            ("Python", result.environment.python),
            *result.environment.versions.items(),
            ("date", result.environment.date),
            ("took", duration(result.seconds)),
        ),
    )


def goal_rows(step: str, goals: Sequence[Goal]) -> list[GoalRow]:
    """Goals as rows of a page's table."""
    return [
        GoalRow(
            step,
            each.text,
            amount(each.asked, each.unit),
            amount(each.reached, each.unit),
            each.met,
            each.reason,
        )
        for each in goals
    ]


def amount(value: float, unit: str) -> str:
    """A goal's bound or what was reached, whole where it counts.

    >>> amount(34370.4, "MACs"), amount(0.24, "points")
    ('34,370 MACs', '0.24 points')
    """
    return f"{value:,.0f} {unit}" if unit in ("bytes", "MACs", "parameters") else f"{value:.4g} {unit}"


def text_of(recipe: Recipe) -> str:
    """The recipe as a file that does the same again, overrides included."""
    body = recipe.model_dump(exclude_none=True, exclude={"steps"}, exclude_defaults=True)
    steps = [{"job": step.job, "name": step.name, **step.settings} for step in recipe.steps]
    return tomlkit.dumps({"name": recipe.name, **body, "step": steps})


def _tiles(result: RecipeResult) -> tuple[Tile, ...]:
    before, after = result.baseline, result.result
    if before is None or after is None or before == after:
        return ()
    cells = _cells(before, after)
    return tuple(
        Tile(cell.label, cell.after, f"{cell.before} before" if cell.before else "")
        for cell in cells
        if cell.after
    )


def _row(step: StepResult) -> StepRow:
    return StepRow(
        name=step.name,
        job=step.job,
        uses=", ".join(step.uses),
        verdict=step.verdict,
        model=step.model,
        cells=tuple(_cells(step.before or NOTHING, step.after or NOTHING)),
        files=tuple(step.artefacts),
        page=step.report,
        time=duration(step.seconds),
    )


def _cells(before: Cost, after: Cost) -> list[FigureCell]:
    """Accuracy, parameters, MACs, file and latency, before and after; a cell is empty where not known."""

    def ratio(old: float | None, new: float | None) -> str:
        return factor(old / new) if old and new and old != new else ""

    moved = ""
    if before.test_accuracy is not None and after.test_accuracy is not None:
        moved = change(after.test_accuracy - before.test_accuracy)
    return [
        FigureCell("Accuracy", _text(before.test_accuracy, "%"), _text(after.test_accuracy, "%"), moved),
        FigureCell(
            "Parameters",
            _text(before.parameters),
            _text(after.parameters),
            ratio(before.parameters, after.parameters),
        ),
        FigureCell("MACs", _text(before.macs), _text(after.macs), ratio(before.macs, after.macs)),
        FigureCell(
            "File",
            _text(before.size_bytes, "B"),
            _text(after.size_bytes, "B"),
            ratio(before.size_bytes, after.size_bytes),
        ),
        FigureCell(
            "Latency",
            _text(before.latency_ms, "ms"),
            _text(after.latency_ms, "ms"),
            ratio(before.latency_ms, after.latency_ms),
        ),
    ]


def _text(value: float | None, unit: str = "") -> str:
    if value is None:
        return ""
    return {"%": percent, "B": size, "ms": milliseconds}.get(unit, si)(value)
