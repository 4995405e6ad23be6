"""A target over batch sizes: what leaves, why, and what is compared with what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tersa.errors import TargetError
from tersa.export.artefact import Artefact
from tersa.export.check import module_logits
from tersa.targets import sweep
from tersa.targets.base import Pixels
from tersa.targets.measure import Effort
from tersa.targets.registry import parse
from tersa.targets.sweep import START_S, Candidate, Crew, Gap, Limits
from tersa.targets.worker import Died, Facts, First, Order

QUICK = Effort(seconds=0.02, rounds=3, warmup_seconds=0.02)


class FakeWorker:
    """A network whose calls cost a millisecond an image, and that ends where its name says."""

    started: list[Order] = []  # noqa: RUF012 - cleared by the fixture

    def __init__(self, order: Order) -> None:
        if order.model == "refused":
            raise TargetError("the runtime does not take it")
        if order.model == "huge":
            raise Died("limit 1 GB: loading it failed", "out of memory")
        FakeWorker.started.append(order)
        self.order = order
        self.batch = 0
        self.closed = False
        self.restarts = 0
        self.start_s = 2 * START_S if order.model == "compiled" else 0.1
        self.facts = Facts(
            *(order.model, order.target, order.precision, 1, "fake 1", "cpu", "fp32 2 of 2 layers"),
            *(3.0, 1000, 500),
        )

    def first(self, images: Pixels, patience: float | None = None) -> First:
        self.batch = len(images)
        if self.order.model == "small" and self.batch > 2:
            raise Died("limit 1 GB: more was in use", "out of memory")
        logits = np.full((self.batch, 3), 0.5 if self.order.model == "wrong" else 0.0, np.float32)
        return First(7.0, logits, 2000 * self.batch)

    def warm_up(self, effort: Effort) -> tuple[int, float]:
        if self.order.model == "falls" and self.batch == 2:
            raise Died("its process ended with code -11")
        return 1, self.round(1)

    def round(self, calls: int) -> float:
        return self.batch * (2.0 if self.order.model == "slow" else 1.0)

    def answer(self, images: Pixels) -> Pixels:
        return np.zeros((len(images), 3), np.float32)

    def keep_running(self, seconds: float) -> int:
        return 10

    def restart(self) -> None:
        if self.order.model == "once":
            raise Died("it could not be started again: the file is gone")
        self.restarts += 1

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def crew(artefact: Artefact, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Crew]:
    """A crew of fake processes on ONNX Runtime's name."""
    FakeWorker.started.clear()
    monkeypatch.setattr(sweep, "Worker", FakeWorker)
    monkeypatch.setattr(sweep.energy, "counters", lambda _device: None)

    def make(*models: str, limits: Limits | None = None, batch: int | None = None) -> Crew:
        made = [
            Candidate(
                model=model,
                precision="fp32",
                artefact=artefact,
                images=lambda n: np.zeros((n, 1, 8, 8), np.float32),
                reference=lambda pixels: np.zeros((len(pixels), 3), np.float32),
                batch=batch,
            )
            for model in models
        ]
        return Crew("onnxruntime", parse("onnxruntime"), made, limits or Limits())

    return make


def test_each_is_compared_with_the_first(crew: Callable[..., Crew]) -> None:
    with crew("plain", "slow") as found:
        cell = found.at(4, QUICK)
    assert [(row.model, row.latency_ms.median, row.images_per_s) for row in cell.rows] == [
        ("plain", 4.0, 1000.0),
        ("slow", 8.0, 500.0),
    ]
    row = cell.rows[0]
    assert (row.load_ms, row.first_ms, row.added_bytes, row.size_bytes) == (3.0, 7.0, 8000, 500)
    assert (row.energy, row.executed) == (None, "fp32 2 of 2 layers")
    [pair] = cell.comparisons
    assert (pair.verdict, pair.speedup) == ("slower", 0.5)
    assert (cell.across, cell.gaps) == ([], [])


def test_networks_are_started_again_unless_that_takes_long(crew: Callable[..., Crew]) -> None:
    effort = replace(QUICK, starts=4)
    with crew("plain", "slow") as found:
        cell = found.at(4, effort)
        assert [lane.runner.restarts for lane in found.lanes] == [3, 3]  # type: ignore[union-attr]
    assert cell.comparisons[0].verdict == "slower"
    with crew("plain", "compiled") as found:
        assert len(found.at(4, effort).rows) == 2
        assert [lane.runner.restarts for lane in found.lanes] == [0, 0]  # type: ignore[union-attr]


def test_a_network_that_cannot_start_again_leaves_the_others(crew: Callable[..., Crew]) -> None:
    with crew("plain", "once") as found:
        cell = found.at(4, replace(QUICK, starts=4))
    assert [row.model for row in cell.rows] == ["plain"]
    assert "could not be started again" in cell.gaps[0].text


def test_what_cannot_be_loaded_is_a_gap_and_the_others_go_on(crew: Callable[..., Crew]) -> None:
    with crew("refused", "huge", "plain") as found:
        cell = found.at(1, QUICK)
        assert [(gap.model, gap.kind) for gap in found.gaps] == [
            ("refused", "not offered"),
            ("huge", "out of memory"),
        ]
    assert [row.model for row in cell.rows] == ["plain"]


