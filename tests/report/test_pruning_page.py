"""The page of a pruning reproduction: answer first, every figure drawn, nothing from outside let through."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from test_page import HOSTILE

from tersa.report import pruning_charts
from tersa.report.pruning_charts import MARKS, MOST_SPOTS, NEAR, bunched, chart, marked, texts
from tersa.report.pruning_page import render, write
from tersa.report.pruning_view import (
    CurveRow,
    FigureView,
    Line,
    Panel,
    PruningView,
    Row,
    Run,
    Spot,
    Tile,
)


def run(*levels: float, seed: int = 0, every: int = 2) -> Run:
    return Run(
        seed,
        tuple(Spot(10 * n, level, level - 0.2 if n % every == 0 else None) for n, level in enumerate(levels)),
    )


def panel(title: str = "conv1", *levels: float) -> Panel:
    levels = levels or (99.0, 98.5, 97.0, 12.0)
    lines = tuple(Line(label, style, (run(*levels),)) for style, label in enumerate(("Taylor", "weights")))
    return Panel(title, lines, ("random",))


def view(**more: Any) -> PruningView:
    shown = FigureView(
        "4.1", "Which criterion?", (panel(), panel("conv2")), "Taylor is best.", "Taylor 91.0", "in part",
        "2 % of the channels a step, seed 0, bf16 while training",
    )  # fmt: skip
    values: dict[str, Any] = {
        "subject": "lenet on mnist",
        "verdict": "Taylor is best",
        "detail": "By 3 points.",
        "tiles": (Tile("Baseline", "99.20 %", "document 99.24 %"),),
        "figures": (shown,),
        "absent": "Not pruned so far: the curves of 4.2.",
        "rows": (Row("Pruned", "document", "0.24", "–", "80×", "7×", "not printed", published=True),),
        "bounds": (99.0,),
        "curves": (CurveRow("conv1-l1", "0", "91.00", ("20 of 31",), "3 s"),),
        "troubles": (("fc1-l1", "MemoryError: none left"),),
        "command": "tersa reproduce pruning",
        "facts": (("processor", "one"),),
    }
    return PruningView(**(values | more))


def test_the_answer_is_the_headline_and_all_parts_follow_in_order() -> None:
    page = render(view())
    places = [
        page.index(words)
        for words in (
            'class="brief">Taylor is best',
            "99.20",
            "How small does the network become?",
            "What holds of the document",
            "How does accuracy fall while channels go?",
            "Which criterion?",
            "2\u202f% of the channels a step, seed 0, bf16 while training",
            "Not pruned in conv1: random.",
            "Not pruned so far: the curves of 4.2.",
            "20 of 31",
            "MemoryError: none left",
            "How to do it again",
        )
    ]
    assert places == sorted(places)


def test_a_page_without_anything_says_only_its_verdict() -> None:
    page = render(PruningView("lenet on mnist", "Nothing was pruned", ""))
    assert "Nothing was pruned" in page
    assert "How does accuracy fall" not in page
    assert "What went wrong" not in page


def test_every_identity_is_there_once_and_every_chart_has_its_texts() -> None:
    page = render(view())
    identities = re.findall(r' id="([^"]+)"', page)
    assert len(identities) == len(set(identities))
    assert page.count('class="chart small"') == 4
    assert page.count('class="texts"') == 2


def test_a_second_chart_is_drawn_where_curves_bunch() -> None:
    low = panel("conv1", 99.0, 40.0, 20.0, 12.0)
    assert bunched([panel()])
    assert not bunched([low])
    assert not bunched([])
    shown = view().figures[0]
    page = render(view(figures=(FigureView(**(vars(shown) | {"panels": (low,)})),)))
    assert page.count('class="chart small"') == 1


def test_texts_and_marks_come_in_pairs() -> None:
    several = Panel("p", (Line("Taylor", 0, (run(99.0, 95.0, 90.0), run(99.1, 94.0, 91.0, seed=1))),))
    spots = re.findall(r'data-marks="([^"]*)"', chart(several, "c"))[0].split(" ")
    assert len(spots) == len(texts(several)) == 4
    assert texts(several)[2] == "Taylor, seed 1, 0 of 20 channels gone\nvalidation 99.10 %\ntest 98.90 %"


def test_below_the_axis_nothing_is_drawn_or_pointed_at() -> None:
    fallen = Panel("p", (Line("Taylor", 0, (run(99.0, 98.5, 97.0, 12.0, every=1),)),))
    drawn = chart(fallen, "c", NEAR)
    marks = re.findall(r'data-marks="([^"]*)"', drawn)[0].split(" ")
    assert [mark == "-" for mark in marks] == [False, False, False, True]
    heights = [float(y) for y in re.findall(r'cy="([0-9.]+)"', drawn)]
    lines = re.findall(r'd="(M[^"]+)" class="curve', drawn)
    ys = [float(y) for d in lines for y in re.findall(r"[ML][0-9.]+ ([0-9.]+)", d)]
    bottom = pruning_charts.HEIGHT - pruning_charts.BOTTOM
    assert max(ys) == pytest.approx(bottom)
    assert max(heights) <= bottom


def test_a_line_that_comes_back_is_drawn_in_pieces() -> None:
    back = Panel("p", (Line("Taylor", 0, (run(95.0, 80.0, 80.0, 95.0),)),))
    (line,) = re.findall(r'd="(M[^"]+)" class="curve', chart(back, "c", NEAR))
    assert line.count("M") == 2
    under = Panel("p", (Line("Taylor", 0, (run(20.0, 10.0, 10.0),)),))
    assert 'class="curve' not in chart(under, "c", NEAR)


def test_long_walks_are_thinned_and_keep_their_ends() -> None:
    long = Panel("p", (Line("Taylor", 0, (run(*(99.0 - n / 20 for n in range(1119)), every=1),)),))
    (line,) = re.findall(r'd="(M[^"]+)" class="curve', chart(long, "c"))
    assert line.count("L") + 1 <= MOST_SPOTS
    found = [spot for _, _, spot in marked(long)]
    assert len(found) == MARKS
    assert (found[0].removed, found[-1].removed) == (0, 11180)


def test_walks_without_a_test_accuracy_have_values_too() -> None:
    bare = Panel("p", (Line("Taylor", 0, (Run(0, (Spot(0, 99.0, None), Spot(9, 50.0, None))),)),))
    assert texts(bare) == [
        "Taylor, 0 of 9 channels gone\nvalidation 99.00 %",
        "Taylor, 9 of 9 channels gone\nvalidation 50.00 %",
    ]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_nothing_from_outside_becomes_markup(hostile: str) -> None:
    page = render(
        view(
            subject=hostile,
            verdict=hostile,
            command=hostile,
            troubles=((hostile, hostile),),
            facts=((hostile, hostile),),
            figures=(FigureView("4.1", hostile, (panel(hostile),), hostile, hostile, "open", hostile),),
        )
    )
    assert "<img" not in page
    assert page.count("<script") == 2
    assert "\u202e" not in page


def test_the_page_is_written_whole(tmp_path: Path) -> None:
    write(view(), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render(view())
