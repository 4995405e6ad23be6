"""Documents 003 and 004 as published: every cell of their tables once, and what their text says of them."""

from __future__ import annotations

import csv
from importlib.resources import files

import pytest

from tersa.errors import UsageError
from tersa.recipes import published_adaptation as adaptation
from tersa.recipes import published_binary as binary
from tersa.recipes import published_hardware as hardware
from tersa.recipes.published_table import rows, source

SHAPES = {
    "hardware_networks.csv": (9, 6),
    "hardware_devices.csv": (9, 7),
    "hardware_precision.csv": (32, 8),
    "hardware_sizes.csv": (10, 5),
    "hardware_cross.csv": (32, 6),
    "hardware_claims.csv": (28, 6),
    "energy_per_operation.csv": (12, 7),
    "adaptation_original.csv": (6, 5),
    "adaptation_totals.csv": (12, 7),
    "adaptation_blocks.csv": (36, 7),
    "adaptation_claims.csv": (17, 5),
    "bisection_example.csv": (12, 3),
    "binary_vgg.csv": (7, 7),
    "binary_vgg_training.csv": (11, 3),
}
PRINTED = 0.05
"""Half of the last digit of a printed speed-up."""
MINUTE = 60.0


@pytest.mark.parametrize(("name", "shape"), SHAPES.items(), ids=str)
def test_every_row_and_column_is_there(name: str, shape: tuple[int, int]) -> None:
    found = rows(name)
    assert len(found) == shape[0]
    assert all(len(row) == shape[1] and None not in row.values() and None not in row for row in found)
    assert source(name).startswith(("Document 003", "Document 004"))


def test_no_file_of_published_values_is_left_out_of_the_tests() -> None:
    every = {path.name for path in files("tersa.recipes").joinpath("published").iterdir()}
    mine = {
        name for name in every if name.startswith(("hardware", "adaptation", "binary", "bisection", "energy"))
    }
    assert mine == set(SHAPES)


def test_decimal_points_and_one_row_for_every_cell() -> None:
    for name in SHAPES:
        text = files("tersa.recipes").joinpath("published").joinpath(name).read_text(encoding="utf-8")
        widths = {len(row) for row in csv.reader(text.splitlines()[1:])}
        assert widths == {SHAPES[name][1]}, f"{name}: a decimal comma, or a cell too many"
    cells = [(c.network, c.device, c.form, c.runtime, c.precision) for c in hardware.precisions()]
    assert len(set(cells)) == 32
    assert len({(c.network, c.measured_on, c.adapted_for) for c in hardware.crosses()}) == 32
    assert len({(b.network, b.block) for b in adaptation.blocks()}) == 7 + 14 + 15


def _latency(network: str, device: str, form: str, runtime: str, precision: str) -> float | None:
    [found] = [
        cell.latency_ms
        for cell in hardware.precisions()
        if (cell.network, cell.device, cell.form, cell.runtime, cell.precision)
        == (network, device, form, runtime, precision)
    ]
    return found


def test_tables_4_3_and_4_4() -> None:
    assert _latency("alexnet", "TX2", "original", "PyTorch", "fp32") == 99.6
    assert _latency("alexnet", "Xavier", "NetAdapt", "TensorRT", "fp16") == 21.7
    assert _latency("mobilenet", "TX2", "NetAdapt", "TensorRT", "fp32") == 93.3
    assert _latency("mobilenet", "Xavier", "original", "TensorRT", "int8") == 23.4
    empty = {(c.device, c.precision) for c in hardware.precisions() if c.latency_ms is None}
    assert empty == {("TX2", "int8")}
    assert all(19 < c.latency_ms < 244 for c in hardware.precisions() if c.latency_ms)


def _claim(what: str, device: str) -> float:
    return next(c.value for c in hardware.claims() if c.device == device and c.what.startswith(what))


def test_text_agrees_with_tables_4_3_to_4_6() -> None:
    base = _latency("alexnet", "Xavier", "original", "PyTorch", "fp32")
    int8 = _latency("alexnet", "Xavier", "original", "TensorRT", "int8")
    fp16 = _latency("alexnet", "Xavier", "original", "TensorRT", "fp16")
    assert None not in (base, int8, fp16)
    assert (base or 0) / (int8 or 1) == pytest.approx(_claim("INT8 against", "Xavier"), abs=PRINTED)
    assert (base or 0) / (fp16 or 1) == pytest.approx(
        _claim("FP16 against", "Xavier"), abs=0.1
    )  # 2.58, printed as 2.5
    assert (
        hardware.reduction("i7-4790", "TX2", "alexnet")
        == 64
        > (hardware.reduction("TX2", "TX2", "alexnet") or 0)
    )
    left = {
        s.adapted_for: 100 - s.reduction for s in hardware.sizes() if s.network == "alexnet" and s.reduction
    }
    assert left["GTX 970"] / left["NCS2"] == pytest.approx(_claim("the network adapted", "GTX 970"), abs=0.1)


