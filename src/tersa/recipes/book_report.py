"""The book of all reproductions in words: as Markdown, and as what its page shows.

Both tell the same in the same order: how much is here and what it says, the documents one by one, findings,
then every table. A grid of hundreds of cells is a count per rule in Markdown; its cells are in the page and
in `cells.csv`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from tersa.recipes.book import Book, BookCell, missing
from tersa.recipes.book_found import Summary
from tersa.recipes.book_published import published
from tersa.recipes.hours import about
from tersa.report.adapt_charts import Spot
from tersa.report.book_view import BookView, ChapterView, PlaceView
from tersa.report.hardware_view import Tile
from tersa.report.numbers import duration, plural

NONE = "–"
DOCUMENTS = {
    "000": "Which learning rule survives few bits?",
    "001": "The diary of document 000: its wishes, without results",
    "002": "Which pruning strategy is best?",
    "003": "How fast do networks run on which device, and how fast can NetAdapt be?",
    "004": "How accurate is a fully binary VGG16?",
}
LONG = 60
"""Rows above which a table is counted in Markdown, not written out."""
WORDS = (
    "holds", "surpassed", "falls short", "differs", "in part", "not seen", "open", "not run",
    "other hardware", "setting",
)  # fmt: skip
COLUMNS = ("what", "published", "ours", "gap", "verdict", "why")


def shown(cell: BookCell) -> tuple[str, ...]:
    """A value's line: what, published, ours with its interval, gap, verdict, reason."""
    return (cell.what, _value(cell.published, cell.unit), _ours(cell), _gap(cell), cell.verdict, cell.reason)


def _value(value: float | None, unit: str) -> str:
    if value is None:
        return NONE
    number = f"{value:,.2f}" if unit in ("%", "points") else f"{value:,.4g}"
    return f"{number} {unit}".strip()


def _ours(cell: BookCell) -> str:
    if cell.ours is None:
        return NONE
    if cell.low is None or cell.high is None:
        return _value(cell.ours, cell.unit)
    ends = " to ".join(_value(end, cell.unit).removesuffix(f" {cell.unit}") for end in (cell.low, cell.high))
    return f"{_value(cell.ours, cell.unit)} ({ends}; {plural(cell.seeds, 'seed')})"


def _gap(cell: BookCell) -> str:
    if cell.gap is None:
        return NONE
    absolute = cell.unit in ("%", "points")
    return f"{cell.gap:+.2f} points" if absolute else f"{cell.gap:+.0f} %"


def counted(cells: Sequence[BookCell]) -> str:
    """`12 holds, 3 surpassed, 80 not run`, in the order of `WORDS`."""
    counts = Counter(cell.verdict for cell in cells)
    return ", ".join(f"{counts[word]:,} {word}" for word in WORDS if counts[word])


def detail(made: Book) -> str:
    """The answer in sentences."""
    return (
        f"{len(made.cells):,} published values and findings: {counted(made.cells)}. Of the "
        f"{made.possible:,} that any machine can have, {made.carried:,} ({made.share:.0f} %) carry something "
        f"of ours."
    )


def chapters(made: Book) -> list[tuple[str, list[tuple[str, list[BookCell]]]]]:
    """Documents with their places, both in order."""
    found: list[tuple[str, list[tuple[str, list[BookCell]]]]] = []
    for document, own in groupby(made.cells, key=lambda cell: cell.document):
        places: dict[str, list[BookCell]] = {}
        for cell in own:
            places.setdefault(cell.place, []).append(cell)
        found.append((document, list(places.items())))
    return found


def markdown(made: Book) -> str:
    """The book as Markdown."""
    parts = [
        "# What the documents published, and what we found",
        f"{made.verdict}. {detail(made)}",
        "Written by `tersa reproduce book`; every value is in `cells.csv`, drawings are in `book.html`, "
        "which is not in the repository: `tersa reproduce book docs/results` writes it to `studies/book`.",
        _table(
            ("run", "made by", "length", "processor", "date", "time"),
            [_run(each) for each in made.summaries],
        ),
    ]
    for document, places in chapters(made):
        cells = [cell for _, own in places for cell in own]
        parts += [f"## Document {document}: {DOCUMENTS[document]}", f"{counted(cells)}."]
        for place, own in places:
            parts.append(f"### {place[:1].upper()}{place[1:]}")
            if len(own) > LONG:
                parts.append(_table(("rule", "values", "verdicts"), _by_rule(own)))
            else:
                parts.append(_table(COLUMNS, [shown(cell) for cell in own]))
    if todo := missing(made):
        parts += ["## Not run yet", "\n".join(f"- `{command}`{_hours(command)}" for command in todo)]
    return "\n\n".join(parts) + "\n"


def _hours(command: str) -> str:
    found = about(command)
    return f", {found}" if found else ""


def _by_rule(cells: Sequence[BookCell]) -> list[tuple[str, ...]]:
    rules: dict[str, list[BookCell]] = {}
    for cell in cells:
        rules.setdefault(cell.what.split()[0], []).append(cell)
    return [(rule, f"{len(own):,}", counted(own)) for rule, own in rules.items()]


def _run(summary: Summary) -> tuple[str, ...]:
    took = "not recorded" if summary.seconds is None else duration(summary.seconds)
    return (
        summary.file.removesuffix(".json"),
        f"`{summary.command}`" if summary.command else "not recorded",
        "own methods" if summary.own else "shortened" if summary.shortened else "as published",
        summary.processor or "not recorded",
        summary.date or "not recorded",
        took,
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines)


def view_of(made: Book) -> BookView:
    """What the page shows."""
    tiles = (
        Tile("published values", f"{len(made.cells):,}", f"{made.possible:,} need no absent hardware"),
        Tile("with ours", f"{made.share:.0f} %", f"{made.carried:,} of {made.possible:,}"),
        *(
            Tile(word, f"{made.counts.get(word, 0):,}", note)
            for word, note in (
                ("holds", "within the tolerance"),
                ("surpassed", "better here"),
                ("falls short", "worse here"),
            )
        ),
    )
    return BookView(
        subject="five documents",
        verdict=made.verdict,
        detail=detail(made),
        tiles=tiles,
        chapters=tuple(_chapter(document, places) for document, places in chapters(made)),
        runs=tuple(_run(each) for each in made.summaries),
        command="tersa reproduce book docs/results",
        facts=(
            ("values with a verdict", f"{len(published()):,}"),
            ("runs", f"{len(made.summaries)}"),
            ("tolerance", "1 point of an accuracy, 0.1 points of a loss, 10 % of anything else"),
        ),
    )


def _pointed(cell: BookCell) -> str:
    return f"{cell.what}: published {_value(cell.published, cell.unit)}, ours {_value(cell.ours, cell.unit)}"


def _chapter(document: str, places: Sequence[tuple[str, list[BookCell]]]) -> ChapterView:
    cells = [cell for _, own in places for cell in own]
    spots = tuple(
        Spot(cell.published, cell.ours, _pointed(cell), cell.verdict == "holds")
        for cell in cells
        if cell.published is not None and cell.ours is not None and cell.unit == "%"
    )
    return ChapterView(
        number=document,
        title=DOCUMENTS[document],
        counts=counted(cells),
        spots=spots if len(spots) > 2 else (),
        places=tuple(
            PlaceView(f"{place[:1].upper()}{place[1:]}", counted(own), tuple(shown(cell) for cell in own))
            for place, own in places
        ),
    )
