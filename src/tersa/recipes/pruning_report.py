"""The files that a pruning reproduction ends with: points, table 4.1, result, and the report with its answer.

The page shows every figure of which a curve is there, and says which are not. Its answer is that of
`recipes.pruning_answer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tersa.files import write_atomic
from tersa.recipes.pruning_answer import details, headline, listed
from tersa.recipes.pruning_curves import FIGURES, Curve, Figure, document_training
from tersa.recipes.pruning_findings import Finding, area, findings
from tersa.recipes.pruning_results import (
    LOSS,
    POINTS,
    REPORT,
    RESULT,
    TABLE,
    TABLE_CURVE,
    PruningResult,
    TableRow,
    document,
    points_csv,
    table_csv,
    table_rows,
)
from tersa.recipes.pruning_store import PruningStore, Walked, key_of
from tersa.records.base import write_record
from tersa.records.results import Environment
from tersa.report.numbers import duration, factor, percent, plural, points
from tersa.report.pruning_page import write
from tersa.report.pruning_view import CurveRow, FigureView, Line, Panel, PruningView, Row, Run, Spot, Tile
from tersa.targets.environment import environment

BOUNDS = (99.0, 98.0, 95.0)
"""Accuracies at which the table of all curves says how many channels are gone."""
STYLES = {
    "Taylor": 0, "weights": 1, "activation": 2, "random": 3,
    "100 iterations": 0, "50 iterations": 2, "10 iterations": 3,
    "l2": 0, "l1": 1, "none": 2,
    "100 iterations, all layers": 0, "100 iterations, this layer only": 1, "criterion once": 2,
    "no retraining": 3,
}  # fmt: skip
"""How a line is drawn: solid and dashed in the accent colour, then in grey."""


@dataclass(frozen=True)
class Setup:
    """How it was run.

    Attributes:
        data: name of the data.
        model: spec of the network.
        mode: `quick` or `full`.
        precision: of forward passes while training.
        baseline_iterations: of its training.
        shortened: not the document's network, data or training.
        validation: images.
        test: images.
        command: what the user typed.
        threads: of each worker.
        workers: processes.
        device: where it was computed.
    """

    data: str
    model: str
    mode: Literal["quick", "full"]
    precision: str
    baseline_iterations: int
    shortened: bool
    validation: int
    test: int
    command: str
    threads: int
    workers: int
    device: str

    @property
    def pace(self) -> str:
        """Channels of a step, in words."""
        return "2 % of the channels a step" if self.mode == "quick" else "one channel a step"


def write_results(
    store: PruningStore, folder: Path, setup: Setup, *, asked: Sequence[Curve], seconds: float
) -> PruningResult:
    """Write everything that follows from the stored curves.

    Args:
        store: of the reproduction.
        folder: where the files go.
        setup: how it was run.
        asked: curves of this call.
        seconds: wall time of this call.
    """
    walked, baselines = store.curves(), list(store.baselines().values())
    wanted = {key_of(curve) for curve in asked}
    mine = [each for each in walked if key_of(each.curve) in wanted]
    ways = [each.status for each in mine]
    rows, found = table_rows(store, setup.model), findings(walked)
    result = PruningResult(
        command=setup.command,
        data=setup.data,
        model=setup.model,
        mode=setup.mode,
        precision=setup.precision,
        shortened=setup.shortened,
        verdict=("A shortened trial: " if setup.shortened else "") + headline(rows, found, walked),
        curves=len(asked),
        done=ways.count("done"),
        diverged=ways.count("diverged"),
        failed=ways.count("failed"),
        stored=len(walked),
        trouble=next((each.trouble for each in mine if each.status == "failed"), ""),
        baselines=baselines,
        table=rows,
        environment=environment(setup.threads),
        workers=setup.workers,
        curve_seconds=sum(each.seconds for each in walked),
        artefacts=[str(folder / POINTS), str(folder / TABLE), str(store.path)],
        report=str(folder / REPORT),
        seconds=seconds,
    )
    write_atomic(folder / POINTS, points_csv(walked))
    write_atomic(folder / TABLE, table_csv(rows))
    write(view_of(result, walked, found, setup), folder / REPORT)
    write_record(folder / RESULT, result)
    return result


def view_of(
    result: PruningResult, walked: Sequence[Walked], found: Sequence[Finding], setup: Setup
) -> PruningView:
    """What the page shows."""
    done = [each for each in walked if each.status == "done"]
    judged = {each.number: each for each in found}
    absent = [figure.number for figure in FIGURES if figure.number not in judged]
    return PruningView(
        subject=f"{setup.model} on {setup.data}",
        verdict=result.verdict,
        detail=details(walked),
        warning=_warning(setup),
        tiles=tuple(_tiles(result)),
        figures=tuple(
            _drawn(figure, judged[figure.number], done, setup)
            for figure in FIGURES
            if figure.number in judged
        ),
        absent=f"Not pruned so far: the curves of {listed(absent)}." if absent else "",
        rows=tuple(_rows(result.table)),
        unfilled=_unfilled(result, done),
        bounds=BOUNDS,
        curves=tuple(_curve_row(each) for each in done),
        troubles=tuple(
            (f"{each.curve.name}, seed {each.curve.seed}", each.trouble)
            for each in walked
            if each.status != "done"
        ),
        command=setup.command,
        facts=tuple(_facts(result, setup)),
    )


def _drawn(figure: Figure, finding: Finding, done: Sequence[Walked], setup: Setup) -> FigureView:
    """A figure with the curves that are there."""
    known: dict[str, list[Walked]] = {}
    for each in done:
        known.setdefault(each.curve.name, []).append(each)
    panels: list[Panel] = []
    seeds: set[int] = set()
    for panel in figure.panels:
        lines = [
            Line(label, STYLES[label], tuple(_run(each) for each in known[curve.name]))
            for label, curve in panel.lines
            if curve.name in known
        ]
        seeds |= {run.seed for line in lines for run in line.runs}
        missing = tuple(label for label, curve in panel.lines if curve.name not in known)
        panels += [Panel(panel.title, tuple(lines), missing)] if lines else []
    shows = f"{setup.pace}, seed{'s' if len(seeds) > 1 else ''} {listed([str(s) for s in sorted(seeds)])}, "
    return FigureView(
        figure.number,
        figure.question,
        tuple(panels),
        finding.document,
        finding.here,
        finding.verdict,
        f"{shows}{setup.precision} while training",
    )


def _run(walked: Walked) -> Run:
    spots = (Spot(p.removed, p.validation_accuracy, p.test_accuracy) for p in walked.points)
    return Run(walked.curve.seed, tuple(spots))


def _tiles(result: PruningResult) -> list[Tile]:
    """The baseline, and the first row of table 4.1."""
    known = document()
    tiles = [
        Tile(
            "Baseline" if len(result.baselines) == 1 else f"Baseline, seed {start.seed}",
            percent(start.validation_accuracy),
            f"on validation, document {percent(known['baseline_accuracy'])}; "
            f"on test {percent(start.test_accuracy)}",
        )
        for start in result.baselines[:1]
    ]
    if result.table:
        row = result.table[0]
        which, where = f"floor {row.floor}; document", "on validation"
        tiles += [
            Tile("Fewer parameters", factor(row.compression), f"{which} {known['pruned_compression']:g}×"),
            Tile("Fewer MACs", factor(row.acceleration), f"{which} {known['pruned_acceleration']:g}×"),
            Tile(
                "Loss, points", _number(row.validation_loss), f"{where}, {which} {known['pruned_loss']:.2f}"
            ),
        ]
        if row.scratch_validation_loss is not None:
            note = f"lost on validation, document {known['scratch_loss']:.2f}"
            tiles.append(Tile("From nothing, points", _number(row.scratch_validation_loss), note))
    return tiles


def _rows(table: Sequence[TableRow]) -> list[Row]:
    """Table 4.1: the document's two networks, then ours."""
    known = document()
    size = (f"{known['pruned_compression']:g}×", f"{known['pruned_acceleration']:g}×", "not printed")
    rows = [
        Row("Pruned", "document, floor 99 %", f"{known['pruned_loss']:.2f}", "–", *size, published=True),
        Row("From nothing", "document", f"{known['scratch_loss']:.2f}", "–", *size, published=True),
    ]
    for each in table:
        small = (factor(each.compression), factor(each.acceleration), _counts(each.widths))
        where = f"seed {each.seed}"
        losses = (_number(each.validation_loss), _number(each.test_loss))
        rows.append(Row("Pruned", f"here, floor {_floor(each)}, {where}", *losses, *small))
        if each.scratch_validation_loss is not None and each.scratch_test_loss is not None:
            losses = (_number(each.scratch_validation_loss), _number(each.scratch_test_loss))
            rows.append(Row("From nothing", f"here, {where}", *losses, *small))
    return rows


