"""The benchmark of ratios over ssh: what it calls its pairs is what it divides."""

from __future__ import annotations

import csv
from types import ModuleType

import pytest
from tests.scripts import load_script


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("benchmarks/remote_ratios.py")


def test_pairs_are_named_as_they_are_divided(script: ModuleType) -> None:
    names = [script.label(*pair) for pair in script.PAIRS]
    assert names == ["graph=disabled / graph=all", "lenet5 / mlp:100x100"]
    assert script.PAIRS[0] == (("lenet5", "disabled"), ("lenet5", "all"))
    with script.RESULTS.open(newline="") as file:
        assert {row["pair"] for row in csv.DictReader(file)} == set(names)