def test_own_device_is_best_but_for_the_cells_that_the_text_names() -> None:
    for network in hardware.NETWORKS:
        for device in hardware.ADAPTED_FOR:
            own = hardware.reduction(device, device, network)
            others = [hardware.reduction(device, other, network) for other in hardware.ADAPTED_FOR]
            assert own is not None
            if (network, device) != ("mobilenet", "TX2"):  # 5 against 6
                assert own == max(others, key=lambda value: value or 0)


def test_sizes_are_those_of_this_projects_networks() -> None:
    """217.6 MiB is AlexNet with ten outputs at 224x224; MobileNet's 12.4 counts its statistics too."""
    from tersa.models.summary import parameters
    from tersa.models.zoo import build

    published = {row.network: row.size_mib for row in hardware.sizes() if row.size_mib}
    alexnet = build("alexnet", (3, 224, 224), 10)
    mobilenet = build("mobilenet:1.0", (3, 224, 224), 10)
    assert parameters(alexnet) == 57_044_810
    assert parameters(mobilenet) == 3_217_226
    assert round(parameters(alexnet) * 4 / 2**20, 1) == published["alexnet"]
    held = sum(value.numel() * value.element_size() for value in mobilenet.state_dict().values())
    assert round(held / 2**20, 1) == published["mobilenet"]


def test_devices_and_energy() -> None:
    facts = {row.property: row for row in hardware.devices()}
    assert facts["CUDA cores"].p100 == "3584"
    assert facts["tensor cores"].gtx_970 is None
    by = {(e.kind, e.operation, e.bits): e for e in hardware.energies() if e.size_bytes is None}
    assert by["float", "multiply", 32].low_pj == 4
    assert by["memory", "DRAM", 64].high_pj == 2600
    accesses = _claim("memory accesses", "")
    assert accesses == 4 * _claim("multiply-accumulates", "")


@pytest.mark.parametrize("row", adaptation.totals(), ids=lambda r: f"{r.table}-{r.delta}")
def test_speedups_are_the_ratios_of_the_minutes(row: adaptation.PublishedTotal) -> None:
    assert row.original_minutes / row.minutes == pytest.approx(row.speedup, abs=PRINTED + 0.01)


def test_original_times_agree_between_tables_but_for_the_one_that_the_file_names() -> None:
    minutes = {(row.network, row.delta): row.original_minutes for row in adaptation.totals()}
    apart = {
        (row.network, row.delta)
        for row in adaptation.originals()
        if abs(row.seconds / MINUTE - minutes[row.network, row.delta]) > 1
    }
    assert apart == {("mobilenet", 0.025)}
    for row in adaptation.originals():
        if row.network == "alexnet":
            told = adaptation.claim(f"minutes_per_step_delta_{row.delta}")
            assert row.seconds / MINUTE / row.steps == pytest.approx(told, abs=1)


def test_headline_ratios_follow_from_the_tables() -> None:
    times = {(r.network, r.delta, r.remedy): r for r in adaptation.totals()}
    row = times["alexnet", 0.01, "interpolation"]
    hybrid = row.minutes / adaptation.claim("h30_naswot_speedup_over_interpolation")
    assert row.original_minutes / hybrid == pytest.approx(adaptation.claim("h30_naswot_speedup"), rel=0.05)
    last = max((b for b in adaptation.blocks() if b.network == "alexnet"), key=lambda b: b.block)
    assert last.original_s / last.interpolation_s == pytest.approx(
        adaptation.claim("last_block_speedup"), abs=1
    )


def test_blocks() -> None:
    cells = {(b.network, b.block): b for b in adaptation.blocks()}
    assert cells["vgg19", 13].original_s == 61980.530
    assert cells["vgg19", 6].bisection_interpolation_s == 0.140
    assert cells["mobilenet", 12].file_interpolation_s == 0.031
    assert cells["alexnet", 5].interpolation_s == 0.371


def test_bisection_example_needs_half_the_evaluations() -> None:
    """Figure 5.6: 24 channels are the first under 0.5, found in 5 evaluations, where one by one needs 10."""
    widths = adaptation.bisection_example()
    assert [w for w, _ in widths] == list(range(96, 0, -8))
    assert [t for _, t in widths] == sorted((t for _, t in widths), reverse=True)
    place = next(index for index, (_, latency) in enumerate(widths) if latency < 0.5)
    assert (widths[place][0], place + 1) == (24, 10)
    left, right, asked = 0, len(widths) - 1, 0
    while right - left > 1:
        middle = (left + right) // 2
        asked += 1
        left, right = (left, middle) if widths[middle][1] < 0.5 else (middle, right)
    assert right == place
    assert asked <= 5


def test_unknown_claim_names_the_closest() -> None:
    with pytest.raises(UsageError, match="did you mean 'h30_naswot_loss'"):
        adaptation.claim("h30_naswot_los")


def test_table_ii_of_document_004() -> None:
    found = {row.network: row for row in binary.accuracies()}
    assert found["BNN-PYNQ"].test_accuracy == 84.22
    assert found["VGG16"].weight_bits == 32
    assert all((r.weight_bits, r.activation_bits) == (1, 1) for n, r in found.items() if n != "VGG16")
    better = {name for name, row in found.items() if row.test_accuracy > found["B-VGG16"].test_accuracy}
    assert better == {"VGG16", "XNOR-Net", "DSQ"}
    assert binary.training()["batch"] == "100"
