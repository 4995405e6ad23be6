"""NetAdapt stage by stage: the greedy way, two steps of it, and the sums over all of them."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from tests.adapt.machine import FakeClock, FakeTarget

from tersa.adapt.measuring import Stopwatch
from tersa.adapt.resource import Macs
from tersa.errors import UsageError
from tersa.recipes import adaptation_stages as recipe
from tersa.recipes.adaptation_result import REMEDIES, BlockTimes, Timed
from tersa.recipes.adaptation_stages import Measured, Subject, measured_table, narrowed, stages, walk

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject.of("lenet:16-32-128", SHAPE, 10, Macs())


def test_the_way_ends_at_the_budget_and_narrows_one_block_a_step(subject: Subject) -> None:
    way = walk(subject, delta=0.05, budget=0.5)
    costs = [subject.cost.at(widths) for widths in way]
    assert costs[0] == 1.0
    assert costs[-1] <= 0.5 < costs[-2]
    for before, after in itertools.pairwise(way):
        assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
        assert subject.cost.at(after) <= max(0.5, subject.cost.at(before) - 0.05) + 1e-12


def test_two_steps_are_measured_block_by_block(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "work_seconds", lambda *_: (0.01, 0.002, 0.5))
    said: list[str] = []
    asked = Measured(delta=0.05, iterations=100, builds=1)
    found = stages(subject, asked, network="lenet", folder=tmp_path, say=lambda _, text: said.append(text))
    assert found.steps == len(walk(subject, delta=0.05, budget=0.5)) - 1
    assert 0 < found.trained < found.steps
    assert found.measured == 2
    assert len(found.blocks) == 2 * 3 == len(said)
    for row in found.blocks:
        assert set(row.cuts) == {*REMEDIES, "ours"}
        assert row.finetune_s == pytest.approx(1.0)
        assert row.evaluate_s == pytest.approx(50_000 / 128 * 0.002)
        assert row.width is None or row.width < row.before
    assert any(row.width for row in found.blocks)


def test_seconds_of_work_are_of_the_network_that_is_left(subject: Subject) -> None:
    tune, evaluate, score = recipe.work_seconds(narrowed(subject, (2, 3, 4)), SHAPE, 10, 1)
    assert min(tune, evaluate, score) > 0
    left = narrowed(subject, (2, 3, 4))
    weights = [p for name, p in left.named_parameters() if name.endswith("weight")]
    assert [len(weight) for weight in weights[:3]] == [2, 3, 4]


def row(step: int, block: int, original_s: float, other_s: float) -> BlockTimes:
    return BlockTimes(
        step=step, block=block, name=f"b{block}", before=8, width=4, tries=5, bisect_tries=3, built=2,
        cuts={name: original_s if name == "original" else other_s for name in (*REMEDIES, "ours")},
        finetune_s=10.0, evaluate_s=2.0, score_s=0.5,
    )  # fmt: skip


def test_totals_are_the_mean_step_times_the_steps() -> None:
    rows = [row(0, 0, 4.0, 1.0), row(0, 1, 8.0, 1.0), row(1, 0, 2.0, 1.0), row(1, 1, 2.0, 1.0)]
    found = Timed(network="n", side=32, delta=0.1, steps=10, trained=3, iterations=5, blocks=rows)
    assert found.of_step("original") == 8.0
    assert found.total("original") == 10 * (8.0 + 20.0 + 4.0)
    assert found.total("bisection") == 10 * (2.0 + 20.0 + 4.0)
    assert found.hybrid() == 10 * (2.0 + 1.0) + 3 * 24.0
    assert found.of_block(1, "original") == 5.0
    assert found.of_block(1, "score_s") == 0.5


def test_a_way_without_steps_says_so(subject: Subject, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no block alone saves"):
        stages(subject, Measured(delta=0.1, budget=1.0), network="lenet", folder=tmp_path)


def test_layers_are_measured_where_the_file_lacks_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    whole = recipe.fill
    monkeypatch.setattr(recipe, "fill", lambda *a, **k: whole(*a, **k, gauge=Stopwatch(clock)))
    place = tmp_path / "t.db"
    table, first = measured_table("mlp:8", SHAPE, 10, FakeTarget(clock), place)
    assert first.measured > 5
    again, second = measured_table("mlp:8", SHAPE, 10, FakeTarget(clock), place)
    assert second.measured == 0
    one, two = (Subject.of("mlp:8", SHAPE, 10, each) for each in (table, again))
    assert one.cost.at((3,)) == two.cost.at((3,)) < 1.0
