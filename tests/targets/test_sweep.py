"""A target over batch sizes: what leaves, why, and what is compared with what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from tersa.errors import TargetError
from tersa.export.artefact import Artefact
from tersa.export.check import module_logits
from tersa.targets import lanes, sweep
from tersa.targets.base import Effort, Pixels, RemoteTimes, Session
from tersa.targets.energy import Reading
from tersa.targets.lanes import COMPILING_S, Anchor, Candidate, Limits
from tersa.targets.registry import parse
from tersa.targets.sweep import START_S, Contest, Gap
from tersa.targets.worker import Died, Facts, First, Order

QUICK = Effort(seconds=0.02, rounds=3, warmup_seconds=0.02)


class FakeWorker:
    """A network whose calls cost a millisecond an image, and that ends where its name says."""

    started: list[Order] = []  # noqa: RUF012 - cleared by the fixture
    made: list[FakeWorker] = []  # noqa: RUF012 - as above
    gone = False

    def __init__(self, order: Order) -> None:
        if order.model == "refused":
            raise TargetError("the runtime does not take it")
        if FakeWorker.gone:
            raise TargetError("the file is gone")
        if order.model == "huge":
            raise Died("limit 1 GB: loading it failed", "out of memory")
        FakeWorker.started.append(order)
        FakeWorker.made.append(self)
        self.asked: list[tuple[int, float | None]] = []
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
        self.asked.append((self.batch, patience))
        if self.order.model == "small" and self.batch > 2:
            raise Died("limit 1 GB: more was in use", "out of memory")
        logits = np.full((self.batch, 3), 0.5 if self.order.model == "wrong" else 0.0, np.float32)
        return First(7.0, logits, 2000 * self.batch)

    def warm_up(self, effort: Effort) -> tuple[int, float]:
        assert not self.closed
        if self.order.model == "falls" and self.batch == 2:
            raise Died("its process ended with code -11")
        return 1, self.round(1)

    def round(self, calls: int) -> float:
        return self.batch * (2.0 if self.order.model == "slow" else 1.0)

    def answer(self, images: Pixels) -> Pixels:
        return np.zeros((len(images), 3), np.float32)

    def keep_running(self, seconds: float) -> int:
        if self.order.model == "tired":
            raise Died("its process ended with code -9")
        return 10

    def restart(self) -> None:
        if self.order.model == "once":
            raise Died("it could not be started again: the file is gone")
        self.restarts += 1
        self.closed = False

    def close(self) -> None:
        self.closed = True


def candidates(artefact: Artefact, models: Sequence[str], batch: int | None = None) -> list[Candidate]:
    """Networks of three classes that give zeros, by name."""
    return [
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


@pytest.fixture
def contest(artefact: Artefact, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Contest]:
    """A contest of fake processes on ONNX Runtime's name."""
    FakeWorker.started.clear()
    FakeWorker.made.clear()
    for module in (lanes, sweep):
        monkeypatch.setattr(module, "Worker", FakeWorker)
    monkeypatch.setattr(sweep.energy, "counters", lambda _device: None)

    def make(*models: str, limits: Limits | None = None, batch: int | None = None) -> Contest:
        made = candidates(artefact, models, batch)
        return Contest("onnxruntime", parse("onnxruntime"), made, limits or Limits())

    return make


def test_each_is_compared_with_the_first(contest: Callable[..., Contest]) -> None:
    with contest("plain", "slow") as found:
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


def test_nothing_stands_in_for_a_reference_that_cannot_be_loaded(contest: Callable[..., Contest]) -> None:
    with contest("refused", "plain", "slow") as found:
        cell = found.at(1, QUICK)
    assert [row.model for row in cell.rows] == ["plain", "slow"]
    assert cell.comparisons == []


def test_a_first_network_that_is_not_the_reference_leads_none(
    artefact: Artefact, contest: Callable[..., Contest]
) -> None:
    contest()  # its fakes
    made = candidates(artefact, ("plain", "slow"))
    with Contest("onnxruntime", parse("onnxruntime"), made, led=False) as found:
        assert found.at(1, QUICK).comparisons == []


