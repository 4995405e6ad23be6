"""`tersa adapt` as a user runs it: a newcomer's command, exit codes, one line for every fault."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from tersa.cli.main import execute
from tersa.recipes import adapt_energy, outcome

NET = ["--data", "digits", "--model", "mlp:24x16", "--epochs", "2", "--threads", "1"]
LITTLE = ["--tune", "10", "--finetune-steps", "3", "--measure-seconds", "0.02"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def work(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Bundled data only, a working folder of its own, one cache, the goal's own target alone at the end."""
    monkeypatch.setenv("TERSA_CACHE", str(home / "cache"))
    monkeypatch.delenv("TERSA_DATA", raising=False)
    monkeypatch.setattr(outcome, "installed", list)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_adapt_then_look_then_export_a_step(capsys: pytest.CaptureFixture[str], work: Path) -> None:
    """The keys of the design, on one line; then other verbs understand the folder."""
    assert execute(["adapt", *NET, *LITTLE, "--macs", "0.5x", "--front", "2", "--out", "run", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    found = json.loads(captured.out)
    assert found["verb"] == "adapt"
    for side in ("baseline", "result"):
        assert set(found[side]) >= {"test_accuracy", "parameters", "macs", "size_bytes", "latency_ms"}
        assert set(found[side]["latency_ms"]) == {"median", "p10", "p90"}
    assert {"compression", "acceleration", "size_ratio", "speedup", "goals", "seconds"} <= set(found)
    assert [Path(name).is_file() for name in found["artefacts"]] == [True] * len(found["artefacts"])
    assert Path(found["report"]).is_file()
    assert [point["step"] for point in found["adaptation"]["front"]] == [0, 1, 2]
    assert (found["protocol"]["update"], found["protocol"]["tune"]) == ("nesterov", 10), (
        "as tersa prune has it"
    )
    assert execute(["runs", "show", "run"]) == 0
    assert execute(["export", "--run", "run", "--at", "1", "--out", "one.onnx"]) == 0
    assert Path("one.onnx").stat().st_size > found["result"]["size_bytes"]
    capsys.readouterr()
    assert execute(["adapt", *NET, *LITTLE, "--macs", "0.5x", "--front", "2", "--out", "run"]) == 2
    assert "--resume goes on with it" in capsys.readouterr().err


def test_a_plan_does_nothing(capsys: pytest.CaptureFixture[str], work: Path, home: Path) -> None:
    words = [*NET, "--latency", "0.5x", "--search", "netadapt", "--dry-run", "--json"]
    assert execute(["adapt", *words]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [step["name"] for step in plan["steps"]] == [
        *("baseline", "latency table", "netadapt", "tune", "test and measure")
    ]
    assert plan["layers"] == 0
    assert plan["missing"] > 20
    assert list(work.iterdir()) == []
    assert not (home / "cache" / "latency.db").exists()


def test_a_plan_without_latency_has_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["adapt", *NET, "--macs", "0.5x", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [step["name"] for step in plan["steps"]] == ["baseline", "solve", "tune", "test and measure"]
    assert plan["missing"] == 0
    assert "measurements" not in plan["steps"][1]["what"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to adapt to: give --latency"),
        (["--latency", "fast"], "--latency 'fast' is not understood"),
        (["--energy", "2kWh"], "write a share of the baseline (0.5x) or 2mJ, 500uJ or 0.1J"),
        (["--latency", "0.5x", "--score", "synflo"], "did you mean 'synflow'"),
        (["--latency", "0.5x", "--delta", "7"], "delta is 7"),
        (["--latency", "0.5x", "--target", "tensorflow"], "unknown target 'tensorflow'"),
        (["--latency", "0.5x", "--front", "5", "--search", "netadapt"], "needs --search budget"),
        (["--latency", "0.5x", "--criterion", "l7"], "unknown criterion 'l7'"),
        (["--macs", "0.5x", "--keep", "nothing*"], "unknown layer to keep"),
        (["--macs", "0.5x", "--finetune-steps", "7"], "--finetune-steps 7: no effect"),
        (["--macs", "0.5x", "--workers", "2", "--dry-run"], "--workers 2: no effect"),
        (["--macs", "0.5x", "--fresh-table", "--dry-run"], "--fresh-table: no effect"),
    ],
)
def test_faults_are_one_line_and_leave_nothing(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], work: Path
) -> None:
    assert execute(["adapt", *NET, *words]) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert said in lines[0]
    assert captured.out == ""
    assert list(work.iterdir()) == []


def test_energy_without_counters_is_refused_before_any_work(
    capsys: pytest.CaptureFixture[str], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapt_energy, "counters", lambda _: None)
    for more in ([], ["--dry-run"]):
        assert execute(["adapt", *NET, "--energy", "0.5x", *more]) == 1
        captured = capsys.readouterr()
        errors = [line for line in captured.err.splitlines() if line.startswith("error:")]
        assert len(errors) == 1
        assert "this machine has no energy counter that can be read" in errors[0]
        assert list(work.iterdir()) == []


def test_a_damaged_table_is_refused_before_any_work(capsys: pytest.CaptureFixture[str], work: Path) -> None:
    (work / "bad.db").write_bytes(b"no table " * 100)
    assert execute(["adapt", *NET, "--latency", "0.5x", "--table", "bad.db", "--out", "run"]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert errors == ["error: bad.db is not a latency table (file is not a database); give another --table"]
    assert [path.name for path in work.iterdir()] == ["bad.db"]


def test_a_table_from_elsewhere_is_refused(capsys: pytest.CaptureFixture[str], work: Path) -> None:
    from tersa.adapt.table import Machine, Point, TableFile

    with TableFile(work / "other.db") as file:
        board = Machine("m", "a board with one core", "other", "onnxruntime@threads=1")
        file.add(board, [Point("linear", 1, 1, 0.1, 9)])
    words = ["--latency", "0.5x", "--table", "other.db", "--out", "run"]
    assert execute(["adapt", *NET, *words]) == 2
    assert "was measured elsewhere (1 layers on a board with one core" in capsys.readouterr().err
    assert execute(["adapt", *NET, *words, "--resume"]) == 2, "a folder that is not there is no finished run"
    assert execute(["adapt", *NET, *words, "--allow-foreign"]) == 2
    assert "lacks" in capsys.readouterr().err
    assert [path.name for path in work.iterdir()] == ["other.db"], "refused before the baseline was trained"
    assert execute(["adapt", *NET, *words, "--dry-run"]) == 2, "the plan says so, too"
    assert "was measured elsewhere" in capsys.readouterr().err
    assert execute(["adapt", *NET, *words, "--allow-foreign", "--fresh-table", "--dry-run"]) == 2
    assert "--fresh-table measures here" in capsys.readouterr().err


def test_a_plan_counts_the_layers_that_are_measured_again(
    capsys: pytest.CaptureFixture[str], work: Path
) -> None:
    from tersa.adapt.measuring import wanted
    from tersa.adapt.signature import layers_of
    from tersa.adapt.table import Point, TableFile, machine_of
    from tersa.models.zoo import build
    from tersa.prune.groups import find_groups
    from tersa.targets.base import Session

    model = build("mlp:24x16", (1, 8, 8), 10)
    layers = wanted(layers_of(model, (1, 8, 8), find_groups(model, (1, 8, 8))))
    there = Session("m", "onnxruntime@threads=1", "fp32", 1, f"onnxruntime {version('onnxruntime')}", abs)
    with TableFile(work / "t.db") as file:
        points = [Point(each.family.key(), each.inputs, each.outputs, 0.1, 9) for each in layers]
        file.add(machine_of(there), points)
    words = ["--latency", "0.5x", "--table", "t.db", "--dry-run", "--json"]
    counts = list[tuple[int, int]]()
    for more in ([], ["--fresh-table"]):
        assert execute(["adapt", *NET, *words, *more]) == 0
        plan = json.loads(capsys.readouterr().out)
        counts.append((plan["layers"], plan["missing"]))
    assert counts == [(len(layers), 0), (0, len(layers))]
