"""How fast is a fully binary VGG16 in packed integers, beside the runtimes for floats and for INT8?

    python benchmarks/packed_inference.py                   all of it, about three minutes
    python benchmarks/packed_inference.py --threads 1 --batch 1 --seconds 2

`bvgg16` on 3x32x32 (document 004's network, every weight and activation 1 bit, pixels 8 bits), with drawn
weights: they decide what is computed, not how long it takes. All sides run in one process, in alternating
rounds, at the same number of threads:

    packed                            the `.tersa` program
    onnxruntime, openvino, torch      the same topology in floats: convolution, normalisation, ReLU
    onnxruntime, openvino int8        that network after calibration, as a QDQ file
    openvino packed                   the very same program on OpenVINO's binary convolution, as the target
                                      `openvino` makes it of a `.tersa` file

Both packed sides have to give PyTorch's logits first, bit for bit. The limit of the processor is measured
too: how many bits a second XOR and popcount go through in registers, with nothing loaded, added or stored. A
layer's share of it is binary multiply-accumulates a second over that. With `--avx2`, on a processor with
AVX-512, all is measured again in a process that is held to AVX2, without ONNX Runtime, which cannot be.

`--clock cpu` counts the process's processor time instead of wall time, on one thread: what a call costs on a
machine that others use at the same time.

Writes `results/packed_inference.csv`, on a processor without AVX-512's popcount
`results/packed_inference_avx2.csv`. The last line is the speed-up over the best of each kind at the first
batch size and number of threads.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import llvmlite.binding as llvm
import numpy as np
import torch
from torch import nn

from tersa.binary.convert import convert
from tersa.binary.program import Convolution, Program
from tersa.binary.runtime import Runner, execute
from tersa.binary.vectors import cpu_features
from tersa.export.artefact import PACKED, Artefact, Header
from tersa.export.bundle import write_bundle
from tersa.export.int8 import Calibration, quantise_onnx
from tersa.export.onnx import export_onnx
from tersa.models import zoo
from tersa.models.bvgg import BVGG16_PLAN, BVGG16_UNITS, POOL
from tersa.quant.layers import PixelInput
from tersa.targets.base import Effort
from tersa.targets.environment import environment
from tersa.targets.popcount import best
from tersa.targets.popcount import counted as limit_of_bits
from tersa.targets.registry import parse
from tersa.targets.rounds import time_rounds
from tersa.targets.statistics import compare_rounds

RESULTS = Path(__file__).parent / "results"
SHAPE, CLASSES = (3, 32, 32), 10
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
NAMES = tuple(str(label) for label in range(CLASSES))
CHECKED = 64
"""Images on which logits are compared."""
CLOCKS = {"wall": time.perf_counter_ns, "cpu": time.process_time_ns}
SHOWN = ("popcnt", "avx2", "fma", "avxvnni", "avx512f", "avx512vpopcntdq", "avx512vnni")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=3.0, help="of timed calls per side")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--avx2", action="store_true", help="measure again, held to AVX2")
    parser.add_argument("--held", action="store_true", help="the process that is held to AVX2: prints JSON")
    arguments = parser.parse_args()
    if arguments.clock == "cpu" and arguments.threads != [1]:
        parser.error("--clock cpu adds up the threads of the process; give --threads 1 with it")
    torch.set_num_threads(1)
    network = drawn_network()
    program = convert(network, NAMES, SHAPE, MEAN, STD)
    if arguments.held:
        print(json.dumps(held(program, arguments)))
        return
    print(f"bvgg16, {program.precision}, {macs(program) / 1e6:.0f} million binary multiply-accumulates")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        artefacts = files(program, Path(name))
        check(network, artefacts[0])
        rows += sizes(*artefacts[:2])
        for threads in arguments.threads:
            for batch in arguments.batch:
                rows += compared(artefacts, batch, threads, arguments)
    limit = limit_of_bits()
    print(f"\nlimit of this processor: {limit / 1e9:.0f} G bits/s through XOR and popcount, one thread")
    rows += layers(program, limit)
    if arguments.avx2 and "avx512f" in cpu_features():
        rows += held_to_avx2(arguments)
    write(rows, arguments)
    print(verdict(rows, arguments.batch[0], arguments.threads[0]))


# Networks -------------------------------------------------------------------------------------------------


def drawn_network() -> nn.Module:
    """bvgg16 with drawn weights, scales of both signs and statistics of 16 drawn images."""
    torch.manual_seed(0)
    model = zoo.build("bvgg16", SHAPE, CLASSES)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias, std=0.5)
        if isinstance(module, PixelInput):
            module.settle_(MEAN, STD)
    with torch.no_grad():
        model(normalised(images(16)))
    return model.eval()


def float_network() -> nn.Module:
    """The same topology in floats; the channels' vote is a mean."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    channels = SHAPE[0]
    for width in BVGG16_PLAN:
        if width == POOL:
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    for units in BVGG16_UNITS:
        layers += [nn.Linear(channels, units, bias=False), nn.BatchNorm1d(units), nn.ReLU()]
        channels = units
    return nn.Sequential(*layers, nn.Linear(channels, CLASSES)).eval()


