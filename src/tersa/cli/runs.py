"""`tersa runs list|show|rm`: the runs on this disk."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tersa.cli.console import Terminal
from tersa.cli.options import Json
from tersa.errors import UsageError

if TYPE_CHECKING:
    from tersa.recipes.runs import RunSummary
    from tersa.records.results import ShrinkResult

EPILOG = "Example: tersa runs show demo"
LIST = "Example: tersa runs list --root runs"
REMOVE = "Example: tersa runs rm demo --yes"
TRACK = """\b
Examples:
  tersa runs track demo --to sqlite:///mlflow.db
  tersa runs track first second --to https://mlflow.example.org --experiment lenet"""

app = typer.Typer(
    help="What was run: list, show, log to MLflow, remove.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
)
Root = Annotated[Path, typer.Option("--root", help="Where runs are kept.")]
Name = Annotated[str, typer.Argument(help="The name of a run (tersa runs list), or its folder.")]


@app.command("list", epilog=LIST)
def list_(root: Root = Path("runs"), json: Json = False) -> None:
    """Every run with its figures, and which are not finished."""
    from tersa.recipes.runs import list_runs

    began = time.perf_counter()
    found = list_runs(root)
    terminal = Terminal(json=json)
    if found:
        columns = ("run", "verb", "model", "data", "status", "accuracy", "parameters", "file", "date")
        terminal.table(f"Runs in {root}", columns, [_row(run) for run in found], left=5)
    else:
        terminal.say(f"no runs in {root}; tersa shrink --data digits makes one")
    payload = {"verb": "runs list", "root": root, "runs": [asdict(run) for run in found]}
    terminal.result(payload | _shared(began))


@app.command("show", epilog=EPILOG)
def show(run: Name, root: Root = Path("runs"), json: Json = False) -> None:
    """What a run gave: before and after, goals, measurements, files."""
    from tersa.recipes.runs import find_run, read_run, read_shrink

    began = time.perf_counter()
    folder = find_run(run, root)
    summary = read_run(folder)
    terminal = Terminal(json=json)
    if summary.verb in ("shrink", "prune", "adapt") and summary.status not in ("incomplete", "damaged"):
        result = read_shrink(folder)
        tell(terminal, result, folder)
        terminal.result(result.absolute(folder))
        return
    rows = [(name, text) for name, text in _facts(summary) if text]
    terminal.table(f"Run {summary.name}", ("", ""), rows, left=2)
    if summary.status == "incomplete":
        terminal.say("not finished: run its command again with --resume")
    terminal.result({"verb": "runs show", "run": asdict(summary)} | _shared(began))


