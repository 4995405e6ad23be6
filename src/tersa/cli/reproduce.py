"""`tersa reproduce ...`: the documents' experiments again, beside their numbers."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tersa.cli import options, reproduce_adaptation, reproduce_binary, reproduce_book, reproduce_hardware
from tersa.cli.console import Terminal
from tersa.errors import UsageError

if TYPE_CHECKING:
    from tersa.recipes.pruning_results import PruningResult, TableRow
    from tersa.recipes.pruning_study import PruningPlan
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
    epilog="Example: tersa reproduce list",
    no_args_is_help=True,
    rich_markup_mode=None,
)

PRUNING_EPILOG = """\b
Examples:
  tersa reproduce pruning --dry-run
  tersa reproduce pruning --quick --workers 2
  tersa reproduce pruning --figure 4.8,4.10 --out studies/network
  tersa reproduce pruning --full --curve network-taylor-l2-100 --seeds 2
  tersa reproduce pruning --out studies/network --figure 4.16 --resume

A killed run goes on with the same command and --resume, which also adds curves and seeds. Exit code 1:
curves failed."""

ONCE = ("--resume", "--overwrite", "--json", "--debug")


@app.callback()
def reproduce() -> None:
    """One verb per document."""


@app.command("list", epilog="Example: tersa reproduce list --json")
def list_(json: options.Json = False) -> None:
    """What can be run again: the documents' experiments, their published values, the shortest command."""
    from tersa.recipes.reproductions import EXPERIMENTS

    terminal = Terminal(json=json)
    found = [
        {
            "name": each.name,
            "document": each.document,
            "about": each.about,
            "published_values": each.published,
            "command": each.command,
        }
        for each in EXPERIMENTS
    ]
    table = [tuple(str(value) for value in each.values()) for each in found]
    columns = ("experiment", "document", "what it asks", "published values", "shortest run")
    caption = "each has --dry-run, which tells what would be done, and --help"
    terminal.table("Experiments of the documents", columns, table, left=3, caption=caption)
    terminal.result({"verb": "reproduce list", "experiments": found})


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
    bits: Annotated[
        str | None,
        typer.Option("--bits", metavar="BITS,...", help="Of 2 to 8; 32 for no quantised runs. [all]"),
    ] = None,
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
    on: options.On = "local",
    device: options.Device = "cpu",
    data_dir: options.DataDir = None,
    out: options.StudyOut = None,
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
            on=on,
        )
    _show(terminal, result, rows, folder)
    if result.failed:
        raise typer.Exit(1)


