"""`tersa compare`: the same figures in the same words, against the first run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from tersa.cli import compare as verb
from tersa.errors import UsageError
from tersa.recipes.runs import compare_runs, differences, read_run


def write_run(root: Path, name: str, **fields: Any) -> Path:
    (root / name).mkdir(parents=True)
    (root / name / "result.json").write_text(json.dumps({"verb": "train", "status": "done", **fields}))
    return root / name


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_run(tmp_path, "big", test_accuracy=99.0, parameters=1000, macs=5000, size_bytes=8000)
    write_run(tmp_path, "small", test_accuracy=98.5, parameters=250, macs=5000, size_bytes=16000)
    write_run(tmp_path, "bare", test_accuracy=99.2)
    return tmp_path


def invoke(*arguments: str) -> Result:
    app = typer.Typer(rich_markup_mode=None)
    app.command(epilog=verb.EPILOG)(verb.compare)
    return CliRunner().invoke(app, list(arguments))


def test_rows_against_the_first_run(root: Path) -> None:
    rows = {row.label: row for row in compare_runs([read_run(root / "big"), read_run(root / "small")])}
    assert list(rows) == ["Accuracy", "Parameters", "MACs", "File"]
    assert rows["Accuracy"].against == ("", "−0.50 points")
    assert rows["Parameters"].against == ("", "4.0× fewer")
    assert rows["MACs"].against == ("", "the same")
    assert rows["File"].against == ("", "2.0× bigger")


def test_what_a_run_does_not_have_is_said(root: Path) -> None:
    rows = {row.label: row for row in compare_runs([read_run(root / "big"), read_run(root / "bare")])}
    assert rows["Accuracy"].against[1] == "+0.20 points"
    assert rows["Parameters"].values[1] == "not measured"
    assert rows["Parameters"].against[1] == ""
    assert "Latency" not in rows


def test_differences_for_scripts(root: Path) -> None:
    (row,) = differences([read_run(root / "big"), read_run(root / "small")])
    assert row == {
        "run": "small",
        "test_accuracy_points": -0.5,
        "parameters_ratio": 4.0,
        "macs_ratio": 1.0,
        "size_bytes_ratio": 0.5,
        "latency_ms_ratio": None,
    }


def test_a_run_of_nothing_does_not_divide_by_zero(root: Path) -> None:
    write_run(root, "empty", parameters=0)
    pair = [read_run(root / "empty"), read_run(root / "big")]
    assert differences(pair)[0]["parameters_ratio"] == 0.0
    assert differences(pair[::-1])[0]["parameters_ratio"] is None
    assert {row.label: row.against[1] for row in compare_runs(pair)}["Parameters"] == "more"


def test_table(root: Path) -> None:
    out = invoke("big", "small", "bare", "--root", str(root)).stdout
    assert "against big" in out
    assert "4.0× fewer" in out
    assert "+0.20 points" in out


def test_json(root: Path) -> None:
    result = invoke(str(root / "big"), str(root / "small"), "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert [row["name"] for row in found["runs"]] == ["big", "small"]
    assert found["differences"][0]["parameters_ratio"] == 4.0
    assert {"artefacts", "report", "seconds"} <= set(found)


def test_one_run_is_not_enough(root: Path) -> None:
    error = invoke("big", "--root", str(root)).exception
    assert isinstance(error, UsageError)
    assert "at least two runs" in str(error)


def test_an_unknown_run_is_named(root: Path) -> None:
    error = invoke("big", "smal", "--root", str(root)).exception
    assert isinstance(error, UsageError)
    assert "did you mean 'small'?" in str(error)


def test_help_has_an_example() -> None:
    assert "Example: tersa compare" in invoke("--help").stdout
