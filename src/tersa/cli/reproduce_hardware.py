"""`tersa reproduce hardware`: document 003's networks on the runtimes of this machine, beside its devices."""

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
    from tersa.recipes.hardware import HardwarePlan
    from tersa.recipes.hardware_result import HardwareResult

EPILOG = """\b
Examples:
  tersa reproduce hardware --dry-run
  tersa reproduce hardware --quick
  tersa reproduce hardware --network mobilenet --size 32 --targets torch,openvino@threads=2
  tersa reproduce hardware --full --run runs/adapted-alexnet --data cifar-10
  tersa reproduce hardware --quick --resume

A killed run goes on with the same command and --resume. Weights are not trained unless --run is given."""

ONCE = ("--resume", "--overwrite", "--json", "--debug")


def hardware(
    full: Annotated[
        bool,
        typer.Option(
            "--full/--quick",
            help="Every batch size until memory or time ends and FP16 too, or batches 1, 8, 32 in short.",
        ),
    ] = False,
    targets: Annotated[
        str,
        typer.Option(
            "--targets", "--target", help="Runtimes, separated by commas. [all installed, 1 thread]"
        ),
    ] = "",
    network: Annotated[
        str, typer.Option("--network", metavar="NETWORK,...", help="Of alexnet, mobilenet.")
    ] = "alexnet,mobilenet",
    sizes: Annotated[
        str, typer.Option("--size", metavar="SIZE,...", help="Rows and columns of the images: 224, 32.")
    ] = "224,32",
    batch: Annotated[
        str | None, typer.Option("--batch", metavar="BATCH,...", help="Images per call. [1,8,32]")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option("--precision", metavar="PRECISION,...", help="Of fp32, bf16, fp16, int8."),
    ] = None,
    run: Annotated[
        list[Path] | None,
        typer.Option("--run", help="A network of tersa adapt (or prune, shrink); may be given again."),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Data that the networks of --run were trained on.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=0.01, help="Timed calls of each combination.")
    ] = None,
    data_dir: options.DataDir = None,
    out: options.StudyOut = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Document 003: AlexNet and MobileNet on every runtime here, its tables 4.1 to 4.7 beside ours."""
    from tersa.recipes.hardware import HardwareRequest, plan_hardware, run_hardware

    terminal = Terminal(json=json)
    request = HardwareRequest(
        mode="full" if full else "quick",
        targets=targets,
        networks=tuple(_names(network)),
        sides=tuple(_numbers("--size", sizes)),
        batches=tuple(_numbers("--batch", batch)),
        precisions=tuple(_names(precision)),
        runs=tuple(map(str, run or [])),
        data=data,
        data_dir=None if data_dir is None else str(data_dir),
        seconds=seconds,
    )
    plan = plan_hardware(request)
    folder = out or Path("studies") / f"hardware-{request.mode}"
    if dry_run:
        _show_plan(terminal, plan, folder)
        return
    command = shlex.join(["tersa", *(word for word in sys.argv[1:] if word not in ONCE)])
    with terminal.progress() as say:
        result = run_hardware(plan, folder, command=command, resume=resume, overwrite=overwrite, say=say)
    _show(terminal, result, folder)


def _show(terminal: Terminal, result: HardwareResult, folder: Path) -> None:
    from tersa.recipes.hardware_tables import heading, tables
    from tersa.report.numbers import duration, plural

    for table in tables(result.groups, result.environment):
        if table.number == "4.2":
            continue
        columns = [name.replace(", document", " (doc.)") for name in table.columns]
        rows = [
            [f"document: {row.cells[0]}" if row.published else row.cells[0], *row.cells[1:]]
            for row in table.rows
        ]
        terminal.table(heading(table), columns, rows, caption=table.note)
    gaps = [gap for group in result.groups for gap in group.gaps]
    if gaps:
        terminal.say(f"{plural(len(gaps), 'combination')} not measured; the report says why of each")
        for text in list(dict.fromkeys(f"{gap.target}, {gap.precision}: {gap.text}" for gap in gaps))[:8]:
            terminal.say(f"  {text}")
    for note in result.notes:
        terminal.say(note)
    terminal.say(result.verdict, style="bold")
    terminal.say(result.detail)
    measured = sum(len(group.rows) for group in result.groups)
    terminal.say(f"{plural(measured, 'measurement')}; this call took {duration(result.seconds)}")
    terminal.say(f"rows      {result.artefacts[0]}")
    terminal.say(f"tables    {result.artefacts[1]}")
    terminal.say(f"report    {result.report}")
    terminal.result(result)


def _show_plan(terminal: Terminal, plan: HardwarePlan, folder: Path) -> None:
    from tersa.train.estimate import in_words

    absent = [(text, reason) for text, reason in plan.targets if isinstance(reason, str)]
    rows = [
        ("networks", ", ".join(f"{name} {side}x{side}" for name, side in plan.groups)),
        ("targets", ", ".join(text for text, there in plan.targets if not isinstance(there, str)) or "none"),
        *((f"no {text}", reason) for text, reason in absent),
        ("precisions", ", ".join(plan.precisions)),
        ("images per call", plan.batches.describe()),
        ("networks of --run", ", ".join(f"{each.subject.name}" for each in plan.runs) or "none: not trained"),
        ("combinations", f"{plan.combinations:,}"),
        ("time", f"at least {in_words(plan.expected_seconds)}"),
    ]
    terminal.table(f"Plan for {folder}", ("", ""), rows, left=2)
    terminal.say("nothing was done")
    terminal.result(
        {
            "combinations": plan.combinations,
            "targets": [text for text, _ in plan.targets],
            "seconds": plan.expected_seconds,
        }
    )


def _names(text: str | None) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()] if text else []


def _numbers(option: str, text: str | None) -> list[int]:
    try:
        return [int(part) for part in _names(text)]
    except ValueError:
        raise UsageError(f"{option} {text}: not whole numbers separated by commas, such as 1,8,32") from None
