"""The report of a study: what its results say, worked out and written as one page.

`view_of` turns results into what the page shows (`tersa.report.study_view`); `write_study_report` reads a
study's folder, adds what lies beside its database, and writes `report.html`:

    costs.json         rows of `StudyCost`: measured time and counted operations of each rule
    attribution.json   rows of `StudyPicture`: what the networks look at (`tersa.study.attribution`)

Which fields become lines, panels and groups follows from which of them vary (`tersa.recipes.study_layout`).

Example:
    >>> from tersa.study.cell import Cell
    >>> from tersa.study.pairing import finished
    >>> rows = [finished(Cell(quant="symmetric", bits=b), 90.0 + b) for b in (2, 3, 8)]
    >>> view = view_of(rows, "demo")
    >>> view.verdict, len(view.groups[0].panels[0].lines[0].points)
    ('8 bits are enough for backpropagation', 3)
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from tersa.errors import DataError
from tersa.recipes import published, published_table
from tersa.recipes.study_compare import Row, compare, shown, summarise
from tersa.recipes.study_curves import angle_panels, epoch_panels, reach_panels, weight_rows
from tersa.recipes.study_layout import Layout, accuracy_of, layout_of, name_of, network
from tersa.recipes.study_verdict import Answer, verdict
from tersa.records.base import Record
from tersa.report import study_page
from tersa.report.numbers import count, duration, plural
from tersa.report.study_view import (
    Cost,
    Effect,
    HeatMap,
    Judged,
    Picture,
    Ranked,
    Spread,
    StudyView,
    Tile,
    Trouble,
)
from tersa.study.cell import CellResult
from tersa.study.hypotheses import judge, shape_of
from tersa.study.pairing import QUANTISER_FIELDS, accuracy, by_setting, pairs, varying
from tersa.study.statistics import PairedTest, holm, interval, paired_test
from tersa.study.store import StudyStore

MOST_VALUES = 4
"""Numbers that are compared each with each; of more, neighbours only."""
MOST_ROWS = 32
"""Rows of a heat map; with more, networks are taken together."""
UNTESTED = frozenset({"low", "high", "percentile", "scaling", "data", "epochs", "shuffle", "judged_on"})
"""Fields whose effect is not tested: they change the question, not the answer."""
FIRST = ("quant", "range", "storage", "extra_bits", "rounding", "rule", "bits", "model")
"""Order of the tested fields; others follow."""
COSTS, PICTURES = "costs.json", "attribution.json"

R = TypeVar("R", bound=Record)


class StudyCost(Record):
    """A row of `costs.json`."""

    rule: str
    microseconds_per_update: float
    macs_per_update: float
    order: str = ""


class StudyPicture(Record):
    """A row of `attribution.json`; `png` is base64."""

    title: str
    text: str
    png: str
    width: int
    height: int


def write_study_report(
    folder: Path,
    *,
    name: str = "",
    command: str = "",
    verb: str = "study report",
    warning: str = "",
    shortened: bool = False,
    answer: Answer | None = None,
    facts: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write `report.html` of a study's folder from its `study.db` and what lies beside it.

    Args:
        folder: of the study.
        name: of the study; by default the folder's.
        command: that repeats it; by default the run of its `study.toml`.
        verb: that wrote the page.
        warning: shown above the numbers.
        shortened: compare with published cells of other settings too.
        answer: in place of the study's own verdict.
        facts: further (name, value) of how it was run.

    Returns:
        The page's path.

    Raises:
        DataError: no study there, or a file beside it that cannot be read.
    """
    with StudyStore(folder / "study.db") as store:
        results = store.results()
    view = view_of(
        results,
        name or folder.name,
        command=command or f"tersa study run {folder / 'study.toml'}",
        verb=verb,
        warning=warning,
        shortened=shortened,
        answer=answer,
        facts=facts,
        costs=read_rows(folder / COSTS, StudyCost),
        pictures=read_rows(folder / PICTURES, StudyPicture),
    )
    path = folder / "report.html"
    study_page.write(view, path)
    return path


