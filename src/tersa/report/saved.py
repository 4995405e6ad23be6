"""Tables as files: CSV, Markdown, LaTeX, Parquet.

A table is a title, columns and rows of text, as a terminal shows them. Cells that are numbers and nothing
else (`1,024`, `−0.21`) are written as numbers in CSV and Parquet; a column of Parquet is a column of numbers
where all of its cells are, or are empty. Cells with a unit stay text, and so do the first columns, which say
what a row is.

Example:
    >>> table = Saved("Runs", ("run", "accuracy, %"), (("a_b", "99.10"), ("c", "–")))
    >>> print(FORMATS[".csv"](table), end="")
    run,"accuracy, %"
    a_b,99.10
    c,
    >>> print(FORMATS[".md"](table), end="")
    | run | accuracy, % |
    |---|---:|
    | a_b | 99.10 |
    | c | – |
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tersa.errors import UsageError
from tersa.files import write_atomic

NUMBER = re.compile(r"[-−+]?\d{1,3}(,\d{3})+(\.\d+)?|[-−+]?\d+(\.\d+)?(e[-+]?\d+)?")
"""A cell that is a number: with or without commas between thousands."""
NOTHING = ("", "–", "-")
"""Cells without a value."""
SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{each: f"\\{each}" for each in "&%$#_{}"},
    "−": "$-$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "–": "--",
}
"""What LaTeX reads as something else."""


@dataclass(frozen=True)
class Saved:
    """One table.

    Attributes:
        title: what it shows.
        columns: headers.
        rows: cells, one per column.
        left: so many first columns are text, the others numbers.
        caption: below it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1
    caption: str = ""


def number(cell: str) -> float | None:
    """The number that a cell is, or None.

    >>> number("1,024"), number("−0.21"), number("12 ms"), number("3,5")
    (1024.0, -0.21, None, None)
    """
    text = cell.strip()
    return float(text.replace(",", "").replace("−", "-")) if NUMBER.fullmatch(text) else None


def csv_text(table: Saved) -> str:
    """A header and rows; numbers without commas, no dash where there is nothing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    for row in table.rows:
        writer.writerow(cell if place < table.left else _plain(cell) for place, cell in enumerate(row))
    return text.getvalue()


def markdown(table: Saved) -> str:
    """A table of GitHub's Markdown; numbers stand to the right."""
    rules = ["---" if place < table.left else "---:" for place in range(len(table.columns))]
    lines = [_line(table.columns), f"|{'|'.join(rules)}|", *map(_line, table.rows)]
    return "\n".join(lines) + "\n"


def latex(table: Saved) -> str:
    r"""A `table` with a `tabular` that needs no package.

    >>> print(latex(Saved("50 % off", ("a_b",), (("×2",),))))
    \begin{table}
    \caption{50 \% off}
    \begin{tabular}{l}
    \hline
    a\_b \\
    \hline
    $\times$2 \\
    \hline
    \end{tabular}
    \end{table}
    <BLANKLINE>
    """
    places = "".join("l" if place < table.left else "r" for place in range(len(table.columns)))
    rows = [" & ".join(map(_escaped, row)) + r" \\" for row in table.rows]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_escaped(table.title)}}}",
            rf"\begin{{tabular}}{{{places}}}",
            r"\hline",
            " & ".join(map(_escaped, table.columns)) + r" \\",
            r"\hline",
            *rows,
            r"\hline",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def parquet(table: Saved, path: Path) -> None:
    """A Parquet file, columns of numbers as doubles.

    Raises:
        UsageError: duckdb is not installed.
    """
    try:
        import duckdb
    except ImportError:
        raise UsageError("Parquet needs duckdb; pip install 'tersa[tables]', or give a .csv") from None
    names = _distinct(table.columns)
    columns = list(zip(*table.rows, strict=True)) or [()] * len(names)
    typed = (_column(cells, text=place < table.left) for place, cells in enumerate(columns))
    values, kinds = zip(*typed, strict=True)
    with duckdb.connect() as connection:
        declared = ", ".join(
            f'"{name.replace(chr(34), chr(34) * 2)}" {kind}' for name, kind in zip(names, kinds, strict=True)
        )
        connection.execute(f"CREATE TABLE saved ({declared})")
        if table.rows:
            holes = ", ".join("?" * len(names))
            connection.executemany(f"INSERT INTO saved VALUES ({holes})", list(zip(*values, strict=True)))
        partial = path.with_name(f".{path.name}.partial")
        quoted = str(partial).replace("'", "''")
        connection.execute(f"COPY saved TO '{quoted}' (FORMAT parquet)")
    partial.replace(path)


FORMATS: dict[str, Callable[[Saved], str]] = {".csv": csv_text, ".md": markdown, ".tex": latex}
"""Formats that are text, by the end of a file's name."""
ENDS = (*FORMATS, ".parquet")


def check(path: Path) -> None:
    """Refuse a file of an unknown format, and one that is there.

    Raises:
        UsageError: either.
    """
    if path.suffix.lower() not in ENDS:
        known = ", ".join(ENDS)
        raise UsageError(f"--tables {path}: format '{path.suffix}' is not known; end the name in {known}")
    if path.exists():
        raise UsageError(f"--tables {path}: it exists; give another name, or remove it")


def save(table: Saved, path: Path) -> None:
    """Write a table in the format that the file's name ends with, whole or not at all.

    Raises:
        UsageError: a package that is missing.
        KeyError: another ending; `check` says so before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = path.suffix.lower()
    if kind == ".parquet":
        parquet(table, path)
    else:
        write_atomic(path, FORMATS[kind](table))


def _plain(cell: str) -> str:
    text = cell.strip()
    if text in NOTHING:
        return ""
    return text.replace(",", "").replace("−", "-") if number(text) is not None else text


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _escaped(text: str) -> str:
    return "".join(SPECIAL.get(each, each) for each in text)


def _column(cells: tuple[str, ...], *, text: bool) -> tuple[list[object], str]:
    """A column's values, and its type in SQL."""
    if text:
        return list(cells), "VARCHAR"
    numbers = [number(cell) for cell in cells]
    empty = [cell.strip() in NOTHING for cell in cells]
    if any(each is not None for each in numbers) and all(
        nothing or value is not None for nothing, value in zip(empty, numbers, strict=True)
    ):
        return list(numbers), "DOUBLE"
    return [None if nothing else cell for nothing, cell in zip(empty, cells, strict=True)], "VARCHAR"


def _distinct(names: tuple[str, ...]) -> list[str]:
    """Headers that are all there and differ.

    >>> _distinct(("", "a", "a", "A"))
    ['column', 'a', 'a 2', 'A 3']
    """
    found: list[str] = []
    for name in names:
        base, count = name or "column", 1
        while (base if count == 1 else f"{base} {count}").lower() in (each.lower() for each in found):
            count += 1
        found.append(base if count == 1 else f"{base} {count}")
    return found
