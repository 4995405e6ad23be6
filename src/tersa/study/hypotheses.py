"""Document 000's five expectations, judged by whatever cells a study holds.

    H1  without quantisation every rule reaches backpropagation's accuracy
    H2  six or seven bits are the limit: with fewer, accuracy falls considerably
    H3  the asymmetric and the symmetric quantiser do equally well
    H4  of the rules, the HSIC bottleneck withstands quantisation best
    H5  wider layers make up for coarse weights, more than further layers do

Each is turned into numbers in one way, written in its function: differences are means over pairs of cells
that are equal in everything else, with a 95 % interval; `SAME` points are no difference to speak of. A study
that lacks the cells leaves a hypothesis open and says which cells would decide it.

References:
    Document 000, section 4.3 (the expectations) and 6.1 (what its author concluded).

Example:
    >>> [judgement.verdict for judgement in judge([])]
    ['open', 'open', 'open', 'open', 'open']
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import Literal

from tersa.study.cell import Cell, CellResult
from tersa.study.pairing import LEARNED, QUANTISER_FIELDS, accuracy, by_setting, pairs
from tersa.study.statistics import PairedTest, paired_test

SAME = 1.0
"""Points of accuracy within which two settings count as equal."""
FALL = 5.0
"""Points below its own full precision (or, without one, its most bits) at which a network has fallen
considerably."""
LIMIT = (6.0, 7.0)
"""Bits at which the document expects the limit."""

Verdict = Literal["holds", "refuted", "open"]


@dataclass(frozen=True)
class Judgement:
    """One hypothesis and what the data say.

    Attributes:
        name: `H1` .. `H5`.
        claim: it in one sentence.
        verdict: `holds`, `refuted`, or `open` where the cells do not decide.
        evidence: the numbers that decided, in words.
        published: what the document concluded from its own runs.
    """

    name: str
    claim: str
    verdict: Verdict
    evidence: str
    published: Verdict


def judge(results: Iterable[CellResult]) -> list[Judgement]:
    """All five, in order."""
    rows = [result for result in results if result.test_accuracy is not None]
    return [_made(name, claim, test(rows), published) for name, claim, test, published in HYPOTHESES]


def _made(name: str, claim: str, found: tuple[Verdict, str], published: Verdict) -> Judgement:
    return Judgement(name, claim, found[0], found[1], published)


def equal_without_quantisation(rows: Sequence[CellResult]) -> tuple[Verdict, str]:
    """H1: each rule against backpropagation in float32; one rule surely `SAME` points below refutes it."""
    floats = [row for row in rows if row.cell.quant == "none"]
    others = [rule for rule in _values(floats, "rule") if rule != "bp"]
    tests = {rule: _test(floats, "rule", "bp", rule, fixed=QUANTISER_FIELDS) for rule in others}
    known = {rule: test for rule, test in tests.items() if test is not None}
    if not known:
        return "open", "needs float32 cells of backpropagation and of another rule with equal settings"
    words = "; ".join(f"{rule} {_points(test)} against bp" for rule, test in known.items())
    return _all_of([_at_least(test, -SAME) for test in known.values()]), words


def limit_at_six_or_seven(rows: Sequence[CellResult]) -> tuple[Verdict, str]:
    """H2: the fewest bits from which on a curve stays within `FALL` points of its reference, as a median.

    A curve is a setting over its bits. Curves whose reference is below `LEARNED` are left out; those that
    fall at every width count as one bit more than their most.
    """
    found = {name: [least for least in map(_least_bits, curves) if least] for name, curves in _curves(rows)}
    known = {name: bits for name, bits in found.items() if bits}
    if not known:
        return "open", "needs cells of several bit widths that reach 8 bits or are held against float32"
    every = [least for bits in known.values() for least in bits]
    words = "; ".join(f"{name}: {_bits(median(bits))}" for name, bits in known.items())
    middle = float(median(every))
    holds = LIMIT[0] <= middle <= LIMIT[1]
    text = f"the median curve needs {_bits(middle)} ({len(every)} curves); {words}"
    return ("holds" if holds else "refuted"), text


def quantisers_equal(rows: Sequence[CellResult]) -> tuple[Verdict, str]:
    """H3: asymmetric minus symmetric, over pairs of which at least one learned."""
    test = _test(rows, "quant", "symmetric", "asymmetric", learned=True)
    if test is None:
        return "open", "needs cells that differ in the quantiser only, symmetric and asymmetric"
    return _equal(test), f"asymmetric {_points(test)} against symmetric"


def hsic_withstands_best(rows: Sequence[CellResult]) -> tuple[Verdict, str]:
    """H4: HSIC minus every other rule on quantised pairs of which one learned; one better rule refutes it."""
    quantised = [row for row in rows if row.cell.quant != "none"]
    rules = _values(quantised, "rule")
    verdicts: list[Verdict] = []
    words: list[str] = []
    for hsic in (rule for rule in rules if rule.startswith("hsic")):
        for other in (rule for rule in rules if not rule.startswith("hsic")):
            test = _test(quantised, "rule", other, hsic, learned=True)
            if test is not None:
                verdicts.append(_at_least(test, 0.0))
                words.append(f"{hsic} {_points(test)} against {other}")
    if not verdicts:
        return "open", "needs quantised cells of HSIC and of another rule with equal settings"
    return _all_of(verdicts), "; ".join(words)


def width_beats_depth(rows: Sequence[CellResult]) -> tuple[Verdict, str]:
    """H5: the gain of wider layers at equal depth, and of more layers at equal width, on quantised cells.

    Holds where widening gains for sure and gains more than deepening; refuted where it surely gains nothing
    or deepening surely gains and gains more.
    """
    quantised = [row for row in rows if row.cell.quant != "none"]
    wider = _network_test(quantised, lambda a, b: a[0] == b[0] and a[1] < b[1])
    deeper = _network_test(quantised, lambda a, b: a[1] == b[1] and a[0] < b[0])
    if wider is None or deeper is None:
        return "open", "needs MLPs of equal depth and different width, and of equal width and different depth"
    text = f"wider layers {_points(wider)}; more layers {_points(deeper)}"
    if min(wider.pairs, deeper.pairs) == 1:
        return "open", text
    if wider.low > 0 and wider.difference > deeper.difference:
        return "holds", text
    if wider.high <= 0 or (deeper.low > 0 and deeper.difference > wider.difference):
        return "refuted", text
    return "open", text


HYPOTHESES: tuple[
    tuple[str, str, Callable[[Sequence[CellResult]], tuple[Verdict, str]], Verdict], ...
] = (
    (
        "H1",
        "Without quantisation every rule reaches backpropagation's accuracy.",
        equal_without_quantisation,
        "refuted",
    ),
    (
        "H2",
        "Six or seven bits are the limit: with fewer, accuracy falls considerably.",
        limit_at_six_or_seven,
        "holds",
    ),
    ("H3", "Asymmetric and symmetric quantisers do equally well.", quantisers_equal, "refuted"),
    (
        "H4",
        "Of the rules, the HSIC bottleneck withstands quantisation best.",
        hsic_withstands_best,
        "refuted",
    ),
    (
        "H5",
        "Wider layers make up for coarse weights, more than further layers do.",
        width_beats_depth,
        "holds",
    ),
)  # fmt: skip


def shape_of(model: str) -> tuple[int, int] | None:
    """(hidden layers, width) of an MLP whose hidden layers are equally wide, else None.

    >>> shape_of("mlp:100x100"), shape_of("lenet")
    ((2, 100), None)
    """
    kind, _, widths = model.partition(":")
    found = widths.split("x")
    if kind != "mlp" or len(set(found)) != 1 or not found[0].isdigit():
        return None
    return len(found), int(found[0])


def _test(
    rows: Sequence[CellResult],
    field: str,
    first: object,
    second: object,
    *,
    fixed: Iterable[str] = (),
    learned: bool = False,
) -> PairedTest | None:
    found = pairs(rows, field, first, second, fixed=fixed, learned=learned)
    if not found:
        return None
    return paired_test([accuracy(a) for a, _ in found], [accuracy(b) for _, b in found])


def _network_test(
    rows: Sequence[CellResult], follows: Callable[[tuple[int, int], tuple[int, int]], bool]
) -> PairedTest | None:
    """All pairs of networks that `follows` puts in order, tested together."""
    shapes = {model: shape for model in _values(rows, "model") if (shape := shape_of(model)) is not None}
    found = [
        pair
        for a, first in shapes.items()
        for b, second in shapes.items()
        if follows(first, second)
        for pair in pairs(rows, "model", a, b, learned=True)
    ]
    if not found:
        return None
    return paired_test([accuracy(a) for a, _ in found], [accuracy(b) for _, b in found])


def _curves(rows: Sequence[CellResult]) -> list[tuple[str, list[tuple[dict[int, float], float | None]]]]:
    """By rule and range: mean accuracy by bits of every curve, with its float32 reference if there is one."""
    floats: dict[tuple[str, str, str], float] = {}
    for found in by_setting(row for row in rows if row.cell.quant == "none").values():
        place = _place(found[0].cell)
        floats[place] = max(floats.get(place, 0.0), sum(map(accuracy, found)) / len(found))
    curves: dict[tuple[str, object], dict[int, list[float]]] = {}
    places: dict[tuple[str, object], Cell] = {}
    for row in rows:
        if row.cell.quant == "none":
            continue
        cell = row.cell
        how = "" if cell.storage == "inplace" else f", {cell.storage}"
        key = (f"{cell.rule}, {cell.range} range{how}", cell.model_copy(update={"bits": 8, "seed": 0}).key)
        curves.setdefault(key, {}).setdefault(cell.bits, []).append(accuracy(row))
        places[key] = cell
    named = [
        (key[0], ({bits: sum(v) / len(v) for bits, v in each.items()}, floats.get(_place(places[key]))))
        for key, each in curves.items()
    ]
    named.sort(key=lambda pair: pair[0])
    return [(name, [curve for _, curve in group]) for name, group in groupby(named, key=lambda pair: pair[0])]


def _place(cell: Cell) -> tuple[str, str, str]:
    return cell.data, cell.model, cell.rule


def _least_bits(curve: tuple[dict[int, float], float | None]) -> int | None:
    """Fewest bits from which on the curve stays near its reference; None where nothing can be said."""
    means, reference = curve
    most = max(means)
    if reference is None:
        if most < 8:
            return None
        reference = means[most]
    if reference < LEARNED or len(means) < 2:
        return None
    least = most + 1
    for bits in sorted(means, reverse=True):
        if means[bits] < reference - FALL:
            break
        least = bits
    return least


def _bits(median_bits: float) -> str:
    return f"{median_bits:g} bits" if median_bits <= 8 else "more than 8 bits"


def _values(rows: Iterable[CellResult], field: str) -> list[str]:
    return list(dict.fromkeys(str(getattr(row.cell, field)) for row in rows))


def _at_least(test: PairedTest, bound: float) -> Verdict:
    """The difference is surely at least `bound`, surely below it, or neither; one pair is sure of nothing."""
    if test.pairs == 1:
        return "open"
    if test.low >= bound:
        return "holds"
    return "refuted" if test.high < bound else "open"


def _equal(test: PairedTest) -> Verdict:
    """Surely within `SAME` points, surely different and by more than that, or neither."""
    if test.pairs == 1:
        return "open"
    if test.low >= -SAME and test.high <= SAME:
        return "holds"
    return "refuted" if test.low * test.high > 0 and abs(test.difference) > SAME else "open"


def _all_of(verdicts: Sequence[Verdict]) -> Verdict:
    """One refutation refutes a claim about all; it holds only where every part does."""
    if "refuted" in verdicts:
        return "refuted"
    return "holds" if all(verdict == "holds" for verdict in verdicts) else "open"


def _points(test: PairedTest) -> str:
    if test.pairs == 1:
        return f"{_signed(test.difference)} points (1 pair, no interval)"
    ends = f"{_signed(test.low)}, {_signed(test.high)}"
    return f"{_signed(test.difference)} points [{ends}] ({test.pairs} pairs)"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")
