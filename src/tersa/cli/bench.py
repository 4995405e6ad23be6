"""`tersa bench`: models, runtimes, precisions and batch sizes against one another."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tersa.cli.console import Terminal
from tersa.cli.options import Checkpoint, DataDir, DryRun, Json, Network, Overwrite, Resume, Seed
from tersa.errors import TersaError, UsageError

if TYPE_CHECKING:
    from tersa.recipes.bench_result import BenchResult, CrossTable, LayerTable
    from tersa.targets.sweep import Row

EPILOG = """\b
Examples:
  tersa bench runs/demo/baseline.onnx runs/demo/model.onnx --batch 1,8
  tersa bench lenet vit:2x64 --data mnist --targets onnxruntime,openvino,torch \\
      --batch 1..64 --precision fp32,int8 --out runs/matrix
  tersa bench net.tersa --targets packed,openvino

A killed run goes on with the same command and --resume. Exit code 1: a runtime gave wrong outputs or
failed."""

ONCE = ("--resume", "--overwrite")
BAR = 24


def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Models (lenet, module.py:build), .onnx files or run folders; the first is the reference. "
            "MODEL=TARGET says that it was adapted for a target, and gives the cross table."
        ),
    ] = None,
    model: Network = None,
    run: Annotated[list[Path] | None, typer.Option("--run", help="A run folder; may be given again.")] = None,
    checkpoint: Checkpoint = None,
    targets: Annotated[
        str, typer.Option("--targets", "--target", help="Runtimes with options, separated by commas.")
    ] = "onnxruntime@threads=1",
    batch: Annotated[
        str,
        typer.Option(
            "--batch", help="Images per call: 1,8 or 1..64 (doubling) or 1.. (until memory or time ends)."
        ),
    ] = "1",
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            help="fp32, bf16, fp16, int8, packed or several; by default as each is stored, and a low-bit "
            "network packed, too, on packed and openvino.",
        ),
    ] = "",
    data: Annotated[
        str | None,
        typer.Option("--data", help="Real images, INT8 ranges and test accuracy (models: digits)."),
    ] = None,
    data_dir: DataDir = None,
    test_images: Annotated[
        int | None,
        typer.Option("--test-images", min=1, help="Measure accuracy on the first so many only."),
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.01, help="Timed calls per combination.")] = 1.0,
    starts: Annotated[
        int | None,
        typer.Option(
            "--starts",
            min=1,
            help="Processes of each network that share these seconds: an interval covers how they differ. "
            "[20; 1 below half a second]",
        ),
    ] = None,
    until: Annotated[
        str,
        typer.Option(
            "--until", help="End of raising the batch: memory of a process, time of a call: 4GB,2s."
        ),
    ] = "",
    watts: Annotated[
        float | None,
        typer.Option("--watts", min=0.001, help="Estimate energy with this power where there is no counter."),
    ] = None,
    cores: Annotated[str, typer.Option("--cores", help="Processors to measure on, as in 0,1.")] = "",
    layers: Annotated[
        bool, typer.Option("--layers", help="Also where the time goes, layer by layer, and what limits each.")
    ] = False,
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder for the results; an existing one needs --resume or --overwrite. [none is kept]",
        ),
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Measure side by side: latency, throughput, memory, size, accuracy; ratios to the first model."""
    from tersa.recipes.bench import BenchRequest, make_plan, run_bench
    from tersa.recipes.bench_report import write_report

    names = [*(models or []), *(str(folder) for folder in run or [])]
    if not names:
        raise UsageError("name at least one model, .onnx file or run folder")
    if resume and out is None:
        raise UsageError("--resume goes on with the cells in a folder; name it with --out")
    request = BenchRequest(
        models=names,
        targets=targets,
        batch=batch,
        precision=precision,
        data=data,
        data_dir=None if data_dir is None else str(data_dir),
        checkpoint=None if checkpoint is None else str(checkpoint),
        seconds=seconds,
        starts=starts,
        seed=seed,
        until=until,
        watts=watts,
        cores=cores,
        test_images=test_images,
        layers=layers,
        network=model,
    )
    terminal = Terminal(json=json)
    plan = make_plan(request)
    more = " and more" if plan.batches.open else ""
    terminal.note(f"{plan.combinations} combinations{more}, about {plan.expected_seconds:.0f} s of measuring")
    if dry_run:
        columns = ("model", "target", "precision", "batch")
        terminal.table("Plan", columns, plan.rows(), left=3)
        rows = [dict(zip(columns, row, strict=True)) for row in plan.rows()]
        terminal.result({"verb": "bench", "plan": rows, "expected_seconds": plan.expected_seconds})
        return
    command = shlex.join(["tersa", *(word for word in sys.argv[1:] if word not in ONCE)])
    with terminal.progress() as update:
        result = run_bench(
            request, plan, out, resume=resume, overwrite=overwrite, command=command, say=update
        )
    if out is not None:
        write_report(out, result)
    show(terminal, result)
    if out is not None:
        terminal.say(f"report    {out / result.report}")
        terminal.say(f"result    {out / 'result.json'}")
    terminal.result(result)
    wrong = [gap for gap in result.not_offered if gap.kind in ("wrong outputs", "failed")]
    if wrong:
        raise TersaError(
            f"{len(wrong)} combinations went wrong, first: {wrong[0].model} on {wrong[0].target}"
        )


