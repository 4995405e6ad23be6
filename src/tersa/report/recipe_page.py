"""The report of `tersa run`: one HTML file that opens anywhere and fetches nothing, the answer first.

recipe.html with style.css and study.css set into it; the shell, its escaping and its content security policy
are those of `tersa.report.page`. Each step links to its own page, which lies in the same folder.

Example:
    >>> "<h1" in render(RecipeView("small", "5 times smaller", ""))
    True
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tersa.files import write_atomic
from tersa.report import page
from tersa.report.plain import cleaned_view
from tersa.report.recipe_view import RecipeView

REPORT = "report.html"
"""Name of the page in a run's folder."""


def render(view: RecipeView) -> str:
    """The whole page as text."""
    lines = tuple(view.recipe.splitlines())
    shown = cleaned_view(replace(view, recipe=""))
    values = {"view": shown, "recipe": "\n".join(cleaned_view(lines))}
    return page.page("recipe.html", ("style.css", "study.css"), values)


def write(view: RecipeView, path: Path) -> None:
    """Render and write the page, whole or not at all."""
    write_atomic(path, render(view))
