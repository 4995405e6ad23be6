"""What the trade-off curve sets accuracy against: parameters, MACs, or the size of the file.

Every step has parameters and MACs, but a file size only where it is known. Steps without one are left out of
that chart, which then says how many they are; with fewer than two sizes the chart is not offered.

Example:
    >>> title("size")
    'file size (log scale), smaller to the right →'
"""

from __future__ import annotations

from typing import Literal

from tersa.records.results import ShrinkResult, Step
from tersa.report.numbers import plural, si, size

Axis = Literal["parameters", "macs", "size"]

AXES: tuple[Axis, ...] = ("parameters", "macs", "size")
NAMES: dict[Axis, str] = {"parameters": "parameters", "macs": "MACs", "size": "file size"}
LEAST_SIZES = 2
"""Steps with a file size that make a curve."""


def offered(result: ShrinkResult) -> list[Axis]:
    """The axes that the reader can choose from, the first one shown."""
    return [axis for axis in AXES if axis != "size" or len(drawn(result, axis)) >= LEAST_SIZES]


def drawn(result: ShrinkResult, axis: Axis) -> list[Step]:
    """The steps that have a value on the axis."""
    return [step for step in result.steps if placed(step, axis)]


def placed(step: Step, axis: Axis) -> bool:
    """The step has a value on the axis."""
    return axis != "size" or step.size_bytes is not None


def left_out(result: ShrinkResult, axis: Axis) -> str:
    """How many steps are not drawn on the axis, in words; empty when all are."""
    missing = len(result.steps) - len(drawn(result, axis))
    if not missing:
        return ""
    return (
        f"{plural(missing, 'step')} without a known {NAMES[axis]} {'is' if missing == 1 else 'are'} left out."
    )


def cost(step: Step, axis: Axis) -> int:
    """What the axis counts, for a step that is `placed` on it; at least 1, for the logarithm."""
    value = {"parameters": step.parameters, "macs": step.macs, "size": step.size_bytes}[axis]
    assert value is not None, "steps without a size are not drawn"
    return max(1, value)


def amount(step: Step, axis: Axis) -> str:
    """The cost of a step with its unit: `10.5 k parameters`, `403 k MACs`, `13.8 kB`."""
    return short(step, axis) if axis == "size" else f"{short(step, axis)} {NAMES[axis]}"


def short(step: Step, axis: Axis) -> str:
    """The cost of a step where the axis is named already: `10.5 k`, `403 k`, `13.8 kB`."""
    return size(cost(step, axis)) if axis == "size" else si(cost(step, axis))


def rounded(value: float, axis: Axis) -> str:
    """A round count or size without decimals that say nothing.

    >>> rounded(300_000, "parameters"), rounded(1_000_000, "size"), rounded(500, "size"), rounded(20, "macs")
    ('300 k', '1 MB', '500 B', '20')
    """
    text, _, unit = (size(value) if axis == "size" else si(value)).partition(" ")
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {unit}".strip()


def title(axis: Axis) -> str:
    """What is written under the axis."""
    return f"{NAMES[axis]} (log scale), {'smaller' if axis == 'size' else 'fewer'} to the right →"
