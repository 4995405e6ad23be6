"""The page of `tersa reproduce binary-vgg`, from its result and the histories of its rows."""

from __future__ import annotations

from pathlib import Path

from tersa.recipes.binary_vgg import BinaryVggResult, RowResult
from tersa.recipes.published_binary import training
from tersa.recipes.train import HISTORY
from tersa.report.binary_vgg_page import write
from tersa.report.binary_vgg_view import BinaryRow, BinaryVggView
from tersa.report.network_view import Tile
from tersa.report.numbers import duration, percent, plural, plus_minus, ratio, si, size
from tersa.report.study_view import Curve, EpochPanel
from tersa.train.history import read_history


def write_report(folder: Path, result: BinaryVggResult) -> None:
    """Write `report.html` into the folder of a reproduction."""
    write(view_of(folder, result), folder / "report.html")


def view_of(folder: Path, result: BinaryVggResult) -> BinaryVggView:
    """Everything that the page shows, as plain values."""
    run = [row for row in result.rows if row.folder]
    trained, known = sum(row.trained for row in run), training()
    return BinaryVggView(
        subject=f"table II on {result.data}",
        verdict=result.verdict,
        detail=(
            f"{trained} of {len(result.rows)} rows trained, {plural(result.epochs, 'epoch')} each"
            f"{f'; {len(run) - trained} diverged' if trained < len(run) else ''}. "
            f"The document's {known['epochs']} epochs of {known['optimiser']} took five hours of a GPU."
        ),
        warning=_warning(result),
        tiles=_tiles(result),
        rows=tuple(_row(row) for row in result.rows),
        epochs=tuple(_epochs(folder, row) for row in run),
        command=result.command,
        facts=(
            ("data", f"{result.data}" + (f": {result.data_note}" if result.data_note else "")),
            ("epochs", str(result.epochs)),
            ("mode", result.mode),
            ("device", ", ".join(sorted({row.device for row in run})) or "none"),
            ("time of the trainings", duration(sum(row.seconds for row in run))),
        ),
    )


def _warning(result: BinaryVggResult) -> str:
    notes = [result.data_note] if result.data_note else []
    if result.mode == "quick":
        notes.append("a few epochs say little about a method: compare nothing but the order of magnitude")
    return "; ".join(notes)


def _tiles(result: BinaryVggResult) -> tuple[Tile, ...]:
    own = next((row for row in result.rows if row.name == "bvgg16" and row.trained), None)
    if own is None or own.test_accuracy is None:
        return ()
    document = f"document {percent(own.published)}" if own.published and result.data == "cifar-10" else ""
    small = ratio(4 * own.parameters / own.packed_bytes)
    macs = own.binary_macs + own.integer_macs + own.float_macs
    return (
        Tile("B-VGG16", percent(own.test_accuracy), document),
        Tile("Weights", si(own.parameters), own.bits),
        Tile("Packed", size(own.packed_bytes), f"{small} smaller than float32"),
        Tile("Binary work", f"{100 * own.binary_macs / macs:.1f} %", f"of {si(macs)} MACs for one image"),
    )


def _row(row: RowResult) -> BinaryRow:
    ours = row.test_accuracy
    gap = ""
    if row.trained and ours is not None and row.published is not None:
        gap = plus_minus(ours - row.published)
    parts = [("binary", row.binary_macs), ("integer", row.integer_macs), ("float", row.float_macs)]
    return BinaryRow(
        name=row.name,
        network=row.network,
        model=row.model,
        bits=row.bits,
        published="" if row.published is None else f"{row.published:.2f}",
        ours="" if ours is None else f"{ours:.2f}",
        gap=gap,
        epochs=str(row.epochs) if row.folder else "",
        size=size(row.packed_bytes) if row.folder else "",
        work=", ".join(f"{si(macs)} {name}" for name, macs in parts if macs),
        note=row.note,
        page=f"{row.folder}/report.html" if row.folder else "",
    )


def _epochs(folder: Path, row: RowResult) -> EpochPanel:
    history = read_history(folder / row.folder / HISTORY)
    return EpochPanel(
        row.network or row.name,
        (
            Curve("val", 1.0, tuple(each.validation_accuracy for each in history)),
            Curve("train", 0.35, tuple(each.train_accuracy for each in history)),
        ),
    )
