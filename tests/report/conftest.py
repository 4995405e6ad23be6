"""The invented example is a module beside the tests, whatever import mode runs; one browser for all."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; the test is skipped where it or playwright (of the dev extra) is missing."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium")
    play = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with play.sync_playwright() as started:
        found = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()
