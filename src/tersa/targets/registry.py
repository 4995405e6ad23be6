"""Targets by name: `onnxruntime@threads=1,graph=all` becomes the thing that runs.

Example:
    >>> parse("onnxruntime@threads=2,graph=basic").describe()
    'onnxruntime@threads=2,graph=basic'
    >>> [target.describe() for target in parse_list("torch,onnxruntime@threads=1,graph=all,torch@threads=2")]
    ['torch@threads=1', 'onnxruntime@threads=1', 'torch@threads=2']
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

import psutil

from tersa.errors import TargetError, UsageError, faults, unknown
from tersa.targets.base import Target
from tersa.targets.onnx_runtime import GRAPH_LEVELS, OnnxRuntime
from tersa.targets.openvino_cpu import INSTALL as INSTALL_OPENVINO
from tersa.targets.openvino_cpu import OpenVino
from tersa.targets.torch_eager import TorchEager


@dataclass(frozen=True)
class Kind:
    """What the registry knows of a runtime without loading it.

    Attributes:
        package: the distribution, which is the import name too.
        install: the line that installs it.
        precisions: what it can run.
        make: from the number of threads and the other options.
        options: allowed values of each option beside `threads`.
    """

    package: str
    install: str
    precisions: tuple[str, ...]
    make: Callable[[int, dict[str, str]], Target]
    options: dict[str, tuple[str, ...]] = field(default_factory=dict)


KINDS: dict[str, Kind] = {
    "torch": Kind("torch", "pip install torch", ("fp32",), lambda threads, _: TorchEager(threads)),
    "onnxruntime": Kind(
        "onnxruntime",
        "pip install onnxruntime",
        ("fp32", "int8"),
        lambda threads, options: OnnxRuntime(threads, options.get("graph", "all")),
        {"graph": tuple(GRAPH_LEVELS)},
    ),
    "openvino": Kind("openvino", INSTALL_OPENVINO, ("fp32", "int8"), lambda threads, _: OpenVino(threads)),
}

DEFAULT = "onnxruntime@threads=1"


@dataclass(frozen=True)
class Installed:
    """One runtime on this machine.

    Attributes:
        name: as on the command line.
        version: of the package, or empty when it is not installed.
        install: the line that installs it.
        precisions: what it can run.
    """

    name: str
    version: str
    install: str
    precisions: tuple[str, ...]


def installed() -> list[Installed]:
    """Every known runtime, with its version where it is installed."""
    return [
        Installed(name, package_version(kind.package), kind.install, kind.precisions)
        for name, kind in KINDS.items()
    ]


def package_version(package: str) -> str:
    """The installed version of a distribution, or an empty string."""
    if importlib.util.find_spec(package) is None:
        return ""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def parse(text: str) -> Target:
    """A target from its text, `NAME[@OPTION=VALUE[,OPTION=VALUE]...]`; `threads` is 1 unless given.

    Raises:
        UsageError: unknown name, option or value, with what is allowed.
        TargetError: the runtime is not installed, with the line that installs it.
    """
    name, _, rest = text.strip().partition("@")
    if name not in KINDS:
        raise unknown("target", name, KINDS)
    kind = KINDS[name]
    threads, options, wrong = 1, dict[str, str](), list[str]()
    for piece in filter(None, (part.strip() for part in rest.split(","))):
        key, _, value = piece.partition("=")
        if key == "threads":
            threads = _threads(value, wrong)
        elif key not in kind.options:
            wrong.append(f"unknown option '{key}'; known: {', '.join(['threads', *kind.options])}")
        elif value not in kind.options[key]:
            wrong.append(f"{key} is one of {', '.join(kind.options[key])}, not '{value}'")
        else:
            options[key] = value
    if wrong:
        raise faults(f"target '{text}'", wrong)
    if not package_version(kind.package):
        raise TargetError(f"{name} is not installed; {kind.install}")
    return kind.make(threads, options)


def parse_list(text: str) -> list[Target]:
    """Targets separated by commas; a piece `option=value` belongs to the target before it.

    Raises:
        UsageError: as `parse`, nothing given, or the same target twice.
        TargetError: as `parse`.
    """
    return [parse(piece) for piece in split_list(text)]


def split_list(text: str) -> list[str]:
    """The texts of the targets in a list separated by commas.

    Raises:
        UsageError: nothing given, or the same target twice.
    """
    pieces: list[str] = []
    for piece in filter(None, (part.strip() for part in text.split(","))):
        if "=" in piece and "@" not in piece and pieces:
            pieces[-1] += ("," if "@" in pieces[-1] else "@") + piece
        else:
            pieces.append(piece)
    if not pieces:
        raise UsageError(f"no target given; known: {', '.join(KINDS)}")
    twice = sorted({piece for piece in pieces if pieces.count(piece) > 1})
    if twice:
        raise UsageError(f"target '{twice[0]}' is given twice")
    return pieces


def _threads(value: str, wrong: list[str]) -> int:
    cores = psutil.cpu_count(logical=True) or 1
    if value == "all":
        return cores
    if not value.isdecimal() or not 1 <= int(value) <= cores:
        wrong.append(f"threads is 1 to {cores} on this machine, or all, not '{value}'")
        return 1
    return int(value)