@pytest.mark.parametrize(
    ("text", "patience"), [("onnxruntime", 10.0), ("torch", 10.0), ("torch-compile", 10.0 + COMPILING_S)]
)
def test_a_first_call_that_compiles_has_time_for_it(
    text: str, patience: float, artefact: Artefact, contest: Callable[..., Contest]
) -> None:
    contest()  # its fakes
    made = candidates(artefact, ("plain",))
    with Contest(text, parse(text), made, Limits(call_s=2.0)) as found:
        found.at(1, QUICK)
        Anchor(found.lanes[0], 1, found.limits).starts(1)
    assert FakeWorker.made[0].asked == [(1, patience)] * 2


def test_networks_are_started_again_unless_that_takes_long(contest: Callable[..., Contest]) -> None:
    effort = replace(QUICK, starts=4)
    with contest("plain", "slow") as found:
        cell = found.at(4, effort)
        assert [lane.runner.restarts for lane in found.lanes] == [3, 3]  # type: ignore[union-attr]
        assert [row.starts for row in cell.rows] == [4, 4]
    assert cell.comparisons[0].verdict == "slower"
    with contest("plain", "compiled") as found:
        assert [row.starts for row in found.at(4, effort).rows] == [1, 1]
        assert [lane.runner.restarts for lane in found.lanes] == [0, 0]  # type: ignore[union-attr]


@pytest.mark.parametrize("models", [("plain", "once"), ("once", "plain")])
def test_a_network_that_cannot_start_again_leaves_the_others(
    models: tuple[str, str], contest: Callable[..., Contest]
) -> None:
    with contest(*models) as found:  # the other one was ended, too, and is begun again
        cell = found.at(4, replace(QUICK, starts=4))
    assert [row.model for row in cell.rows] == ["plain"]
    assert "could not be started again" in cell.gaps[0].text


def test_what_cannot_be_loaded_is_a_gap_and_the_others_go_on(contest: Callable[..., Contest]) -> None:
    with contest("refused", "huge", "plain") as found:
        cell = found.at(1, QUICK)
        assert [(gap.model, gap.kind) for gap in found.gaps] == [
            ("refused", "not offered"),
            ("huge", "out of memory"),
        ]
    assert [row.model for row in cell.rows] == ["plain"]


def test_memory_ends_for_one_and_not_for_the_other(contest: Callable[..., Contest]) -> None:
    with contest("small", "plain") as found:
        assert len(found.at(2, QUICK).rows) == 2
        cell = found.at(4, QUICK)
        assert [row.model for row in cell.rows] == ["plain"]
        assert cell.comparisons == []  # the first model is gone
        assert [(gap.model, gap.batch, gap.kind) for gap in cell.gaps] == [("small", 4, "out of memory")]
        assert cell.gaps[0].text == "out of memory at batch 4: limit 1 GB: more was in use"
        assert len(found.at(8, QUICK).rows) == 1


def test_images_that_alone_are_too_large_are_not_even_made(contest: Callable[..., Contest]) -> None:
    with contest("plain", limits=Limits(memory=10_000)) as found:
        assert found.at(32, QUICK).rows
        [gap] = found.at(64, QUICK).gaps
    assert (gap.kind, "the images alone take" in gap.reason) == ("out of memory", True)


def test_wrong_outputs_are_not_timed(contest: Callable[..., Contest]) -> None:
    with contest("plain", "wrong") as found:
        cell = found.at(1, QUICK)
    assert [row.model for row in cell.rows] == ["plain"]
    assert cell.gaps[0].kind == "wrong outputs"
    assert "logits differ by 0.5 (allowed 0.001)" in cell.gaps[0].reason


def test_a_process_that_ends_inside_the_rounds(contest: Callable[..., Contest]) -> None:
    with contest("plain", "falls", "slow") as found:
        cell = found.at(2, QUICK)
        assert [row.model for row in cell.rows] == ["plain", "slow"]
        assert [(gap.model, gap.kind) for gap in cell.gaps] == [("falls", "failed")]
        assert len(cell.comparisons) == 1


def test_the_time_limit_ends_the_raising_and_keeps_the_row(contest: Callable[..., Contest]) -> None:
    with contest("plain", "slow", limits=Limits(call_s=0.0035)) as found:
        cell = found.at(2, QUICK)
        assert len(cell.rows) == 2
        assert [(gap.model, gap.batch, gap.kind) for gap in cell.gaps] == [("slow", 4, "over the time limit")]
        assert [row.model for row in found.at(4, QUICK).rows] == ["plain"]
        assert found.at(8, QUICK).rows == []


