"""What `--dry-run` promises: steps of a schedule are counted, those of an open descent follow its pace."""

from __future__ import annotations

import pytest

from tersa.errors import UsageError
from tersa.prune.schedules import SCHEDULES
from tersa.recipes.goals import Bound, Goals
from tersa.recipes.plan import LEAST_COST, Plan, cost, pace, plan
from tersa.recipes.pruning import Protocol
from tersa.recipes.request import ShrinkSpec
from tersa.recipes.setting import Setting

LENET = "lenet:4-6-8"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"protocol": {"criterion": "bn-scale"}}, "needs a batch norm"),
        ({"protocol": {"keep": "convv1"}}, "unknown layer to keep 'convv1'"),
        (
            {"protocol": {"schedule": "cubic", "amount": 0.95}},
            "at most 15 can go, since one of each layer stays",
        ),
    ],
)
def test_what_the_run_would_refuse_is_refused(asked: dict[str, object], words: str) -> None:
    spec = ShrinkSpec.model_validate({"verb": "prune", "data": "digits", "model": LENET, **asked})
    with pytest.raises(UsageError, match=words):
        plan(spec, Setting(threads=1))


def protocol(**changes: object) -> Protocol:
    return Protocol.model_validate({"retrain": 10, "tune": 20, **changes})


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_has_the_steps_it_was_given(name: str) -> None:
    shares = pace(protocol(schedule=name, amount=0.9, steps=7), 100, None)
    assert len(shares) == 7
    assert shares[-1] == pytest.approx(0.1)
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize(
    ("step", "bound", "steps"),
    [
        ("1", 0.5, 50),
        ("2%", 0.5, 25),
        ("50%left", 0.2, 3),  # 50, 25, 12
        ("10", None, 10),  # to one channel: 2 % of 100 is fewer than one step removes
        ("1", 0.0, 99),  # one channel stays
    ],
)
def test_an_open_descent_goes_down_to_its_bound(step: str, bound: float | None, steps: int) -> None:
    assert len(pace(protocol(step=step), 100, bound)) == steps


def test_a_pattern_is_one_step_and_zeros_save_no_time() -> None:
    assert pace(protocol(granularity="2:4", criterion="l1"), 100, None) == [0.5]
    assert cost(0.5, protocol(granularity="2:4", criterion="l1")) == 1.0
    assert cost(0.5, protocol()) == 0.25
    assert cost(0.01, protocol()) == LEAST_COST


def planned(**changes: object) -> Plan:
    spec = {"verb": "prune", "model": LENET, "epochs": 1, "precision": "fp32", **changes}
    return plan(ShrinkSpec.model_validate(spec), Setting(threads=1))


def words(found: Plan) -> dict[str, str]:
    return {step.name: step.what for step in found.steps}


def test_the_plan_names_what_is_asked_and_nothing_else() -> None:
    how = {"schedule": "cubic", "amount": 0.8, "steps": 7, "retrain": 1, "tune": 2, "teacher_weight": 0.0}
    found = words(planned(goals=Goals(), protocol=how, scratch=True, cluster=4))
    assert list(found) == ["baseline", "prune", "tune", "from scratch", "cluster", "test and measure"]
    assert found["prune"] == "7 steps: score, remove 80 % of the channels in all, retrain 1 iteration"
    assert found["tune"].startswith("1 fine-tune of 2 iterations")


def test_bounds_shorten_the_way() -> None:
    """18 channels, one a step: a quarter of the parameters is half of the channels."""
    how = {"step": "1", "retrain": 1, "tune": 2}
    asked = Goals(parameters=Bound(value=0.25, relative=True))
    assert words(planned(goals=asked, protocol=how))["prune"].startswith(
        "about 9 steps: score, remove 1 channel,"
    )
    assert words(planned(protocol=how))["prune"].startswith("about 17 steps")


def test_lighter_modules_and_a_teacher_cost_time() -> None:
    found = planned(light="separable@conv2", protocol={"step": "9", "retrain": 1, "tune": 2})
    names = [step.name for step in found.steps]
    assert names == ["baseline", "ask the baseline", "separable@conv2", "prune", "tune", "test and measure"]
    assert found.seconds == sum(step.seconds for step in found.steps)
    assert all(step.seconds > 0 for step in found.steps)
