"""Does a latency table foretell the clock? Estimates of narrowed networks against their measurements.

    python benchmarks/table_estimates.py [--models mobilenet:1.0,vgg:11x0.5,vgg:11] [--budget 0.5]

Layers of each network are measured on each target, as `tersa adapt` does; a greedy way goes from the whole
network to `--budget` of its latency by estimates; some networks of the way are exported and measured beside
the whole one, in interleaved rounds. Estimates have one factor, which makes that of a measured network right:

    off by            the factor of the whole network, nothing corrected on the way
    off, corrected    the factor of the network measured before, as `tersa adapt` corrects it on its way

Weights are those of initialisation: they change no time. Images are 32x32, the batch is of one. Rows of what
is run take the place of those in the file; others stay.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from tersa.adapt.resource import factor_of
from tersa.errors import TersaError
from tersa.export.artefact import Artefact, Header
from tersa.export.onnx import export_onnx
from tersa.files import keep_rows
from tersa.models.zoo import build
from tersa.recipes.adaptation_stages import Subject, Widths, measured_table, narrowed, walk
from tersa.targets.base import Effort
from tersa.targets.environment import environment
from tersa.targets.measure import compare
from tersa.targets.registry import parse

SIDE, CLASSES = 32, 10
RESULTS = Path(__file__).parent / "results" / "table_estimates.csv"
HEADER = Header(tuple(map(str, range(CLASSES))), (3, SIDE, SIDE), (0.5,) * 3, (0.25,) * 3)
WITHIN = 10.0
OFF = ("off_percent", "off_corrected_percent")


def chosen(way: list[Widths], count: int) -> list[int]:
    """Places along a way, its end among them."""
    return sorted({round(share * (len(way) - 1)) for share in np.linspace(1 / count, 1, count)})


def rows_of(asked: argparse.Namespace, model: str, target: str, folder: Path) -> list[dict[str, object]]:
    """Estimates and measurements of one network on one target."""
    runtime = parse(target)
    table, filled = measured_table(model, HEADER.shape, CLASSES, runtime, folder / "table.db")
    subject = Subject.of(model, HEADER.shape, CLASSES, table)
    way = walk(subject, delta=asked.delta, budget=asked.budget)
    images = np.random.default_rng(0).random((1, *HEADER.shape), dtype=np.float32)
    effort = Effort(seconds=asked.seconds)

    def exported(widths: Widths, name: str) -> Artefact:
        return export_onnx(narrowed(subject, widths), HEADER, folder / f"{name}.onnx")

    whole = exported(way[0], "whole")
    itself = compare(runtime.prepare(whole, "whole"), runtime.prepare(whole, "again"), images, effort=effort)
    assert itself.before is not None
    first = itself.before.latency_ms.median
    plain = table.plain(subject.anatomy.channels())
    factor = factor_of(first, plain, table.start)
    print(f"\n{model} on {target}: {filled.measured} layers measured, {first:.3f} ms, factor {factor:.3f}")
    print(
        f"{'step':>5}{'of latency':>12}{'estimate ms':>13}{'measured ms':>13}{'interval':>18}{'off by':>9}"
        f"{'off, corrected':>16}"
    )
    latest = factor
    found: list[dict[str, object]] = []
    for place in chosen(way, asked.count):
        narrow = exported(way[place], "narrow")
        timed = compare(
            runtime.prepare(whole, "whole"), runtime.prepare(narrow, "narrow"), images, effort=effort
        )
        assert timed.speedup is not None
        assert timed.low is not None
        assert timed.high is not None
        narrow_plain = table.plain(subject.anatomy.channels(way[place]))
        estimate = table.start + factor * narrow_plain
        measured, low, high = (first / ratio for ratio in (timed.speedup, timed.high, timed.low))
        off = 100 * (estimate / measured - 1)
        corrected = 100 * ((table.start + latest * narrow_plain) / measured - 1)
        latest = factor_of(measured, narrow_plain, table.start)
        print(
            f"{place:>5}{measured / first:>12.3f}{estimate:>13.4f}{measured:>13.4f}"
            f"{f'{low:.3f} to {high:.3f}':>18}{off:>8.1f}%{corrected:>15.1f}%",
            flush=True,
        )
        row: dict[str, object] = {
            "network": model,
            "target": target,
            "runtime": filled.machine.text,
            "step": place,
            "steps": len(way) - 1,
            "estimate_ms": f"{estimate:.5g}",
            "measured_ms": f"{measured:.5g}",
            "low_ms": f"{low:.5g}",
            "high_ms": f"{high:.5g}",
            "off_percent": f"{off:.2f}",
            "off_corrected_percent": f"{corrected:.2f}",
            "factor": f"{factor:.4g}",
            "widths": " ".join(map(str, way[place])),
        }
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="mobilenet:1.0,vgg:11x0.5,vgg:11")
    parser.add_argument("--targets", default="onnxruntime@threads=1,openvino@threads=1")
    parser.add_argument("--delta", type=float, default=0.05)
    parser.add_argument("--budget", type=float, default=0.5)
    parser.add_argument("--count", type=int, default=8, help="networks of a way that are measured")
    parser.add_argument("--seconds", type=float, default=1.5, help="timed calls of each side")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    models, targets = asked.models.split(","), asked.targets.split(",")
    try:  # before the first is measured, minutes long
        for model in models:
            build(model, HEADER.shape, CLASSES)
        for target in targets:
            parse(target)
    except TersaError as error:
        parser.error(str(error))
    rows: list[dict[str, object]] = []
    for model in models:
        for target in targets:
            with tempfile.TemporaryDirectory(prefix="tersa.") as folder:
                rows += rows_of(asked, model, target, Path(folder))
    machine = environment(1)
    rows = [{**row, "processor": machine.processor, "commit": machine.commit} for row in rows]
    texts = [{name: str(value) for name, value in row.items()} for row in rows]
    keep_rows(RESULTS, texts, ["network", "target"])
    told: list[str] = []
    for model, target in dict.fromkeys((row["network"], row["target"]) for row in rows):
        own = [row for row in rows if (row["network"], row["target"]) == (model, target)]
        most = [max(abs(float(str(row[name]))) for row in own) for name in OFF]
        told.append(f"{model} on {target}: at most {most[0]:.1f} %, corrected on the way {most[1]:.1f} %")
    print("\nratio " + "; ".join(told) + f"; wanted within {WITHIN:g} %")


if __name__ == "__main__":
    main()
