"""Energy from recorded counters, with their start at zero again; estimates say that they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tersa.targets.energy import (
    DRAM_PICOJOULES,
    Nvml,
    Rapl,
    Reading,
    by_counters,
    by_operations,
    by_power,
    counters,
    first_visible,
    spent,
)

RANGE = 262_143_328_850


def zone(root: Path, name: str, label: str, value: int | None) -> Path:
    """A powercap zone as Linux shows it; without a value its counter cannot be read."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{label}\n")
    (folder / "max_energy_range_uj").write_text(f"{RANGE}\n")
    if value is not None:
        (folder / "energy_uj").write_text(f"{value}\n")
    return folder


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """Two packages, memory beside the first, its cores, and the whole platform."""
    zone(tmp_path, "intel-rapl:0", "package-0", RANGE - 1_000_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 50)
    zone(tmp_path, "intel-rapl:0:1", "dram", 5_000_000)
    zone(tmp_path, "intel-rapl:1", "package-1", 7)
    zone(tmp_path, "intel-rapl:2", "psys", 9)
    return tmp_path


def test_packages_and_memory_are_added_and_their_parts_are_not(powercap: Path) -> None:
    found = Rapl(powercap)
    assert set(found.ranges) == {"package-0", "package-1", "dram of 0"}


def test_a_counter_that_started_again(powercap: Path) -> None:
    found = Rapl(powercap)
    before = found.read()
    (powercap / "intel-rapl:0" / "energy_uj").write_text("2000000")
    (powercap / "intel-rapl:0:1" / "energy_uj").write_text("5500000")
    # 1 J up to the range and 2 J after it, 0.5 J of memory, nothing in the second package
    assert spent(before, found.read(), found.ranges) == pytest.approx(3.5)


def test_equal_readings_are_no_energy() -> None:
    assert spent(Reading({"a": 5}), Reading({"a": 5}), {"a": RANGE}) == 0.0


def test_counters_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", None)
    assert Rapl(tmp_path).ranges == {}
    assert counters("cpu", tmp_path) is None
    assert counters("cpu", tmp_path / "nowhere") is None


class FakeDriver:
    """Two GPUs, by number on the bus and by UUID; the second has used three joules."""

    uuids = ("GPU-first", "GPU-second")

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: Any) -> int:
        handle._obj.value = 1 + index
        return int(index >= len(self.uuids))

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:
        known = uuid.decode() in self.uuids
        handle._obj.value = 1 + self.uuids.index(uuid.decode()) if known else 0
        return int(not known)

    def nvmlDeviceGetName(self, handle: Any, text: Any, _size: int) -> int:
        text.value = f"GPU {'AB'[handle.value - 1]}".encode()
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, value: Any) -> int:
        value._obj.value = 3000 * (handle.value - 1)
        return 0


@pytest.mark.parametrize(
    ("visible", "name", "millijoules"),
    [
        (None, "GPU A", 0),
        ("1,0", "GPU B", 3000),
        ("GPU-second", "GPU B", 3000),
        ("1", "GPU A", None),  # CUDA counts otherwise than the bus
        ("GPU-third", "GPU B", None),
        ("MIG-1", "GPU A", None),
        ("", "GPU A", None),
        ("7", "GPU A", None),
    ],
)
def test_the_counter_is_of_the_gpu_that_is_measured(
    visible: str | None, name: str, millijoules: int | None
) -> None:
    found = Nvml(name, first_visible(visible), FakeDriver())
    assert list(found.read().microjoules.values()) == ([] if millijoules is None else [1000 * millijoules])


def test_measured_and_estimated_say_what_they_are() -> None:
    measured = by_counters(6.0, calls=3, batch=4, domains="package-0", idle_watts=2.0)
    assert (measured.joules_per_call, measured.joules_per_image) == (2.0, 0.5)
    assert measured.source == "measured"
    assert "package-0" in measured.how
    power = by_power(0.01, watts=20.0, batch=2)
    assert power.joules_per_image == pytest.approx(0.1)
    assert power.source == "estimated"
    work = by_operations(10**12, 0, "int8")
    assert work.joules_per_call == pytest.approx(0.3)
    assert (by_operations(0, 10**12, "fp32").joules_per_call, work.source) == (DRAM_PICOJOULES, "estimated")
    assert by_operations(10, 10, "fp32").joules_per_call > by_operations(10, 10, "fp16").joules_per_call
