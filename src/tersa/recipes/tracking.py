"""A finished run as a run of MLflow: what was asked, what came out, every epoch, its files.

    parameters   the leaves of `spec.toml`, as text: `config.learning_rate`
    metrics      numbers of `result.json`, lists left out: `result.test_accuracy`; of a training its epochs,
                 one step each: `epoch.validation_accuracy`
    tags         the verb, the command, the commit, the sha256 of `result.json`
    artefacts    `report.html`, `result.json`, `spec.toml`, and the result's own files, in the folders that
                 they have in the run's

A run is logged once: one with the same sha256 in the same experiment is left as it is, unless it broke off,
when MLflow has it as FAILED. Nothing is sent anywhere but to the tracking URI that is given.

Example:
    >>> leaves({"result": {"macs": 12, "met": True, "sizes": [1, 2]}, "verb": "train"})
    {'result.macs': 12, 'result.met': True, 'result.sizes': [1, 2], 'verb': 'train'}
"""

from __future__ import annotations

import hashlib
import json
import time
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tersa.errors import DataError, TersaError, UsageError
from tersa.recipes.folder import RESULT, SPEC
from tersa.recipes.runs import read_run
from tersa.train.history import read_history

INSTALL = "tracking needs mlflow-skinny; pip install 'tersa[tracking]'"
REPORT, HISTORY = "report.html", "history.db"
DIGEST = "tersa.result_sha256"
LONGEST = 6000
"""Characters of a parameter that MLflow keeps."""
BATCH = {"metrics": 1000, "params": 100}
"""Entries of one call that MLflow takes."""


@dataclass(frozen=True)
class Logged:
    """What became of one run.

    Attributes:
        name: of its folder.
        run: its id in MLflow.
        status: `logged`, or `there before`.
        parameters: how many.
        metrics: how many, every epoch's counted.
        files: how many.
    """

    name: str
    run: str
    status: str
    parameters: int = 0
    metrics: int = 0
    files: int = 0


