"""What the pruning curves say: every point as CSV, table 4.1, and the result that scripts read.

Table 4.1 takes the last point of `network-taylor-l2-100` whose validation accuracy is within a floor:

    99 %            the document's floor
    -0.24 points    below the baseline, so that a better baseline may not lose more

and beside it the network of the same widths trained from nothing, with the same training as the baseline.
The test images decide nothing here: where they were read at every fifth step only, a row is the last point
within the floor that has both accuracies.

Example:
    >>> scratch_spec("lenet", "conv1=9 conv2=20 fc1=90")
    'lenet:9-20-90'
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Literal

from pydantic import ConfigDict

from tersa.recipes.pruning_curves import Curve, Point
from tersa.recipes.pruning_store import PruningStore, Trained, Walked
from tersa.records.base import SCHEMA, Record
from tersa.records.results import Environment

TABLE_CURVE = "network-taylor-l2-100"
"""The curve of table 4.1."""
POINTS, TABLE, RESULT, REPORT = "points.csv", "table.csv", "result.json", "report.html"
LOSS = 0.24
"""Points that the second floor lies below the baseline: what the document's pruned network lost."""

POINT_COLUMNS = (
    "curve",
    *(name for name in Curve.model_fields if name != "step"),
    "step_size",
    *Point.model_fields,
)
"""`step_size` is the curve's field `step`, beside the number of the step."""


class TableRow(Record):
    """One row of table 4.1: a pruned network, and the same one from nothing."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    floor: str
    """Which floor: `99 %` or `-0.24 points`."""
    floor_accuracy: float
    """The floor in percent of the validation images."""
    seed: int
    """Of the curve and its baseline."""
    removed: int
    """Channels that are gone."""
    widths: str
    """Channels that are left."""
    parameters: int
    """Trainable values."""
    macs: int
    """For one image."""
    compression: float
    """Parameters of the baseline over these."""
    acceleration: float
    """MACs of the baseline over these."""
    validation_accuracy: float
    """Percent."""
    test_accuracy: float
    """Percent."""
    validation_loss: float
    """Points below the baseline."""
    test_loss: float
    """Points below the baseline."""
    scratch_validation_loss: float | None
    """Of the same network from nothing, points below the baseline."""
    scratch_test_loss: float | None
    """Likewise on the test images."""


class PruningResult(Record):
    """What `tersa reproduce pruning` found."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    schema_version: int = SCHEMA
    verb: Literal["reproduce pruning"] = "reproduce pruning"
    command: str = ""
    """That made it; empty where it was called as a function."""
    data: str
    """The data set."""
    model: str
    """The network."""
    mode: Literal["quick", "full"]
    """2 % of the channels a step, or one channel a step."""
    precision: str
    """Of forward passes while training."""
    shortened: bool
    """Not the document's network or training of the baseline."""
    verdict: str
    """In one sentence."""
    curves: int
    """Asked for in this call, over all seeds."""
    done: int
    """Of them, walked to their end."""
    diverged: int
    """Of them, ended in NaN."""
    failed: int
    """Of them, ended with an error."""
    stored: int
    """Curves in the folder, from all calls."""
    trouble: str
    """Last line of the first failure, or empty."""
    baselines: list[Trained]
    """The trained networks, one for each seed."""
    table: list[TableRow]
    """Table 4.1; empty where its curve has not been walked, or no point of it is within a floor."""
    environment: Environment
    """Machine and versions."""
    workers: int
    """Processes of this call."""
    curve_seconds: float
    """Wall time of all stored curves, one after the other."""
    artefacts: list[str]
    """Paths: points, table, store."""
    report: str
    """Path of the report."""
    seconds: float
    """Wall time of this call."""


@cache
def document() -> dict[str, float]:
    """The numbers that the document prints, by name (`published/pruning.csv` has their places)."""
    text = files("tersa.recipes").joinpath("published").joinpath("pruning.csv").read_text(encoding="utf-8")
    return {row["name"]: float(row["value"]) for row in csv.DictReader(text.splitlines()[1:])}