def images(count: int) -> np.ndarray:
    """Drawn bytes (N, C, H, W)."""
    return np.random.default_rng(0).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


def normalised(pixels: np.ndarray) -> torch.Tensor:
    mean, std = torch.tensor(MEAN).view(-1, 1, 1), torch.tensor(STD).view(-1, 1, 1)
    return (torch.from_numpy(pixels).float() / 255 - mean) / std


def files(program: Program, folder: Path) -> tuple[Artefact, Artefact, Artefact]:
    """The packed program, and the float network in fp32 and INT8."""
    header = Header(NAMES, SHAPE, MEAN, STD)
    write_bundle(folder / "bvgg16.tersa", program)
    packed = Artefact(folder / "bvgg16.tersa", replace(header, precision=PACKED))
    fp32 = export_onnx(float_network(), header, folder / "fp32.onnx")
    calibration = Calibration((images(64) / np.float32(255)).astype(np.float32))
    return packed, fp32, quantise_onnx(fp32, folder / "int8.onnx", calibration)


def macs(program: Program) -> int:
    """Products of binary layers; the first, on pixels of 8 bits, is not one."""
    return sum(layer_macs(program, i) for i in binary_layers(program))


def binary_layers(program: Program) -> list[int]:
    return [
        i
        for i, one in enumerate(program.operations)
        if isinstance(one, Convolution) and program.values[one.source].bits == 1
    ]


def layer_macs(program: Program, index: int) -> int:
    layer = program.operations[index]
    assert isinstance(layer, Convolution)
    return math.prod(layer.weights.shape) * math.prod(program.values[index].shape[1:])


# Checking and timing --------------------------------------------------------------------------------------


def check(network: nn.Module, packed: Artefact) -> None:
    """The packed program, in our kernels and in OpenVINO's, gives PyTorch's logits."""
    pixels = images(CHECKED)
    with torch.inference_mode():
        wanted = network(normalised(pixels)).numpy()
    for name in ("packed", "openvino"):
        session = parse(name).prepare(packed, "bvgg16")
        found = session.run((pixels / np.float32(255)).astype(np.float32))
        equal = int((found == wanted).all(1).sum())
        print(f"{name}, {session.executed}: {equal} of {CHECKED} images with torch's very logits")
        if equal < CHECKED:
            raise SystemExit("the sides do not compute the same; nothing is timed")


