"""`tersa study run|table|report`: many runs over axes, safe to kill, and what they say together."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tersa.cli import options
from tersa.cli.console import Terminal
from tersa.errors import UsageError

if TYPE_CHECKING:
    from tersa.recipes.study import StudyPlan, StudyResult
    from tersa.study.spec import StudySpec

EPILOG = """\b
Examples:
  tersa study run bits.toml --out studies/bits
  tersa study run --data digits --model mlp:20 --rule bp --bits 2,3,4,8 \\
      --epochs 5 --seeds 5 --out studies/digits
  tersa study run --out studies/bits --resume --retry
  tersa study run bits.toml --set epochs=2 --set bits=2,3 --dry-run

Every setting takes one value or several separated by commas: several are an
axis. A killed study goes on with --resume, also with more values than before.
Exit code 1: runs failed; --resume --retry tries them again."""
TABLE = """\b
Examples:
  tersa study table studies/bits
  tersa study table studies/bits --rows rule --columns bits --where model=mlp:100x100"""
REPORT = "Example: tersa study report studies/bits"
SHOWN = 40
"""Most settings whose results are printed after a run."""

app = typer.Typer(
    help="Many runs over axes of settings: run, table, report.",
    epilog="Example: tersa study run --data digits --model mlp:20 --bits 2,3,4 --epochs 3",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Folder = Annotated[Path, typer.Argument(help="The folder of a study.")]
Setting = str | None


def _option(name: str, text: str) -> object:
    return typer.Option(name, help=text, metavar="VALUE,...")


@app.command("run", epilog=EPILOG)
def run(
    spec: Annotated[
        Path | None, typer.Argument(help="A study.toml; without one, settings make the study.")
    ] = None,
    data: Annotated[Setting, _option("--data", "Data sets or paths. [mnist]")] = None,
    model: Annotated[Setting, _option("--model", "Networks of the zoo. [mlp:100x100]")] = None,
    rule: Annotated[Setting, _option("--rule", "Learning rules. [bp]")] = None,
    quant: Annotated[
        Setting,
        _option("--quant", "none, symmetric, asymmetric, binary, ternary, power-of-two, clusters."),
    ] = None,
    bits: Annotated[Setting, _option("--bits", "Bits of a weight, 1 to 8. [8]")] = None,
    range: Annotated[
        Setting, _option("--range", "global, layer, channel, percentile, calibrated, learned. [layer]")
    ] = None,
    rounding: Annotated[Setting, _option("--rounding", "nearest, stochastic. [nearest]")] = None,
    storage: Annotated[Setting, _option("--storage", "inplace, latent, accumulate, after. [inplace]")] = None,
    extra_bits: Annotated[Setting, _option("--extra-bits", "Bits per weight of storage accumulate.")] = None,
    optimizer: Annotated[Setting, _option("--optimizer", "Update rules. [adadelta]")] = None,
    lr: Annotated[Setting, _option("--lr", "Learning rates at the start. [1.0]")] = None,
    epochs: Annotated[Setting, _option("--epochs", "Passes over the training images. [30]")] = None,
    batch_size: Annotated[Setting, _option("--batch-size", "Images of one update. [64]")] = None,
    shuffle: Annotated[
        Setting, _option("--shuffle", "shared: one order for all runs; per-run: one each. [shared]")
    ] = None,
    seeds: Annotated[Setting, _option("--seeds", "Seeds 1..N of every setting, or a list. [3]")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE,...", help="Any other setting; may be given again."),
    ] = None,
    skip: Annotated[
        bool, typer.Option("--skip", help="Leave combinations without meaning out, and list them.")
    ] = False,
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
    retry: Annotated[bool, typer.Option("--retry", help="With --resume: train failed runs again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan; do no work.")] = False,
    json: options.Json = False,
) -> None:
    """Train every run of a study that has not ended yet."""
    from tersa.recipes.setting import Setting as How
    from tersa.recipes.study import plan_study, run_study

    terminal = Terminal(json=json)
    named = {"data": data, "model": model, "rule": rule, "quant": quant, "bits": bits, "range": range}
    named |= {"rounding": rounding, "storage": storage, "extra_bits": extra_bits, "optimizer": optimizer}
    named |= {"learning_rate": lr, "epochs": epochs, "batch": batch_size, "shuffle": shuffle, "seeds": seeds}
    pairs = [f"{name}={value}" for name, value in named.items() if value is not None]
    if retry and not resume:
        raise UsageError("--retry is given without --resume; failed runs are those of an earlier call")
    study = _spec(spec, [*pairs, *(settings or [])], out, resume=resume, skip=skip)
    folder = out or Path("studies") / study.name
    if dry_run:
        how = How(data_dir, device, threads)
        _show_plan(terminal, plan_study(study, folder, how, workers=workers, retry=retry), folder)
        return
    with terminal.progress() as say:
        result = run_study(
            study,
            folder,
            How(data_dir, device, threads, say, shlex.join(["tersa", *sys.argv[1:]])),
            workers=workers,
            resume=resume,
            overwrite=overwrite,
            retry=retry,
            on=on,
        )
    _show(terminal, result, folder)
    if result.failed:
        raise typer.Exit(1)


def _spec(path: Path | None, pairs: list[str], out: Path | None, *, resume: bool, skip: bool) -> StudySpec:
    """The study that was asked for: a file, the one in the folder, or settings alone; settings win."""
    from tersa.recipes.study import SPEC, stored_spec
    from tersa.study.spec import StudySpec, override, read_spec

    if path is not None:
        study = read_spec(path)
    elif resume and out is not None and (out / SPEC).is_file():
        study = stored_spec(out)
    elif pairs:
        study = StudySpec(name=out.name if out else "study")
    else:
        raise UsageError("nothing to study; give a study.toml, or settings such as --rule bp --bits 2,3,4")
    study = override(study, pairs)
    return study.model_copy(update={"skip": True}) if skip else study


@app.command("table", epilog=TABLE)
def table(
    folder: Folder,
    format: Annotated[
        Literal["text", "csv", "markdown"], typer.Option("--format", help="text, csv or markdown.")
    ] = "text",
    rows: Annotated[
        str | None, typer.Option("--rows", metavar="SETTING,...", help="Settings that go down.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option("--columns", metavar="SETTING,...", help="Settings that go across.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="KEY=VALUE,...", help="Only these; may be given again."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write to this file.")] = None,
    json: options.Json = False,
) -> None:
    """Accuracy of every setting over its seeds, with 95 % intervals."""
    from tersa.files import write_atomic
    from tersa.recipes.study import stored_cells
    from tersa.recipes.study_layout import accuracy_of
    from tersa.study import table as tables

    began = time.perf_counter()
    found = tables.where(tables.aggregate(tables.outcomes(stored_cells(folder))), where or [])
    if rows or columns:
        grid = tables.grid(found, rows_by=_names(rows), columns_by=_names(columns))
    else:
        grid = tables.flat(found)
    terminal = Terminal(json=json)
    if format == "text" and out is None:
        what = accuracy_of(row.cell for row in found).capitalize()
        terminal.table(f"{what} in %, {folder}", grid.header, grid.body, left=grid.left)
    else:
        text = tables.to_csv(grid) if format == "csv" else tables.to_markdown(grid) + "\n"
        if out is None:
            terminal.say(text.rstrip("\n"))
        else:
            write_atomic(out, text)
            terminal.say(f"table    {out}")
    lines = [dict(zip(grid.header, line, strict=True)) for line in grid.body]
    payload = {"verb": "study table", "rows": lines, "artefacts": [str(out)] if out else [], "report": ""}
    terminal.result(payload | {"seconds": time.perf_counter() - began})


@app.command("report", epilog=REPORT)
def report(folder: Folder, json: options.Json = False) -> None:
    """Write the study's report: the answer first, then curves with intervals and the published points."""
    from tersa.recipes.study import SPEC, stored_spec
    from tersa.recipes.study_report import write_study_report

    began = time.perf_counter()
    spec = stored_spec(folder)
    again = ["tersa", "study", "run", str(folder / SPEC), "--out", str(folder), "--overwrite"]
    path = write_study_report(folder, name=spec.name, command=shlex.join(again))
    terminal = Terminal(json=json)
    terminal.say(f"report    {path}")
    payload = {"verb": "study report", "artefacts": [str(path)], "report": str(path)}
    terminal.result(payload | {"seconds": time.perf_counter() - began})


