"""The page of a trained network: every part drawn from its view, nothing from outside let through."""

from __future__ import annotations

import re
from typing import Any

import pytest
from test_page import HOSTILE

from tersa.report.network_page import render, values
from tersa.report.network_view import Certainty, Chance, CostRow, NetworkView, Picture, Tile
from tersa.report.study_view import Curve, EpochPanel

PARTS = (
    "How did it learn?",
    "What does it cost to run?",
    "Where does it err?",
    "How sure is it of single images?",
    "What does it look at?",
    "What did it see while it learnt?",
    "How to do it again",
    "JPEG copy",
    "216\u202fB",
)
DOT = "iVBORw0KGgo="


def view(**more: Any) -> NetworkView:
    row = CostRow("features.1", "Conv2d 3x3", "1/8", "1.73 k", "216 B", "–", "1.77 M", "–", 0.25)
    wanted: dict[str, Any] = {
        "subject": "bvgg16 on cifar-10",
        "verdict": "88.00 % of 10,000 test images are named rightly",
        "detail": "1/1 (W/A), input 8",
        "warning": "JPEG copy",
        "tiles": (Tile("Weights", "15.2 M", "1.91 MB packed"),),
        "epochs": EpochPanel(
            "accuracy", (Curve("val", 1.0, (60.0, 70.0)), Curve("train", 0.3, (50.0, 72.0)))
        ),
        "costs": (row,),
        "total": row,
        "cost_words": "Some work.",
        "confusion": ((3, 1), (0, 4)),
        "classes": ("cat", "dog"),
        "certainties": (
            Certainty(DOT, "cat", (Chance("cat", 75.0, right=True), Chance("dog", 25.0))),
            Certainty(DOT, "dog", (Chance("cat", 60.0), Chance("dog", 40.0, right=True))),
        ),
        "looks": (Picture("Integrated gradients", "What spoke.", DOT, 10, 20),),
        "batch": Picture("Batch", "As it was seen.", DOT, 10, 20),
        "command": "tersa train --model bvgg16",
        "facts": (("batch", "100"),),
    }
    return NetworkView(**(wanted | more))


def test_every_part_is_there() -> None:
    text = render(view())
    for words in PARTS:
        assert words in text, words
    assert text.count("data:image/png;base64,") == 4


def test_what_is_not_there_is_left_out() -> None:
    text = render(NetworkView("net on data", "No epoch was finished", ""))
    for words in (
        "How did it learn?",
        "What does it cost",
        "Where does it err?",
        "How sure",
        "look at?",
        "see while",
    ):
        assert words not in text
    assert "<h1" in text


def test_bars_are_in_proportion() -> None:
    shown = values(view())
    [first, second] = [rows for _, rows in shown["certainties"]]
    widths = [
        float(re.search(r'width="([\d.]+)" height="9"', str(bar))[1]) for _, bar, _, _ in [*first, *second]
    ]  # type: ignore[index]
    assert widths == pytest.approx([90 * share for share in (0.75, 0.25, 0.6, 0.4)])
    assert [css for *_, css in second] == ["", "right"]
    [(_, bar)] = shown["costs"]
    assert 'width="22.5"' in str(bar)


def test_a_mistake_is_named() -> None:
    text = render(view())
    assert "taken for <bdi>cat</bdi>" in text
    assert text.count('class="wrong"') == 1


@pytest.mark.parametrize("hostile", HOSTILE)
def test_nothing_from_outside_gets_through(hostile: str) -> None:
    row = CostRow(hostile, hostile, hostile, hostile, hostile, hostile, hostile, hostile, 0.5)
    text = render(
        view(
            subject=hostile,
            verdict=hostile,
            warning=hostile,
            classes=(hostile, hostile),
            costs=(row,),
            command=hostile,
            facts=((hostile, hostile),),
            certainties=(Certainty(DOT, hostile, (Chance(hostile, 100.0),)),),
        )
    )
    assert "<img src=x" not in text
    assert len(re.findall(r"<script(?! type=.application/json)", text)) == 1
    for character in "\u202e\x1b":
        assert character not in text
