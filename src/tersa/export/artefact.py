"""The artefact: one file that takes pixels and gives logits, and what its metadata say about it.

It is an ONNX file, or the packed program of a low-bit network (`.tersa`). The header travels inside the file
(an ONNX file's `metadata_props`), so that a file alone is enough to use it: class names,
input shape, the normalisation that is folded into it, its precision.

Example:
    >>> header = Header(("cat", "dog"), (3, 32, 32), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    >>> Header.parse(header.properties(), "pets.onnx") == header
    True
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import cast

import onnx
import onnxruntime
from torch import nn

from tersa.data.task import Task
from tersa.errors import ModelError, brief, plain_text
from tersa.export.bundle import SUFFIX, read_bundle

INPUT, OUTPUT = "pixels", "logits"
"""Names of the one input and the one output of every artefact."""

SCHEMA = 1
"""Version of the metadata keys; a reader refuses a newer one."""

MOST_CLASSES, MOST_VALUES = 1 << 20, 1 << 28
"""Bounds on what another program's file may claim, before anything of that size is made."""

PRECISIONS = ("fp32", "int8")
"""Of ONNX files."""
PACKED = "packed"
"""Of `.tersa` files: the bits that the network has, in words."""

NO_SPINNING = ("session.force_spinning_stop", "1")
"""ONNX Runtime's threads sleep when a call ends. Else they spin for some 40 ms, and take the processor from
whatever is timed next.
"""


def tersa_version() -> str:
    """The installed version of tersa, or `unknown` when it runs without having been installed."""
    try:
        return version("tersa")
    except PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True)
