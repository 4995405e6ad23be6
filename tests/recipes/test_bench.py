"""The matrix: cells are kept one by one and read back, the cross table, the layers, the words, the page."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tersa.data.sources import load as load_task
from tersa.data.task import Task
from tersa.errors import DataError, ModelError, TargetError, UsageError
from tersa.export.artefact import Artefact, Header
from tersa.export.onnx import export_onnx
from tersa.models import build
from tersa.recipes import bench, bench_matrix
from tersa.recipes.bench import BenchRequest, make_plan, run_bench
from tersa.recipes.bench_cross import adapted_for, cross_table, split_adapted
from tersa.recipes.bench_layers import layer_table, layer_tables, limit_words, roofs
from tersa.recipes.bench_matrix import Batches, File, Finished, Found, Job, run_matrix
from tersa.recipes.bench_report import view_of
from tersa.recipes.bench_result import BenchResult, LayerTable, Reference
from tersa.recipes.bench_verdict import energy_known, fewer_starts, headline, unled
from tersa.recipes.hardware import HardwareRequest, plan_hardware
from tersa.recipes.subjects import Subject, to_artefact
from tersa.records.results import Comparison, Environment, Measurement, Quantiles
from tersa.report.bench_page import render
from tersa.targets.ceilings import Ceilings
from tersa.targets.costs import NodeCost
from tersa.targets.energy import by_counters, by_power
from tersa.targets.environment import hardware
from tersa.targets.lanes import Limits
from tersa.targets.profile import LayerTime
from tersa.targets.registry import KINDS, parse
from tersa.targets.sweep import Cell, Gap, Row
from tersa.train.latents import settle_pixels_

HEADER = Header(tuple("abc"), (1, 4, 4), (0.3,), (0.4,))
ENVIRONMENT = Environment(
    machine="x86_64",
    processor="A processor",
    cores=2,
    memory_bytes=8 * 10**9,
    system="Linux 6",
    python="3.11.7",
    versions={},
    threads=1,
    date="2026-01-01T00:00:00+00:00",
    load=0.5,
)


def quiet(_task: str, _fraction: float, _remark: str) -> None:
    """A listener that says nothing."""


def row(
    model: str = "a",
    target: str = "torch@threads=1",
    precision: str = "fp32",
    batch: int = 1,
    ms: float = 2.0,
    **more: object,
) -> Row:
    given = {
        "model": model,
        "target": target,
        "precision": precision,
        "batch": batch,
        "threads": 1,
        "latency_ms": Quantiles(median=ms, p10=0.9 * ms, p90=1.1 * ms),
        "rounds": 10,
        "warmup": 3,
        "calls": 40,
        "low": 0.95 * ms,
        "high": 1.05 * ms,
        "outliers": 0,
        "drift": 1.0,
        "runtime": "torch 2",
        "images_per_s": 1e3 * batch / ms,
        "load_ms": 3.0,
        "first_ms": 4.0,
        "added_bytes": 10**6,
        "size_bytes": 5000,
    }
    return Row(**{**given, **more})  # pyright: ignore[reportArgumentType] - values of mixed type


def compared(before: Row, after: Row) -> Comparison:
    names = Measurement.model_fields
    first, second = (Measurement(**one.model_dump(include=set(names))) for one in (before, after))
    ratio = before.latency_ms.median / after.latency_ms.median
    verdict = "faster" if ratio > 1.02 else "slower" if ratio < 0.98 else "no difference"
    return Comparison(
        target=after.target,
        precision=after.precision,
        before=first,
        after=second,
        speedup=ratio,
        low=0.9 * ratio,
        high=1.1 * ratio,
        verdict=verdict,
    )


def result(rows: list[Row], **more: object) -> BenchResult:
    first = rows[0]
    pairs = [
        compared(
            next(r for r in rows if (r.target, r.batch, r.model) == (one.target, one.batch, first.model)), one
        )
        for one in rows
        if one.model != first.model or one.precision != first.precision
    ]
    given = {
        "measurements": rows,
        "comparisons": pairs,
        "across": [],
        "not_offered": [],
        "accuracies": [],
        "layers": [],
        "environment": ENVIRONMENT,
        "notes": [],
        "artefacts": [],
        "seconds": 1.0,
    }
    return BenchResult(**{**given, **more})  # pyright: ignore[reportArgumentType] - values of mixed type


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A tiny network on ONNX Runtime at two batch sizes."""
    module = build("mlp:4", HEADER.shape, 3)
    artefact = export_onnx(module, HEADER, tmp_path_factory.mktemp("matrix") / "net.onnx")
    subject = Subject("mlp:4", HEADER, module, trained=False)
    return Job(
        [("onnxruntime", parse("onnxruntime"))], [File(subject, "fp32", artefact)], Batches((1, 2)), 0.01
    )


