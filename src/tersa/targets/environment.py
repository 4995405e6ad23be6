"""The machine and the versions that a number belongs to: no host name, no user name, no path.

Example:
    >>> found = environment(threads=1)
    >>> found.threads, sorted(found.versions)[:3]
    (1, ['numpy', 'onnx', 'onnxruntime'])
"""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path

import psutil

import tersa
from tersa.export.artefact import tersa_version
from tersa.export.processor import cpuinfo, processor_name
from tersa.records import Environment
from tersa.targets.registry import package_version

PACKAGES = ("torch", "onnxruntime", "onnx", "onnxscript", "numpy", "openvino")


def environment(threads: int) -> Environment:
    """What to store beside a measurement.

    Args:
        threads: that the work was allowed to use.
    """
    found = {name: package_version(name) for name in PACKAGES}
    return Environment(
        machine=platform.machine(),
        processor=processor_name(cpuinfo()),
        cores=cores(),
        memory_bytes=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        versions={"tersa": tersa_version(), **{name: number for name, number in found.items() if number}},
        threads=threads,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        commit=commit(),
    )


def cores() -> int:
    """Physical cores that this process may use, or logical ones where the system does not tell them apart."""
    physical = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else physical
    return min(physical, allowed)


def commit() -> str:
    """The git commit of the checkout that is running, with `+` for local changes, or an empty text."""
    root = Path(tersa.__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    head = _git(root, "rev-parse", "--short=12", "HEAD")
    return f"{head}+" if head and _git(root, "status", "--porcelain", "--untracked-files=no") else head


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
