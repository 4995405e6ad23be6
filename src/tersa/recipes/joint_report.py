"""The page of `tersa search`, from its result."""

from __future__ import annotations

from pathlib import Path

from tersa.recipes.goals import CostName
from tersa.recipes.joint_result import SearchResult, TriedNetwork, distinct
from tersa.recipes.recipe_report import goal_rows
from tersa.report.adapt_charts import Spot
from tersa.report.joint_page import REPORT, write
from tersa.report.joint_view import CostChart, FrontRow, JointView
from tersa.report.network_view import Tile
from tersa.report.numbers import duration, milliseconds, percent, plural, points, si, size

__all__ = ["REPORT", "cells_of", "columns_of", "view_of", "write_report"]

NAMES: dict[CostName, str] = {
    "latency": "latency, ms",
    "size": "file, bytes",
    "macs": "MACs",
    "parameters": "parameters",
}
QUESTIONS: dict[CostName, str] = {
    "latency": "In time?",
    "size": "In file size?",
    "macs": "In multiply-accumulates?",
    "parameters": "In parameters?",
}


def write_report(folder: Path, result: SearchResult) -> None:
    """Write `report.html` into the folder of a search."""
    write(view_of(result), folder / REPORT)


def columns_of(result: SearchResult) -> tuple[str, ...]:
    """Of the front's table, after the number."""
    return ("validation", "lost", *_kinds(result), "width", "pruned", "bits")


def cells_of(row: TriedNetwork, result: SearchResult) -> tuple[str, ...]:
    """One network of the front's table."""
    ratios, bits = list(row.ratios.values()), list(row.bits.values())
    return (
        percent(row.validation_accuracy),
        f"{points(row.loss_points)} ± {row.standard_error:.2f}".replace(" points", ""),
        *(_cost(row, name) for name in _kinds(result)),
        f"{row.width:g}",
        _range([f"{100 * value:.0f} %" for value in sorted(set(ratios))]),
        _range([str(value) for value in sorted(set(bits))]),
    )


def _kinds(result: SearchResult) -> list[CostName]:
    return [*result.costs, *(name for name in NAMES if name not in result.costs and name != "latency")]


def _range(texts: list[str]) -> str:
    """`20 %`, or the first and the last."""
    return "–" if not texts else texts[0] if len(texts) == 1 else f"{texts[0]} to {texts[-1]}"


def _cost(row: TriedNetwork, name: CostName) -> str:
    if name == "latency":
        return "–" if row.latency_ms is None else milliseconds(row.latency_ms)
    return size(row.size_bytes) if name == "size" else si(int(row.cost(name)))


def view_of(result: SearchResult) -> JointView:
    """Everything that the page shows, as plain values."""
    old, new = result.baseline, result.result
    chosen = next(row for row in result.trials if row.number == result.chosen)
    return JointView(
        subject=f"{result.model} on {result.data}",
        verdict=result.verdict,
        detail=result.detail,
        tiles=(
            Tile("Accuracy", percent(new.test_accuracy), f"{percent(old.test_accuracy)} before"),
            Tile("File", size(new.size_bytes), f"{size(old.size_bytes)} before"),
            Tile(
                "Latency",
                milliseconds(new.latency_ms.median),
                f"{milliseconds(old.latency_ms.median)} before",
            ),
            Tile("MACs", si(new.macs), f"{si(old.macs)} before"),
            Tile("Parameters", si(new.parameters), f"{si(old.parameters)} before"),
        ),
        charts=tuple(_chart(result, name) for name in result.costs),
        columns=columns_of(result),
        rows=tuple(
            FrontRow(str(row.number), cells_of(row, result), row.number == result.chosen)
            for row in result.front
        ),
        goals=tuple(goal_rows("on the test images and the final measurement", result.goals)),
        layers=_layers(chosen),
        command=result.command,
        facts=(
            ("data", result.data),
            ("target", f"{result.target}, batch {result.batch}"),
            ("networks tried", plural(distinct(result.trials), "network")),
            *((("diverged", str(result.diverged)),) if result.diverged else ()),
            ("trials kept in", f"{result.storage}, as {result.study}"),
            ("processor", f"{result.environment.processor}, {plural(result.environment.cores, 'core')}"),
            ("Python", result.environment.python),
            *result.environment.versions.items(),
            ("date", result.environment.date),
            ("took", duration(result.seconds)),
        ),
    )


def _chart(result: SearchResult, name: CostName) -> CostChart:
    spots = [
        Spot(
            row.cost(name),
            row.validation_accuracy,
            f"network {row.number}{', taken' if row.number == result.chosen else ''}\n"
            f"{percent(row.validation_accuracy)} on validation\n"
            + ", ".join(_cost(row, kind) for kind in result.costs),
            row.on_front,
        )
        for row in sorted(result.trials, key=lambda row: row.cost(name))
    ]
    return CostChart(name, QUESTIONS[name], NAMES[name], tuple(spots))


def _layers(row: TriedNetwork) -> tuple[tuple[str, str, str], ...]:
    """Channels and bits of each layer; those of a group of layers are counted at the first."""
    bits = {name.removesuffix(".weight"): str(value) for name, value in row.bits.items()}
    names = dict.fromkeys([*row.channels, *bits])
    return tuple((name, str(row.channels.get(name, "")), bits.get(name, "")) for name in names)
