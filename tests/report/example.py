"""An invented result for tests of the report: no number in it was measured.

`example()` is the pleasant case with ten classes; arguments turn it into the awkward ones.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from typing import Any

from tersa.records.results import (
    Agreement,
    Comparison,
    Environment,
    Figures,
    Goal,
    LayerWidth,
    Measurement,
    Quantiles,
    Sample,
    ShrinkResult,
    Step,
    Verdict,
)
from tersa.report.verdict import headline

IMAGES = 10_000
WIDTHS = {"conv1": (32, 5), "conv2": (64, 12), "fc1": (1024, 16)}
CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def png(side: int = 12, seed: int = 0) -> str:
    """A small grey picture as base64: a ring whose radius depends on the seed."""
    middle, radius = (side - 1) / 2, side * (0.2 + 0.05 * (seed % 5))
    rows = b"".join(
        b"\0" + bytes(_grey(x - middle, y - middle, radius) for x in range(side)) for y in range(side)
    )
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).decode()


def _grey(x: float, y: float, radius: float) -> int:
    return max(0, min(255, int(255 - 110 * abs(math.hypot(x, y) - radius))))


def example(
    *,
    classes: list[str] | int = 10,
    steps: int = 41,
    precision: str = "int8",
    speedup: float = 6.13,
    missed: bool = False,
    **changed: Any,
) -> ShrinkResult:
    """A whole invented result.

    Args:
        classes: names, or how many (named by their number).
        steps: pruning steps between the baseline and the end of the path.
        precision: of the result.
        speedup: of the main comparison; its interval is 5 % to either side.
        missed: half the baseline's latency was asked and 0.71 of it reached, whatever `speedup` says.
        changed: fields of the record, as they should be instead.
    """
    speedup = 1 / 0.71 if missed else speedup
    names = [str(index) for index in range(classes)] if isinstance(classes, int) else classes
    confusion = confusion_of(len(names), IMAGES)
    right = sum(row[index] for index, row in enumerate(confusion))
    accuracy = 100.0 * right / sum(map(sum, confusion))
    before = figures(accuracy + 0.21, 3_274_634, 13_900_000, 13_100_000, 0.412, "fp32")
    after = figures(accuracy, 10_512, 403_000, 13_800, 0.412 / speedup, precision)
    fields: dict[str, Any] = {
        "name": "lenet-mnist",
        "command": "tersa shrink --data mnist --model lenet --max-loss 0.24 --latency 0.5x --out runs/lenet",
        "task": "mnist",
        "model": "lenet",
        "target": "onnxruntime@threads=1",
        "batch": 1,
        "precision": precision,
        "seed": 0,
        "split_sizes": {"train": 54_000, "validation": 6_000, "test": IMAGES},
        "classes": names,
        "sha256": {
            "train-images-idx3-ubyte.gz": "440f" + "c0" * 30,
            "t10k-images-idx3-ubyte.gz": "8d42" + "2c" * 30,
        },
        "baseline": before,
        "result": after,
        "compression": before.parameters / after.parameters,
        "acceleration": before.macs / after.macs,
        "size_ratio": before.size_bytes / after.size_bytes,
        "speedup": speedup,
        "loss_points": before.test_accuracy - after.test_accuracy,
        "loss_standard_error": 0.06,
        "goals": goals(after),
        "verdict": "",
        "detail": "",
        "agreement": Agreement(images=IMAGES, same_class=IMAGES - 2, largest_difference=0.21, tolerance=0.0)
        if precision == "int8"
        else Agreement(images=IMAGES, same_class=IMAGES, largest_difference=4.1e-6, tolerance=1e-4),
        "reference_agreement": Agreement(
            images=IMAGES, same_class=IMAGES, largest_difference=3.3e-6, tolerance=1e-4
        ),
        "comparisons": comparisons(speedup, precision),
        "layers": layers(),
        "steps": path_of(steps, precision),
        "confusion": confusion,
        "samples": [
            Sample(
                png=png(12, i), label=names[i % len(names)], predicted=names[i % len(names)], probability=0.99
            )
            for i in range(10)
        ],
        "mistakes": [
            Sample(
                png=png(12, i + 3),
                label=names[i % len(names)],
                predicted=names[(i + 1) % len(names)],
                probability=0.4 + 0.05 * i,
            )
            for i in range(10)
        ],
        "protocol": {
            "criterion": "taylor",
            "norm": "l2",
            "retrain": 200,
            "margin": "one standard error",
            "lr": 0.001,
        },
        "environment": Environment(
            machine="example",
            processor="Invented CPU 3000",
            cores=2,
            memory_bytes=8_000_000_000,
            system="Linux 6.1",
            python="3.11.2",
            versions={"torch": "2.13.0", "onnxruntime": "1.31.1", "numpy": "2.4.0"},
            threads=2,
            date="2026-11-22T10:00:00+00:00",
        ),
        "notes": ["The numbers on this page are invented: it is an example for tests."],
        "artefacts": ["model.onnx", "model-fp32.onnx", "run.py"],
        "report": "report.html",
        "seconds": 1523.4,
    }
    result = ShrinkResult(**(fields | changed))
    if "verdict" in changed or "detail" in changed:
        return result
    verdict, detail = headline(result)
    return result.model_copy(update={"verdict": verdict, "detail": detail})


def figures(accuracy: float, parameters: int, macs: int, size: int, ms: float, precision: str) -> Figures:
    return Figures(
        test_accuracy=accuracy,
        validation_accuracy=accuracy + 0.03,
        parameters=parameters,
        macs=macs,
        size_bytes=size,
        latency_ms=Quantiles(median=ms, p10=0.96 * ms, p90=1.07 * ms),
        precision=precision,
    )


def goals(after: Figures) -> list[Goal]:
    """A loss that is kept, and half the latency, which the figures decide."""
    ms = after.latency_ms.median
    met = ms <= 0.206
    return [
        Goal(
            name="max-loss",
            asked=0.24,
            reached=0.21,
            unit="points",
            met=True,
            text="lose at most 0.24 points",
        ),
        Goal(
            name="latency",
            asked=0.206,
            reached=ms,
            unit="ms",
            met=met,
            text="take at most half the latency",
            reason="" if met else "this runtime spends 0.2 ms in overhead that no pruning removes",
        ),
    ]


def measurement(model: str, target: str, precision: str, ms: float, spread: float = 0.03) -> Measurement:
    return Measurement(
        model=model,
        target=target,
        precision=precision,
        batch=1,
        threads=1,
        latency_ms=Quantiles(median=ms, p10=0.96 * ms, p90=1.07 * ms),
        rounds=40,
        warmup=10,
        calls=800,
        low=ms * (1 - spread),
        high=ms * (1 + spread),
        outliers=1,
        drift=1.01,
        runtime="onnxruntime 1.31.1",
    )


def comparison(target: str, precision: str, before: float, speedup: float, reason: str = "") -> Comparison:
    """A measured pair whose interval is 5 % to either side of the speed-up."""
    low, high = 0.95 * speedup, 1.05 * speedup
    verdict: Verdict = "faster" if low > 1 else "slower" if high < 1 else "no difference"
    return Comparison(
        target=target,
        precision=precision,
        before=measurement("baseline", target, "fp32", before),
        after=measurement("result", target, precision, before / speedup, spread=0.06),
        speedup=speedup,
        low=low,
        high=high,
        verdict=verdict,
        reason=reason,
    )


def comparisons(speedup: float, precision: str) -> list[Comparison]:
    """Every verdict there is, the goal's target first."""
    return [
        comparison("onnxruntime@threads=1", precision, 0.412, speedup),
        comparison("onnxruntime@threads=1", "fp32" if precision == "int8" else "int8", 0.412, 4.9),
        comparison("openvino@threads=1", "fp32", 0.352, 4.8),
        comparison(
            "torch@threads=1", "fp32", 0.78, 1.01, "the overhead of each call outweighs the arithmetic"
        ),
        comparison(
            "torch-compile@threads=1", "fp32", 0.31, 0.74, "compiled kernels are tuned for even widths"
        ),
        Comparison(
            target="torch@threads=1",
            precision="int8",
            verdict="not offered",
            reason="torch eager has no INT8 convolution on this CPU",
        ),
    ]


