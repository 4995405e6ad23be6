"""How far each layer's update points away from backpropagation's, over epochs: small charts and a table.

All panels share an axis of degrees, 0..120 or 0..180 where something is above 120. At 0 both updates have the
same direction; 90, where they have none in common, is a line of its own.

Example:
    >>> panel = AnglePanel("fa", (Angles("fc1", 1.0, (1, 2), (88.0, 62.5)),))
    >>> degree_range([panel]), angle_texts(panel)
    ((0.0, 120.0), ['fc1: 88.0° after epoch 1, 62.5° after epoch 2'])
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from tersa.report.study_axes import (
    BOTTOM,
    HEIGHT,
    LABELS,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Frame,
    drawn,
    end_labels,
    epoch_ticks,
    levels,
    steps,
)
from tersa.report.study_view import AnglePanel, Angles
from tersa.report.svg import Scale, element, figure, path

RIGHT_ANGLE = 90.0
"""Degrees at which two directions have nothing in common."""


def degree_range(panels: Sequence[AnglePanel]) -> tuple[float, float]:
    """Ends of the axis of all panels."""
    most = max((value for panel in panels for layer in panel.layers for value in layer.degrees), default=0.0)
    return 0.0, 120.0 if most <= 120.0 else 180.0


def angle_panel(panel: AnglePanel, identity: str, reach: tuple[float, float]) -> Markup:
    """Degrees over epochs, one curve per layer, named at its end."""
    first = min(layer.epochs[0] for layer in panel.layers)
    last = max(layer.epochs[-1] for layer in panel.layers)
    frame = Frame(
        Scale(first, max(last, first + 1), LEFT + 4, WIDTH - RIGHT - LABELS),
        Scale(*reach, HEIGHT - BOTTOM, TOP),
    )
    step = 30 if reach[1] <= 120 else 45
    parts = levels(frame, [(value, f"{value}°") for value in range(0, int(reach[1]) + 1, step)])
    line = path([(frame.x.start, frame.y(RIGHT_ANGLE)), (frame.x.end, frame.y(RIGHT_ANGLE))])
    parts += [element("path", d=line, class_="right-angle"), *steps(frame, epoch_ticks(last, first), "epoch")]
    parts += [drawn(_spots(layer, frame), layer.strength) for layer in panel.layers]
    ends = [_spots(layer, frame)[-1] for layer in panel.layers]
    parts += end_labels([(y, layer.label) for (_, y), layer in zip(ends, panel.layers, strict=True)], frame)
    return figure(
        identity,
        f"{panel.title}: angle to backpropagation's update over epochs",
        "; ".join(f"{layer.label}: {layer.degrees[-1]:.1f} degrees" for layer in panel.layers),
        WIDTH,
        HEIGHT,
        parts,
        css="small",
        marks=ends,
    )


def angle_texts(panel: AnglePanel) -> list[str]:
    """Hover values of a panel, in the order of its marks."""
    return [_text(layer) for layer in panel.layers]


def angle_table(panels: Sequence[AnglePanel]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """First and last angle of every layer.

    Returns:
        Names of the layers, then for each panel its title and a text per layer: `88.0 → 62.5`.

    >>> angle_table([AnglePanel("fa", (Angles("fc1", 1.0, (1, 2), (88.0, 62.5)),))])
    (['fc1'], [('fa', ['88.0 → 62.5'])])
    """
    deepest = sorted(panels, key=lambda panel: -len(panel.layers))
    names = list(dict.fromkeys(layer.label for panel in deepest for layer in panel.layers))
    rows: list[tuple[str, list[str]]] = []
    for panel in panels:
        known = {layer.label: layer.degrees for layer in panel.layers}
        rows.append((panel.title, [_change(known[name]) if name in known else "–" for name in names]))
    return names, rows


def _change(degrees: Sequence[float]) -> str:
    return f"{degrees[0]:.1f}" if len(degrees) == 1 else f"{degrees[0]:.1f} → {degrees[-1]:.1f}"


def _spots(layer: Angles, frame: Frame) -> list[tuple[float, float]]:
    return [(frame.x(e), frame.y(d)) for e, d in zip(layer.epochs, layer.degrees, strict=True)]


def _text(layer: Angles) -> str:
    ends = [(layer.epochs[place], layer.degrees[place]) for place in (0, -1)]
    said = [f"{degrees:.1f}° after epoch {epoch}" for epoch, degrees in dict.fromkeys(ends)]
    return f"{layer.label}: {', '.join(said)}"
