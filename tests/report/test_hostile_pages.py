"""Every page in a real browser, each of its texts hostile: nothing runs, is fetched, or overflows."""

from __future__ import annotations

import importlib
import typing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hostile import filled
from test_browser import Heard, overflow
from test_page import HOSTILE

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser
FOLDER = Path(importlib.import_module("tersa.report").__path__[0])
PAGES = sorted(path.stem for path in FOLDER.glob("*_page.py"))


def test_every_page_is_opened() -> None:
    assert len(PAGES) >= 10


@pytest.mark.parametrize("bad", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("page_of", PAGES)
def test_hostile_texts_are_inert_on_every_page(
    browser: Browser, page_of: str, bad: str, tmp_path: Path
) -> None:
    module = importlib.import_module(f"tersa.report.{page_of}")
    kind, path = typing.get_type_hints(module.render)["view"], tmp_path / "report.html"
    path.write_text(module.render(filled(kind, bad)), encoding="utf-8")
    scripts = module.render(filled(kind, "x")).count("<script")
    page, heard = browser.new_page(viewport={"width": 360, "height": 800}), Heard()
    page.on("console", lambda message: heard.console.append(message.text))
    page.on("pageerror", lambda error: heard.console.append(str(error)))
    page.on("dialog", lambda dialog: (heard.dialogs.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: heard.requests.append(request.url))
    page.goto(path.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert heard.dialogs == []
    assert [line for line in heard.console if "Content Security Policy" in line or "Error" in line] == []
    assert [url for url in heard.requests if not url.startswith(("file:", "data:"))] == []
    assert page.evaluate("document.scripts.length") == scripts
    assert page.locator("img[onerror], svg[onload]").count() == 0
    assert overflow(page) == 0
    page.close()
