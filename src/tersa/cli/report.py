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
    """Write report.html again from what a finished run holds: the newest form of its page."""
    from tersa.recipes.pages import REPORT, rewrite
    from tersa.recipes.runs import find_run

    began = time.perf_counter()
    folder = find_run(run, root)
    verdict = rewrite(folder)
    path = folder / REPORT
    terminal = Terminal(json=json)
    terminal.say(verdict, style="bold")
    terminal.say(f"report    {path}")
    seconds = time.perf_counter() - began
    terminal.result({"verb": "report", "report": path, "artefacts": [], "seconds": seconds})
