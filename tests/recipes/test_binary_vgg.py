"""Document 004's table again: rows, resume, what cannot be trained, and what the table says."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.recipes.in_this_process import in_this_process

from tersa.errors import TersaError, UsageError
from tersa.models.zoo import bits_of, parse
from tersa.recipes import binary_vgg
from tersa.recipes.binary_vgg import (
    METHODS,
    BinaryVgg,
    BinaryVggResult,
    RowResult,
    _verdict,
    chosen_rows,
    plan_binary_vgg,
    reproduce_binary_vgg,
    row_of,
)
from tersa.recipes.binary_vgg_report import view_of
from tersa.recipes.published_binary import accuracies
from tersa.recipes.setting import Setting
from tersa.recipes.train import TrainedRun
from tersa.recipes.train_request import TrainRequest
from tersa.records.base import read_record, write_record
from tersa.report.binary_vgg_page import render
from tersa.study import gather
from tersa.study.cluster import Crew
from tersa.train.loop import Status

WANTED = BinaryVgg(data="digits", rows=("vgg16", "cnv", "bvgg16"), epochs=1, precision="fp32")


ALL = METHODS
"""The table itself; the trainings below put a small network in B-VGG16's place."""


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        small = tuple(replace(each, model="tfc") if each.name == "bvgg16" else each for each in ALL)
        patch.setattr(binary_vgg, "METHODS", small)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, small: None) -> tuple[Path, BinaryVggResult]:
    folder = tmp_path_factory.mktemp("binary") / "study"
    return folder, reproduce_binary_vgg(WANTED, folder)


def test_every_published_row_is_there() -> None:
    assert {method.network for method in ALL if method.network} == {row.network for row in accuracies()}
    assert row_of("bvgg16").published == 88.21
    assert row_of("bvgg16-8bit").published is None
    for method in ALL:
        with torch.device("meta"):
            parse(method.model)[0].build(parse(method.model)[1], (3, 32, 32), 10)
        assert (bits_of(method.model) is None) == (method.name == "vgg16")


def test_rows_are_trained_and_others_say_why_not(made: tuple[Path, BinaryVggResult]) -> None:
    folder, result = made
    by_name = {row.name: row for row in result.rows}
    own = by_name["bvgg16"]
    assert own.test_accuracy is not None
    assert own.bits == "1/1 (W/A), input 8, first 1/8, last 1/1"
    assert own.packed_bytes * 8 == own.parameters
    assert own.float_macs == 0
    assert own.integer_macs == 64 * 64  # the first layer reads pixels
    assert (folder / own.folder / "report.html").is_file()
    for name in ("vgg16", "cnv"):  # digits are too small for them
        assert by_name[name].test_accuracy is None
        assert "takes images from 32x32" in by_name[name].note
    assert by_name["dsq"].note.endswith("not run")
    assert result.verdict == f"B-VGG16 reaches {own.test_accuracy:.2f} % on digits after 1 epoch"
    with (folder / "table.csv").open(encoding="utf-8") as file:
        assert [row["name"] for row in csv.DictReader(file)] == [method.name for method in ALL]


