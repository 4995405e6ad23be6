"""The search on invented trajectories: which steps are tuned, and which one is shipped."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from tersa.numerics import PairedLoss
from tersa.recipes import deploy, search
from tersa.recipes.deploy import pick
from tersa.recipes.descent import pause
from tersa.recipes.goals import Bound, Goals, Standing, Start
from tersa.recipes.pruning import Protocol
from tersa.recipes.search import Search, Tuned
from tersa.records.results import Step

START = Start(accuracy=99.0, macs=1000, size_bytes=10_000, latency_ms=1.0)


def step(index: int, loss: float, within: bool | None = None) -> Step:
    return Step(
        index=index,
        stage="prune" if index else "baseline",
        what="",
        validation_accuracy=99.0 - loss,
        loss_points=loss,
        standard_error=0.0,
        parameters=1000 - index,
        macs=1000 - 10 * index,
        within=within,
        widths={},
        seconds=0.0,
    )


@dataclass
class Option:
    standing: Standing


@dataclass
class Way:
    steps: list[Step]

    def rows(self, table: str) -> list[Step]:
        return list(self.steps)


@dataclass
class Dock:
    start: Start = START


@dataclass
class FakeJob:
    """A descent on paper: step i loses `brief[i]` at first and `tuned[i]` after its fine-tune."""

    goals: Goals
    brief: list[float]
    tuned: list[float]
    within: list[bool] = field(default_factory=list)
    tuned_within: list[bool] = field(default_factory=list)
    ended: str | None = None
    asked: list[int] = field(default_factory=list)
    way: Way = field(default_factory=lambda: Way([]))
    dock: Dock = field(default_factory=Dock)
    protocol: Protocol = field(default_factory=lambda: Protocol(retrain=1, tune=1))

    @property
    def allowed_loss(self) -> float | None:
        return self.goals.allowed_loss(START.accuracy)

    def descend(self, until: int = 0) -> list[Step]:
        while True:
            made = len(self.way.steps)
            self.ended = (
                "empty" if made == len(self.brief) else (pause(self, self.way.steps) if made else None)
            )
            if self.ended == "empty" or (self.ended and made >= until):
                return list(self.way.steps)
            within = self.within[made] if self.within else None
            self.way.steps.append(step(made, self.brief[made], within))


def run(job: FakeJob, monkeypatch: pytest.MonkeyPatch) -> int:
    """Search the paper descent; `job.asked` lists the steps that were tuned."""
    monkeypatch.setattr(search, "descend_", lambda job, until=0: job.descend(until))
    found = Search(job)

    def of(index: int) -> Tuned:
        if index not in job.asked:
            job.asked.append(index)
        loss = PairedLoss(job.tuned[index], 0.0, 10**6)
        macs = 0 if job.tuned_within and job.tuned_within[index] else 1000
        standing = Standing(99.0 - job.tuned[index], loss, macs, 1, 1.0)
        return Tuned(step(index, job.tuned[index]), [Option(standing)])

    monkeypatch.setattr(found, "of", of)
    return found.find(job.descend())


FLOOR = Goals(max_loss=1.0)
BOUND = Bound(value=0.5, relative=True)


@pytest.mark.parametrize("last", range(12))
def test_the_smallest_that_passes_is_found(last: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the brief accuracies say, the last passing step is shipped, in few fine-tunes."""
    tuned = [0.0 if i <= last else 2.0 for i in range(12)]
    job = FakeJob(FLOOR, brief=[0.1 * i for i in range(12)], tuned=tuned)
    assert run(job, monkeypatch) == last
    assert len(job.asked) <= 7


