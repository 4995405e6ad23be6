"""`tersa predict`: classify images with an exported network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tersa.cli.console import Terminal
from tersa.cli.options import Json
from tersa.errors import UsageError

EPILOG = "Example: tersa predict runs/demo/model.onnx digit.png --top 3"


def predict(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="FILE.onnx or FILE.coded and then images (PNG, JPEG, .npy); with --run, images alone."
        ),
    ],
    run: Annotated[
        Path | None, typer.Option("--run", help="A run folder: use the file that it made.")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many classes to name.")] = 3,
    resize: Annotated[bool, typer.Option("--resize", help="Scale images of another size.")] = False,
    json: Json = False,
) -> None:
    """Classify images with an exported network, by ONNX Runtime."""
    import tempfile
    import time

    from tersa.export.artefact import read_artefact
    from tersa.recipes.predict import PredictResult
    from tersa.recipes.predict import predict as answer
    from tersa.recipes.subjects import find_subject, to_artefact

    start = time.perf_counter()
    if run is None and files[0].suffix not in (".onnx", ".coded"):
        raise UsageError(
            f"{files[0]} is not an .onnx or .coded file; name one first, or a run folder with --run"
        )
    model, images = (run, files) if run else (files[0], files[1:])
    with tempfile.TemporaryDirectory(prefix="tersa.") as folder:
        if run or model.suffix == ".coded":
            subject = find_subject(str(model), None)
            artefact = to_artefact(subject, subject.header.precision, Path(folder) / "run.onnx", None)
        else:
            artefact = read_artefact(model)
        predictions = answer(artefact, images, top=top, resize=resize)
    terminal = Terminal(json=json)
    for one in predictions:
        guesses = ", ".join(f"{guess.label} ({guess.probability:.1%})" for guess in one.top)
        terminal.say(f"{one.image}: {guesses}" + (f"  [{one.note}]" if one.note else ""))
    terminal.result(
        PredictResult(
            model=str(model),
            predictions=predictions,
            artefacts=[],
            seconds=time.perf_counter() - start,
        )
    )
