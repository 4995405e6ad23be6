"""How often a fault is injected, said where it is injected, so that `docs/reliability.md` can be held to it.

    @fuzz(80)        80 examples drawn by hypothesis, the same ones each time
    @trials(4)       a loop of four inside the test

`count` is what the fault table's column "runs" adds up. `TERSA_FUZZ=20` draws twenty times as many examples,
and other ones each time: the search for new defects, where the tests themselves only hold the ground.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

F = TypeVar("F", bound=Callable[..., Any])

FACTOR = int(os.environ.get("TERSA_FUZZ", "1"))
SLOW_INPUTS = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture)


def trials(number: int) -> Callable[[F], F]:
    """Mark a test that injects its fault `number` times in one call."""

    def mark(test: F) -> F:
        test.trials = number  # pyright: ignore[reportFunctionMemberAccess]
        return test

    return mark


def fuzz(number: int) -> Callable[[F], F]:
    """A fixed number of examples, the same on every machine, without a time limit for each."""
    fixed = settings(
        max_examples=FACTOR * number,
        derandomize=FACTOR == 1,
        deadline=None,
        database=None,
        suppress_health_check=SLOW_INPUTS,
    )

    def mark(test: F) -> F:
        return trials(number)(fixed(test))

    return mark


def count(test: Callable[..., Any]) -> int:
    """How often one call of a test injects its fault."""
    own = getattr(test, "trials", None)
    if own is not None:
        return int(own)
    drawn = getattr(test, "_hypothesis_internal_use_settings", None)
    return drawn.max_examples if drawn is not None else 1


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A valid file after an accident: cut, overwritten, lengthened, a piece lost, doubled or zeroed."""
    data = bytearray(whole)
    places = st.integers(0, max(len(whole) - 1, 0))
    for _ in range(draw(st.integers(1, 3))):
        at = min(draw(places), max(len(data) - 1, 0))
        length = draw(st.integers(1, 16))
        match draw(st.sampled_from(["cut", "bits", "bytes", "lose", "double", "zero", "ones", "tail"])):
            case "cut":
                del data[at:]
            case "bits" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "bytes":
                data[at : at + length] = draw(st.binary(min_size=length, max_size=length))
            case "lose":
                del data[at : at + length]
            case "double":
                data[at:at] = data[at : at + length]
            case "zero":
                data[at : at + length] = bytes(len(data[at : at + length]))
            case "ones":
                data[at : at + length] = b"\xff" * len(data[at : at + length])
            case _:
                data += draw(st.binary(max_size=24))
    return bytes(data)


def one_line(error: BaseException) -> None:
    """An error that a user can read: one line of printable length."""
    text = str(error)
    assert text
    assert "\n" not in text, text
    assert len(text) < 1000, f"{len(text)} characters"