def show(terminal: Terminal, result: BenchResult) -> None:
    """The answer, the tables of a benchmark, and beneath them what could not be measured and why."""
    terminal.say(result.verdict, style="bold")
    terminal.say(result.detail)
    _times(terminal, result)
    _costs(terminal, result)
    if result.cross is not None:
        _cross(terminal, result.cross)
    for table in result.layers:
        _layers(terminal, table)
    for pair in result.comparisons:
        if pair.reason and (side := pair.after):
            where = f"{side.model}, {side.target}, {side.precision}, batch {side.batch}"
            terminal.say(f"{where}: {pair.verdict}; {pair.reason}")
    for gap in result.not_offered:
        terminal.say(f"{gap.model}, {gap.target}, {gap.precision}: {gap.text}")
    terminal.say(f"energy    {result.energy}")
    for note in result.notes:
        terminal.say(f"note      {note}")


def _times(terminal: Terminal, result: BenchResult) -> None:
    from tersa.recipes.bench_verdict import short

    pairs = {_key(pair.after): pair for pair in result.comparisons if pair.after is not None}
    across = {_key(pair.after): pair for pair in result.across if pair.after is not None}
    rows: list[tuple[str, ...]] = []
    for row in result.measurements:
        pair = pairs.get(_key(row))
        alone = "reference" if result.leads(row) else "not compared"
        ratio = (
            (f"{pair.speedup:.2f}x", f"{pair.low:.2f}-{pair.high:.2f}")
            if pair and pair.speedup
            else ("-", "-")
        )
        other = across.get(_key(row))
        one = "1.00x" if result.anchors(row) else "-"
        against = f"{other.speedup:.2f}x" if other and other.speedup else one
        times = (f"{value:.4g}" for value in (row.latency_ms.median, row.latency_ms.p10, row.latency_ms.p90))
        verdict = pair.verdict if pair else alone
        rows.append(
            (
                *(short(row.model), _brief(row.target), row.precision, verdict, str(row.batch)),
                *times,
                *ratio,
                against,
            )
        )
    for gap in result.not_offered:
        if gap.kind == "not offered" and gap.batch is None:
            rows.append((short(gap.model), _brief(gap.target), gap.precision, "not offered", *("-",) * 7))
    columns = ("model", "target", "runs", "verdict", "batch", "ms", "p10", "p90", "speed-up", "95 %", "first")
    terminal.table(
        "Latency of one call: median, 10th and 90th percentile",
        columns,
        rows,
        left=4,
        caption="speed-up: over the reference on the same target; first: over the reference on the first "
        "target; both only where they were timed in the same rounds",
    )


def _costs(terminal: Terminal, result: BenchResult) -> None:
    from tersa.recipes.bench_verdict import short
    from tersa.report.numbers import si, size

    def words(row: Row) -> tuple[str, ...]:
        accuracy = "-" if row.test_accuracy is None else f"{row.test_accuracy:.2f}"
        memory = "-" if row.added_bytes is None else size(row.added_bytes)
        energy = (
            "not known"
            if row.energy is None
            else f"{1e3 * row.energy.joules_per_image:.3g} {row.energy.source}"
        )
        return (
            *(
                short(row.model),
                _brief(row.target),
                row.precision,
                str(row.batch),
                si(round(row.images_per_s)),
            ),
            *(f"{row.load_ms:.3g}", f"{row.first_ms:.3g}", memory, size(row.size_bytes), accuracy, energy),
        )

    columns = ("model", "target", "runs", "batch", "images/s", "load ms", "first ms")
    terminal.table(
        "What else it costs",
        (*columns, "memory", "file", "accuracy %", "mJ/image"),
        [words(row) for row in result.measurements],
        left=3,
        caption="memory: added to the process by loading and running up to this batch",
    )


def _cross(terminal: Terminal, table: CrossTable) -> None:
    from tersa.recipes.bench_verdict import short

    targets = list(table.original_ms)
    rows = [
        (short(row.model), _brief(row.made_for), *(_percent(row.percent.get(target)) for target in targets))
        for row in table.rows
    ]
    rows.append(
        (short(table.original), "the original, ms", *(f"{table.original_ms[t]:.4g}" for t in targets))
    )
    terminal.table(
        f"Adapted for one target, measured on another: percent of the original ({table.precision}, "
        f"batch {table.batch})",
        ("model", "made for", *map(_brief, targets)),
        rows,
        left=2,
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} %"


def _layers(terminal: Terminal, table: LayerTable) -> None:
    from tersa.recipes.bench_layers import limit_words
    from tersa.recipes.bench_verdict import short
    from tersa.report.numbers import si, size

    most = max(one.share for one in table.layers)
    counted = "products of bits" if table.precision == "packed" else "MACs"
    rows = [
        (
            *(one.name, one.kind, "█" * max(1, round(BAR * one.share / most)), one.limit),
            *(f"{one.share:.1f}", f"{one.ms:.4g}", f"{one.roof_ms:.2g}" if one.roof_ms else "-"),
            *(si(one.macs) if one.macs else "-", size(one.bytes) if one.bytes else "-"),
        )
        for one in table.layers
    ]
    terminal.table(
        f"Where the time goes: {short(table.model)}, {table.target}, {table.precision}, batch {table.batch}",
        ("layer", "runs as", "time", "held back by", "%", "ms", "roof ms", "MACs", "bytes"),
        rows,
        left=4,
        caption=f"{limit_words(table)}. Machine: {si(table.macs_per_s)} {counted}/s, "
        f"{size(table.bytes_per_s)}/s for {size(table.working_set_bytes)}. Times: {table.how}; "
        f"a call takes {table.call_ms:.4g} ms.",
    )


def _brief(target: str) -> str:
    """A target without the number of threads that it has by default.

    >>> _brief("torch@threads=1"), _brief("onnxruntime@threads=1,graph=basic"), _brief("torch@threads=2")
    ('torch', 'onnxruntime@graph=basic', 'torch@threads=2')
    """
    return target.replace("@threads=1,", "@").removesuffix("@threads=1")


def _key(row: object) -> tuple[object, ...]:
    return tuple(getattr(row, name) for name in ("model", "target", "precision", "batch"))
