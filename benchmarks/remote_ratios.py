"""Does a machine over ssh give the same ratios as the same machine measured directly?

    python benchmarks/remote_ratios.py ssh://me@localhost [--seconds 2] [--turns 3] [--csv FILE]

Two networks (LeNet-5 and a perceptron) and two levels of ONNX Runtime's rewriting (`graph=all`, `disabled`)
are compared, here and over ssh in turn: `a / b` is the time of a over the time of b. The place must be this
machine, or the ratios may differ for a good reason. The last line says in how many turns the two intervals
overlap.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from pathlib import Path

import numpy as np

from tersa.export.artefact import Header
from tersa.export.onnx import export_onnx
from tersa.models import zoo
from tersa.records.results import Comparison
from tersa.targets.base import Effort
from tersa.targets.measure import compare
from tersa.targets.registry import parse

RESULTS = Path(__file__).parent / "results" / "remote_ratios.csv"
SHAPE = (1, 28, 28)

Form = tuple[str, str]
"""A model, and how far ONNX Runtime rewrites its graph."""
PAIRS: tuple[tuple[Form, Form], ...] = (
    (("lenet5", "disabled"), ("lenet5", "all")),
    (("lenet5", "all"), ("mlp:100x100", "all")),
)


def label(before: Form, after: Form) -> str:
    """`a / b`, as the ratio is; what both share is left out."""
    if before[0] == after[0]:
        return f"graph={before[1]} / graph={after[1]}"
    return f"{before[0]} / {after[0]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("place", help="ssh://[USER@]HOST[:PORT]")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--python", default=sys.executable, help="over there")
    parser.add_argument("--csv", type=Path, default=RESULTS)
    given = parser.parse_args()
    rows: list[tuple[str, int, str, float, float, float]] = []
    overlaps = 0
    with tempfile.TemporaryDirectory(prefix="tersa.") as folder:
        header = Header(tuple("0123456789"), SHAPE, (0.13,), (0.31,))
        files = {
            name: export_onnx(zoo.build(name, SHAPE, 10), header, Path(folder) / f"{index}.onnx")
            for index, name in enumerate(("lenet5", "mlp:100x100"))
        }
        image = np.random.default_rng(0).random((1, *SHAPE), dtype=np.float32)
        print(f"{'pair':28} {'turn':>4} {'where':6} {'ratio':>7} {'low':>7} {'high':>7}")
        for turn in range(given.turns):
            for sides in PAIRS:
                pair = label(*sides)
                found: list[Comparison] = []
                for where, text in (
                    ("here", "onnxruntime@"),
                    ("ssh", f"{given.place}/onnxruntime@python={given.python},"),
                ):
                    before, after = (
                        parse(f"{text}graph={graph}").prepare(files[model], model) for model, graph in sides
                    )
                    one = compare(before, after, image, effort=Effort(seconds=given.seconds))
                    found.append(one)
                    ratio, (low, high) = one.speedup or 0.0, _interval(one)
                    rows.append((pair, turn, where, ratio, low, high))
                    print(f"{pair:28} {turn:4d} {where:6} {ratio:7.3f} {low:7.3f} {high:7.3f}")
                    before.close()
                    after.close()
                here, there = found
                overlaps += (
                    _interval(here)[0] <= _interval(there)[1] and _interval(there)[0] <= _interval(here)[1]
                )
    with given.csv.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("pair", "turn", "where", "speedup", "low", "high"))
        writer.writerows([*row[:3], *(f"{value:.4g}" for value in row[3:])] for row in rows)
    worst = max(abs(a[3] / b[3] - 1.0) for a, b in zip(rows[::2], rows[1::2], strict=True))
    print(
        f"intervals overlap in {overlaps} of {len(rows) // 2} turns; "
        f"largest difference of the ratios {100 * worst:.1f} %"
    )


def _interval(found: Comparison) -> tuple[float, float]:
    return found.low or 0.0, found.high or 0.0


if __name__ == "__main__":
    main()
