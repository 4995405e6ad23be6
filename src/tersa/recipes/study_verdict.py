"""The answer of a study in one sentence: how many bits are enough, for which rule.

A rule is held against itself: its reference is its most accurate network without quantisation or, where the
study has none, its most accurate setting with most bits. A bit width is enough where some setting of that
network loses at most `ENOUGH` points. A rule whose reference is more than `FAR` points behind the study's
best falls too far behind to be asked.

Example:
    >>> from tersa.study.cell import Cell
    >>> from tersa.study.pairing import finished
    >>> rows = [finished(Cell(quant="symmetric", bits=b), a) for b, a in ((2, 12.0), (3, 96.5), (8, 97.5))]
    >>> verdict(rows).headline
    '3 bits are enough for backpropagation'
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from tersa.recipes.published import FAMILY
from tersa.study.cell import Cell, CellResult
from tersa.study.pairing import accuracy, by_setting

ENOUGH = 2.0
"""Points that a bit width may lose and still be enough."""
FAR = 15.0
"""Points behind the best rule at which a rule is not asked how many bits it needs."""

WORDS = {
    "bp": "backpropagation",
    "fa": "feedback alignment",
    "dfa": "direct feedback alignment",
    "hsic": "HSIC",
    "dni": "synthetic gradients",
    "dni-labels": "synthetic gradients with labels",
}
"""Rules whose names are short forms; others are said as they are called."""


@dataclass(frozen=True)
class Answer:
    """What a study says.

    Attributes:
        headline: one sentence without a full stop.
        detail: the settings that it rests on.
    """

    headline: str
    detail: str


@dataclass(frozen=True)
class Standing:
    """One rule in a study.

    Attributes:
        rule: its name.
        reference: percent that it is held against.
        against: what the reference is, in words.
        bits: fewest that are enough; None where no width is, or none was tried.
        best: accuracy of the best setting with those bits, or of the best of all.
        cell: of that setting.
        tried: bit widths in the study.
    """

    rule: str
    reference: float
    against: str
    bits: int | None
    best: float
    cell: Cell
    tried: tuple[int, ...]


def words_of(rule: str) -> str:
    """A rule as people say it.

    >>> words_of("fa-document"), words_of("forward-forward")
    ('feedback alignment', 'forward-forward')
    """
    family = rule.removesuffix(FAMILY)
    return WORDS.get(family, family)


def verdict(results: Sequence[CellResult]) -> Answer:
    """The answer of whatever has ended."""
    rows = [result for result in results if result.test_accuracy is not None]
    if not rows:
        return Answer("No run has ended yet", "There is nothing to say before the first one has.")
    data = list(dict.fromkeys(row.cell.data for row in rows))
    parts = [_of_data(rows, name) for name in data]
    if len(parts) == 1:
        return parts[0]
    return Answer(
        "; ".join(f"{name}: {part.headline}" for name, part in zip(data, parts, strict=True)),
        " ".join(f"{name}: {part.detail}" for name, part in zip(data, parts, strict=True)),
    )


def _of_data(rows: Sequence[CellResult], data: str) -> Answer:
    means = [
        (group[0].cell, fmean(map(accuracy, group)))
        for group in by_setting(row for row in rows if row.cell.data == data).values()
    ]
    rules = dict.fromkeys(cell.rule for cell, _ in means)
    standings = [_standing(rule, [pair for pair in means if pair[0].rule == rule]) for rule in rules]
    top = max(each.reference for each in standings)
    learning = [each for each in standings if each.reference >= top - FAR]
    failing = [each for each in standings if each.reference < top - FAR]
    if any(len(each.tried) > 1 for each in standings):
        parts = _enough(learning)
    else:
        parts = [f"{words_of(each.rule)} reaches {each.best:.1f} %" for each in learning]
    parts += [f"{words_of(each.rule)} falls far behind" for each in failing]
    headline = ", ".join(parts)
    return Answer(headline[:1].upper() + headline[1:], " ".join(map(_detail, standings)))


def _standing(rule: str, means: Sequence[tuple[Cell, float]]) -> Standing:
    floats = [pair for pair in means if pair[0].quant == "none"]
    quantised = [pair for pair in means if pair[0].quant != "none"]
    tried = tuple(sorted({cell.bits for cell, _ in quantised}))
    widest = [pair for pair in quantised if pair[0].bits == tried[-1]] if tried else []
    where, reference = max(floats or widest, key=lambda pair: pair[1])
    against = "without quantisation" if floats else f"with {where.bits} bits"
    here = [pair for pair in quantised if pair[0].model == where.model] or [(where, reference)]
    enough = [pair for pair in here if pair[0].quant != "none" and pair[1] >= reference - ENOUGH]
    fewest = min((cell.bits for cell, _ in enough), default=None)
    among = [pair for pair in here if fewest is None or pair[0].bits == fewest]
    cell, best = max(among, key=lambda pair: pair[1])
    return Standing(rule, reference, against, fewest, best, cell, tried)


def _enough(standings: Sequence[Standing]) -> list[str]:
    """`5 bits are enough for A and B`, `8 for C`, `not even 8 for D`."""
    groups: dict[int, list[str]] = {}
    for each in standings:
        if each.bits is not None:
            groups.setdefault(each.bits, []).append(words_of(each.rule))
    parts: list[str] = []
    for bits, names in sorted(groups.items()):
        verb = ("bit is enough" if bits == 1 else "bits are enough") if not parts else ""
        parts.append(" ".join(f"{bits} {verb} for {_and(names)}".split()))
    without = [each for each in standings if each.bits is None and each.tried]
    for most in sorted({each.tried[-1] for each in without}):
        names = _and([words_of(each.rule) for each in without if each.tried[-1] == most])
        parts.append(f"not even {most}{'' if parts else ' bits are enough'} for {names}")
    return parts


def _detail(each: Standing) -> str:
    name = words_of(each.rule)
    start = f"{name[:1].upper()}{name[1:]} reaches"
    if not each.tried:
        return f"{start} {each.best:.2f} % in {each.cell.model}, not quantised."
    how = f"{each.cell.quant}, range {each.cell.range}"
    how += f", {each.cell.storage}" if each.cell.storage != "inplace" else ""
    how += f" with {each.cell.extra_bits} extra bits" if each.cell.extra_bits else ""
    return (
        f"{start} {each.best:.2f} % with {each.cell.bits} bits in {each.cell.model} ({how}), "
        f"{each.reference:.2f} % {each.against}."
    )


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