def test_a_kill_loses_the_cell_at_work_and_no_other(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """As a signal would end it."""

    keep = Finished.keep

    def dies(self: Finished, cell: Cell) -> None:
        if cell.batch == 2:
            raise Killed
        keep(self, cell)

    monkeypatch.setattr(Finished, "keep", dies)
    with pytest.raises(Killed):
        run_matrix(job, tmp_path, quiet)
    monkeypatch.setattr(Finished, "keep", keep)
    again = run_matrix(job, tmp_path, quiet)
    assert again.again == 1
    assert [(cell.batch, len(cell.rows)) for cell in again.cells] == [(1, 1), (2, 1)]
    monkeypatch.setattr(bench_matrix, "Contest", None)  # nothing is left to measure
    whole = run_matrix(job, tmp_path, quiet)
    assert whole.again == 2
    assert whole.cells == again.cells


def test_cells_of_other_files_are_refused(job: Job, tmp_path: Path) -> None:
    finished = Finished(tmp_path, job.files)
    finished.keep(Cell(target="onnxruntime@threads=1", batch=1, rows=[], comparisons=[], across=[], gaps=[]))
    finished.sha256 = {"mlp:4 fp32": "0" * 64}
    with pytest.raises(DataError, match=r"measured with other files .* --overwrite"):
        finished.cell("onnxruntime@threads=1", 1)


def test_cells_of_another_machine_are_refused(job: Job, tmp_path: Path) -> None:
    cell = Cell(target="t", batch=1, rows=[], comparisons=[], across=[], gaps=[])
    finished = Finished(tmp_path, job.files)
    assert finished.machine == hardware()
    finished.keep(cell)
    assert finished.cell("t", 1) == cell
    finished.machine = "another processor, 4 cores"
    with pytest.raises(DataError, match=r"was measured on .*, this one is another processor, 4 cores; go on"):
        finished.cell("t", 1)
    path = next(tmp_path.glob("cells/*.json"))
    old = json.loads(path.read_text())
    del old["machine"]
    path.write_text(json.dumps(old))
    assert finished.cell("t", 1) == cell, "of an older version, which does not name one"


def test_without_a_folder_nothing_is_kept(job: Job) -> None:
    finished = Finished(None, job.files)
    finished.keep(Cell(target="t", batch=1, rows=[], comparisons=[], across=[], gaps=[]))
    assert finished.cell("t", 1) is None


def test_open_ranges_double_until_an_end() -> None:
    assert list(Batches((1, 2, 4))) == [1, 2, 4]
    sizes = list(Batches((3,), open=True))
    assert sizes[:4] == [3, 6, 12, 24]
    assert sizes[-1] <= bench_matrix.LARGEST_BATCH < 2 * sizes[-1]


def test_targets_of_runs_and_of_names(tmp_path: Path) -> None:
    assert split_adapted("a=b=torch@threads=1") == ("a=b", "torch@threads=1")
    assert split_adapted("x=onnxruntime") == ("x", "onnxruntime@threads=1")
    assert adapted_for(tmp_path) == ""
    told = tmp_path / "result.json"
    told.write_text('{"target": "openvino@threads=1", "goals": [{"name": "size"}]}')
    assert adapted_for(tmp_path) == ""
    told.write_text('{"target": "openvino@threads=1", "goals": [{"name": "latency"}]}')
    assert adapted_for(tmp_path) == "openvino@threads=1"


def test_the_cross_table_is_percent_of_the_original_in_the_same_rounds() -> None:
    one, two = "torch@threads=1", "onnxruntime@threads=1"
    rows = [row("o", one, ms=4.0), row("a", one, ms=2.0), row("b", one, ms=5.0)]
    rows += [row("o", two, ms=1.0), row("a", two, ms=0.9), row("b", two, ms=0.5)]
    rows += [row("o", one, batch=8, ms=9.0), row("a", one, batch=8, ms=1.0)]
    table = cross_table(result(rows), {"a": one, "b": two})
    assert table is not None
    assert table.original_ms == {one: 4.0, two: 1.0}
    assert [each.percent for each in table.rows] == [
        {one: pytest.approx(50.0), two: pytest.approx(90.0)},
        {one: pytest.approx(125.0), two: pytest.approx(50.0)},
    ]
    assert table.rows[0].low[one] < 50.0 < table.rows[0].high[one]
    assert cross_table(result(rows), {}) is None


def test_the_reference_stays_the_one_that_was_named() -> None:
    """`o` cannot be loaded by torch: nothing there is compared, nor is anything called the reference."""
    one, two = "torch@threads=1", "onnxruntime@threads=1"
    rows = [row("a", one, ms=1.0), row("b", one, ms=3.0)]
    beside = [row("o", two, ms=4.0), row("a", two, ms=2.0), row("b", two, ms=5.0)]
    found = result([*rows, *beside]).model_copy(
        update={
            "reference": Reference(model="o", precisions={one: "fp32", two: "fp32"}, target=one),
            "comparisons": [compared(beside[0], each) for each in beside[1:]],
        }
    )
    assert [found.leads(each) for each in found.measurements] == [False, False, True, False, False]
    assert not any(found.anchors(each) for each in found.measurements)
    table = cross_table(found, {"a": two})
    assert table is not None
    assert (table.original, table.original_ms) == ("o", {two: 4.0})
    assert table.rows[0].percent == {two: pytest.approx(50.0)}
    assert cross_table(found, {"c": two}) is None
    assert unled(found) == [f"nothing is compared on {one}: the reference, o, was not measured there in FP32"]
    verdict, detail = headline(found)
    assert verdict == "a on torch eager in FP32 is the quickest: 1.00 ms"
    assert detail == "A call of one image takes 1.00 ms there, and 4.00 ms with the reference."
    words = [(each.model, each.verdict, each.across) for each in view_of(found).rows]
    assert words[:3] == [("a", "not compared", ""), ("b", "not compared", ""), ("o", "reference", "")]
    alone = found.model_copy(update={"measurements": rows, "comparisons": []})
    assert headline(alone) == (verdict, "A call of one image takes 1.00 ms there.")
    assert cross_table(alone, {"a": two}) is None


def test_the_reference_of_two_forms_is_one_on_each_target() -> None:
    one, two = "onnxruntime@threads=1", "packed@threads=1"
    rows = [row("o", one), row("o", two, "packed")]
    known = Reference(model="o", precisions={one: "fp32", two: "packed"}, target=one)
    found = result(rows).model_copy(update={"reference": known})
    assert [(found.leads(each), found.anchors(each)) for each in rows] == [(True, True), (True, False)]
    assert unled(found) == []


def test_fewer_starts_than_asked_are_told() -> None:
    rows = [row(starts=4), row(starts=1, batch=8), row(starts=1, batch=16)]
    rows.append(row(target="ssh://pi/onnxruntime@threads=1"))
    slow, far = fewer_starts(rows, 4)
    assert slow.startswith("torch@threads=1: 1 of 4 starts of each network at batch 8, 16 (a start or a call")
    assert far.startswith(
        "ssh://pi/onnxruntime@threads=1: 1 of 4 starts of each network at batch 1 (rounds on"
    )
    assert fewer_starts(rows, 1) == []


MACHINE = Ceilings(machine="m", threads=1, macs_per_s={"fp32": 1e9, "int8": 4e9}, copies={1000: 1e9})


@pytest.mark.parametrize(
    ("macs", "moved", "precision", "limit", "roof"),
    [
        (5_000_000, 1000, "fp32", "arithmetic", 5.0),
        (5_000_000, 1000, "int8", "arithmetic", 1.25),
        (1000, 3_000_000, "fp32", "memory", 3.0),
        (1000, 1000, "fp32", "call overhead", 0.5),
        (0, 0, "fp32", "not known", 0.0),
    ],
)
def test_the_largest_of_three_holds_a_layer_back(
    macs: int, moved: int, precision: str, limit: str, roof: float
) -> None:
    cost = NodeCost("conv1", "Conv", "1", (1,), macs, 0, moved)
    [found] = roofs([LayerTime("conv1", "Conv", 6.0, cost)], MACHINE, precision, 1000, 0.5)
    assert (found.limit, found.share) == (limit, 100.0)
    assert found.roof_ms == pytest.approx(roof)


def test_layers_of_a_real_network(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERSA_CACHE", str(tmp_path))
    monkeypatch.setattr("tersa.recipes.bench_layers.ceilings", lambda _threads: MACHINE)
    notes: list[str] = []
    rows = [row("mlp:4", target) for target in ("onnxruntime@threads=1", "c@threads=1")]
    both = Job([*job.targets, ("c", parse("c"))], job.files, job.batches, 0.01)
    [table] = layer_tables(both, rows, notes, quiet)
    assert {one.name for one in table.layers if one.macs} == {"fc1", "fc2"}
    assert sum(one.share for one in table.layers) == pytest.approx(100.0)
    assert "of the time" in limit_words(table)
    assert notes == [
        "layers of mlp:4 on c@threads=1: c gives no times by layer; onnxruntime, openvino and torch do, "
        "and packed of packed programs"
    ]


@pytest.mark.parametrize(
    ("macs", "work", "limit", "roof"),
    [
        (1_000, 6_000_000, "arithmetic", 3.0),  # products of bits count, not the multiply-accumulates
        (5_000_000, 0, "not known", 0.0),  # numbers of 16 bits, floats
        (0, 0, "call overhead", 0.5),
    ],
)
def test_packed_layers_stand_under_the_limit_of_bits(macs: int, work: int, limit: str, roof: float) -> None:
    bits = MACHINE.model_copy(update={"macs_per_s": {**MACHINE.macs_per_s, "packed": 2e9}})
    cost = NodeCost("conv1", "Convolution", "1", (1,), macs, 0, 1000, work)
    [found] = roofs([LayerTime("conv1", "Convolution", 6.0, cost)], bits, "packed", 1000, 0.5)
    assert (found.limit, found.macs) == (limit, macs)
    assert found.roof_ms == pytest.approx(roof)


def test_layers_of_a_packed_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tersa.recipes.bench_layers.ceilings", lambda _threads: MACHINE)
    monkeypatch.setattr("tersa.targets.popcount.limit", lambda: 3e9)
    task = load_task("digits")
    network = build("tfc+w1a1", task.shape, 10).eval()
    settle_pixels_(network, task)
    subject = Subject("tfc", Header.of(task), network)
    artefact = to_artefact(subject, "packed", tmp_path / "net.tersa", task)
    table = layer_table(parse("packed"), File(subject, "packed", artefact), 2)
    assert {one.name for one in table.layers if one.macs} == {"fc1", "fc2", "fc3", "fc4"}
    assert table.macs_per_s == 3e9
    assert sum(one.macs for one in table.layers) == 2 * (64 * 64 + 64 * 64 + 64 * 64 + 64 * 10)
    with pytest.raises(TargetError, match="c gives no times by layer of a packed program; packed does"):
        layer_table(parse("c"), File(subject, "packed", artefact), 1)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row()], "a on torch eager in FP32 takes 2.00 ms"),
        ([row(), row("b", ms=4.0)], "a on torch eager in FP32 takes 2.00 ms, and nothing here is quicker"),
        (
            [row(), row("b", ms=1.0)],
            "b on torch eager in FP32 is 2 times faster than a on torch eager in FP32",
        ),
        ([row(), row("b", ms=1.99)], "Nothing here is measurably faster than a on torch eager in FP32"),
        ([row(), row(target="openvino@threads=1", ms=1.0)], "a on OpenVINO in FP32 is the quickest: 1.00 ms"),
    ],
)
def test_the_headline(rows: list[Row], words: str) -> None:
    assert headline(result(rows))[0] == words


