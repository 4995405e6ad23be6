"""The page of a hardware reproduction in a real browser: quiet, within its width, readable in both lights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from test_browser import CONTRASTS, LEAST_CONTRAST, LEAST_CONTRAST_LARGE, overflow
from tests.recipes.hardware_example import result

from tersa.recipes.hardware_report import view_of
from tersa.report.hardware_page import write

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser


def opened(browser: Browser, folder: Path, width: int, scheme: Any) -> tuple[Page, list[str]]:
    write(view_of(result()), folder / "report.html")
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    heard: list[str] = []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: heard.append(request.url) if "http" in request.url[:5] else None)
    page.goto((folder / "report.html").as_uri())
    return page, heard


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1100])
def test_it_fits_is_quiet_and_can_be_read(browser: Browser, tmp_path: Path, width: int, scheme: str) -> None:
    page, heard = opened(browser, tmp_path, width, scheme)
    assert heard == []
    assert overflow(page) <= 0
    for contrast, large, text in page.evaluate(CONTRASTS):
        assert contrast >= (LEAST_CONTRAST_LARGE if large else LEAST_CONTRAST), text
    page.close()


def test_values_are_shown_at_the_keyboard(browser: Browser, tmp_path: Path) -> None:
    page, _ = opened(browser, tmp_path, 1100, "light")
    page.locator("figure.hover svg").first.press("ArrowRight")
    assert "images a second" in page.locator("#tip").inner_text()
    page.close()