def layers() -> list[LayerWidth]:
    """LeNet's three prunable layers and its last one, which keeps its classes."""
    rows = [
        ("conv1", "Conv2d", 832, 130, 599_040, 93_600),
        ("conv2", "Conv2d", 51_264, 1_512, 5_017_600, 147_000),
    ]
    rows += [("fc1", "Linear", 3_212_288, 9_424, 3_211_264, 9_408)]
    found = [
        LayerWidth(
            name=name,
            kind=kind,
            before=WIDTHS[name][0],
            after=WIDTHS[name][1],
            parameters_before=p0,
            parameters_after=p1,
            macs_before=m0,
            macs_after=m1,
        )
        for name, kind, p0, p1, m0, m1 in rows
    ]
    last = LayerWidth(
        name="fc2",
        kind="Linear",
        before=10,
        after=10,
        parameters_before=10_250,
        parameters_after=170,
        macs_before=10_240,
        macs_after=160,
        note="classes are never pruned",
    )
    return [*found, last]


def path_of(steps: int, precision: str) -> list[Step]:
    """A baseline, `steps` pruning steps, and the one at four fifths distilled and quantised."""
    chosen = max(1, round(0.8 * steps))
    found = [_step(0, "baseline", "trained for 12 epochs", 0.0, 0.0, 60.0)]
    for index in range(1, steps + 1):
        part = index / chosen
        loss = 0.02 * math.sin(index) + (0.18 * part**8 if part <= 1 else 0.18 + 40 * (part - 1) ** 2)
        what = f"removed {index % 7 + 3} channels, retrained 200 iterations"
        found.append(_step(index, "prune", what, loss, part, 12.0))
    found.append(_step(steps + 1, "distil", "8 epochs from the baseline", 0.11, 1.0, 80.0))
    if precision == "int8":
        found.append(
            _step(steps + 2, "quantise", "INT8, per channel, 300 calibration images", 0.15, 1.0, 4.0)
        )
    size = 13_800 if precision == "int8" else found[-1].size_bytes
    last = found[-1].model_copy(update={"kept": True, "latency_ms": 0.0672, "size_bytes": size})
    return [*found[:-1], last]


def _step(index: int, stage: Any, what: str, loss: float, part: float, seconds: float) -> Step:
    def shrunk(before: int, after: int) -> int:
        return max(1, round(before * (after / before) ** part))

    parameters = shrunk(3_274_634, 10_512)
    return Step(
        index=index,
        stage=stage,
        what=what,
        validation_accuracy=99.30 - loss,
        loss_points=loss,
        standard_error=0.0 if index == 0 else 0.04 + 0.02 * abs(loss),
        parameters=parameters,
        size_bytes=4 * parameters + 2_000,
        macs=shrunk(13_900_000, 403_000),
        widths={name: shrunk(*pair) for name, pair in WIDTHS.items()},
        seconds=seconds,
    )


def confusion_of(k: int, images: int) -> list[list[int]]:
    """About one image in a hundred is named wrongly, some pairs of classes more than others."""
    each = images // k
    table = [[0] * k for _ in range(k)]
    for row in range(k):
        for column in range(k):
            if row != column and (row * 7 + column * 3) % 5 < 2:
                table[row][column] = (row * column + 3 * row + 1) % max(3, min(11, each // 90))
        table[row][row] = each - sum(table[row])
    return table
