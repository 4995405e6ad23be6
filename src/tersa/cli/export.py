"""`tersa export`: a trained network as one checked file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tersa.cli.console import Terminal
from tersa.cli.options import Checkpoint, DataDir, Json, Model
from tersa.errors import UsageError

EPILOG = """\b
Examples:
  tersa export --model lenet --checkpoint lenet.safetensors --data mnist --out lenet.onnx
  tersa export --run runs/x --at 0.995 --format onnx --out lenet.onnx
  tersa export runs/x/model.coded --model net.py:build --out net.onnx
  tersa export --run runs/cnv --format qonnx --out cnv.onnx
  tersa export --run runs/sfc --format c --out sfc.c"""


def export(
    file: Annotated[
        Path | None, typer.Argument(help="An fp32 .onnx file that tersa wrote, or a .coded file.")
    ] = None,
    run: Annotated[Path | None, typer.Option("--run", help="A run folder: export what it made.")] = None,
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            help="With --run: the smallest step with this accuracy (0.995, 99.5%), or a step's number (12).",
        ),
    ] = None,
    model: Model = None,
    checkpoint: Checkpoint = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="What a model was trained on; needed for --model and for int8."),
    ] = None,
    data_dir: DataDir = None,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            help="onnx; of a low-bit network tersa (packed), qonnx (for FINN and hls4ml) or c (a C99 file).",
        ),
    ] = "onnx",
    precision: Annotated[
        str | None, typer.Option("--precision", help="Of onnx: fp32 (the default) or int8.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The file to write.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    json: Json = False,
) -> None:
    """Export a trained network to one file: pixels in, logits out, checked against the network."""
    from tersa.recipes.export import ExportRequest, export_subject

    network = model if file is not None and file.suffix == ".coded" else None
    given = [str(name) for name in (file, run, None if network else model) if name is not None]
    if len(given) != 1:
        raise UsageError(f"name one of FILE.onnx, --run DIR and --model SPEC, not {len(given)}")
    if out is None:
        raise UsageError("--out FILE.onnx says where to write (FILE.c with --format c)")
    request = ExportRequest(
        given[0], out, format, precision, data, data_dir, checkpoint, overwrite, at, network
    )
    result = export_subject(request)
    terminal = Terminal(json=json)
    terminal.say(
        f"{out}: {result.precision}, {result.size_bytes} bytes; {result.agreement.same_class} of "
        f"{result.agreement.images} images in the same class, "
        f"logits within {result.agreement.largest_difference:.2g}"
    )
    for operator, count in result.float_operations.items():
        terminal.say(f"computed in float: {count} x {operator}")
    for note in result.notes:
        terminal.say(note)
    terminal.result(result)
