"""The formats of `tersa export`: each writes one file, and holds it against the network before it is kept.

    onnx    any network, FP32 or INT8, for ONNX Runtime, OpenVINO and others; a low-bit one with its levels
    qonnx   a low-bit network with its quantisers as nodes; executed by the qonnx package
    tersa   a low-bit network as a packed program, for the target `packed`
    c       a low-bit network as one C99 file; compiled by the system's compiler where there is one

A new format is a function from an `Order` to what was `Made`, and one line in `FORMATS`.
docs/export-formats.md says what each of them is checked for.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from tersa.binary.convert import convert
from tersa.binary.program import Program
from tersa.data.task import Task
from tersa.errors import ModelError, TargetError, UsageError
from tersa.export.artefact import PACKED, PRECISIONS, Artefact
from tersa.export.bundle import SUFFIX, read_bundle, write_bundle
from tersa.export.c_source import c_source, identifier
from tersa.export.check import TOLERANCE, Images, agreement, classify, compare_logits, module_logits
from tersa.export.int8 import float_operations
from tersa.export.onnx import Deployed, evaluation_copy
from tersa.export.qonnx import build_qonnx
from tersa.export.qonnx_check import as_bytes, classify_qonnx
from tersa.files import write_atomic
from tersa.recipes.subjects import Subject, accuracy_on_test, noise, require_on_bytes, to_artefact
from tersa.records.results import Agreement
from tersa.targets.c_build import compile_shared, find_compiler

CHECKED_IMAGES = 1000
"""Images that a file is held against its source on, at most, where there are data."""
QONNX_IMAGES = 128
"""The same for QONNX, whose execution is slow; its logits are compared bit for bit."""
C_FLAGS = ("-std=c99", "-O2")


@dataclass(frozen=True)
class Order:
    """What a format is to write.

    Attributes:
        subject: the network.
        precision: as asked for.
        out: the file.
        task: gives INT8 its ranges and the check its images; without it they are noise.
    """

    subject: Subject
    precision: str
    out: Path
    task: Task | None


@dataclass(frozen=True)
class Made:
    """A file that was written and checked.

    Attributes:
        precision: of the file, in words.
        agreement: with the network.
        float_operations: see `int8.float_operations`.
        accuracy: percent of the test images, by running the file; None where it was not.
        notes: for the user.
    """

    precision: str
    agreement: Agreement
    float_operations: dict[str, int] = field(default_factory=dict[str, int])
    accuracy: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        suffix: that `--out` ends in.
        precisions: that can be asked for; the first is the default.
        write: makes the file and checks it.
        about: one line for `--help`.
    """

    suffix: str
    precisions: tuple[str, ...]
    write: Callable[[Order], Made]
    about: str


def write_onnx(order: Order) -> Made:
    """The ONNX file, by the artefact's own checks."""
    artefact = to_artefact(order.subject, order.precision, order.out, order.task)
    if artefact.path != order.out:
        write_atomic(order.out, artefact.path.read_bytes())
        artefact = Artefact(order.out, artefact.header, artefact.module)
    images = order.task.test.images[:CHECKED_IMAGES] if order.task else noise(artefact.header, 256)
    if artefact.module is not None:
        wanted = module_logits(artefact.module, images)
    else:
        assert order.subject.file is not None, "an artefact without a module comes from a file"
        wanted = classify(order.subject.file.path, images)
    exact = artefact.header.precision == "fp32"
    trained = order.task is not None and order.subject.trained
    return Made(
        order.precision,
        agreement(artefact.path, wanted, images, tolerance=None if exact else 0.0),
        float_operations(artefact.path) if order.precision == "int8" else {},
        accuracy_on_test(artefact, order.task) if order.task is not None and trained else None,
    )


def write_qonnx(order: Order) -> Made:
    """The QONNX file, executed by the qonnx package; needs that package."""
    module = _network(order, "qonnx")
    model = build_qonnx(module, order.subject.header)  # first: it says what QONNX cannot hold
    program = _program(order, module)
    images = _images(order, QONNX_IMAGES)
    with tempfile.TemporaryDirectory(prefix="tersa.") as folder:
        trial = Path(folder) / order.out.name
        trial.write_bytes(model.SerializeToString(deterministic=True))
        found = classify_qonnx(trial, as_bytes(images))
        held = _held(order, module, program, images, found)
        write_atomic(order.out, trial.read_bytes())
    note = f"takes bytes 0..255, one image at a time; executed by the qonnx package on {held.images} images"
    return Made(program.precision, held, notes=(note,))


