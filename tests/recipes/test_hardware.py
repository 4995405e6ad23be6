"""Document 003 on this machine: the plan, the tables in its layout, the report, and a run that goes on."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from tests.recipes.hardware_example import FAST, TORCH, alexnet, result, row
from torch import nn

import tersa.recipes.hardware as recipe
from tersa.errors import TargetError, UsageError
from tersa.export.artefact import Artefact, Header
from tersa.export.check import module_logits
from tersa.export.onnx import Deployed, evaluation_copy, export_onnx
from tersa.models.load import load as load_model
from tersa.recipes import published_hardware as published
from tersa.recipes.bench_matrix import Batches, Found, Job
from tersa.recipes.hardware import HardwareRequest, plan_hardware, run_hardware
from tersa.recipes.hardware_report import answer, rows_csv, view_of, write_results
from tersa.recipes.hardware_tables import NONE, Table, markdown, tables
from tersa.recipes.subjects import Subject
from tersa.records.base import read_record
from tersa.report.hardware_page import render
from tersa.targets.sweep import Cell, Gap

HEADER = Header(tuple("0123456789"), (3, 32, 32), (0.5,) * 3, (0.25,) * 3)


def found(number: str) -> Table:
    return next(table for table in tables([alexnet()], result().environment) if table.number == number)


def ours(number: str) -> dict[str, tuple[str, ...]]:
    return {line.cells[0]: line.cells[1:] for line in found(number).rows if not line.published}


@pytest.mark.parametrize("number", ["4.1", "4.2", "figure 4.1", "4.3", "4.4", "4.5", "4.6", "4.7"])
def test_every_row_has_a_cell_for_every_column(number: str) -> None:
    table = found(number)
    assert {len(line.cells) for line in table.rows} == {len(table.columns)}
    assert table.title.endswith("?")


def test_every_published_latency_is_in_tables_4_3_and_4_4() -> None:
    shown = [
        cell
        for number in ("4.3", "4.4")
        for line in found(number).rows
        if line.published
        for cell in line.cells[1:]
    ]
    printed = sorted(float(cell) for cell in shown if cell != NONE)
    assert printed == sorted(cell.latency_ms for cell in published.precisions() if cell.latency_ms)


def test_every_published_reduction_is_in_tables_4_6_and_4_7() -> None:
    shown = [
        cell
        for number in ("4.6", "4.7")
        for line in found(number).rows
        if line.published
        for cell in line.cells[1:5]
    ]
    assert shown == [f"{cell.reduction:g} %" for cell in published.crosses()]


def test_measurements_stand_in_their_columns() -> None:
    assert ours("4.3")[f"{FAST}, 224x224"] == ("300", NONE, NONE, "100")
    assert ours("4.3")[f"{TORCH}, 224x224"] == ("480", NONE, NONE, NONE)
    assert ours("4.4") == {}
    assert ours("figure 4.1")[f"{TORCH}, bf16"] == ("15.0", NONE, NONE, NONE)
    assert ours("4.5")["original 224x224, weights"][0] == "217.6 MiB"
    assert ours("4.5")[f"fit for {FAST}"][0] == "−75 %"
    assert ours("4.1")["parameters, millions"] == ("~61", "~4.2", "57.0", NONE)
    assert ours("4.2")["memory, GB"][-1] == "8"


def test_cross_evaluation_is_what_the_same_rounds_gave() -> None:
    """2.67 times as fast is 62 % less time; bounds of the ratio give the interval."""
    cells = ours("4.6")[f"{FAST}, 224x224"]
    assert cells[0] == f"for {FAST}: 62 % (60 to 64)"
    assert cells[-1] == "12.0 ms"
    assert "give runs of tersa adapt" in found("4.7").note


def test_an_empty_cross_evaluation_says_what_it_needs() -> None:
    without = alexnet().model_copy(update={"comparisons": []})
    table = next(table for table in tables([without]) if table.number == "4.6")
    assert all(line.published for line in table.rows)
    assert "fp32 must be among --precision and 1 among --batch" in table.note
    assert found("4.6").note == ""


def test_the_answer_names_the_fastest_and_the_documents_processor() -> None:
    verdict, detail = answer([alexnet()])
    assert verdict == "AlexNet takes 4.00 ms an image on the fastest runtime here"
    assert f"fastest with {FAST} in INT8: 4.00 ms at batch 1; the document's i7-4790 takes 44.0 ms" in detail
    assert (
        "INT8 is worth 3.0× at most (batch 32, openvino@threads=1), 2.1× on the document's Xavier" in detail
    )
    assert "BF16 is worth 1.33× at most (batch 1, torch@threads=1)" in detail
    assert answer([])[0] == "No network was measured at batch 1"


def test_rows_say_what_was_measured_and_that_nothing_was_trained() -> None:
    read = list(csv.DictReader(rows_csv(result()).splitlines()))
    assert len(read) == 8
    assert (read[3]["target"], read[3]["precision"], read[3]["latency_ms"]) == (FAST, "int8", "4.0")
    assert {(each["model"], each["test_accuracy"]) for each in read} == {
        ("alexnet", "not trained here"),
        ("fit", "not tested"),
    }
    assert (read[4]["model"], read[4]["made_for"], read[4]["parameters"]) == ("fit", FAST, "14261202")


def test_the_page_shows_tables_curves_and_gaps_and_escapes() -> None:
    page = render(view_of(result()))
    for text in (
        "Table 4.3",
        "Table 4.7",
        "Figure 4.1",
        "torch does not offer int8",
        "What was not measured",
    ):
        assert text in page
    assert "<b>EPYC</b>" not in page
    assert "&lt;b&gt;EPYC" in page
    assert page.count('class="theirs"') == sum(
        line.published for table in tables([alexnet()], result().environment) for line in table.rows
    )
    assert 'id="time-0-0-title"' in page
    assert "BF16: over the time limit at batch 32" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")


def test_files_are_written_and_read_back(tmp_path: Path) -> None:
    written = write_results(result(), tmp_path)
    assert Path(written.report).is_file()
    assert [Path(path).is_file() for path in written.artefacts] == [True, True]
    text = (tmp_path / "tables.md").read_text(encoding="utf-8")
    assert "## Table 4.3: How long does AlexNet take for a batch of 32?" in text
    assert "*99.6*" in text
    assert markdown([]) == "\n"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"networks": ("alexnett",)}, "did you mean 'alexnet'"),
        ({"sides": (64,)}, "--size 64: the sizes are 224 and 32"),
        ({"precisions": ("fp8",)}, "unknown precision 'fp8'"),
        ({"batches": (0,)}, "whole numbers above 0"),
        ({"networks": ()}, "nothing to measure"),
        ({"targets": "tensorflow"}, "unknown target 'tensorflow'"),
        ({"targets": "torch@thread=1"}, "thread"),
    ],
)
def test_faults_of_a_request(asked: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan_hardware(HardwareRequest.model_validate({"targets": TORCH, **asked}))


def test_modes_differ_in_batches_and_precisions() -> None:
    quick = plan_hardware(HardwareRequest(targets=TORCH))
    full = plan_hardware(HardwareRequest(mode="full", targets=TORCH))
    assert (quick.batches, list(quick.precisions)) == (Batches((1, 8, 32)), ["fp32", "bf16", "int8"])
    assert full.batches.open
    assert "fp16" in full.precisions
    assert quick.groups == [("alexnet", 32), ("mobilenet", 32), ("alexnet", 224), ("mobilenet", 224)]
    assert quick.combinations == 4 * 3 * 3
    asked = plan_hardware(HardwareRequest(targets=TORCH, precisions=("int8", "fp32", "int8")))
    assert list(asked.precisions) == ["fp32", "int8"]  # what adapted networks are compared with comes first


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    """A small file that stands for every network: exporting a MobileNet takes seconds."""
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10))
    return export_onnx(network, HEADER, tmp_path_factory.mktemp("exported") / "small.onnx")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, exported: Artefact) -> list[Job]:
    """Jobs that reached the matrix, which measures nothing here."""
    jobs: list[Job] = []

    def export(subject: Subject, precision: str, path: Path, task: object) -> Artefact:
        shutil.copy(exported.path, path)
        assert subject.module is not None
        network = Deployed(evaluation_copy(subject.module), subject.header)
        return replace(exported, path=path, module=network)

    def fake(job: Job, folder: Path, say: object) -> Found:
        jobs.append(job)
        rows = [row(5.0 + n, precision=f.precision, model=f.subject.name) for n, f in enumerate(job.files)]
        gap = Gap(model="mobilenet", target=TORCH, precision="int8", reason="none")
        return Found([Cell(target=TORCH, batch=1, rows=rows, comparisons=[], across=[], gaps=[gap])], [], 0)

    monkeypatch.setattr(recipe, "to_artefact", export)
    monkeypatch.setattr(recipe, "run_matrix", fake)
    return jobs


def small() -> HardwareRequest:
    return HardwareRequest(
        targets=TORCH, networks=("mobilenet",), sides=(32,), batches=(1,), precisions=("fp32", "bf16")
    )


def test_a_run_gives_its_files_to_the_matrix_and_goes_on(measured: list[Job], tmp_path: Path) -> None:
    """One test, because each run exports the network."""
    out = tmp_path / "hw"
    made = run_hardware(plan_hardware(small()), out)
    [job] = measured
    assert [each.precision for each in job.files] == ["fp32", "bf16"]
    assert job.files[0].artefact.path == job.files[1].artefact.path
    assert job.files[0].artefact.module is not None
    [group] = made.groups
    assert (group.networks[0].parameters, group.networks[0].convolutions) == (3_217_226, 27)
    assert made.verdict == "MobileNet V1 takes 5.00 ms an image on the fastest runtime here"
    assert read_record(out / "result.json", type(made)) == made
    assert json.loads((out / "result.json").read_text())["verb"] == "reproduce"

    with pytest.raises(UsageError, match="--resume goes on"):
        run_hardware(plan_hardware(small()), out)
    other = small().model_copy(update={"batches": (2,)})
    with pytest.raises(UsageError, match="other settings: batches"):
        run_hardware(plan_hardware(other), out, resume=True)
    run_hardware(plan_hardware(small()), out, resume=True)
    first, second = (each.files[0].artefact for each in measured)
    images = np.zeros((1, 3, 32, 32), dtype=np.float32)
    assert first.module is not None
    assert second.module is not None
    np.testing.assert_array_equal(module_logits(first.module, images), module_logits(second.module, images))


def test_int8_of_networks_that_are_not_trained_is_told_with_data_too(
    measured: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(recipe, "memory_each", lambda count: asked.append(count) or 10**9)
    request = small().model_copy(update={"precisions": ("fp32", "int8"), "targets": f"{TORCH},onnxruntime"})
    task = SimpleNamespace(shape=(3, 32, 32), test=[])
    made = run_hardware(replace(plan_hardware(request), task=cast(Any, task)), tmp_path / "hw")
    assert [note for note in made.notes if "INT8 ranges come from noise" in note]
    [job] = measured
    assert (job.limits.memory, asked, job.model) == (10**9, [3], "mobilenet")  # two files and the anchor


def test_work_that_fails_everywhere_is_no_fault_of_the_request(
    measured: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gap = Gap(model="mobilenet", target=TORCH, precision="fp32", kind="failed", reason="it fell")
    empty = Cell(target=TORCH, batch=1, rows=[], comparisons=[], across=[], gaps=[gap])
    monkeypatch.setattr(recipe, "run_matrix", lambda _job, _folder, _say: Found([empty], [], 0))
    with pytest.raises(TargetError, match="mobilenet on torch@threads=1: it fell"):
        run_hardware(plan_hardware(small()), tmp_path / "hw")


@pytest.mark.slow
def test_a_small_run_measures_and_goes_on(tmp_path: Path) -> None:
    request = small().model_copy(update={"seconds": 0.01})
    first = run_hardware(plan_hardware(request), tmp_path / "hw")
    [group] = first.groups
    assert {each.precision for each in group.rows} <= {"fp32", "bf16"}
    assert all(each.latency_ms.median > 0 and each.executed for each in group.rows)
    again = run_hardware(plan_hardware(request), tmp_path / "hw", resume=True)
    assert again.groups == first.groups


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        ("vgg:11", (3, 32, 32), "is of vgg; this run measures alexnet, mobilenet"),
        ("mobilenet:0.5", (3, 64, 64), r"takes images \(3, 64, 64\)"),
    ],
)
def test_runs_of_other_networks_and_sizes_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str, shape: tuple[int, int, int], message: str
) -> None:
    header = Header(("a", "b"), shape, (0.5,) * 3, (0.25,) * 3)
    monkeypatch.setattr(recipe, "find_subject", lambda *_args, **_more: Subject("run", header))
    monkeypatch.setattr(recipe, "model_of", lambda _folder: model)
    with pytest.raises(UsageError, match=message):
        plan_hardware(HardwareRequest(targets=TORCH, runs=(str(tmp_path),)))


def test_a_run_that_is_not_there_and_targets_that_are_not(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder; give the folder of a finished run"):
        plan_hardware(HardwareRequest(targets=TORCH, runs=(str(tmp_path / "nothing"),)))
    plan = replace(plan_hardware(small()), targets=[("nothing", "nothing is not installed")])
    with pytest.raises(UsageError, match="no target is there: nothing is not installed"):
        run_hardware(plan, tmp_path / "hw")
    assert not (tmp_path / "hw").exists()


def test_an_adapted_run_is_measured_beside_the_original(
    monkeypatch: pytest.MonkeyPatch, measured: list[Job], tmp_path: Path
) -> None:
    narrow = load_model("mobilenet:0.05", (3, 32, 32), 10, seed=1).module
    header = Header(tuple("0123456789"), (3, 32, 32), (0.5,) * 3, (0.25,) * 3)
    subject = Subject("runs/fit", header, narrow)
    monkeypatch.setattr(
        recipe, "_original", lambda _network, _side: replace(subject, name="mobilenet", trained=False)
    )
    monkeypatch.setattr(recipe, "find_subject", lambda *_args, **_more: subject)
    monkeypatch.setattr(recipe, "model_of", lambda _folder: "mobilenet:1.0")
    monkeypatch.setattr(recipe, "adapted_for", lambda _folder: FAST)
    request = small().model_copy(update={"runs": (str(tmp_path),)})
    made = run_hardware(plan_hardware(request), tmp_path / "hw")
    assert [(each.subject.name, each.precision) for each in measured[0].files] == [
        ("mobilenet", "fp32"),
        ("mobilenet", "bf16"),
        ("runs/fit", "fp32"),
    ]
    adapted = made.groups[0].networks[1]
    assert (adapted.made_for, adapted.trained, adapted.fp32_bytes) == (
        FAST,
        True,
        made.groups[0].networks[0].fp32_bytes,
    )
