"""The page of a trained network, from what its run folder holds: `report.html` of `tersa train`.

Reads `result.json`, `history.db` and `portrait.json`; `tersa report` writes the page again from them.

Not here: what the pictures show (`portrait.py`), and how the page looks (`tersa.report.network_page`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tersa.errors import DataError
from tersa.models.operations import Operations, Work
from tersa.recipes.portrait import FILE, Portrait
from tersa.records.base import read_record
from tersa.records.results import Epoch
from tersa.report.network_page import write
from tersa.report.network_view import Certainty, Chance, CostRow, NetworkView, Picture, Tile
from tersa.report.numbers import count, duration, percent, plural, ratio, si, size
from tersa.report.study_view import Curve, EpochPanel
from tersa.train.history import read_history

if TYPE_CHECKING:
    from tersa.recipes.train import TrainedRun

REPORT, HISTORY = "report.html", "history.db"
DEFAULTS_SHOWN = ("optimizer", "learning_rate", "schedule", "batch", "seed", "precision")
"""Settings that are always shown; of the others those that were changed."""


def write_report(folder: Path, result: TrainedRun) -> Path:
    """Write the page of a finished run.

    Args:
        folder: of the run.
        result: its `result.json`.

    Raises:
        DataError: the run has no portrait: an older tersa made it.
    """
    if not (folder / FILE).is_file():
        raise DataError(f"{folder} has no {FILE}: an older tersa made it; make it again with --overwrite")
    portrait = read_record(folder / FILE, Portrait)
    write(view_of(result, read_history(folder / HISTORY), portrait), folder / REPORT)
    return folder / REPORT


def view_of(result: TrainedRun, history: list[Epoch], portrait: Portrait) -> NetworkView:
    """Everything that the page shows, as plain values."""
    images, operations = result.split_sizes["test"], portrait.operations
    total = operations.total
    precision = f"{operations.description}. " if operations.low_bit else ""
    return NetworkView(
        subject=f"{result.model} on {result.task}",
        verdict=f"{percent(result.test_accuracy)} of {count(images)} test images are named rightly",
        detail=precision + _trained_words(result),
        warning=_warning(result),
        tiles=(
            Tile("Test accuracy", percent(result.test_accuracy), plural(images, "image")),
            Tile("Validation", percent(result.validation_accuracy), f"best epoch {result.best_epoch}"),
            Tile("Weights", si(total.weights), _size_note(operations)),
            Tile("Work for one image", f"{si(total.macs)} MACs", _work_note(total)),
            Tile("Training", duration(result.seconds), f"{plural(len(history), 'epoch')} on {result.device}"),
        ),
        epochs=_epochs(history),
        costs=tuple(_cost(each, total.macs) for each in operations.layers),
        total=_cost(total, total.macs),
        cost_words=_cost_words(operations),
        confusion=tuple(tuple(row) for row in portrait.confusion),
        classes=tuple(result.classes),
        certainties=tuple(
            Certainty(
                each.png,
                each.label,
                tuple(Chance(g.label, 100 * g.probability, g.label == each.label) for g in each.chances),
            )
            for each in portrait.certainties
        ),
        looks=_looks(portrait),
        batch=_batch(portrait),
        command=result.command,
        facts=_facts(result),
    )


def _trained_words(result: TrainedRun) -> str:
    seen = result.split_sizes
    train, validation = count(seen["train"]), count(seen["validation"])
    return (
        f"Trained on {train} images, steered by {validation} validation images; "
        "the test images were read once, at the end."
    )


def _warning(result: TrainedRun) -> str:
    if result.status == "diverged":
        return "the training ended in NaN or infinity; these are the last good weights"
    return result.task_note


def _size_note(operations: Operations) -> str:
    total = operations.total
    if not operations.low_bit:
        return f"{size(total.size_bytes)} in float32"
    return (
        f"{size(total.size_bytes)} packed, {ratio(4 * total.weights / total.size_bytes)} smaller than float32"
    )


def _work_note(total: Work) -> str:
    parts = [("binary", total.binary), ("integer", total.integer), ("float", total.real)]
    return ", ".join(f"{100 * macs / max(total.macs, 1):.3g} % {name}" for name, macs in parts if macs)


def _cost_words(operations: Operations) -> str:
    total = operations.total
    words = f"{si(total.weights)} weights take {size(total.size_bytes)} as they are packed"
    if operations.low_bit:
        words += f", {size(4.0 * total.weights)} in float32"
    parts = [
        ("of 1 bit by 1 bit", total.binary),
        ("of integers", total.integer),
        ("in floating point", total.real),
    ]
    kinds = ", ".join(f"{si(macs)} {name}" for name, macs in parts if macs)
    words += f". One image takes {si(total.macs)} multiply-accumulates: {kinds}. "
    return words + "Thresholds, normalisation and scales are not counted."


def _cost(work: Work, whole: int) -> CostRow:
    def macs(value: int) -> str:
        return si(value) if value else "–"

    return CostRow(
        name=work.name,
        kind=work.kind,
        bits=work.bits,
        weights=si(work.weights),
        size=size(work.size_bytes),
        binary=macs(work.binary),
        integer=macs(work.integer),
        real=macs(work.real),
        share=work.macs / max(whole, 1),
    )


def _epochs(history: list[Epoch]) -> EpochPanel | None:
    if not history:
        return None
    return EpochPanel(
        "accuracy",
        (
            Curve("val", 1.0, tuple(row.validation_accuracy for row in history)),
            Curve("train", 0.35, tuple(row.train_accuracy for row in history)),
        ),
    )


def _looks(portrait: Portrait) -> tuple[Picture, ...]:
    if portrait.looks is None:
        return ()
    text = (
        "One test image of each class, and below it its integrated gradients (black image as baseline): "
        "green pixels spoke for the right class, grey ones against it."
    )
    shown = portrait.looks
    return (Picture("Integrated gradients", text, shown.png, shown.width, shown.height),)


def _batch(portrait: Portrait) -> Picture | None:
    if portrait.batch is None:
        return None
    text = "Training images after augmentation, drawn with the run's seed."
    shown = portrait.batch
    return Picture("Training images after augmentation", text, shown.png, shown.width, shown.height)


def _facts(result: TrainedRun) -> tuple[tuple[str, str], ...]:
    environment = result.environment
    usual = type(result.config)(optimizer=result.config.optimizer)
    settings = {
        name: value
        for name, value in result.config.model_dump().items()
        if name in DEFAULTS_SHOWN or value != getattr(usual, name)
    }
    return (
        (
            "data",
            f"{result.task}: " + ", ".join(f"{count(n)} {name}" for name, n in result.split_sizes.items()),
        ),
        ("model", result.model),
        *((name.replace("_", " "), str(value)) for name, value in settings.items()),
        ("processor", environment.processor),
        ("threads", str(environment.threads)),
        ("versions", ", ".join(f"{name} {value}" for name, value in environment.versions.items())),
        ("date", environment.date),
    )
