"""SVG as text: one function that makes an element and escapes what goes into it, and scales with ticks.

Charts are functions from a result to `Markup`. Nothing but `element` writes angle brackets, so that a class
name can never become an element. Colours are classes of style.css, never attributes: the page decides what
is light and dark.

Example:
    >>> str(element("text", "a < b", x=1.50, class_="name"))
    '<text x="1.5" class="name">a &lt; b</text>'
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup, escape

Attribute = str | int | float | None


@dataclass(frozen=True)
class Scale:
    """A straight map from data to pixels, of the values or of their logarithms.

    Attributes:
        low: data value that is drawn at `start`.
        high: data value that is drawn at `end`.
        start: pixels.
        end: pixels; below `start` for an axis that runs the other way.
        log: map log10 of the values.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Pixels of a value; the ends for values outside."""
        return self.beyond(min(max(value, self.low), self.high))

    def beyond(self, value: float) -> float:
        """Pixels of a value, outside the axis too (for lines that are clipped there)."""
        low, high, here = self.low, self.high, value
        if self.log:
            low, high, here = math.log10(low), math.log10(high), math.log10(here)
        part = (here - low) / (high - low) if high > low else 0.5
        return self.start + part * (self.end - self.start)


def element(name: str, *children: str | Markup, **attributes: Attribute) -> Markup:
    """One SVG element with everything in it escaped.

    Args:
        name: of the element.
        children: text, which is escaped, or markup, which is not.
        attributes: by name; `class_` is `class`, `stroke_width` is `stroke-width`, None is left out, numbers
            are rounded to a hundredth.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = "".join(escape(child) for child in children)
    # The pieces are escaped above; the names of elements and attributes are our own.
    return Markup(f"<{name}{written}>{inside}</{name}>" if inside else f"<{name}{written}/>")


def figure(
    identity: str,
    title: str,
    description: str,
    width: float,
    height: float,
    parts: Iterable[Markup],
    *,
    css: str = "",
    natural: float | None = None,
    marks: Iterable[tuple[float, float] | None] = (),
    grid: tuple[float, float] | None = None,
) -> Markup:
    """A whole drawing with a name for those who cannot see it.

    Args:
        identity: unique in the page; the ids of title and description are made from it.
        title: what is shown.
        description: what it says, in words.
        width: of the drawing's own coordinates.
        height: likewise.
        parts: the elements in drawing order.
        css: further classes.
        natural: pixels of the page for one of the drawing, where there is room; without it the drawing
            takes the whole width.
        marks: (x, y) of the points that have hover values; script.js pairs them, in order, with the texts of
            the figure that holds the drawing, and lets the arrow keys walk along them. None stands for a
            text without a point in this drawing.
        grid: for a square table of cells instead: where it starts in both directions, and the side of a cell.
    """
    spots = " ".join("-" if mark is None else ",".join(map(_pixels, mark)) for mark in marks)
    return element(
        "svg",
        element("title", title, id=f"{identity}-title"),
        element("desc", description, id=f"{identity}-desc"),
        *parts,
        viewBox=f"0 0 {_text(width)} {_text(height)}",
        width=None if natural is None else width * natural,
        class_=f"chart {css}".strip(),
        role="img",
        aria_labelledby=f"{identity}-title {identity}-desc",
        tabindex="0" if spots or grid else None,
        data_marks=spots or None,
        data_grid=f"{_pixels(grid[0])},{grid[1]:.3f}" if grid else None,
    )


def path(points: Iterable[tuple[float, float]], *, close: bool = False) -> str:
    """Path data of a polyline; empty without points."""
    text = "L".join(f"{_pixels(x)} {_pixels(y)}" for x, y in points)
    return f"M{text}{'Z' if close else ''}" if text else ""


def dots(points: Iterable[tuple[float, float]]) -> str:
    """Path data of dots: strokes of no length, which round line caps turn into discs."""
    return "".join(f"M{_pixels(x)} {_pixels(y)}h0" for x, y in points)


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten) between two bounds, about `wanted` of them.

    >>> ticks(0.0, 0.83, 4), ticks(98.2, 99.4, 6)
    ([0.0, 0.2, 0.4, 0.6, 0.8], [98.2, 98.4, 98.6, 98.8, 99.0, 99.2, 99.4])
    """
    if not high > low:
        return [low]
    rough = (high - low) / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda each: abs(math.log(each / rough)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    digits = max(0, 1 - math.floor(math.log10(step)))
    return [round(index * step, digits) + 0.0 for index in range(first, last + 1)]


def log_ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round values on a logarithmic axis: decades, then 1 and 3, then 1, 2 and 5 in each, then straight ones.

    >>> log_ticks(9_000, 3_300_000, 6)
    [10000, 30000, 100000, 300000, 1000000, 3000000]
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for digits in ((1,), (1, 3), (1, 2, 5)):
        every = [digit * 10.0**power for power in powers for digit in digits]
        inside = [round(value) if value >= 1 else value for value in every if low <= value <= high]
        if not found or len(inside) <= wanted + 1:
            found = inside
    if len(found) < 3:
        found = [tick for tick in ticks(low, high, wanted) if tick > 0]
    step = math.ceil(len(found) / (wanted + 1))
    return found[::-1][::step][::-1]


def _pixels(value: float) -> str:
    """A coordinate to a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")


def _text(value: str | int | float) -> str:
    """Numbers with at most two decimals and no needless zeros."""
    if isinstance(value, float):
        return f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".")
    return str(value)