def view_of(
    results: Sequence[CellResult],
    name: str,
    *,
    command: str = "",
    verb: str = "study report",
    warning: str = "",
    shortened: bool = False,
    answer: Answer | None = None,
    facts: Sequence[tuple[str, str]] = (),
    costs: Sequence[StudyCost] = (),
    pictures: Sequence[StudyPicture] = (),
) -> StudyView:
    """What the page of some results shows; the arguments are those of `write_study_report`."""
    rows = [_finite(result) for result in results]
    layout, compared, found = layout_of(rows), compare(rows, shortened=shortened), answer or verdict(rows)
    return StudyView(
        name=name,
        verb=verb,
        subject=_subject(rows),
        verdict=found.headline,
        detail=found.detail,
        warning=warning,
        accuracies=accuracy_of(row.cell for row in rows),
        tiles=_tiles(rows, compared),
        groups=layout.groups,
        styles=layout.styles,
        left_out=layout.left_out,
        compared=shown(compared),
        summaries=tuple(summarise(compared)),
        source=published_table.source("quantized_training_mnist.csv") if compared else "",
        ranked=ranked(rows, layout),
        maps=heat_maps(rows, layout),
        effects=effects(rows),
        judged=tuple(
            Judged(each.name, each.claim, each.verdict, each.evidence, each.published) for each in judge(rows)
        ),
        epochs=epoch_panels(rows, layout),
        angles=angle_panels(rows, layout),
        reaches=reach_panels(rows, layout),
        weights=weight_rows(rows),
        costs=tuple(
            Cost(c.rule, c.microseconds_per_update, c.macs_per_update, c.order)
            for c in sorted(costs, key=lambda each: each.microseconds_per_update)
        ),
        pictures=tuple(Picture(p.title, p.text, p.png, p.width, p.height) for p in pictures),
        troubles=_troubles(rows),
        command=command,
        facts=(*_facts(rows), *facts),
    )


def ranked(rows: Sequence[CellResult], layout: Layout) -> tuple[Ranked, ...]:
    """Every setting, the most accurate first, the failed ones last."""
    found: list[Ranked] = []
    for group in by_setting(rows).values():
        known = [accuracy(row) for row in group if row.test_accuracy is not None]
        spread = spread_of(known) if known else None
        seconds = sum(row.seconds for row in group) / len(group)
        cell = group[0].cell
        found.append(Ranked(layout.label(cell), spread, published.beside(cell), seconds))
    return tuple(sorted(found, key=lambda each: each.spread.mean if each.spread else -1.0, reverse=True))


def heat_maps(rows: Sequence[CellResult], layout: Layout) -> tuple[HeatMap, ...]:
    """One map per line label: rules and networks down, bits across, float32 in the last column."""
    known = [row for row in rows if row.test_accuracy is not None]
    bits = sorted({row.cell.bits for row in known if row.cell.quant != "none"})
    if len(bits) < 2:
        return ()
    quantised = [row for row in known if row.cell.quant != "none"]
    floats = [row for row in known if row.cell.quant == "none"]
    columns = (*(f"{b} bit{'s' if b > 1 else ''}" for b in bits), *(["float32"] if floats else []))
    maps: list[HeatMap] = []
    for line in layout.lines(row.cell for row in quantised):
        here = [row for row in quantised if layout.line(row.cell) == line]
        names = dict.fromkeys(layout.row(row.cell) for row in here)
        whole = len(names) <= MOST_ROWS
        entries: list[tuple[str, tuple[float | None, ...]]] = []
        for label in dict.fromkeys(layout.row(row.cell, whole) for row in here):
            values = [
                _mean(r for r in here if layout.row(r.cell, whole) == label and r.cell.bits == b)
                for b in bits
            ]
            if floats:
                values.append(_mean(r for r in floats if layout.row(r.cell, whole) == label))
            entries.append((label, tuple(values)))
        maps.append(HeatMap(line or "All settings", columns, tuple(entries)))
    return tuple(maps)


def effects(rows: Sequence[CellResult]) -> tuple[Effect, ...]:
    """Paired tests between the values of every field that varies, corrected together by Holm's method.

    What says how weights are quantised is tested on quantised cells. A single pair is shown without a test,
    and is none of those that are corrected for.
    """
    found: list[tuple[str, object, object, PairedTest]] = []
    quantised = [row for row in rows if row.cell.quant != "none"]
    fields = varying(rows)
    for field in sorted(fields.keys() - UNTESTED, key=_rank):
        for a, b in _couples(field, fields[field]):
            whose = quantised if field in QUANTISER_FIELDS or field == "quant" else rows
            both = pairs(whose, field, a, b, learned=True)
            if both:
                test = paired_test([accuracy(x) for x, _ in both], [accuracy(y) for _, y in both])
                found.append((field, a, b, test))
    tested = iter(holm([test.p for *_, test in found if test.test != "none"]))
    corrected = [test.p if test.test == "none" else next(tested) for *_, test in found]
    return tuple(
        Effect(
            name_of(field),
            _value(field, a),
            _value(field, b),
            test.difference,
            test.low,
            test.high,
            p,
            test.pairs,
            test.test,
        )
        for (field, a, b, test), p in zip(found, corrected, strict=True)
    )


def _rank(field: str) -> tuple[int, str]:
    return (FIRST.index(field) if field in FIRST else len(FIRST), field)