def compared(
    artefacts: tuple[Artefact, Artefact, Artefact],
    batch: int,
    threads: int,
    arguments: argparse.Namespace,
) -> list[dict[str, Any]]:
    """All sides in the same rounds."""
    packed, fp32, int8 = artefacts
    free = [] if arguments.held else ["onnxruntime"]
    sides = [("packed", packed)]
    sides += [(target, fp32) for target in (*free, "openvino", "torch")]
    sides += [(target, int8) for target in (*free, "openvino")]
    sides += [("openvino", packed)]
    sessions = [parse(f"{target}@threads={threads}").prepare(file, "bvgg16") for target, file in sides]
    pixels = (images(batch) / np.float32(255)).astype(np.float32)
    effort = Effort(seconds=arguments.seconds, rounds=60)
    timings = time_rounds(sessions, [pixels] * len(sessions), effort, CLOCKS[arguments.clock])
    rows: list[dict[str, Any]] = []
    for session, timing in zip(sessions, timings, strict=True):
        ratio = compare_rounds(timing.times_ms, timings[0].times_ms)
        low, median, high = np.percentile(timing.times_ms, [10, 50, 90])
        name = session.target.split("@")[0]
        row = {
            "kind": "time", "runtime": name, "precision": session.precision, "batch": batch,
            "threads": threads, "ms": f"{median:.4f}", "p10": f"{low:.4f}", "p90": f"{high:.4f}",
            "rounds": len(timing.times_ms),
            "over_packed": f"{ratio.speedup:.2f}", "low": f"{ratio.low:.2f}", "high": f"{ratio.high:.2f}",
        }  # fmt: skip
        rows.append(row)
    if not arguments.held:
        show(rows, arguments)
    return rows


def show(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """One comparison."""
    first = rows[0]
    print(
        f"\nbatch {first['batch']}, threads {first['threads']}: ms of a call ({arguments.clock}), over packed"
    )
    for row in rows:
        words = f"{row['over_packed']:>8}x  ({row['low']}-{row['high']})" if row is not first else ""
        print(f"  {row['runtime']:16} {row['precision']:5} {float(row['ms']):10.3f}  {words}")


def layers(program: Program, limit: float) -> list[dict[str, Any]]:
    """Each step by itself, its data in the cache: time, and multiply-accumulates a second."""
    runner = Runner(program)
    runner(images(1))
    table = runner.table(1)
    print("\nlayer by layer, batch 1, one thread")
    rows: list[dict[str, Any]] = []
    binary = set(binary_layers(program))
    spent = 0.0
    for place, (names, step) in enumerate(zip(table.names, table.steps, strict=True)):
        seconds = best(lambda step=step: execute(step, 1))
        kinds = " ".join(type(program.operations[i]).__name__ for i in names)
        words = f"  {place:2} {kinds:34} {program.values[names[-1]].shape!s:14} {1e6 * seconds:7.1f} us"
        found = {"kind": "layer", "runtime": "packed", "precision": kinds, "batch": 1, "threads": 1}
        found["ms"] = f"{1e3 * seconds:.4f}"
        if names[0] in binary:
            rate = layer_macs(program, names[0]) / seconds
            spent += seconds
            found |= {"gmacs_per_s": f"{rate / 1e9:.0f}", "share_of_limit": f"{rate / limit:.2f}"}
            words += f"  {rate / 1e9:6.0f} G MAC/s  {100 * rate / limit:3.0f} % of the limit"
        rows.append(found)
        print(words)
    rate = macs(program) / spent
    print(f"  all binary layers: {rate / 1e9:.0f} G MAC/s, {100 * rate / limit:.0f} % of the limit")
    whole = {"kind": "layers", "runtime": "packed", "precision": PACKED, "batch": 1, "threads": 1}
    whole |= {
        "ms": f"{1e3 * spent:.4f}",
        "gmacs_per_s": f"{rate / 1e9:.0f}",
        "share_of_limit": f"{rate / limit:.2f}",
    }
    limits = {"kind": "limit", "runtime": "xor popcount", "threads": 1, "gmacs_per_s": f"{limit / 1e9:.0f}"}
    return [*rows, whole, limits]


def sizes(packed: Artefact, fp32: Artefact) -> list[dict[str, Any]]:
    bits, floats = packed.size_bytes, fp32.size_bytes
    print(f"size: .tersa {bits:,} bytes, fp32 .onnx {floats:,} bytes, {floats / bits:.1f} times smaller")
    return [
        {"kind": "size", "runtime": "packed", "precision": PACKED, "bytes": bits, "over_packed": "1.00"},
        {
            "kind": "size",
            "runtime": "onnx",
            "precision": "fp32",
            "bytes": floats,
            "over_packed": f"{floats / bits:.2f}",
        },
    ]


# The processor --------------------------------------------------------------------------------------------


def held(program: Program, arguments: argparse.Namespace) -> dict[str, Any]:
    """The limit and all comparisons of this process, which is held to AVX2."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        artefacts = files(program, Path(name))
        for threads in arguments.threads:
            for batch in arguments.batch:
                rows += compared(artefacts, batch, threads, arguments)
    return {"limit": limit_of_bits(), "features": sorted(cpu_features()), "rows": rows}


def held_to_avx2(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Everything again in a process of its own: numba, oneDNN (OpenVINO, torch) and ATen know AVX2 only."""
    host = llvm.get_host_cpu_features()
    features = ",".join(
        f"{'+' if on and 'avx512' not in name else '-'}{name}" for name, on in sorted(host.items())
    )
    words = [
        sys.executable,
        __file__,
        "--held",
        "--seconds",
        str(arguments.seconds),
        "--clock",
        arguments.clock,
    ]
    words += ["--batch", *map(str, arguments.batch), "--threads", *map(str, arguments.threads)]
    environ = os.environ | {"NUMBA_CPU_NAME": llvm.get_host_cpu_name(), "NUMBA_CPU_FEATURES": features}
    environ |= {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    }
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environ)
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"\nheld to AVX2: limit {found['limit'] / 1e9:.0f} G bits/s, one thread")
    rows: list[dict[str, Any]] = found["rows"]
    for threads in arguments.threads:
        for batch in arguments.batch:
            here = [row for row in rows if (row["batch"], row["threads"]) == (batch, threads)]
            show(here, arguments)
    print(f"held to AVX2: {verdict(rows, arguments.batch[0], arguments.threads[0])}")
    limit = {
        "kind": "limit",
        "runtime": "xor popcount",
        "threads": 1,
        "gmacs_per_s": f"{found['limit'] / 1e9:.0f}",
    }
    return [row | {"kind": f"{row['kind']} avx2"} for row in [*rows, limit]]