def test_the_anchor_is_timed_beside_another_target(contest: Callable[..., Contest]) -> None:
    with contest("plain") as first, contest("slow", "plain") as second:
        cell = second.at(4, QUICK, anchor=Anchor(first.lanes[0], 8))
    assert [pair.speedup for pair in cell.across] == [0.5, 1.0]
    assert [pair.speedup for pair in cell.comparisons] == [2.0]
    assert len(cell.rows) == 2


def test_an_anchor_whose_calls_take_too_long_takes_part_no_more(contest: Callable[..., Contest]) -> None:
    limits = Limits(call_s=0.0035)
    with contest("slow", limits=limits) as first, contest("plain") as second:
        anchor = Anchor(first.lanes[0], 1024, limits)
        found = [len(second.at(batch, QUICK, anchor).across) for batch in (1, 2, 4, 8)]
        assert found == [1, 1, 0, 0]
        assert FakeWorker.made[0].asked == [(1, limits.patience()), (2, limits.patience())]
        assert anchor.notes == []


def test_an_anchor_takes_part_as_far_as_on_its_own_target(contest: Callable[..., Contest]) -> None:
    with contest("plain") as first, contest("slow") as second:
        anchor = Anchor(first.lanes[0], 2)
        assert [len(second.at(batch, QUICK, anchor).across) for batch in (2, 4)] == [1, 0]


@pytest.mark.parametrize("name", ["falls", "once"])
def test_an_anchor_that_ends_inside_rounds_is_no_gap_of_the_other(
    contest: Callable[..., Contest], name: str
) -> None:
    effort = replace(QUICK, starts=2)
    with contest(name) as first, contest("plain") as second:
        anchor = Anchor(first.lanes[0], 8)
        cell = second.at(2, effort, anchor)
        assert len(second.lanes) == 1
    assert [row.model for row in cell.rows] == ["plain"]
    assert (cell.across, cell.gaps) == ([], [])
    assert "nothing is compared with it from batch 2 on" in anchor.notes[0]


def test_an_anchor_that_ended_is_started_again_for_smaller_batches(contest: Callable[..., Contest]) -> None:
    with contest("small") as first, contest("plain") as second, contest("plain") as third:
        anchor = Anchor(first.lanes[0], 8)
        runner = anchor.lane.runner
        assert [len(second.at(batch, QUICK, anchor).across) for batch in (1, 2, 4, 8)] == [1, 1, 0, 0]
        assert [len(third.at(batch, QUICK, anchor).across) for batch in (1, 2, 4)] == [1, 1, 0]
        assert anchor.lane.runner is not runner
        assert anchor.lane.runner.restarts == 0  # type: ignore[union-attr] - that would run batch 4 again
        [note] = anchor.notes
    assert note == (
        "small on onnxruntime in fp32 ended beside another target (limit 1 GB: more was in use): "
        "nothing is compared with it from batch 4 on"
    )


def test_an_anchor_that_cannot_be_started_again_is_told_of_once(
    contest: Callable[..., Contest], monkeypatch: pytest.MonkeyPatch
) -> None:
    with contest("small") as first, contest("plain") as second, contest("plain") as third:
        anchor = Anchor(first.lanes[0], 8)
        second.at(4, QUICK, anchor)
        monkeypatch.setattr(FakeWorker, "gone", True)
        cells = [third.at(batch, QUICK, anchor) for batch in (1, 2)]
    assert [(len(cell.rows), cell.across, cell.gaps) for cell in cells] == [(1, [], [])] * 2
    assert anchor.notes[1:] == [
        "small on onnxruntime in fp32 ended for good (it could not be started again: the file is gone): "
        "later targets are not compared with it any more"
    ]


class FakeMachine:
    """A target over ssh: networks that fail there, and a connection that may be cut in the rounds."""

    def __init__(self, cut: bool = False) -> None:
        self.cut = cut

    def describe(self) -> str:
        return "ssh://pi/onnxruntime@threads=1"

    def prepare(self, artefact: Artefact, model: str, precision: str | None = None) -> Session:
        def run(pixels: Pixels) -> Pixels:
            if model == "heavy":
                raise TargetError("ssh://pi: Unable to allocate 3 GiB")
            return np.zeros((len(pixels), 3), np.float32)

        def times(sessions: Sequence[Session], inputs: object, effort: Effort) -> list[RemoteTimes]:
            if self.cut:
                raise TargetError("the connection to ssh://pi was lost (timing)")
            return [RemoteTimes((1.0, 1.0, 1.0), 1, 1) for _ in sessions]

        named = (model, self.describe(), "fp32", 1, "fake 1", run)
        return Session(*named, device="ssh://pi", load_ms=1.0, elsewhere=times)


