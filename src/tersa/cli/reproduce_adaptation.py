"""`tersa reproduce adaptation`: document 003's faster NetAdapt on this machine, beside its tables."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tersa.cli import options
from tersa.cli.console import Terminal
from tersa.errors import UsageError

if TYPE_CHECKING:
    from tersa.recipes.adaptation import AdaptationPlan
    from tersa.recipes.adaptation_result import AdaptationResult

EPILOG = """\b
Examples:
  tersa reproduce adaptation --dry-run
  tersa reproduce adaptation --quick
  tersa reproduce adaptation --network alexnet --delta 0.01,0.025,0.05
  tersa reproduce adaptation --full --seeds 5 --resume

A quick run trains nothing. A full one adapts trained networks with five strategies, which takes days on a
CPU; a killed run goes on with the same command and --resume."""

SEEDS, DATA = 1, "cifar-10"
ONCE = ("--resume", "--overwrite", "--json", "--debug")


def adaptation(
    full: Annotated[
        bool,
        typer.Option(
            "--full/--quick", help="All networks and deltas and whole searches, or one delta, timed."
        ),
    ] = False,
    network: Annotated[
        str, typer.Option("--network", metavar="NETWORK,...", help="Of alexnet, mobilenet, vgg19.")
    ] = "",
    delta: Annotated[
        str, typer.Option("--delta", metavar="DELTA,...", help="Shares of the latency that a step takes off.")
    ] = "",
    target: options.Target = "onnxruntime@threads=1",
    iterations: Annotated[
        int, typer.Option("--finetune-steps", min=1, help="T, iterations of a short fine-tune.")
    ] = 500,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Of whole searches, in a full run.")] = SEEDS,
    data: Annotated[str, typer.Option("--data", help="32x32 images of a full run.")] = DATA,
    table: Annotated[
        Path | None,
        typer.Option("--table", help="SQLite file of the latency table. [default: in the user cache]"),
    ] = None,
    data_dir: options.DataDir = None,
    out: options.StudyOut = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Document 003: NetAdapt stage by stage, its remedies, tables 5.1 to 5.8 beside ours."""
    from tersa.recipes.adaptation import AdaptationRequest, plan_adaptation, run_adaptation

    terminal = Terminal(json=json)
    if not full:
        _check_quick(seeds, data, data_dir)
    request = AdaptationRequest(
        mode="full" if full else "quick",
        target=target,
        networks=tuple(name for name in (part.strip() for part in network.split(",")) if name),
        deltas=_deltas(delta),
        iterations=iterations,
        seeds=seeds,
        data=data,
        data_dir=None if data_dir is None else str(data_dir),
        table=None if table is None else str(table),
    )
    plan = plan_adaptation(request)
    folder = out or Path("studies") / f"adaptation-{request.mode}"
    if dry_run:
        _show_plan(terminal, plan, folder)
        return
    command = shlex.join(["tersa", *(word for word in sys.argv[1:] if word not in ONCE)])
    with terminal.progress() as say:
        result = run_adaptation(plan, folder, command=command, resume=resume, overwrite=overwrite, say=say)
    _show(terminal, result)


def _check_quick(seeds: int, data: str, data_dir: Path | None) -> None:
    given = (("--seeds", seeds != SEEDS), ("--data", data != DATA), ("--data-dir", data_dir is not None))
    if idle := [flag for flag, asked in given if asked]:
        raise UsageError(
            f"{', '.join(idle)}: no effect: for the whole searches of --full, and a quick run has none; give "
            f"--full, or leave {'it' if len(idle) == 1 else 'them'} out"
        )


def _deltas(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UsageError(f"--delta {text}: not numbers separated by commas, such as 0.025,0.05") from None


def _show(terminal: Terminal, result: AdaptationResult) -> None:
    from tersa.recipes.adaptation_tables import tables
    from tersa.recipes.hardware_tables import heading
    from tersa.report.numbers import duration

    for table in tables(result.timed, result.searched):
        rows = [
            [f"document: {row.cells[0]}" if row.published else row.cells[0], *row.cells[1:]]
            for row in table.rows
        ]
        terminal.table(heading(table), table.columns, rows, caption=table.note)
    for note in result.notes:
        terminal.say(note)
    terminal.say(result.verdict, style="bold")
    terminal.say(result.detail)
    terminal.say(f"this call took {duration(result.seconds)}")
    terminal.say(f"rows      {result.artefacts[0]}")
    terminal.say(f"tables    {result.artefacts[1]}")
    terminal.say(f"report    {result.report}")
    terminal.result(result)


def _show_plan(terminal: Terminal, plan: AdaptationPlan, folder: Path) -> None:
    from tersa.recipes.adaptation_plan import expected_seconds
    from tersa.train.estimate import in_words

    seconds = expected_seconds(plan)
    rows = [
        ("networks", ", ".join(plan.networks)),
        ("delta", ", ".join(f"{delta:g}" for delta in plan.deltas)),
        ("target", plan.target.describe()),
        ("whole searches", f"{len(plan.searches):,}" if plan.searches else "none: nothing is trained"),
        ("time", f"about {in_words(seconds)}"),
    ]
    terminal.table(f"Plan for {folder}", ("", ""), rows, left=2)
    terminal.say("nothing was done")
    terminal.result(
        {
            "networks": list(plan.networks),
            "deltas": list(plan.deltas),
            "searches": len(plan.searches),
            "seconds": seconds,
        }
    )