def test_the_detail_tells_accuracy_throughput_and_what_ended() -> None:
    rows = [row(test_accuracy=99.0), row("b", ms=1.0, test_accuracy=98.5), row("b", ms=2.0, batch=16)]
    gap = Gap(model="a", target="t", precision="fp32", batch=32, kind="out of memory", reason="x")
    found = headline(result([*rows, row(batch=16, ms=20.0)], not_offered=[gap]))[1]
    assert "It is 0.50 points less exact (98.50 % of the test images)." in found
    assert "Most images in a second: 8.00 k, b on torch eager in FP32 at batch 16." in found
    assert "Memory ended for 1 of the combinations." in found


def test_measured_and_estimated_energy_are_not_mixed() -> None:
    measured, estimated = by_counters(1.0, 1, 1, "package-0"), by_power(1.0, watts=5.0)
    assert energy_known([row()]).startswith("not measured")
    assert energy_known([row(energy=measured)]).startswith("measured: counters of package-0")
    assert energy_known([row(energy=measured), row(energy=estimated)]) == "estimated, measured"
    assert energy_known([row(energy=estimated), row()]).endswith("1 of 2 rows without")


def test_the_page_tells_everything_and_escapes_it() -> None:
    rows = [
        row("<b>o", test_accuracy=99.0, energy=by_power(0.002, watts=5.0)),
        row("a", ms=1.0, test_accuracy=98.0),
        row("<b>o", batch=8, ms=9.0),
        row("a", batch=8, ms=5.0),
    ]
    gap = Gap(model="a", target="c@threads=1", precision="int8", reason="it has fp32")
    cost = NodeCost("conv1", "Conv", "1", (1,), 10, 0, 10)
    layers = roofs([LayerTime("conv1", "Conv", 6.0, cost)], MACHINE, "fp32", 1000, 0.5)
    table = LayerTable(
        model="a",
        target="torch@threads=1",
        precision="fp32",
        batch=1,
        call_ms=5.0,
        profiled_ms=6.0,
        overhead_ms=0.5,
        macs_per_s=1e9,
        bytes_per_s=1e9,
        working_set_bytes=1000,
        how="a profiler",
        layers=layers,
    )
    found = result(rows, not_offered=[gap], layers=[table], command="tersa bench x", verdict="V", detail="D")
    found = found.model_copy(update={"cross": cross_table(found, {"a": "torch@threads=1"})})
    page = render(view_of(found))
    for words in (
        "larger batches",
        "In accuracy?",
        "In file size?",
        "held back by call overhead",
        "it has fp32",
    ):
        assert words in page
    for words in ("Does what was made for one target help", "(estimated)", "tersa bench x", "not measured"):
        assert words in page
    assert "<b>o" not in page
    assert "&lt;b&gt;o" in page


