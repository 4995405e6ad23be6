"""The runs on this disk: what each was, what came out, side by side; and how one is removed.

A run is a folder with a `spec.toml` or a `result.json`. Results of different verbs have different fields;
`RunSummary` holds what they share, and None where a verb has nothing to say. Nothing here imports torch.

Example:
    >>> list_runs(Path("no-such-folder"))
    []
"""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tersa.errors import UsageError, unknown
from tersa.recipes.folder import RESULT, SPEC, hold, release
from tersa.records.base import read_record
from tersa.records.results import ShrinkResult
from tersa.report.numbers import change, factor, milliseconds, percent, si, size
from tersa.report.plain import plain
from tersa.report.tables import NOT_MEASURED

REMOVING = ".removing-"
"""Prefix of a run folder that is being removed: a kill on the way leaves this, never half a run."""


@dataclass(frozen=True)
class RunSummary:
    """What any run has, whatever verb made it.

    Attributes:
        name: of its folder.
        folder: where it lies.
        verb: that made it, empty when not known.
        model: as it was asked for.
        data: as they were asked for.
        status: `done`, `goal missed`, `incomplete` (no result yet), `damaged`, or what the result says
            (`diverged`).
        test_accuracy: percent.
        parameters: trainable values.
        macs: multiply-accumulates for one image.
        size_bytes: of the artefact.
        latency_ms: median at the run's target.
        seconds: the work took.
        date: when it ended, or began if it did not (ISO 8601, UTC).
    """

    name: str
    folder: Path
    verb: str
    model: str
    data: str
    status: str
    test_accuracy: float | None = None
    parameters: int | None = None
    macs: int | None = None
    size_bytes: int | None = None
    latency_ms: float | None = None
    seconds: float | None = None
    date: str = ""


@dataclass(frozen=True)
class FigureRow:
    """One figure of several runs.

    Attributes:
        label: what is counted.
        values: one text per run.
        against: one text per run, its difference or ratio to the first run's; empty for the first.
    """

    label: str
    values: tuple[str, ...]
    against: tuple[str, ...]


@dataclass(frozen=True)
class Figure:
    """How one field of `RunSummary` is shown and compared (`loss` by difference, costs by ratio)."""

    field: str
    label: str
    show: Callable[[float], str]
    ratio: bool


FIGURES = (
    Figure("test_accuracy", "Accuracy", percent, ratio=False),
    Figure("parameters", "Parameters", si, ratio=True),
    Figure("macs", "MACs", si, ratio=True),
    Figure("size_bytes", "File", size, ratio=True),
    Figure("latency_ms", "Latency", milliseconds, ratio=True),
)


def list_runs(root: Path) -> list[RunSummary]:
    """Every run directly inside a folder, by name; an empty list when there is no such folder."""
    if not root.is_dir():
        return []
    return [read_run(folder) for folder in sorted(root.iterdir()) if is_run(folder)]


def is_run(folder: Path) -> bool:
    """The folder holds a run, finished or not, and is not hidden."""
    marks = (folder / SPEC, folder / RESULT)
    return folder.is_dir() and not folder.name.startswith(".") and any(mark.is_file() for mark in marks)


def find_run(text: str, root: Path) -> Path:
    """A run's folder from a path or from a name inside `root`.

    Raises:
        UsageError: neither is a run; the closest name is shown.
    """
    for folder in (Path(text), root / text):
        if is_run(folder):
            return folder
    names = [run.name for run in list_runs(root)]
    if not names:
        raise UsageError(
            f"'{text}' is not a run folder, and {root} holds no runs; give a folder that tersa made"
        )
    raise unknown("run", text, names)


