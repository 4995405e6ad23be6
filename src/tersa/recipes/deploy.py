"""A network as files that could be shipped: exported in each allowed precision, checked, and weighed.

Every file is run on the whole validation split, an ONNX file by ONNX Runtime. The fp32 file must give the
trained network's logits (`export.check`), or it is not kept; an INT8 file is judged by what it answers. A
low-bit network may be shipped as a packed program instead, which must give its logits bit for bit where all
of its sums are integers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tersa.binary.convert import convert
from tersa.binary.program import Program
from tersa.data.task import Split, Task
from tersa.errors import ModelError, TargetError, UsageError, unknown
from tersa.export.artefact import PACKED, Artefact, Header
from tersa.export.bundle import SUFFIX, read_bundle, write_bundle
from tersa.export.check import agreement, classify
from tersa.export.int8 import Calibration, quantise_onnx
from tersa.export.onnx import as_pixels, evaluation_copy, export_onnx
from tersa.models.summary import macs, parameters
from tersa.numerics import paired_loss
from tersa.prune.holding import alive
from tersa.prune.twins import is_low_bit
from tersa.recipes.goals import Goals, Standing, Start, keeps_accuracy, within_bounds
from tersa.recipes.subjects import require_on_bytes
from tersa.records.results import Agreement, Comparison
from tersa.targets.base import Effort, Pixels
from tersa.targets.energy import Meter
from tersa.targets.energy_rounds import network_energies
from tersa.targets.measure import compare, not_offered
from tersa.targets.registry import parse
from tersa.train.evaluation import predict

CALIBRATION_IMAGES = 512
METHODS = ("minmax", "percentile")
"""INT8 calibrations that are tried; the one that answers more validation images right is kept."""

PRECISIONS = ("auto", "fp32", "int8", PACKED)
OWN = ("packed", "c")
"""Targets that run ONNX files by operators of their own, which are not those of a low-bit network."""
QUICK_SECONDS = 1.0
"""Time for one latency measurement that steers; the final one takes longer."""


@dataclass(frozen=True)
class Option:
    """One file that could be shipped.

    Attributes:
        artefact: the file.
        correct: (N,) bool, right answers on the validation split.
        standing: its accuracy and costs.
        agreement: with the trained network on the validation split.
    """

    artefact: Artefact
    correct: npt.NDArray[np.bool_]
    standing: Standing
    agreement: Agreement


@dataclass(frozen=True)
class Cost:
    """What a network costs, whatever file it is in."""

    macs: int
    parameters: int


@dataclass
class Dock:
    """What candidates are exported and weighed with; the same for all of one run.

    Attributes:
        task: gives normalisation, classes, calibration and validation images.
        precisions: that may be shipped, in order of preference.
        target: where latency is measured.
        batch: images per call there.
        seed: of the choice of calibration images.
        reference: the baseline's fp32 file, once it is there.
        correct: the baseline's right answers on the validation split.
        start: the baseline's costs.
        meter: counters that see the target, where energy is asked for.
        zeroes: weights are zeroed in place: parameters are those that are not.
    """

    task: Task
    precisions: tuple[str, ...]
    target: str
    batch: int
    seed: int
    reference: Artefact | None = None
    correct: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    start: Start | None = None
    meter: Meter | None = None
    zeroes: bool = False

    def calibration(self, method: str) -> Calibration:
        """Images of the training split for INT8 ranges."""
        train = self.task.train
        chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(self.seed))[
            :CALIBRATION_IMAGES
        ]
        return Calibration(as_pixels(train.images[chosen]), method=method)


def shippable(precision: str, target: str, network: nn.Module | None = None) -> tuple[str, ...]:
    """The precisions that a request allows, of those that the target has; fp32 first.

    Args:
        precision: as asked for.
        target: where latency counts.
        network: what is shipped, once it is there. A low-bit one is shipped packed on the targets of `OWN`.

    Raises:
        UsageError: no such precision, or not one of the network.
        TargetError: no such target, or one that does not have the precision.

    >>> shippable("auto", "onnxruntime"), shippable("auto", "torch")
    (('fp32', 'int8'), ('fp32',))
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    runtime = parse(target)
    offered, low_bit = runtime.precisions, network is not None and is_low_bit(network)
    if low_bit and precision == "auto" and runtime.name in OWN:
        return (PACKED,)
    if low_bit and precision != PACKED and runtime.name in OWN:
        raise UsageError(
            f"--precision {precision}: {target} does not run the ONNX file of a low-bit network; "
            "tersa prune and shrink ship its packed program with --precision packed"
        )
    if precision == "auto":
        return tuple(each for each in ("fp32", "int8") if each in offered)
    if precision not in offered:
        raise TargetError(f"{target} does not offer {precision}; it has {', '.join(offered)}")
    if precision == PACKED and network is not None and not low_bit:
        raise UsageError(
            "--precision packed is of low-bit networks, and this one has floats; choose bits by the model "
            "(--model cnv+w1a1), or leave out --precision"
        )
    return (precision,)


