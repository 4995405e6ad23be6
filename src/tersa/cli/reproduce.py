"""`tersa reproduce quantized-training`: a document's experiments again, beside its published numbers."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tersa.cli import options
from tersa.cli.console import Terminal
from tersa.errors import UsageError

if TYPE_CHECKING:
    from tersa.recipes.quantized_training import ReproduceResult
    from tersa.recipes.study import StudyPlan
    from tersa.recipes.study_compare import Row

EPILOG = """\b
Examples:
  tersa reproduce quantized-training --quick
  tersa reproduce quantized-training --rule bp --out studies/bp
  tersa reproduce quantized-training --data fashion-mnist --workers 2
  tersa reproduce quantized-training --out studies/bp --rule bp --resume

A killed run goes on with the same command and --resume. Exit code 1: runs failed."""

app = typer.Typer(
    help="A document's experiments again, beside its published numbers.",
    epilog="Example: tersa reproduce quantized-training --quick",
    no_args_is_help=True,
    rich_markup_mode=None,
)
ONCE = ("--resume", "--overwrite", "--json", "--debug")


@app.callback()
def reproduce() -> None:
    """One verb per document."""


@app.command("quantized-training", epilog=EPILOG)
def quantized_training(
    data: Annotated[
        Literal["mnist", "fashion-mnist"], typer.Option("--data", help="mnist or fashion-mnist.")
    ] = "mnist",
    quick: Annotated[
        bool,
        typer.Option("--quick", help="A few minutes: two networks, three bit widths, 3 epochs, no HSIC."),
    ] = False,
    rule: Annotated[
        str | None, typer.Option("--rule", metavar="RULE,...", help="Of bp, hsic, fa, dni. [all]")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL,...", help="Of 1x4, 6x20, 2x50, 3x50, 2x100, 3x100. [all]"),
    ] = None,
    bits: Annotated[str | None, typer.Option("--bits", metavar="BITS,...", help="Of 2 to 8. [all]")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Seeds 1..N; the document has 1.")] = 1,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="Other than the document's 30, for a trial.")
    ] = None,
    pictures: Annotated[
        bool,
        typer.Option("--pictures/--no-pictures", help="Train one run per rule again and look at it."),
    ] = True,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Processes that train at once; by default all cores."),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of each worker.")] = 1,
    device: options.Device = "cpu",
    data_dir: options.DataDir = None,
    out: options.Out = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Document 000: which learning rule survives few bits? Its grid, its settings, its values beside ours."""
    from tersa.recipes.quantized_training import Reproduction, plan_reproduction, study_of
    from tersa.recipes.quantized_training import reproduce as run
    from tersa.recipes.setting import Setting

    terminal = Terminal(json=json)
    wanted = Reproduction(
        data=data,
        quick=quick,
        rules=tuple(_names(rule)),
        models=tuple(_names(model)),
        bits=tuple(_numbers(bits)),
        seeds=seeds,
        epochs=epochs,
    )
    folder = out or Path("studies") / study_of(wanted).name
    if dry_run:
        _show_plan(
            terminal,
            plan_reproduction(wanted, folder, Setting(data_dir, device, threads), workers=workers),
            folder,
        )
        return
    command = shlex.join(["tersa", *(word for word in sys.argv[1:] if word not in ONCE)])
    with terminal.progress() as say:
        setting = Setting(data_dir, device, threads, say, command)
        result, rows = run(
            wanted,
            folder,
            setting,
            workers=workers,
            resume=resume,
            overwrite=overwrite,
            pictures=pictures,
        )
    _show(terminal, result, rows, folder)
    if result.failed:
        raise typer.Exit(1)


def _names(text: str | None) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()] if text else []


def _numbers(text: str | None) -> list[int]:
    try:
        return [int(part) for part in _names(text)]
    except ValueError:
        raise UsageError(f"--bits {text}: not whole numbers separated by commas, such as 2,4,8") from None


def _show(terminal: Terminal, result: ReproduceResult, rows: list[Row], folder: Path) -> None:
    from tersa.recipes.study_compare import label
    from tersa.report.numbers import duration, plus_minus

    note = "not the document's settings: gaps are to be expected" if result.quick else ""
    body = [
        (label(row.cell), f"{row.published:.2f}", f"{row.ours.mean:.2f}", _interval(row), plus_minus(row.gap))
        for row in rows
    ]
    columns = ("cell", "published, %", "ours, %", "95 % interval", "gap, points")
    terminal.table(f"Published and ours on {result.data}", columns, body, caption=note)
    lines = [
        (
            each.name,
            f"{each.cells:,}",
            f"{each.learned:,}",
            "–" if each.spearman is None else f"{each.spearman:.3f}",
            f"{each.agreement:.1f} %",
            "–" if each.gap is None else plus_minus(each.gap),
            "–" if each.absolute_gap is None else f"{each.absolute_gap:.2f}",
        )
        for each in result.rules
    ]
    terminal.table(
        "Agreement",
        ("rule", "cells", "from 15 %", "Spearman", "learned or collapsed", "median gap", "median |gap|"),
        lines,
        caption="Spearman and gaps over the cells published at 15 % or more; agreement over all",
    )
    terminal.say(result.verdict, style="bold")
    terminal.say(
        f"{result.cells:,} runs, {result.diverged} diverged, {result.failed} failed, "
        f"in {duration(result.seconds)}"
    )
    terminal.say(f"study     {folder}")
    terminal.say(f"summary   {result.artefacts[1]}")
    terminal.say(f"report    {result.report}")
    terminal.result(result)


def _interval(row: Row) -> str:
    return f"{row.ours.low:.2f} – {row.ours.high:.2f}" if row.ours.count > 1 else "one seed"


def _show_plan(terminal: Terminal, plan: StudyPlan, folder: Path) -> None:
    from tersa.train.estimate import in_words

    clock = "not known before a run has ended" if plan.seconds is None else f"about {in_words(plan.seconds)}"
    rows = [
        ("runs", f"{plan.cells:,}"),
        ("ended already", f"{plan.ended:,}"),
        ("to train", f"{plan.left:,} runs, {plan.epochs:,} epochs"),
        ("stacks", f"{plan.stacks:,}, of at most {plan.largest} runs"),
        ("workers", f"{plan.workers} with {plan.threads} thread{'s' if plan.threads > 1 else ''} each"),
        ("time", clock),
    ]
    terminal.table(f"Plan for {folder}", ("", ""), rows, left=2)
    terminal.say("nothing was done")
    terminal.result(plan)
