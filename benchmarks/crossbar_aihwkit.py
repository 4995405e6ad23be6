"""Phase-change memory: our device model beside aihwkit's, same targets, same ages.

    python benchmarks/crossbar_aihwkit.py
    python benchmarks/crossbar_aihwkit.py --aihwkit-python /path/to/aihw/bin/python

Weights 0, 0.1, 0.25, 0.5, 0.75 and 1 of the largest, many cells each, are written into pairs of devices and
read 1 s, 1 h, 1 day and 30 days later; what is compared is the mean and the standard deviation of their
error, as shares of the largest weight. Drift compensation is off on both sides. aihwkit is run twice:

- its noise model by itself, which ages the two devices of a pair apart, as ours does. It takes the amount of
  read noise from the conductance that was written; ours, as the papers say, from that asked for. The two
  differ where the target is near 0.
- its inference tile in pure torch, which writes the pair, keeps the difference, scales it to the largest
  written weight, and ages that: its read noise is a little larger.

aihwkit 1.1.0 wants an older torch than ours and is no dependency; it gets an environment of its own:

    python -m venv aihw
    aihw/bin/pip install torch==2.13.0 numpy scipy
    aihw/bin/pip install --no-deps aihwkit==1.1.0

Our rows are measured each time; aihwkit's are where this interpreter or `--aihwkit-python` can import it, and
else those stored in `results/crossbar_aihwkit.csv` stay.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import math
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results" / "crossbar_aihwkit.csv"
TARGETS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
AGES_S = (1.0, 3600.0, 86_400.0, 2_592_000.0)
CELLS = 512 * 256
"""Of each target; the standard error of a deviation is 0.2 % of it."""
ROWS = 512
G_MAX_US = 25.0
OURS, MODEL, TILE = "tersa", "aihwkit noise model", "aihwkit inference tile"
Row = dict[str, str]


def targets() -> torch.Tensor:
    """Weights (6 x 512, 256), one block per target; every second is negative."""
    blocks = [torch.full((ROWS, CELLS // ROWS), share) for share in TARGETS]
    signs = torch.ones(CELLS // ROWS)
    signs[1::2] = -1.0
    return torch.cat(blocks) * signs


def rows(side: str, age_s: float, found: torch.Tensor, package: str) -> list[Row]:
    """Error of each target, in the direction of the weight's sign."""
    signs = targets()[-1]
    error = ((found - targets()) * signs).double().reshape(len(TARGETS), -1)
    return [
        {
            "side": side,
            "age_s": f"{age_s:g}",
            "target": f"{share:g}",
            "mean_error": f"{float(each.mean()):.6f}",
            "std_error": f"{float(each.std()):.6f}",
            "cells": str(CELLS),
            "version": f"{package} {version(package)}",
            "torch": str(torch.__version__),
        }
        for share, each in zip(TARGETS, error, strict=True)
    ]


def ours() -> list[Row]:
    """Our device `pcm`; each age is a deployment of its own, as in aihwkit's noise model."""
    from tersa.quant.crossbar import Crossbar, deploy

    crossbar = Crossbar(device="pcm", g_max_us=G_MAX_US)
    found: list[Row] = []
    for seed, age in enumerate(AGES_S):
        found += rows(OURS, age, deploy([targets()[None]], crossbar, [seed], age)[0][0], "tersa")
    return found


def theirs() -> list[Row]:
    """aihwkit's noise model, and its inference tile."""
    # It needs an environment of its own (see above), so the type checker does not find it.
    from aihwkit.inference import PCMLikeNoiseModel  # type: ignore[import-not-found]
    from aihwkit.nn import AnalogLinear  # type: ignore[import-not-found]
    from aihwkit.simulator.configs import TorchInferenceRPUConfig  # type: ignore[import-not-found]

    torch.manual_seed(1)
    weights = targets()
    model = PCMLikeNoiseModel(g_max=G_MAX_US)
    found: list[Row] = []
    for age in AGES_S:
        found += rows(MODEL, age, model.apply_noise(weights, age), "aihwkit")

    config = TorchInferenceRPUConfig()
    config.noise_model, config.drift_compensation = model, None
    config.forward.is_perfect = True
    config.mapping.weight_scaling_omega = 0.0
    config.mapping.max_input_size = config.mapping.max_output_size = 0  # one tile
    layer = AnalogLinear(weights.shape[1], weights.shape[0], bias=False, rpu_config=config)
    layer.set_weights(weights, None)
    layer.eval()
    for age in AGES_S:
        layer.program_analog_weights()
        layer.drift_analog_weights(age)
        found += rows(TILE, age, layer.get_weights()[0].detach(), "aihwkit")
        layer.set_weights(weights, None)
    return found


def stored() -> list[Row]:
    """aihwkit's rows of an earlier time."""
    if not RESULTS.is_file():
        return []
    with RESULTS.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["side"] != OURS]


def other(python: str | None) -> list[Row]:
    """aihwkit's rows, from wherever they can be had."""
    if python is not None:
        command = [python, __file__, "--print-aihwkit"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])
    if importlib.util.find_spec("aihwkit") is not None:
        return theirs()
    print("aihwkit is not here (see --help): its stored rows are kept", file=sys.stderr)
    return stored()


def table(found: list[Row]) -> dict[str, float]:
    """Print the sides next to each other; returns the largest gap of mean and deviation to each of aihwkit's.

    Gaps are in points of the largest weight.
    """
    sides: dict[str, dict[tuple[str, str], Row]] = {}
    for row in found:
        sides.setdefault(row["side"], {})[row["age_s"], row["target"]] = row
    print(f"{'age s':>8} {'target':>6}  " + "  ".join(f"{side:>22}" for side in sides))
    gaps = dict.fromkeys((side for side in sides if side != OURS), 0.0)
    for place in sides[OURS]:
        cells = [sides[side][place] for side in sides]
        shown = [f"{float(c['mean_error']):+.4f} ± {float(c['std_error']):.4f}" for c in cells]
        print(f"{place[0]:>8} {place[1]:>6}  " + "  ".join(f"{text:>22}" for text in shown))
        for side in gaps:
            for measure in ("mean_error", "std_error"):
                gap = abs(float(sides[side][place][measure]) - float(sides[OURS][place][measure]))
                gaps[side] = max(gaps[side], 100 * gap)
    return gaps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--aihwkit-python", help="interpreter of an environment that has aihwkit")
    parser.add_argument("--print-aihwkit", action="store_true", help="print aihwkit's rows as JSON and end")
    arguments = parser.parse_args()
    if arguments.print_aihwkit:
        print(json.dumps(theirs()))
        return
    found = [*ours(), *other(arguments.aihwkit_python)]
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, found[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    gaps = table(found)
    chance = 100 * 5 * max(float(row["std_error"]) for row in found) / math.sqrt(CELLS)
    told = "; ".join(f"{side} {gap:.2f}" for side, gap in gaps.items()) or "aihwkit was not measured"
    print(
        f"largest gap, in percent of the largest weight: {told} (5 standard errors of a mean: {chance:.2f})"
    )


if __name__ == "__main__":
    main()
