"""What each rule's network looks at, as pictures beside a study: `attribution.json`.

A study keeps numbers, not networks. One run per rule is trained again, and looked at in two ways
(`tersa.study.attribution`): for one test image of each class, which pixels spoke for its class; and for each
class and for units of the last hidden layer, the test images that activate it most, averaged.

Example:
    >>> from tersa.data import load
    >>> cell = Cell(data="digits", model="mlp:8", epochs=1)
    >>> [picture.title for picture in pictures_of(cell, load("digits"))]
    ['bp: what spoke for the class', 'bp: what activates it']
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tersa.data.sheet import png
from tersa.data.sources import load
from tersa.data.task import Task, pixels
from tersa.files import write_atomic
from tersa.recipes.setting import Setting
from tersa.recipes.study_report import PICTURES, StudyPicture
from tersa.rules.base import Extras
from tersa.rules.network import Network, Weights
from tersa.rules.registry import rule as rule_of
from tersa.study.attribution import GAP, PAPER, Bytes, atlas, integrated_gradients, mosaic
from tersa.study.cell import Cell
from tersa.study.stacked import start, train_stack

IMAGES = 2000
"""Test images that the atlas is made from."""
UNITS = 20
"""Hidden units that are shown."""
COLUMNS = 10
SCALE = 2
"""Pixels of the picture for one of the images."""


def write_pictures(folder: Path, cells: Iterable[Cell], setting: Setting | None = None) -> Path:
    """Train each cell again, look at it, and write `attribution.json` into a study's folder.

    Args:
        folder: of the study.
        cells: one per rule; stacked with nothing, so that their numbers are those of single runs.
        setting: data, threads and progress.

    Returns:
        The file's path.
    """
    setting = setting or Setting()
    chosen = list(cells)
    found: list[StudyPicture] = []
    for place, cell in enumerate(chosen):

        def told(share: float, place: int = place, rule: str = cell.rule) -> None:
            setting.say("what networks look at", (place + share) / len(chosen), rule)

        found += pictures_of(
            cell, load(cell.data, data_dir=setting.data_dir), threads=setting.threads or 1, progress=told
        )
    path = folder / PICTURES
    write_atomic(path, json.dumps([picture.model_dump() for picture in found], indent=1) + "\n")
    return path


def pictures_of(
    cell: Cell, task: Task, *, threads: int = 1, progress: Callable[[float], None] | None = None
) -> list[StudyPicture]:
    """Train one run and look at its network.

    Args:
        cell: of the run.
        task: its data.
        threads: for training.
        progress: told the share that is done.
    """
    kept: list[tuple[Weights, Extras]] = []
    train_stack(
        [cell],
        task,
        progress=progress,
        threads=threads,
        keep=lambda _, weights, extras: kept.append((weights, extras)),
    )
    (weights, extras), network = kept[0], start([cell], task, "cpu").network
    images, labels = task.test.images[:IMAGES], task.test.labels[:IMAGES]
    inputs = task.normalise(images) if cell.scaling == "standard" else pixels(images)
    black = torch.zeros_like(images[:1])
    baseline = (task.normalise(black) if cell.scaling == "standard" else pixels(black))[0]

    def scores(x: Tensor) -> Tensor:
        return rule_of(cell.rule).predict(network, weights, extras, x[0])  # one run: its images, shared

    return [
        _attributed(cell.rule, scores, inputs, pixels(images), labels, baseline, task),
        _activated(cell.rule, network, weights, scores, inputs, pixels(images)),
    ]


def _attributed(
    rule: str,
    scores: Callable[[Tensor], Tensor],
    inputs: Tensor,
    shown: Tensor,
    labels: Tensor,
    baseline: Tensor,
    task: Task,
) -> StudyPicture:
    """The first test image of each class, and below it what spoke for the class."""
    firsts = [int((labels == k).nonzero()[0, 0]) for k in range(len(task.classes)) if (labels == k).any()]
    firsts = firsts[:COLUMNS]
    found = integrated_gradients(scores, inputs[firsts], labels[firsts], baseline)[0]  # (N, C, H, W)
    above = mosaic(_tiles(shown[firsts]), len(firsts))
    below = mosaic(_tiles(found), len(firsts), signed=True)
    return _picture(
        f"{rule}: what spoke for the class",
        "One test image of each class, and below it its integrated gradients: green pixels spoke for the "
        "right class, grey ones against it.",
        np.concatenate([above, _rule(above), below]),
    )


def _activated(
    rule: str,
    network: Network,
    weights: Weights,
    scores: Callable[[Tensor], Tensor],
    inputs: Tensor,
    shown: Tensor,
) -> StudyPicture:
    """The classes in the first row, units of the last hidden layer below."""
    with torch.no_grad():
        chances = torch.softmax(scores(inputs.unsqueeze(0)), -1)  # (1, N, K)
        hidden = network.run(weights, inputs)[:-1]
    rows = [mosaic(_tiles(atlas(chances, shown)[0][:COLUMNS]), COLUMNS)]
    text = "Test images that activate it most, averaged: the classes"
    if hidden:
        last = hidden[-1].flatten(3).amax(-1) if hidden[-1].dim() > 3 else hidden[-1]
        units = atlas(last, shown)[0][:UNITS]  # (U, C, H, W)
        rows.append(mosaic(_tiles(units), COLUMNS))
        text += (
            f" in the first row, below them {len(units)} units of the last hidden layer (black: never active)"
        )
        rows.insert(1, _rule(rows[0]))
    return _picture(f"{rule}: what activates it", f"{text}.", np.concatenate(rows))


def _tiles(images: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """(M, H, W), channels added up."""
    return images.detach().sum(1).double().numpy()


def _rule(above: Bytes) -> Bytes:
    """A line of paper as wide as a picture."""
    return np.full((GAP, above.shape[1], 3), PAPER, np.uint8)


def _picture(title: str, text: str, sheet: Bytes) -> StudyPicture:
    image = torch.from_numpy(sheet).permute(2, 0, 1)  # (3, H, W)
    encoded = base64.b64encode(png(image, scale=SCALE)).decode()
    return StudyPicture(
        title=title, text=text, png=encoded, width=SCALE * sheet.shape[1], height=SCALE * sheet.shape[0]
    )