def _names(text: str | None) -> list[str]:
    return [part.strip() for part in text.split(",")] if text else []


def _show(terminal: Terminal, result: StudyResult, folder: Path) -> None:
    from tersa.recipes.study import stored_cells
    from tersa.recipes.study_layout import accuracy_of
    from tersa.report.numbers import duration
    from tersa.study import table as tables

    rows = tables.aggregate(tables.outcomes(stored_cells(folder)))
    names = tables.differing(rows)
    if len(rows) <= SHOWN:
        body = [(*(tables.shown(row.cell, name) for name in names), row.text) for row in rows]
        what = accuracy_of(row.cell for row in rows).capitalize()
        terminal.table(f"{what} in %, with 95 % interval", (*names, "accuracy"), body, left=len(names))
    _say_what_was_made_of_it(terminal, result.left_out, result.notes)
    counts = f"{result.done:,} done, {result.diverged:,} diverged, {result.failed:,} failed"
    terminal.say(
        f"{result.cells:,} runs: {counts}; {result.trained:,} of them now, in {duration(result.seconds)}"
    )
    if result.earlier:
        terminal.say(f"{result.earlier:,} runs of an earlier spec stay in the store")
    if result.failed:
        terminal.say(f"the first failure: {result.trouble}", style="red")
        terminal.say(f"tersa study run --out {folder} --resume --retry tries again", style="red")
    terminal.say(f"study     {folder}")
    terminal.say(f"table     tersa study table {folder}")
    if result.report:
        terminal.say(f"report    {result.report}")
    terminal.result(result)


def _show_plan(terminal: Terminal, plan: StudyPlan, folder: Path) -> None:
    from tersa.train.estimate import in_words

    unknown = "not known: too many kinds of networks to time"
    clock = unknown if plan.seconds is None else f"about {in_words(plan.seconds)}"
    rows = [
        ("runs", f"{plan.cells:,}"),
        ("ended already", f"{plan.ended:,}"),
        ("failed, left alone", f"{plan.failed:,}"),
        ("to train", f"{plan.left:,} runs, {plan.epochs:,} epochs"),
        ("stacks", f"{plan.stacks:,}, of at most {plan.largest} runs"),
        ("workers", f"{plan.workers} with {plan.threads} thread{'s' if plan.threads > 1 else ''} each"),
        ("time", clock),
    ]
    terminal.table(f"Plan for {folder}", ("", ""), rows, left=2)
    _say_what_was_made_of_it(terminal, plan.left_out, plan.notes)
    terminal.say("nothing was done")
    terminal.result(plan)


def _say_what_was_made_of_it(terminal: Terminal, left_out: list[str], notes: list[str]) -> None:
    for note in notes:
        terminal.say(note)
    for reason in left_out:
        terminal.say(f"left out: {reason}")
