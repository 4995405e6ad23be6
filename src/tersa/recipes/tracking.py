"""A finished run as a run of MLflow: what was asked, what came out, every epoch, its files.

    parameters   the leaves of `spec.toml`, as text: `config.learning_rate`
    metrics      numbers of `result.json`, lists left out: `result.test_accuracy`; of a training its epochs,
                 one step each: `epoch.validation_accuracy`
    tags         the verb, the command, the commit, the sha256 of `result.json`
    artefacts    `report.html`, `result.json`, `spec.toml`, and the result's own files

A run is logged once: one with the same sha256 in the same experiment is left as it is. Nothing is sent
anywhere but to the tracking URI that is given.

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
    """The run's files that are there, each once."""
    named = result.get("artefacts")
    own = [Path(str(each)) for each in named] if isinstance(named, list) else []  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType] - JSON
    inside = [path if path.is_absolute() or path.is_file() else folder / path for path in own]
    wanted = [folder / REPORT, folder / RESULT, folder / SPEC, *(folder / path.name for path in inside)]
    return list(dict.fromkeys(path for path in wanted if path.is_file()))


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
    from mlflow.entities import Metric, Param  # pyright: ignore - optional

    result, digest = read
    summary = read_run(folder)
    before = client.search_runs([place], f"tags.`{DIGEST}` = '{digest}'")
    if any(each.info.status == "FINISHED" for each in before):
        return Logged(summary.name, before[0].info.run_id, "there before")
    tags = {
        DIGEST: digest,
        "tersa.verb": summary.verb,
        "tersa.command": str(result.get("command", "")),
        "tersa.commit": str((result.get("environment") or {}).get("commit", "")),
        "tersa.status": summary.status,
    }
    run = client.create_run(place, run_name=summary.name, tags={k: v for k, v in tags.items() if v})
    identity, now = run.info.run_id, int(time.time() * 1000)
    parameters = [Param(name, value) for name, value in parameters_of(folder).items()]
    metrics = [Metric(name, value, now, 0) for name, value in metrics_of(result).items()]
    for epoch, row in epochs_of(folder):
        metrics += [Metric(name, value, now, epoch) for name, value in row.items()]
    for kind, entries in (("params", parameters), ("metrics", metrics)):
        for start in range(0, len(entries), BATCH[kind]):
            client.log_batch(identity, **{kind: entries[start : start + BATCH[kind]]})
    files = files_of(folder, result)
    for path in files:
        client.log_artifact(identity, str(path))
    client.set_terminated(identity)
    return Logged(summary.name, identity, "logged", len(parameters), len(metrics), len(files))
