"""The files that a hardware reproduction ends with: rows, tables, and the report with its answer.

The answer is each network's fastest single image here beside the document's nearest device, its processor,
and what the lower precisions are worth in the document's tables 4.3 and 4.4 and here.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from tersa.files import write_atomic
from tersa.recipes import published_hardware as published
from tersa.recipes.hardware_result import Group, HardwareResult, NetworkFacts
from tersa.recipes.hardware_tables import NAMES, markdown, one, precisions_of, tables, targets_of
from tersa.report.hardware_charts import STYLES
from tersa.report.hardware_page import write
from tersa.report.hardware_view import Curve, GroupView, HardwareView, Panel, Point, TableView, Tile
from tersa.report.numbers import duration, factor, milliseconds, size
from tersa.targets.sweep import Row

ROWS, TABLES, REPORT = "rows.csv", "tables.md", "report.html"
PROCESSOR = "i7-4790"
"""The document's device that is nearest to a processor of today."""
COLUMNS = (
    "network", "side", "model", "made_for", "trained", "parameters", "macs", "fp32_bytes", "int8_bytes",
    "target", "runtime", "precision", "executed", "batch", "threads", "latency_ms", "p10_ms", "p90_ms",
    "low_ms", "high_ms", "rounds", "images_per_s", "load_ms", "first_ms", "added_bytes", "size_bytes",
    "test_accuracy", "processor", "date", "commit",
)  # fmt: skip


def write_results(result: HardwareResult, folder: Path) -> HardwareResult:
    """Write rows, tables and page; the result with its answer and paths.

    Args:
        result: what was measured.
        folder: of the run.
    """
    verdict, detail = answer(result.groups)
    result = result.model_copy(
        update={
            "verdict": verdict,
            "detail": detail,
            "artefacts": [str(folder / ROWS), str(folder / TABLES)],
            "report": str(folder / REPORT),
        }
    )
    write_atomic(folder / ROWS, rows_csv(result))
    write_atomic(folder / TABLES, markdown(tables(result.groups, result.environment)))
    write(view_of(result), folder / REPORT)
    return result


def rows_csv(result: HardwareResult) -> str:
    """Every measurement, with what its network is and where it was made."""
    text = io.StringIO()
    writer: csv.DictWriter[str] = csv.DictWriter(text, fieldnames=COLUMNS, lineterminator="\n")
    writer.writeheader()
    machine = result.environment
    for group in result.groups:
        facts = {each.model: each for each in group.networks}
        for row in group.rows:
            own = facts[row.model]
            writer.writerow(
                {
                    **own.model_dump(include={*COLUMNS}),
                    **row.model_dump(include={*COLUMNS} - {"latency_ms"}),
                    "latency_ms": round(row.latency_ms.median, 4),
                    "p10_ms": round(row.latency_ms.p10, 4),
                    "p90_ms": round(row.latency_ms.p90, 4),
                    "low_ms": round(row.low, 4),
                    "high_ms": round(row.high, 4),
                    "images_per_s": round(row.images_per_s, 2),
                    "load_ms": round(row.load_ms, 1),
                    "first_ms": round(row.first_ms, 2),
                    "test_accuracy": _accuracy(row, own),
                    "processor": machine.processor,
                    "date": machine.date[:10],
                    "commit": machine.commit,
                }
            )
    return text.getvalue()


def _accuracy(row: Row, own: NetworkFacts) -> str | float:
    if row.test_accuracy is not None:
        return row.test_accuracy
    return "not tested" if own.trained else "not trained here"


def answer(groups: Sequence[Group]) -> tuple[str, str]:
    """The verdict in a line, and the detail in sentences."""
    told: list[str] = []
    details: list[str] = []
    for group in _largest(groups):
        best = fastest(group, 1)
        if best is None:
            continue
        name = NAMES[group.network]
        told.append(f"{name} takes {milliseconds(best.latency_ms.median)} an image")
        before = published.original(PROCESSOR, group.network)
        details.append(
            f"{name} at {group.side}x{group.side} is fastest with {best.target} in {best.precision.upper()}: "
            f"{milliseconds(best.latency_ms.median)} at batch 1"
            + (
                f"; the document's {PROCESSOR} takes {milliseconds(before)}"
                if before and group.side == 224
                else ""
            )
        )
        details += [text for text in (_lower(group, "int8"), _lower(group, "bf16")) if text]
    verdict = (
        " and ".join(told) + " on the fastest runtime here" if told else "No network was measured at batch 1"
    )
    return verdict, ". ".join(details) + ("." if details else "")


def _largest(groups: Sequence[Group]) -> list[Group]:
    """Of each network the group of the largest images, in the document's order."""
    found: list[Group] = []
    for name in NAMES:
        own = [each for each in groups if each.network == name and each.rows]
        found += [max(own, key=lambda each: each.side)] if own else []
    return found


