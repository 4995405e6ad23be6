"""Document 003's tables 5.1 to 5.8 again: its values and ours in one layout, as text.

    5.1               time and steps of the original
    5.2, 5.3          with bisection
    5.4, 5.5          with interpolators built once
    5.6, 5.7, 5.8     seconds to simplify one block, by strategy
    figures 5.1, 5.9  seconds of each stage of one block
    figure 5.6        the worked example of a bisection
    figure 5.14       accuracy and time of whole searches, in a full run

Rows of the document come first and are marked; the layout is that of `hardware_tables`.

Example:
    >>> [each.number for each in tables([], [])][:4]
    ['5.1', '5.2', '5.3', '5.4']
    >>> tables([], [])[0].rows[0].cells
    ('MobileNet V1', '0.01', '34,340', '40', '858')
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from tersa.adapt.netadapt import bisecting, linear
from tersa.recipes import published_adaptation as published
from tersa.recipes.adaptation_result import REMEDIES, Remedy, Searched, Timed
from tersa.recipes.hardware_tables import Line, Table
from tersa.report.numbers import factor, percent

NAMES = {"alexnet": "AlexNet", "mobilenet": "MobileNet V1", "vgg19": "VGG19"}
COLUMNS: dict[Remedy, str] = {
    "original": "original, s",
    "interpolation": "interpolators once, s",
    "bisection_interpolation": "and bisection, s",
    "file_interpolation": "once and table in memory, s",
}
TOTALS: tuple[tuple[str, str, Remedy], ...] = (
    ("5.2", "mobilenet", "bisection"),
    ("5.3", "alexnet", "bisection"),
    ("5.4", "mobilenet", "interpolation"),
    ("5.5", "alexnet", "interpolation"),
)
WORDS = {"bisection": "bisection", "interpolation": "interpolators built once"}
BLOCKS = (("5.6", "alexnet"), ("5.7", "mobilenet"), ("5.8", "vgg19"))


def tables(timed: Sequence[Timed], searched: Sequence[Searched]) -> list[Table]:
    """Every table, the document's values alone where nothing was measured."""
    return [
        _originals(timed),
        *(_totals(timed, number, network, remedy) for number, network, remedy in TOTALS),
        *(_blocks(timed, number, network) for number, network in BLOCKS),
        *(_stages(each) for each in timed),
        _remedies(timed),
        _example(),
        *([_searches(searched)] if searched else []),
    ]


def _name(each: Timed) -> str:
    return f"{NAMES[each.network]} {each.side}x{each.side}"


def _seconds(value: float) -> str:
    return f"{value:,.3f}" if value < 10 else f"{value:,.0f}"


def _originals(timed: Sequence[Timed]) -> Table:
    rows = [
        Line((NAMES[row.network], f"{row.delta:g}", *_way(row.seconds, row.steps)), published=True)
        for row in published.originals()
    ]
    rows += [
        Line((_name(each), f"{each.delta:g}", *_way(each.total("original"), each.steps))) for each in timed
    ]
    columns = ("network", "delta", "whole adaptation, s", "steps", "a step, s")
    note = (
        "The document's candidates ran side by side on several GPUs; ours one after another, on one thread."
    )
    return Table("5.1", "How long does the original take?", columns, tuple(rows), note)


def _way(seconds: float, steps: int) -> tuple[str, str, str]:
    return _seconds(seconds), str(steps), _seconds(seconds / steps)


def _totals(timed: Sequence[Timed], number: str, network: str, remedy: Remedy) -> Table:
    rows = [
        Line(
            (
                f"delta {row.delta:g}",
                f"{row.original_minutes:,.0f}",
                f"{row.minutes:,.0f}",
                f"{row.speedup:g}×",
            ),
            published=True,
        )
        for row in published.totals()
        if row.table == number
    ]
    for each in [one for one in timed if one.network == network]:
        before, after = each.total("original") / 60, each.total(remedy) / 60
        name = f"{each.side}x{each.side}, delta {each.delta:g}"
        rows.append(Line((name, f"{before:,.1f}", f"{after:,.1f}", factor(before / after))))
    title = f"What does {WORDS[remedy]} save {NAMES[network]}?"
    return Table(number, title, ("", "original, min", f"{WORDS[remedy]}, min", "times faster"), tuple(rows))