def _couples(field: str, values: Sequence[Any]) -> list[tuple[Any, Any]]:
    """What is compared: numbers with their neighbours, networks that differ in width or in depth alone."""
    found = {value: shape_of(value) for value in values} if field == "model" else {}
    shapes = {value: shape for value, shape in found.items() if shape is not None}
    if shapes and len(shapes) == len(values):
        ordered = sorted(values, key=lambda model: shapes[model])
        both = itertools.combinations(ordered, 2)
        return [
            (a, b) for a, b in both if sum(x == y for x, y in zip(shapes[a], shapes[b], strict=True)) == 1
        ]
    if any(isinstance(value, str) for value in values):
        return list(itertools.combinations(values, 2))
    ordered = sorted(values)
    if len(ordered) <= MOST_VALUES:
        return list(itertools.combinations(ordered, 2))
    return list(itertools.pairwise(ordered))


def _value(field: str, value: object) -> str:
    return network(str(value)) if field == "model" else str(value)


def spread_of(values: Sequence[float]) -> Spread:
    """Mean and interval as a page shows them."""
    found = interval(values)
    return Spread(found.mean, max(found.low, 0.0), min(found.high, 100.0), found.count)


def read_rows(path: Path, kind: type[R]) -> list[R]:
    """Rows of a JSON file beside a study; none where there is no file.

    Raises:
        DataError: not JSON, or not such rows.
    """
    if not path.is_file():
        return []
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(raw, list):
            raise DataError(f"{path} is not a list of {kind.__name__}; remove it or write it again")
        return [kind.model_validate(row) for row in raw]
    except (UnicodeDecodeError, json.JSONDecodeError, ValidationError) as error:
        raise DataError(f"{path} is not a list of {kind.__name__}: {str(error).splitlines()[0]}") from None


def _finite(result: CellResult) -> CellResult:
    """A diverged run may have no accuracy that is a number: None then."""
    value = result.test_accuracy
    if value is None or math.isfinite(value):
        return result
    return result.model_copy(update={"test_accuracy": None})


def _mean(rows: Iterable[CellResult]) -> float | None:
    values = [accuracy(row) for row in rows]
    return sum(values) / len(values) if values else None


def _subject(rows: Sequence[CellResult]) -> str:
    data = ", ".join(dict.fromkeys(row.cell.data for row in rows))
    models = list(dict.fromkeys(row.cell.model for row in rows))
    return (
        f"{models[0] if len(models) == 1 else plural(len(models), 'network')} on {data}" if rows else "empty"
    )


def _tiles(rows: Sequence[CellResult], compared: Sequence[Row]) -> tuple[Tile, ...]:
    ended = {status: sum(row.status == status for row in rows) for status in ("done", "diverged", "failed")}
    seeds = len({row.cell.seed for row in rows})
    tiles = [
        Tile(
            "Runs",
            count(len(rows)),
            f"{count(ended['diverged'])} diverged, {count(ended['failed'])} failed"
            if ended["diverged"] + ended["failed"]
            else "all ended well",
        ),
        Tile("Settings", count(len(by_setting(rows))), f"with {plural(seeds, 'seed')}"),
    ]
    best = max((row for row in rows if row.test_accuracy is not None), key=accuracy, default=None)
    if best is not None:
        tiles.append(Tile("Best run", f"{accuracy(best):.2f} %", f"{best.cell.rule}, {best.cell.model}"))
    overall = summarise(compared)[-1] if compared else None
    if overall is not None:
        rank = "–" if overall.spearman is None else f"{overall.spearman:.3f}"
        tiles.append(Tile("Rank correlation", rank, f"with {plural(overall.learned, 'published cell')}"))
        tiles.append(
            Tile(
                "Learned or collapsed", f"{100 * overall.agreement:.1f} %", f"agree of {overall.cells} cells"
            )
        )
    else:
        tiles.append(Tile("Time", duration(sum(row.seconds for row in rows)), "of all runs together"))
    return tuple(tiles)


def _troubles(rows: Sequence[CellResult]) -> tuple[Trouble, ...]:
    return tuple(
        Trouble(row.cell.describe(), row.status, _last_line(row.message))
        for row in rows
        if row.status != "done"
    )


def _last_line(message: str) -> str:
    """Of a traceback: what was raised."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def _facts(rows: Sequence[CellResult]) -> list[tuple[str, str]]:
    """What all cells have in common, and the time that they took."""
    if not rows:
        return []
    cell, changing = rows[0].cell, set(varying(rows))
    fixed = [
        (name_of(field), str(getattr(cell, field)))
        for field in (
            "data",
            "model",
            "rule",
            "optimizer",
            "learning_rate",
            "decay",
            "batch",
            "epochs",
            "storage",
            "judged_on",
        )
        if field not in changing
    ]
    stacked = max(row.stacked for row in rows)
    return [
        *fixed,
        ("runs in the largest stack", count(stacked)),
        ("time of all runs", duration(sum(row.seconds for row in rows))),
    ]