def test_a_pause_too_early_is_gone_past(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brief losses look hopeless from step 2 on, but fine-tunes win them back until step 9."""
    brief = [0.0, 0.5, *[5.0] * 20]
    job = FakeJob(FLOOR, brief=brief, tuned=[0.1] * 10 + [3.0] * 12)
    assert run(job, monkeypatch) == 9
    assert len(job.way.steps) < len(brief)


def test_everything_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(FakeJob(FLOOR, brief=[0.0] * 5, tuned=[0.0] * 5), monkeypatch) == 4


def test_nothing_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    job = FakeJob(FLOOR, brief=[0.0, 0.5, 0.9, 1.5], tuned=[0.0, 2.0, 2.0, 2.0])
    assert run(job, monkeypatch) == 0


def test_floor_above_the_baseline_tries_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    job = FakeJob(Goals(min_accuracy=99.5), brief=[0.0] * 5, tuned=[0.0] * 5)
    assert run(job, monkeypatch) == 0
    assert job.asked == []


def test_resuming_ends_at_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed search left steps beyond the first pause: they must not change its guesses."""
    brief, tuned = [0.0, 0.2, 0.6, 4.0, 4.0, *[4.5] * 8], [0.1] * 7 + [3.0] * 6
    fresh = FakeJob(FLOOR, brief, tuned)
    found = run(fresh, monkeypatch)
    resumed = FakeJob(FLOOR, brief, tuned)
    resumed.descend(until=len(fresh.way.steps) - 1)
    assert run(resumed, monkeypatch) == found == 6
    assert resumed.asked == fresh.asked


def test_first_step_within_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    within = [False, False, True, True, True]
    job = FakeJob(Goals(macs=BOUND, max_loss=1.0), [0.0] * 5, [0.2] * 5, within, within)
    assert run(job, monkeypatch) == 2
    assert job.asked == [2]
    assert len(job.way.steps) == 3, "pruning stops at the bound"


def test_a_bound_that_the_files_miss_is_pursued(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick measurement saw steps 2 and 3 within the bound, their tuned files are not; step 4's are."""
    job = FakeJob(
        Goals(macs=BOUND, max_loss=1.0),
        [0.0] * 6,
        [0.2] * 6,
        within=[False, False, True, True, True, True],
        tuned_within=[False, False, False, False, True, True],
    )
    assert run(job, monkeypatch) == 4


def test_accuracy_is_kept_when_both_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    within = [False, False, False, True, True]
    job = FakeJob(Goals(macs=BOUND, max_loss=1.0), [0.0] * 5, [0.0, 0.1, 0.5, 2.0, 3.0], within, within)
    assert run(job, monkeypatch) == 2


def test_baseline_within_the_bounds_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    job = FakeJob(Goals(macs=BOUND), [0.0] * 3, [0.0] * 3, [True] * 3, [True] * 3)
    assert run(job, monkeypatch) == 0
    assert job.asked == []


def test_bounds_out_of_reach_without_a_floor_give_the_smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    job = FakeJob(Goals(macs=BOUND), [0.0, 1.0, 30.0], [0.0, 1.0, 30.0], [False] * 3, [False] * 3)
    assert run(job, monkeypatch) == 2


# --- which of the files of one network -------------------------------------------------------------------


@dataclass
class File:
    size_bytes: int


@dataclass
class Candidate:
    name: str
    standing: Standing
    artefact: File


def candidate(name: str, loss: float, size: int) -> Candidate:
    standing = Standing(99.0 - loss, PairedLoss(loss, 0.0, 10**6), 100, size, None)
    return Candidate(name, standing, File(size))


@pytest.mark.parametrize(
    ("exact", "integer", "verdict", "shipped", "words"),
    [
        ((0.1, 1000), (0.1, 300), "faster", "int8", ""),
        ((0.1, 1000), (0.1, 300), "no difference", "int8", ""),
        ((0.1, 1000), (0.1, 300), "slower", "fp32", "slower here"),
        ((0.1, 1000), (0.1, 1100), "faster", "fp32", "not smaller"),
        ((0.1, 1000), (2.0, 300), "faster", "fp32", "missed a goal"),
        ((2.0, 1000), (2.0, 300), "faster", "fp32", "missed a goal"),
        ((2.0, 1000), (0.5, 300), "slower", "int8", "slower than fp32"),
        ((2.0, 1000), (0.5, 300), "faster", "int8", "fp32 file missed a goal"),
    ],
)
def test_int8_is_kept_only_when_it_earns_it(
    exact: tuple[float, int],
    integer: tuple[float, int],
    verdict: str,
    shipped: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Raced:
        def __init__(self) -> None:
            self.verdict = verdict

    monkeypatch.setattr(deploy, "race", lambda *_, **__: Raced())
    options = [candidate("fp32", *exact), candidate("int8", *integer)]
    chosen, note = pick(options, FLOOR, Dock(), precision="auto")
    assert chosen.name == shipped
    assert words in note
    assert pick(options[1:], FLOOR, Dock(), precision="int8")[0].name == "int8"


def test_margin_never_falls_below_one_image() -> None:
    assert PairedLoss(0.0, 0.0, 12).pessimistic == pytest.approx(100 / 12)
    assert np.isclose(PairedLoss(0.1, 0.3, 5000).pessimistic, 0.4)