class Header:
    """What an artefact says about itself.

    Attributes:
        classes: names of the K classes, in the order of the logits.
        shape: (C, H, W) of one image.
        mean: per channel, subtracted from pixels in 0..1 inside the artefact.
        std: per channel, divided by inside the artefact.
        precision: `fp32`, `int8` or `packed`.
        tersa: version that wrote the file.
    """

    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    precision: str = "fp32"
    tersa: str = field(default_factory=tersa_version)

    def __post_init__(self) -> None:
        channels = self.shape[0]
        if len(self.mean) != channels or len(self.std) != channels:
            raise ModelError(
                f"{channels} channels need as many means and deviations, "
                f"got {len(self.mean)} and {len(self.std)}"
            )
        if not all(value > 0.0 for value in self.std):
            raise ModelError(f"a standard deviation must be above 0, got {self.std}")
        if self.precision not in (*PRECISIONS, PACKED):
            raise ModelError(
                f"unknown precision {self.precision!r}; known: {', '.join((*PRECISIONS, PACKED))}"
            )
        if wrong := [name for name in self.classes if not plain_text(name)]:
            raise ModelError(f"the class name {wrong[0]!a} holds control characters or no UTF-8; rename it")

    @staticmethod
    def of(task: Task) -> Header:
        """The header of a network that was trained on `task`."""
        return Header(task.classes, task.shape, task.mean, task.std)

    def properties(self) -> dict[str, str]:
        """The metadata keys and values, in the order in which they are written."""
        return {
            "schema": str(SCHEMA),
            "tersa_version": self.tersa,
            "precision": self.precision,
            "classes": json.dumps(self.classes, ensure_ascii=False),
            "input_shape": json.dumps(self.shape),
            "mean": json.dumps(self.mean),
            "std": json.dumps(self.std),
        }

    @staticmethod
    def parse(properties: dict[str, str], name: str) -> Header:
        """Read the keys back.

        Raises:
            ModelError: a key is missing or unreadable, or the schema is newer than this tersa; classes that
                are no list of texts for a terminal, a shape that no image has, a mean or deviation that is no
                number.
        """
        if "schema" not in properties:
            raise ModelError(
                f"{name} was not written by tersa: its metadata name no classes and no input shape"
            )
        try:
            schema = int(properties["schema"])
            if schema > SCHEMA:
                raise ModelError(
                    f"{name} has schema {schema}, this tersa reads up to {SCHEMA}; install a newer tersa"
                )
            return Header(
                _classes(properties["classes"]),
                _shape(properties["input_shape"]),
                _numbers(properties["mean"], "mean"),
                _numbers(properties["std"], "std"),
                properties["precision"],
                properties["tersa_version"],
            )
        except (KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
            raise ModelError(f"{name} has damaged tersa metadata: {error}") from None


def _list(text: str, what: str) -> list[object]:
    found: object = json.loads(text)
    if not isinstance(found, list):
        raise ValueError(f"{what} is no list")
    return cast("list[object]", found)


def _classes(text: str) -> tuple[str, ...]:
    found = _list(text, "classes")
    labels = tuple(label for label in found if isinstance(label, str))
    if not 0 < len(labels) == len(found) <= MOST_CLASSES:
        raise ValueError("classes is no list of texts")
    return labels


def _shape(text: str) -> tuple[int, int, int]:
    found = _list(text, "input_shape")
    sizes = [size for size in found if type(size) is int and size > 0]
    if not len(sizes) == len(found) == 3 or math.prod(sizes) > MOST_VALUES:
        raise ValueError(f"input_shape {text[:80]} is not (C, H, W) of an image")
    return sizes[0], sizes[1], sizes[2]


def _numbers(text: str, what: str) -> tuple[float, ...]:
    found = _list(text, what)
    values = tuple(float(value) for value in found if isinstance(value, int | float))
    if len(values) != len(found) or not all(map(math.isfinite, values)):
        raise ValueError(f"{what} {text[:80]} is no list of finite numbers")
    return values


@dataclass(frozen=True)
class Artefact:
    """A network as a file, and as a module where it came from one.

    Attributes:
        path: the ONNX or `.tersa` file.
        header: what the file says about itself.
        module: the same computation, pixels to logits, as a PyTorch module; None for a bare file.
    """

    path: Path
    header: Header
    module: nn.Module | None = None

    @property
    def size_bytes(self) -> int:
        """Size of the file on disk."""
        return self.path.stat().st_size


def open_session(path: Path, threads: int = 1, graph: str = "ORT_ENABLE_ALL") -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the CPU that prints nothing.

    Args:
        path: the ONNX file.
        threads: within one operator; operators run one after the other.
        graph: name of the `GraphOptimizationLevel`.

    Raises:
        ModelError: no such file, or not an ONNX file that ONNX Runtime can load.
    """
    if not path.is_file():
        raise ModelError(f"no file {path}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry(*NO_SPINNING)
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, graph)
    try:
        # Without a fallback: it prints to standard output, where `--json` has its one line.
        return onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except Exception as error:  # noqa: BLE001 - onnxruntime's own exception types share no public base class
        raise ModelError(f"{path} is not an ONNX file that onnxruntime can load: {brief(error)}") from None


def read_artefact(path: Path) -> Artefact:
    """An artefact from its file alone.

    Raises:
        ModelError: neither an ONNX nor a .tersa file, one that tersa did not write, or one whose metadata do
            not fit its network.
    """
    if path.suffix == SUFFIX:
        program = read_bundle(path)
        plain = (0.0,) * program.shape[0], (1.0,) * program.shape[0]  # a program takes pixels as they are
        return Artefact(path, Header(program.classes, program.shape, *plain, PACKED, ""))
    session = open_session(path)
    header = Header.parse(_metadata(session, path), str(path))
    _check_fit(session, header, path)
    return Artefact(path, header)


def _check_fit(session: onnxruntime.InferenceSession, header: Header, path: Path) -> None:
    """Refuse metadata that speak of other images or classes than the graph."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    takes: list[object] = list(inputs[0].shape[1:]) if len(inputs) == 1 else []
    gives: list[object] = list(outputs[0].shape[1:]) if len(outputs) == 1 else []
    if takes != list(header.shape) or len(gives) != 1 or gives[0] != len(header.classes):
        raise ModelError(
            f"{path} has damaged tersa metadata: images {header.shape} and {len(header.classes)} classes, "
            f"but its network takes {tuple(takes)} and gives {tuple(gives)}"
        )


def _metadata(session: onnxruntime.InferenceSession, path: Path) -> dict[str, str]:
    try:
        return dict(session.get_modelmeta().custom_metadata_map)
    except ValueError as error:  # bytes that are no text
        raise ModelError(f"{path} has damaged metadata: {brief(error)}") from None


@dataclass(frozen=True)
class Foreign:
    """An ONNX file of another program, as far as it can be known: good for timing only.

    Attributes:
        artefact: with classes by number and no normalisation, because the file names neither.
        batch: the one batch size that it takes, or None for any.
    """

    artefact: Artefact
    batch: int | None


def read_foreign(path: Path) -> Foreign:
    """An ONNX file of any program that takes one (N, C, H, W) float input and gives (N, K).

    Raises:
        ModelError: not an ONNX file, or one with other inputs or outputs.
    """
    session = open_session(path)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shape = inputs[0].shape if len(inputs) == 1 and inputs[0].type == "tensor(float)" else []
    last = outputs[0].shape[-1] if outputs[0].shape else None
    fixed = all(isinstance(size, int) for size in shape[1:])
    if len(shape) != 4 or not fixed or len(outputs[0].shape) != 2 or not isinstance(last, int):
        found = ", ".join(f"{one.type} {one.shape}" for one in (*inputs, *outputs))
        raise ModelError(f"{path} must take one float image (N, C, H, W) and give (N, K); it has {found}")
    batch, c, h, w = shape
    if not 0 < last <= MOST_CLASSES or not 0 < c * h * w <= MOST_VALUES:
        raise ModelError(
            f"{path} takes images {(c, h, w)} and gives {last} classes, which is out of proportion"
        )
    kinds = {node.op_type for node in onnx.load(path, load_external_data=False).graph.node}
    integer = any(kind.startswith(("QuantizeLinear", "QLinear", "DynamicQuantize")) for kind in kinds)
    header = Header(
        tuple(str(label) for label in range(last)),
        (c, h, w),
        (0.0,) * c,
        (1.0,) * c,
        "int8" if integer else "fp32",
        "",
    )
    return Foreign(Artefact(path, header), batch if isinstance(batch, int) else None)


def is_ours(path: Path) -> bool:
    """Whether tersa wrote the ONNX file."""
    return "schema" in _metadata(open_session(path), path)
