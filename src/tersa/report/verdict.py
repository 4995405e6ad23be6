"""The headline of a result: one sentence that is true, and one line that supports it.

    312 times smaller and 6 times faster, for 0.21 points.
    80 times smaller, no faster on this machine, for 0.10 points.
    Goal missed: asked for half the latency, reached 0.71×. Best found: 12 times smaller, ...

`Smaller` counts parameters. `Faster` is said only when the 95 % interval of the measured ratio lies above 1
and the gain is one that anybody would notice; slower is always said. The verdict of a result that missed a
goal begins with the miss.
"""

from __future__ import annotations

from tersa.records.results import Goal, ShrinkResult
from tersa.report.numbers import (
    SAME_BELOW,
    count,
    factor,
    percent,
    plural,
    points,
    precision_text,
    si,
    size,
    times,
)
from tersa.report.tables import goal_value, main_comparison

RATIO_WORDS = {0.5: "half", 0.25: "a quarter of", 0.1: "a tenth of"}


def headline(result: ShrinkResult) -> tuple[str, str]:
    """Verdict and detail line of a result, from its figures, goals and comparisons.

    The result's own `verdict` and `detail` are not read, so that the caller can fill them with this.

    Returns:
        (verdict, detail): one or two sentences that fit a title, and the sentences below it.
    """
    found = summary(result)
    missed = [_missed(goal, result) for goal in result.goals if not goal.met]
    if not missed:
        return f"{_capital(found)}.", detail(result)
    label = "Goal missed" if len(missed) == 1 else f"{len(missed)} goals missed"
    return f"{label}: {'; '.join(missed)}. Best found: {found}.", detail(result)


def summary(result: ShrinkResult) -> str:
    """What was won and what it cost, without a capital or a full stop."""
    smaller, faster = _size_words(result.compression), _speed_words(result)
    if result.sparse:  # zeros: fewer weights, but neither the file nor the work shrinks
        smaller = smaller.replace("smaller", "fewer weights")
    won = result.compression >= SAME_BELOW
    both = won and faster.endswith("times faster")
    text = f"{smaller} and {faster}" if both else f"{smaller}, {faster}"
    return f"{text}, {_accuracy_words(result)}"


def detail(result: ShrinkResult) -> str:
    """Accuracies with the number of test images, the file's size, and what the exported file answers."""
    images = result.split_sizes.get("test", result.agreement.images)
    before, after = result.baseline, result.result
    return (
        f"{percent(before.test_accuracy)} became {percent(after.test_accuracy)} on {_images(images)}. "
        f"{file_words(before.size_bytes, after.size_bytes)} {agreement_words(result)}"
    )


def file_words(before: int, after: int) -> str:
    """What became of the file.

    >>> file_words(13_100_000, 13_800), file_words(10_000, 12_000)
    ('The file went from 13.1 MB to 13.8 kB.', 'The file grew from 10.0 kB to 12.0 kB.')
    """
    if after > before:
        return f"The file grew from {size(before)} to {size(after)}."
    if after == before:
        return f"The file still takes {size(after)}."
    return f"The file went from {size(before)} to {size(after)}."


def agreement_words(result: ShrinkResult) -> str:
    """On how many images the exported file names the class that the trained network names."""
    same, images = result.agreement.same_class, result.agreement.images
    if images <= 0:
        return "The exported file was not compared with the trained network."
    precision = result.result.precision
    what = "exported file" if precision == "fp32" else f"exported {precision_text(precision)} file"
    network = "float network" if precision == "int8" else "trained network"
    if same == images:
        everywhere = (
            "every one of them" if images == result.split_sizes.get("test", images) else _every(images)
        )
        return f"The {what} gave the {network}'s answer on {everywhere}."
    return f"The {what} gave the {network}'s answer on {count(same)} of {plural(images, 'image')}."


def _size_words(compression: float) -> str:
    if compression >= SAME_BELOW:
        return f"{times(compression)} times smaller"
    if compression > 1 / SAME_BELOW:
        return "no smaller"
    return f"{times(1 / compression)} times bigger" if compression > 0 else "bigger"


def _speed_words(result: ShrinkResult) -> str:
    """From the comparison on the goal's target; its interval decides, not its median."""
    comparison = main_comparison(result)
    if comparison is None or comparison.verdict == "not offered" or not comparison.speedup:
        return "speed not measured"
    if comparison.verdict == "slower":
        by = 1 / comparison.speedup
        how = f"{times(by)} times slower" if by >= SAME_BELOW else "slightly slower"
        return f"{how} on this machine"
    if comparison.verdict == "faster" and comparison.speedup >= SAME_BELOW:
        return f"{times(comparison.speedup)} times faster"
    return "no faster on this machine"


def _accuracy_words(result: ShrinkResult) -> str:
    loss = result.loss_points
    if abs(loss) < 0.005:
        return "at the same accuracy"
    if loss > 0:
        return f"for {points(loss)}"
    return f"and {points(-loss)} more accurate"


def _missed(goal: Goal, result: ShrinkResult) -> str:
    """One missed goal: what was asked and what was reached, as ratios where they were asked as ratios."""
    match goal.name:
        case "max-loss":
            return f"asked to lose at most {points(goal.asked)}, lost {points(goal.reached)}"
        case "min-accuracy":
            return f"asked for at least {percent(goal.asked)}, reached {percent(goal.reached)}"
        case "size":
            asked, reached = goal_value(goal, goal.asked), goal_value(goal, goal.reached)
            return f"asked for a file of at most {asked}, reached {reached}"
        case "latency":
            return _missed_ratio(goal, result.baseline.latency_ms.median, "the latency")
        case "energy":
            return _missed_ratio(goal, result.baseline.energy_mj or 0.0, "the energy")
        case "macs":
            return _missed_ratio(goal, float(result.baseline.macs), "the MACs")
        case "parameters" | "coded-size":
            return f"asked for {goal.text}, reached {goal_value(goal, goal.reached)}"
        case _:
            return f"asked to {goal.text}, reached {goal_value(goal, goal.reached)}"


def _missed_ratio(goal: Goal, baseline: float, noun: str) -> str:
    asked = goal.asked / baseline if baseline > 0 else 0.0
    if not 0 < asked < 1 or abs(asked - round(asked, 2)) > 1e-6:  # an absolute bound, such as 2 ms
        short = si(goal.reached) if goal.unit == "MACs" else goal_value(goal, goal.reached)
        return f"asked for at most {goal_value(goal, goal.asked)}, reached {short}"
    words = RATIO_WORDS.get(round(asked, 2), f"{asked:.2g}×")
    return f"asked for {words} {noun}, reached {factor(goal.reached / baseline)}"


def _images(images: int) -> str:
    return plural(images, "test image")


def _every(images: int) -> str:
    return f"every one of {plural(images, 'image')}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
