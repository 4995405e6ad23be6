"""Document 002 again: which curves, what is stored, what goes on after a kill, table 4.1, the findings."""

from __future__ import annotations

import csv
import math
import multiprocessing
import os
import signal
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import tersa.recipes.pruning_study as study
import tersa.recipes.pruning_workers as workers
import tersa.recipes.setting as setting_module
from tersa.data.sources import load
from tersa.errors import DataError, Diverged, UsageError
from tersa.models import zoo
from tersa.recipes.folder import open_folder
from tersa.recipes.pruning_answer import details, headline
from tersa.recipes.pruning_cost import Clock, Size, size_of, spent, work
from tersa.recipes.pruning_curves import FIGURES, Curve, Point, every_curve
from tersa.recipes.pruning_findings import CLAIMS, TIE, Areas, area, findings, judge, verdict
from tersa.recipes.pruning_report import STYLES, Setup, view_of, write_results
from tersa.recipes.pruning_results import (
    TABLE_CURVE,
    document,
    floors,
    points_csv,
    scratch_spec,
    table_csv,
    table_points,
    table_rows,
)
from tersa.recipes.pruning_store import POINT, PruningStore, Trained, Walked
from tersa.recipes.pruning_study import (
    DATABASE,
    VERB,
    Deciding,
    Pruning,
    chosen_curves,
    plan_pruning,
    reproduce_pruning,
)
from tersa.recipes.pruning_workers import Ended, Event, Job, Walks, in_workers
from tersa.recipes.setting import Setting
from tersa.study.cluster import Crew
from tersa.study.pool import Told
from tersa.train.baseline import save_weights

LENET = Size(
    {"conv1": 32, "conv2": 64, "fc1": 1024},
    (627_200, 10_035_200, 3_211_264, 10_240),
    (832, 51_264, 3_212_288, 10_250),
    5_000,
    10_000,
)
CHEAP = ("fc1-l1-no-retraining", "network-random-none-no-retraining")
BASELINE = Trained(
    spec="lenet", seed=0, digest="abc", parameters=3_274_634, macs=13_883_904,
    validation_accuracy=99.22, test_accuracy=99.10, iterations=10_000, seconds=60.0,
)  # fmt: skip


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(device="cpu", threads=1, command="tersa reproduce pruning", cache=tmp_path / "cache")


def tiny(*curves: str, **more: Any) -> Pruning:
    asked: dict[str, Any] = {
        "data": "digits", "model": "lenet:4-6-12", "baseline_iterations": 20, "precision": "fp32",
    }  # fmt: skip
    return Pruning.model_validate(asked | {"curves": curves} | more)


def point(step: int, validation: float, test: float | None = None, *, of: int = 4) -> Point:
    """One of `of` equal steps from LeNet to nothing; 280 channels each."""
    left = (of - step) / of
    widths = " ".join(f"{name}={max(1, round(width * left))}" for name, width in LENET.widths.items())
    return Point(
        step=step, removed=280 * step, left=1120 - 280 * step, parameters=max(1, round(3_274_634 * left**2)),
        macs=max(1, round(13_883_904 * left**2)), validation_accuracy=validation, test_accuracy=test,
        widths=widths, seconds=1.5,
    )  # fmt: skip


def walked(name: str, *accuracies: float, seed: int = 0) -> Walked:
    curve = every_curve(step="2%", seed=seed)[name]
    last = len(accuracies) - 1
    points = (point(step, value, value - 0.1, of=max(last, 1)) for step, value in enumerate(accuracies))
    return Walked(curve=curve, status="done", points=tuple(points))


def flat(level: float, figure: str, *labels: str) -> list[Walked]:
    """The lines of these labels in a figure, all at one accuracy."""
    (found,) = [each for each in FIGURES if each.number == figure]
    return [
        walked(curve.name, level, level)
        for panel in found.panels
        for label, curve in panel.lines
        if label in labels
    ]


# which curves


def test_all_curves_of_the_document_are_asked_for_by_default() -> None:
    curves = chosen_curves(Pruning())
    assert {curve.name for curve in curves} == set(every_curve(step="2%", seed=0))
    assert {(curve.step, curve.seed) for curve in curves} == {("2%", 0)}
    assert {curve.step for curve in chosen_curves(Pruning(mode="full"))} == {"1"}


