"""Targets by name: `onnxruntime@threads=1,graph=all` becomes the thing that runs.

Example:
    >>> parse("onnxruntime@threads=2,graph=basic").describe()
    'onnxruntime@threads=2,graph=basic'
    >>> [target.describe() for target in parse_list("torch,onnxruntime@threads=1,graph=all,torch@threads=2")]
    ['torch@threads=1', 'onnxruntime@threads=1', 'torch@threads=2']
    >>> parse("ssh://pi@raspberry/onnxruntime@threads=4").describe()
    'ssh://pi@raspberry/onnxruntime@threads=4'
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

import psutil

from tersa.errors import TargetError, UsageError, faults, unknown
from tersa.targets import (
    c_build,
    executorch,
    litert,
    onnx_runtime,
    openvino_cpu,
    packed,
    ssh,
    tensorrt,
    torch_compile,
    torch_eager,
)
from tersa.targets.base import Target, first_line


@dataclass(frozen=True)
class Kind:
    """What the registry knows of a runtime without loading it.

    Attributes:
        package: the distribution; its import name has `_` for `-`. Empty for what is no package.
        install: the line that installs it.
        make: the target's class; its fields are `threads` and the options.
        options: allowed values of each option beside `threads`, the default first.
        most_threads: that one call can use; 0 for all that this process may run on.
        compiles: an option with which the first call of a batch size compiles for it; an empty text for any.
        found: version of what is no package, or an empty text.
        features: what it uses of this machine; called where it is installed.
    """

    package: str
    install: str
    make: Callable[..., Target]
    options: dict[str, tuple[str, ...]] = field(default_factory=dict)
    most_threads: int = 0
    compiles: str | None = None
    found: Callable[[], str] | None = None
    features: Callable[[], str] | None = None

    @property
    def precisions(self) -> tuple[str, ...]:
        """What it can run; a processor may have fewer."""
        return self.make().precisions

    @property
    def version(self) -> str:
        """The installed version, or an empty text."""
        return self.found() if self.found else package_version(self.package)


KINDS: dict[str, Kind] = {
    "torch": Kind(
        *("torch", "pip install torch", torch_eager.TorchEager, torch_eager.OPTIONS),
        features=torch_eager.features,
    ),
    "torch-compile": Kind(
        *("torch", "pip install torch", torch_compile.TorchCompile, torch_compile.OPTIONS),
        compiles="",
        features=torch_compile.features,
    ),
    "onnxruntime": Kind(
        *("onnxruntime", "pip install onnxruntime", onnx_runtime.OnnxRuntime, onnx_runtime.OPTIONS),
        features=onnx_runtime.features,
    ),
    "openvino": Kind(
        *("openvino", openvino_cpu.INSTALL, openvino_cpu.OpenVino, openvino_cpu.OPTIONS),
        features=openvino_cpu.features,
    ),
    "litert": Kind(
        *("ai-edge-litert", litert.INSTALL, litert.LiteRt, litert.OPTIONS),
        compiles="converter=litert-torch",
        features=litert.features,
    ),
    "executorch": Kind("executorch", executorch.INSTALL, executorch.ExecuTorch),
    "tensorrt": Kind("tensorrt", tensorrt.INSTALL, tensorrt.TensorRt, tensorrt.OPTIONS, most_threads=1),
    "packed": Kind("numba", packed.INSTALL, packed.Packed),
    "c": Kind("", c_build.INSTALL, c_build.PlainC, c_build.OPTIONS, 1, found=c_build.installed_compiler),
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
        options: what may stand behind `@`, each with its values.
        features: what it uses of this machine.
    """

    name: str
    version: str
    install: str
    precisions: tuple[str, ...]
    options: dict[str, tuple[str, ...]]
    features: str = ""


def installed() -> list[Installed]:
    """Every known runtime, with its version where it is installed."""
    return [_installed(name, kind, kind.version) for name, kind in KINDS.items()]


def _installed(name: str, kind: Kind, found: str) -> Installed:
    features = ""
    if found and kind.features:
        try:
            features = kind.features()
        except (ImportError, OSError, RuntimeError) as error:
            features = f"does not load: {first_line(error)}"
    threads = ("1",) if kind.most_threads == 1 else ("1", "N", "all")
    options = {"threads": threads, **kind.options}
    return Installed(name, found, kind.install, kind.precisions, options, features)


