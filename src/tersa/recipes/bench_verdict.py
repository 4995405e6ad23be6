"""What a benchmark says, in words: the quickest combination, what it costs in accuracy, and against what.

The headline compares medians only where a ratio was measured in the same rounds.
"""

from __future__ import annotations

from collections.abc import Sequence

from tersa.recipes.bench_result import BenchResult
from tersa.records.results import Comparison, Measurement
from tersa.report.numbers import milliseconds, percent, points, precision_text, si, times
from tersa.report.tables import target_name
from tersa.targets.energy import NOT_MEASURED
from tersa.targets.ssh import is_remote
from tersa.targets.sweep import Row


def headline(result: BenchResult) -> tuple[str, str]:
    """Verdict and detail."""
    batch = min(row.batch for row in result.measurements)
    rows = [row for row in result.measurements if row.batch == batch]
    first = next((row for row in rows if result.leads(row)), None)
    best = min(rows, key=lambda row: row.latency_ms.median)
    if len(rows) == 1 or (first is not None and _key(best) == _key(first)):
        verdict = f"{name(best)} takes {milliseconds(best.latency_ms.median)}"
        verdict += "" if len(rows) == 1 else ", and nothing here is quicker"
    elif first is None:
        verdict = f"{name(best)} is the quickest: {milliseconds(best.latency_ms.median)}"
    else:
        pair = _pair(result, first, best)
        if pair is not None and pair.speedup is not None and pair.verdict == "faster":
            verdict = f"{name(best)} is {times(pair.speedup)} times faster than {name(first)}"
        elif pair is not None and pair.verdict == "no difference":
            verdict = f"Nothing here is measurably faster than {name(first)}"
        else:
            verdict = f"{name(best)} is the quickest: {milliseconds(best.latency_ms.median)}"
    return verdict, " ".join(_sentences(result, first, best, batch))


def name(row: Measurement) -> str:
    """A combination in words.

    Example: `lenet on ONNX Runtime in INT8`.
    """
    return f"{short(row.model)} on {_target(row.target)} in {precision_text(row.precision)}"


def short(model: str) -> str:
    """A path by its last two parts.

    >>> short("somewhere/runs/demo/model.onnx"), short("lenet")
    ('demo/model.onnx', 'lenet')
    """
    return "/".join([part for part in model.split("/") if part][-2:])


def energy_known(rows: Sequence[Row]) -> str:
    """How energy was known, in a sentence."""
    found = list(dict.fromkeys(f"{row.energy.source}: {row.energy.how}" for row in rows if row.energy))
    known = sum(row.energy is not None for row in rows)
    if not known:
        return NOT_MEASURED
    kinds = sorted({row.energy.source for row in rows if row.energy})
    short_of = f"; {len(rows) - known} of {len(rows)} rows without" if known < len(rows) else ""
    return (found[0] if len(found) == 1 else ", ".join(kinds)) + short_of


def unled(result: BenchResult) -> list[str]:
    """A note for every target on which nothing is compared, because the reference was not measured there."""
    known = result.reference
    if known is None or len({(row.model, row.precision) for row in result.measurements}) < 2:
        return []
    targets = dict.fromkeys(row.target for row in result.measurements)
    led = {row.target for row in result.measurements if result.leads(row)}
    return [
        f"nothing is compared on {target}: the reference, {short(known.model)}, was not measured there"
        + (f" in {precision_text(known.precisions[target])}" if target in known.precisions else "")
        for target in targets
        if target not in led
    ]


def fewer_starts(rows: Sequence[Row], asked: int) -> list[str]:
    """A note for every target whose networks were started less often than asked."""
    found: dict[tuple[str, int], list[int]] = {}
    for row in rows:
        if row.starts < asked:
            found.setdefault((row.target, row.starts), []).append(row.batch)
    return [
        f"{target}: {made} of {asked} starts of each network at batch {_listed(batches)} "
        + (
            "(rounds on another machine are those of one process)"
            if is_remote(target)
            else "(a start or a call takes too long for more)"
        )
        + "; the intervals there leave out how processes differ"
        for (target, made), batches in found.items()
    ]


def _listed(batches: Sequence[int]) -> str:
    return ", ".join(map(str, sorted(set(batches))))


def _sentences(result: BenchResult, first: Row | None, best: Row, batch: int) -> list[str]:
    images = "one image" if batch == 1 else f"{batch} images"
    said = [f"A call of {images} takes {milliseconds(best.latency_ms.median)} there"]
    other = first if first is not None and _key(best) != _key(first) else None
    if other is not None:
        said[0] += f", and {milliseconds(other.latency_ms.median)} with the reference"
    said[0] += "."
    if other is not None and best.test_accuracy is not None and other.test_accuracy is not None:
        lost = other.test_accuracy - best.test_accuracy
        word = (
            "as exact" if abs(lost) < 0.005 else f"{points(abs(lost))} {'less' if lost > 0 else 'more'} exact"
        )
        said.append(f"It is {word} ({percent(best.test_accuracy)} of the test images).")
    most = max(result.measurements, key=lambda row: row.images_per_s)
    if most.batch != batch:
        said.append(f"Most images in a second: {si(most.images_per_s)}, {name(most)} at batch {most.batch}.")
    ended = [gap for gap in result.not_offered if gap.kind == "out of memory" and gap.batch is not None]
    if ended:
        said.append(f"Memory ended for {len(ended)} of the combinations.")
    wrong = [gap for gap in result.not_offered if gap.kind in ("wrong outputs", "failed")]
    if wrong:
        said.append(f"{len(wrong)} went wrong: see below.")
    return said


def _target(text: str) -> str:
    """Runtime, and its options where they are not one thread."""
    runtime, options = target_name(text)
    return runtime if options in ("", "threads=1") else f"{runtime} ({options})"


def _key(row: Measurement) -> tuple[str, str, str]:
    return row.model, row.target, row.precision


def _pair(result: BenchResult, first: Row, best: Row) -> Comparison | None:
    """The comparison of two rows that were timed in the same rounds."""
    for pair in [*result.comparisons, *result.across]:
        before, after = pair.before, pair.after
        if (
            before
            and after
            and before.batch == best.batch
            and _key(before) == _key(first)
            and _key(after) == _key(best)
        ):
            return pair
    return None
