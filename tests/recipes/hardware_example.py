"""Made-up measurements of a hardware reproduction, for tests of its tables, report and command."""

from __future__ import annotations

from tersa.recipes.hardware_result import Group, HardwareResult, NetworkFacts
from tersa.records.results import Comparison, Environment, Quantiles
from tersa.targets.sweep import Gap, Row

TORCH, FAST = "torch@threads=1", "openvino@threads=1"


def row(
    ms: float, target: str = TORCH, precision: str = "fp32", batch: int = 1, model: str = "alexnet"
) -> Row:
    return Row(
        model=model, target=target, precision=precision, batch=batch, threads=1,
        latency_ms=Quantiles(median=ms, p10=0.9 * ms, p90=1.2 * ms), rounds=5, warmup=3, calls=9,
        low=0.95 * ms, high=1.05 * ms, outliers=0, drift=1.0, runtime=f"{target.partition('@')[0]} 1.0",
        images_per_s=1000 * batch / ms, load_ms=20.0, first_ms=3 * ms, added_bytes=10**8, size_bytes=10**7,
    )  # fmt: skip


def facts(network: str = "alexnet", side: int = 224, model: str = "", made_for: str = "") -> NetworkFacts:
    return NetworkFacts(
        network=network, side=side, model=model or network, made_for=made_for, trained=bool(made_for),
        parameters=57_044_810 // (4 if made_for else 1), macs=710_000_000, state_bytes=228_179_240,
        fp32_bytes=228_200_000 // (4 if made_for else 1), int8_bytes=57_100_000,
        convolutions=5, fully_connected=3, poolings=4, activations=7, most_inputs=9216, most_outputs=4096,
    )  # fmt: skip


def alexnet() -> Group:
    """AlexNet on two targets at batches 1 and 32, and a network adapted for the faster one."""
    rows = [
        row(20.0), row(12.0, FAST), row(15.0, TORCH, "bf16"), row(4.0, FAST, "int8"),
        row(4.5, FAST, model="fit"), row(480.0, batch=32), row(300.0, FAST, batch=32),
        row(100.0, FAST, "int8", 32),
    ]  # fmt: skip
    pair = Comparison(
        target=FAST, precision="fp32", before=rows[1], after=rows[4],
        speedup=12.0 / 4.5, low=2.5, high=2.8, verdict="faster",
    )  # fmt: skip
    gaps = [
        Gap(model="alexnet", target=TORCH, precision="int8", reason="torch does not offer int8"),
        Gap(
            model="alexnet", target=TORCH, precision="bf16", batch=32, kind="over the time limit",
            reason="a call of 32 images takes 3 s (limit 2 s)",
        ),
    ]  # fmt: skip
    networks = [facts(), facts(model="fit", made_for=FAST)]
    return Group(network="alexnet", side=224, networks=networks, rows=rows, comparisons=[pair], gaps=gaps)


def result() -> HardwareResult:
    machine = Environment(
        machine="x86_64", processor="<b>EPYC</b>", cores=2, memory_bytes=8 * 2**30, system="Linux",
        python="3.12", versions={"torch": "2.13.0"}, threads=1,
        date="2026-11-26T12:00:00+00:00", commit="abc",
    )  # fmt: skip
    return HardwareResult(
        mode="quick", command="tersa reproduce hardware", groups=[alexnet()], environment=machine,
        notes=["INT8 ranges come from noise"], artefacts=[], seconds=61.0,
    )  # fmt: skip