def table_points(walked: Walked, start: Trained) -> list[tuple[str, Point]]:
    """The points of table 4.1: name of the floor, and the last point within it that has both accuracies.

    A floor that no pruned network keeps has no point.
    """
    found: list[tuple[str, Point]] = []
    for name, floor in floors(start).items():
        kept = [
            point
            for point in walked.points
            if point.step and point.validation_accuracy >= floor and point.test_accuracy is not None
        ]
        found += [(name, kept[-1])] if kept else []
    return found


def floors(start: Trained) -> dict[str, float]:
    """Least validation accuracy of each row of the table, percent."""
    least = document()["floor_accuracy"]
    return {f"{least:g} %": least, f"-{LOSS} points": start.validation_accuracy - LOSS}


def scratch_spec(model: str, widths: str) -> str:
    """The zoo's name of a network with a point's widths."""
    counts = [part.partition("=")[2] for part in widths.split()]
    return f"{model.partition(':')[0]}:{'-'.join(counts)}"


def table_rows(store: PruningStore, model: str) -> list[TableRow]:
    """Table 4.1 of a network, by floor and seed."""
    baselines, scratch = store.baselines(), store.scratch()
    found: list[TableRow] = []
    for walked in store.curves():
        start = baselines.get(walked.curve.seed)
        if walked.curve.name == TABLE_CURVE and start is not None:
            for floor, point in table_points(walked, start):
                fresh = scratch.get((scratch_spec(model, point.widths), start.seed))
                found.append(_row(floor, floors(start)[floor], point, start, fresh))
    return sorted(found, key=lambda row: (row.floor != "99 %", row.seed))


def _row(floor: str, least: float, point: Point, start: Trained, fresh: Trained | None) -> TableRow:
    assert point.test_accuracy is not None, "table_points gives none without"
    return TableRow(
        floor=floor,
        floor_accuracy=least,
        seed=start.seed,
        removed=point.removed,
        widths=point.widths,
        parameters=point.parameters,
        macs=point.macs,
        compression=start.parameters / point.parameters,
        acceleration=start.macs / point.macs,
        validation_accuracy=point.validation_accuracy,
        test_accuracy=point.test_accuracy,
        validation_loss=start.validation_accuracy - point.validation_accuracy,
        test_loss=start.test_accuracy - point.test_accuracy,
        scratch_validation_loss=fresh and start.validation_accuracy - fresh.validation_accuracy,
        scratch_test_loss=fresh and start.test_accuracy - fresh.test_accuracy,
    )


def points_csv(walked: Sequence[Walked]) -> str:
    """Every point of every curve, one line each."""
    lines: list[list[object]] = []
    for each in walked:
        settings = each.curve.model_dump()
        head = [each.curve.name, *(settings[name] for name in settings if name != "step"), settings["step"]]
        lines += [[*head, *_plain(point)] for point in each.points]
    return _csv(POINT_COLUMNS, lines)


def table_csv(rows: Sequence[TableRow]) -> str:
    """Table 4.1 with the document's row first."""
    known = document()
    columns = tuple(TableRow.model_fields)
    published: dict[str, object] = {
        "floor": "99 %",
        "floor_accuracy": known["floor_accuracy"],
        "seed": "document",
        "compression": known["pruned_compression"],
        "acceleration": known["pruned_acceleration"],
        "validation_loss": known["pruned_loss"],
        "scratch_validation_loss": known["scratch_loss"],
    }
    body = [[published.get(name, "") for name in columns]]
    return _csv(columns, [*body, *(_plain(row) for row in rows)])


def _plain(row: Record) -> list[object]:
    """A record's values for a CSV: floats to six digits, nothing for None."""
    values = row.model_dump().values()
    return ["" if v is None else f"{v:.6g}" if isinstance(v, float) else v for v in values]


def _csv(columns: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([columns, *lines])
    return out.getvalue()