def package_version(package: str) -> str:
    """The installed version of a distribution, or an empty string."""
    if importlib.util.find_spec(package.replace("-", "_")) is None:
        return ""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def parse(text: str) -> Target:
    """A target from its text, `[ssh://[USER@]HOST[:PORT]/]NAME[@OPTION=VALUE[,OPTION=VALUE]...]`.

    `threads` is 1 unless given. A target on another machine is not looked for before it is used.

    Raises:
        UsageError: unknown name, option or value, with what is allowed.
        TargetError: the runtime is not installed, with the line that installs it.
    """
    text = text.strip()
    if text.startswith(ssh.SCHEME):
        return _parse_remote(text)
    name, _, rest = text.partition("@")
    if name not in KINDS:
        raise unknown("target", name, KINDS)
    kind = KINDS[name]
    threads, options = _options(text, rest, kind.options, _most_threads(kind))
    if not kind.version:
        raise TargetError(f"{name} is not installed; {kind.install}")
    return kind.make(threads=threads, **options)


def _parse_remote(text: str) -> Target:
    place, runtime = ssh.split(text)
    name, _, rest = runtime.partition("@")
    if name not in ssh.RUNTIMES:
        raise unknown("target over ssh", name, ssh.RUNTIMES)
    free = tuple(piece for piece in rest.split(",") if piece.strip().startswith("python="))
    kept = ",".join(piece for piece in rest.split(",") if piece not in free)
    known = {key: values for key, values in KINDS[name].options.items() if key in ssh.OPTIONS[name]}
    threads, options = _options(text, kept, known, None, extra=("python",))
    python = ssh.check_python(free[-1].partition("=")[2].strip()) if free else ssh.PYTHON
    return ssh.Remote(place, name, threads, python, tuple(sorted(options.items())))


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
            pieces[-1] += ("," if "@" in _runtime(pieces[-1]) else "@") + piece
        else:
            pieces.append(piece)
    if not pieces:
        raise UsageError(f"no target given; known: {', '.join(KINDS)}")
    twice = sorted({piece for piece in pieces if pieces.count(piece) > 1})
    if twice:
        raise UsageError(f"target '{twice[0]}' is given twice")
    return pieces


def _runtime(text: str) -> str:
    """What stands behind the place of a target on another machine, or the whole text.

    >>> _runtime("ssh://pi@host/onnxruntime@python=/opt/venv/bin/python"), _runtime("torch")
    ('onnxruntime@python=/opt/venv/bin/python', 'torch')
    """
    return text.removeprefix(ssh.SCHEME).partition("/")[2] if ssh.is_remote(text) else text


def compiles(text: str) -> bool:
    """The first call of a batch size compiles for it, on a target of this machine.

    >>> [compiles(text) for text in ("torch-compile@threads=2", "litert", "litert@converter=litert-torch")]
    [True, False, True]
    """
    name, _, rest = text.partition("@")
    option = KINDS[name].compiles if name in KINDS else None
    return option is not None and (not option or option in rest.split(","))


def _options(
    text: str, rest: str, known: dict[str, tuple[str, ...]], most: int | None, extra: tuple[str, ...] = ()
) -> tuple[int, dict[str, str]]:
    """Threads and options of a target's text; `most` threads, None for another machine's.

    Raises:
        UsageError: everything that is wrong with them.
    """
    threads, options, wrong = 1, dict[str, str](), list[str]()
    for piece in filter(None, (part.strip() for part in rest.split(","))):
        key, _, value = piece.partition("=")
        if key == "threads":
            threads = _threads(value, most, wrong)
        elif key not in known:
            wrong.append(f"unknown option '{key}'; known: {', '.join(['threads', *known, *extra])}")
        elif value not in known[key]:
            wrong.append(f"{key} is one of {', '.join(known[key])}, not '{value}'")
        else:
            options[key] = value
    if wrong:
        raise faults(f"target '{text}'", wrong)
    return threads, options


def _most_threads(kind: Kind) -> int:
    return kind.most_threads or (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else psutil.cpu_count(logical=True) or 1
    )


def _threads(value: str, most: int | None, wrong: list[str]) -> int:
    if most is None:
        if not value.isdecimal() or not 1 <= int(value) <= 1024:
            wrong.append(f"threads is 1 to 1024 on another machine, not '{value}'")
            return 1
        return int(value)
    if value == "all":
        return most
    if not value.isdecimal() or not 1 <= int(value) <= most:
        wrong.append(f"threads is 1 to {most} for this target here, or all, not '{value}'")
        return 1
    return int(value)