def leaves(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """What stands at the ends of nested tables, by dotted names."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{above}.{name}" if above else str(name)
        if isinstance(value, Mapping):
            found |= leaves(value, path)  # pyright: ignore[reportUnknownArgumentType] - of any kind
        else:
            found[path] = value
    return found


def parameters_of(folder: Path) -> dict[str, str]:
    """What was asked, as text.

    Raises:
        DataError: a spec that cannot be read.
    """
    try:
        asked = tomllib.loads((folder / SPEC).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / SPEC} cannot be read: {error}") from None
    return {name: str(value)[:LONGEST] for name, value in leaves(asked).items() if name != "schema_version"}


def metrics_of(result: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of a result, lists and truths left out."""
    return {
        name: float(value)
        for name, value in leaves(result).items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and name != "schema_version"
    }


def epochs_of(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """Of a training: (epoch, its numbers)."""
    if not (folder / HISTORY).is_file():
        return []
    return [
        (
            row.epoch,
            {f"epoch.{name}": float(value) for name, value in row.model_dump(exclude={"epoch"}).items()},
        )
        for row in read_history(folder / HISTORY)
    ]


def files_of(folder: Path, result: Mapping[str, Any]) -> list[Path]:
    """The run's files that are there, each once, all inside its folder.

    A path that leads elsewhere is that of a run that was moved: the file of that name is taken.
    """
    named = result.get("artefacts")
    own = [Path(str(each)) for each in named] if isinstance(named, list) else []  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType] - JSON
    wanted = [folder / name for name in (REPORT, RESULT, SPEC)]
    wanted += [folder / _inside(folder, path) for path in own]
    return list(dict.fromkeys(path for path in wanted if path.is_file()))


def _inside(folder: Path, path: Path) -> Path:
    """A file's place in the run's folder, from a path within it, a whole one, or one from here."""
    top = folder.resolve()
    for whole in ((folder / path).resolve(), path.resolve()):
        if whole.is_relative_to(top) and whole.is_file():
            return whole.relative_to(top)
    return Path(path.name)


def _place(folder: Path, path: Path) -> str | None:
    """The folder of an artefact in MLflow; None for the top."""
    above = path.relative_to(folder).parent.as_posix()
    return None if above == "." else above


def track(folders: Sequence[Path], uri: str, experiment: str = "tersa") -> list[Logged]:
    """Log finished runs.

    Args:
        folders: of the runs.
        uri: of MLflow's tracking, `sqlite:///mlflow.db` or `https://...`.
        experiment: made if it is not there.

    Raises:
        UsageError: mlflow is not installed; a run that has not ended.
        DataError: a damaged run.
        TersaError: MLflow refused; what was logged before stays.
    """
    results = [_result(folder) for folder in folders]
    try:
        from mlflow.exceptions import MlflowException  # pyright: ignore - optional
        from mlflow.tracking import MlflowClient  # pyright: ignore - optional
    except ImportError:
        raise UsageError(INSTALL) from None
    try:
        client: Any = MlflowClient(tracking_uri=uri)
        known: Any = client.get_experiment_by_name(experiment)
        place = client.create_experiment(experiment) if known is None else known.experiment_id
        return [_log(client, place, folder, result) for folder, result in zip(folders, results, strict=True)]
    except MlflowException as error:
        first = str(error).strip().partition("\n")[0]
        raise TersaError(f"MLflow at {uri}: {first}") from None


def _result(folder: Path) -> tuple[dict[str, Any], str]:
    """A run's result, and the sha256 of its file."""
    try:
        text = (folder / RESULT).read_bytes()
        result: Any = json.loads(text)
    except FileNotFoundError:
        raise UsageError(
            f"{folder} has no {RESULT}: the run has not ended; --resume goes on with it"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / RESULT} is not a readable JSON file: {error}") from None
    if not isinstance(result, dict):
        raise DataError(f"{folder / RESULT} is not a result: it holds no table")
    return result, hashlib.sha256(text).hexdigest()  # pyright: ignore[reportUnknownVariableType] - JSON


def _log(client: Any, place: str, folder: Path, read: tuple[dict[str, Any], str]) -> Logged:
    result, digest = read
    summary = read_run(folder)
    before = client.search_runs([place], f"tags.`{DIGEST}` = '{digest}'")
    ended = [each for each in before if each.info.status == "FINISHED"]
    if ended:
        return Logged(summary.name, ended[0].info.run_id, "there before")
    tags = {
        DIGEST: digest,
        "tersa.verb": summary.verb,
        "tersa.command": str(result.get("command", "")),
        "tersa.commit": str((result.get("environment") or {}).get("commit", "")),
        "tersa.status": summary.status,
    }
    run = client.create_run(place, run_name=summary.name, tags={k: v for k, v in tags.items() if v})
    try:
        logged = _fill(client, run.info.run_id, summary.name, folder, result)
    except BaseException:
        with suppress(Exception):  # what broke it off may keep this from being said
            client.set_terminated(run.info.run_id, "FAILED")
        raise
    client.set_terminated(run.info.run_id)
    return logged


def _fill(client: Any, identity: str, name: str, folder: Path, result: Mapping[str, Any]) -> Logged:
    """Settings, numbers and files of a run that MLflow has begun."""
    from mlflow.entities import Metric, Param  # pyright: ignore - optional

    now = int(time.time() * 1000)
    parameters = [Param(key, value) for key, value in parameters_of(folder).items()]
    metrics = [Metric(key, value, now, 0) for key, value in metrics_of(result).items()]
    for epoch, row in epochs_of(folder):
        metrics += [Metric(key, value, now, epoch) for key, value in row.items()]
    for kind, entries in (("params", parameters), ("metrics", metrics)):
        for start in range(0, len(entries), BATCH[kind]):
            client.log_batch(identity, **{kind: entries[start : start + BATCH[kind]]})
    files = files_of(folder, result)
    for path in files:
        client.log_artifact(identity, str(path), _place(folder, path))
    return Logged(name, identity, "logged", len(parameters), len(metrics), len(files))
