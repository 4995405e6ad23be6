"""Finished runs in MLflow: what is logged, once, and what is said where it cannot be.

Most of it talks to a stand-in with the calls that are used; one test talks to MLflow where it is installed.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from tersa.cli import runs as verb
from tersa.errors import DataError, TersaError, UsageError
from tersa.recipes.tracking import DIGEST, LONGEST, files_of, leaves, metrics_of, parameters_of, track
from tersa.records.results import Epoch
from tersa.train.history import HistoryWriter

SPEC = """\
schema_version = 1
verb = "train"
model = "lenet"

[config]
learning_rate = 0.1
epochs = 2
"""
RESULT: dict[str, Any] = {
    "schema_version": 1, "verb": "train", "command": "tersa train", "test_accuracy": 97.5, "parameters": 100,
    "status": "done", "environment": {"commit": "abc", "cores": 2}, "artefacts": ["model.safetensors"],
    "goals": [{"asked": 1}], "met": True,
}  # fmt: skip


class Refused(Exception):
    """MLflow's own error."""


class Client:
    """The calls of MLflow that are used; runs are kept by experiment."""

    def __init__(self, store: dict[str, Any]) -> None:
        self.store = store

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id=name) if name in self.store else None

    def create_experiment(self, name: str) -> str:
        self.store[name] = []
        return name

    def search_runs(self, places: list[str], text: str) -> list[Any]:
        digest = text.partition("'")[2].rstrip("'")
        return [run for run in self.store[places[0]] if run.tags[DIGEST] == digest]

    def create_run(self, place: str, run_name: str, tags: dict[str, str]) -> Any:
        info = SimpleNamespace(run_id=f"r{len(self.store[place])}", status="RUNNING")
        run = SimpleNamespace(info=info, name=run_name, tags=tags, params=[], metrics=[], files=[])
        self.store[place].append(run)
        return run

    def _run(self, identity: str) -> Any:
        return next(run for own in self.store.values() for run in own if run.info.run_id == identity)

    def log_batch(self, identity: str, metrics: Any = (), params: Any = ()) -> None:
        assert len(metrics) <= 1000
        assert len(params) <= 100
        self._run(identity).metrics += metrics
        self._run(identity).params += params

    def log_artifact(self, identity: str, path: str, artifact_path: str | None = None) -> None:
        if (Path(path).parent / "unreadable").exists():
            raise Refused("no room\nat all")
        self._run(identity).files.append("/".join(filter(None, (artifact_path, Path(path).name))))

    def set_terminated(self, identity: str, status: str = "FINISHED") -> None:
        self._run(identity).info.status = status


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the stand-in holds."""
    held: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {
        "mlflow": {},
        "mlflow.exceptions": {"MlflowException": Refused},
        "mlflow.tracking": {"MlflowClient": lambda tracking_uri: Client(held)},
        "mlflow.entities": {"Metric": lambda *values: values, "Param": lambda *values: values},
    }
    for name, contents in parts.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    return held


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A training that has ended, with two epochs."""
    folder = tmp_path / "first"
    folder.mkdir()
    (folder / "spec.toml").write_text(SPEC)
    (folder / "result.json").write_text(json.dumps(RESULT))
    (folder / "report.html").write_text("<p>")
    (folder / "model.safetensors").write_bytes(b"weights")
    with HistoryWriter(folder / "history.db") as history:
        for epoch in (1, 2):
            history.add(
                Epoch(
                    epoch=epoch, train_loss=1.0 / epoch, train_accuracy=50.0, validation_loss=1.0,
                    validation_accuracy=40.0 + epoch, learning_rate=0.1, seconds=1.0,
                )
            )  # fmt: skip
    return folder


def test_settings_numbers_epochs_and_files_are_logged(store: dict[str, Any], run: Path) -> None:
    (logged,) = track([run], "somewhere", "mine")
    (kept,) = store["mine"]
    assert (logged.status, logged.run, kept.name, kept.info.status) == ("logged", "r0", "first", "FINISHED")
    assert ("config.learning_rate", "0.1") in kept.params
    assert {name for name, _ in kept.params} == {"verb", "model", "config.learning_rate", "config.epochs"}
    numbers = {(name, step): value for name, value, _, step in kept.metrics}
    assert numbers["test_accuracy", 0] == 97.5
    assert numbers["epoch.validation_accuracy", 2] == 42.0
    assert ("met", 0) not in numbers
    assert sorted(kept.files) == ["model.safetensors", "report.html", "result.json", "spec.toml"]
    digest = hashlib.sha256((run / "result.json").read_bytes()).hexdigest()
    assert kept.tags == {
        DIGEST: digest, "tersa.verb": "train", "tersa.command": "tersa train", "tersa.commit": "abc",
        "tersa.status": "done",
    }  # fmt: skip
    assert (logged.parameters, logged.metrics, logged.files) == (4, len(kept.metrics), 4)


