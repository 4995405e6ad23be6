"""The machine and the versions that a number belongs to: no host name, no user name, no path.

Example:
    >>> found = environment(threads=1)
    >>> found.threads, {"numpy", "onnx", "onnxruntime"} <= set(found.versions)
    (1, True)
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
from tersa.records.results import Environment
from tersa.targets.registry import package_version

PACKAGES = ("torch", "onnxruntime", "onnx", "onnxscript", "numpy", "numba", "openvino", "ai-edge-litert")

CPU = Path("/sys/devices/system/cpu")
CGROUP = Path("/sys/fs/cgroup")
MEMORY_SHARE, LEAST_MEMORY = 0.8, 10**9
"""Of the memory that is free, what all processes of a measurement may hold together; bytes of one of them."""
UNLIMITED = 2**60
"""Control groups of the first version write their largest number where memory has no limit."""


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
        governor=governor(),
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        container=container(),
    )


def cores() -> int:
    """Physical cores that this process may use, or logical ones where the system does not tell them apart."""
    physical = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else physical
    return min(physical, allowed)


def hardware() -> str:
    """The processor and its cores that this process may use: what a time is of (`AMD EPYC, 2 cores`)."""
    return f"{processor_name(cpuinfo())}, {cores()} core{'' if cores() == 1 else 's'}"


def governor(root: Path = CPU) -> str:
    """How the frequencies of the processors are chosen, each word once; empty where that is not told."""
    found = {_text(path) for path in root.glob("cpu[0-9]*/cpufreq/scaling_governor")}
    return ", ".join(sorted(found - {""}))


def container(root: Path = CGROUP) -> str:
    """The limits of this process's control group in words; empty where there are none.

    Args:
        root: where control groups are mounted, of the second version or the first.
    """
    quota, _, period = _text(root / "cpu.max").partition(" ")
    if not quota:
        quota, period = (_text(root / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    memory = memory_limit(root)
    words = [f"{int(quota) / int(period):g} cpus"] if quota.isdecimal() and period.isdecimal() else []
    return ", ".join([*words, *([f"{memory / 1e9:.3g} GB"] if memory else [])])


def memory_limit(root: Path = CGROUP) -> int | None:
    """Bytes that the control group allows, or None."""
    text = _text(root / "memory.max") or _text(root / "memory" / "memory.limit_in_bytes")
    return int(text) if text.isdecimal() and int(text) < UNLIMITED else None


def available_memory(root: Path = CGROUP) -> int:
    """Bytes that a new process may use now: what the system has free, and no more than the control group."""
    free = psutil.virtual_memory().available
    limit = memory_limit(root)
    if limit is None:
        return free
    used = int(_text(root / "memory.current") or _text(root / "memory" / "memory.usage_in_bytes") or 0)
    return max(0, min(free, limit - max(0, used - _given_back(root))))


def _given_back(root: Path) -> int:
    """Bytes of files that the control group keeps in memory and gives up when something else needs it."""
    text = _text(root / "memory.stat") or _text(root / "memory" / "memory.stat")
    kept = dict(line.split() for line in text.splitlines() if len(line.split()) == 2)
    return int(kept.get("total_inactive_file", kept.get("inactive_file", "0")))


def memory_each(processes: int, root: Path = CGROUP) -> int:
    """Bytes that each of some processes may hold that live at the same time.

    An equal part of `MEMORY_SHARE` of what is free; at least `LEAST_MEMORY`, or all of that share, because a
    runtime alone takes half a gigabyte, and not all of them grow to their limit together.

    Args:
        processes: how many.
        root: where control groups are mounted.
    """
    whole = int(MEMORY_SHARE * available_memory(root))
    return max(whole // processes, min(whole, LEAST_MEMORY))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


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
