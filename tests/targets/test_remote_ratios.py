"""The benchmark of ratios over ssh: what it calls its pairs is what it divides."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "remote_ratios.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("remote_ratios", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pairs_are_named_as_they_are_divided(script: ModuleType) -> None:
    names = [script.label(*pair) for pair in script.PAIRS]
    assert names == ["graph=disabled / graph=all", "lenet5 / mlp:100x100"]
    assert script.PAIRS[0] == (("lenet5", "disabled"), ("lenet5", "all"))
    with script.RESULTS.open(newline="") as file:
        assert {row["pair"] for row in csv.DictReader(file)} == set(names)
