"""The files that an adaptation reproduction ends with: rows, tables, and the report with its answer.

The answer is how much faster the remedies make NetAdapt here, beside the document's 37 times.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from tersa.files import write_atomic
from tersa.recipes import published_adaptation as published
from tersa.recipes.adaptation_result import REMEDIES, AdaptationResult, ScorePoint, Timed
from tersa.recipes.adaptation_tables import NAMES, tables
from tersa.recipes.hardware_tables import markdown
from tersa.report.adapt_charts import Spot
from tersa.report.adaptation_page import AdaptationView, Chart, write
from tersa.report.hardware_view import TableView, Tile
from tersa.report.numbers import duration, factor, percent, size

ROWS, TABLES, REPORT = "rows.csv", "tables.md", "report.html"
COLUMNS = (
    "network", "side", "delta", "steps", "trained", "iterations", "step", "block", "name", "before", "width",
    "tries", "bisect_tries", "built", *(f"{name}_s" for name in REMEDIES), "ours_s", "finetune_s",
    "evaluate_s", "score_s", "target", "processor", "date", "commit",
)  # fmt: skip
FIGURES = {
    ("naswot", "mobilenet"): "5.7", ("naswot", "alexnet"): "5.8", ("grad_norm", "mobilenet"): "5.10",
    ("grad_norm", "alexnet"): "5.11", ("synflow", "mobilenet"): "5.12", ("synflow", "alexnet"): "5.13",
}  # fmt: skip


def write_results(result: AdaptationResult, folder: Path) -> AdaptationResult:
    """Write rows, tables and page; the result with its answer and paths.

    Args:
        result: what was measured.
        folder: of the run.
    """
    verdict, detail = answer(result.timed)
    result = result.model_copy(
        update={
            "verdict": verdict,
            "detail": detail,
            "artefacts": [str(folder / ROWS), str(folder / TABLES)],
            "report": str(folder / REPORT),
        }
    )
    write_atomic(folder / ROWS, rows_csv(result))
    write_atomic(folder / TABLES, markdown(tables(result.timed, result.searched)))
    write(view_of(result), folder / REPORT)
    return result


def rows_csv(result: AdaptationResult) -> str:
    """Every candidate that was measured, and where."""
    text = io.StringIO()
    writer: csv.DictWriter[str] = csv.DictWriter(text, fieldnames=COLUMNS, lineterminator="\n")
    writer.writeheader()
    for each in result.timed:
        for row in each.blocks:
            seconds = {name: getattr(row, name) for name in ("finetune_s", "evaluate_s", "score_s")}
            seconds |= {f"{name}_s": value for name, value in row.cuts.items()}
            writer.writerow(
                {
                    **each.model_dump(include={*COLUMNS}),
                    **row.model_dump(include={*COLUMNS} - {*seconds}),
                    **{name: f"{value:.5g}" for name, value in seconds.items()},
                    "target": result.target,
                    "processor": result.environment.processor,
                    "date": result.environment.date[:10],
                    "commit": result.environment.commit,
                }
            )
    return text.getvalue()


def answer(timed: Sequence[Timed]) -> tuple[str, str]:
    """The verdict in a line, and the detail in sentences."""
    if not timed:
        return "No network was measured", ""
    told: list[str] = []
    details: list[str] = []
    for network in dict.fromkeys(each.network for each in timed):
        own = [each for each in timed if each.network == network]
        best = max(own, key=lambda each: each.total("original") / each.hybrid())
        gain = best.total("original") / best.hybrid()
        told.append(f"{NAMES[network]} {factor(gain)}")
        alone = best.of_step("original") / max(best.of_step("ours"), 1e-9)
        details.append(
            f"{NAMES[network]} at delta {best.delta:g}: the original would take "
            f"{duration(best.total('original'))} in {best.steps} steps here, "
            f"{duration(best.hybrid())} with bisection, the table in memory and NAS-WOT for the first 70 % "
            f"of the way; the search for widths alone is {factor(alone)} as fast"
        )
    document = factor(published.claim("h30_naswot_speedup"))
    verdict = (
        f"NetAdapt's remedies make it faster: {', '.join(told)} here, {document} in the document (AlexNet)"
    )
    return verdict, ". ".join(details) + "."


def view_of(result: AdaptationResult) -> AdaptationView:
    """What the page shows."""
    machine = result.environment
    return AdaptationView(
        subject=", ".join(dict.fromkeys(NAMES[each.network] for each in result.timed)),
        verdict=result.verdict,
        detail=result.detail,
        notes=tuple(result.notes),
        tiles=tuple(
            Tile(
                f"{NAMES[each.network]}, delta {each.delta:g}",
                duration(each.total("original")),
                f"the original; {duration(each.hybrid())} with all remedies",
            )
            for each in result.timed
        ),
        tables=tuple(
            TableView(
                each.number,
                each.title,
                each.columns,
                tuple((row.cells, row.published) for row in each.rows),
                each.note,
            )
            for each in tables(result.timed, result.searched)
        ),
        charts=(*_layer_charts(result), *_score_charts(result.scores), *_search_charts(result)),
        command=result.command,
        facts=(
            ("processor", machine.processor),
            ("cores", str(machine.cores)),
            ("memory", size(machine.memory_bytes)),
            ("system", machine.system),
            ("Python", machine.python),
            *machine.versions.items(),
            ("target", result.target),
            ("mode", result.mode),
            ("this call took", duration(result.seconds)),
            ("date", machine.date),
            ("commit", machine.commit or "not known"),
        ),
    )


def _layer_charts(result: AdaptationResult) -> list[Chart]:
    """Figures 5.3 and 5.4: one chart of each layer, the full inputs in colour."""
    found: list[Chart] = []
    for kind, number in (("conv", "5.3"), ("linear", "5.4")):
        for layer in dict.fromkeys(row.layer for row in result.layers if row.kind == kind):
            own = [row for row in result.layers if (row.kind, row.layer) == (kind, layer)]
            most = max(row.inputs for row in own)
            spots = tuple(
                Spot(
                    row.outputs, row.ms, f"{row.inputs} to {row.outputs}: {row.ms:.4g} ms", row.inputs == most
                )
                for row in own
            )
            inputs = sorted({row.inputs for row in own})
            title = f"Figure {number}: {layer}, inputs {', '.join(map(str, inputs))}"
            found.append(Chart(title, spots, ("output channels", "latency, ms"), joined=True))
    return found


def _score_charts(points: Sequence[ScorePoint]) -> list[Chart]:
    """Figures 5.7, 5.8 and 5.10 to 5.13: a score over latency, candidates and what was chosen."""
    found: list[Chart] = []
    for network in dict.fromkeys(row.network for row in points):
        own = [row for row in points if row.network == network]
        for score in ("naswot", "grad_norm", "synflow"):
            number = FIGURES.get((score, network))
            spots = tuple(
                Spot(
                    1.0 / row.cost,
                    getattr(row, score),
                    f"step {row.step}, block {row.block}\n{score} {getattr(row, score):.5g}",
                    row.chosen,
                )
                for row in own
            )
            title = f"{f'Figure {number}: ' if number else ''}{NAMES[network]}, {score} of the candidates"
            found.append(Chart(title, spots, ("first latency over latency", score), joined=True))
    return found


def _search_charts(result: AdaptationResult) -> list[Chart]:
    """Figures 5.14 and 5.15: accuracy over the time of the search."""
    found: list[Chart] = []
    for network, number in (("alexnet", "Figure 5.14: "), ("mobilenet", "Figure 5.15: "), ("vgg19", "")):
        own = [row for row in result.searched if row.network == network]
        spots = tuple(
            Spot(
                row.search_s / 60,
                row.accuracy,
                f"{row.strategy}, seed {row.seed}\n{percent(row.accuracy)} in {duration(row.search_s)}",
                row.strategy != "original",
            )
            for row in own
        )
        if spots:
            title = f"{number}{NAMES[network]}, accuracy and time; the original in grey"
            found.append(Chart(title, spots, ("search, minutes", "test accuracy, %")))
    return found
