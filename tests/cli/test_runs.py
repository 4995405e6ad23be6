"""`tersa runs`: what is here is listed, shown as the report tells it, and only runs are ever removed."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.scripts import load_script
from typer.testing import CliRunner, Result

from tersa.cli import runs as verb
from tersa.errors import DataError, TersaError, UsageError
from tersa.recipes import runs
from tersa.records.base import write_record
from tersa.records.results import ShrinkResult


def _example() -> ModuleType:
    """The invented result of the report's tests."""
    return load_script("tests/report/example.py")


EXAMPLE = _example()


def shrink_run(root: Path, name: str, **changed: Any) -> ShrinkResult:
    result: ShrinkResult = EXAMPLE.example(name=name, **changed)
    (root / name).mkdir(parents=True)
    (root / name / "spec.toml").write_text('verb = "shrink"\ndata = "mnist"\nmodel = "lenet"\n')
    write_record(root / name / "result.json", result)
    return result


def train_run(root: Path, name: str, **changed: Any) -> None:
    row = {
        "verb": "train",
        "test_accuracy": 98.5,
        "parameters": 1234,
        "macs": 5678,
        "seconds": 12.5,
        "status": "done",
    }
    (root / name).mkdir(parents=True)
    (root / name / "spec.toml").write_text('verb = "train"\ndata = "digits"\nmodel = "mlp:64"\n')
    (root / name / "result.json").write_text(json.dumps(row | changed))