@app.command("pruning", epilog=PRUNING_EPILOG)
def pruning(
    data: options.Data = "mnist",
    model: Annotated[
        str, typer.Option("--model", help="The document's lenet, or one of other widths for a trial.")
    ] = "lenet",
    quick: Annotated[
        bool | None,
        typer.Option("--quick/--full", help="2 % of the channels a step, or one. [quick; full on a GPU]"),
    ] = None,
    figure: Annotated[
        str | None, typer.Option("--figure", metavar="NUMBER,...", help="Of 4.1 to 4.16. [all]")
    ] = None,
    curve: Annotated[
        str | None, typer.Option("--curve", metavar="NAME,...", help="By name; --dry-run lists them. [all]")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Seeds 0..N-1; the document has 1.")] = 1,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"],
        typer.Option("--precision", help="Of training; auto is bf16 where the processor computes in it."),
    ] = "auto",
    baseline_iterations: Annotated[
        int | None,
        typer.Option("--baseline-iterations", min=1, help="Other than the document's 10,000, for a trial."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Processes that prune at once; by default all cores."),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of each worker.")] = 1,
    on: options.On = "local",
    device: options.Device = "cpu",
    data_dir: options.DataDir = None,
    out: options.StudyOut = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Document 002: which pruning strategy is best? Its figures 4.1 to 4.16 and its table 4.1 again."""
    from tersa.recipes.pruning_study import Pruning, plan_pruning, reproduce_pruning
    from tersa.recipes.setting import Setting
    from tersa.train.device import choose

    terminal = Terminal(json=json)
    full = choose(device) != "cpu" if quick is None else not quick
    wanted = Pruning(
        data=data,
        model=model,
        mode="full" if full else "quick",
        figures=tuple(_names(figure)),
        curves=tuple(_names(curve)),
        seeds=seeds,
        precision=precision,
        baseline_iterations=baseline_iterations,
    )
    folder = out or Path("studies") / f"pruning-{Path(data).name}-{wanted.mode}"
    if dry_run:
        plan = plan_pruning(wanted, folder, Setting(data_dir, device, threads), workers=workers)
        _show_pruning_plan(terminal, plan, folder)
        return
    command = shlex.join(["tersa", *(word for word in sys.argv[1:] if word not in ONCE)])
    with terminal.progress() as say:
        setting = Setting(data_dir, device, threads, say, command)
        result = reproduce_pruning(
            wanted, folder, setting, workers=workers, resume=resume, overwrite=overwrite, on=on
        )
    _show_pruning(terminal, result, folder)
    if result.failed:
        raise typer.Exit(1)


app.command("binary-vgg", epilog=reproduce_binary.EPILOG)(reproduce_binary.binary_vgg)
app.command("hardware", epilog=reproduce_hardware.EPILOG)(reproduce_hardware.hardware)
app.command("adaptation", epilog=reproduce_adaptation.EPILOG)(reproduce_adaptation.adaptation)
app.command("all", epilog=reproduce_book.ALL_EPILOG)(reproduce_book.all_)
app.command("book", epilog=reproduce_book.BOOK_EPILOG)(reproduce_book.book)


def _show_pruning(terminal: Terminal, result: PruningResult, folder: Path) -> None:
    from tersa.recipes.pruning_results import document
    from tersa.report.numbers import duration, percent

    starts = [
        (
            f"seed {each.seed}",
            percent(each.validation_accuracy),
            percent(each.test_accuracy),
            f"{each.parameters:,}",
            f"{each.macs:,}",
        )
        for each in result.baselines
    ]
    known = document()
    starts.insert(0, ("document", percent(known["baseline_accuracy"], 3), "–", "–", "–"))
    terminal.table("Baseline", ("", "validation", "test", "parameters", "MACs"), starts)
    columns = (
        "floor",
        "loss",
        "on test",
        "compression",
        "acceleration",
        "from nothing",
        "on test",
        "channels",
    )
    terminal.table("Table 4.1, losses in points", columns, [_document_row(known), *map(_row, result.table)])
    if not result.table:
        terminal.say("no row: its curve was not pruned, or no point of it keeps a floor")
    if result.verdict:
        terminal.say(result.verdict, style="bold")
    terminal.say(
        f"{result.done:,} of {result.curves:,} curves done, {result.diverged} diverged, "
        f"{result.failed} failed, in {duration(result.seconds)}; {result.stored:,} in the folder"
    )
    if result.trouble:
        terminal.say(f"first failure: {result.trouble}")
    terminal.say(f"curves    {folder}")
    terminal.say(f"points    {result.artefacts[0]}")
    terminal.say(f"report    {result.report}")
    terminal.result(result)


def _document_row(known: dict[str, float]) -> tuple[str, ...]:
    return (
        "document, 99 %",
        f"{known['pruned_loss']:.3f}",
        "–",
        f"{known['pruned_compression']:g}×",
        f"{known['pruned_acceleration']:g}×",
        f"{known['scratch_loss']:.3f}",
        "–",
        "–",
    )


def _row(row: TableRow) -> tuple[str, ...]:
    from tersa.report.numbers import factor

    return (
        f"{row.floor}, seed {row.seed}",
        _points(row.validation_loss),
        _points(row.test_loss),
        factor(row.compression),
        factor(row.acceleration),
        "–" if row.scratch_validation_loss is None else _points(row.scratch_validation_loss),
        "–" if row.scratch_test_loss is None else _points(row.scratch_test_loss),
        "-".join(part.partition("=")[2] for part in row.widths.split()),
    )


def _points(value: float) -> str:
    from tersa.report.numbers import points

    return points(value).removesuffix(" points")


def _show_pruning_plan(terminal: Terminal, plan: PruningPlan, folder: Path) -> None:
    from tersa.train.estimate import in_words

    rows = [
        (
            "curves",
            f"{plan.curves:,}, {'2 % of the channels' if plan.mode == 'quick' else 'one channel'} a step",
        ),
        ("ended already", f"{plan.ended:,}"),
        ("to prune", f"{plan.left:,} curves, {plan.steps:,} steps"),
        ("baselines", f"{plan.baselines} to train, or from the cache"),
        ("precision", f"{plan.precision} while training"),
        ("workers", f"{plan.workers} with {plan.threads} thread{'s' if plan.threads > 1 else ''} each"),
        ("time", f"about {in_words(plan.seconds)}"),
    ]
    terminal.table(f"Plan for {folder}", ("", ""), rows, left=2)
    for name in dict.fromkeys(plan.names):
        terminal.say(f"  {name}")
    terminal.say("nothing was done")
    terminal.result(plan)


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

    unknown = "not known: too many kinds of networks to time"
    clock = unknown if plan.seconds is None else f"about {in_words(plan.seconds)}"
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
