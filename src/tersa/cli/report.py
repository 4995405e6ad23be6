"""`tersa report`: the page of a finished run, written again from its result."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from tersa.cli.console import Terminal
from tersa.cli.options import Json

EPILOG = "Example: tersa report runs/demo"


def report(
    run: Annotated[str, typer.Argument(help="A run folder, or the name of a run in --root.")],
    root: Annotated[Path, typer.Option("--root", help="Where runs are kept.")] = Path("runs"),
    json: Json = False,
) -> None:
    """Write report.html again from what a finished run of train, shrink or prune holds."""
    from tersa.recipes.runs import find_run, read_run

    began = time.perf_counter()
    folder = find_run(run, root)
    verdict = _trained(folder) if read_run(folder).verb == "train" else _shrunk(folder)
    path = folder / "report.html"
    terminal = Terminal(json=json)
    terminal.say(verdict, style="bold")
    terminal.say(f"report    {path}")
    seconds = time.perf_counter() - began
    terminal.result({"verb": "report", "report": path, "artefacts": [], "seconds": seconds})


def _shrunk(folder: Path) -> str:
    """Write the page of a run of shrink or prune; its headline."""
    from tersa.recipes.runs import read_shrink
    from tersa.report.page import write

    result = read_shrink(folder)
    write(result, folder / "report.html")
    return result.verdict


def _trained(folder: Path) -> str:
    """Write the page of a run of train; its headline."""
    from tersa.recipes.network_report import write_report
    from tersa.recipes.train import TrainedRun
    from tersa.records import read_record

    result = read_record(folder / "result.json", TrainedRun)
    write_report(folder, result)
    return f"{result.test_accuracy:.2f} % of {result.split_sizes['test']:,} test images are named rightly"
