"""The sentence under each title of the report: what the picture shows, said in numbers.

Pure functions from a result to plain text. A sentence never says more than its numbers: without
measurements it says that there are none.
"""

from __future__ import annotations

from collections import Counter

from tersa.records.results import Agreement, Measurement, ShrinkResult
from tersa.report.curve import floor
from tersa.report.numbers import count, duration, percent, plural, points, precision_text, share, si
from tersa.report.tables import kept_step, layer_unit, target_name
from tersa.report.verdict import agreement_words

GUESSES = "The baseline is hardly better than guessing: was it trained, were its weights given?"
"""A note of a run, which the terminal tells too."""


def subject(result: ShrinkResult) -> str:
    """Model, data and where the figures were measured: the line above the headline."""
    runtime, options = target_name(result.target)
    where = f"{runtime} ({options})" if options else runtime
    precision = precision_text(result.result.precision)
    return f"{result.model} on {result.task} · {where}, batch {result.batch}, {precision}"


def goals_line(result: ShrinkResult) -> str:
    """How many goals were met."""
    missed = sum(not goal.met for goal in result.goals)
    if not result.goals:
        return "no goal was asked"
    if missed:
        return f"{missed} of {plural(len(result.goals), 'goal')} missed"
    return "the goal was met" if len(result.goals) == 1 else f"all {len(result.goals)} goals were met"


def curve_words(result: ShrinkResult) -> str:
    """How far the network could be pruned before the floor, and what the picture's marks mean."""
    if not result.steps:
        return "No step was recorded."
    images = result.split_sizes.get("validation")
    where = f"the {plural(images, 'validation image')}" if images else "the validation images"
    pruned = [step for step in result.steps if step.stage == "prune"]
    bound = floor(result)
    text = f"Accuracy on {where} that steered every choice. The shade is one standard error of the loss."
    if bound is not None and pruned:
        above = [step for step in pruned if step.validation_accuracy >= bound]
        least = min((step.parameters for step in above), default=None)
        reached = f", the smallest with {si(least)} parameters" if least is not None else ""
        told = (
            f"{count(len(above))} of {plural(len(pruned), 'pruning step')} stayed above the floor{reached}. "
        )
        return told + text
    return text


def latency_words(result: ShrinkResult) -> str:
    """How the latencies were measured, in the words that hold for all of them."""
    measured = [item for each in result.comparisons for item in (each.before, each.after) if item is not None]
    if not measured:
        return "No runtime on this machine could be measured."
    parts = [
        _one("batch", {item.batch for item in measured}),
        _threads({item.threads for item in measured}),
        _rounds(measured),
    ]
    text = f"{'; '.join(parts)}. Dots are medians, bars their 95 % intervals: grey before, green after."
    return text[:1].upper() + text[1:]


def layer_words(result: ShrinkResult) -> str:
    """Which layer gave up most, and where the remaining work is."""
    cut = [layer for layer in result.layers if layer.before > layer.after]
    macs = sum(layer.macs_after for layer in result.layers)
    if not cut:
        return "No layer was made narrower."
    most = min(cut, key=lambda layer: layer.after / layer.before)
    text = (
        f"{most.name} gave up most: {count(most.after)} of {count(most.before)} {layer_unit(most)} are left."
    )
    busiest = max(result.layers, key=lambda layer: layer.macs_after)
    if macs:
        text += f" {busiest.name} now does {share(busiest.macs_after, macs)} of the multiplications."
    return text


def error_words(result: ShrinkResult) -> str:
    """How many test images are named wrongly, and how concentrated the errors are."""
    total = sum(map(sum, result.confusion))
    if not total:
        return "No test image was counted."
    wrong = total - sum(row[index] for index, row in enumerate(result.confusion))
    if not wrong:
        return f"All {plural(total, 'test image')} are named rightly."
    pairs = Counter[tuple[int, int]]()
    for row, counts in enumerate(result.confusion):
        pairs.update({(row, column): times for column, times in enumerate(counts) if column != row and times})
    first = pairs.most_common(5)
    text = f"{count(wrong)} of {plural(total, 'test image')} are named wrongly"
    if len(pairs) > len(first) and wrong >= 10:
        text += (
            f"; the {len(first)} commonest confusions are {share(sum(n for _, n in first), wrong)} of them"
        )
    return f"{text}."


def way_words(result: ShrinkResult) -> str:
    """How many steps it took and how long."""
    pruned = sum(step.stage == "prune" for step in result.steps)
    kept = kept_step(result)
    text = f"{plural(pruned, 'pruning step')}, {duration(result.seconds)} in all."
    return text if kept is None else f"{text} The network of step {count(kept.index)} became the result."


def agreement_lines(result: ShrinkResult) -> list[str]:
    """What shows that the exported files compute what was trained."""
    lines = [f"{agreement_words(result)} {_difference(result.agreement)}".strip()]
    twin = result.reference_agreement
    if twin.images and result.result.precision == "int8":
        same = (
            "every image"
            if twin.same_class == twin.images
            else f"{count(twin.same_class)} of {count(twin.images)}"
        )
        told = f"Its FP32 twin, exported from the same network, gave the same class on {same}."
        lines.append(f"{told} {_difference(twin)}".strip())
    lines.append(
        f"Accuracy lost on the test images: {points(result.loss_points)}, "
        f"standard error {result.loss_standard_error:.2f} (both networks on the same images)."
    )
    return lines


def split_words(result: ShrinkResult) -> str:
    """The sizes of the splits: `train 54,000, validation 6,000, test 10,000`."""
    return ", ".join(f"{name} {count(size)}" for name, size in result.split_sizes.items())


def run_rows(result: ShrinkResult) -> list[tuple[str, str]]:
    """What the run was given: data, model, seed and where it was measured."""
    return [
        ("name", result.name),
        ("data", result.task),
        ("images", split_words(result)),
        ("model", result.model),
        ("seed", str(result.seed)),
        ("target", result.target),
        ("batch", str(result.batch)),
        ("precision", precision_text(result.result.precision)),
        ("time", duration(result.seconds)),
    ]


def note_lines(result: ShrinkResult) -> list[str]:
    """Remarks about the data and the run, none twice."""
    return list(dict.fromkeys(note for note in (result.task_note, *result.notes) if note))


def sample_words(label: str, predicted: str, probability: float) -> str:
    """One test image for those who cannot see it."""
    sure = percent(100 * probability, 0)
    return (
        f"{label}, named rightly ({sure})"
        if label == predicted
        else f"{label}, taken for {predicted} ({sure})"
    )


def _difference(agreement: Agreement) -> str:
    if not agreement.images or not agreement.tolerance:
        return ""
    found, allowed = f"{agreement.largest_difference:.1e}", f"{agreement.tolerance:.1e}"
    return f"Largest difference of any output: {found}, allowed {allowed}."


def _one(name: str, values: set[int]) -> str:
    return f"{name} {' or '.join(map(str, sorted(values)))}"


def _threads(values: set[int]) -> str:
    return plural(next(iter(values)), "thread") if len(values) == 1 else _one("threads", values)


def _rounds(measured: list[Measurement]) -> str:
    values = sorted({item.rounds for item in measured})
    rounds = str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"
    return f"{rounds} interleaved rounds, before and after in turn"
