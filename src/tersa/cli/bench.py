"""`tersa bench`: models, runtimes, precisions and batch sizes against one another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tersa.cli.console import Terminal
from tersa.cli.options import Checkpoint, DataDir, DryRun, Json, Network, Out, Overwrite, Seed
from tersa.errors import UsageError

if TYPE_CHECKING:
    from tersa.recipes.bench import BenchResult

EPILOG = "Example: tersa bench runs/demo/baseline.onnx runs/demo/model.onnx --targets onnxruntime,torch"


def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Models (lenet, module.py:build), .onnx files or run folders; the first is the reference."
        ),
    ] = None,
    run: Annotated[list[Path] | None, typer.Option("--run", help="A run folder; may be given again.")] = None,
    checkpoint: Checkpoint = None,
    model: Network = None,
    targets: Annotated[
        str, typer.Option("--targets", "--target", help="Runtimes with options, separated by commas.")
    ] = "onnxruntime@threads=1",
    batch: Annotated[str, typer.Option("--batch", help="Images per call, separated by commas.")] = "1",
    precision: Annotated[
        str, typer.Option("--precision", help="fp32, int8 or both; by default each model as it is stored.")
    ] = "",
    data: Annotated[
        str | None,
        typer.Option("--data", help="Real images, INT8 ranges and test accuracy (models: digits)."),
    ] = None,
    data_dir: DataDir = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.01, help="Timed calls per combination.")] = 1.0,
    seed: Seed = 0,
    out: Out = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Measure latency side by side: median, p10, p90, and the ratio to the first model with its interval."""
    from tersa.recipes.bench import BenchRequest, make_plan, run_bench

    names = [*(models or []), *(str(folder) for folder in run or [])]
    if not names:
        raise UsageError("name at least one model, .onnx file or run folder")
    request = BenchRequest(
        models=names,
        targets=targets,
        batch=batch,
        precision=precision,
        data=data,
        data_dir=None if data_dir is None else str(data_dir),
        checkpoint=None if checkpoint is None else str(checkpoint),
        network=model,
        seconds=seconds,
        seed=seed,
    )
    terminal = Terminal(json=json)
    plan = make_plan(request)
    terminal.note(f"{plan.combinations} combinations, about {plan.expected_seconds:.0f} s of measuring")
    if dry_run:
        columns = ("model", "target", "precision", "batch")
        terminal.table("Plan", columns, plan.rows(), left=3)
        rows = [dict(zip(columns, row, strict=True)) for row in plan.rows()]
        terminal.result({"verb": "bench", "plan": rows, "expected_seconds": plan.expected_seconds})
        return
    with terminal.progress() as update:
        result = run_bench(request, plan, out, overwrite=overwrite, say=update)
    show(terminal, result)
    terminal.result(result)


def show(terminal: Terminal, result: BenchResult) -> None:
    """The table of a benchmark, and beneath it what could not be measured and why."""
    first = result.measurements[0]
    rows: list[tuple[str, ...]] = []
    for row in result.measurements:
        pair = next((pair for pair in result.comparisons if pair.after == row), None)
        alone = (
            "reference" if (row.model, row.precision) == (first.model, first.precision) else "not compared"
        )
        ratio = (
            (f"{pair.speedup:.2f}x", f"{pair.low:.2f}-{pair.high:.2f}")
            if pair and pair.speedup
            else ("-", "-")
        )
        times = (f"{value:.4g}" for value in (row.latency_ms.median, row.latency_ms.p10, row.latency_ms.p90))
        verdict = pair.verdict if pair else alone
        rows.append((short(row.model), row.target, row.precision, verdict, str(row.batch), *times, *ratio))
    for gap in result.not_offered:
        rows.append((short(gap.model), gap.target, gap.precision, "not offered", *("-",) * 6))
    columns = ("model", "target", "runs", "verdict", "batch", "ms", "p10", "p90", "speed-up", "95 %")
    terminal.table("Latency of one call: median, 10th and 90th percentile", columns, rows, left=4)
    for pair in result.comparisons:
        if pair.reason and (side := pair.after):
            where = f"{side.model}, {side.target}, {side.precision}, batch {side.batch}"
            terminal.say(f"{where}: {pair.verdict}; {pair.reason}")
    for gap in result.not_offered:
        terminal.say(f"not offered by this runtime: {gap.model}, {gap.target}, {gap.precision}: {gap.reason}")
    for answer in result.accuracies:
        known = f"{answer.test_accuracy:.2f} % of {answer.images} test images"
        terminal.say(f"{answer.model}, {answer.precision}: {known}")
    for note in result.notes:
        terminal.say(note)


def short(model: str) -> str:
    """A path by its last two parts, so that the table keeps its columns.

    >>> short("somewhere/runs/demo/model.onnx"), short("lenet")
    ('demo/model.onnx', 'lenet')
    """
    return "/".join(Path(model).parts[-2:])