@pytest.fixture
def far(artefact: Artefact) -> Callable[..., Contest]:
    """A contest on another machine."""

    def make(*models: str, cut: bool = False) -> Contest:
        made = candidates(artefact, models)
        return Contest("ssh://pi/onnxruntime", FakeMachine(cut), made)  # type: ignore[arg-type] - a stand-in

    return make


def test_a_network_that_fails_on_another_machine_leaves_the_others(far: Callable[..., Contest]) -> None:
    with far("heavy", "plain") as found:
        heavy = found.lanes[0]
        cell = found.at(4, QUICK)
        assert [row.model for row in cell.rows] == ["plain"]
        [gap] = cell.gaps
        assert (gap.model, gap.text) == (
            "heavy",
            "failed at batch 4: ssh://pi: Unable to allocate 3 GiB",
        )
        assert [row.model for row in found.at(8, QUICK).rows] == ["plain"]
        with pytest.raises(Died, match="3 GiB"):
            found.answer(heavy, np.zeros((1, 1, 8, 8), np.float32))


def test_a_connection_that_is_cut_ends_all_networks_of_that_machine(far: Callable[..., Contest]) -> None:
    with far("plain", "other", cut=True) as found:
        cell = found.at(4, QUICK)
        assert (cell.rows, found.lanes) == ([], [])
    assert [(gap.model, gap.batch, gap.kind) for gap in cell.gaps] == [
        ("plain", 4, "failed"),
        ("other", 4, "failed"),
    ]


class FakeMeter:
    """A counter of energy that stands still."""

    ranges: ClassVar[dict[str, int]] = {"package-0": 0}

    def read(self) -> Reading:
        return Reading({"package-0": 0})


def test_a_process_that_ends_while_energy_is_read_keeps_its_times(
    contest: Callable[..., Contest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep.energy, "counters", lambda _device: FakeMeter())
    with contest("plain", "tired") as found:
        cell = found.at(4, QUICK, watts=10.0)
        assert [(row.model, row.energy is None) for row in cell.rows] == [("plain", False), ("tired", True)]
        assert [gap.text for gap in cell.gaps] == [
            "failed at batch 4: while its energy was read: its process ended with code -9"
        ]
        assert [lane.candidate.model for lane in found.lanes] == ["plain"]


def test_power_that_is_stated_gives_estimated_energy(contest: Callable[..., Contest]) -> None:
    with contest("plain") as found:
        [row] = found.at(2, QUICK, watts=10.0).rows
    assert row.energy is not None
    assert (row.energy.source, row.energy.joules_per_image) == ("estimated", pytest.approx(0.01))


def test_files_of_one_batch_size(contest: Callable[..., Contest]) -> None:
    with contest("plain", batch=2) as found:
        gap = found.at(1, QUICK).gaps[0]
        assert (gap.kind, gap.reason) == ("not offered", "the file takes batches of 2 only")
        assert len(found.at(2, QUICK).rows) == 1


def test_those_that_ended_in_an_earlier_run_do_not_come_back(contest: Callable[..., Contest]) -> None:
    with contest("plain", "slow") as found:
        told = {"model": "slow", "target": found.target, "precision": "fp32", "batch": 8}
        found.leave([Gap(**told, reason="x"), Gap(**{**told, "model": "plain"}, reason="x")])
        assert len(found.lanes) == 2
        found.leave([Gap(**told, kind="out of memory", reason="x")])
        assert [lane.candidate.model for lane in found.lanes] == ["plain"]


def test_processes_are_ended(contest: Callable[..., Contest]) -> None:
    with contest("plain", "slow") as found:
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
    with Contest("onnxruntime", parse("onnxruntime"), [candidate], Limits(memory=4 * 10**9)) as found:
        [row] = found.at(2, QUICK).rows
    assert row.latency_ms.median > 0
    assert row.images_per_s == pytest.approx(2000.0 / row.latency_ms.median)
    assert row.executed == "fp32 2 of 2 layers"
