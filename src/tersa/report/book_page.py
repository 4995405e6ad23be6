"""The book of all reproductions: one HTML file that fetches nothing, the answer first.

book.html with the styles of the reproductions' own pages; the drawing is the scatter of `adapt_charts`, with
the diagonal on which ours equals the published. The shell, its escaping and its content security policy are
`tersa.report.page`'s.

Example:
    >>> "<h1" in render(BookView("five documents", "Nothing was run", ""))
    True
"""

from __future__ import annotations

from pathlib import Path

from tersa.files import write_atomic
from tersa.report import page
from tersa.report.adapt_charts import Drawing, scatter
from tersa.report.book_view import BookView, ChapterView
from tersa.report.plain import cleaned_view

AXES = ("published, %", "ours, %")


def render(view: BookView) -> str:
    """The whole page as text."""
    shown = cleaned_view(view)
    drawn = {chapter.number: _drawn(chapter) for chapter in shown.chapters if chapter.spots}
    styles = ("style.css", "study.css", "pruning.css", "hardware.css", "adapt.css")
    return page.page("book.html", styles, {"view": shown, "drawn": drawn})


def write(view: BookView, path: Path) -> None:
    """Render and write the page, whole or not at all."""
    write_atomic(path, render(view))


def _drawn(chapter: ChapterView) -> Drawing:
    title = f"Document {chapter.number}: do ours agree with its percentages?"
    drawing = scatter(f"document-{chapter.number}", title, chapter.spots, AXES, diagonal=True)
    return Drawing(drawing, [spot.text for spot in chapter.spots])
