"""Energy: read from the machine's own counters where it has them, else estimated by a model that is named.

*Measured* energy is the difference of a counter before and after many calls: RAPL (Linux powercap: package
and memory of Intel and AMD processors) for the CPU, NVML for an NVIDIA GPU. It is all that the package or the
card used in that time, work of others and idle power included. A counter starts again at zero after its
range:

    spent = after - before,  or  after - before + range  where that is negative

*Estimated* energy is one of two models, and says which: a power that the user states, times the time of a
call; or operations and bytes times what each takes in a 45 nm chip (Horowitz 2014), which is the least that
such a chip would need and not what this machine uses. Measured and estimated values are never added or put in
one column.

Example:
    >>> early, late = Reading({"package-0": 262_143_000_000}), Reading({"package-0": 1_000_000})
    >>> spent(early, late, {"package-0": 262_143_328_850})
    1.32885
    >>> by_power(0.5, watts=15.0).joules_per_call, by_power(0.5, watts=15.0).source
    (7.5, 'estimated')

References:
    Horowitz, Computing's energy problem (ISSCC 2014), figure 1.1.9; Linux, Documentation/power/powercap.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from tersa.records.base import Record

POWERCAP = Path("/sys/class/powercap")

PICOJOULES = {"fp32": 3.7 + 0.9, "fp16": 1.1 + 0.4, "bf16": 1.1 + 0.4, "int8": 0.2 + 0.1}
"""One multiplication and one addition at 45 nm: INT8 products are added in 32 bits; BF16 is taken as FP16."""

DRAM_PICOJOULES = 1300.0 / 8
"""One byte from memory at 45 nm, the lower end of the 1.3 to 2.6 nJ for 64 bits."""

NOT_MEASURED = "not measured: this machine has no energy counter that can be read"


class Energy(Record):
    """What one call took.

    Attributes:
        joules_per_call: energy of one call, J.
        joules_per_image: the same over the batch.
        source: `measured` or `estimated`.
        how: counters that were read, or the model with its numbers.
        idle_watts: what the same counters showed while nothing was run here, where they were read.
    """

    joules_per_call: float
    joules_per_image: float
    source: Literal["measured", "estimated"]
    how: str
    idle_watts: float | None = None


@dataclass(frozen=True)
class Reading:
    """All counters at one moment, in microjoules by domain."""

    microjoules: Mapping[str, int]


class Meter(Protocol):
    """Counters that can be read; `Rapl` and `Nvml` are some.

    Attributes:
        ranges: microjoules after which each domain starts again; 0 for one that does not.
    """

    @property
    def ranges(self) -> Mapping[str, int]: ...

    def read(self) -> Reading:
        """The counters now."""
        ...


def domains(meter: Meter) -> str:
    """The names of its counters, as measurements tell them."""
    return ", ".join(meter.ranges)


def spent(before: Reading, after: Reading, ranges: Mapping[str, int]) -> float:
    """Joules between two readings, summed over their domains.

    Args:
        before: earlier reading.
        after: later one of the same domains; a counter may have started again once in between.
        ranges: microjoules after which each counter starts again; 0 for one that does not.
    """
    total = 0
    for name, start in before.microjoules.items():
        difference = after.microjoules[name] - start
        total += difference + ranges[name] if difference < 0 else difference
    return total / 1e6


class Rapl:
    """The processor's own counters, as Linux shows them.

    Args:
        root: the powercap folder; a test passes its own.

    Attributes:
        files: counter file by domain: packages, and memory beside them. Cores and graphics are parts of a
            package and a whole-platform domain contains it, so neither is added.
        ranges: microjoules after which each starts again.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        self.files: dict[str, Path] = {}
        self.ranges: dict[str, int] = {}
        for zone in sorted(root.glob("*-rapl:*")):
            with suppress(OSError, ValueError):  # absent, or readable by root only
                name = (zone / "name").read_text().strip()
                counter, span = zone / "energy_uj", int((zone / "max_energy_range_uj").read_text())
                int(counter.read_text())
                if name.startswith("package") or name == "dram":
                    key = name if name.startswith("package") else f"dram of {zone.name.split(':')[1]}"
                    self.files[key], self.ranges[key] = counter, span

    def read(self) -> Reading:
        """The counters now."""
        return Reading({name: int(path.read_text()) for name, path in self.files.items()})


