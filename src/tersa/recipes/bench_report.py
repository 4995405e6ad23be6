"""From the result of a benchmark to its page: every number becomes text here, and every choice of what is
shown.

Example:
    >>> write_report(Path("runs/matrix"), result)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tersa.recipes.bench_layers import limit_words
from tersa.recipes.bench_result import BenchResult, CrossTable, LayerTable
from tersa.recipes.bench_verdict import short
from tersa.records.results import Comparison
from tersa.report.bench_charts import front
from tersa.report.bench_page import REPORT, write
from tersa.report.bench_view import (
    Against,
    BenchView,
    CostRow,
    CrossView,
    Dot,
    LayerRow,
    LayersView,
    MeasuredRow,
    Tile,
)
from tersa.report.hardware_view import Curve, Panel, Point
from tersa.report.numbers import (
    duration,
    factor,
    latency,
    milliseconds,
    percent,
    plural,
    precision_text,
    si,
    size,
)
from tersa.report.tables import target_name
from tersa.targets.sweep import Row

LINES = 4
"""Curves of one chart; more get charts of their own."""
Key = tuple[str, str, str, int]


def write_report(folder: Path, result: BenchResult) -> None:
    """Write the page of a benchmark into its folder."""
    write(view_of(result), folder / REPORT)


def view_of(result: BenchResult) -> BenchView:
    """Everything that the page shows."""
    models = list(dict.fromkeys(short(row.model) for row in result.measurements))
    subject = ", ".join(models[:4]) + (f" and {len(models) - 4} more" if len(models) > 4 else "")
    if result.data:
        subject += f" on {result.data}"
    smallest = _at_smallest(result)
    return BenchView(
        subject=subject,
        verdict=result.verdict,
        detail=result.detail,
        tiles=tuple(_tiles(result)),
        rows=tuple(_measured(result)),
        costs=tuple(_cost(row) for row in smallest),
        energy=result.energy,
        panels=tuple(_panels(result)) if len({row.batch for row in result.measurements}) > 1 else (),
        against=tuple(_against(smallest)),
        cross=_cross(result.cross) if result.cross else None,
        layers=tuple(_layers(table) for table in result.layers),
        gaps=tuple(
            (f"{short(gap.model)}, {gap.target}, {precision_text(gap.precision)}", gap.text)
            for gap in result.not_offered
        ),
        notes=tuple(result.notes),
        command=result.command,
        facts=tuple(_facts(result)),
        how=_how(result),
    )


def _at_smallest(result: BenchResult) -> list[Row]:
    """The rows of the smallest batch of each combination."""
    found: dict[tuple[str, str, str], Row] = {}
    for row in result.measurements:
        key = row.model, row.target, row.precision
        if key not in found or row.batch < found[key].batch:
            found[key] = row
    return list(found.values())


def _tiles(result: BenchResult) -> Iterable[Tile]:
    rows = _at_smallest(result)
    quickest = min(rows, key=lambda row: row.latency_ms.median)
    most = max(result.measurements, key=lambda row: row.images_per_s)
    least = min(rows, key=lambda row: row.size_bytes)
    yield Tile("quickest call", milliseconds(quickest.latency_ms.median), _name(quickest))
    yield Tile("most images in a second", si(round(most.images_per_s)), f"{_name(most)}, batch {most.batch}")
    yield Tile("smallest file", size(least.size_bytes), _name(least))
    tested = [row for row in rows if row.test_accuracy is not None]
    if tested:
        best = max(tested, key=lambda row: row.test_accuracy or 0.0)
        yield Tile("most accurate", percent(best.test_accuracy or 0.0), _name(best))
    lean = [row for row in rows if row.added_bytes]
    if lean:
        one = min(lean, key=lambda row: row.added_bytes or 0)
        yield Tile("least memory", size(one.added_bytes or 0), _name(one))


def _name(row: Row) -> str:
    return f"{short(row.model)}, {_target(row.target)}, {precision_text(row.precision)}"


def _target(text: str) -> str:
    """Runtime, and its options where they are not one thread."""
    runtime, options = target_name(text)
    return runtime if options in ("", "threads=1") else f"{runtime} ({options})"


def _measured(result: BenchResult) -> Iterable[MeasuredRow]:
    pairs = {_key(pair): pair for pair in result.comparisons}
    across = {_key(pair): pair for pair in result.across}
    for row in result.measurements:
        key = row.model, row.target, row.precision, row.batch
        pair, other = pairs.get(key), across.get(key)
        quantiles = row.latency_ms
        yield MeasuredRow(
            model=short(row.model),
            target=_target(row.target),
            precision=precision_text(row.precision),
            batch=str(row.batch),
            latency=latency(quantiles.median),
            spread=f"{latency(quantiles.p10)} to {latency(quantiles.p90)}",
            ratio=factor(pair.speedup) if pair and pair.speedup else "",
            interval=f"{pair.low:.2f} to {pair.high:.2f}" if pair and pair.low and pair.high else "",
            verdict=pair.verdict if pair else "reference" if result.leads(row) else "not compared",
            across=factor(other.speedup) if other and other.speedup else "1" if result.anchors(row) else "",
            throughput=si(round(row.images_per_s)),
            tone=pair.verdict if pair and pair.verdict in ("faster", "slower") else "",
        )


def _key(pair: Comparison) -> Key | None:
    after = pair.after
    return (after.model, after.target, after.precision, after.batch) if after else None


def _cost(row: Row) -> CostRow:
    energy = "not measured"
    if row.energy is not None:
        energy = f"{1e3 * row.energy.joules_per_image:.3g} mJ ({row.energy.source})"
    return CostRow(
        model=short(row.model),
        target=_target(row.target),
        precision=precision_text(row.precision),
        load=latency(row.load_ms),
        first=latency(row.first_ms),
        memory="not known" if row.added_bytes is None else size(row.added_bytes),
        size=size(row.size_bytes),
        accuracy="not tested" if row.test_accuracy is None else f"{row.test_accuracy:.2f}",
        energy=energy,
        executed=row.executed,
    )


def _panels(result: BenchResult) -> Iterable[Panel]:
    """Curves against the batch: a chart for a target, or for a model on it where curves would be many."""
    curves: dict[str, dict[tuple[str, str], list[Row]]] = {}
    for row in result.measurements:
        curves.setdefault(row.target, {}).setdefault((row.model, row.precision), []).append(row)
    combinations = list(dict.fromkeys(key for found in curves.values() for key in found))
    apart = len(combinations) > LINES
    models = list(dict.fromkeys(model for model, _ in combinations))
    precisions = list(dict.fromkeys(precision for _, precision in combinations))
    for target, found in curves.items():
        for group in models if apart else [""]:
            chosen = {key: rows for key, rows in found.items() if not group or key[0] == group}
            drawn = [
                Curve(
                    precision_text(precision)
                    if apart or len(models) == 1
                    else f"{short(model)} {precision_text(precision)}",
                    precisions.index(precision) % LINES if apart else combinations.index((model, precision)),
                    tuple(
                        Point(row.batch, row.latency_ms.median, row.low, row.high)
                        for row in sorted(rows, key=lambda row: row.batch)
                    ),
                )
                for (model, precision), rows in chosen.items()
            ]
            ended = tuple(
                f"{short(gap.model)} {precision_text(gap.precision)}: {gap.text}"
                for gap in result.not_offered
                if gap.target == target and gap.batch is not None and (not group or gap.model == group)
            )
            title = f"{short(group)} on {_target(target)}" if group else _target(target)
            if drawn:
                yield Panel(title, tuple(drawn), ended)


def _against(rows: list[Row]) -> Iterable[Against]:
    """Accuracy and file size against latency, where there is something to choose from."""
    if len(rows) < 2:
        return
    tested = [row for row in rows if row.test_accuracy is not None]
    if len(tested) > 1:
        dots = [
            Dot(
                _name(row),
                row.latency_ms.median,
                row.test_accuracy or 0.0,
                f"{milliseconds(row.latency_ms.median)}, {percent(row.test_accuracy or 0.0)} of test images",
            )
            for row in tested
        ]
        lead = "In green, on the steps: no other is quicker and at least as accurate."
        yield Against("accuracy", "In accuracy?", lead, "test accuracy, %", tuple(front(dots, up=True)))
    dots = [
        Dot(
            _name(row),
            row.latency_ms.median,
            row.size_bytes,
            f"{milliseconds(row.latency_ms.median)}, {size(row.size_bytes)}",
        )
        for row in rows
    ]
    lead = "In green, on the steps: no other is quicker and at most as large."
    marked = tuple(front(dots, up=False))
    yield Against("size", "In file size?", lead, "bytes of the file (log scale)", marked, log=True, up=False)


def _cross(table: CrossTable) -> CrossView:
    targets = tuple(table.original_ms)
    rows = tuple(
        (
            short(row.model),
            _target(row.made_for),
            tuple(
                (
                    percent(row.percent[target], 0) if target in row.percent else "",
                    target == row.made_for,
                    row.percent.get(target, 0.0) > 100.0,
                )
                for target in targets
            ),
        )
        for row in table.rows
    )
    return CrossView(
        targets=tuple(_target(target) for target in targets),
        rows=rows,
        original=(
            short(table.original),
            tuple(milliseconds(table.original_ms[target]) for target in targets),
        ),
        lead=f"Time of a call in percent of the original's, {precision_text(table.precision)}, "
        f"batch {table.batch}, both timed in the same rounds. In green: on the target that the model "
        "was made for. Above 100 % it is slower.",
    )


def _layers(table: LayerTable) -> LayersView:
    rows = tuple(
        LayerRow(
            name=one.name,
            kind=one.kind,
            share=one.share,
            limit=one.limit,
            css=one.limit.replace(" ", "-"),
            time=latency(one.ms),
            roof=latency(one.roof_ms) if one.roof_ms else "",
            macs=si(one.macs) if one.macs else "",
            moved=size(one.bytes) if one.bytes else "",
        )
        for one in table.layers
    )
    counted = "products of single bits" if table.precision == "packed" else "multiply-accumulates"
    machine = (
        f"Machine: {si(table.macs_per_s)} {counted} and {size(table.bytes_per_s)} in a "
        f"second, for a working set of {size(table.working_set_bytes)}; the quickest operator takes "
        f"{milliseconds(table.overhead_ms)}. Times: {table.how}, {milliseconds(table.profiled_ms)} in all; "
        f"a call takes {milliseconds(table.call_ms)}."
    )
    precision = precision_text(table.precision)
    title = f"{short(table.model)}, {_target(table.target)}, {precision}, batch {table.batch}"
    return LayersView(title, limit_words(table), machine, rows)


def _how(result: BenchResult) -> str:
    rounds = [row.rounds for row in result.measurements]
    calls = [row.calls for row in result.measurements]
    text = (
        "Each network runs in a process of its own; rounds of all of them alternate, so that what else the "
        f"machine does falls on all alike: {min(rounds)} to {max(rounds)} rounds, {min(calls):,} to "
        f"{max(calls):,} calls. Speed-up is over the reference on the same target, with its 95 % interval."
    )
    if result.across:
        text += " The reference on the first target is timed in the rounds of every other target too."
    return text


def _facts(result: BenchResult) -> Iterable[tuple[str, str]]:
    machine = result.environment
    yield "processor", f"{machine.processor}, {plural(machine.cores, 'core')}"
    yield "memory", size(machine.memory_bytes)
    yield "system", f"{machine.system}, {machine.machine}"
    if machine.container:
        yield "container", machine.container
    yield "frequency governor", machine.governor or "not told by the system"
    if machine.load is not None:
        yield "load before", f"{machine.load:g} processes"
    for runtime in dict.fromkeys(row.runtime for row in result.measurements):
        yield "runtime", runtime
    yield "Python", machine.python
    if machine.commit:
        yield "commit", machine.commit
    yield "date", machine.date
    yield "took", duration(result.seconds)
