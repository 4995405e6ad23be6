"""What one published value is worth here: ours beside it, in one word.

    holds           within the tolerance, or inside our 95 % interval; accuracies of document 000 that are
                    both below `LEARNED` count as collapsed alike
    surpassed       ours is better by more than the tolerance
    falls short     ours is worse by more than the tolerance
    differs         by more than the tolerance, where no side is the better one; a conclusion that is not ours
    in part, not seen, open     what the document says in words, by `pruning_findings` and `study.hypotheses`
    other hardware  was measured on a machine that is not here; ours, where there is one, stands beside it
    not run         nothing of ours yet
    setting         how something was done, not what came of it

The tolerances are 1 point of an accuracy, 0.1 points of a loss, and 10 % of anything else.

Example:
    >>> from tersa.recipes.book_published import published
    >>> value = next(each for each in published() if each.what.startswith("B-VGG16"))
    >>> judge(value, Ours(key=value.key, value=87.5)), judge(value, Ours(key=value.key, value=90.6))
    ('holds', 'surpassed')
"""

from __future__ import annotations

from typing import Literal, cast

from tersa.recipes.book_found import Ours
from tersa.recipes.book_published import Published
from tersa.study.pairing import LEARNED

Verdict = Literal[
    "holds",
    "surpassed",
    "falls short",
    "differs",
    "in part",
    "not seen",
    "open",
    "other hardware",
    "not run",
    "setting",
]
DONE: tuple[Verdict, ...] = ("holds", "surpassed", "falls short", "differs", "in part", "not seen")
"""Those that compare something of ours."""
ACCURACY, POINTS, RELATIVE = 1.0, 0.1, 0.1
"""Tolerances: points of an accuracy, points of a loss, share of anything else."""


def tolerance(theirs: Published) -> float:
    """How far ours may be, in the value's unit."""
    if theirs.unit == "%":
        return ACCURACY
    return POINTS if theirs.unit == "points" else RELATIVE * abs(theirs.value or 0.0)


def judge(theirs: Published, ours: Ours | None) -> Verdict:
    """The word for one value; see the head of this file."""
    if theirs.kind != "result":
        return "setting" if theirs.kind == "setting" else "other hardware"
    if ours is None:
        return "not run"
    if theirs.value is None:
        return cast(Verdict, ours.finding)
    assert ours.value is not None
    gap = ours.value - theirs.value
    inside = ours.low is not None and ours.high is not None and ours.low <= theirs.value <= ours.high
    accuracy = theirs.experiment == "quantized-training" and theirs.unit == "%"
    collapsed = accuracy and max(ours.value, theirs.value) < LEARNED
    if inside or collapsed or abs(gap) <= tolerance(theirs):
        return "holds"
    if not theirs.better:
        return "differs"
    return "surpassed" if (gap > 0) == (theirs.better == "higher") else "falls short"
