"""Learning-rate schedules against their closed forms."""

from __future__ import annotations

import math

import pytest

from tersa.train.config import CHOICES, Extent, TrainConfig
from tersa.train.schedules import factor

LENGTH = Extent(per_epoch=10, iterations=40, epochs=4)


def curve(**settings: object) -> list[float]:
    config = TrainConfig.model_validate(settings)
    return [factor(config, i, LENGTH) for i in range(LENGTH.iterations)]


def test_constant() -> None:
    assert curve(schedule="constant") == [1.0] * 40


def test_cosine_is_half_a_cosine() -> None:
    wanted = [(1 + math.cos(math.pi * i / 40)) / 2 for i in range(40)]
    assert curve(schedule="cosine") == pytest.approx(wanted, abs=1e-15)


def test_one_cycle_climbs_in_a_line_and_falls_in_a_cosine_to_nearly_zero() -> None:
    values = curve(schedule="one-cycle")
    assert values[:10] == [(i + 1) / 11 for i in range(10)]
    assert values[10] == 1.0 == max(values)
    assert values[10:] == sorted(values[10:], reverse=True)
    assert 0 < values[-1] < 0.005


def test_step_drops_every_second_epoch() -> None:
    assert curve(schedule="step", step_epochs=2, gamma=0.5) == [1.0] * 20 + [0.5] * 20


def test_exponential_drops_after_each_epoch() -> None:
    assert curve(schedule="exponential", gamma=0.5)[::10] == [1.0, 0.5, 0.25, 0.125]


@pytest.mark.parametrize("schedule", CHOICES["schedule"])
def test_every_schedule_stays_above_zero_and_at_most_one(schedule: str) -> None:
    more = {"step_epochs": 1} if schedule == "step" else {}
    values = curve(schedule=schedule, warmup=0.3, **more)
    assert all(0 < value <= 1 for value in values)
    assert values[:12] == [(i + 1) / 13 for i in range(12)]


def test_a_run_of_one_update_learns() -> None:
    assert factor(TrainConfig(schedule="one-cycle"), 0, Extent(1, 1, 1)) > 0.5
