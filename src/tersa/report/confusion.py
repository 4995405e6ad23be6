"""Where it errs: the confusion matrix, the most frequent confusions, and the classes one by one.

Rows are the true classes, columns what the network said, counts are test images. The diagonal has the
accent, errors are grey by the square root of their count, so that a single error is still seen beside a
frequent one. Up to 24 classes have their names beside the matrix and up to 12 the counts in the cells; more
have their numbers and hover values; above 100 classes the matrix is left out and the tables tell it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from markupsafe import Markup

from tersa.report.numbers import count, percent, plural, share
from tersa.report.plain import short
from tersa.report.svg import dots, element, figure

DRAWN_UP_TO = 100
NAMED_UP_TO = 24
COUNTED_UP_TO = 12
LEVELS = 6
"""Shades of grey for errors; style.css has one class for each."""
LIGHT_UP_TO = 4
"""The darkest grey is kept for at least this many errors of one kind."""


class Confused(Protocol):
    """What is drawn here: counts (true class, said class) and the names of the classes, in label order."""

    @property
    def confusion(self) -> Sequence[Sequence[int]]:
        """K rows of K counts."""
        ...

    @property
    def classes(self) -> Sequence[str]:
        """Names; a class without one is shown by its number."""
        ...


@dataclass(frozen=True)
class ConfusionRow:
    """One kind of error: images of class `true` that the network took for class `said`."""

    true: str
    said: str
    times: str
    share: str


@dataclass(frozen=True)
class ClassRow:
    """One class: how many test images it has and how many of them were named rightly."""

    name: str
    images: str
    right: str
    accuracy: str


def confusion_rows(result: Confused, limit: int = 8) -> list[ConfusionRow]:
    """The most frequent confusions, the most frequent first, ties in class order."""
    errors = sorted(_errors(result), key=lambda each: (-each[2], each[0], each[1]))
    return [
        ConfusionRow(
            true=_name(result, row),
            said=_name(result, column),
            times=count(times),
            share=share(times, sum(result.confusion[row])),
        )
        for row, column, times in errors[:limit]
    ]


def class_rows(result: Confused) -> list[ClassRow]:
    """Every class in label order; one without test images has no accuracy."""
    rows: list[ClassRow] = []
    for index, counts in enumerate(result.confusion):
        images, right = sum(counts), counts[index]
        accuracy = percent(100.0 * right / images, 1) if images else "no images"
        rows.append(ClassRow(_name(result, index), count(images), count(right), accuracy))
    return rows


def matrix(result: Confused) -> Markup:
    """The drawing; empty without classes and above `DRAWN_UP_TO` of them."""
    k = len(result.confusion)
    if not 0 < k <= DRAWN_UP_TO:
        return Markup("")
    named = k <= NAMED_UP_TO
    names = [short(_name(result, index), 12) for index in range(k)] if named else []
    margin = 30 + (8.2 * max(len(name) for name in names) if named else 22)
    cell = _cell(k)
    width, height = margin + k * cell + 4, margin + k * cell + 4
    parts = [*_cells(result, cell, margin), *_titles(margin, k * cell)]
    parts += _named(names, cell, margin) if named else _numbered(k, cell, margin)
    return figure(
        "confusion",
        "Confusion matrix of the test images",
        matrix_description(result),
        width,
        height,
        parts,
        css="matrix" if named else "matrix large",
        natural=1.1 if named else 1.0,
        grid=(margin, cell),
    )


def cell_values(result: Confused) -> dict[str, list[str] | list[tuple[int, int, int]]]:
    """What script.js makes the hover values from: class names, and (row, column, count) of what was drawn."""
    names = [_name(result, index) for index in range(len(result.confusion))]
    return {"names": names, "cells": _filled(result)}


def matrix_description(result: Confused) -> str:
    """The matrix in one sentence."""
    total = sum(map(sum, result.confusion))
    wrong = total - sum(row[index] for index, row in enumerate(result.confusion))
    return f"{count(wrong)} of {plural(total, 'test image')} named wrongly; rows are the true classes."


def reach(result: Confused) -> float:
    """How near the pointer must be to the middle of a cell: a little more than half its side."""
    return 0.6 * _cell(max(len(result.confusion), 1))


def _errors(result: Confused) -> list[tuple[int, int, int]]:
    return [each for each in _filled(result) if each[0] != each[1]]


def _filled(result: Confused) -> list[tuple[int, int, int]]:
    """(row, column, count) of every cell with a count, row by row."""
    return [
        (row, column, times)
        for row, counts in enumerate(result.confusion)
        for column, times in enumerate(counts)
        if times
    ]


def _name(result: Confused, index: int) -> str:
    return result.classes[index] if index < len(result.classes) else str(index)


def _cell(k: int) -> float:
    """Side of a cell: the matrix is about 430 wide with few classes, 620 with a hundred."""
    return max(min(430 / k, 60), 6.2) if k <= NAMED_UP_TO else max(560 / k, 6.2)


def _cells(result: Confused, cell: float, margin: float) -> list[Markup]:
    """The empty field, one path per shade, and the counts where there is room for them."""
    k = len(result.confusion)
    shades: dict[str, list[tuple[int, int]]] = defaultdict(list)
    worst = max([times for _, _, times in _errors(result)] + [LIGHT_UP_TO])
    for row, column, times in _filled(result):
        level = math.ceil(LEVELS * math.sqrt(times / worst))
        shades["diagonal" if row == column else f"error e{level}"].append((row, column))
    field = element("rect", x=margin, y=margin, width=k * cell, height=k * cell, class_="field")
    parts = [field, element("path", d=_lattice(k, cell, margin), class_="lattice")] if cell > 12 else [field]
    for css, where in shades.items():
        squares = "".join(_square(row, column, cell, margin) for row, column in where)
        parts.append(element("path", d=squares, class_=css, stroke_width=cell - 2 * _gap(cell)))
    if k <= COUNTED_UP_TO:
        for row, column, times in _filled(result):
            x, y = margin + (column + 0.5) * cell, margin + (row + 0.5) * cell + 4
            css = "middle on-accent" if row == column else "middle count"
            css += " tight" if 9 * len(count(times)) > cell else ""
            parts.append(element("text", count(times), x=x, y=y, class_=css))
    return parts


def _gap(cell: float) -> float:
    return min(1.5, cell * 0.06)


def _square(row: int, column: int, cell: float, margin: float) -> str:
    """A cell as a stroke as broad as it is long: half the bytes of a rectangle."""
    x, y = margin + column * cell + _gap(cell), margin + (row + 0.5) * cell
    return f"M{x:.1f} {y:.1f}h{cell - 2 * _gap(cell):.1f}"


def _lattice(k: int, cell: float, margin: float) -> str:
    """A faint dot in the middle of every cell, so that rows and columns can be followed."""
    return dots([(margin + (c + 0.5) * cell, margin + (r + 0.5) * cell) for r in range(k) for c in range(k)])


def _titles(margin: float, side: float) -> list[Markup]:
    middle = margin + side / 2
    turned = f"rotate(-90 12 {middle:.1f})"
    return [
        element("text", "the network said →", x=middle, y=14, class_="middle quiet"),
        element("text", "← the image shows", x=12, y=middle, class_="middle quiet", transform=turned),
    ]


def _named(names: list[str], cell: float, margin: float) -> list[Markup]:
    turn = max(7.2 * len(name) for name in names) > cell - 4
    parts: list[Markup] = []
    for index, name in enumerate(names):
        at = margin + (index + 0.5) * cell
        parts.append(element("text", name, x=margin - 8, y=at + 4, class_="end"))
        if turn:
            turned = f"rotate(-90 {at + 4:.1f} {margin - 8:.1f})"
            parts.append(element("text", name, x=at + 4, y=margin - 8, class_="start", transform=turned))
        else:
            parts.append(element("text", name, x=at, y=margin - 8, class_="middle"))
    return parts


def _numbered(k: int, cell: float, margin: float) -> list[Markup]:
    """Every tenth class by its number, where names would be too small to read."""
    parts: list[Markup] = []
    for index in range(0, k, 10):
        at = margin + (index + 0.5) * cell
        parts.append(element("text", str(index), x=margin - 6, y=at + 4, class_="end"))
        parts.append(element("text", str(index), x=at, y=margin - 6, class_="middle"))
    return parts
