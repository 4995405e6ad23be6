"""Goals: what is asked is parsed whole, held with a margin, and judged without one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tersa.errors import UsageError
from tersa.numerics import PairedLoss
from tersa.recipes.goals import (
    Bound,
    Goals,
    Standing,
    Start,
    judged,
    keeps_accuracy,
    parse_bound,
    within_bounds,
)
from tersa.records.results import Figures, Quantiles

START = Start(accuracy=99.0, macs=1000, size_bytes=10_000, latency_ms=2.0)


def standing(points: float = 0.0, error: float = 0.0, **costs: float) -> Standing:
    given_costs = {"macs": 100, "size_bytes": 1000, "latency_ms": 0.5} | costs
    return Standing(accuracy=99.0 - points, loss=PairedLoss(points, error, 5000), **given_costs)


def figures(accuracy: float, macs: int, size: int, latency: float) -> Figures:
    quantiles = Quantiles(median=latency, p10=latency, p90=latency)
    return Figures(
        test_accuracy=accuracy,
        validation_accuracy=accuracy,
        parameters=10,
        macs=macs,
        size_bytes=size,
        latency_ms=quantiles,
        precision="fp32",
    )


@pytest.mark.parametrize(
    ("text", "kind", "value", "relative"),
    [
        ("64kB", "size", 64e3, False),
        ("64KiB", "size", 65536, False),
        ("1.5 MB", "size", 1.5e6, False),
        ("900", "size", 900, False),
        ("0.5x", "latency", 0.5, True),
        ("2ms", "latency", 2.0, False),
        ("300us", "latency", 0.3, False),
        (".2X", "macs", 0.2, True),
        ("2M", "macs", 2e6, False),
        ("2mJ", "energy", 2.0, False),
        ("500uJ", "energy", 0.5, False),
        ("0.1J", "energy", 100.0, False),
        ("0.5x", "energy", 0.5, True),
    ],
)
def test_bounds_are_read(text: str, kind: str, value: float, relative: bool) -> None:
    bound = parse_bound(text, kind)
    assert bound.value == pytest.approx(value)
    assert bound.relative is relative


@pytest.mark.parametrize(
    ("text", "kind"),
    [("", "size"), ("5", "latency"), ("-1ms", "latency"), ("0x", "macs"), ("1ms", "size"), ("x", "macs")],
)
def test_what_is_no_bound_is_one_line(text: str, kind: str) -> None:
    with pytest.raises(UsageError, match=rf"^--{kind} '.*' is not understood; write [^\n]+$"):
        parse_bound(text, kind)


@given(st.text(max_size=12), st.sampled_from(["size", "latency", "macs"]))
def test_any_text_is_a_bound_or_a_usage_error(text: str, kind: str) -> None:
    try:
        bound = parse_bound(text, kind)
    except UsageError:
        return
    assert parse_bound(bound.text(kind), kind) == bound


def test_all_faults_at_once() -> None:
    with pytest.raises(UsageError, match="3 faults"):
        Goals(max_loss=-1, min_accuracy=101, macs=Bound(value=2, relative=True)).check()


def test_margin_is_one_standard_error() -> None:
    goals = Goals(max_loss=0.5)
    assert keeps_accuracy(goals, START, standing(0.3, 0.2))
    assert not keeps_accuracy(goals, START, standing(0.3, 0.21))
    assert keeps_accuracy(Goals(), START, standing(50, 1))


def test_the_stricter_floor_holds() -> None:
    assert Goals(max_loss=1.0, min_accuracy=98.5).allowed_loss(99.0) == 0.5
    assert Goals(max_loss=0.2, min_accuracy=98.5).allowed_loss(99.0) == 0.2


@pytest.mark.parametrize(
    ("goals", "fits"),
    [
        (Goals(), True),
        (Goals(macs=Bound(value=0.1, relative=True)), True),
        (Goals(macs=Bound(value=99, relative=False)), False),
        (Goals(size=Bound(value=0.1, relative=True), latency=Bound(value=0.25, relative=True)), True),
        (Goals(latency=Bound(value=0.4, relative=False)), False),
    ],
)
def test_bounds(goals: Goals, fits: bool) -> None:
    assert within_bounds(goals, START, standing()) is fits


def test_what_was_not_measured_is_not_within() -> None:
    unmeasured = standing(latency_ms=None)
    assert not within_bounds(Goals(latency=Bound(value=1, relative=False)), START, unmeasured)


def test_final_word_has_no_margin_and_gives_the_reason() -> None:
    goals = Goals(max_loss=0.24, min_accuracy=98.8, size=Bound(value=900, relative=False))
    before, after = figures(99.0, 1000, 10_000, 2.0), figures(98.76, 100, 1000, 0.5)
    rows = {row.name: row for row in judged(goals, before, after, 99.0 - 98.76, {"size": "because"})}
    assert rows["max-loss"].met
    assert not rows["min-accuracy"].met
    assert (rows["size"].met, rows["size"].asked, rows["size"].reached) == (False, 900, 1000)
    assert (rows["size"].reason, rows["max-loss"].reason) == ("because", "")
