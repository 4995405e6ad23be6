"""Memory that a process has freed, kept for its next allocation.

The C library of most Linux systems gives a large block back to the kernel as soon as it is freed. Training
asks for the same blocks again at the next update, and the kernel hands them out anew: zeroed, one page fault
for every 4 kB. On a virtual machine that was a third of an update of LeNet at batch 100 (81 ms of processor
time became 54; 8,800 faults an update became none). Numbers do not change; the process stays at its peak.

It holds for the whole process and cannot be undone, so a whole job asks for it (`recipes.setting`, worker
processes), and importing tersa does not. Latency that a job measures of torch in its own process profits
too; runtimes with an allocator of their own (ONNX Runtime, OpenVINO) do not. A user who has set up the
allocator (`MALLOC_...` or `GLIBC_TUNABLES` in the environment) is left alone, and so are other C libraries.

Example:
    >>> keep_freed({"MALLOC_ARENA_MAX": "2"})
    False

References:
    mallopt(3): M_MMAP_THRESHOLD, M_TRIM_THRESHOLD.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Names of the settings in malloc.h."""

LARGEST = 2**30
"""Blocks up to this size come from the heap, of which up to this size stays when it is free."""


def keep_freed(environment: Mapping[str, str] = os.environ) -> bool:
    """Keep freed memory from now on, where the C library can; whether it does."""
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in environment):
        return False
    try:
        change = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or none that can be asked
        return False
    return all(change(setting, LARGEST) == 1 for setting in (MMAP_THRESHOLD, TRIM_THRESHOLD))
