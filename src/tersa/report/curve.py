"""What each step cost: validation accuracy against parameters, MACs or file size, fewer to the right.

The pruned path is a line with a band of one standard error of its loss; what came after pruning hangs on the
pruned network that it started from. Everything below the floor that was asked for is tinted. An accuracy far
below the floor is drawn at the lower edge and said so, so that the part that decides keeps its height.

    floor = max(baseline - max-loss, min-accuracy)        on the validation images

The drawing is made at three widths; style.css shows the one that fits, so that text keeps its size. What the
horizontal axis can count, and which steps have it, is in axes.py; the accuracy axis is the same for all.
"""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from tersa.records.results import ShrinkResult, Step
from tersa.report.axes import AXES, NAMES, Axis, amount, cost, drawn, left_out, placed, rounded, short, title
from tersa.report.labels import Box, Label, along, place
from tersa.report.numbers import change, count, milliseconds, percent, plural, points
from tersa.report.svg import Scale, dots, element, figure, log_ticks, path, ticks
from tersa.report.tables import kept_step

SIZES = {"wide": (952, 390), "middle": (640, 360), "narrow": (340, 300)}
RIGHT, TOP, BOTTOM = 14, 14, 46
MARK = 5.5
MANY = 120
"""More steps than this are a line without dots, which would touch, and a band of about as many points."""


@dataclass(frozen=True)
class Frame:
    """The axes, `x` of what `axis` names and `y` of accuracy in percent; its steps and size in pixels."""

    axis: Axis
    steps: list[Step]
    x: Scale
    y: Scale
    width: int
    height: int

    @property
    def bounds(self) -> Box:
        """The area inside the axes."""
        return Box(self.x.end, self.y.end, self.x.start, self.y.start)

    def at(self, step: Step) -> tuple[float, float]:
        """Where a step is drawn, on the lower edge when it lies below it."""
        return self.x(cost(step, self.axis)), self.y(step.validation_accuracy)


def curve(result: ShrinkResult, axis: Axis, size: str) -> Markup:
    """The chart for one axis at one of `SIZES`; empty when no step has a value on it."""
    if not drawn(result, axis):
        return Markup("")
    frame = frame_of(result, axis, *SIZES[size])
    identity = f"curve-{axis}-{size}"
    parts = [
        *_floor(result, frame),
        *_axes(frame, size),
        *_pruned(result, frame, identity),
        *_after_pruning(frame),
        *_marks(result, frame),
        *_labels(result, frame, size),
    ]
    return figure(
        identity,
        f"Validation accuracy against {NAMES[axis]} at every step",
        description(result, axis),
        frame.width,
        frame.height,
        parts,
        css=f"only-{size}",
        marks=[frame.at(step) if placed(step, axis) else None for step in result.steps],
    )


def step_texts(result: ShrinkResult) -> list[str]:
    """Hover values of every step, in the order of the marks."""
    return [_step_text(step) for step in result.steps]


def legend(result: ShrinkResult) -> list[tuple[str, str]]:
    """Signs in the chart and what they mean, for those that are there."""
    stages = {step.stage for step in result.steps}
    signs = [("●", "prune", "pruned"), ("◆", "distil", "distilled"), ("■", "quantise", "quantised")]
    found = [(sign, name) for sign, stage, name in signs if stage in stages]
    return [*found, ("◯", "kept")] if kept_step(result) else found


def description(result: ShrinkResult, axis: Axis) -> str:
    """The chart in words, for those who cannot see it."""
    shown, kept = drawn(result, axis), kept_step(result)
    first = shown[0]
    text = (
        f"{plural(len(shown), 'step')} from {amount(first, axis)} with {percent(first.validation_accuracy)}"
    )
    if kept is not None and placed(kept, axis):
        text += f" to the kept network: {amount(kept, axis)} with {percent(kept.validation_accuracy)}"
    walk = "The arrow keys walk along the steps; the table below has every value."
    return " ".join(part for part in (f"{text}.", left_out(result, axis), walk) if part)


def floor(result: ShrinkResult) -> float | None:
    """The lowest validation accuracy that the goals allow, in percent; None when none is about accuracy."""
    bounds = [goal.asked for goal in result.goals if goal.name == "min-accuracy"]
    if result.steps:
        start = result.steps[0].validation_accuracy
        bounds += [start - goal.asked for goal in result.goals if goal.name == "max-loss"]
    return max(bounds, default=None)


