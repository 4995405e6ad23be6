"""The page of a pruning reproduction in a real browser: quiet, within its width, readable in both lights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from test_browser import CONTRASTS, LEAST_CONTRAST, LEAST_CONTRAST_LARGE, overflow
from test_pruning_page import panel, view

from tersa.report.pruning_page import write
from tersa.report.pruning_view import FigureView

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
VERDICTS = ("holds", "in part", "not seen", "open")


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path) -> Iterator[Any]:
    opened: list[Page] = []

    def go(width: int, scheme: Any) -> tuple[Page, list[str]]:
        figures = tuple(
            FigureView(f"4.{n}", "Which?", (panel("a"),) * n, "It is so.", "Taylor 91.0", verdict, "seed 0")
            for n, verdict in enumerate(VERDICTS, 1)
        )
        write(view(figures=figures), tmp_path / "report.html")
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        heard: list[str] = []
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: heard.append(request.url) if "http" in request.url[:5] else None)
        page.goto((tmp_path / "report.html").as_uri())
        opened.append(page)
        return page, heard

    yield go
    for page in opened:
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1100])
def test_it_fits_is_quiet_and_can_be_read(open_page: Any, width: int, scheme: str) -> None:
    page, heard = open_page(width, scheme)
    assert heard == []
    assert overflow(page) <= 0
    for contrast, large, text in page.evaluate(CONTRASTS):
        assert contrast >= (LEAST_CONTRAST_LARGE if large else LEAST_CONTRAST), text


def test_values_are_shown_at_the_keyboard(open_page: Any) -> None:
    page, _ = open_page(1100, "light")
    page.locator("figure.hover svg").first.press("ArrowRight")
    assert "validation" in page.locator("#tip").inner_text()


def test_a_lone_figure_has_its_charts_side_by_side(open_page: Any) -> None:
    page, _ = open_page(1100, "light")
    first, second = page.locator(".alone figure svg").all()
    assert first.bounding_box()["y"] == second.bounding_box()["y"]