def _blocks(timed: Sequence[Timed], number: str, network: str) -> Table:
    fields = [f"{remedy}_s" for remedy in COLUMNS]
    rows = [
        Line((f"block {row.block}", *(f"{getattr(row, name):,.3f}" for name in fields)), published=True)
        for row in published.blocks()
        if row.network == network
    ]
    for each in [one for one in timed if one.network == network]:
        for block in sorted({row.block for row in each.blocks}):
            cells = (_seconds(each.of_block(block, remedy)) for remedy in COLUMNS)
            rows.append(Line((f"{each.side}x{each.side}, delta {each.delta:g}, block {block}", *cells)))
    title = f"How long does it take to find one block's width in {NAMES[network]}?"
    return Table(number, title, ("", *COLUMNS.values()), tuple(rows))


def _stages(each: Timed) -> Table:
    """Figures 5.1, 5.2 and 5.9 as numbers."""
    rows: list[Line] = []
    for block in sorted({row.block for row in each.blocks}):
        name = next(row.name for row in each.blocks if row.block == block)
        stages = ("original", "finetune_s", "evaluate_s", "ours", "score_s")
        rows.append(Line((f"{block}: {name}", *(_seconds(each.of_block(block, stage)) for stage in stages))))
    columns = ("block", "search, s", "fine-tune, s", "evaluation, s", "our search, s", "NAS-WOT, s")
    title = f"Where does the time of one candidate go? {_name(each)}, delta {each.delta:g}"
    number = {"alexnet": "figure 5.1", "mobilenet": "figure 5.9"}.get(each.network, "figure 5.2")
    note = "The document's figures 5.1, 5.2 and 5.9 are pictures without values."
    return Table(number, title, columns, tuple(rows), note)


def _remedies(timed: Sequence[Timed]) -> Table:
    """The whole adaptation with each remedy, and with NAS-WOT for the first 70 % of the way."""
    claim = factor(published.claim("h30_naswot_speedup"))
    rows = [Line(("AlexNet, delta 0.01: H30 with NAS-WOT", claim), published=True)]
    for each in timed:
        whole, name = each.total("original"), f"{_name(each)}, delta {each.delta:g}"
        for remedy in REMEDIES[1:]:
            rows.append(Line((f"{name}: {remedy.replace('_', ' and ')}", factor(whole / each.total(remedy)))))
        rows.append(Line((f"{name}: H30 with NAS-WOT, search in memory", factor(whole / each.hybrid()))))
    note = (
        "In the last 30 % of the way every candidate is fine-tuned here, as in the document; tersa adapt "
        "fine-tunes a short list of two, which benchmarks/adaptation_speed.py measures."
    )
    return Table("figure 5.14", "What is each remedy worth in all?", ("", "times faster"), tuple(rows), note)


def _example() -> Table:
    """Figure 5.6: estimates of the document's bisection, and of ours, on its latencies."""
    latency = dict(published.bisection_example())
    widths = sorted(latency)
    slow = linear(widths, latency.__getitem__, 0.5)
    fast = bisecting(widths, latency.__getitem__, 0.5, threshold=1)
    assert slow is not None
    assert fast is not None
    rows = (
        Line(("linear search", "24", "10"), published=True),
        Line(("bisection, threshold 1", "24", "5"), published=True),
        Line(("linear search", str(slow.width), str(slow.tries))),
        Line(("bisection, threshold 1", str(fast.width), str(fast.tries))),
    )
    columns = ("latency at most 0.5", "width found", "estimates")
    return Table("figure 5.6", "How many estimates does its example take?", columns, rows)


def _searches(searched: Sequence[Searched]) -> Table:
    """Figures 5.14 and 5.15 as numbers: means over seeds."""
    rows: list[Line] = []
    for network, strategy in dict.fromkeys((row.network, row.strategy) for row in searched):
        own = [row for row in searched if (row.network, row.strategy) == (network, strategy)]
        ratio = mean(row.speedup or 0.0 for row in own)
        rows.append(
            Line(
                (
                    f"{NAMES[network]}, {strategy}",
                    f"{mean(row.search_s for row in own) / 60:,.1f}",
                    percent(mean(row.accuracy for row in own)),
                    percent(mean(row.baseline for row in own)),
                    factor(ratio),
                    str(len(own)),
                )
            )
        )
    columns = ("strategy", "search, min", "test accuracy", "before", "faster", "seeds")
    title = "How accurate is what each strategy ends with?"
    return Table("figure 5.15", title, columns, tuple(rows))
