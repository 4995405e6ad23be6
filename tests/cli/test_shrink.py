"""`tersa shrink` as a user runs it: words, exit codes, and JSON that scripts can rely on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tersa.cli.main import execute

WORDS = "--data digits --model lenet:4-8-16 --epochs 4 --retrain 5 --tune 30 --share 0.3"
QUICK = f"{WORDS} --criterion-samples 100 --threads 1 --measure-seconds 0.05".split()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def work(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No data but the bundled ones, a working folder of its own, one cache of baselines for all tests."""
    monkeypatch.setenv("TERSA_CACHE", str(home / "cache"))
    monkeypatch.delenv("TERSA_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_json_has_the_keys_of_the_design(capsys: pytest.CaptureFixture[str], work: Path) -> None:
    assert execute(["shrink", *QUICK, "--max-loss", "60", "--out", "run", "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    found = json.loads(out)
    for side in ("baseline", "result"):
        assert {"test_accuracy", "parameters", "macs", "size_bytes", "latency_ms"} <= found[side].keys()
        assert {"median", "p10", "p90"} == found[side]["latency_ms"].keys()
    assert {"compression", "acceleration", "size_ratio", "speedup", "goals", "seconds"} <= found.keys()
    assert [set(goal) >= {"name", "asked", "reached", "met"} for goal in found["goals"]] == [True]
    assert all(Path(path).is_file() for path in [*found["artefacts"], found["report"]])
    assert Path(found["artefacts"][0]) == Path("run/model.onnx")
    assert found["command"].startswith("tersa")

    assert execute(["runs", "show", "run", "--root", ".", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == found["verdict"]
    assert execute(["compare", "run", "run", "--json"]) == 0
    capsys.readouterr()
    assert execute(["report", "run"]) == 0
    capsys.readouterr()
    assert execute(["bench", "--run", "run", "--targets", "onnxruntime", "--seconds", "0.05", "--json"]) == 0
    assert "measurements" in json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_tables_tell_the_same_story(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["shrink", *QUICK, "--max-loss", "60", "--out", "run"]) == 0
    out = capsys.readouterr().out
    for words in (
        "smaller",
        "Accuracy",
        "Parameters",
        "MACs",
        "Goals",
        "met",
        "ONNX Runtime",
        "run/report.html",
    ):
        assert words in out


@pytest.mark.slow
def test_missed_goal_is_exit_code_3_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["shrink", *QUICK, "--max-loss", "0", "--size", "600", "--out", "run"]) == 3
    out = capsys.readouterr().out
    assert "Goal missed" in out
    assert "at most 600 B" in out
    assert Path("run/model.onnx").is_file()


def test_existing_folder_is_refused(capsys: pytest.CaptureFixture[str], work: Path) -> None:
    (work / "run").mkdir()
    (work / "run" / "notes.txt").write_text("mine")
    assert execute(["shrink", *QUICK, "--out", "run", "--overwrite"]) == 2
    assert "not a folder that tersa made" in capsys.readouterr().err
    assert (work / "run" / "notes.txt").read_text() == "mine"


def test_dry_run_does_nothing_but_the_sum(capsys: pytest.CaptureFixture[str], work: Path) -> None:
    assert execute(["shrink", *QUICK, "--out", "run", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    names = [step["name"] for step in plan["steps"]]
    assert names == ["baseline", "ask the baseline", "prune", "tune", "test and measure"]
    assert plan["seconds"] == pytest.approx(sum(step["seconds"] for step in plan["steps"]))
    assert plan["memory_bytes"] > 10**8
    assert not (work / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "small"], "--size 'small' is not understood; write a share"),
        (["--latency", "1.5x"], "asks for nothing smaller"),
        (["--model", "lenett"], "did you mean 'lenet'"),
        (["--model", "net.onnx"], "bench, export, predict only"),
        (["--target", "tensorflow"], "unknown target 'tensorflow'"),
        (["--data", "nowhere/at/all"], "nowhere/at/all"),
        (["--device", "tpu"], "known: auto, cpu, cuda"),
        (["--max-loss", "much"], "--max-loss"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["shrink", *QUICK, *words, "--out", "run"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert "Traceback" not in captured.err