def export_options(
    dock: Dock, model: nn.Module, folder: Path, name: str, *, latency: bool, accuracy: bool = True
) -> list[Option]:
    """Export a network in every allowed precision and weigh each file.

    Args:
        dock: how.
        model: the network, on any device; it is left as it was.
        folder: for the files `NAME.onnx` (fp32) and `NAME-int8.onnx`, or `NAME.tersa` (packed).
        name: of the files.
        latency: measure it too, against the baseline's file.
        accuracy: run the validation split; without it an option is only weighed and timed.

    Raises:
        ModelError: the fp32 or the packed file does not give the network's logits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    device = next(model.parameters()).device
    model.cpu()
    try:
        exact = export_exact(dock, model, folder / name)
        split = dock.task.validation if accuracy else dock.task.validation.take(slice(0, 64))
        logits = predict(model, split, dock.task).numpy()
        cost = Cost(macs(model, dock.task.shape), alive(model) if dock.zeroes else parameters(model))
    finally:
        model.to(device)
    same = agreement(exact.path, logits, split.images, tolerance=tolerance_of(exact.path))
    require_on_bytes(same, exact.path.name, split.images)
    files: list[tuple[Artefact, Agreement]] = []
    if exact.header.precision in dock.precisions:
        files.append((exact, same))
    if "int8" in dock.precisions:
        methods = METHODS if accuracy else METHODS[:1]
        files.append(_int8(dock, exact, folder / f"{name}-int8.onnx", split, logits, methods))
    return [_weigh(dock, artefact, found, split, cost, latency=latency) for artefact, found in files]


def export_exact(dock: Dock, model: nn.Module, stem: Path) -> Artefact:
    """The file that gives the network's own logits: `STEM.onnx`, or `STEM.tersa` where it is shipped packed.

    Args:
        dock: says which.
        model: the network, on the CPU.
        stem: the file without its suffix.

    Raises:
        ModelError: it cannot be exported.
    """
    if PACKED not in dock.precisions:
        return export_onnx(model, dock.task, stem.with_name(f"{stem.name}.onnx"))
    path = stem.with_name(f"{stem.name}{SUFFIX}")
    write_bundle(path, pack(model, dock.task))
    return Artefact(path, replace(Header.of(dock.task), precision=PACKED))


def pack(model: nn.Module, task: Task) -> Program:
    """The packed program of a low-bit network.

    Raises:
        ModelError: a packed program has no such layer.
    """
    header = Header.of(task)
    return convert(evaluation_copy(model), header.classes, header.shape, header.mean, header.std)


def tolerance_of(path: Path) -> float | None:
    """How far a file's logits may be from its network's: not at all where a packed program adds integers
    only; None for the usual rounding of floats."""
    return 0.0 if path.suffix == SUFFIX and read_bundle(path).exact else None


def _int8(
    dock: Dock,
    exact: Artefact,
    path: Path,
    split: Split,
    logits: npt.NDArray[np.float32],
    methods: tuple[str, ...],
) -> tuple[Artefact, Agreement]:
    """The best of the calibrations, by right answers on the split; of equal ones the first."""
    labels = split.labels.numpy()
    right: dict[str, int] = {}
    artefact = None
    for method in methods:
        artefact = quantise_onnx(exact, path, dock.calibration(method))
        right[method] = int((classify(path, split.images).argmax(axis=1) == labels).sum())
    best = max(methods, key=lambda method: right[method])
    if artefact is None or best != methods[-1]:
        artefact = quantise_onnx(exact, path, dock.calibration(best))
    return artefact, agreement(path, logits, split.images, tolerance=0.0)


def _weigh(
    dock: Dock, artefact: Artefact, found: Agreement, split: Split, cost: Cost, *, latency: bool
) -> Option:
    answers = classify(artefact.path, split.images).argmax(axis=1)
    correct = answers == split.labels.numpy()
    before = dock.correct[: len(correct)] if len(dock.correct) else correct
    slow: float | None = None
    if latency and dock.reference is not None:
        timed = race(dock, dock.reference, artefact, seconds=QUICK_SECONDS)
        # The baseline's own time is the yardstick: what else the machine did then fell on both.
        slow = dock.start.latency_ms / timed.low if dock.start and timed.low else None
    used: float | None = None
    if dock.meter is not None and dock.reference is not None and dock.start is not None:
        base, own = race_energy(dock, dock.reference, artefact, seconds=QUICK_SECONDS)
        used = dock.start.energy_mj * own / base
    standing = Standing(
        accuracy=100.0 * float(correct.mean()),
        loss=paired_loss(before, correct),
        macs=cost.macs,
        size_bytes=artefact.size_bytes,
        latency_ms=slow,
        parameters=cost.parameters,
        energy_mj=used,
    )
    return Option(artefact, correct, standing, found)


def race(
    dock: Dock, before: Artefact, after: Artefact, *, seconds: float, target: str | None = None
) -> Comparison:
    """Interleaved latency of two files; what the runtime does not have is said, not raised.

    Raises:
        ModelError: the goal's own target cannot load a file; where another cannot, that is said.
    """
    name = target or dock.target
    try:
        runtime = parse(name)
        sessions = runtime.prepare(before, "baseline"), runtime.prepare(after, "result")
    except TargetError as error:
        return not_offered(name, after.header.precision, str(error))
    except ModelError as error:
        if name == dock.target:
            raise
        return not_offered(name, after.header.precision, str(error))
    return compare(*sessions, _batch(dock), effort=Effort(seconds=seconds))


def race_energy(dock: Dock, before: Artefact, after: Artefact, *, seconds: float) -> tuple[float, float]:
    """Millijoules of a call of two files on the dock's target, in alternating rounds, by its counters.

    Raises:
        TargetError: the target has gone; the counters cannot be read any more, or stand still.
    """
    assert dock.meter is not None
    runtime = parse(dock.target)
    sessions = runtime.prepare(before, "baseline"), runtime.prepare(after, "result")
    first, second = network_energies(sessions, _batch(dock), dock.meter, seconds=seconds)
    return first, second


def _batch(dock: Dock) -> Pixels:
    """Validation images of one call, (batch, C, H, W), the same again where there are too few."""
    images = as_pixels(dock.task.validation.images[: dock.batch])
    repeats = -(-dock.batch // len(images))
    return np.tile(images, (repeats, 1, 1, 1))[: dock.batch]


def pick(options: list[Option], goals: Goals, dock: Dock, *, precision: str) -> tuple[Option, str]:
    """The file to ship among those of one network, and what to say of the choice.

    With `auto`, INT8 is kept only if it meets the goals; and where fp32 meets them too, only if it is smaller
    and not slower on the target.
    """
    assert dock.start is not None
    start = dock.start

    def meets(option: Option) -> bool:
        kept = keeps_accuracy(goals, start, option.standing)
        return kept and within_bounds(goals, start, option.standing)

    if precision != "auto" or len(options) == 1:
        return options[0], ""
    exact, integer = options
    if not meets(integer):
        return exact, "INT8 was tried and not kept: it missed a goal on the validation split."
    timed = race(dock, exact.artefact, integer.artefact, seconds=2 * QUICK_SECONDS)
    slower = timed.verdict in ("slower", "not offered")
    if not meets(exact):
        note = "INT8 was kept because the fp32 file missed a goal"
        return integer, f"{note}; it is slower than fp32 here." if slower else f"{note}."
    if integer.artefact.size_bytes >= exact.artefact.size_bytes:
        return exact, "INT8 was tried and not kept: its file is not smaller."
    return (exact, "INT8 was tried and not kept: it is slower here.") if slower else (integer, "")
