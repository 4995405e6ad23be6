"""Every page in a real browser, each of its texts hostile: nothing runs, is fetched, or overflows."""

from __future__ import annotations

import importlib
import shutil
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile import filled
from test_browser import Heard, overflow
from test_page import HOSTILE

CHROMIUM = shutil.which("chromium")
try:
    from playwright.sync_api import Browser, sync_playwright
except ImportError:  # the dev extra brings it; without it these tests cannot run
    sync_playwright = None

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None or sync_playwright is None, reason="needs chromium and playwright"),
]
FOLDER = Path(importlib.import_module("tersa.report").__path__[0])
PAGES = sorted(path.stem for path in FOLDER.glob("*_page.py"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert sync_playwright is not None
    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


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