def write_c(order: Order) -> Made:
    """The C file, compiled and run where there is a compiler."""
    module = _network(order, "c")
    program = _program(order, module)
    name = identifier(order.out.stem)
    source = c_source(program, name)
    images = _images(order, CHECKED_IMAGES)
    try:
        compiler = find_compiler()
    except TargetError:
        raise TargetError(
            "a C file is checked by compiling it, and no C compiler is here; apt-get install gcc, or set CC"
        ) from None
    with tempfile.TemporaryDirectory(prefix="tersa.") as folder:
        library = compile_shared(source, Path(folder), C_FLAGS, compiler)
        found = run_c(library, name, as_bytes(images), len(program.classes))
    held = _held(order, module, program, images, found)
    write_atomic(order.out, source)
    accuracy = None
    if order.task is not None and order.subject.trained and len(images) == len(order.task.test.images):
        accuracy = 100.0 * float((found.argmax(1) == order.task.test.labels.numpy()).mean())
    notes = (f"void {name}_predict(const uint8_t *pixels, float *logits); compile with {' '.join(C_FLAGS)}",)
    return Made(program.precision, held, accuracy=accuracy, notes=notes)


def write_tersa(order: Order) -> Made:
    """The packed program, run on every test image."""
    with tempfile.TemporaryDirectory(prefix="tersa.") as folder:
        artefact = to_artefact(order.subject, PACKED, Path(folder) / order.out.name, order.task)
        program = read_bundle(artefact.path)
        images = order.task.test.images if order.task else noise(artefact.header, 256)
        found = classify(artefact.path, images)
    wanted = found if artefact.module is None else module_logits(artefact.module, images)
    tolerance = 0.0 if program.exact else TOLERANCE * max(1.0, float(np.abs(wanted).max(initial=0.0)))
    held = compare_logits(wanted, found, tolerance=tolerance)
    require_on_bytes(held, order.out.name, images)
    write_bundle(order.out, program)
    accuracy = None
    if order.task is not None and order.subject.trained:
        accuracy = 100.0 * float((found.argmax(1) == order.task.test.labels.numpy()).mean())
    same = int((found == wanted).all(1).sum())
    against = "a program read again" if artefact.module is None else "the very logits of the network"
    return Made(
        program.precision, held, accuracy=accuracy, notes=(f"{same} of {len(found)} images: {against}",)
    )


FORMATS: dict[str, Format] = {
    "onnx": Format(".onnx", PRECISIONS, write_onnx, "for ONNX Runtime, OpenVINO and others"),
    "qonnx": Format(".onnx", ("network",), write_qonnx, "low-bit networks for FINN and hls4ml"),
    "tersa": Format(SUFFIX, ("network",), write_tersa, "low-bit networks as packed programs"),
    "c": Format(".c", ("network",), write_c, "low-bit networks as one C99 file"),
}
"""By name; `network` means the bits that the network has."""


def run_c(library: Path, name: str, images: npt.NDArray[np.uint8], classes: int) -> npt.NDArray[np.float32]:
    """Logits (N, K) of bytes (N, C, H, W), by a compiled C file."""
    predict = getattr(ctypes.CDLL(str(library)), f"{name}_predict")
    predict.argtypes, predict.restype = [ctypes.c_void_p, ctypes.c_void_p], None
    found = np.empty((len(images), classes), np.float32)
    for image, row in zip(np.ascontiguousarray(images), found, strict=True):
        predict(image.ctypes.data, row.ctypes.data)
    return found


def _network(order: Order, name: str) -> nn.Module:
    if order.subject.module is None:
        raise UsageError(
            f"{name} is written from a low-bit network, {order.subject.name} is a file of another form; "
            "give --run DIR, or --model with --checkpoint"
        )
    return evaluation_copy(order.subject.module)


def _program(order: Order, module: nn.Module) -> Program:
    header = order.subject.header
    return convert(module, header.classes, header.shape, header.mean, header.std)


def _images(order: Order, most: int) -> Images:
    """Test images as they are stored, or noise."""
    return order.task.test.images[:most] if order.task else noise(order.subject.header, 64)


def _held(
    order: Order,
    module: nn.Module,
    program: Program,
    images: Images,
    found: npt.NDArray[np.float32],
) -> Agreement:
    """Against the network's logits of the stored images: bit for bit, or as near as sums of floats are."""
    wanted = module_logits(Deployed(module, order.subject.header), images)
    tolerance = 0.0 if program.exact else TOLERANCE * max(1.0, float(np.abs(wanted).max(initial=0.0)))
    held = compare_logits(wanted, found, tolerance=tolerance)
    try:
        require_on_bytes(held, order.out.name, images)
    except ModelError as error:
        raise ModelError(f"{error}; nothing was written") from None
    return held
