"""The cross table of document 003: the model adapted for A measured on B, in percent of the original.

    percent = 100 / median_i(original_i / adapted_i)     over rounds that both were timed in

so 41 means that the adapted model takes 41 % of the original's time there: a reduction of latency by 59 % in
the document's words (its tables 4.6 and 4.7 print 100 - percent, and 0 where a model became slower).

Example:
    >>> split_adapted("runs/fit=openvino@threads=2"), split_adapted("cnv+w1a1:in=1"), split_adapted("lenet")
    (('runs/fit', 'openvino@threads=2'), ('cnv+w1a1:in=1', ''), ('lenet', ''))
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tersa.errors import TersaError
from tersa.recipes.bench_result import BenchResult, CrossRow, CrossTable
from tersa.recipes.folder import RESULT
from tersa.records.results import Comparison
from tersa.targets.registry import KINDS, parse
from tersa.targets.ssh import is_remote


def split_adapted(text: str) -> tuple[str, str]:
    """Model and target of `MODEL=TARGET`; no target where none follows an equals sign."""
    at = text.find("=")
    while at > 0:
        rest = text[at + 1 :]
        if is_remote(rest) or rest.partition("@")[0] in KINDS:
            return text[:at], _described(rest)
        at = text.find("=", at + 1)
    return text, ""


def adapted_for(folder: Path) -> str:
    """The target that a finished run with a latency goal was adapted for; empty for anything else."""
    try:
        found: Any = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    goals = found.get("goals", []) if isinstance(found, dict) else []
    by_latency = any(goal.get("name") == "latency" for goal in goals if isinstance(goal, dict))
    return str(found.get("target", "")) if by_latency or found.get("verb") == "adapt" else ""


def cross_table(result: BenchResult, made_for: dict[str, str]) -> CrossTable | None:
    """The table at the smallest batch and the reference's precision, or None where no model was adapted.

    None, too, where no adapted model was timed beside the reference.

    Args:
        result: with its comparisons, each against the reference on the same target and batch.
        made_for: target by model.
    """
    first = next((row for row in result.measurements if result.leads(row)), None)
    batch = min(row.batch for row in result.measurements)
    pairs = [
        pair
        for pair in result.comparisons
        if first is not None
        and pair.after is not None
        and pair.before is not None
        and result.leads(pair.before)
        and pair.after.model in made_for
        and pair.before.precision == pair.after.precision == first.precision
        and pair.after.batch == batch
    ]
    if first is None or not pairs:
        return None
    rows = [
        CrossRow(
            model=model,
            made_for=target,
            percent=_percent(pairs, model, "speedup"),
            low=_percent(pairs, model, "high"),
            high=_percent(pairs, model, "low"),
        )
        for model, target in made_for.items()
        if model != first.model
    ]
    return CrossTable(
        original=first.model,
        precision=first.precision,
        batch=batch,
        original_ms={pair.before.target: pair.before.latency_ms.median for pair in pairs if pair.before},
        rows=rows,
    )


def _percent(pairs: list[Comparison], model: str, name: str) -> dict[str, float]:
    """100 over a ratio, by target."""
    found: dict[str, float] = {}
    for pair in pairs:
        ratio = getattr(pair, name)
        if pair.after is not None and pair.after.model == model and ratio:
            found[pair.target] = 100.0 / ratio
    return found


def _described(text: str) -> str:
    """A target as measurements name it, or as it was written where it cannot be parsed here."""
    try:
        return parse(text).describe()
    except TersaError:
        return text
