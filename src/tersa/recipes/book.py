"""One book of all reproductions: every published value with ours, the gap, a verdict, and why they differ.

    cells.csv       every value
    README.md       counts, findings and tables as Markdown
    book.html       the same with drawings, one file
    *.json          summaries (`book_found.Summary`), from which the book can be written again

Where two runs have a value, that with the document's settings counts, then that with more seeds, then the
later one. What this project's own methods reach (`Summary.own`) counts where it surpasses what was published,
or where there is nothing else; the line then says what the document's settings give.

Example:
    >>> made = book([])
    >>> made.counts["not run"] > 700, made.carried
    (True, 0)
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ConfigDict

from tersa.errors import UsageError
from tersa.files import write_atomic
from tersa.recipes.book_found import FLOATS, GRID, Ours, Summary
from tersa.recipes.book_published import Published, key_of, published, rows_of
from tersa.recipes.book_verdict import DONE, Verdict, judge
from tersa.recipes.hours import about
from tersa.records.base import SCHEMA, Record, write_record
from tersa.report.numbers import plural
from tersa.study.cell import Cell, CellResult
from tersa.study.hypotheses import judge as hypotheses

TRAINING = "quantized-training"
CELLS, PAGE, BOOK = "cells.csv", "README.md", "book.html"
REASONS = {
    "quantized-training": "one seed on each side: near the collapse single runs differ by tens of points",
    "pruning": "another baseline and order of images",
    "hardware": "the document counts its papers' networks with 1,000 outputs, ours have ten",
    "adaptation": "32x32 forms on one thread of a processor; the document's are 224x224 on its GPUs",
    "binary-vgg": "fewer epochs than the document's 1,000, images from JPEG (1 to 2 points less)",
}
"""Why ours differ, where a run says nothing of its own."""
STUCK = {
    "hsic-document": "with the document's own settings features stop learning here (see `tersa.rules.hsic`)",
    "dni-document": "with the document's own settings the rule collapses here (see `tersa.rules.synthetic`)",
}
"""Why a rule of document 000 falls short by more than `FAR` points."""
SPREAD = {
    "global": "one run on each side: the least and the greatest variance of a layer are of single moments",
    "layer": "with the document's settings HSIC's weights grow without bounds here under ranges of layers",
}
"""Why variances and extremes of weights (tables 5.1 and 5.2) differ, by the range of quantisation."""
COUNTED = {
    "convolutional": "the document counts a depthwise and a pointwise layer as one and leaves out the stem",
    "pooling": "AlexNet's fourth pooling here is the adaptive one, which changes nothing",
    "activation": "ours counts every ReLU: after depthwise and pointwise layers, and in the classifier",
}
"""Why counts of layers (table 4.1 of document 003) differ, by the kind of layer."""
FAR = -10.0


TOLD = {
    "holds": ("holds", "hold"),
    "surpassed": ("is surpassed", "are surpassed"),
    "in part": ("holds in part", "hold in part"),
    "falls short": ("of ours falls short", "of ours fall short"),
    "differs": ("differs", "differ"),
    "not seen": ("is not seen", "are not seen"),
}
"""Verdicts of the headline, of one and of many."""


class BookCell(Record):
    """One published value with ours."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    document: str
    """Its number."""
    place: str
    """Table, figure or section."""
    what: str
    """In words."""
    unit: str
    """Of the values."""
    published: float | None
    """None for a finding in words."""
    ours: float | None
    """None where there is nothing of ours, or a finding."""
    low: float | None
    """Lower end of our 95 % interval, where there are several seeds."""
    high: float | None
    """Upper end."""
    seeds: int
    """Of ours."""
    gap: float | None
    """Ours minus published; in percent of the published value where the unit is no percentage."""
    verdict: Verdict
    """See `book_verdict`."""
    reason: str
    """Why they differ, or why there is nothing of ours and what it would take."""
    command: str
    """That makes ours."""
    source: str
    """Summary that ours is from; empty without."""
    experiment: str
    """Of `tersa reproduce list`."""
    key: str
    """What the value is known by."""


