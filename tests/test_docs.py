"""Every example of the documentation pages runs and gives what it says; `tests/docs/snippets.py` says how.

`TERSA_DOCS_SHELL=1` hands every command to a shell, as a reader would, and takes longer.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from tests.docs.snippets import FENCE, LANGUAGES, Page, difference, snippets

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "results" not in path.relative_to(DOCS).parts)
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))


def name(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


def run(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *, slow: bool, shell: bool) -> int:
    """Run a page in an empty folder with an empty cache; how many snippets did something."""
    monkeypatch.setenv("TERSA_CACHE", str(folder / "cache"))
    monkeypatch.setenv("COLUMNS", "120")
    work = folder / "work"
    work.mkdir()
    running = Page(name(page), work, shell=shell)
    done = 0
    for snippet in snippets(page.read_text(encoding="utf-8")):
        if snippet.title or (snippet.runs and (slow or snippet.kind != "slow")):
            running.run(snippet)
            done += snippet.runs
    return done


@pytest.mark.timeout(1800)  # a busy machine takes ten times as long
@pytest.mark.parametrize("page", [page for page in PAGES if page not in TUTORIALS], ids=name)
def test_examples_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = snippets(page.read_text(encoding="utf-8"))
    if not any(snippet.runs and snippet.kind != "slow" for snippet in found):
        pytest.skip("nothing to run")
    shell = os.environ.get("TERSA_DOCS_SHELL") == "1"
    assert run(page, tmp_path, monkeypatch, slow=False, shell=shell) > 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page in TUTORIALS or "<!-- snippet: slow" in page.read_text(encoding="utf-8")],
    ids=name,
)
def test_page_in_a_shell(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tutorials, and what takes minutes: every command by itself in a shell, as a reader types it."""
    assert run(page, tmp_path, monkeypatch, slow=True, shell=True) > 0


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_fence_of_a_page_is_known(page: Path) -> None:
    """Nothing that looks like code escapes: fences have a known language, commands stand in fences."""
    text = page.read_text(encoding="utf-8")
    for snippet in snippets(text):
        assert snippet.language in LANGUAGES, f"{name(page)}:{snippet.line}: unknown {snippet.language}"
        if snippet.language == "console":
            assert snippet.body.startswith("$ "), f"{name(page)}:{snippet.line}: no command"
        if snippet.kind in ("slow", "not-run"):
            assert snippet.note, f"{name(page)}:{snippet.line}: say why, and what it costs"
    loose = re.findall(r"^ {4,}(?:\$ )?(?:tersa|python|pip) .*$", FENCE.sub("", text), flags=re.M)
    assert not loose, f"{name(page)}: commands outside of a fence are not tested: {loose}"


def test_output_is_compared() -> None:
    """The comparison can fail: by a number, by a word, by an exit code that nobody asked for."""
    assert not difference("tersa 0.1.0", "tersa 0.1.0", 0.0)
    assert difference("tersa 0.1.0", "tersa 0.1.1", 0.0)
    assert not difference("a 10 b ... c", "a  10.4\n b 77 c", 0.05)
    assert difference("a 10", "a 11", 0.05) == "10 is documented, 11 was printed"
    assert difference("a 1,000 b", "a 1,001 b", 0.0)
    assert difference("a 10", "b 10", 0.05)
    assert difference("a ... c", "a b", 0.0)
    assert difference("a", "a b", 0.0)
    assert not difference("... b", "x y b", 0.0)


def test_a_failing_command_fails_its_page(tmp_path: Path) -> None:
    (failing,) = snippets("```console\n$ tersa train --data nothing-here --dry-run\n```\n")
    with pytest.raises(AssertionError, match="nothing-here"):
        Page("page", tmp_path).run(failing)
    (known,) = snippets("```console\n$ tersa train --data nothing-here --dry-run\n$ echo $?\n2\n```\n")
    Page("page", tmp_path).run(known)
