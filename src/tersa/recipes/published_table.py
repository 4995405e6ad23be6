"""How a file of published values is read: one comment line with its source, a header, rows.

Decimal points, units in the headers, an empty cell where the document has none. What the values mean is said
by `published` (document 000), `published_hardware`, `published_adaptation` (document 003) and
`published_binary` (document 004), which give them types.

Example:
    >>> source("hardware_sizes.csv")[:45]
    'Document 003, section 4.3.4, table 4.5: how m'
    >>> rows("hardware_sizes.csv")[0]["adapted_for"]
    'NCS2'
"""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files


def rows(name: str) -> list[dict[str, str]]:
    """Every row of a file, cells as text."""
    return list(csv.DictReader(_text(name).splitlines()[1:], strict=True))


def source(name: str) -> str:
    """The line that says where a file's values come from."""
    return _text(name).splitlines()[0].removeprefix("# ")


def number(cell: str) -> float | None:
    """A cell's value, None where the document has none.

    >>> number("19.3"), number("")
    (19.3, None)
    """
    return float(cell) if cell else None


@cache
def _text(name: str) -> str:
    return files("tersa.recipes").joinpath("published").joinpath(name).read_text(encoding="utf-8")
