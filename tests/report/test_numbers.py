"""Numbers keep three digits and their unit, and what is rounded never lies about its size."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersa.report.numbers import (
    NOT_KNOWN,
    change,
    duration,
    factor,
    latency,
    milliseconds,
    percent,
    plus_minus,
    points,
    ratio,
    share,
    si,
    size,
    thin,
    times,
)

SCALES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
HALF_A_UNIT = 0.0051
"""Three significant digits differ from the value by at most half a unit in the third, 0.5 % of 1.00."""


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (7, "7"), (999, "999"), (1000, "1.00 k"), (10_512, "10.5 k"), (999_499, "999 k"),
     (999_500, "1.00 M"), (3_274_634, "3.27 M"), (13_900_000, "13.9 M"), (5_000_000_000, "5.00 G")],
)  # fmt: skip
def test_si(value: int, text: str) -> None:
    assert si(value) == text


def test_si_beside_a_larger_count_takes_its_prefix() -> None:
    assert si(403_000, like=13_900_000) == "0.40 M"
    assert si(10_512, like=3_274_634) == "10.5 k"
    assert si(5, like=32) == "5"


@given(st.integers(min_value=1, max_value=10**14))
@settings(max_examples=200, derandomize=True, deadline=None)
def test_si_reads_back(value: int) -> None:
    number, _, prefix = si(value).partition(" ")
    assert float(number.replace(",", "")) * SCALES[prefix] == pytest.approx(value, rel=HALF_A_UNIT)


@given(st.integers(min_value=0, max_value=10**13))
@settings(max_examples=100, derandomize=True, deadline=None)
def test_si_has_at_most_three_digits(value: int) -> None:
    assert sum(character.isdigit() for character in si(value)) <= (4 if value >= 9.995e14 else 3)


def test_size() -> None:
    assert [size(v) for v in (0, 512, 13_800, 13_100_000)] == ["0 B", "512 B", "13.8 kB", "13.1 MB"]


def test_milliseconds() -> None:
    values = (0.068, 0.412, 0.0068, 1.0, 12.34, 999.4, 1234.0, 0.0)
    texts = ("0.068 ms", "0.412 ms", "0.0068 ms", "1.00 ms", "12.3 ms", "999 ms", "1,234 ms", "0.000 ms")
    assert tuple(map(milliseconds, values)) == texts


@given(st.floats(min_value=1e-6, max_value=1e5))
@settings(max_examples=200, derandomize=True, deadline=None)
def test_latency_is_never_rounded_to_nothing(value: float) -> None:
    assert float(latency(value).replace(",", "")) == pytest.approx(value, rel=0.055)


def test_points_and_changes() -> None:
    assert (points(0.214), points(0.0)) == ("0.21 points", "0.00 points")
    assert (change(-0.21), change(0.21), change(0.0049)) == ("−0.21 points", "+0.21 points", "no change")
    assert (plus_minus(-0.004), plus_minus(0.0), plus_minus(1.0)) == ("0.00", "0.00", "+1.00")


def test_factor_keeps_the_digits_that_matter() -> None:
    values = (0.05, 0.71, 1.0, 1.994, 1.999, 6.13, 9.96, 312.4, 1949.0)
    assert tuple(map(factor, values)) == (
        "0.05×", "0.71×", "1.00×", "1.99×", "2.0×", "6.1×", "10×", "312×", "1,949×",
    )  # fmt: skip
    assert ratio(6.13) + "×" == factor(6.13)


def test_times_inside_a_sentence() -> None:
    assert tuple(map(times, (1.05, 1.1, 1.3, 2.0, 2.5, 4.94, 4.96, 312.4))) == (
        "1.05", "1.1", "1.3", "2", "2.5", "4.9", "5", "312",
    )  # fmt: skip


def test_shares_never_claim_all_or_nothing() -> None:
    assert share(0, 5) == "0 %"
    assert share(5, 5) == "100 %"
    assert share(1, 1_000_000) == "under 0.1 %"
    assert share(999_999, 1_000_000) == "over 99.9 %"
    assert share(1, 0) == NOT_KNOWN


def test_durations() -> None:
    values = (0.42, 9.94, 9.96, 59.94, 59.96, 75, 3599.7, 7380)
    texts = ("0.42 s", "9.9 s", "10 s", "60 s", "1 min 0 s", "1 min 15 s", "1 h 0 min", "2 h 3 min")
    assert tuple(map(duration, values)) == texts


@pytest.mark.parametrize(
    "show", [si, size, milliseconds, percent, points, change, factor, times, duration, latency]
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_said(show, value: float) -> None:
    assert show(value) == NOT_KNOWN


def test_thin_spaces_stand_before_units_only() -> None:
    assert (
        thin("10.5 k of 3 models, 13.8 kB, 99.06 %") == "10.5\u202fk of 3 models, 13.8\u202fkB, 99.06\u202f%"
    )
    assert thin("6 times, 0.21 points") == "6\u00a0times, 0.21\u00a0points"
    assert thin("0.068 ms") == "0.068\u202fms"
