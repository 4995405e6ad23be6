"""The site builds without a warning, has every page, and fetches nothing when it opens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytest.importorskip("mkdocs")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_in_the_navigation(site: Path) -> None:
    start = (site / "index.html").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        stem = page.with_stem("index") if page.stem == "README" else page
        target = stem.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        assert (site / target).is_file()
        assert f'href="{target}"' in start or target == "index.html", target


def test_every_package_has_a_reference_page(site: Path) -> None:
    packages = {path.parent.name for path in (ROOT / "src" / "tersa").glob("*/__init__.py")} - {"cli"}
    assert packages == {path.stem for path in (site / "api").glob("*.html")} - {"index", "ground"}
    rules = (site / "api" / "rules.html").read_text(encoding="utf-8")
    assert "tersa.rules.direct.DirectFeedbackAlignment" in rules
    assert "The output error, through one random matrix, to each hidden layer." in rules


def test_nothing_is_left_of_the_macros(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "{{ " not in text, page
        assert "<!-- snippet" not in text, page


def test_pages_fetch_nothing_from_the_network(site: Path) -> None:
    page = (site / "tutorials" / "shrink.html").read_text(encoding="utf-8")
    loaded = re.findall(r'<(?:script|img|link|iframe)[^>]+(?:src|href)="(https?:[^"]+)"', page)
    assert not loaded