def test_rows_are_added_on_resume_and_ended_ones_stay(
    made: tuple[Path, BinaryVggResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, first = made
    stamp = (folder / "rows/bvgg16/result.json").stat().st_mtime_ns
    with pytest.raises(UsageError, match="exists"):
        reproduce_binary_vgg(WANTED, folder)
    with pytest.raises(UsageError, match="epochs was 1, is now 2"):
        reproduce_binary_vgg(WANTED.model_copy(update={"epochs": 2}), folder, resume=True)
    plan = plan_binary_vgg(WANTED, folder)
    assert (plan.rows, plan.ended, sorted(plan.skipped)) == ([], ["bvgg16"], ["cnv", "vgg16"])
    again = reproduce_binary_vgg(WANTED, folder, resume=True)
    assert again.rows == first.rows
    assert (folder / "rows/bvgg16/result.json").stat().st_mtime_ns == stamp


def test_the_page(made: tuple[Path, BinaryVggResult]) -> None:
    folder, result = made
    view = view_of(folder, result)
    assert [panel.title for panel in view.epochs] == ["B-VGG16"]
    text = render(view)
    assert 'href="rows/bvgg16/report.html"' in text
    assert "a few epochs say little" in text
    assert "88.21" in text


def test_a_row_that_diverged_says_so_and_is_not_judged(
    made: tuple[Path, BinaryVggResult], tmp_path: Path
) -> None:
    folder = shutil.copytree(made[0], tmp_path / "out")
    path = folder / "rows/bvgg16/result.json"
    write_record(path, read_record(path, TrainedRun).model_copy(update={"status": "diverged"}))
    result = reproduce_binary_vgg(WANTED, folder, resume=True)
    (own,) = [row for row in result.rows if row.name == "bvgg16"]
    assert (own.status, own.note, own.trained) == ("diverged", "diverged after 1 epoch", False)
    assert result.verdict == "No row was trained to its end: bvgg16 diverged"
    view = view_of(folder, result)
    assert view.detail.startswith("0 of 8 rows trained, 1 epoch each; 1 diverged. ")
    assert view.tiles == ()
    assert [row.gap for row in view.rows if row.name == "bvgg16"] == [""]


TWO_SMALL = tuple(
    replace(each, model=model) if (model := {"bvgg16": "tfc", "cnv": "sfc"}.get(each.name)) else each
    for each in ALL
)


def timeless(result: BinaryVggResult) -> list[RowResult]:
    """Its trained rows without the time they took."""
    return [row.model_copy(update={"seconds": 0.0}) for row in result.rows if row.folder]


def test_workers_train_the_same_rows(
    made: tuple[Path, BinaryVggResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binary_vgg, "METHODS", TWO_SMALL)
    monkeypatch.setattr(gather, "carry_out", in_this_process)
    alone = reproduce_binary_vgg(WANTED, tmp_path / "alone", Setting(threads=1))
    many = reproduce_binary_vgg(WANTED, tmp_path / "many", crew=Crew(workers=2))
    assert timeless(alone) == timeless(many)
    assert len(timeless(many)) == 2
    again = reproduce_binary_vgg(WANTED, tmp_path / "many", resume=True, crew=Crew(workers=2))
    assert again.rows == many.rows


def test_a_row_with_masks_is_counted_without_what_they_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masked = "tfc+w1a1:mask=subsidiary"
    only = tuple(replace(each, model=masked) if each.name == "main-subsidiary" else each for each in ALL)
    monkeypatch.setattr(binary_vgg, "METHODS", only)
    wanted = WANTED.model_copy(update={"rows": ("main-subsidiary",)})
    reproduce_binary_vgg(wanted, tmp_path / "out")
    path = tmp_path / "out/rows/main-subsidiary/model.safetensors"
    state = load_file(path)
    latents = [name for name in state if name.endswith("latent")]
    for name in latents:
        state[name] = torch.where(torch.arange(64) % 4 == 0, 0.5, -0.5)  # 16 of 64 stay
    save_file(state, path)
    result = reproduce_binary_vgg(wanted, tmp_path / "out", resume=True)
    (row,) = [row for row in result.rows if row.trained]
    assert len(latents) == 3
    assert row.parameters == 64 * 16 + 16 * 16 + 16 * 16 + 16 * 10
    assert (row.binary_macs, row.integer_macs) == (16 * 16 + 16 * 16 + 16 * 10, 64 * 16)
    assert row.packed_bytes * 8 == row.parameters
    for name in latents:
        state[name] = torch.full((64,), -0.5)
    save_file(state, path)
    (row,) = [row for row in reproduce_binary_vgg(wanted, tmp_path / "out", resume=True).rows if row.trained]
    assert row.parameters == 64 * 64 * 3 + 64 * 10  # a mask that keeps nothing removes nothing


def test_xnor_net_has_the_factor_of_its_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bits = bits_of(row_of("xnor-net").model)
    assert bits is not None
    assert bits.xnor
    assert "no packed program holds" in row_of("xnor-net").note
    small = row_of("xnor-net").model.replace("vgg-small", "tfc")
    only = tuple(replace(each, model=small) if each.name == "xnor-net" else each for each in ALL)
    monkeypatch.setattr(binary_vgg, "METHODS", only)
    result = reproduce_binary_vgg(WANTED.model_copy(update={"rows": ("xnor-net",)}), tmp_path / "out")
    (row,) = [row for row in result.rows if row.trained]
    assert row.bits.endswith("scale=xnor")
    assert row.binary_macs == 2 * 64 * 64
    assert row.float_macs == 64 * 64 + 64 * 10


@pytest.mark.slow
def test_rows_in_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary_vgg, "METHODS", TWO_SMALL)
    alone = reproduce_binary_vgg(WANTED, tmp_path / "alone", Setting(threads=1))
    many = reproduce_binary_vgg(WANTED, tmp_path / "many", Setting(threads=1), crew=Crew(workers=2))
    assert timeless(alone) == timeless(many)
    assert len(timeless(many)) == 2


def test_a_row_that_breaks_is_told_with_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("this row broke")

    monkeypatch.setattr(binary_vgg, "METHODS", TWO_SMALL)
    monkeypatch.setattr(gather, "carry_out", in_this_process)
    monkeypatch.setattr(binary_vgg, "run_training", broken)
    with pytest.raises(TersaError, match=r"row 2 of 2: (.|\n)*this row broke"):
        reproduce_binary_vgg(WANTED, tmp_path / "out", crew=Crew(workers=2))


def test_a_plan_names_what_it_would_train(tmp_path: Path) -> None:
    told: list[tuple[str, float, str]] = []
    plan = plan_binary_vgg(WANTED, tmp_path / "none", Setting(say=lambda *words: told.append(words)))
    assert plan.rows == ["bvgg16"]
    assert [remark for *_, remark in told] == ["some updates of bvgg16 are timed", "3 rows"]
    assert plan.seconds > 0
    assert not (tmp_path / "none").exists()


def test_a_plan_shares_rows_among_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cost = {"tfc": 30.0, "sfc": 10.0}

    def plan(request: TrainRequest, setting: Setting) -> SimpleNamespace:
        return SimpleNamespace(cost=SimpleNamespace(seconds=cost[str(request.model)]), device="cpu")

    monkeypatch.setattr(binary_vgg, "METHODS", TWO_SMALL)
    monkeypatch.setattr(binary_vgg, "plan_training", plan)
    alone, two = (
        plan_binary_vgg(WANTED, tmp_path / "none", crew=Crew(workers=workers)).seconds for workers in (1, 2)
    )
    assert (alone, two) == (40.0, 30.0)
    with pytest.raises(UsageError, match="--on nowhere"):
        plan_binary_vgg(WANTED, tmp_path / "none", crew=Crew(on="nowhere"))


def test_wrong_rows_are_named_together() -> None:
    with pytest.raises(UsageError, match=r"(?s)2 faults.*did you mean 'cnv'.*'lob'"):
        chosen_rows(BinaryVgg(rows=("cmv", "lob")))


def test_cifar_is_judged_against_the_document() -> None:
    def row(accuracy: float, name: str = "bvgg16", status: Status = "done") -> RowResult:
        return RowResult(
            name=name,
            network="B-VGG16",
            status=status,
            model="bvgg16",
            bits="1/1",
            published=88.21,
            test_accuracy=accuracy,
            validation_accuracy=accuracy,
            epochs=3,
            parameters=1,
            packed_bytes=1,
            binary_macs=1,
            integer_macs=0,
            float_macs=0,
            seconds=1.0,
            device="cpu",
            folder="rows/bvgg16",
            note="",
        )

    quick = BinaryVgg(epochs=3)
    assert _verdict([row(60.0)], quick).endswith("the document's 1,000 epochs gave 88.21 %")
    assert "2.29 points above the document" in _verdict([row(90.5)], quick)
    assert _verdict([], quick) == "No row was trained"
    rows = [row(90.5, status="diverged"), row(70.0, "cnv")]
    assert _verdict(rows, quick) == "BNN-PYNQ reaches 70.00 % after 3 epochs; B-VGG16 diverged"