def first_visible(visible: str | None) -> int | str | None:
    """The GPU that CUDA calls device 0: its number or UUID, or None where there is none with a counter.

    A part of a GPU (MIG) has no counter of its own.

    Args:
        visible: `$CUDA_VISIBLE_DEVICES`, or None where it is not set.

    >>> [first_visible(text) for text in (None, "2,0", "GPU-8a,1", "MIG-8a", "-1", "")]
    [0, 2, 'GPU-8a', None, None, None]
    """
    first = "0" if visible is None else visible.split(",")[0].strip()
    if first.isdecimal():
        return int(first)
    return first if first.startswith("GPU-") else None


class Nvml:
    """The counter of an NVIDIA GPU, by the driver's own library; Volta and later have one.

    CUDA numbers GPUs by speed unless `$CUDA_DEVICE_ORDER` says otherwise, the library by their place on the
    bus: a GPU of another name than the one that was measured is not read.

    Args:
        name: of the GPU, as PyTorch tells it.
        gpu: its number or UUID, see `first_visible`.
        library: the driver's; None for the system's. A test passes its own.

    Attributes:
        ranges: one domain that never starts again, or none where there is no such GPU.
    """

    def __init__(self, name: str, gpu: int | str | None, library: Any = None) -> None:
        self.ranges: dict[str, int] = {}
        self._library: Any = None
        self._handle = ctypes.c_void_p()
        try:
            library = library or ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            return
        if gpu is None or library.nvmlInit_v2() or self._find(library, gpu):
            return
        found = ctypes.create_string_buffer(96)
        if library.nvmlDeviceGetName(self._handle, found, len(found)) or found.value.decode() != name:
            return
        self._library = library
        if self._millijoules() is not None:
            self.ranges = {f"gpu {gpu}" if isinstance(gpu, int) else "gpu": 0}

    def _find(self, library: Any, gpu: int | str) -> int:
        handle = ctypes.byref(self._handle)
        if isinstance(gpu, int):
            return library.nvmlDeviceGetHandleByIndex_v2(gpu, handle)
        return library.nvmlDeviceGetHandleByUUID(gpu.encode(), handle)

    def read(self) -> Reading:
        """The counter now."""
        return Reading({name: 1000 * (self._millijoules() or 0) for name in self.ranges})

    def _millijoules(self) -> int | None:
        value = ctypes.c_ulonglong()
        library = self._library
        if library is None or library.nvmlDeviceGetTotalEnergyConsumption(self._handle, ctypes.byref(value)):
            return None
        return value.value


def counters(device: str = "cpu", root: Path = POWERCAP) -> Rapl | Nvml | None:
    """The counters that see a device, or None where the machine has none that can be read.

    Args:
        device: `cpu`, or the name of a GPU: the first that this process sees.
        root: the powercap folder.
    """
    if device == "cpu":
        found = Rapl(root)
    else:
        found = Nvml(device, first_visible(os.environ.get("CUDA_VISIBLE_DEVICES")))
    return found if found.ranges else None


def by_counters(
    joules: float, calls: int, batch: int, domains: str, idle_watts: float | None = None
) -> Energy:
    """Measured energy of `calls` calls."""
    call = joules / calls
    return Energy(
        joules_per_call=call,
        joules_per_image=call / batch,
        source="measured",
        how=f"counters of {domains}, {calls:,} calls, idle power included",
        idle_watts=idle_watts,
    )


def by_power(seconds: float, *, watts: float, batch: int = 1) -> Energy:
    """Estimated energy of a call: E = P t, with a power that the user states.

    Args:
        seconds: of one call.
        watts: P.
        batch: images in the call.
    """
    call = seconds * watts
    return Energy(
        joules_per_call=call,
        joules_per_image=call / batch,
        source="estimated",
        how=f"{watts:g} W as stated, times the time of a call",
    )


def by_operations(macs: int, traffic_bytes: int, precision: str, *, batch: int = 1) -> Energy:
    """Estimated energy of a call: E = MACs e(precision) + bytes e(memory), at 45 nm.

    Args:
        macs: multiply-accumulates of the call.
        traffic_bytes: read from and written to memory in the call.
        precision: of the arithmetic.
        batch: images in the call.
    """
    call = (macs * PICOJOULES[precision] + traffic_bytes * DRAM_PICOJOULES) / 1e12
    return Energy(
        joules_per_call=call,
        joules_per_image=call / batch,
        source="estimated",
        how="arithmetic and memory traffic of a 45 nm chip (Horowitz 2014), not of this machine",
    )