@app.command("rm", epilog=REMOVE)
def remove(
    run: Annotated[str, typer.Argument(help="The name of a run in --root.")],
    root: Root = Path("runs"),
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Remove a run folder, after a question."""
    from tersa.recipes.runs import removable, remove_run

    began = time.perf_counter()
    terminal = Terminal(json=json)
    folder = removable(run, root)
    if not yes:
        if json or not sys.stdin.isatty():
            raise UsageError(
                f"removing {folder} needs a confirmation and nobody can be asked here; give --yes"
            )
        if not typer.confirm(f"remove {folder} and everything in it?"):
            terminal.say(f"{folder} was kept")
            return
    remove_run(run, root)
    terminal.say(f"removed {folder}")
    terminal.result({"verb": "runs rm", "removed": folder} | _shared(began))


def try_it(result: ShrinkResult, folder: Path) -> str:
    """The command that classifies an image with what a run made."""
    packed = result.result.precision == "packed"
    file = folder / (result.artefacts[0] if packed else "run.py")
    return f"{'tersa predict' if packed else 'python'} {shlex.quote(str(file))} IMAGE"


def tell(terminal: Terminal, result: ShrinkResult, folder: Path) -> None:
    """A result on the terminal: the report's story in the report's words and order."""
    from tersa.report.beside import beside
    from tersa.report.plain import cleaned
    from tersa.report.tables import before_after_rows, comparison_rows, goal_rows
    from tersa.report.words import GUESSES

    shown = cleaned(result)
    terminal.say(shown.verdict, style="bold")
    terminal.say(shown.detail)
    if GUESSES in shown.notes:
        terminal.say(GUESSES, style="red")
    figures = [(row.label, row.before, row.after, row.change) for row in before_after_rows(shown)]
    terminal.table(f"{shown.model} on {shown.task}", ("", "before", "after", "change"), figures)
    for name, sentence in beside(shown):
        terminal.say(f"{name:9} {sentence}")
    goals = goal_rows(shown)
    if goals:
        asked = [(row.text, row.asked, row.reached, row.status) for row in goals]
        terminal.table("Goals", ("asked", "limit", "reached", ""), asked)
    for row in goals:
        if row.reason:
            terminal.say(f"missed: {row.text}: {row.reason}", style="red")
    clock = [
        (row.runtime, row.options, row.precision, row.before, row.after, row.verdict, row.interval)
        for row in comparison_rows(shown)
    ]
    columns = ("runtime", "options", "precision", "before", "after", "verdict", "95 % interval")
    terminal.table(f"Measured side by side, batch {shown.batch}", columns, clock, left=3)
    for name in shown.artefacts:
        terminal.say(f"file      {folder / name}")
    terminal.say(f"report    {folder / shown.report}")


def _row(run: RunSummary) -> tuple[str, ...]:
    from tersa.report.numbers import percent, si, size
    from tersa.report.plain import plain

    def text(value: float | None, show: Any) -> str:
        return "–" if value is None else show(value)

    return (
        plain(run.name),
        run.verb or "–",
        run.model or "–",
        run.data or "–",
        run.status,
        text(run.test_accuracy, percent),
        text(run.parameters, si),
        text(run.size_bytes, size),
        run.date[:16].replace("T", " "),
    )


def _facts(run: RunSummary) -> list[tuple[str, str]]:
    """A run of a verb without a story of its own: what is known of it."""
    from tersa.recipes.runs import FIGURES
    from tersa.report.numbers import duration

    figures = [(each.label, getattr(run, each.field), each.show) for each in FIGURES]
    return [
        ("verb", run.verb),
        ("model", run.model),
        ("data", run.data),
        ("status", run.status),
        *((label.lower(), show(value)) for label, value, show in figures if value is not None),
        ("time", "" if run.seconds is None else duration(run.seconds)),
        ("date", run.date),
        ("folder", str(run.folder)),
    ]


def _shared(began: float) -> dict[str, Any]:
    """The keys that every verb's JSON has."""
    return {"artefacts": [], "report": "", "seconds": time.perf_counter() - began}


@app.command("track", epilog=TRACK)
def track(
    names: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Names of runs (tersa runs list), or folders.")
    ],
    to: Annotated[str, typer.Option("--to", metavar="URI", help="MLflow's tracking URI.")],
    experiment: Annotated[str, typer.Option("--experiment", help="Made if it is not there.")] = "tersa",
    root: Root = Path("runs"),
    json: Json = False,
) -> None:
    """Log finished runs to MLflow: settings, numbers, every epoch, files. A run is logged once."""
    from tersa.recipes.runs import find_run
    from tersa.recipes.tracking import track as log

    began = time.perf_counter()
    found = log([find_run(name, root) for name in names], to, experiment)
    terminal = Terminal(json=json)
    columns = ("run", "", "in MLflow", "parameters", "metrics", "files")
    rows = [
        (each.name, each.status, each.run, str(each.parameters), str(each.metrics), str(each.files))
        for each in found
    ]
    terminal.table(f"Runs in {experiment} at {to}", columns, rows, left=3)
    payload = {"verb": "runs track", "runs": [asdict(each) for each in found]}
    terminal.result(payload | _shared(began))
