"""Which settings of a cell have a meaning together, and what is wrong with those that have none.

The quantiser's settings are judged by `tersa.quant.spec.QuantSpec`; here is what concerns the rest of a cell.
Only what a cell says by itself is looked at: whether its rule can train its network on its data is asked of
the engine, before any work (`tersa.recipes.study`).

Example:
    >>> meaningless(Cell(quant="symmetric", bits=1))
    ['bits is 1; symmetric needs at least 2, one of them for the sign; choose binary for 1 bit']
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args, get_origin

from pydantic_core import ErrorDetails

from tersa.errors import UsageError, unknown
from tersa.quant.spec import OWN_BITS, known_kinds
from tersa.rules.second_order import KINDS as SEARCHES
from tersa.study.cell import Cell

SHARED_SEED = Cell().shuffle_seed
RATES = ("learning_rate", "decay", "weight_decay")
"""Settings of first-order optimisers; a second-order one finds its own steps."""


@dataclass(frozen=True)
class Senseless:
    """A combination of settings without meaning.

    Attributes:
        broken: whether a cell has it.
        text: what is wrong and what to do; `cell` is filled in.
    """

    broken: Callable[[Cell], bool]
    text: str


SENSELESS: tuple[Senseless, ...] = (
    Senseless(
        lambda c: c.bits != OWN_BITS.get(c.quant, c.bits),
        "{cell.quant} with {cell.bits} bits has no meaning: its number of levels is its own; leave bits out",
    ),
    Senseless(
        lambda c: c.shuffle == "per-run" and c.shuffle_seed != SHARED_SEED,
        "shuffle_seed belongs to the shared order; with shuffle per-run the seed decides",
    ),
    Senseless(
        lambda c: c.storage == "accumulate" and not _even(c),
        "storage accumulate needs evenly spaced levels: not {cell.quant} with range {cell.range}; choose "
        "symmetric, asymmetric, binary or ternary with range global, layer, channel or calibrated",
    ),
    Senseless(
        lambda c: c.gradient_bits == 1,
        "gradient_bits is 1; gradients need at least 2, one of them for the sign, or 0 to stay real",
    ),
    Senseless(
        lambda c: c.optimizer in SEARCHES and c.rule != "bp",
        "optimizer {cell.optimizer} needs the exact gradient of one loss, rule '{cell.rule}' has none; "
        "choose rule bp, or an optimizer such as adadelta",
    ),
    Senseless(
        lambda c: c.optimizer in SEARCHES and bool(c.activation_bits or c.gradient_bits > 1 or c.read_noise),
        "optimizer {cell.optimizer} compares exact losses and gradients; leave activation_bits, "
        "gradient_bits and read_noise out, or choose an optimizer such as adadelta",
    ),
    Senseless(
        lambda c: (
            c.optimizer in SEARCHES and any(getattr(c, name) != getattr(Cell(), name) for name in RATES)
        ),
        "optimizer {cell.optimizer} finds its own steps: learning_rate, decay and weight_decay do nothing; "
        "leave them out",
    ),
    Senseless(
        lambda c: c.optimizer in SEARCHES and c.range == "learned",
        "range learned takes the steps of a first-order optimizer, not of {cell.optimizer}; "
        "choose range layer",
    ),
)


def _even(cell: Cell) -> bool:
    """Levels at equal distances, in a range that the update itself takes (`tersa.study.special.check`)."""
    return cell.quant not in ("power-of-two", "clusters") and cell.range != "percentile"


def meaningless(cell: Cell) -> list[str]:
    """Why a cell's settings have no meaning together; empty where they have one.

    >>> meaningless(Cell(quant="binary", bits=4))
    ['binary with 4 bits has no meaning: its number of levels is its own; leave bits out']
    """
    found = [each.text.format(cell=cell) for each in SENSELESS if each.broken(cell)]
    if found:
        return found
    try:
        _ = cell.spec
    except UsageError as error:
        return _each(str(error))
    return []


def say(detail: ErrorDetails) -> str:
    """One fault that pydantic found, in this project's words."""
    where, given = [str(part) for part in detail["loc"]], detail["input"]
    field = Cell.model_fields.get(where[0])
    if detail["type"] == "extra_forbidden":
        return str(unknown("setting", where[-1], Cell.model_fields))
    if detail["type"] == "unknown_kind":
        return str(unknown(where[0], str(given), known_kinds()))
    if detail["type"] == "literal_error" and field is not None and get_origin(field.annotation) is Literal:
        return str(unknown(where[0], str(given), get_args(field.annotation)))
    return f"{'.'.join(where)} is {given}; {detail['msg'].replace('Input should be', 'must be')}"


def _each(message: str) -> list[str]:
    """The faults of an error of `tersa.errors.faults`, one by one."""
    head, *lines = message.split("\n  - ")
    return lines or [head.partition(": ")[2] or head]