def test_a_curve_is_drawn_as_the_key_of_the_page_says() -> None:
    """Five combinations or more have a chart for each model; on the second target a has no FP32."""
    rows = [
        row(model, target, precision, batch)
        for target in ("onnxruntime@threads=1", "openvino@threads=1")
        for model in ("a", "b")
        for precision in ("fp32", "int8", "bf16")
        for batch in (1, 8)
        if (target, model, precision) != ("openvino@threads=1", "a", "fp32")
    ]
    styles: dict[str, set[int]] = {}
    for panel in view_of(result(rows, comparisons=[])).panels:
        for curve in panel.curves:
            styles.setdefault(curve.label, set()).add(curve.style)
    assert styles == {"FP32": {0}, "INT8": {1}, "BF16": {2}}


def test_a_page_of_one_number() -> None:
    page = render(view_of(result([row()])))
    assert "What do larger batches bring?" not in page
    assert "What does speed cost?" not in page
    assert "2.00" in page


def test_a_plan_without_anything_offered_is_an_error(tmp_path: Path) -> None:
    request = BenchRequest(models=["mlp:4"], targets="torch", precision="int8")
    with pytest.raises(UsageError, match="torch does not offer int8"):
        run_bench(request, make_plan(request), None)


def test_work_that_fails_everywhere_is_no_fault_of_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    gap = Gap(
        model="mlp:4", target="t", precision="fp32", batch=1, kind="wrong outputs", reason="they differ"
    )
    empty = Cell(target="t", batch=1, rows=[], comparisons=[], across=[], gaps=[gap])
    monkeypatch.setattr(bench, "run_matrix", lambda _job, _folder, _say: Found([empty], [], 0))
    request = BenchRequest(models=["mlp:4"])
    with pytest.raises(TargetError, match="mlp:4 on t: they differ"):
        run_bench(request, make_plan(request), None)


