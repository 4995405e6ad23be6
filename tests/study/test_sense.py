"""Settings without meaning together are refused, and only those."""

from itertools import product
from typing import Any, get_args

import pytest

from tersa.errors import UsageError
from tersa.quant.spec import KINDS, Range
from tersa.study.cell import Cell
from tersa.study.sense import meaningless
from tersa.study.special import check


def refusal(cell: Cell) -> str:
    try:
        check(cell.spec)
    except UsageError as error:
        return str(error).removeprefix("quantiser settings: ")
    return ""


def test_extra_bits_are_refused_where_the_engine_refuses_them() -> None:
    """`sense` says it without the engine's modules; both must say the same."""
    seen = 0
    for kind, where in product(KINDS[1:], get_args(Range)):
        cell = Cell.model_validate(
            {"quant": kind, "range": where, "storage": "accumulate", "extra_bits": 3}
            | ({} if kind in ("binary", "ternary") else {"bits": 3})
        )
        found, ours = refusal(cell), meaningless(cell)
        assert bool(found) == bool(ours)
        if "evenly spaced" in found:
            assert ours == [found]
            seen += 1
    assert seen > 5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer": "lbfgs", "learning_rate": 0.1}, "finds its own steps"),
        ({"optimizer": "newton", "weight_decay": 0.1}, "finds its own steps"),
        ({"optimizer": "cg", "rule": "fa"}, "exact gradient of one loss"),
        ({"optimizer": "levenberg-marquardt", "activation_bits": 4}, "exact losses"),
        ({"optimizer": "lbfgs", "read_noise": 0.1}, "exact losses"),
        ({"gradient_bits": 1}, "at least 2"),
        (
            {"optimizer": "cg", "quant": "symmetric", "range": "learned", "storage": "latent"},
            "first-order optimizer",
        ),
    ],
)
def test_what_would_do_nothing_is_refused(changes: dict[str, Any], said: str) -> None:
    assert any(said in reason for reason in meaningless(Cell.model_validate(changes)))


def test_what_has_a_meaning_is_not() -> None:
    for changes in ({}, {"optimizer": "lbfgs"}, {"gradient_bits": 2, "activation_bits": 1}):
        assert meaningless(Cell.model_validate(changes)) == []
