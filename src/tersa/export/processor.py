"""What the processor can do, from what the operating system says about it.

Example:
    >>> features("flags\\t: fpu sse4_2 avx2 avx_vnni\\n")
    ('avx2', 'vnni')
"""

from __future__ import annotations

import functools
import platform
from pathlib import Path

FEATURES = {
    "avx2": ("avx2",),
    "avx512": ("avx512f",),
    "vnni": ("avx512_vnni", "avx_vnni", "avx512vnni"),
    "bf16": ("avx512_bf16", "bf16"),
    "amx": ("amx_tile",),
    "neon": ("neon", "asimd"),
    "dotprod": ("asimddp",),
    "i8mm": ("i8mm",),
}
"""Our name of a feature, and the flags of Linux that mean it (x86 first, then Arm)."""


def cpuinfo() -> str:
    """The text of `/proc/cpuinfo`, or nothing where there is none."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def features(text: str) -> tuple[str, ...]:
    """The features in the flags of the first processor of a `/proc/cpuinfo`."""
    flags: set[str] = set()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            flags = set(value.split())
            break
    return tuple(name for name, any_of in FEATURES.items() if flags.intersection(any_of))


def processor_name(text: str) -> str:
    """The model name, or the architecture where the system gives none."""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "Hardware") and value.strip():
            return value.strip()
    return platform.processor() or platform.machine() or "unknown"


@functools.cache
def saturates() -> bool:
    """Whether INT8 products can saturate here: x86 without VNNI adds pairs of u8 x s8 products in 16 bits.

    References:
        ONNX Runtime, Quantize ONNX models, section "When and why do I need to use reduce_range".
    """
    x86 = platform.machine().lower() in ("x86_64", "amd64", "i686")
    text = cpuinfo()
    return x86 and bool(text) and "vnni" not in features(text)