def test_figures_and_names_add_up_and_seeds_multiply() -> None:
    curves = chosen_curves(Pruning(figures=("4.16",), curves=("conv1-l1-10",), seeds=3))
    assert {curve.name for curve in curves} == {
        "network-taylor-l2-no-retraining",
        "network-taylor-l2-100",
        "network-taylor-l2-100-once",
        "conv1-l1-10",
    }
    assert [curve.seed for curve in curves] == [0] * 4 + [1] * 4 + [2] * 4


def test_unknown_figures_and_curves_are_told_together() -> None:
    with pytest.raises(
        UsageError, match=r"2 faults\n.*unknown figure '4.17'.*\n.*unknown curve 'conv1-l3-10'"
    ):
        chosen_curves(Pruning(figures=("4.17",), curves=("conv1-l3-10",)))


def test_only_networks_with_the_document_s_layers_are_taken(tmp_path: Path, setting: Setting) -> None:
    with pytest.raises(UsageError, match=r"--model mlp:8.*conv1, conv2, fc1.*lenet:8-16-64"):
        reproduce_pruning(tiny(model="mlp:8"), tmp_path / "out", setting)
    assert not (tmp_path / "out").exists()


# from nothing to the folder, and again


def test_a_folder_grows_and_keeps_what_it_has(tmp_path: Path, setting: Setting) -> None:
    out = tmp_path / "out"
    result = reproduce_pruning(tiny(*CHEAP), out, setting, workers=1)
    assert (result.done, result.curves, result.failed, result.shortened) == (2, 2, 0, True)
    assert result.baselines[0].parameters == 1140
    names = {path.name for path in out.iterdir()}
    assert {"spec.toml", "pruning.db", "points.csv", "table.csv", "result.json", "report.html"} <= names
    assert not list((out / "curves").glob("*.safetensors"))

    with pytest.raises(UsageError, match="--resume goes on with it"):
        reproduce_pruning(tiny(*CHEAP), out, setting, workers=1)
    with pytest.raises(UsageError, match="mode was quick, is now full"):
        reproduce_pruning(tiny(*CHEAP, mode="full"), out, setting, workers=1, resume=True)

    before = (out / "points.csv").read_text()
    again = reproduce_pruning(tiny("conv1-taylor-10", seeds=2), out, setting, workers=1, resume=True)
    assert (again.done, again.stored) == (2, 4)
    assert [start.seed for start in again.baselines] == [0, 1]
    after = (out / "points.csv").read_text()
    assert after.startswith(before)
    rows = list(csv.DictReader(after.splitlines()))
    ended = [row for row in rows if row["curve"] == "conv1-taylor-10" and row["seed"] == "1"]
    assert [row["removed"] for row in ended] == ["0", "1", "2", "3"]
    assert ended[-1]["widths"] == "conv1=1 conv2=6 fc1=12"
    assert ended[-1]["test_accuracy"] != ""
    assert "A shortened trial" in (out / "report.html").read_text()

    fresh = reproduce_pruning(tiny(CHEAP[0]), out, setting, workers=1, overwrite=True)
    assert fresh.stored == 1


