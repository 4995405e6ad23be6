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
Network = Annotated[
    str | None,
    typer.Option("--model", help="The model behind a .coded file, where it is your own: module.py:build."),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint", help="Trained weights for --model: .safetensors, or a weights-only .pt file."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Folder for the results; an existing one needs --resume or --overwrite. [runs/VERB-DATA]",
    ),
]
StudyOut = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Folder for the results; an existing one needs --resume or --overwrite. [studies/NAME]",
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Everything random follows from it.")]
Device = Annotated[str, typer.Option("--device", help="auto (a GPU when there), cpu or cuda.")]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="Threads for training; by default all cores."),
]
On = Annotated[
    str,
    typer.Option(
        "--on",
        metavar="PLACE",
        help="Where workers are: local, ray (RAY_ADDRESS, or started here), auto (a cluster that runs here), "
        "HOST:PORT or ray://HOST:PORT.",
    ),
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
MaxLoss = Annotated[
    float | None,
    typer.Option("--max-loss", help="Points of accuracy that may be lost. [default: 1 if no goal is given]"),
]
MinAccuracy = Annotated[
    float | None, typer.Option("--min-accuracy", help="Percent of accuracy that must be kept.")
]
Parameters = Annotated[
    str | None,
    typer.Option("--parameters", help="Most parameters: 10k, or 0.01x of the baseline's."),
]
Size = Annotated[str | None, typer.Option("--size", help="Largest file: 64kB, or 0.1x of the baseline's.")]
Latency = Annotated[
    str | None,
    typer.Option("--latency", help="Longest call on --target: 2ms, or 0.5x of the baseline's."),
]
Energy = Annotated[
    str | None,
    typer.Option(
        "--energy",
        help="Most energy of a call on --target, by this machine's counters: 2mJ, or 0.5x of the baseline's.",
    ),
]
Macs = Annotated[str | None, typer.Option("--macs", help="Most multiply-accumulates: 2M, or 0.2x.")]
Target = Annotated[str, typer.Option("--target", help="Runtime whose latency counts (see tersa doctor).")]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Images per call when latency is measured.")]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        help="fp32, int8, packed (the .tersa file of a low-bit network), or auto: INT8 if it keeps the goals "
        "and is not slower; packed where --target is packed or c.",
    ),
]
Epochs = Annotated[int | None, typer.Option("--epochs", min=1, help="Of the baseline's training.")]
Validation = Annotated[
    int | None, typer.Option("--validation", min=1, help="Images of train that steer the choices.")
]
MeasureSeconds = Annotated[
    float,
    typer.Option("--measure-seconds", min=0.01, help="Timed calls of each side at the end."),
]
