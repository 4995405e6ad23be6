"""`tersa data list|get|show`: what data are here, how to get the rest, and what they look like."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tersa.cli.console import Terminal
from tersa.cli.options import DataDir, Json
from tersa.errors import UsageError

if TYPE_CHECKING:
    from tersa.data import Task

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Data sets: what is here, how to get the rest, what they look like.",
    epilog="Start with: tersa data list",
)

Name = Annotated[
    str, typer.Argument(help="A known data set (tersa data list), or a path: folder, .zip or .npz.")
]

SHEET_COLUMNS = 10
SHEET_ROWS = 20


@app.command("list", epilog="Example: tersa data list --data-dir ~/datasets")
def list_(data_dir: DataDir = None, json: Json = False) -> None:
    """Known data sets: which are here and where, what is missing and how to get it."""
    from dataclasses import asdict

    from tersa.data.sources import roots, survey

    terminal = Terminal(json=json)
    found = survey(data_dir)
    places = [str(root) for root in roots(data_dir)]
    rows = [(one.name, one.state, one.location or "-", one.about) for one in found]
    caption = f"looked in: {', '.join(places)}"
    terminal.table("Data sets", ("name", "state", "where", "what"), rows, left=4, caption=caption)
    for one in found:
        if one.state == "incomplete":
            terminal.say(f"{one.name}: {', '.join(one.lacking)} missing in {one.location}")
        if one.hint:
            terminal.say(f"{one.name}: {one.hint}")
    terminal.say(
        "Your own: --data PATH of a folder or .zip of train/CLASS/*.png|jpg and test/CLASS/*, or of an .npz."
    )
    terminal.result({"data": [asdict(one) for one in found], "searched": places})


@app.command("get", epilog="Example: tersa data get mnist")
def get(name: Name, data_dir: DataDir = None, json: Json = False) -> None:
    """Make a data set available: find it, or download it (checked, resumed), and decode it once."""
    from tersa.data import load

    terminal = Terminal(json=json)
    with _told(terminal):
        task = load(name, data_dir=data_dir)
    terminal.say(f"{name}: ready, {task.provenance.location}")
    if task.provenance.note:
        terminal.say(f"note: {task.provenance.note}")
    terminal.result(_summary(task))


@app.command("show", epilog="Example: tersa data show digits --out digits.png")
def show(
    name: Name,
    out: Annotated[
        Path | None, typer.Option("--out", help="The picture; by default NAME-samples.png here.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the picture if it exists.")] = False,
    data_dir: DataDir = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Of the validation cut and the samples shown.")
    ] = 0,
    json: Json = False,
) -> None:
    """Shape, splits, classes, normalisation and origin of a data set, and a picture of samples."""
    from tersa.data import load
    from tersa.data.sheet import contact_sheet
    from tersa.files import write_atomic

    terminal = Terminal(json=json)
    place = out or Path(f"{Path(name).name.split('.')[0] or 'data'}-samples.png")
    if place.exists() and not overwrite:
        raise UsageError(f"{place} exists; give another --out, or --overwrite")
    with _told(terminal):
        task = load(name, data_dir=data_dir, seed=seed)
    summary = _summary(task)
    _print(terminal, task, summary)
    write_atomic(place, contact_sheet(task, SHEET_ROWS, SHEET_COLUMNS, seed))
    terminal.say(f"samples: {place}")
    terminal.result(summary | {"artefacts": [str(place)]})


def _summary(task: Task) -> dict[str, Any]:
    """What `get` and `show` say under `--json`."""
    from dataclasses import asdict

    from tersa.data import fingerprint

    splits = {"train": task.train, "validation": task.validation, "test": task.test}
    return {
        "name": task.name,
        "shape": list(task.shape),
        "dtype": str(task.train.images.dtype).removeprefix("torch."),
        "split_sizes": {split: len(part) for split, part in splits.items()},
        "classes": list(task.classes),
        "class_counts": {
            split: part.labels.bincount(minlength=len(task.classes)).tolist()
            for split, part in splits.items()
        },
        "mean": list(task.mean),
        "std": list(task.std),
        "fingerprint": fingerprint(task),
        "provenance": asdict(task.provenance),
    }


def _print(terminal: Terminal, task: Task, summary: dict[str, Any]) -> None:
    """The same as tables."""
    c, h, w = task.shape
    origin = task.provenance
    facts = [
        ("image", f"{c} x {h} x {w} (channels x height x width), stored as {summary['dtype']}"),
        ("mean", ", ".join(f"{value:.4f}" for value in task.mean)),
        ("std", ", ".join(f"{value:.4f}" for value in task.std)),
        ("source", f"{origin.source}, {origin.location}"),
        *((f"sha256 {file}", value) for file, value in origin.sha256.items()),
        ("fingerprint", summary["fingerprint"]),
    ]
    terminal.table(task.name, ("fact", "value"), facts, left=2, caption=origin.note)
    counts = summary["class_counts"]
    rows = [
        (name, *(f"{counts[split][label]:,}" for split in counts)) for label, name in enumerate(task.classes)
    ]
    rows.append(("all", *(f"{size:,}" for size in summary["split_sizes"].values())))
    terminal.table("Images", ("class", *counts), rows)


@contextmanager
def _told(terminal: Terminal) -> Generator[None]:
    """Show what the library says of its progress (downloads, decoding) on standard error."""

    class ToTerminal(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            terminal.note(record.getMessage())

    logger = logging.getLogger("tersa")
    handler, level = ToTerminal(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
