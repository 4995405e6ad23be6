"""The benchmark of scores: correlations of both sets and within steps, rows of other networks that stay."""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path
from types import ModuleType

import pytest
from tests.scripts import load_script

from tersa.recipes import outcome


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("benchmarks/proxy_correlation.py")


def point(script: ModuleType, kind: str, step: str, value: float, accuracy: float) -> dict[str, str]:
    scores = dict.fromkeys(script.NAMES, "1") | {"naswot": str(value), "zen": str(-value)}
    return {"set": kind, "step": step, **scores, "accuracy": str(accuracy)}


def test_correlations_of_sets_and_within_steps(script: ModuleType) -> None:
    """Scores fall from step to step as accuracy does; within steps they order candidates the other way."""
    points = [point(script, "random", "", value, value**2) for value in (1, 2, 3, 4)]
    for step, top in (("1", 90.0), ("2", 60.0), ("3", 30.0)):
        points += [point(script, "trajectory", step, top - more, top + more) for more in (0, 1, 2)]
    found = script.correlations(points)
    assert found["random"]["naswot"][0] == pytest.approx(1.0)
    assert found["random"]["zen"][0] == pytest.approx(-1.0)
    assert math.isnan(found["random"]["macs"][0]), "all alike"
    assert found["trajectory"]["naswot"][0] > 0.7
    assert found["step"]["naswot"] == pytest.approx((-1.0, -1.0, -1.0))
    low, high = found["trajectory"]["naswot"][1:]
    assert low <= found["trajectory"]["naswot"][0] <= high


@pytest.mark.slow
def test_points_and_correlations_of_other_networks_stay(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcome, "installed", list)
    asked = argparse.Namespace(
        data="digits", networks=3, steps=2, epochs=1, validation=100, delta=0.3, budget=0.5, seed=0,
        out=tmp_path / "out", csv=tmp_path / "csv",
    )  # fmt: skip
    for name in ("lenet:4-6-12", "mlp:16x12", "lenet:4-6-12"):
        script.study(asked, name)
    with (tmp_path / "csv" / "proxy_correlation_points.csv").open(newline="") as file:
        points = list(csv.DictReader(file))
    assert [row["model"] for row in points if row["set"] == "random"] == ["mlp:16x12"] * 3 + [
        "lenet:4-6-12"
    ] * 3
    steps = [row for row in points if row["set"] == "trajectory"]
    assert {row["chosen"] for row in steps} == {"True", "False"}
    with (tmp_path / "csv" / "proxy_correlation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["model"] for row in rows} == {"lenet:4-6-12", "mlp:16x12"}
    assert {row["set"] for row in rows} >= {"random", "trajectory"}