def test_a_run_is_logged_once_and_a_changed_one_again(store: dict[str, Any], run: Path) -> None:
    first, again = track([run], "x"), track([run], "x")
    assert (again[0].status, again[0].run) == ("there before", first[0].run)
    (run / "result.json").write_text(json.dumps({**RESULT, "test_accuracy": 98.0}))
    assert track([run], "x")[0].status == "logged"
    assert len(store["tersa"]) == 2


def test_one_that_broke_off_half_way_is_logged_again(store: dict[str, Any], run: Path) -> None:
    (run / "unreadable").touch()
    with pytest.raises(TersaError, match=r"^MLflow at x: no room$"):
        track([run], "x")
    (run / "unreadable").unlink()
    assert track([run], "x")[0].status == "logged"
    assert [each.info.status for each in store["tersa"]] == ["FAILED", "FINISHED"]
    again = track([run], "x")[0]
    assert (again.status, again.run) == ("there before", "r1"), "the one that ended, not the one before it"


def test_many_epochs_go_in_parts(store: dict[str, Any], run: Path) -> None:
    with HistoryWriter(run / "history.db") as history:
        for epoch in range(1, 401):
            history.add(
                Epoch(
                    epoch=epoch, train_loss=1.0, train_accuracy=1.0, validation_loss=1.0,
                    validation_accuracy=1.0, learning_rate=1.0, seconds=1.0,
                )
            )  # fmt: skip
    assert track([run], "x")[0].metrics > 2400


def test_runs_that_have_not_ended_or_are_damaged_are_refused_before_anything_is_logged(
    store: dict[str, Any], run: Path, tmp_path: Path
) -> None:
    (tmp_path / "half").mkdir()
    with pytest.raises(UsageError, match="has not ended; --resume goes on with it"):
        track([run, tmp_path / "half"], "x")
    for text in ("{", "[1]"):
        (tmp_path / "half" / "result.json").write_text(text)
        with pytest.raises(DataError, match="is not a re"):
            track([run, tmp_path / "half"], "x")
    assert store == {}


def test_without_mlflow_the_install_line_is_told(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mlflow", "mlflow.exceptions", "mlflow.tracking"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=r"pip install 'tersa\[tracking\]'"):
        track([run], "x")


def test_long_settings_are_cut_and_a_run_without_spec_has_none(tmp_path: Path) -> None:
    assert parameters_of(tmp_path) == {}
    (tmp_path / "spec.toml").write_text(f'text = "{"x" * 7000}"')
    assert len(parameters_of(tmp_path)["text"]) == LONGEST
    (tmp_path / "spec.toml").write_text("= 1")
    with pytest.raises(DataError, match="cannot be read"):
        parameters_of(tmp_path)


def test_leaves_and_numbers() -> None:
    assert leaves({"a": {"b": {"c": 1}}, "d": 2}) == {"a.b.c": 1, "d": 2}
    assert metrics_of({"a": {"b": 1.5, "c": "x"}, "l": [1], "t": False, "n": None}) == {"a.b": 1.5}


def test_files_that_moved_with_their_run_are_found(run: Path) -> None:
    moved = files_of(run, {"artefacts": ["/elsewhere/first/model.safetensors"]})
    assert run / "model.safetensors" in moved
    assert len(moved) == len(set(moved)) == 4


def test_files_of_steps_keep_their_folders(store: dict[str, Any], run: Path) -> None:
    named = ["base/model.safetensors", "two/model.safetensors", str(run / "two" / "deep" / "x.onnx")]
    for name in named:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(b"weights")
    artefacts = [*named, "model.safetensors", "../first/base/model.safetensors", "gone/x.onnx"]
    (run / "result.json").write_text(json.dumps({**RESULT, "artefacts": artefacts}))
    assert track([run], "x")[0].files == 7
    (kept,) = store["tersa"]
    assert sorted(kept.files) == [
        "base/model.safetensors", "model.safetensors", "report.html", "result.json", "spec.toml",
        "two/deep/x.onnx", "two/model.safetensors",
    ]  # fmt: skip


def test_the_command_prints_what_was_logged(store: dict[str, Any], run: Path) -> None:
    found = CliRunner().invoke(verb.app, ["track", "first", "--root", str(run.parent), "--to", "x", "--json"])
    told = json.loads(found.stdout)
    assert found.exit_code == 0
    assert told["runs"][0]["status"] == "logged"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_itself_takes_it(run: Path, tmp_path: Path) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = tracking.MlflowClient(tracking_uri=uri)
    client.create_experiment("tersa", artifact_location=(tmp_path / "files").as_uri())
    (logged,) = track([run], uri)
    kept = client.get_run(logged.run)
    assert kept.data.metrics["test_accuracy"] == 97.5
    assert kept.data.params["config.epochs"] == "2"
    assert [each.value for each in client.get_metric_history(logged.run, "epoch.validation_accuracy")] == [
        41,
        42,
    ]
    assert track([run], uri)[0].status == "there before"
    assert (tmp_path / "files" / logged.run / "artifacts" / "report.html").is_file()
