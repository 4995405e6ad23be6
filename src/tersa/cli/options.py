"""Options that mean the same in every verb, written once.

Use them as annotations: `def shrink(data: Data = "digits", json: Json = False) -> None`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    str,
    typer.Option(
        "--data", help="A known data set (tersa data list), or a path: folder or zip of classes, .npz."
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Look for data here first (then $TERSA_DATA, the cache, a download)."),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="A spec (lenet, mlp:100x100, resnet:20, lenet+separable), module.py:build, or a .pt2 export.",
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint", help="Trained weights for --model: .safetensors, or a weights-only .pt file."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="Folder for the results; an existing one needs --resume or --overwrite."),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Everything random follows from it.")]
Device = Annotated[str, typer.Option("--device", help="auto (a GPU when there), cpu or cuda.")]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="Threads for training; by default all cores."),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Print the plan with estimated time and memory; do no work."),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="The result as one JSON object on standard output, and nothing else there."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the work in --out.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Remove what is in --out and start again.")]