class Book(Record):
    """Everything that the book holds."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    schema_version: int = SCHEMA
    verb: str = "reproduce book"
    verdict: str
    """The answer in a line."""
    counts: dict[str, int]
    """Values by verdict."""
    possible: int
    """Values that need no hardware that is absent."""
    carried: int
    """Of them, with something of ours."""
    summaries: list[Summary]
    """Runs that it was made from, without their values."""
    cells: list[BookCell]
    """Every published value, in the documents' order."""

    @property
    def share(self) -> float:
        """Percent of the possible values that are carried."""
        return 100.0 * self.carried / self.possible


def book(summaries: Sequence[Summary]) -> Book:
    """Every published value with ours."""
    faithful = _best([each for each in summaries if not each.own])
    faithful |= _expectations(faithful)
    own = _best([each for each in summaries if each.own])
    cells = [_cell(each, faithful.get(each.key), own.get(each.key)) for each in published()]
    counts = Counter(cell.verdict for cell in cells)
    possible = [each for each in published() if each.kind == "result"]
    carried = sum(cell.verdict in DONE for cell in cells)
    return Book(
        verdict=_verdict(counts, len(possible), carried),
        counts=dict(counts.most_common()),
        possible=len(possible),
        carried=carried,
        summaries=[each.model_copy(update={"values": []}) for each in summaries],
        cells=cells,
    )


def write_book(
    made: Book, summaries: Sequence[Summary], folder: Path, *, overwrite: bool = False
) -> list[Path]:
    """Write the book's files into a folder.

    Raises:
        UsageError: the folder holds something, and `overwrite` was not asked.
    """
    from tersa.recipes.book_report import markdown, view_of
    from tersa.report.book_page import write

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not overwrite:
        raise UsageError(f"{folder} exists and is not empty; give another --out, or --overwrite")
    folder.mkdir(parents=True, exist_ok=True)
    names = Counter(each.file for each in summaries)
    if twice := [name for name, count in names.items() if count > 1]:
        raise UsageError(f"two runs of one name: {', '.join(twice)}; give folders of different names")
    paths: list[Path] = []
    for summary in summaries:
        write_record(folder / summary.file, summary)
        paths.append(folder / summary.file)
    write_atomic(folder / CELLS, cells_csv(made))
    write_atomic(folder / PAGE, markdown(made))
    write(view_of(made), folder / BOOK)
    return [folder / BOOK, folder / PAGE, folder / CELLS, *paths]


