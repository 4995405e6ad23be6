"""What a verb prints, and where: results on standard output, progress and errors on standard error.

With `--json` the result is one JSON object on one line, alone on standard output; tables and remarks go to
standard error with everything else. Nothing here imports torch, so that `--help` stays quick.

Example:
    >>> terminal = Terminal(json=True)
    >>> terminal.result({"seconds": 1.5})
    {"seconds":1.5}
"""

from __future__ import annotations

import json as json_module
import sys
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console


LOG_SECONDS = 15.0
"""Least time between two lines about a task in a log file."""
NAME_WIDTH = 24
"""Characters of a table's first column that are not folded for the sake of other columns."""


class Kept:
    """Files that `--tables` named, and how many tables of this command are in each format."""

    paths: tuple[Path, ...] = ()
    count: int = 0

    @classmethod
    def ask(cls, paths: Sequence[Path]) -> None:
        """Write every table of this command into files from now on; nothing for none.

        Raises:
            UsageError: formats that are not known, or a file that is there.
        """
        cls.paths, cls.count = (), 0
        if paths:
            from tersa.report.saved import check

            for path in paths:
                check(path)
        cls.paths = tuple(paths)

    @classmethod
    def names(cls) -> list[Path]:
        """Where the next table goes: `t.csv`, then `t-2.csv`, ..."""
        cls.count += 1
        end = "" if cls.count == 1 else f"-{cls.count}"
        return [path.with_name(f"{path.stem}{end}{path.suffix}") for path in cls.paths]


class Terminal:
    """The two streams of one command.

    Args:
        json: the user asked for JSON: keep standard output for it.
    """

    def __init__(self, *, json: bool = False) -> None:
        self.json = json

    def console(self, *, errors: bool = False) -> Console:
        """A rich console on standard output, or on standard error for progress and under `--json`."""
        from rich.console import Console

        file = sys.stderr if errors or self.json else sys.stdout
        width = None if file.isatty() else 120
        return Console(file=file, highlight=False, soft_wrap=not file.isatty(), width=width)

    def say(self, text: str = "", *, style: str | None = None) -> None:
        """One line of plain text; markup in it is printed as it stands."""
        self.console().print(text, style=style, markup=False)

    def note(self, text: str) -> None:
        """One line about the progress of the work, on standard error."""
        self.console(errors=True).print(text, style="dim", markup=False)

    def table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[str]],
        *,
        left: int = 1,
        caption: str = "",
    ) -> None:
        """A table; the first `left` columns are text, the others are numbers and stand to the right."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title=Text(title),
            caption=Text(caption) if caption else None,
            box=box.SIMPLE_HEAD,
            title_justify="left",
            title_style="bold",
            caption_justify="left",
            collapse_padding=True,
        )
        cells = tuple(tuple(str(cell) for cell in row) for row in rows)
        named = max((len(row[0]) for row in cells), default=0)
        for index, name in enumerate(columns):
            # A long name is folded, not cut: what is cut looks like another name. Other columns fold first.
            table.add_column(
                Text(name),
                justify="left" if index < left else "right",
                overflow="fold",
                min_width=min(named, NAME_WIDTH) + 1 if index == 0 else None,  # 1 of padding,
            )
        for row in cells:
            table.add_row(*map(Text, row))
        self.console().print(table)
        if Kept.paths:
            from tersa.report.saved import Saved, save

            for path in Kept.names():
                save(Saved(title, tuple(columns), cells, left, caption), path)
                self.note(f"table     {path}")

    def result(self, payload: BaseModel | dict[str, Any]) -> None:
        """Print the result under `--json`; do nothing otherwise (the tables have told it)."""
        if not self.json:
            return
        if isinstance(payload, dict):
            text = json_module.dumps(payload, separators=(",", ":"), default=_plain)
        else:
            text = payload.model_dump_json()
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    @contextmanager
    def progress(self) -> Generator[Callable[[str, float, str], None]]:
        """A progress bar with the time left, on standard error.

        Yields a function `update(task, fraction, remark)`; a new `task` name starts a new line. Without a
        terminal a line is printed when a task begins and ends, and every `LOG_SECONDS` in between.
        """
        from rich.progress import (
            BarColumn,
            Progress,
            TaskID,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = self.console(errors=True)
        known: dict[str, TaskID] = {}
        if not console.is_terminal:
            spoken = time.monotonic()

            def log(task: str, fraction: float, remark: str) -> None:
                nonlocal spoken
                if task not in known:
                    known[task] = TaskID(0)
                    console.print(task, markup=False)
                elif remark and (fraction >= 1.0 or time.monotonic() - spoken > LOG_SECONDS):
                    spoken = time.monotonic()
                    console.print(f"  {fraction:4.0%}  {remark}", markup=False)

            yield log
            return
        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[remark]}", markup=False),
            console=console,
        )

        def update(task: str, fraction: float, remark: str) -> None:
            if task not in known:
                known[task] = bar.add_task(task, total=1.0, remark="")
            bar.update(known[task], completed=fraction, remark=remark)

        with bar:
            yield update


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump()
    raise TypeError(f"{type(value).__name__} is not JSON")
