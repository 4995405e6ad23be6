"""Elements escape what goes into them; scales and ticks are exact at their ends."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from tersa.report.labels import Box, along, place
from tersa.report.svg import Scale, dots, element, figure, log_ticks, path, ticks

PIXEL = 1e-6
"""Scales are two multiplications: their error is far below anything a screen shows."""


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "\"'><img src=x>", "a & b", "]]>"])
def test_element_escapes_text_and_attributes(text: str) -> None:
    written = element("text", text, data_name=text)
    read = ET.fromstring(written)
    assert read.text == text
    assert read.get("data-name") == text
    assert len(read) == 0


def test_element_names_and_numbers() -> None:
    written = element("path", stroke_width=1.0, class_="a", viewBox="0 0 1 1", cx=1 / 3, cy=-0.001, r=None)
    assert written == '<path stroke-width="1" class="a" viewBox="0 0 1 1" cx="0.33" cy="0"/>'


def test_markup_children_are_not_escaped_again() -> None:
    assert element("g", element("b", "<")) == "<g><b>&lt;</b></g>"
    assert isinstance(element("g"), Markup)


def test_figure_has_a_name_and_marks() -> None:
    svg = ET.fromstring(figure("one", "T <1>", "D", 10, 5, [], marks=[(1.04, 2.0)], natural=2.0))
    assert svg.get("role") == "img"
    assert svg.get("aria-labelledby") == "one-title one-desc"
    assert [child.text for child in svg] == ["T <1>", "D"]
    assert (svg.get("data-marks"), svg.get("tabindex"), svg.get("width")) == ("1,2", "0", "20")
    assert ET.fromstring(figure("two", "T", "D", 10, 5, [])).get("tabindex") is None
    assert ET.fromstring(figure("three", "T", "D", 9, 9, [], grid=(30, 6.2))).get("data-grid") == "30,6.200"


def test_paths() -> None:
    assert path([(0, 1), (2.25, 3)], close=True) == "M0 1L2.2 3Z"
    assert path([]) == ""
    assert dots([(1, 2)]) == "M1 2h0"


@given(st.floats(1e-3, 1e6), st.floats(1.01, 1e4), st.booleans())
@settings(max_examples=100, derandomize=True, deadline=None)
def test_scale_hits_both_ends_and_clamps(low: float, span: float, log: bool) -> None:
    scale = Scale(low, low * span, 200.0, 10.0, log=log)
    assert scale(low) == pytest.approx(200.0, abs=PIXEL)
    assert scale(low * span) == pytest.approx(10.0, abs=PIXEL)
    assert scale(low / 2) == pytest.approx(200.0, abs=PIXEL)
    assert scale.beyond(low / 2) > 200.0


def test_scale_is_logarithmic() -> None:
    assert Scale(1, 100, 0, 2, log=True)(10) == pytest.approx(1.0, abs=PIXEL)
    assert Scale(5, 5, 0, 2)(5) == 1.0


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3), st.integers(2, 9))
@settings(max_examples=200, derandomize=True, deadline=None)
def test_ticks_lie_inside_and_are_even(low: float, span: float, wanted: int) -> None:
    found = ticks(low, low + span, wanted)
    slack = 1e-6 * span
    assert all(low - slack <= tick <= low + span + slack for tick in found)
    assert len(found) <= 2.2 * wanted + 1
    steps = {round(b - a, 6) for a, b in pairwise(found)}
    assert len(steps) <= 1 or max(steps) - min(steps) <= 2e-6 * max(1.0, span)


@given(st.floats(1, 1e7), st.floats(1.05, 1e5), st.integers(3, 8))
@settings(max_examples=200, derandomize=True, deadline=None)
def test_log_ticks_lie_inside_and_are_few(low: float, span: float, wanted: int) -> None:
    found = log_ticks(low, low * span, wanted)
    assert all(low * (1 - 1e-9) <= tick <= low * span * (1 + 1e-9) for tick in found)
    assert len(found) <= wanted + 1
    assert found == sorted(found)


def test_log_ticks_of_latencies() -> None:
    found = log_ticks(0.04, 9.0, 4)
    assert 2 <= len(found) <= 5
    assert all(0.04 <= tick <= 9.0 for tick in found)


def test_labels_keep_off_lines_each_other_and_the_edge() -> None:
    box = Box(0, 0, 300, 200)
    line = along([(0, 100), (150, 100), (300, 100)])
    first = place("kept: 10.5 k", (290, 100), box, line, [])
    second = place("baseline", (290, 100), box, line, [first.box])
    for label in (first, second):
        assert not any(label.box.holds(point) for point in line)
        assert label.box.outside(box) == 0
    assert not first.box.overlaps(second.box)


def test_along_leaves_no_gap() -> None:
    found = along([(0, 0), (30, 40)], spacing=4)
    assert found[0] == (0, 0)
    assert found[-1] == (30, 40)
    assert max(math.dist(a, b) for a, b in pairwise(found)) <= 4 * math.sqrt(2)
    assert along([]) == []