def cells_csv(made: Book) -> str:
    """Every value as CSV text."""
    text = io.StringIO()
    columns = [name for name in BookCell.model_fields if name != "key"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for cell in made.cells:
        row = (getattr(cell, name) for name in columns)
        writer.writerow(
            "" if each is None else f"{each:.6g}" if isinstance(each, float) else each for each in row
        )
    return text.getvalue()


def missing(made: Book) -> list[str]:
    """Commands of values that were not run, each once."""
    return list(dict.fromkeys(cell.command for cell in made.cells if cell.verdict == "not run"))


def _best(summaries: Sequence[Summary]) -> dict[str, tuple[Summary, Ours]]:
    found: dict[str, tuple[Summary, Ours]] = {}
    for summary in summaries:
        for ours in summary.values:
            before = found.get(ours.key)
            if before is None or _rank(summary, ours) > _rank(*before):
                found[ours.key] = (summary, ours)
    return found


def _expectations(found: Mapping[str, tuple[Summary, Ours]]) -> dict[str, tuple[Summary, Ours]]:
    """Document 000's expectations, judged over the values of all runs together: they compare rules."""
    results: list[CellResult] = []
    for file in (GRID, FLOATS):
        for row in rows_of(file):
            ours = found.get(key_of(file, row, "accuracy"))
            if ours is None or ours[1].value is None:
                continue
            quantised = {name: row[name] for name in ("quant", "bits", "range") if row.get(name)}
            cell = Cell.model_validate({name: row[name] for name in ("data", "model", "rule")} | quantised)
            results.append(
                CellResult(
                    key=cell.key,
                    cell=cell,
                    status="done",
                    test_accuracy=ours[1].value,
                    epochs=[],
                    layers=[],
                    seconds=0.0,
                    stacked=1,
                    message="",
                )
            )
    if not results:
        return {}
    together = Summary(experiment=TRAINING, name="all", command=f"tersa reproduce {TRAINING}", values=[])
    judged: dict[str, tuple[Summary, Ours]] = {}
    for each in hypotheses(results):
        key = f"finding/{TRAINING}/{each.name}"
        alike = "holds" if each.verdict == each.published else "differs"
        ours = Ours(
            key=key,
            finding="open" if each.verdict == "open" else alike,
            remark=f"here {each.verdict}: {each.evidence}",
        )
        if ours.finding != "open" or key not in found:
            judged[key] = (together, ours)
    return judged


def _rank(summary: Summary, ours: Ours) -> tuple[bool, bool, int, str, str]:
    return (ours.finding != "open", not summary.shortened, ours.seeds, summary.date, summary.name)


def _cell(
    theirs: Published, faithful: tuple[Summary, Ours] | None, own: tuple[Summary, Ours] | None
) -> BookCell:
    aside = ""
    if own is not None and (faithful is None or judge(theirs, own[1]) == "surpassed"):
        if faithful is not None and faithful[1].value is not None:
            with_theirs = f"{faithful[1].value:.4g} {theirs.unit}".strip()
            aside = f"; with the document's settings {with_theirs} ({judge(theirs, faithful[1])})"
        faithful = own
    summary, ours = faithful or (None, None)
    verdict = judge(theirs, ours)
    gap = None
    if ours is not None and ours.value is not None and theirs.value is not None:
        gap = ours.value - theirs.value
        if theirs.relative:
            gap = 100.0 * gap / theirs.value if theirs.value else None
    return BookCell(
        document=theirs.document,
        place=theirs.place,
        what=theirs.what,
        unit=theirs.unit,
        published=theirs.value,
        ours=ours and ours.value,
        low=ours and ours.low,
        high=ours and ours.high,
        seeds=ours.seeds if ours else 0,
        gap=gap,
        verdict=verdict,
        reason=_reason(theirs, verdict, summary, ours) + aside,
        command=(summary.command if summary else "") or theirs.command,
        source=summary.file if summary and summary.values else "",
        experiment=theirs.experiment,
        key=theirs.key,
    )


def _reason(theirs: Published, verdict: Verdict, summary: Summary | None, ours: Ours | None) -> str:
    if verdict == "setting":
        return ""
    if ours is None or summary is None:
        if verdict == "other hardware":
            return f"needs {theirs.needs}"
        hours = about(theirs.command)
        return f"not run: {theirs.command}" + (f", {hours}" if hours else "")
    parts = [f"the document's is of {theirs.needs}"] if verdict == "other hardware" else []
    if summary.shortened:
        parts.append("a shortened run")
    if summary.own:
        parts.append("own methods")
    if ours.remark:
        parts.append(ours.remark)
    if verdict not in ("holds", "other hardware") and theirs.value is not None and not summary.own:
        parts.append(_why(theirs, ours))
    return "; ".join(parts)


def _why(theirs: Published, ours: Ours) -> str:
    """Why ours differs, where a run says nothing of its own."""
    rule = theirs.what.split()[0]
    if theirs.experiment == TRAINING and theirs.unit != "%":
        return SPREAD["layer" if "range layer" in theirs.what else "global"]
    kind = next((word for word in COUNTED if f"{word} layers" in theirs.what), None)
    if theirs.experiment == "hardware" and kind is not None:
        return COUNTED[kind]
    far = ours.value is not None and theirs.value is not None and ours.value - theirs.value < FAR
    return STUCK[rule] if far and rule in STUCK else REASONS[theirs.experiment]


def _verdict(counts: Mapping[str, int], possible: int, carried: int) -> str:
    """The answer in a line."""
    if not carried:
        return f"None of the {possible:,} published values that any machine can have was run again here"
    told = [plural(counts[word], *forms) for word, forms in TOLD.items() if counts.get(word)]
    return f"Of {plural(carried, 'value')} with ours, {', '.join(told)}"