def test_an_interrupted_call_goes_on(
    tmp_path: Path, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = workers.run_curve

    def stop(curve: Curve, *rest: Any, **more: Any) -> list[Point]:
        asked.append(curve.name)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(curve, *rest, **more)

    monkeypatch.setattr(workers, "run_curve", stop)
    with pytest.raises(KeyboardInterrupt):
        reproduce_pruning(tiny(*CHEAP), tmp_path / "out", setting, workers=1)
    with PruningStore(tmp_path / "out" / DATABASE) as store:
        assert [each.curve.name for each in store.curves()] == asked[:1]
    result = reproduce_pruning(tiny(*CHEAP), tmp_path / "out", setting, workers=1, resume=True)
    assert result.done == 2
    assert asked[2:] == asked[1:2]


def test_a_failed_curve_is_told_and_tried_again(
    tmp_path: Path, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = workers.run_curve

    def fail(curve: Curve, *rest: Any, **more: Any) -> list[Point]:
        if curve.name == CHEAP[0]:
            raise MemoryError("no room for <b>fc1</b>")
        if curve.name == "conv1-l1-no-retraining":
            raise Diverged("NaN")
        return real(curve, *rest, **more)

    monkeypatch.setattr(workers, "run_curve", fail)
    wanted = tiny(*CHEAP, "conv1-l1-no-retraining")
    result = reproduce_pruning(wanted, tmp_path / "out", setting, workers=1)
    assert (result.done, result.failed, result.diverged) == (1, 1, 1)
    assert result.trouble == "MemoryError: no room for <b>fc1</b>"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "no room for &lt;b&gt;fc1&lt;/b&gt;" in page
    monkeypatch.setattr(workers, "run_curve", real)
    again = reproduce_pruning(wanted, tmp_path / "out", setting, workers=1, resume=True)
    assert (again.done, again.failed, again.diverged) == (2, 0, 1)


def test_a_plan_writes_nothing_and_counts_what_is_left(tmp_path: Path, setting: Setting) -> None:
    out = tmp_path / "out"
    plan = plan_pruning(tiny(*CHEAP), out, setting, workers=2)
    assert (plan.curves, plan.left, plan.ended, plan.baselines, plan.workers) == (2, 2, 0, 1, 2)
    assert plan.steps == 11 + 19
    assert plan.seconds > 0
    assert not out.exists()
    with PruningStore(out / DATABASE, write=True) as store:
        store.add(walked(CHEAP[0], 90.0, 20.0))
        store.keep_baseline(BASELINE)
    later = plan_pruning(tiny(*CHEAP, seeds=2), out, setting)
    assert (later.curves, later.left, later.ended, later.baselines) == (4, 3, 1, 1)


def test_auto_precision_is_the_folder_s_when_it_goes_on(
    tmp_path: Path, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    begun = Deciding(
        data="digits", model="lenet:4-6-12", mode="quick", precision="fp32", baseline_iterations=20
    )
    open_folder(out, VERB, begun, resume=False, overwrite=False)
    monkeypatch.setattr(setting_module, "cpuinfo", lambda: "flags : avx512_bf16\n")
    assert plan_pruning(tiny(precision="auto"), tmp_path / "other", setting).precision == "bf16"
    assert plan_pruning(tiny(precision="auto"), out, setting).precision == "fp32"
    again = reproduce_pruning(
        tiny(CHEAP[0], precision="auto"), out, setting, workers=1, overwrite=True
    )  # it begins anew
    assert again.precision == "bf16"


def test_the_precision_of_another_verb_s_folder_is_not_read(tmp_path: Path, setting: Setting) -> None:
    (tmp_path / "spec.toml").write_text('schema_version = 1\nverb = "shrink"\nprecision = "int8"\n')
    with pytest.raises(UsageError, match="verb was shrink, is now reproduce pruning"):
        reproduce_pruning(tiny(CHEAP[0], precision="auto"), tmp_path, setting, workers=1, resume=True)
    with pytest.raises(UsageError, match="--resume goes on with it"):
        reproduce_pruning(tiny(CHEAP[0], precision="auto"), tmp_path, setting, workers=1)


def test_baselines_take_no_more_threads_than_there_are_cores(
    tmp_path: Path, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def end(*_: object) -> None:
        seen.append(torch.get_num_threads())
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "cores", lambda: 2)
    monkeypatch.setattr(study, "_begin", lambda *_: seen.append(torch.get_num_threads()))
    monkeypatch.setattr(study, "_walk", lambda *_: None)
    monkeypatch.setattr(study, "_from_scratch", end)
    with pytest.raises(KeyboardInterrupt):
        reproduce_pruning(tiny(CHEAP[0]), tmp_path / "out", setting, workers=64)
    assert seen == [2, 2]


@pytest.mark.slow
def test_a_curve_outlives_the_worker_that_dies(tmp_path: Path) -> None:
    """The worker is killed at its first word; another walks the curve to its end."""
    task = load("digits")
    walks = Walks("digits", "lenet:4-6-12", tmp_path, "fp32", crew=Crew(workers=2))
    save_weights(zoo.build(walks.model, task.shape, len(task.classes)), walks.weights(0))
    curve = every_curve(step="1", seed=0)["conv1-random-no-retraining"]
    heard: list[Event] = []

    def hear(event: Event) -> None:
        if not heard:
            (worker,) = multiprocessing.active_children()
            assert worker.pid
            os.kill(worker.pid, signal.SIGKILL)
        heard.append(event)

    in_workers([Job(7, curve, 5)], walks, hear)
    assert isinstance(heard[0], Told)
    assert isinstance(heard[-1], Ended)
    assert heard[-1].number == 7
    assert heard[-1].walked.status == "done"
    assert [each.removed for each in heard[-1].walked.points] == [0, 1, 2, 3]


# the store


def test_what_is_stored_comes_back(tmp_path: Path) -> None:
    first = walked("fc1-l1-10", 99.2, 98.0, 11.0)
    second = Walked(curve=first.curve.model_copy(update={"seed": 4}), status="failed", message="a\nb: c\n")
    with PruningStore(tmp_path / "p.db", write=True) as store:
        store.add(second)
        store.add(first)
        store.add(first)
        store.keep_baseline(BASELINE)
        store.keep_scratch(BASELINE.model_copy(update={"spec": "lenet:3-4-5"}))
    with PruningStore(tmp_path / "p.db") as store:
        assert store.curves() == [second, first]
        assert store.baselines() == {0: BASELINE}
        assert set(store.scratch()) == {("lenet:3-4-5", 0)}
    assert second.trouble == "b: c"
    assert first.seconds == 4.5


def test_every_field_of_a_point_is_a_column() -> None:
    assert set(POINT) == set(Point.model_fields)


def test_a_store_has_one_writer_and_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "p.db"
    with pytest.raises(DataError, match="no file"):
        PruningStore(path)
    with PruningStore(path, write=True), pytest.raises(UsageError, match="another process"):
        PruningStore(path, write=True)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(DataError, match="version 99, this tersa reads up to 1"):
        PruningStore(path)
    (tmp_path / "text.db").write_text("not a database, but long enough to be looked at as one" * 20)
    with pytest.raises(DataError, match="is not a reproduction of pruning"):
        PruningStore(tmp_path / "text.db")


def test_a_store_whose_writer_was_killed_before_its_tables_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "p.db"
    path.touch()
    with PruningStore(path) as store:
        assert store.curves() == []
    with PruningStore(path, write=True) as store:
        assert store.baselines() == {}


# table 4.1


def test_the_document_s_numbers() -> None:
    assert document()["baseline_accuracy"] == 99.239
    assert (document()["pruned_loss"], document()["scratch_loss"]) == (0.239, 0.839)
    assert (document()["pruned_compression"], document()["pruned_acceleration"]) == (80, 7)


def test_a_row_is_the_last_point_within_its_floor() -> None:
    assert floors(BASELINE) == {"99 %": 99.0, "-0.24 points": pytest.approx(98.98)}
    curve = every_curve(step="2%", seed=0)[TABLE_CURVE]
    levels = (99.22, 98.5, 99.0, 98.98, 12.0)
    points = tuple(point(step, value, value - 0.1) for step, value in enumerate(levels))
    found = table_points(Walked(curve=curve, status="done", points=points), BASELINE)
    assert [(name, each.step) for name, each in found] == [("99 %", 2), ("-0.24 points", 3)]


def test_a_row_needs_a_removal_and_a_test_accuracy() -> None:
    curve = every_curve(step="2%", seed=0)[TABLE_CURVE]
    points = (point(0, 99.2, 99.1), point(1, 99.1, None), point(2, 50.0, 50.0))
    assert table_points(Walked(curve=curve, status="done", points=points), BASELINE) == []


def test_losses_are_against_the_baseline_of_the_seed(tmp_path: Path) -> None:
    with PruningStore(tmp_path / "p.db", write=True) as store:
        store.keep_baseline(BASELINE)
        store.add(walked(TABLE_CURVE, 99.22, 99.12, 12.0))
        spec = scratch_spec("lenet", "conv1=16 conv2=32 fc1=512")
        assert spec == "lenet:16-32-512"
        small = {"spec": spec, "validation_accuracy": 98.42, "test_accuracy": 98.0}
        store.keep_scratch(BASELINE.model_copy(update=small))
        rows = table_rows(store, "lenet")
    assert [row.floor for row in rows] == ["99 %", "-0.24 points"]
    row = rows[0]
    assert (row.compression, row.acceleration) == (pytest.approx(4.0), pytest.approx(4.0))
    assert row.validation_loss == pytest.approx(0.10)
    assert row.test_loss == pytest.approx(99.10 - 99.02)
    assert row.scratch_validation_loss == pytest.approx(0.80)
    assert row.scratch_test_loss == pytest.approx(1.10)
    lines = list(csv.DictReader(table_csv(rows).splitlines()))
    assert [line["seed"] for line in lines] == ["document", "0", "0"]
    assert lines[0]["validation_loss"] == "0.239"
    assert lines[1]["compression"] == "4"


def test_points_are_one_line_each_with_their_curve() -> None:
    lines = list(csv.DictReader(points_csv([walked("fc1-l1-10", 99.2, 11.0)]).splitlines()))
    assert [(line["curve"], line["retrain"], line["step_size"], line["step"]) for line in lines] == [
        ("fc1-l1-10", "10", "2%", "0"),
        ("fc1-l1-10", "10", "2%", "1"),
    ]
    assert lines[1]["validation_accuracy"] == "11"


# the work, the findings and the answer


def test_work_counts_iterations_of_the_whole_network() -> None:
    hundred = work(Curve(criterion="random", retrain=100), LENET, 10**9)
    ten = work(Curve(criterion="random", retrain=10), LENET, 10**9)
    nothing = work(Curve(criterion="random"), LENET, 10**9)
    for a, b, c in zip(hundred, ten, nothing, strict=True):
        assert a - c == pytest.approx(10 * (b - c))
    assert 90 < hundred[0] - nothing[0] < 100
    assert hundred == sorted(hundred, reverse=True)
    full = work(Curve(criterion="random", retrain=100, step="1"), LENET, 10**9)
    assert len(full) == 1117


def test_a_layer_s_curve_costs_more_than_the_network_s_by_the_step() -> None:
    one = work(Curve(criterion="l1", scope="fc1", retrain=100), LENET, 5)
    every = work(Curve(criterion="l1", retrain=100), LENET, 5)
    assert one[-1] > every[-1]
    once = work(Curve(criterion="taylor", recompute="once"), LENET, 5)
    again = work(Curve(criterion="taylor"), LENET, 5)
    assert once[0] == again[0]
    assert all(a < b for a, b in zip(once[1:], again[1:], strict=True))


def test_the_size_of_a_network_is_read_from_it() -> None:
    task = load("digits")
    size = size_of(zoo.build("lenet:4-6-12", task.shape, 10), task)
    assert size.widths == {"conv1": 4, "conv2": 6, "fc1": 12}
    assert sum(size.parameters) == 1140
    assert (size.validation, size.test) == (len(task.validation), len(task.test))
    whole = zoo.build("lenet", (1, 28, 28), 10)
    assert sum(p.numel() for p in whole.parameters()) == sum(LENET.parameters)


def test_the_clock_tells_what_is_left() -> None:
    told: list[tuple[float, str]] = []
    clock = Clock([[3.0, 1.0], [4.0]], lambda _, share, remark: told.append((share, remark)), "2 curves")
    clock.hear(0, 0.5)
    clock.end(0, failed=True)
    clock.end(1, failed=False)
    assert [share for share, _ in told] == [3 / 8, 1 / 2, 1.0]
    assert told[1][1].startswith("1 of 2 curves, 1 failed, ")
    assert told[2][1] == "2 of 2 curves, 1 failed"
    assert spent([], 1.0) == 0.0


def test_what_was_done_before_a_kill_says_nothing_of_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now, told = [100.0], list[str]()
    monkeypatch.setattr("tersa.recipes.pruning_cost.time.monotonic", lambda: now[0])
    clock = Clock([[1.0] * 10], lambda _, share, remark: told.append(remark), "1 curve")
    clock.hear(0, 0.8)  # in a checkpoint
    now[0] = 160.0
    clock.hear(0, 0.9)  # one step in a minute, and one is left
    assert told == ["0 of 1 curves", "0 of 1 curves, 60 s left"]


def test_an_area_counts_channels_not_steps() -> None:
    points = (point(0, 100.0), point(1, 100.0), point(4, 0.0))
    assert area(points) == pytest.approx((280 * 100 + 840 * 50) / 1120)
    assert area(points[:1]) == 100.0


def test_a_difference_is_told_beyond_a_tie_and_in_every_seed() -> None:
    one, two = "network-taylor-l2-100", "network-l1-l2-100"
    near = Areas([walked(one, 90.0, 90.0), walked(two, 90.0 - TIE, 90.0 - TIE)])
    assert near.above(one, two) is False
    assert near.tied([one, two]) is True
    far = [walked(one, 90.0, 90.0), walked(two, 80.0, 80.0)]
    assert Areas(far).above(one, two) is True
    assert Areas(far).leaders([two, one]) == [one]
    mixed = [*far, walked(one, 80.0, 80.0, seed=1), walked(two, 81.0, 81.0, seed=1)]
    assert Areas(mixed).gap(one, two) == pytest.approx(4.5)
    assert Areas(mixed).above(one, two) is False
    assert Areas(far).above(one, "conv1-l1-10") is None


def test_every_figure_has_a_claim_and_every_label_a_style() -> None:
    assert set(CLAIMS) == {figure.number for figure in FIGURES}
    for figure in FIGURES:
        for panel in figure.panels:
            styles = [STYLES[label] for label, _ in panel.lines]
            assert len(set(styles)) == len(styles)


def levels(figure: str, **by_label: float) -> list[Walked]:
    found: list[Walked] = []
    for label, level in by_label.items():
        found += flat(level, figure, label)
    return found


@pytest.mark.parametrize(
    ("number", "by_label", "expected"),
    [
        ("4.2", {"Taylor": 40.0, "weights": 40.0, "activation": 40.0, "random": 60.0}, "holds"),
        ("4.2", {"Taylor": 70.0, "weights": 40.0, "activation": 40.0, "random": 60.0}, "in part"),
        ("4.2", {"Taylor": 70.0, "weights": 70.0, "activation": 70.0, "random": 60.0}, "not seen"),
        ("4.2", {"Taylor": 70.0, "weights": 70.0, "random": 60.0}, "open"),
        ("4.3", {"none": 40.0, "l1": 60.0, "l2": 70.0}, "holds"),
        ("4.3", {"none": 70.0, "l1": 75.0, "l2": 70.0}, "not seen"),
        ("4.4", {"Taylor": 70.0, "weights": 60.0, "activation": 60.0, "random": 60.0}, "holds"),
        ("4.4", {"Taylor": 70.0, "weights": 70.0, "activation": 60.0, "random": 60.0}, "in part"),
        ("4.4", {"Taylor": 60.0, "weights": 70.0, "activation": 60.0, "random": 60.0}, "not seen"),
        ("4.5", {"10 iterations": 80.0, "50 iterations": 90.0, "100 iterations": 91.0}, "holds"),
        ("4.5", {"10 iterations": 80.0, "50 iterations": 81.0, "100 iterations": 91.0}, "not seen"),
        ("4.7", {"10 iterations": 80.0, "50 iterations": 90.0, "100 iterations": 90.1}, "holds"),
        ("4.9", {"Taylor": 90.0, "weights": 90.1, "activation": 90.2, "random": 90.3}, "holds"),
        ("4.9", {"Taylor": 90.0, "weights": 90.1, "activation": 90.2, "random": 80.0}, "not seen"),
        ("4.11", {"none": 80.0, "l2": 90.0}, "in part"),
        ("4.12", {"Taylor": 90.0, "weights": 90.1, "activation": 90.2, "random": 80.0}, "holds"),
        ("4.14", {"Taylor": 90.0, "weights": 80.0, "activation": 89.0, "random": 70.0}, "holds"),
        ("4.14", {"Taylor": 90.0, "weights": 89.0, "activation": 80.0, "random": 70.0}, "in part"),
        ("4.16", {"100 iterations, all layers": 95.0, "criterion once": 90.0}, "holds"),
        ("4.16", {"100 iterations, all layers": 90.0, "criterion once": 90.0}, "not seen"),
    ],
)
def test_a_finding_is_judged_by_the_numbers(number: str, by_label: dict[str, float], expected: str) -> None:
    (figure,) = [each for each in FIGURES if each.number == number]
    assert judge(figure, Areas(levels(number, **by_label))).verdict == expected


def test_figures_4_1_and_4_15() -> None:
    criteria = {"taylor": 3.0, "l1": 1.0, "activation": 2.0, "random": 0.0}
    layers = {"conv1": 40.0, "conv2": 60.0, "fc1": 80.0}
    first = [
        walked(f"{layer}-{name}-no-retraining", base + more, base + more)
        for layer, base in layers.items()
        for name, more in criteria.items()
    ]
    protocols = [
        walked(f"{layer}-taylor-{name}", level, level)
        for layer in layers
        for name, level in (("100", 95.0), ("100-layer", 90.0), ("100-once", 94.8))
    ]
    found = {each.number: each for each in findings([*first, *protocols])}
    assert found["4.1"].verdict == found["4.15"].verdict == "holds"
    assert found["4.1"].here.startswith(
        "conv1: Taylor 43.0, activation 42.0, weights 41.0, random 40.0; conv2:"
    )
    backwards = [*first[8:], *(walked(each.curve.name, 99.0, 99.0) for each in first[:4]), *first[4:8]]
    assert {each.number: each for each in findings(backwards)}["4.1"].verdict == "in part"


def test_verdicts() -> None:
    assert verdict([]) == "open"
    assert verdict([None, True]) == "open"


def test_the_answer_says_ties_and_one_seed() -> None:
    best = {"Taylor": 90.0, "weights": 89.8, "activation": 80.0, "random": 70.0}
    text = details(levels("4.10", **best))
    assert "Best over the whole network with l2: Taylor and weights (a tie) with 100 iterations." in text
    assert "One seed a curve: there are no intervals" in text
    two = [*levels("4.10", **best), walked("fc1-l1-10", 90.0, 90.0, seed=1)]
    assert "Seeds 0 and 1" in details(two)
    once = details(levels("4.16", **{"100 iterations, all layers": 95.0, "criterion once": 90.0}))
    assert "Computing Taylor again at every step, over the whole network: +5.00 points." in once
    gains = details(levels("4.8", **{"10 iterations": 80.0, "50 iterations": 90.0, "100 iterations": 91.0}))
    assert "add +10.00 points from 10 to 50 and +1.00 points from 50 to 100" in gains
    assert details([]) == ""


def test_the_headline_counts_findings_and_says_when_there_are_none() -> None:
    assert (
        headline([], [], [walked("fc1-l1-10", 90.0)])
        == "1 curve pruned, too few for a finding of the document"
    )
    found = findings(levels("4.16", **{"100 iterations, all layers": 95.0, "criterion once": 90.0}))
    assert headline([], found, []) == "1 of the document's 1 findings hold"


def setup(**more: Any) -> Setup:
    values: dict[str, Any] = {
        "data": "mnist", "model": "lenet", "mode": "full", "precision": "bf16", "baseline_iterations": 10_000,
        "shortened": False, "validation": 5_000, "test": 10_000, "command": "tersa reproduce pruning",
        "threads": 1, "workers": 2, "device": "cpu",
    }  # fmt: skip
    return Setup(**(values | more))


def test_the_page_says_how_it_was_made_and_what_is_not_there(tmp_path: Path) -> None:
    curves: Sequence[Walked] = [
        walked(TABLE_CURVE, 99.22, 99.12, 12.0),
        walked(TABLE_CURVE, 99.22, 99.0, 12.0, seed=1),
    ]
    with PruningStore(tmp_path / "p.db", write=True) as store:
        for seed, each in enumerate(curves):
            store.keep_baseline(BASELINE.model_copy(update={"seed": seed}))
            store.add(each)
        result = write_results(store, tmp_path, setup(), asked=[c.curve for c in curves], seconds=7.0)
    assert result.verdict.startswith(
        "Taylor with l2 keeps 99.12 % with 4.0× fewer parameters and 4.0× fewer MACs or more"
    )
    view = view_of(result, curves, findings(curves), setup())
    shown = {figure.number: figure for figure in view.figures}
    assert shown["4.10"].shows == "one channel a step, seeds 0 and 1, bf16 while training"
    assert shown["4.10"].panels[0].missing == ("weights", "activation", "random")
    assert [run.seed for run in shown["4.10"].panels[0].lines[0].runs] == [0, 1]
    assert "4.1, 4.2" in view.absent
    assert not math.isnan(result.curve_seconds)
    page = (tmp_path / "report.html").read_text()
    assert "Not pruned in network: weights, activation, random." in page
    assert "one channel a step, seeds 0 and 1, bf16 while training" in page


@pytest.mark.parametrize(
    ("accuracies", "words"),
    [
        ((97.0, 96.0, 12.0), "no pruned network is within a floor"),
        ((98.9, 98.8, 12.0), "No pruned network keeps 99 % on the validation images."),
    ],
)
def test_a_table_without_a_row_says_why(tmp_path: Path, accuracies: tuple[float, ...], words: str) -> None:
    low = BASELINE.model_copy(update={"validation_accuracy": 98.9})
    with PruningStore(tmp_path / "p.db", write=True) as store:
        store.keep_baseline(low)
        store.add(walked(TABLE_CURVE, *accuracies))
        result = write_results(store, tmp_path, setup(), asked=[], seconds=7.0)
    assert words in view_of(result, [walked(TABLE_CURVE, *accuracies)], [], setup()).unfilled
    assert "has not been pruned" in view_of(result, [], [], setup()).unfilled
