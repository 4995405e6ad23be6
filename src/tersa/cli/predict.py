"""`tersa predict`: classify images with an exported network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tersa.cli.console import Terminal
from tersa.cli.options import DataDir, Json, Network
from tersa.errors import UsageError

if TYPE_CHECKING:
    from tersa.recipes.predict import Prediction

EPILOG = """\b
Examples:
  tersa predict runs/demo digit.png
  tersa predict runs/demo/model.onnx photos --top 2"""

BAR = 30
"""Characters of a bar for a probability of 1."""


def predict(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="A run folder, FILE.onnx, .tersa or .coded, then images (PNG, JPEG, .npy) or folders."
        ),
    ],
    run: Annotated[
        Path | None, typer.Option("--run", help="A run folder; then all FILES are images.")
    ] = None,
    model: Network = None,
    data_dir: DataDir = None,
    top: Annotated[
        int | None,
        typer.Option(
            "--top", min=1, help="How many classes to name.", show_default="10 of one image, else 3"
        ),
    ] = None,
    resize: Annotated[
        bool,
        typer.Option("--resize", help="Scale images as a whole; else the centre of larger ones is shrunk."),
    ] = False,
    json: Json = False,
) -> None:
    """Classify images with a trained network: probabilities of its classes."""
    import tempfile
    import time

    from tersa.export.artefact import read_artefact
    from tersa.recipes.predict import PredictResult, score
    from tersa.recipes.predict import predict as answer
    from tersa.recipes.subjects import find_subject, to_artefact

    start = time.perf_counter()
    if (
        run is None
        and files[0].suffix not in (".onnx", ".tersa", ".coded")
        and not (files[0] / "result.json").is_file()
    ):
        raise UsageError(
            f"{files[0]} is no finished run, .onnx, .tersa or .coded file; name one first, or give --run DIR"
        )
    source, images = (run, files) if run else (files[0], files[1:])
    if model is not None and source.suffix != ".coded":
        raise UsageError(f"--model names the network of a .coded file, and {source} is none; leave it out")
    with tempfile.TemporaryDirectory(prefix="tersa.") as folder:
        if source.is_dir() or source.suffix == ".coded":
            subject = find_subject(str(source), None, network=model, data_dir=data_dir)
            stored = subject.file.header if subject.file else subject.header
            artefact = to_artefact(subject, stored.precision, Path(folder) / "run.onnx", None)
        else:
            artefact = read_artefact(source)
        answers = answer(artefact, images, top=top, resize=resize)
    predictions = answers.predictions
    right, named = score(predictions)
    terminal = Terminal(json=json)
    if len(predictions) == 1:
        _show_one(terminal, predictions[0])
    else:
        _show_table(terminal, predictions)
    for one in answers.skipped:
        terminal.say(f"left out: {one.reason}")
    if right is not None:
        terminal.say(f"{right} of the {named} images in folders named after a class are given that class")
    terminal.result(
        PredictResult(
            model=str(source),
            predictions=predictions,
            right=right,
            named=named,
            skipped=answers.skipped,
            artefacts=[],
            seconds=time.perf_counter() - start,
        )
    )


def _show_one(terminal: Terminal, one: Prediction) -> None:
    """An image with its classes as bars."""
    terminal.say(one.image + (f"  [{one.note}]" if one.note else ""))
    widest = max(len(guess.label) for guess in one.top)
    for guess in one.top:
        bar = "█" * round(BAR * guess.probability)
        terminal.say(f"  {guess.label:{widest}} {guess.probability:6.1%}  {bar}".rstrip())


def _show_table(terminal: Terminal, predictions: list[Prediction]) -> None:
    """Several images, a line each."""
    rows = [
        (
            one.image,
            one.top[0].label,
            f"{one.top[0].probability:.1%}",
            ", ".join(f"{guess.label} {guess.probability:.1%}" for guess in one.top[1:]),
            one.note,
        )
        for one in predictions
    ]
    columns = ["image", "class", "probability", "then", "converted"]
    kept = [place for place in range(5) if place < 3 or any(row[place] for row in rows)]
    terminal.table(
        f"{len(rows)} images",
        [columns[place] for place in kept],
        [[row[place] for place in kept] for row in rows],
        left=2,
    )
