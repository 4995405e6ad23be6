"""`tersa compare`: the figures of several runs side by side, the first one as the reference."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tersa.cli.console import Terminal
from tersa.cli.options import Json
from tersa.errors import UsageError

EPILOG = "Example: tersa compare runs/first runs/second"


def compare(
    runs: Annotated[list[str], typer.Argument(help="Two or more run folders, or names of runs in --root.")],
    root: Annotated[Path, typer.Option("--root", help="Where runs are kept.")] = Path("runs"),
    json: Json = False,
) -> None:
    """Accuracy, parameters, MACs, file and latency of runs side by side, with differences and ratios."""
    from tersa.recipes.runs import compare_runs, differences, find_run, read_run

    began = time.perf_counter()
    if len(runs) < 2:
        raise UsageError(f"compare needs at least two runs, got {len(runs)}: {', '.join(runs)}")
    found = [read_run(find_run(name, root)) for name in runs]
    columns = ["", found[0].name]
    for run in found[1:]:
        columns += [run.name, f"against {found[0].name}"]
    rows: list[list[str]] = [
        ["Data", *_spread([run.data or "not known" for run in found])],
        ["Model", *_spread([run.model or "not known" for run in found])],
        ["Status", *_spread([run.status for run in found])],
    ]
    for row in compare_runs(found):
        pairs = zip(row.values[1:], row.against[1:], strict=True)
        rows.append([row.label, row.values[0], *(text for pair in pairs for text in pair)])
    terminal = Terminal(json=json)
    terminal.table("Runs side by side", columns, rows)
    terminal.result(
        {
            "verb": "compare",
            "runs": [asdict(run) for run in found],
            "differences": differences(found),
            "artefacts": [],
            "report": "",
            "seconds": time.perf_counter() - began,
        }
    )


def _spread(values: list[str]) -> list[str]:
    """One cell for the first run, two for every other."""
    return [values[0], *(text for value in values[1:] for text in (value, ""))]
