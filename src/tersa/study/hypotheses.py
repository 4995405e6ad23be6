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
FEWEST, BEYOND = 2, 9
"""Bits of a curve's limit where no width fails, and where none up to 8 keeps."""

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
    fall at every width up to 8 count as 9 bits. Where widths next to a curve's limit were not tried, the
    limit is known between two ends only, and so is the median: the claim holds or is refuted where both ends
    say so.
    """
    found = {name: [limit for limit in map(_limit, curves) if limit] for name, curves in _curves(rows)}
    known = {name: limits for name, limits in found.items() if limits}
    if not known:
        return "open", "needs cells of several bit widths that reach 8 bits or are held against float32"
    every = [limit for limits in known.values() for limit in limits]
    words = "; ".join(f"{name}: {_bits(*_median(limits))}" for name, limits in known.items())
    low, high = _median(every)
    text = f"the median curve needs {_bits(low, high)} ({len(every)} curves); {words}"
    if high < LIMIT[0] or low > LIMIT[1]:
        return "refuted", text
    if LIMIT[0] <= low and high <= LIMIT[1]:
        return "holds", text
    unsure = [(least, most) for least, most in every if least < most]
    near = [(least, most) for least, most in unsure if least <= LIMIT[1] and most >= LIMIT[0]] or unsure
    missing = sorted({bits for least, most in near for bits in range(least, most)})
    return "open", f"{text}; needs cells of {', '.join(map(str, missing))} bits, too"


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


def _limit(curve: tuple[dict[int, float], float | None]) -> tuple[int, int] | None:
    """Least and most that the fewest bits can be from which on the curve stays near its reference: one more
    than the widest that fails, and the narrowest that keeps. None where nothing can be said.

    >>> _limit(({4: 60.0, 8: 97.0}, None)), _limit(({7: 96.0, 8: 97.0}, None)), _limit(({6: 1.0, 7: 2.0}, 97))
    ((5, 8), (2, 7), (8, 9))
    """
    means, reference = curve
    most = max(means)
    if reference is None:
        if most < 8:
            return None
        reference = means[most]
    if reference < LEARNED or len(means) < 2:
        return None
    least = BEYOND
    for bits in sorted(means, reverse=True):
        if means[bits] < reference - FALL:
            return bits + 1, least
        least = bits
    return min(least, FEWEST), least


def _median(limits: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """The ends between which the median of the limits lies."""
    return float(median(low for low, _ in limits)), float(median(high for _, high in limits))


def _bits(low: float, high: float) -> str:
    """A number of bits that is known between two ends.

    >>> _bits(5, 5), _bits(5, 8), _bits(9, 9), _bits(8, 9)
    ('5 bits', '5 to 8 bits', 'more than 8 bits', '8 bits or more')
    """
    if low == high:
        return f"{low:g} bits" if low <= 8 else "more than 8 bits"
    if high <= 8:
        return f"{low:g} to {high:g} bits"
    return f"{low:g} bits or more" if low <= 8 else "more than 8 bits"


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
