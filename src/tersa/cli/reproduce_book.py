"""`tersa reproduce book` and `tersa reproduce all`: every published value with ours, in one place."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tersa.cli import options
from tersa.cli.console import Terminal

if TYPE_CHECKING:
    from tersa.recipes.book import Book

BOOK_EPILOG = """\b
Examples:
  tersa reproduce book docs/results
  tersa reproduce book docs/results studies/pruning-mnist-quick --out docs/results --overwrite
  tersa reproduce book studies/bp studies/fa --json

What is given are folders of reproductions that have ended, their comparison.csv, or summaries that an
earlier book wrote."""

ALL_EPILOG = """\b
Examples:
  tersa reproduce all --dry-run
  tersa reproduce all --quick --out studies/all
  tersa reproduce all --quick --only hardware,adaptation --out studies/all --resume

A killed run goes on with the same command and --resume. Exit code 1: experiments, or some of their runs,
failed; --resume tries them again."""

ONCE = ("--resume", "--json", "--debug")


def book(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Folders and files, see below.")],
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the book; an existing one needs --overwrite.")
    ] = Path("studies/book"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write into a folder that holds something.")
    ] = False,
    json: options.Json = False,
) -> None:
    """One book of what was run: every published value, ours, the gap, a verdict, and why they differ."""
    from tersa.recipes.book import book as make
    from tersa.recipes.book import write_book
    from tersa.recipes.book_found import found

    terminal = Terminal(json=json)
    summaries = found(paths)
    made = make(summaries)
    written = write_book(made, summaries, out, overwrite=overwrite)
    _show(terminal, made)
    terminal.say(f"cells     {written[2]}")
    terminal.say(f"report    {written[0]}")
    terminal.result(
        {
            **made.model_dump(mode="json", exclude={"cells", "summaries"}),
            "share": made.share,
            "artefacts": [str(path) for path in written],
            "report": str(written[0]),
        }
    )


def all_(
    full: Annotated[
        bool, typer.Option("--full/--quick", help="As the documents did, or a small part of each.")
    ] = False,
    only: Annotated[
        str, typer.Option("--only", metavar="NAME,...", help="Experiments of tersa reproduce list. [all]")
    ] = "",
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes at once; by default all cores.")
    ] = None,
    on: options.On = "local",
    device: options.Device = "cpu",
    data_dir: options.DataDir = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder for the results; an existing one needs --resume. [studies/all-quick or -full]",
        ),
    ] = None,
    resume: options.Resume = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Every experiment of the documents one after another, then the book of all."""
    from tersa.recipes.reproduce_all import chosen, reproduce_all
    from tersa.recipes.reproductions import EXPERIMENTS
    from tersa.recipes.setting import Setting
    from tersa.report.numbers import duration
    from tersa.study.cluster import check_place

    terminal = Terminal(json=json)
    mode = "full" if full else "quick"
    names = [name.strip() for name in only.split(",") if name.strip()]
    folder = out or Path("studies") / f"all-{mode}"
    check_place(on)
    if dry_run:
        wanted = chosen(names)
        rows = [
            (each.name, each.document, each.as_typed(full=full, out=str(folder / each.name)))
            for each in EXPERIMENTS
            if each.name in wanted
        ]
        caption = "each command with --dry-run tells its time"
        terminal.table(f"Plan for {folder}", ("experiment", "document", "as"), rows, left=3, caption=caption)
        terminal.say("nothing was done")
        terminal.result({"experiments": wanted, "commands": [row[2] for row in rows]})
        return
    command = shlex.join(["tersa", *(word for word in sys.argv[1:] if word not in ONCE)])
    with terminal.progress() as say:
        result = reproduce_all(
            mode,
            folder,
            Setting(data_dir, device, None, say, command),
            only=names,
            workers=workers,
            resume=resume,
            on=on,
        )
    rows = [
        (part.name, part.status, duration(part.seconds) if part.seconds else "", part.verdict)
        for part in result.parts
    ]
    terminal.table("Experiments", ("experiment", "", "time", "answer"), rows, left=4)
    terminal.say(result.verdict, style="bold")
    if result.report:
        terminal.say(f"report    {result.report}")
    terminal.result(result)
    if any(part.status == "failed" for part in result.parts):
        raise typer.Exit(1)


def _show(terminal: Terminal, made: Book) -> None:
    """Counts of each document by verdict, then the answer."""
    from tersa.recipes.book_report import DOCUMENTS, WORDS, chapters, detail

    words = [word for word in WORDS if made.counts.get(word)]
    rows: list[tuple[str, ...]] = []
    for document, places in chapters(made):
        cells = [cell for _, own in places for cell in own]
        counts = (str(sum(cell.verdict == word for cell in cells) or "") for word in words)
        rows.append((f"{document} {DOCUMENTS[document]}", *counts))
    terminal.table("Published values by document and verdict", ("document", *words), rows)
    terminal.say(made.verdict, style="bold")
    terminal.say(detail(made))