def test_memory_ends_for_one_and_not_for_the_other(crew: Callable[..., Crew]) -> None:
    with crew("small", "plain") as found:
        assert len(found.at(2, QUICK).rows) == 2
        cell = found.at(4, QUICK)
        assert [row.model for row in cell.rows] == ["plain"]
        assert cell.comparisons == []  # the first model is gone
        assert [(gap.model, gap.batch, gap.kind) for gap in cell.gaps] == [("small", 4, "out of memory")]
        assert cell.gaps[0].text == "out of memory at batch 4: limit 1 GB: more was in use"
        assert len(found.at(8, QUICK).rows) == 1


def test_images_that_alone_are_too_large_are_not_even_made(crew: Callable[..., Crew]) -> None:
    with crew("plain", limits=Limits(memory=10_000)) as found:
        assert found.at(32, QUICK).rows
        [gap] = found.at(64, QUICK).gaps
    assert (gap.kind, "the images alone take" in gap.reason) == ("out of memory", True)


def test_wrong_outputs_are_not_timed(crew: Callable[..., Crew]) -> None:
    with crew("plain", "wrong") as found:
        cell = found.at(1, QUICK)
    assert [row.model for row in cell.rows] == ["plain"]
    assert cell.gaps[0].kind == "wrong outputs"
    assert "logits differ by 0.5 (allowed 0.001)" in cell.gaps[0].reason


def test_a_process_that_ends_inside_the_rounds(crew: Callable[..., Crew]) -> None:
    with crew("plain", "falls", "slow") as found:
        cell = found.at(2, QUICK)
        assert [row.model for row in cell.rows] == ["plain", "slow"]
        assert [(gap.model, gap.kind) for gap in cell.gaps] == [("falls", "failed")]
        assert len(cell.comparisons) == 1


def test_the_time_limit_ends_the_raising_and_keeps_the_row(crew: Callable[..., Crew]) -> None:
    with crew("plain", "slow", limits=Limits(call_s=0.0035)) as found:
        cell = found.at(2, QUICK)
        assert len(cell.rows) == 2
        assert [(gap.model, gap.batch, gap.kind) for gap in cell.gaps] == [("slow", 4, "over the time limit")]
        assert [row.model for row in found.at(4, QUICK).rows] == ["plain"]
        assert found.at(8, QUICK).rows == []


def test_the_anchor_is_timed_beside_another_target(crew: Callable[..., Crew]) -> None:
    with crew("plain") as first, crew("slow", "plain") as second:
        cell = second.at(4, QUICK, anchor=first.lanes[0])
    assert [pair.speedup for pair in cell.across] == [0.5, 1.0]
    assert [pair.speedup for pair in cell.comparisons] == [2.0]
    assert len(cell.rows) == 2


def test_power_that_is_stated_gives_estimated_energy(crew: Callable[..., Crew]) -> None:
    with crew("plain") as found:
        [row] = found.at(2, QUICK, watts=10.0).rows
    assert row.energy is not None
    assert (row.energy.source, row.energy.joules_per_image) == ("estimated", pytest.approx(0.01))


def test_files_of_one_batch_size(crew: Callable[..., Crew]) -> None:
    with crew("plain", batch=2) as found:
        gap = found.at(1, QUICK).gaps[0]
        assert (gap.kind, gap.reason) == ("not offered", "the file takes batches of 2 only")
        assert len(found.at(2, QUICK).rows) == 1


def test_those_that_ended_in_an_earlier_run_do_not_come_back(crew: Callable[..., Crew]) -> None:
    with crew("plain", "slow") as found:
        told = {"model": "slow", "target": found.target, "precision": "fp32", "batch": 8}
        found.leave([Gap(**told, reason="x"), Gap(**{**told, "model": "plain"}, reason="x")])
        assert len(found.lanes) == 2
        found.leave([Gap(**told, kind="out of memory", reason="x")])
        assert [lane.candidate.model for lane in found.lanes] == ["plain"]


def test_processes_are_ended(crew: Callable[..., Crew]) -> None:
    with crew("plain", "slow") as found:
        runners = [lane.runner for lane in found.lanes]
        found.lose(found.lanes[0], Died("gone"))
    assert all(runner.closed for runner in runners)  # pyright: ignore[reportAttributeAccessIssue] - fakes


def test_a_real_target(artefact: Artefact) -> None:
    assert artefact.module is not None
    module = artefact.module
    candidate = Candidate(
        model="net",
        precision="fp32",
        artefact=replace(artefact),
        images=lambda n: np.random.default_rng(0).random((n, 1, 8, 8), dtype=np.float32),
        reference=lambda pixels: module_logits(module, pixels),
    )
    with Crew("onnxruntime", parse("onnxruntime"), [candidate], Limits(memory=4 * 10**9)) as found:
        [row] = found.at(2, QUICK).rows
    assert row.latency_ms.median > 0
    assert row.images_per_s == pytest.approx(2000.0 / row.latency_ms.median)
    assert row.executed == "fp32 2 of 2 layers"