def frame_of(result: ShrinkResult, axis: Axis, width: int, height: int) -> Frame:
    """Axes that hold every step, the floor and a little air."""
    steps = drawn(result, axis)
    costs = [cost(step, axis) for step in steps]
    low, high = shown_range(result)
    left = 12 + 8 * max(len(_tick(value)) for value in ticks(low, high, 5))
    y = Scale(low, high, height - BOTTOM, TOP)
    x = Scale(min(costs) / 1.12, max(costs) * 1.12, width - RIGHT, left, log=True)
    return Frame(axis, steps, x, y, width, height)


def shown_range(result: ShrinkResult) -> tuple[float, float]:
    """Lowest and highest accuracy on the axis.

    All steps are held, but for those that fell further than four times the loss that was asked for (and
    further than one and a half times the kept network's, and half a point): they would flatten the rest.
    """
    accuracies = [step.validation_accuracy for step in result.steps]
    start, kept, bound = accuracies[0], kept_step(result), floor(result)
    allowed = max(start - bound, 0.0) if bound is not None else 1.0
    lost = start - kept.validation_accuracy if kept is not None else 0.0
    lowest = start - max(4 * allowed, 1.5 * lost, 0.5)
    low, high = max(min(accuracies), lowest), max(accuracies)
    if bound is not None:
        low, high = min(low, bound), max(high, bound)
    air = max(0.08 * (high - low), 0.05)
    return max(low - air, 0.0), min(high + 1.6 * air, 100.0 + air)


def _floor(result: ShrinkResult, frame: Frame) -> list[Markup]:
    bound = floor(result)
    if bound is None:
        return []
    box, top = frame.bounds, frame.y(bound)
    return [
        element(
            "rect", x=box.left, y=top, width=box.right - box.left, height=box.bottom - top, class_="floor"
        ),
        element("path", d=path([(box.left, top), (box.right, top)]), class_="floor-line"),
    ]


def _axes(frame: Frame, size: str) -> list[Markup]:
    box = frame.bounds
    parts: list[Markup] = []
    for value in ticks(frame.y.low, frame.y.high, 5):
        y = frame.y(value)
        parts.append(element("path", d=path([(box.left, y), (box.right, y)]), class_="grid"))
        parts.append(element("text", _tick(value), x=box.left - 8, y=y + 4, class_="end"))
    for value in log_ticks(frame.x.low, frame.x.high, 8 if size == "wide" else 4):
        x = min(max(frame.x(value), box.left + 12), box.right - 12)
        parts.append(
            element(
                "path",
                d=path([(frame.x(value), box.bottom), (frame.x(value), box.bottom + 4)]),
                class_="tick",
            )
        )
        parts.append(element("text", rounded(value, frame.axis), x=x, y=box.bottom + 18, class_="middle"))
    middle = (box.left + box.right) / 2
    return [*parts, element("text", title(frame.axis), x=middle, y=frame.height - 8.0, class_="middle quiet")]


