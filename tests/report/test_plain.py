"""Nothing from outside reorders a page or commands a terminal."""

from __future__ import annotations

import pytest
from example import example
from hypothesis import given, settings
from hypothesis import strategies as st

from tersa.report.plain import REPLACEMENT, cleaned, plain, short


@pytest.mark.parametrize("text", ["cat", "naïve café", "שלום", "猫", "a\u200fb", "<script>", "{{ 7 }}"])
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert plain(text) == text


def test_control_and_reordering_characters_are_replaced() -> None:
    assert plain("\x1b[31mred") == f"{REPLACEMENT}[31mred"
    assert plain("abc\u202ecba\u2066") == f"abc{REPLACEMENT}cba{REPLACEMENT}"
    assert plain("two\nlines\tand") == "two lines and"
    assert plain("\ud800") == REPLACEMENT


@given(st.text(st.characters(codec=None), max_size=60))
@settings(max_examples=200, derandomize=True, deadline=None)
def test_plain_is_idempotent_and_can_be_written(text: str) -> None:
    once = plain(text)
    assert plain(once) == once
    assert len(once) == len(text)
    once.encode("utf-8")


def test_short() -> None:
    assert short("automobile", 10) == "automobile"
    assert short("automobile", 5) == "auto…"


def test_cleaned_reaches_every_text() -> None:
    dirty = example(
        classes=["a\x07", "b", "c"], model="x\u202ey", notes=["\x1b]0;title"], protocol={"k\x00": "v\x01"}
    )
    shown = cleaned(dirty)
    assert shown.classes[0] == f"a{REPLACEMENT}"
    assert shown.model == f"x{REPLACEMENT}y"
    assert shown.notes == [f"{REPLACEMENT}]0;title"]
    assert shown.protocol == {f"k{REPLACEMENT}": f"v{REPLACEMENT}"}
    assert shown.samples[0].label == f"a{REPLACEMENT}"


def test_cleaned_leaves_a_clean_result_alone() -> None:
    result = example()
    assert cleaned(result) == result