def _floor(row: TableRow) -> str:
    return row.floor if row.floor.endswith("%") else f"{LOSS} points below the baseline"


def _number(value: float) -> str:
    return points(value).removesuffix(" points")


def _counts(widths: str) -> str:
    return "-".join(part.partition("=")[2] for part in widths.split())


def _unfilled(result: PruningResult, done: Sequence[Walked]) -> str:
    """Why rows of the table are not there."""
    if not any(each.curve.name == TABLE_CURVE for each in done):
        return f"No row of ours: the curve {TABLE_CURVE} has not been pruned."
    if not result.table:
        return "No row of ours: no pruned network is within a floor."
    if all(row.floor != "99 %" for row in result.table):
        return "No pruned network keeps 99 % on the validation images."
    return ""


def _curve_row(walked: Walked) -> CurveRow:
    kept: list[str] = []
    for bound in BOUNDS:
        gone = [point.removed for point in walked.points if point.validation_accuracy >= bound]
        kept.append(f"{gone[-1]:,} of {walked.points[-1].removed:,}" if gone else "–")
    return CurveRow(
        walked.curve.name,
        str(walked.curve.seed),
        f"{area(walked.points):.2f}",
        tuple(kept),
        duration(walked.seconds),
    )


def _warning(setup: Setup) -> str:
    """What a reader of a shortened trial must know."""
    if not setup.shortened:
        return ""
    usual = document_training(0).iterations
    return (
        f"{setup.model} on {setup.data}, trained for {setup.baseline_iterations:,} iterations, where the "
        f"document has lenet on mnist and {usual:,}: its numbers are not to be compared with these."
    )


def _facts(result: PruningResult, setup: Setup) -> list[tuple[str, str]]:
    """Protocol and machine."""
    here: Environment = result.environment
    facts = [
        ("mode", f"{setup.mode}: {setup.pace}"),
        ("baseline", f"{setup.baseline_iterations:,} iterations of Adam at 1e-4, 100 images each"),
        ("precision", f"{setup.precision} forward passes while training, fp32 weights and updates"),
        ("validation", f"{setup.validation:,} images, cut from train"),
        ("test", f"{setup.test:,} images; they decide nothing"),
        ("curves", f"{result.stored} in the folder, {duration(result.curve_seconds)} one after the other"),
        ("this call", duration(result.seconds)),
        (
            "workers",
            f"{plural(setup.workers, 'process', 'processes')}, {plural(setup.threads, 'thread')} each",
        ),
        ("device", setup.device),
        ("processor", here.processor),
        ("cores", str(here.cores)),
        ("date", here.date),
        ("commit", here.commit),
    ]
    facts += [(name, version) for name, version in here.versions.items() if name in ("tersa", "torch")]
    return [(name, value) for name, value in facts if value]
