"""The page of a study in a real browser: quiet, alone, within its width, readable in both lights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from test_browser import CONTRASTS, LEAST_CONTRAST, LEAST_CONTRAST_LARGE, overflow
from test_study_page import panel, spread, view

from tersa.report.study_page import write
from tersa.report.study_view import Compared, Group

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser


def whole() -> Any:
    panels = tuple(panel(f"{n}x100", 4, tuple(range(2, 9))) for n in range(1, 7))
    compared = tuple(Compared(f"cell {n}", n % 98, spread((3 * n) % 98)) for n in range(168))
    return view(groups=(Group("bp", panels), Group("fa", panels)), compared=compared)


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path) -> Iterator[Any]:
    opened: list[Page] = []

    def go(width: int, scheme: Any) -> tuple[Page, list[str]]:
        write(whole(), tmp_path / "report.html")
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


@pytest.mark.parametrize("width", [320, 400, 800, 1200])
def test_within_its_width_and_quiet(open_page: Any, width: int) -> None:
    page, heard = open_page(width, "light")
    assert overflow(page) <= 0
    assert heard == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_read(open_page: Any, scheme: str) -> None:
    page, _ = open_page(1200, scheme)
    found = page.evaluate(CONTRASTS)
    assert len(found) > 100
    faint = [(r, text) for r, large, text in found if r < (LEAST_CONTRAST_LARGE if large else LEAST_CONTRAST)]
    assert faint == []


def test_a_point_tells_its_numbers(open_page: Any) -> None:
    page, _ = open_page(1200, "light")
    page.locator('svg[aria-labelledby^="bits-0-0-title"]').focus()
    page.keyboard.press("End")
    assert page.locator("#tip").inner_text().startswith("1x100, line 3, 8 bits")
