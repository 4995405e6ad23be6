"""`tersa report`: the page again, from the stored result and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from tests.recipes import adaptation_example, hardware_example
from tests.scripts import load_script
from typer.testing import CliRunner, Result

from tersa.cli import report as verb
from tersa.errors import DataError, UsageError
from tersa.recipes.learn import cell_of, run_learning
from tersa.recipes.train import run_training
from tersa.recipes.train_request import TrainRequest
from tersa.records.base import write_record


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run with the invented result of the report's tests."""
    module = load_script("tests/report/example.py")
    folder = tmp_path / "demo"
    folder.mkdir()
    write_record(folder / "result.json", module.example())
    return folder


def invoke(*arguments: str) -> Result:
    app = typer.Typer(rich_markup_mode=None)
    app.command(epilog=verb.EPILOG)(verb.report)
    return CliRunner().invoke(app, list(arguments))


def test_the_page_is_written_again(run: Path) -> None:
    result = invoke(str(run))
    assert result.exit_code == 0
    assert "312 times smaller" in result.stdout
    first = (run / "report.html").read_text(encoding="utf-8")
    assert first.startswith("<!doctype html>")
    (run / "report.html").write_text("old")
    invoke("demo", "--root", str(run.parent))
    assert (run / "report.html").read_text(encoding="utf-8") == first


def test_json(run: Path) -> None:
    result = invoke(str(run), "--json")
    found = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1
    assert found["report"] == str(run / "report.html")
    assert Path(found["report"]).is_file()
    assert {"artefacts", "seconds"} <= set(found)


def test_a_trained_network(tmp_path: Path) -> None:
    made = run_training(TrainRequest(model="mlp:8", settings={"epochs": 2, "pad": 1}), tmp_path / "net")
    page = tmp_path / "net" / "report.html"
    first = page.read_text(encoding="utf-8")
    page.unlink()
    done = invoke(str(tmp_path / "net"))
    assert done.exit_code == 0
    assert f"{made.test_accuracy:.2f} % of 360 test images are named rightly" in done.stdout
    assert page.read_text(encoding="utf-8") == first
    page.unlink()
    (tmp_path / "net" / "portrait.json").unlink()
    assert "make it again with --overwrite" in str(invoke(str(tmp_path / "net")).exception)
    assert not page.exists()


def test_a_run_under_a_learning_rule(tmp_path: Path) -> None:
    """Its result is of another kind than that of a training without a rule, under the same verb."""
    made = run_learning(
        cell_of({"data": "digits", "model": "mlp:8", "epochs": 2, "rule": "fa"}), tmp_path / "net"
    )
    page = tmp_path / "net" / made.report
    first = page.read_text(encoding="utf-8")
    assert f"{made.test_accuracy:.2f}" in first
    assert "Six or seven bits" not in first, "one run decides nothing"
    page.unlink()
    done = invoke(str(tmp_path / "net"))
    assert done.exit_code == 0, done.exception
    assert f"Feedback alignment reaches {made.test_accuracy:.1f} %" in done.stdout
    assert page.read_text(encoding="utf-8") == first
    stored = json.loads((tmp_path / "net" / "result.json").read_text())
    del stored["report"]  # as an older tersa left it
    (tmp_path / "net" / "result.json").write_text(json.dumps(stored))
    assert invoke(str(tmp_path / "net")).exit_code == 0
    (tmp_path / "net" / "result.json").write_text("{")
    assert isinstance(invoke(str(tmp_path / "net")).exception, DataError)


def test_every_page_of_measurements_is_written_again(tmp_path: Path) -> None:
    for example in (adaptation_example, hardware_example):
        folder = tmp_path / example.__name__
        folder.mkdir()
        write_record(folder / "result.json", example.result())
        done = invoke(str(folder))
        assert done.exit_code == 0, done.exception
        assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_what_cannot_be_shown_is_said(run: Path, tmp_path: Path) -> None:
    assert isinstance(invoke(str(tmp_path / "none")).exception, UsageError)
    (run / "result.json").write_text('{"verb": "export"}')
    assert "made by 'tersa export'" in str(invoke(str(run)).exception)
    (run / "result.json").write_text('{"verb": "bench"}')
    assert isinstance(invoke(str(run)).exception, DataError)
    (run / "result.json").write_text('{"verb": "train"}')
    assert isinstance(invoke(str(run)).exception, DataError)
    (run / "result.json").write_text("{")
    assert isinstance(invoke(str(run)).exception, DataError)
    assert not (run / "report.html").exists()


def test_it_starts_without_torch() -> None:
    code = (
        "import sys, tersa.report.page, tersa.recipes.runs, tersa.recipes.pages;"
        "import tersa.cli.report, tersa.cli.runs, tersa.cli.compare;"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_help_has_an_example() -> None:
    assert "Example: tersa report runs/demo" in invoke("--help").stdout
