"""The larger drawings of a study: ours against published, heat maps, and means with intervals on a track.

    scatter      one dot per cell that was published, the diagonal, and the threshold of having learned
    heat map     mean accuracy of a row at each bit width, in six steps of one colour
    track        a dot and a bar on a line, in the rows of a table

Example:
    >>> shade(9.8), shade(60.0), shade(97.0)
    (0.0, 0.2, 1.0)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from markupsafe import Markup

from tersa.report.numbers import percent, plus_minus
from tersa.report.plain import short
from tersa.report.study_view import Compared, Effect, HeatMap, Spread
from tersa.report.svg import Scale, element, figure, path

LEARNED = 15.0
"""Percent: below it a network of ten classes is near chance."""
SHADES = ((15.0, 0.0), (50.0, 0.1), (80.0, 0.2), (90.0, 0.33), (95.0, 0.48))
"""(upper end of the accuracy, opacity) of the steps of a heat map; above the last, the full colour."""
SIDE, MARGIN = 420, 44
CELL_WIDTH, CELL_HEIGHT, LABEL_WIDTH, HEAD = 44, 22, 150, 24
TRACK_WIDTH, TRACK_HEIGHT = 240, 20


def scatter(compared: Sequence[Compared], identity: str) -> Markup:
    """Ours against published, with an interval where there are several seeds."""
    x = Scale(0, 100, MARGIN, SIDE - 10)
    y = Scale(0, 100, SIDE - MARGIN, 10)
    parts: list[Markup] = []
    for value in (0, 25, 50, 75, 100):
        parts += [
            element("path", d=path([(x.start, y(value)), (x.end, y(value))]), class_="grid"),
            element("text", str(value), x=x.start - 8, y=y(value) + 4, class_="end quiet"),
            element("text", str(value), x=x(value), y=y.start + 18, class_="middle quiet"),
        ]
    chance = path([(x.start, y(LEARNED)), (x.end, y(LEARNED))]) + path(
        [(x(LEARNED), y.start), (x(LEARNED), y.end)]
    )
    parts.append(element("path", d=chance, class_="threshold"))
    parts.append(element("path", d=path([(x(0), y(0)), (x(100), y(100))]), class_="diagonal-line"))
    bars = "".join(
        path([(x(each.published), y(each.ours.low)), (x(each.published), y(each.ours.high))])
        for each in compared
        if each.ours.count > 1
    )
    if bars:
        parts.append(element("path", d=bars, class_="interval s0"))
    many = len(compared) > 100
    parts += [
        element(
            "circle",
            cx=x(each.published),
            cy=y(each.ours.mean),
            r=2.8 if many else 4.0,
            class_="dot s0" if each.published >= LEARNED else "dot s2",
            fill_opacity=0.55 if many else 0.8,
        )
        for each in compared
    ]
    parts.append(
        element("text", "published, %", x=(x.start + x.end) / 2, y=SIDE - 6.0, class_="middle quiet")
    )
    parts.append(element("text", "ours, %", x=x.start + 8, y=22.0, class_="quiet"))
    return figure(
        identity,
        "Our accuracy against the published one",
        f"{len(compared)} cells; on the diagonal both are equal.",
        SIDE,
        SIDE,
        parts,
        css="scatter",
        marks=[(x(each.published), y(each.ours.mean)) for each in compared],
    )


def scatter_texts(compared: Sequence[Compared]) -> list[str]:
    """Hover values of the scatter, in the order of its marks."""
    return [
        f"{each.label}\nours {each.ours.text} %\npublished {each.published:.2f} % "
        f"({plus_minus(each.ours.mean - each.published)} points)"
        for each in compared
    ]


def shade(value: float) -> float:
    """Opacity of an accuracy in a heat map."""
    return next((opacity for bound, opacity in SHADES if value < bound), 1.0)


def heat_map(chart: HeatMap, identity: str) -> Markup:
    """Accuracies as numbers on their shades; an empty field where there is no cell."""
    width = LABEL_WIDTH + CELL_WIDTH * len(chart.columns)
    height = HEAD + CELL_HEIGHT * len(chart.rows)
    parts = [
        element("text", name, x=LABEL_WIDTH + (place + 0.5) * CELL_WIDTH, y=HEAD - 8.0, class_="middle quiet")
        for place, name in enumerate(chart.columns)
    ]
    for row, (label, values) in enumerate(chart.rows):
        top = HEAD + row * CELL_HEIGHT
        parts.append(element("text", short(label, 22), x=LABEL_WIDTH - 8, y=top + 15.0, class_="end"))
        for place, value in enumerate(values):
            if value is not None:
                parts += _field(LABEL_WIDTH + place * CELL_WIDTH, top, value)
    words = "; ".join(
        f"{label}: " + ", ".join("none" if v is None else percent(v, 1) for v in values)
        for label, values in chart.rows
    )
    return figure(identity, f"{chart.title}: mean accuracy", words, width, height, parts, css="heat")


def _field(left: float, top: float, value: float) -> list[Markup]:
    opacity = shade(value)
    parts: list[Markup] = []
    if opacity:
        parts.append(
            element(
                "rect",
                x=left + 1,
                y=top + 1,
                width=CELL_WIDTH - 2,
                height=CELL_HEIGHT - 2,
                rx=3,
                class_="warm",
                fill_opacity=opacity,
            )
        )
    css = "middle on-accent" if opacity == 1.0 else "middle quiet" if not opacity else "middle"
    digits = 0 if value < LEARNED else 1
    text = f"{value:.{digits}f}"
    return [*parts, element("text", text, x=left + CELL_WIDTH / 2, y=top + 15.0, class_=css)]


def legend_steps() -> list[tuple[str, float]]:
    """(words, opacity) of the steps of a heat map."""
    bounds = [bound for bound, _ in SHADES]
    names = [f"below {bounds[0]:g}", *(f"{a:g}–{b:g}" for a, b in itertools.pairwise(bounds))]
    return list(zip([*names, f"{bounds[-1]:g} and over"], [*(o for _, o in SHADES), 1.0], strict=True))


def legend_chip(opacity: float) -> Markup:
    """A square in one of the shades, for the legend."""
    square = element(
        "rect", x=1, y=1, width=18, height=12, rx=3, class_="warm" if opacity else "nothing",
        fill_opacity=opacity or None,
    )  # fmt: skip
    return element("svg", square, viewBox="0 0 20 14", width=20, height=14, class_="chip", aria_hidden="true")


def mean_track(spread: Spread | None, published: float | None, reach: tuple[float, float]) -> Markup:
    """A mean with its interval, and the published value as a ring, on a common axis."""
    x = Scale(*reach, 6, TRACK_WIDTH - 6)
    parts = [element("path", d=path([(x.start, 10), (x.end, 10)]), class_="link")]
    if published is not None:
        parts.append(element("circle", cx=x(published), cy=10, r=4.5, class_="published s2"))
    if spread is not None:
        if spread.count > 1:
            parts.append(
                element("path", d=path([(x(spread.low), 10), (x(spread.high), 10)]), class_="interval after")
            )
        parts.append(element("circle", cx=x(spread.mean), cy=10, r=4, class_="dot s0"))
    return _track(parts)


def effect_track(effect: Effect, reach: float) -> Markup:
    """A difference with its interval around zero."""
    x = Scale(-reach, reach, 6, TRACK_WIDTH - 6)
    sure = effect.low * effect.high > 0
    return _track(
        [
            element("path", d=path([(x.start, 10), (x.end, 10)]), class_="link"),
            element("path", d=path([(x(0), 2), (x(0), 18)]), class_="zero"),
            element(
                "path",
                d=path([(x(effect.low), 10), (x(effect.high), 10)]),
                class_=f"interval {'after' if sure else 'before'}",
            ),
            element("circle", cx=x(effect.difference), cy=10, r=4, class_="dot s0" if sure else "dot s2"),
        ]
    )


def cost_track(value: float, most: float) -> Markup:
    """A bar from nothing."""
    x = Scale(0, most, 6, TRACK_WIDTH - 6)
    bar = element("rect", x=x.start, y=5, width=max(x(value) - x.start, 1.0), height=10, rx=2, class_="warm")
    return _track([bar])


def _track(parts: list[Markup]) -> Markup:
    return element(
        "svg",
        *parts,
        viewBox=f"0 0 {TRACK_WIDTH} {TRACK_HEIGHT}",
        class_="track",
        aria_hidden="true",
        width="100%",
        preserveAspectRatio="xMidYMid meet",
    )
