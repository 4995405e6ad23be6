"""The values that document 000 published, as files of the package, each opening with its source.

Its words are translated to this project's: local is range `layer`, symm and asymm are the `symmetric` and
`asymmetric` quantiser, `bp hsic fa dni` are the rules with the document's settings, a network of 2 layers of
100 is `mlp:100x100`. Every value is one run with one seed.

    quantized_training_mnist.csv   672 cells: 4 rules x 6 networks x 2 quantisers x 7 bit widths x 2 ranges
    full_precision.csv             tables 6.1 and 6.2: 4 rules x 6 networks x 2 data sets, not quantised
    weight_spread.csv              tables 5.1 and 5.2: variance and extremes of HSIC's weights

Of Fashion-MNIST the document prints its quantised results as figures only: there is no value to compare with.

References:
    Document 000 (bachelor thesis, Granada 2022) and the result files of its author.

Example:
    >>> len(quantised()), len(full_precision())
    (672, 48)
    >>> beside(Cell(model="mlp:100x100", quant="symmetric", bits=8, range="layer"))
    97.41
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from tersa.recipes.published_table import rows
from tersa.study.cell import Cell

DOCUMENT = Cell()
"""The document's settings: those that a cell has where nothing else is asked."""
SCALING = {"mnist": "standard", "fashion-mnist": "unit"}
"""How the document scaled its pixels."""
FAMILY = "-document"
"""Ends the names of rules that carry the document's own settings."""
VARIED = frozenset({"data", "model", "rule", "quant", "bits", "range", "scaling", "seed"})
"""Fields of a cell that the document's grid varies; the others have one value in all of it."""


@dataclass(frozen=True)
class PublishedCell:
    """One published accuracy.

    Attributes:
        rule: name in this project's registry.
        data: `mnist` or `fashion-mnist`.
        model: `mlp:WxW`.
        quant: `symmetric`, `asymmetric`, or `none` for full precision.
        bits: of a weight; 8 where nothing is quantised.
        range: `global` or `layer`; `layer` where nothing is quantised.
        accuracy: on the test images after the last epoch, percent.
    """

    rule: str
    data: str
    model: str
    quant: str
    bits: int
    range: str
    accuracy: float


@dataclass(frozen=True)
class PublishedSpread:
    """One row of tables 5.1 and 5.2.

    Attributes:
        table: `5.1` or `5.2`.
        rule: name in this project's registry.
        model: the network.
        range: `global` or `layer`.
        bits: of a weight.
        variance_low: least variance of a tensor of weights.
        variance_high: greatest.
        weight_low: least weight.
        weight_high: greatest.
    """

    table: str
    rule: str
    model: str
    range: str
    bits: int
    variance_low: float
    variance_high: float
    weight_low: float
    weight_high: float


@cache
def quantised() -> tuple[PublishedCell, ...]:
    """The 672 cells on MNIST."""
    return tuple(
        PublishedCell(
            row["rule"],
            row["data"],
            row["model"],
            row["quant"],
            int(row["bits"]),
            row["range"],
            float(row["accuracy"]),
        )
        for row in rows("quantized_training_mnist.csv")
    )


@cache
def full_precision() -> tuple[PublishedCell, ...]:
    """Tables 6.1 and 6.2."""
    return tuple(
        PublishedCell(row["rule"], row["data"], row["model"], "none", 8, "layer", float(row["accuracy"]))
        for row in rows("full_precision.csv")
    )


@cache
def weight_spread() -> tuple[PublishedSpread, ...]:
    """Tables 5.1 and 5.2."""
    return tuple(
        PublishedSpread(
            row["table"],
            row["rule"],
            row["model"],
            row["range"],
            int(row["bits"]),
            *(float(row[name]) for name in ("variance_low", "variance_high", "weight_low", "weight_high")),
        )
        for row in rows("weight_spread.csv")
    )


def beside(cell: Cell) -> float | None:
    """What the document published for a cell's rule, data, network, quantiser, range and bits, in percent.

    The cell's other settings (storage, rounding, epochs, ...) may differ: this is the point to draw beside.
    Rules of the same family share a value (`fa` and `fa-document`).
    """
    return _index().get(_key(cell.model_dump()))


def exact(cell: Cell) -> float | None:
    """The published value of a cell that has every one of the document's settings, else None."""
    same = all(
        getattr(cell, name) == getattr(DOCUMENT, name) for name in Cell.model_fields if name not in VARIED
    )
    faithful = cell.rule in {row.rule for row in full_precision()} and SCALING.get(cell.data) == cell.scaling
    return beside(cell) if same and faithful else None


@cache
def _index() -> dict[tuple[object, ...], float]:
    return {_key(vars(row)): row.accuracy for row in (*quantised(), *full_precision())}


def _key(row: Mapping[str, object]) -> tuple[object, ...]:
    rule = str(row["rule"]).removesuffix(FAMILY)
    key = (rule, row["data"], row["model"], row["quant"])
    return key if row["quant"] == "none" else (*key, row["bits"], row["range"])
