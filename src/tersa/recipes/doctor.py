"""`tersa doctor`: what this machine has, what that means here, and what to install for the rest.

Nothing is downloaded or changed; optional packages may be missing.
"""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Literal

import psutil
import torch

from tersa.data.cache import cache_dir
from tersa.data.sources import survey
from tersa.export.artefact import tersa_version
from tersa.export.processor import cpuinfo, features, processor_name
from tersa.records.base import SCHEMA, Record
from tersa.targets.environment import cores
from tersa.targets.registry import installed, package_version
from tersa.targets.ssh import RUNTIMES, client_version

PACKAGES = (
    "torch",
    "numpy",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "numba",
    "openvino",
    "ai-edge-litert",
    "ray",
    "optuna",
    "qonnx",
)

MEANING = {
    "avx2": "8 floats at a time",
    "avx512": "16 floats at a time",
    "vnni": "INT8 is fast: four products in one instruction, and no saturation",
    "bf16": "bfloat16 arithmetic: what runs in precision bf16 is fast, fp32 stays fp32",
    "amx": "matrix tiles: INT8 and bfloat16 are fast",
    "neon": "4 floats at a time",
    "dotprod": "INT8 is fast: four products in one instruction",
    "i8mm": "INT8 matrix products are fast",
}

NO_INT8 = (
    "no INT8 instructions found: expect INT8 files to be smaller, not faster; their weights use 7 bits here"
)


class Runtime(Record):
    """One runtime.

    Attributes:
        name: as on the command line.
        version: empty when it is not installed.
        precisions: what it can run; a processor may have fewer, and what is missing is refused.
        install: the line that installs it.
        options: what may stand behind `@` (`graph=all|extended`), the default first.
        features: what it uses of this machine.
    """

    name: str
    version: str
    precisions: list[str]
    install: str
    options: list[str] = []  # noqa: RUF012 - pydantic copies defaults
    features: str = ""


class RemoteForm(Record):
    """How a target on another machine is written, and whether this machine can reach one.

    Attributes:
        client: name and version of the ssh client, or empty.
        form: of the target's text.
        runtimes: what can run over there.
        install: the line that installs a client.
    """

    client: str
    form: str
    runtimes: list[str]
    install: str


class DataFound(Record):
    """One known data set on this machine."""

    name: str
    state: str
    location: str
    hint: str


class Diagnosis(Record):
    """Everything that `tersa doctor` found.

    Attributes:
        features: of the processor, each with what it means here.
        int8: in a sentence, whether INT8 can be faster on this processor.
        threads: that PyTorch uses when nothing is said.
        gpu: name of the CUDA device, or empty.
        remote: targets on other machines.
    """

    schema_version: int = SCHEMA
    verb: Literal["doctor"] = "doctor"
    tersa: str
    python: str
    system: str
    processor: str
    cores: int
    threads: int
    features: dict[str, str]
    int8: str
    memory_bytes: int
    memory_free_bytes: int
    gpu: str
    runtimes: list[Runtime]
    remote: RemoteForm
    packages: dict[str, str]
    data: list[DataFound]
    cache: str
    cache_bytes: int
    artefacts: list[str] = []  # noqa: RUF012 - pydantic copies defaults
    report: str = ""
    seconds: float


def diagnose(data_dir: Path | None = None) -> Diagnosis:
    """Look at this machine.

    Args:
        data_dir: where to look for data first.
    """
    start = time.perf_counter()
    memory = psutil.virtual_memory()
    has = features(cpuinfo())
    place = cache_dir()
    return Diagnosis(
        tersa=tersa_version(),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=processor_name(cpuinfo()),
        cores=cores(),
        threads=torch.get_num_threads(),
        features={name: MEANING[name] for name in has},
        int8=int8_outlook(has),
        memory_bytes=memory.total,
        memory_free_bytes=memory.available,
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        runtimes=[
            Runtime(
                name=one.name,
                version=one.version,
                precisions=list(one.precisions),
                install=one.install,
                options=[f"{key}={'|'.join(values)}" for key, values in one.options.items()],
                features=one.features,
            )
            for one in installed()
        ],
        remote=RemoteForm(
            client=client_version(),
            form="ssh://[USER@]HOST[:PORT]/RUNTIME[@threads=N,python=PATH]",
            runtimes=list(RUNTIMES),
            install="apt-get install openssh-client",
        ),
        packages={name: package_version(name) for name in PACKAGES},
        data=[
            DataFound(name=one.name, state=one.state, location=one.location, hint=one.hint)
            for one in survey(data_dir)
        ],
        cache=str(place),
        cache_bytes=folder_bytes(place),
        seconds=time.perf_counter() - start,
    )


def int8_outlook(has: tuple[str, ...]) -> str:
    """In a sentence, whether INT8 can be faster with these processor features.

    >>> int8_outlook(("avx2", "vnni"))
    'vnni: INT8 is fast: four products in one instruction, and no saturation'
    """
    for name in ("amx", "vnni", "i8mm", "dotprod"):
        if name in has:
            return f"{name}: {MEANING[name]}"
    return NO_INT8


def folder_bytes(folder: Path) -> int:
    """Bytes of all files under a folder; 0 when there is none."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() and not path.is_symlink() else 0
        except OSError:  # removed by another process since it was listed
            continue
    return total