def test_networks_share_the_memory_that_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(bench, "memory_each", lambda count: asked.append(count) or 10**9)
    request = BenchRequest(models=["mlp:4", "mlp:8"], targets="torch,onnxruntime")
    assert make_plan(request).limits == Limits(10**9)
    assert make_plan(request.model_copy(update={"until": "2GB"})).limits == Limits(2 * 10**9)
    assert asked == [3]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"layers": True}, "--layers profiles in a process that it does not bind; bind all: taskset -c 0"),
        ({"targets": "torch@threads=2"}, "torch@threads=2 asks for 2 threads; name as many processors"),
        ({"targets": "ssh://pi/onnxruntime"}, "runs on another machine, whose processors it does not bind"),
    ],
)
def test_what_cores_would_not_hold_for_is_refused(
    asked: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(bench, "allowed_cores", lambda: [0, 1])
    with pytest.raises(UsageError, match=f"--cores 0: .*{words}"):
        make_plan(BenchRequest(models=["mlp:4"], cores="0", **asked))
    if "threads" in asked.get("targets", ""):
        assert make_plan(BenchRequest(models=["mlp:4"], cores="0,1", **asked)).cores == (0, 1)


def test_a_low_bit_network_runs_in_the_form_that_each_target_has(tmp_path: Path) -> None:
    request = BenchRequest(
        models=["tfc+w1a1", "mlp:8"],
        data="digits",
        targets="onnxruntime,packed",
        seconds=0.02,
        test_images=20,
    )
    plan = make_plan(request)
    assert [plan.wanted(subject) for subject in plan.subjects] == [["fp32", "packed"], ["fp32"]]
    assert plan.rows() == [
        ("tfc+w1a1", "onnxruntime@threads=1", "fp32", "1"),
        ("mlp:8", "onnxruntime@threads=1", "fp32", "1"),
        ("tfc+w1a1", "packed@threads=1", "packed", "1"),
        ("mlp:8", "packed@threads=1", "fp32", "1"),
    ]
    assert plan.combinations == 4
    found = run_bench(request, plan, tmp_path / "out")
    assert {(row.model, row.target.partition("@")[0], row.precision) for row in found.measurements} == {
        ("tfc+w1a1", "onnxruntime", "fp32"),
        ("tfc+w1a1", "packed", "packed"),
        ("mlp:8", "onnxruntime", "fp32"),
        ("mlp:8", "packed", "fp32"),
    }
    assert not found.not_offered
    (slow,) = [row for row in found.measurements if (row.model, row.precision) == ("mlp:8", "fp32")][1:]
    assert slow.runtime.startswith("tersa slow path, ")
    assert "a slow path, not what the target is made for: packed@threads=1 in fp32" in found.notes


@pytest.mark.runtime
@pytest.mark.skipif(not KINDS["openvino"].version, reason="openvino is not installed")
def test_a_binary_network_runs_in_both_forms_on_openvino(tmp_path: Path) -> None:
    """Its own binary convolution stands beside the packed kernels in one call, and beside its floats."""
    request = BenchRequest(
        models=["tfc+w1a1", "sfc+w2a2"],
        data="digits",
        targets="packed,openvino,onnxruntime",
        batch="1,3",
        seconds=0.02,
        test_images=20,
    )
    found = run_bench(request, make_plan(request), tmp_path / "out")
    rows = {(row.model, row.target.partition("@")[0], row.precision, row.batch) for row in found.measurements}
    forms = [("packed", "packed"), ("openvino", "fp32"), ("openvino", "packed"), ("onnxruntime", "fp32")]
    assert {row for row in rows if row[0] == "tfc+w1a1"} == {
        ("tfc+w1a1", *form, batch) for form in forms for batch in (1, 3)
    }
    [gap] = found.not_offered
    assert (gap.model, gap.target, gap.precision) == ("sfc+w2a2", "openvino@threads=1", "packed")
    assert "no layer is one for OpenVINO's binary convolution" in gap.reason
    assert {row.executed for row in found.measurements if row.target.startswith("openvino")} == {
        "fp32 4 of 4 layers",
        "binary (u1) 3 of 4 layers, fp32 1",
    }
    assert {pair.before.target for pair in found.across if pair.before} == {"packed@threads=1"}


def test_a_form_that_cannot_be_made_is_missing_only_where_it_would_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bench.to_artefact

    def refuse(subject: Subject, precision: str, path: Path, task: Task | None) -> Artefact:
        if precision == "packed":
            raise ModelError("it has no packed form")
        return made(subject, precision, path, task)

    monkeypatch.setattr(bench, "to_artefact", refuse)
    request = BenchRequest(
        models=["tfc+w1a1"], data="digits", targets="onnxruntime,packed", seconds=0.02, test_images=20
    )
    found = run_bench(request, make_plan(request), None)
    assert [(row.target, row.precision) for row in found.measurements] == [("onnxruntime@threads=1", "fp32")]
    assert [(gap.target, gap.precision) for gap in found.not_offered] == [("packed@threads=1", "packed")]


def test_no_packed_form_is_sent_to_another_machine() -> None:
    request = BenchRequest(models=["tfc+w1a1"], data="digits", targets="ssh://pi/onnxruntime")
    assert [row[2] for row in make_plan(request).rows()] == ["fp32"]


def test_hardware_reads_targets_as_bench_does() -> None:
    with pytest.raises(UsageError, match="'torch@threads=1' is given twice: as torch and as torch@threads=1"):
        plan_hardware(HardwareRequest(targets="torch,torch@threads=1"))
    every = [text for text, _ in plan_hardware(HardwareRequest()).targets]
    assert {"torch@threads=1", "onnxruntime@threads=1"} <= set(every)


def test_a_precision_that_was_asked_is_the_only_one() -> None:
    request = BenchRequest(models=["tfc+w1a1"], data="digits", targets="packed", precision="fp32")
    plan = make_plan(request)
    assert [plan.wanted(subject) for subject in plan.subjects] == [["fp32"]]