def _pruned(result: ShrinkResult, frame: Frame, identity: str) -> list[Markup]:
    """The line of the pruned path, its band, and its dots; the line is cut at the lower edge."""
    way = _way(result, frame)
    line = [(frame.x(cost(step, frame.axis)), frame.y.beyond(step.validation_accuracy)) for step in way]
    some = way[:: max(1, len(way) // MANY)]
    upper, lower = _edge(some, frame, 1), _edge(some, frame, -1)
    box = frame.bounds
    area = element(
        "rect", x=box.left, y=box.top - 8, width=box.right - box.left, height=box.bottom - box.top + 8
    )
    inside = [step for step in way if step.validation_accuracy >= frame.y.low]
    below = [frame.at(step) for step in way if step.validation_accuracy < frame.y.low]
    clip = f"url(#{identity}-clip)"
    parts = [
        element("clipPath", area, id=f"{identity}-clip"),
        element("path", d=path(upper + lower[::-1], close=True), class_="error-band", clip_path=clip),
        element("path", d=path(line), class_="line", clip_path=clip),
    ]
    if len(way) <= MANY:
        parts.append(element("path", d=dots([frame.at(step) for step in inside]), class_="dots"))
    arrows = "".join(f"M{x - 4:.1f} {y - 7:.1f}h8l-4 6Z" for x, y in _apart(below, 9.0))
    return [*parts, element("path", d=arrows, class_="below")] if below else parts


def _edge(steps: list[Step], frame: Frame, side: int) -> list[tuple[float, float]]:
    """The upper (+1) or lower (-1) edge of the band of one standard error."""
    return [
        (
            frame.x(cost(step, frame.axis)),
            frame.y.beyond(step.validation_accuracy + side * step.standard_error),
        )
        for step in steps
    ]


def _apart(points: list[tuple[float, float]], least: float) -> list[tuple[float, float]]:
    """Those points that are at least so many pixels right of the last one taken."""
    taken: list[tuple[float, float]] = []
    for point in points:
        if not taken or point[0] - taken[-1][0] >= least:
            taken.append(point)
    return taken


def _after_pruning(frame: Frame) -> list[Markup]:
    """Distilled and quantised networks, tied to the pruned one that they were made from."""
    parts: list[Markup] = []
    for number, step in enumerate(frame.steps):
        before = next((each for each in reversed(frame.steps[:number]) if each.widths == step.widths), None)
        if step.stage in ("distil", "quantise") and before is not None:
            parts.append(element("path", d=path([frame.at(before), frame.at(step)]), class_="link"))
    for step in frame.steps:
        x, y = frame.at(step)
        if step.stage == "distil":
            parts.append(
                element(
                    "path",
                    d=path([(x - 7, y), (x, y - 7), (x + 7, y), (x, y + 7)], close=True),
                    class_="after",
                )
            )
        if step.stage == "quantise":
            parts.append(element("rect", x=x - 5.5, y=y - 5.5, width=11, height=11, class_="after"))
    return parts


def _marks(result: ShrinkResult, frame: Frame) -> list[Markup]:
    """The baseline, and a ring around the kept network."""
    parts: list[Markup] = []
    first, kept = result.steps[0], kept_step(result)
    if placed(first, frame.axis):
        x, y = frame.at(first)
        parts.append(element("circle", cx=x, cy=y, r=MARK, class_="before"))
    if kept is not None and placed(kept, frame.axis):
        x, y = frame.at(kept)
        if kept.stage in ("baseline", "prune"):
            parts.append(element("circle", cx=x, cy=y, r=MARK, class_="after"))
        parts.append(element("circle", cx=x, cy=y, r=11, class_="ring"))
    return parts


def _labels(result: ShrinkResult, frame: Frame, size: str) -> list[Markup]:
    way, kept = [frame.at(step) for step in _way(result, frame)], kept_step(result)
    others = [frame.at(step) for step in frame.steps]
    obstacles = along(way) + others
    labels: list[Label] = _floor_label(result, frame, size)
    if kept is not None and kept.index != 0 and placed(kept, frame.axis):
        where = frame.at(kept)
        cost_of_kept = amount(kept, frame.axis) if size == "wide" else short(kept, frame.axis)
        text = f"kept: {cost_of_kept}, {percent(kept.validation_accuracy)}"
        ring = [(where[0] + dx, where[1] + dy) for dx in (-11, 0, 11) for dy in (-11, 0, 11)]
        labels.append(place(text, where, frame.bounds, obstacles + ring, [each.box for each in labels], 13))
    first = result.steps[0]
    if placed(first, frame.axis):
        text = f"baseline {percent(first.validation_accuracy)}"
        air = Box(frame.bounds.left, 0, frame.bounds.right, frame.bounds.bottom)
        labels.append(place(text, frame.at(first), air, obstacles, [each.box for each in labels]))
    below = [step for step in frame.steps if step.validation_accuracy < frame.y.low]
    if below:
        lowest = min(step.validation_accuracy for step in below)
        text = f"▾ {plural(len(below), 'step')} down to {percent(lowest)}"
        spot = min(frame.at(step) for step in below)
        labels.append(place(text, spot, frame.bounds, obstacles, [each.box for each in labels]))
    return [element("text", each.text, x=each.x, y=each.y, class_=f"label {each.anchor}") for each in labels]


def _floor_label(result: ShrinkResult, frame: Frame, size: str) -> list[Label]:
    bound = floor(result)
    if bound is None:
        return []
    allowed = result.steps[0].validation_accuracy - bound
    text = f"below the floor: more than {points(allowed)} lost"
    if size == "narrow" or allowed <= 0:
        text = "below the floor"
    return [Label(text, frame.bounds.left + 8, min(frame.y(bound) + 18, frame.bounds.bottom - 6), "start")]


def _way(result: ShrinkResult, frame: Frame) -> list[Step]:
    return [step for step in frame.steps if step is result.steps[0] or step.stage == "prune"]


def _step_text(step: Step) -> str:
    lines = [f"Step {count(step.index)}: {step.stage}{', kept' if step.kept else ''}"]
    accuracy = percent(step.validation_accuracy)
    if step.index:
        accuracy += f" ({change(-step.loss_points)}, ± {abs(step.standard_error):.2f})"
    lines.append(accuracy)
    lines.append(", ".join(amount(step, axis) for axis in AXES if placed(step, axis)))
    if step.latency_ms is not None:
        lines.append(milliseconds(step.latency_ms))
    return "\n".join([*lines, step.what])


def _tick(value: float) -> str:
    """An accuracy on the axis: as many decimals as its step needs."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if value != round(value, 1) else f"{value:.1f}"
