"""An engine that trains nothing: numbers that follow from a cell and its neighbours in the stack.

`mlp:13` fails, `mlp:9` kills its process, `mlp:7` does so once (the file `FAKE_ENGINE_MARK` remembers),
`mlp:5` diverges. `FAKE_ENGINE_SLEEP` is the time of one epoch in seconds.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tersa.data.task import Task
from tersa.errors import UsageError
from tersa.numerics import digest
from tersa.study.cell import Cell, CellEpoch, CellResult, LayerState

CAPACITY = 3


def capacity(cell: Cell, task: Task | None = None) -> int:
    return CAPACITY


def cost(cell: Cell, task: Task | None = None) -> float:
    return float(cell.epochs)


def network_for(cell: Cell, task: Task) -> object:
    if cell.model == "mlp:0":
        raise UsageError("a layer without units")
    return None


def train_stack(
    cells: Sequence[Cell],
    task: Task,
    *,
    progress: Callable[[float], None] | None = None,
    threads: int = 1,
    device: str = "cpu",
) -> list[CellResult]:
    assert len(task.classes) == 10
    model = cells[0].model
    if model == "mlp:13":
        raise RuntimeError("thirteen units")
    if model == "mlp:9" or (model == "mlp:7" and not Path(os.environ["FAKE_ENGINE_MARK"]).exists()):
        Path(os.environ["FAKE_ENGINE_MARK"]).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    for epoch in range(cells[0].epochs):
        time.sleep(float(os.environ.get("FAKE_ENGINE_SLEEP", "0")))
        if progress is not None:
            progress((epoch + 1) / cells[0].epochs)
    neighbours = digest([cell.key for cell in cells])
    return [result(cell, neighbours, len(cells)) for cell in cells]


def result(cell: Cell, neighbours: str = "", stacked: int = 1) -> CellResult:
    """Numbers that depend on who trained beside the cell, as rounding does."""
    accuracy = int(digest([cell.key, neighbours])[:8], 16) / 2**32 * 100
    diverged = cell.model == "mlp:5"
    epochs = [
        CellEpoch(
            epoch=e,
            phase="train",
            train_loss=None if diverged else 1.0 / e,
            train_accuracy=None if e % 2 else accuracy,
            test_accuracy=accuracy / e,
            learning_rate=0.7**e,
        )
        for e in range(1, cell.epochs + 1)
    ]
    layers = [
        LayerState(
            epoch=1, layer="fc1", tensor="weight", low=-1.0, high=1.0, mean=accuracy / 7, variance=0.1
        ),
        LayerState(
            epoch=1, layer="fc1", tensor="bias", low=-1 / 3, high=1.0, mean=0.0, variance=0.1, angle=12.5
        ),
    ]
    return CellResult(
        key=cell.key,
        cell=cell,
        status="diverged" if diverged else "done",
        test_accuracy=accuracy,
        epochs=epochs,
        layers=layers,
        seconds=0.5,
        stacked=stacked,
        message="the loss was not finite" if diverged else "",
    )
