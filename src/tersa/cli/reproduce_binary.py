"""`tersa reproduce binary-vgg`: document 004's table of binary networks again, beside its numbers."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tersa.cli import options
from tersa.cli.console import Terminal

if TYPE_CHECKING:
    from tersa.recipes.binary_vgg import BinaryVggPlan, BinaryVggResult

EPILOG = """\b
Examples:
  tersa reproduce binary-vgg --dry-run
  tersa reproduce binary-vgg --quick --row bvgg16,cnv
  tersa reproduce binary-vgg --data fashion-mnist --row bvgg16 --epochs 20
  tersa reproduce binary-vgg --full --device cuda
  tersa reproduce binary-vgg --quick --workers 2
  tersa reproduce binary-vgg --quick --resume

A killed run goes on with the same command and --resume, which also adds rows."""

ONCE = ("--resume", "--overwrite", "--json", "--debug")


def binary_vgg(
    data: options.Data = "cifar-10",
    quick: Annotated[
        bool | None,
        typer.Option("--quick/--full", help="3 epochs a row, or 400. [quick; full on a GPU]"),
    ] = None,
    row: Annotated[
        str | None,
        typer.Option("--row", metavar="ROW,...", help="Rows of the table; --dry-run lists them. [all]"),
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Other than the mode's.")] = None,
    precision: Annotated[
        Literal["auto", "bf16", "fp32"],
        typer.Option(
            "--precision",
            help="Of forward passes while training; auto is bf16 where the device computes in it.",
        ),
    ] = "auto",
    seed: options.Seed = 0,
    device: options.Device = "auto",
    workers: Annotated[int, typer.Option("--workers", min=1, help="Rows that are trained at once.")] = 1,
    threads: options.Threads = None,
    on: options.On = "local",
    data_dir: options.DataDir = None,
    out: options.StudyOut = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Document 004: how accurate is a fully binary VGG16? Its table II, trained here."""
    from tersa.recipes.binary_vgg import BinaryVgg, plan_binary_vgg, reproduce_binary_vgg
    from tersa.recipes.setting import Setting, crew_of
    from tersa.train.device import choose

    terminal = Terminal(json=json)
    full = choose(device) != "cpu" if quick is None else not quick
    wanted = BinaryVgg(
        data=data,
        mode="full" if full else "quick",
        rows=tuple(part.strip() for part in (row or "").split(",") if part.strip()),
        epochs=epochs,
        precision=precision,
        seed=seed,
    )
    folder = out or Path("studies") / f"binary-vgg-{Path(data).name}-{wanted.mode}"
    crew = crew_of(workers, threads, on)
    if dry_run:
        with terminal.progress() as say:
            plan = plan_binary_vgg(wanted, folder, Setting(data_dir, device, threads, say), crew)
        _show_plan(terminal, plan, folder)
        return
    command = shlex.join(["tersa", *(word for word in sys.argv[1:] if word not in ONCE)])
    with terminal.progress() as say:
        setting = Setting(data_dir, device, threads, say, command)
        result = reproduce_binary_vgg(wanted, folder, setting, resume=resume, overwrite=overwrite, crew=crew)
    _show(terminal, result, folder)


def _show(terminal: Terminal, result: BinaryVggResult, folder: Path) -> None:
    from tersa.report.numbers import duration, plus_minus

    rows = [
        (
            each.network or each.name,
            each.bits,
            "–" if each.published is None else f"{each.published:.2f}",
            "–" if each.test_accuracy is None else f"{each.test_accuracy:.2f}",
            "–"
            if not each.trained or each.test_accuracy is None or each.published is None
            else plus_minus(each.test_accuracy - each.published),
            str(each.epochs) if each.folder else "–",
            each.note,
        )
        for each in result.rows
    ]
    columns = ("network", "bits", "published, %", "ours, %", "gap, points", "epochs", "note")
    terminal.table(f"Table II on {result.data}", columns, rows, left=2, caption=result.data_note)
    terminal.say(result.verdict, style="bold")
    terminal.say(f"in {duration(result.seconds)}; runs {folder / 'rows'}")
    terminal.say(f"table     {result.artefacts[0]}")
    terminal.say(f"report    {result.report}")
    terminal.result(result)


def _show_plan(terminal: Terminal, plan: BinaryVggPlan, folder: Path) -> None:
    from tersa.train.estimate import in_words

    rows = [(name, "to train") for name in plan.rows]
    rows += [(name, "trained already") for name in plan.ended]
    rows += [(name, f"cannot be trained: {reason}") for name, reason in plan.skipped.items()]
    terminal.table(f"Plan for {folder}", ("row", ""), rows, left=2)
    terminal.say(
        f"{plan.epochs} epochs each on {plan.device}, in all about {in_words(plan.seconds)}; nothing was done"
    )
    terminal.result(plan)
