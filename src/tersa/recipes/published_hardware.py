"""What document 003 published of networks on devices: its chapter 4, as files of the package.

    hardware_networks.csv    table 4.1: the two networks as their papers have them
    hardware_devices.csv     table 4.2: the NVIDIA devices
    hardware_precision.csv   tables 4.3 and 4.4: batch 32 in three precisions on two Jetson boards
    hardware_sizes.csv       table 4.5: how much smaller NetAdapt made each network
    hardware_cross.csv       tables 4.6 and 4.7: adapted for one device, measured on another
    hardware_claims.csv      what the text says beside its figures 4.1 to 4.6
    energy_per_operation.csv figure 2.12: energy of an addition, a product, an access

Figures 4.1 to 4.6 are pictures: the values behind their curves are not printed, only what the text says of
them. Names of networks are this project's (`alexnet`, `mobilenet`); those of devices are the document's.

References:
    Document 003 (master thesis, UdelaR 2024), chapters 2 and 4.

Example:
    >>> int8 = next(row for row in precisions() if row.precision == "int8" and row.latency_ms)
    >>> int8.device, int8.network, int8.latency_ms
    ('Xavier', 'alexnet', 19.3)
    >>> original("i7-4790", "alexnet"), reduction("i7-4790", "TX2", "alexnet")
    (44.0, 64.0)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from tersa.recipes.published_table import number, rows

NETWORKS = ("alexnet", "mobilenet")
"""Measured by the document."""
ADAPTED_FOR = ("NCS2", "GTX 970", "TX2", "i7-4790")
"""Devices of the cross evaluation, in the order of the tables' columns."""


@dataclass(frozen=True)
class NetworkFact:
    """One row of table 4.1.

    Attributes:
        property: what is compared.
        unit: of the values.
        alexnet: its value.
        mobilenet: MobileNet V1's.
        approximate: the table has a tilde.
    """

    property: str
    unit: str
    alexnet: float
    mobilenet: float
    approximate: bool


@dataclass(frozen=True)
class DeviceFact:
    """One row of table 4.2, as text; None where the table has a dash."""

    property: str
    unit: str
    jetson_tx2: str | None
    jetson_agx_xavier: str | None
    gtx_970: str | None
    p100: str | None


@dataclass(frozen=True)
class PublishedPrecision:
    """One cell of tables 4.3 and 4.4.

    Attributes:
        table: `4.3` or `4.4`.
        network: `alexnet` or `mobilenet`.
        device: `TX2` or `Xavier`.
        form: `original` or `NetAdapt`.
        runtime: `PyTorch` (the table's base) or `TensorRT`.
        precision: `fp32`, `fp16` or `int8`.
        batch: images.
        latency_ms: of one batch; None where the table is empty.
    """

    table: str
    network: str
    device: str
    form: str
    runtime: str
    precision: str
    batch: int
    latency_ms: float | None


@dataclass(frozen=True)
class PublishedSize:
    """One cell of table 4.5.

    Attributes:
        network: `alexnet` or `mobilenet`.
        adapted_for: a device; empty for the network as it was.
        reduction: of the size, percent; None for the network as it was.
        size_mib: None but for the network as it was.
    """

    network: str
    adapted_for: str
    reduction: float | None
    size_mib: float | None


@dataclass(frozen=True)
class PublishedCross:
    """One cell of tables 4.6 and 4.7.

    Attributes:
        table: `4.6` or `4.7`.
        network: `alexnet` or `mobilenet`.
        measured_on: device that ran it.
        adapted_for: device that NetAdapt made it for.
        reduction: of the latency, percent; 0 where it was slower.
        original_ms: latency of the network as it was on `measured_on`.
    """

    table: str
    network: str
    measured_on: str
    adapted_for: str
    reduction: float
    original_ms: float


@dataclass(frozen=True)
class Claim:
    """A figure that the text states.

    Attributes:
        section: of the document.
        network: `alexnet`, `mobilenet`, `both`, or another's name.
        device: it was measured on; empty where it is of no device.
        what: in words.
        value: in `unit`.
        unit: of the value.
    """

    section: str
    network: str
    device: str
    what: str
    value: float
    unit: str


@dataclass(frozen=True)
class Energy:
    """One operation of figure 2.12.

    Attributes:
        kind: `integer`, `float` or `memory`.
        operation: `add`, `multiply`, `cache` or `DRAM`.
        bits: of the operands, or of one access.
        size_bytes: of the cache; None for the others.
        low_pj: picojoules.
        high_pj: the same, but for DRAM.
    """

    kind: str
    operation: str
    bits: int
    size_bytes: int | None
    low_pj: float
    high_pj: float


@cache
def networks() -> tuple[NetworkFact, ...]:
    """Table 4.1."""
    return tuple(
        NetworkFact(
            row["property"],
            row["unit"],
            float(row["alexnet"]),
            float(row["mobilenet_v1"]),
            row["approximate"] == "yes",
        )
        for row in rows("hardware_networks.csv")
    )


@cache
def devices() -> tuple[DeviceFact, ...]:
    """Table 4.2."""
    names = ("jetson_tx2", "jetson_agx_xavier", "gtx_970", "p100")
    return tuple(
        DeviceFact(row["property"], row["unit"], *(row[name] or None for name in names))
        for row in rows("hardware_devices.csv")
    )


@cache
def precisions() -> tuple[PublishedPrecision, ...]:
    """Tables 4.3 and 4.4."""
    return tuple(
        PublishedPrecision(
            row["table"],
            row["network"],
            row["device"],
            row["form"],
            row["runtime"],
            row["precision"],
            int(row["batch"]),
            number(row["latency_ms"]),
        )
        for row in rows("hardware_precision.csv")
    )


@cache
def sizes() -> tuple[PublishedSize, ...]:
    """Table 4.5."""
    return tuple(
        PublishedSize(
            row["network"],
            row["adapted_for"],
            number(row["size_reduction_percent"]),
            number(row["size_MiB"]),
        )
        for row in rows("hardware_sizes.csv")
    )


@cache
def crosses() -> tuple[PublishedCross, ...]:
    """Tables 4.6 and 4.7."""
    return tuple(
        PublishedCross(
            row["table"],
            row["network"],
            row["measured_on"],
            row["adapted_for"],
            float(row["latency_reduction_percent"]),
            float(row["original_ms"]),
        )
        for row in rows("hardware_cross.csv")
    )


@cache
def claims() -> tuple[Claim, ...]:
    """What the text says."""
    return tuple(
        Claim(row["section"], row["network"], row["device"], row["what"], float(row["value"]), row["unit"])
        for row in rows("hardware_claims.csv")
    )


@cache
def energies() -> tuple[Energy, ...]:
    """Figure 2.12."""
    return tuple(
        Energy(
            row["kind"],
            row["operation"],
            int(row["bits"]),
            int(row["size_bytes"]) if row["size_bytes"] else None,
            float(row["low_pj"]),
            float(row["high_pj"]),
        )
        for row in rows("energy_per_operation.csv")
    )


def original(device: str, network: str) -> float | None:
    """Latency of a network as it was at batch 1 on a device, ms (last column of tables 4.6 and 4.7)."""
    found = {(row.measured_on, row.network): row.original_ms for row in crosses()}
    return found.get((device, network))


def reduction(measured_on: str, adapted_for: str, network: str) -> float | None:
    """Latency that a network adapted for one device saves on another, percent (tables 4.6 and 4.7)."""
    found = {(row.measured_on, row.adapted_for, row.network): row.reduction for row in crosses()}
    return found.get((measured_on, adapted_for, network))
