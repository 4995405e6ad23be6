"""Which algorithm is best for a convolution: predicted from what it costs, and measured.

    python benchmarks/convolution_algorithms.py             measures this machine, predicts, times: a minute
    python benchmarks/convolution_algorithms.py --costs     multiplications, additions, bytes and memory only
    python benchmarks/convolution_algorithms.py --dataflow  accesses and energy of the dataflow families

The machine's rates (matrix products, complex ones, transforms, FFTs, taps one by one, copies) are measured on
shapes that are not among the layers; `convolution_predict.predict` then ranks the algorithms of each layer.
Measured are the numpy forms of `convolution_algorithms` with numpy's FFT on one thread, in turns, in
processor time (other programs take turns with it, not time from it); filters are transformed before. Beside
them stands PyTorch's convolution (oneDNN), which no prediction is made for.

Writes `results/convolution_algorithms.csv`.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

from tersa.models import convolution_algorithms as twins
from tersa.models.convolution_costs import CACHE, ConvolutionLayer, algorithms, cost
from tersa.models.convolution_dataflow import FAMILIES, accesses, effective_macs, energy_pj
from tersa.models.convolution_predict import Machine, predict
from tersa.models.convolution_transforms import rfft_counts, winograd
from tersa.recipes.published_hardware import energies
from tersa.targets.environment import environment

RESULTS = Path(__file__).parent / "results" / "convolution_algorithms.csv"
LAYERS = {
    "AlexNet conv1 (224)": ConvolutionLayer(3, 64, (224, 224), (11, 11), stride=4, padding=2),
    "AlexNet conv2 (224)": ConvolutionLayer(64, 192, (27, 27), (5, 5), padding=2),
    "AlexNet conv3 (224)": ConvolutionLayer(192, 384, (13, 13), (3, 3), padding=1),
    "VGG16 conv1.2 (32)": ConvolutionLayer(64, 64, (32, 32), (3, 3), padding=1),
    "ResNet-18 group 2 (224)": ConvolutionLayer(128, 128, (28, 28), (3, 3), padding=1),
    "ResNet-20 group 1 (32)": ConvolutionLayer(16, 16, (32, 32), (3, 3), padding=1),
    "MobileNet depthwise (56)": ConvolutionLayer(128, 128, (56, 56), (3, 3), padding=1, groups=128),
    "MobileNet pointwise (14)": ConvolutionLayer(512, 512, (14, 14), (1, 1)),
    "LeNet conv2 (28)": ConvolutionLayer(32, 64, (14, 14), (5, 5), padding=2),
    "fully connected, batch 32": ConvolutionLayer(1024, 1024, (1, 1), (1, 1), batch=32),
}
TOLERANCE = 2e-3
"""Of float32 outputs against PyTorch's, relative to the largest: Winograd's large tile rounds worst."""
COLUMNS = (
    "layer", "algorithm", "macs", "multiplications", "additions", "moved_bytes", "extra_bytes",
    "predicted_ms", "bound", "measured_ms", "rounds", "processor", "numpy", "torch", "date",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--costs", action="store_true", help="print the costs and stop")
    parser.add_argument("--dataflow", action="store_true", help="print the dataflows and stop")
    parser.add_argument("--rounds", type=int, default=7, help="timed calls of each algorithm, in turns")
    arguments = parser.parse_args()
    if arguments.costs:
        print_costs()
    elif arguments.dataflow:
        print_dataflow()
    else:
        run(arguments.rounds)


def print_costs() -> None:
    for name, layer in LAYERS.items():
        print(f"{name}: {layer.macs / 1e6:.1f} M multiply-accumulates")
        for algorithm in algorithms(layer):
            found = cost(layer, algorithm)
            print(
                f"  {algorithm:11} products {found.multiplications / layer.macs:6.3f} of them, additions "
                f"{found.additions / layer.macs:6.3f}, moved {found.bytes / 2**20:7.2f} MiB, "
                f"beside {found.extra_bytes / 2**20:7.2f} MiB"
            )


def print_dataflow() -> None:
    by = {(row.kind, row.operation, row.bits, row.size_bytes): row.low_pj for row in energies()}
    mac_pj = by["float", "multiply", 32, None] + by["float", "add", 32, None]
    access_pj = by["memory", "cache", 64, 32768] / 2  # a number is half of the 64 bits
    print(f"{mac_pj} pJ a multiply-accumulate, {access_pj} pJ an access to 32 kB, from figure 2.12")
    for name, layer in LAYERS.items():
        macs = effective_macs(layer)
        print(f"{name}: {macs / 1e6:.1f} M multiply-accumulates")
        for family in FAMILIES:
            found = accesses(layer, family)
            each = energy_pj(found, macs, access_pj, mac_pj) / (macs * mac_pj)
            print(f"  {family:18} {found.total / macs:5.2f} accesses each, {each:5.2f} times its energy")


def run(rounds: int) -> None:
    torch.set_num_threads(1)
    machine = measure_machine()
    print(f"cache {machine.cache_bytes >> 10} KiB, {machine.bandwidth_gbs:.1f} GB/s from memory", end=", ")
    print(f"{machine.gather_gbs:.1f} where im2col picks")
    print(
        ", ".join(f"{kind} {rate:.1f}" for kind, rate in machine.gflops.items()), "thousand million a second"
    )
    print(f"products reach half their rate at a side of {machine.half_side:.0f}")
    here = environment(1)
    shared = {
        "processor": here.processor,
        "numpy": here.versions["numpy"],
        "torch": here.versions["torch"],
        "date": here.date[:10],
    }
    rows: list[dict[str, object]] = []
    right, excess, orders = 0, [], []
    for name, layer in LAYERS.items():
        ranked = predict(layer, machine)
        times = measure(layer, [each.algorithm for each in ranked], rounds)
        print(f"{name}")
        for each in ranked:
            taken = times[each.algorithm]
            print(f"  {each.algorithm:11} {each.milliseconds:9.3f} ms predicted, {taken:9.3f} measured")
            rows.append(
                {
                    "layer": name,
                    "algorithm": each.algorithm,
                    "macs": layer.macs,
                    "multiplications": each.cost.multiplications,
                    "additions": each.cost.additions,
                    "moved_bytes": each.cost.bytes,
                    "extra_bytes": each.cost.extra_bytes,
                    "predicted_ms": round(each.milliseconds, 4),
                    "bound": each.bound,
                    "measured_ms": round(times[each.algorithm], 4),
                    "rounds": rounds,
                }
            )
        print(f"  {'PyTorch':11} {times['PyTorch']:32.3f} measured")
        rows.append(
            {
                "layer": name,
                "algorithm": "PyTorch (oneDNN)",
                "macs": layer.macs,
                "measured_ms": round(times["PyTorch"], 4),
                "rounds": rounds,
            }
        )
        own = {each.algorithm: times[each.algorithm] for each in ranked}
        best = min(own, key=own.__getitem__)
        right += best == ranked[0].algorithm
        excess.append(own[ranked[0].algorithm] / own[best] - 1)
        orders.append(spearman([each.milliseconds for each in ranked], list(own.values())))
    with RESULTS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([row | shared for row in rows])
    print(
        f"the predicted best is the measured best in {right} of {len(LAYERS)} layers; choosing it costs "
        f"{100 * statistics.mean(excess):.0f} % more than the best, {100 * max(excess):.0f} % at most; "
        f"rank correlation {statistics.mean(orders):.2f}"
    )


def measure_machine() -> Machine:
    """Rates on shapes that are not among the layers."""
    whole, small = product_gflops(1024), product_gflops(64)
    big = np.zeros(1 << 24, dtype=np.float32)
    other = np.ones_like(big)
    bandwidth = 2 * big.nbytes / seconds(lambda: np.copyto(big, other)) / 1e9
    picked = ConvolutionLayer(48, 48, (36, 36), (3, 3), padding=1)
    image = inputs_of(picked)[0]
    gathered = cost(picked, "im2col").phases[0].bytes / seconds(lambda: twins.columns_of(picked, image))
    form = winograd(2)
    tiles = random(4, 4, 96, 150)
    counts = form.input_counts.times(96 * 150)
    transform = (counts.additions + counts.multiplications) / seconds(
        lambda: twins.sandwich(form.input, tiles)
    )
    squares = random(96, 30, 16, 16)
    spectra = rfft_counts(16).times(96 * 30)
    fft = (spectra.additions + spectra.multiplications) / seconds(lambda: np.fft.rfft2(squares))
    left = (random(40, 384, 384) + 1j * random(40, 384, 384)).astype(np.complex64)
    right = left[:, :, :64].copy()
    turned = 8 * 40 * 384 * 384 * 64 / seconds(lambda: left @ right)
    return Machine(
        {
            "product": whole,
            "complex product": turned / 1e9,
            "direct": layer_gflops(ConvolutionLayer(96, 96, (24, 24), (3, 3), padding=1)),
            "depthwise": layer_gflops(ConvolutionLayer(96, 96, (40, 40), (3, 3), padding=1, groups=96)),
            "transform": transform / 1e9,
            "fft": fft / 1e9,
        },
        bandwidth_gbs=bandwidth,
        gather_gbs=gathered / 1e9,
        cache_bytes=cache_bytes(),
        half_side=64 * ((whole / small) ** (1 / 3) - 1) if whole > small else 0.0,
        name=environment(1).processor,
    )


def product_gflops(side: int) -> float:
    a, b = random(side, side), random(side, side)
    return 2 * side**3 / seconds(lambda: a @ b) / 1e9


def layer_gflops(layer: ConvolutionLayer) -> float:
    x, w = inputs_of(layer)
    return 2 * layer.macs / seconds(lambda: twins.direct(layer, x, w)) / 1e9


def cache_bytes() -> int:
    """Of the second level of the first core; what is not told is 1 MiB."""
    for place in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        if (place / "level").read_text().strip() == "2":
            size = (place / "size").read_text().strip()
            return int(size.rstrip("KM")) * (1 << 20 if size.endswith("M") else 1 << 10)
    return CACHE


def measure(layer: ConvolutionLayer, names: list[str], rounds: int) -> dict[str, float]:
    """Median milliseconds of each algorithm, in turns, each checked first."""
    x, w = inputs_of(layer)
    images, filters = torch.from_numpy(x), torch.from_numpy(w)

    def library() -> torch.Tensor:
        return torch.nn.functional.conv2d(
            images, filters, stride=layer.stride, padding=layer.padding, groups=layer.groups
        )

    calls: dict[str, Callable[[], object]] = {name: call_of(layer, name, x, w) for name in names}
    with torch.inference_mode():
        wanted = library().numpy()
        for name, call in calls.items():
            found = np.asarray(call())
            apart = np.abs(found - wanted).max() / np.abs(wanted).max()
            assert apart < TOLERANCE, f"{name} is off by {apart:.1e} of the largest output"
        calls["PyTorch"] = library
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                times[name].append(timed(call))
    return {name: 1000 * statistics.median(each) for name, each in times.items()}


def call_of(layer: ConvolutionLayer, name: str, x: np.ndarray, w: np.ndarray) -> Callable[[], object]:
    if name.startswith(("winograd", "fft")):
        filters = twins.transformed_filters(layer, name, w, fast=True)
        return lambda: twins.with_filters(layer, name, x, filters, fast=True)
    return lambda: twins.convolve(layer, name, x, w)


def inputs_of(layer: ConvolutionLayer) -> tuple[np.ndarray, np.ndarray]:
    return (
        random(layer.batch, layer.inputs, *layer.size),
        random(layer.outputs, layer.inputs // layer.groups, *layer.kernel),
    )


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def seconds(call: Callable[[], object], rounds: int = 5) -> float:
    """Median of one call, after one that warms up."""
    call()
    return statistics.median(timed(call) for _ in range(rounds))


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call: repeated until 5 ms are over."""
    began, count = time.process_time(), 0
    while count == 0 or time.process_time() - began < 0.005:
        call()
        count += 1
    return (time.process_time() - began) / count


def spearman(first: list[float], second: list[float]) -> float:
    ranks = [np.argsort(np.argsort(values)).astype(float) for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


if __name__ == "__main__":
    main()