def read_run(folder: Path) -> RunSummary:
    """What a run folder says about itself; damage becomes a status, not an error."""
    spec = _spec(folder / SPEC)
    result_path = folder / RESULT
    if not result_path.is_file():
        return _summary(folder, spec, {}, "incomplete", _modified(folder / SPEC))
    try:
        result = json.loads(result_path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        result = None
    if not isinstance(result, dict):
        return _summary(folder, spec, {}, "damaged", _modified(result_path))
    date = _text(_inside(result, "environment", "date")) or _modified(result_path)
    return _summary(folder, spec, result, _status(result), date)


def read_shrink(folder: Path) -> ShrinkResult:
    """The result of a finished `shrink` or `prune` run.

    Raises:
        UsageError: the run is not finished, or another verb made it.
        DataError: a damaged result.
    """
    if not (folder / RESULT).is_file():
        raise UsageError(f"{folder} is not finished: it has no {RESULT}; run its command again with --resume")
    summary = read_run(folder)
    if summary.verb not in ("shrink", "prune", "adapt", ""):
        raise UsageError(
            f"{folder} was made by 'tersa {summary.verb}'; only shrink, prune and adapt runs have this report"
        )
    return read_record(folder / RESULT, ShrinkResult)


def remove_run(name: str, root: Path) -> Path:
    """Remove one run folder inside `root`; it is renamed first, so that no half of it looks like a run.

    Returns:
        The folder that is gone.

    Raises:
        UsageError: not a run, not directly inside `root` (a path, a link that leads elsewhere), or at work.
    """
    folder = removable(name, root)
    hold(folder)
    release(folder)
    doomed = folder.with_name(f"{REMOVING}{folder.name}")
    if doomed.exists():
        shutil.rmtree(doomed)
    folder.rename(doomed)
    shutil.rmtree(doomed)
    return folder


def removable(name: str, root: Path) -> Path:
    """The folder that `remove_run` would remove; the same errors, nothing done."""
    folder = root / name
    direct = Path(name).name == name and folder.resolve().parent == root.resolve()
    if folder.is_symlink() or not direct:
        raise UsageError(f"'{name}' is not a run directly inside {root}; give a name from tersa runs list")
    if not folder.exists():
        raise unknown("run", name, [run.name for run in list_runs(root)])
    if not is_run(folder):
        raise UsageError(
            f"{folder} is not a run folder: it has no {SPEC} and no {RESULT}; nothing was removed"
        )
    return folder


def compare_runs(runs: list[RunSummary]) -> list[FigureRow]:
    """Every figure that at least one run has, with differences (points) and ratios to the first run."""
    rows: list[FigureRow] = []
    for figure in FIGURES:
        found: list[float | None] = [getattr(run, figure.field) for run in runs]
        if any(value is not None for value in found):
            values = tuple(NOT_MEASURED if value is None else figure.show(value) for value in found)
            against = ("", *(_against(figure, found[0], value) for value in found[1:]))
            rows.append(FigureRow(figure.label, values, against))
    return rows


def differences(runs: list[RunSummary]) -> list[dict[str, float | str | None]]:
    """For scripts: every other run against the first; accuracy in points, costs as first over other."""
    first, rows = runs[0], list[dict[str, float | str | None]]()
    for run in runs[1:]:
        row: dict[str, float | str | None] = {"run": run.name}
        for figure in FIGURES:
            one, other = getattr(first, figure.field), getattr(run, figure.field)
            name = f"{figure.field}_ratio" if figure.ratio else f"{figure.field}_points"
            row[name] = _difference(figure, one, other)
        rows.append(row)
    return rows


def _difference(figure: Figure, first: float | None, value: float | None) -> float | None:
    if first is None or value is None or (figure.ratio and not value):
        return None
    return first / value if figure.ratio else value - first


def _against(figure: Figure, first: float | None, value: float | None) -> str:
    found = _difference(figure, first, value)
    if found is None:
        return ""
    if not figure.ratio:
        return change(found)
    if first == value:
        return "the same"
    less, more = {"size_bytes": ("smaller", "bigger"), "latency_ms": ("shorter", "longer")}.get(
        figure.field, ("fewer", "more")
    )
    return f"{factor(found)} {less}" if found >= 1 else f"{factor(1 / found)} {more}" if found else more


def _status(result: dict[str, Any]) -> str:
    goals = result.get("goals")
    if isinstance(goals, list) and any(isinstance(goal, dict) and goal.get("met") is False for goal in goals):
        return "goal missed"
    return _text(result.get("status")) or "done"


def _summary(
    folder: Path, spec: dict[str, Any], result: dict[str, Any], status: str, date: str
) -> RunSummary:
    figures = result.get("result") if isinstance(result.get("result"), dict) else result
    latency = _inside(figures, "latency_ms")
    return RunSummary(
        name=folder.name,
        folder=folder,
        verb=_text(result.get("verb") or spec.get("verb")),
        model=_text(result.get("model") or spec.get("model")),
        data=_text(result.get("task") or result.get("data") or spec.get("data")),
        status=status,
        test_accuracy=_number(_inside(figures, "test_accuracy")),
        parameters=_whole(_inside(figures, "parameters")),
        macs=_whole(_inside(figures, "macs")),
        size_bytes=_whole(_inside(figures, "size_bytes")),
        latency_ms=_number(_inside(latency, "median") if isinstance(latency, dict) else latency),
        seconds=_number(result.get("seconds")),
        date=date,
    )


def _spec(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _inside(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _text(value: Any) -> str:
    return plain(value) if isinstance(value, str) else ""


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _whole(value: Any) -> int | None:
    found = _number(value)
    return None if found is None else int(found)


def _modified(path: Path) -> str:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    except OSError:
        return ""