def begun_run(root: Path, name: str) -> None:
    (root / name).mkdir(parents=True)
    (root / name / "spec.toml").write_text('verb = "shrink"\ndata = "digits"\n')


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two finished shrink runs, a training run, one that is not finished, and things that are no runs."""
    folder = tmp_path / "runs"
    shrink_run(folder, "alpha")
    shrink_run(folder, "missed", missed=True)
    train_run(folder, "net")
    begun_run(folder, "begun")
    (folder / "notes").mkdir()
    (folder / "file.txt").write_text("no run")
    return folder


def invoke(*arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(verb.app, list(arguments), **options)


def payload(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


def test_list_names_every_run_and_its_status(root: Path) -> None:
    result = invoke("list", "--root", str(root))
    assert result.exit_code == 0
    for name, status in (
        ("alpha", "done"),
        ("missed", "goal missed"),
        ("net", "done"),
        ("begun", "incomplete"),
    ):
        assert any(name in line and status in line for line in result.stdout.splitlines())
    assert "notes" not in result.stdout
    assert "98.50 %" in result.stdout


def test_list_as_json(root: Path) -> None:
    found = payload(invoke("list", "--root", str(root), "--json"))
    rows = {row["name"]: row for row in found["runs"]}
    assert list(rows) == ["alpha", "begun", "missed", "net"]
    assert rows["net"]["test_accuracy"] == 98.5
    assert rows["alpha"]["size_bytes"] == 13_800
    assert rows["alpha"]["date"] == "2026-11-22T10:00:00+00:00"
    assert rows["begun"]["parameters"] is None
    assert {"artefacts", "report", "seconds"} <= set(found)


def test_list_of_nothing_says_how_to_begin(tmp_path: Path) -> None:
    assert "tersa shrink --data digits" in invoke("list", "--root", str(tmp_path / "none")).stdout


def test_a_damaged_result_is_listed_as_such(root: Path) -> None:
    (root / "alpha" / "result.json").write_text('{"verb": "shri')
    assert runs.read_run(root / "alpha").status == "damaged"
    (root / "alpha" / "result.json").write_text("[1]")
    assert runs.read_run(root / "alpha").status == "damaged"
    assert invoke("show", "alpha", "--root", str(root)).exit_code == 0


@pytest.mark.parametrize(
    "content",
    [
        '{"result": 3}',
        '{"result": {"latency_ms": 4}}',
        '{"test_accuracy": "high", "seconds": true}',
        '{"goals": [1]}',
        "{}",
    ],
)
def test_odd_fields_are_not_known_and_break_nothing(root: Path, content: str) -> None:
    (root / "alpha" / "result.json").write_text(content)
    found = runs.read_run(root / "alpha")
    assert found.test_accuracy is None
    assert found.seconds is None
    assert found.data == "mnist"


@pytest.mark.parametrize(("latency", "shown"), [(4, 4.0), ({"median": 0.5}, 0.5), ("fast", None)])
def test_a_latency_may_be_a_plain_number(root: Path, latency: object, shown: float | None) -> None:
    """That of a recipe is."""
    (root / "net" / "result.json").write_text(json.dumps({"result": {"latency_ms": latency}}))
    assert runs.read_run(root / "net").latency_ms == shown


def test_a_status_is_taken_from_the_result(root: Path) -> None:
    train_run(root, "wild", status="diverged")
    assert runs.read_run(root / "wild").status == "diverged"


def test_terminal_commands_in_names_are_harmless(root: Path) -> None:
    train_run(root, "odd", model="\x1b[2Jnet", data="[red]x[/red]")
    out = invoke("list", "--root", str(root)).stdout
    assert "\x1b[2J" not in out
    assert "[red]x[/red]" in out


def test_show_tells_the_story_of_the_report(root: Path) -> None:
    out = invoke("show", "alpha", "--root", str(root)).stdout
    for words in (
        "312 times smaller and 6 times faster, for 0.21 points.",
        "−0.21 points",
        "949× smaller",
        "lose at most 0.24 points",
        "not offered by this runtime",
        "5.8× to 6.4×",
        "report.html",
    ):
        assert words in out


def test_show_names_a_missed_goal(root: Path) -> None:
    out = invoke("show", "missed", "--root", str(root)).stdout
    assert "Goal missed: asked for half the latency" in out
    assert "missed: take at most half the latency: this runtime spends" in out


def test_show_as_json_is_the_result_with_whole_paths(root: Path) -> None:
    found = payload(invoke("show", "alpha", "--root", str(root), "--json"))
    assert found["verb"] == "shrink"
    assert found["artefacts"][0] == str(root / "alpha" / "model.onnx")


def test_show_of_other_verbs_and_of_unfinished_runs(root: Path) -> None:
    out = invoke("show", "net", "--root", str(root)).stdout
    assert "mlp:64" in out
    assert "1.23 k" in out
    assert "--resume" in invoke("show", "begun", "--root", str(root)).stdout
    assert payload(invoke("show", "net", "--root", str(root), "--json"))["run"]["macs"] == 5678


def test_show_of_a_path_and_of_an_unknown_name(root: Path) -> None:
    assert invoke("show", str(root / "net")).exit_code == 0
    error = invoke("show", "alhpa", "--root", str(root)).exception
    assert isinstance(error, UsageError)
    assert "did you mean 'alpha'?" in str(error)


def test_remove(root: Path) -> None:
    result = invoke("rm", "alpha", "--root", str(root), "--yes")
    assert result.exit_code == 0
    assert sorted(path.name for path in root.iterdir()) == ["begun", "file.txt", "missed", "net", "notes"]


def test_remove_as_json(root: Path) -> None:
    found = payload(invoke("rm", "begun", "--root", str(root), "--yes", "--json"))
    assert found["removed"] == str(root / "begun")


def test_remove_asks_first(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([False, True])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(verb.typer, "confirm", lambda question: next(answers))
    verb.remove("alpha", root)
    assert (root / "alpha").is_dir()
    verb.remove("alpha", root)
    assert not (root / "alpha").exists()


def test_nobody_to_ask_is_an_error(root: Path) -> None:
    error = invoke("rm", "alpha", "--root", str(root)).exception
    assert isinstance(error, UsageError)
    assert "--yes" in str(error)
    assert (root / "alpha").is_dir()


@pytest.mark.parametrize(
    "name", ["notes", "file.txt", ".", "..", "../runs", "alpha/../net", "alpha/steps", "", "none"]
)
def test_only_runs_directly_inside_are_removed(root: Path, name: str) -> None:
    before = sorted(path.name for path in root.iterdir())
    (root / "alpha" / "steps").mkdir()
    (root / "alpha" / "steps" / "spec.toml").write_text("")
    with pytest.raises(UsageError):
        runs.remove_run(name, root)
    assert sorted(path.name for path in root.iterdir()) == before


def test_absolute_paths_and_links_are_refused(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    begun_run(tmp_path, "outside")
    (root / "link").symlink_to(outside)
    for name in (str(outside), "link", "../outside"):
        with pytest.raises(UsageError, match="directly inside"):
            runs.remove_run(name, root)
    assert (outside / "spec.toml").is_file()


def test_a_link_inside_a_run_is_not_followed(root: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    (root / "alpha" / "link").symlink_to(kept)
    runs.remove_run("alpha", root)
    assert (kept / "file").read_text() == "x"


def test_a_removal_that_was_killed_leaves_no_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path) -> None:
        (path / "result.json").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(runs.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        runs.remove_run("alpha", root)
    assert "alpha" not in [run.name for run in runs.list_runs(root)]
    monkeypatch.undo()
    shrink_run(root, "alpha")
    runs.remove_run("alpha", root)
    assert not list(root.glob("*alpha*"))


def test_read_shrink_says_why_not(root: Path) -> None:
    with pytest.raises(UsageError, match="not finished"):
        runs.read_shrink(root / "begun")
    with pytest.raises(UsageError, match="made by 'tersa train'"):
        runs.read_shrink(root / "net")
    (root / "alpha" / "result.json").write_text('{"verb": "shrink"}')
    with pytest.raises(DataError, match="is not a ShrinkResult"):
        runs.read_shrink(root / "alpha")


def test_find_run_without_any(tmp_path: Path) -> None:
    with pytest.raises(TersaError, match="holds no runs"):
        runs.find_run("demo", tmp_path)


def test_help_has_examples() -> None:
    for arguments in (["list"], ["show"], ["rm"]):
        assert "Example: tersa runs" in invoke(*arguments, "--help").stdout
