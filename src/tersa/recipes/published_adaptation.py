"""What document 003 published of a faster NetAdapt: its chapter 5, as files of the package.

    adaptation_original.csv  table 5.1: time and steps of the original
    adaptation_totals.csv    tables 5.2 to 5.5: the whole adaptation with one remedy
    adaptation_blocks.csv    tables 5.6 to 5.8: seconds to simplify one block, by strategy
    adaptation_claims.csv    settings and results that the text states
    bisection_example.csv    figure 5.6: its worked example

Figures 5.1 to 5.15 are pictures: the values behind them are not printed, only what the text says of them.

References:
    Document 003 (master thesis, UdelaR 2024), chapter 5.

Example:
    >>> [row.minutes for row in totals() if row.network == "alexnet" and row.remedy == "interpolation"]
    [468.0, 137.0, 82.0]
    >>> claim("h30_naswot_speedup")
    37.0
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from tersa.errors import unknown
from tersa.recipes.published_table import rows

DELTAS = (0.01, 0.025, 0.05)
"""Share of the latency that each step takes off."""
NETWORKS = ("alexnet", "mobilenet", "vgg19")


@dataclass(frozen=True)
class PublishedOriginal:
    """One row of table 5.1.

    Attributes:
        network: `alexnet` or `mobilenet`.
        delta: share of the latency that each step takes off.
        seconds: of the whole adaptation.
        steps: it took.
    """

    network: str
    delta: float
    seconds: float
    steps: int


@dataclass(frozen=True)
class PublishedTotal:
    """One row of tables 5.2 to 5.5.

    Attributes:
        table: its number.
        network: `alexnet` or `mobilenet`.
        delta: share of the latency that each step takes off.
        remedy: `bisection` or `interpolation`.
        original_minutes: without it.
        minutes: with it.
        speedup: as printed.
    """

    table: str
    network: str
    delta: float
    remedy: str
    original_minutes: float
    minutes: float
    speedup: float


@dataclass(frozen=True)
class PublishedBlock:
    """One row of tables 5.6 to 5.8: seconds to simplify one block.

    Attributes:
        table: its number.
        network: `alexnet`, `mobilenet` or `vgg19`.
        block: its place.
        original_s: linear search, an interpolator for every estimate.
        interpolation_s: with interpolators built once.
        bisection_interpolation_s: and bisection.
        file_interpolation_s: with interpolators built once and the table kept in memory.
    """

    table: str
    network: str
    block: int
    original_s: float
    interpolation_s: float
    bisection_interpolation_s: float
    file_interpolation_s: float


@cache
def originals() -> tuple[PublishedOriginal, ...]:
    """Table 5.1."""
    return tuple(
        PublishedOriginal(row["network"], float(row["delta"]), float(row["seconds"]), int(row["steps"]))
        for row in rows("adaptation_original.csv")
    )


@cache
def totals() -> tuple[PublishedTotal, ...]:
    """Tables 5.2 to 5.5."""
    return tuple(
        PublishedTotal(
            row["table"],
            row["network"],
            float(row["delta"]),
            row["remedy"],
            float(row["original_minutes"]),
            float(row["minutes"]),
            float(row["speedup"]),
        )
        for row in rows("adaptation_totals.csv")
    )


@cache
def blocks() -> tuple[PublishedBlock, ...]:
    """Tables 5.6 to 5.8."""
    names = ("original_s", "interpolation_s", "bisection_interpolation_s", "file_interpolation_s")
    return tuple(
        PublishedBlock(row["table"], row["network"], int(row["block"]), *(float(row[name]) for name in names))
        for row in rows("adaptation_blocks.csv")
    )


@cache
def bisection_example() -> tuple[tuple[int, float], ...]:
    """Figure 5.6: (channels, latency)."""
    return tuple((int(row["channels"]), float(row["latency"])) for row in rows("bisection_example.csv"))


def claim(name: str) -> float:
    """A value that the text states, by its name in `adaptation_claims.csv`.

    Raises:
        UsageError: no such name.
    """
    found = {row["name"]: float(row["value"]) for row in rows("adaptation_claims.csv")}
    if name not in found:
        raise unknown("published value", name, tuple(found))
    return found[name]