def fastest(group: Group, batch: int) -> Row | None:
    """The quickest measurement of the original at a batch size."""
    own = [row for row in group.rows if row.batch == batch and row.model == group.network]
    return min(own, key=lambda row: row.latency_ms.median, default=None)


def _lower(group: Group, precision: str) -> str:
    """What a lower precision is worth on its best runtime at the largest batch that has both."""
    batches = sorted({row.batch for row in group.rows}, reverse=True)
    for batch in batches:
        gains = [
            (before.latency_ms.median / after.latency_ms.median, target, batch)
            for target in targets_of([group])
            if (before := one(group.rows, target, "fp32", batch, group.network))
            and (after := one(group.rows, target, precision, batch, group.network))
        ]
        if gains:
            gain, target, batch = max(gains)
            text = f"{precision.upper()} is worth {factor(gain)} at most (batch {batch}, {target})"
            return text + (_document_gain(group.network) if precision == "int8" else "")
    return ""


def _document_gain(network: str) -> str:
    times = {
        cell.precision: cell.latency_ms
        for cell in published.precisions()
        if (cell.network, cell.device, cell.form, cell.runtime) == (network, "Xavier", "original", "TensorRT")
    }
    if not times.get("fp32") or not times.get("int8"):
        return ""
    return f", {factor((times['fp32'] or 0) / (times['int8'] or 1))} on the document's Xavier with TensorRT"


def view_of(result: HardwareResult) -> HardwareView:
    """What the page shows."""
    machine = result.environment
    return HardwareView(
        subject=", ".join(group.name for group in result.groups),
        verdict=result.verdict,
        detail=result.detail,
        notes=tuple(result.notes),
        tiles=tuple(_tiles(result.groups)),
        tables=tuple(
            TableView(
                each.number,
                each.title,
                each.columns,
                tuple((row.cells, row.published) for row in each.rows),
                each.note,
            )
            for each in tables(result.groups, machine)
        ),
        groups=tuple(_group_view(group) for group in result.groups if group.rows),
        absent=tuple(_absent(result.groups)),
        command=result.command,
        facts=(
            ("processor", machine.processor),
            ("cores", str(machine.cores)),
            ("memory", size(machine.memory_bytes)),
            ("system", machine.system),
            ("Python", machine.python),
            *machine.versions.items(),
            ("threads of a call", str(machine.threads)),
            ("mode", result.mode),
            ("this call took", duration(result.seconds)),
            ("date", machine.date),
            ("commit", machine.commit or "not known"),
        ),
    )


def _tiles(groups: Sequence[Group]) -> list[Tile]:
    found: list[Tile] = []
    for group in groups:
        best = fastest(group, 1)
        if best is not None:
            label = f"{NAMES[group.network]} {group.side}×{group.side}"
            note = f"an image, {best.target}, {best.precision.upper()}"
            found.append(Tile(label, milliseconds(best.latency_ms.median), note))
    return found


def _group_view(group: Group) -> GroupView:
    said = [
        f"{claim.device} up to batch {claim.value:g}"
        for claim in published.claims()
        if claim.what == "largest batch" and group.side == 224
    ]
    return GroupView(
        title=f"{NAMES[group.network]}, {group.side}×{group.side}",
        said=f"memory ends on {', '.join(said)}; its curves are drawn, not printed." if said else "",
        panels=tuple(_panel(group, target) for target in targets_of([group])),
    )


def _panel(group: Group, target: str) -> Panel:
    curves: list[Curve] = []
    for place, facts in enumerate(group.networks):
        for precision in precisions_of([group]):
            rows = [
                row
                for row in group.rows
                if (row.target, row.precision, row.model) == (target, precision, facts.model)
            ]
            if rows:
                label = precision.upper() if place == 0 else f"{facts.model}, {precision.upper()}"
                style = STYLES[precision] if place == 0 else 3
                points = (Point(row.batch, row.latency_ms.median, row.low, row.high) for row in rows)
                curves.append(Curve(label, style, tuple(sorted(points, key=lambda point: point.batch))))
    ended = [
        f"{gap.precision.upper()}: {gap.kind} at batch {gap.batch}"
        for gap in group.gaps
        if gap.target == target and gap.batch is not None
    ]
    return Panel(target, tuple(curves), tuple(dict.fromkeys(ended)))


def _absent(groups: Sequence[Group]) -> list[tuple[str, str, str]]:
    return [
        (
            f"{gap.model} {group.side}x{group.side}" if gap.model == group.network else gap.model,
            f"{gap.target}, {gap.precision}",
            gap.text,
        )
        for group in groups
        for gap in group.gaps
    ]