# The answer -----------------------------------------------------------------------------------------------


def fastest(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The shortest time of each kind of rival."""
    kinds = {
        "fp32": [row for row in rows if row["precision"] == "fp32"],
        "int8": [row for row in rows if row["precision"] == "int8"],
        "ov-binary": [row for row in rows if (row["runtime"], row["precision"]) == ("openvino", PACKED)],
    }
    return {kind: min(float(row["ms"]) for row in found) for kind, found in kinds.items()}


def verdict(rows: list[dict[str, Any]], batch: int, threads: int) -> str:
    """`fp32 12.3x int8 7.1x ov-binary 1.8x`."""
    here = [
        row for row in rows if row["kind"] == "time" and (row["batch"], row["threads"]) == (batch, threads)
    ]
    packed = next(float(row["ms"]) for row in here if row["runtime"] == "packed")
    return " ".join(f"{kind} {value / packed:.1f}x" for kind, value in fastest(here).items())


def write(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    machine = environment(max(arguments.threads))
    here = cpu_features()
    print(f"\n{machine.processor}: {', '.join(f'{name} {name in here}' for name in SHOWN)}")
    shared = {
        "command": shlex.join(["python", "benchmarks/packed_inference.py", *sys.argv[1:]]),
        "clock": arguments.clock,
        "processor": machine.processor,
        "features": " ".join(name for name in SHOWN if name in here),
        "versions": " ".join(f"{name} {machine.versions[name]}" for name in sorted(machine.versions)),
        "date": machine.date,
    }
    columns = [
        "kind", "runtime", "precision", "batch", "threads", "ms", "p10", "p90", "rounds", "over_packed",
        "low", "high",
        "gmacs_per_s", "share_of_limit", "bytes", *shared,
    ]  # fmt: skip
    kind = "" if "avx512vpopcntdq" in here else "_avx2"
    with (RESULTS / f"packed_inference{kind}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | shared for row in rows)


if __name__ == "__main__":
    main()
