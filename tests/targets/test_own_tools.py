"""The benchmark against the runtimes' own tools: what is subtracted is what was measured."""

from __future__ import annotations

import csv
from types import ModuleType

import pytest
from tests.scripts import load_script

from tersa.export.artefact import Artefact
from tersa.targets.registry import KINDS

openvino_here = pytest.mark.skipif(not KINDS["openvino"].version, reason="openvino is not installed")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("benchmarks/runtimes_own_tools.py")


def test_disturbed_turns_do_not_count(script: ModuleType) -> None:
    quiet = [script.Turn(ms, ms / 2, 0.1) for ms in (1.0, 2.0, 3.0, 4.0, 5.0)]
    busy = [script.Turn(90.0, 80.0, 9.0)] * 15
    assert script.Turn.typical([*busy, *quiet]) == script.Turn(3.0, 1.5, 0.1)
    assert script.Turn.typical(quiet[1:2]) == quiet[1]


def test_what_is_explained_is_the_committed_ratio_without_its_parts(script: ModuleType) -> None:
    with script.RESULTS.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["tool"] for row in rows} == {"benchmark_app", "python loop"}
    for row in rows:
        beside = sum(float(row[name]) for name in ("call_ms", "any_batch_ms", "one_core_ms"))
        assert (beside > 0) == (row["runtime"] == "openvino")
        found = (float(row["ours_ms"]) - beside) / float(row["theirs_ms"])
        assert found == pytest.approx(float(row["explained"]), rel=0.2), "medians of rounds and of ratios"
        near = min(abs(float(row[name]) - 1) for name in ("ratio", "explained"))
        assert row["agrees"] == str(near <= script.AGREE)


@pytest.mark.runtime
@openvino_here
def test_a_call_is_measured_in_parts(script: ModuleType, artefact: Artefact) -> None:
    found = script.parts(artefact, 0.05)
    assert 0 < found.call < found.call + found.handed
    assert found.ours == found.call + found.any_batch + found.one_core


@pytest.mark.slow
@pytest.mark.runtime
@openvino_here
def test_openvinos_own_tool_says_microseconds(script: ModuleType, artefact: Artefact) -> None:
    pytest.importorskip("openvino.tools.benchmark.main", exc_type=ImportError)
    assert 0 < script.benchmark_app(artefact, 1.0) < 10
