"""What a trained network is like besides its accuracy: `portrait.json` of a run, and its page's pictures.

    operations    memory and work of each layer, binary, integer and float apart
    confusion     counts of (true class, said class) on the test split
    certainties   single test images with the probability of each class (document 004, figures 6 and 7)
    looks         integrated gradients of one test image per class: what spoke for it, what against
    batch         one training batch after augmentation, as the network saw it (document 004, figure 4)

The test split is read for it, after the training; nothing is chosen by it.

Example:
    >>> from tersa.data import load
    >>> from tersa.models.zoo import build
    >>> task = load("digits")
    >>> found = portrait(build("mlp:8", task.shape, 10), task, TrainConfig(epochs=1))
    >>> len(found.confusion), sum(map(sum, found.confusion)) == len(task.test), found.batch is None
    (10, True, True)
"""

from __future__ import annotations

import base64

import numpy as np
import torch
from torch import Tensor, nn

from tersa.data.augment import draw, shifted
from tersa.data.sheet import png
from tersa.data.task import Task, pixels
from tersa.models.operations import Operations, operations
from tersa.recipes.evidence import confusion
from tersa.recipes.predict import Guess, softmax
from tersa.records.base import SCHEMA, Record
from tersa.study.attribution import PAPER, integrated_gradients, mosaic
from tersa.train.config import TrainConfig
from tersa.train.evaluation import predict

FILE = "portrait.json"
RIGHT, WRONG = 4, 4
"""Images with their probabilities: of each kind."""
CHANCES = 10
"""Classes of an image that are shown, at most."""
LOOKS = 10
"""Images that are explained."""
SHEET_ROWS, SHEET_COLUMNS = 6, 16
"""Training images that are shown as the network sees them."""


class Shown(Record):
    """A picture: the base64 of a PNG file, and its size on the page."""

    png: str
    width: int
    height: int


class ImageChances(Record):
    """One test image with its most likely classes, best first."""

    png: str
    label: str
    chances: list[Guess]


class Portrait(Record):
    """What the page of a network shows of it.

    Attributes:
        operations: of the network.
        confusion: rows are true classes, columns what the network said; test images.
        certainties: images named rightly, then the most confident mistakes.
        looks: test images above, their integrated gradients below; None where no gradient reaches the pixels.
        batch: training images after augmentation; None where nothing changes them.
    """

    schema_version: int = SCHEMA
    operations: Operations
    confusion: list[list[int]]
    certainties: list[ImageChances]
    looks: Shown | None
    batch: Shown | None


def portrait(
    model: nn.Module,
    task: Task,
    config: TrainConfig,
    *,
    spec: str = "",
    device: str = "cpu",
    answers: Tensor | None = None,
) -> Portrait:
    """Look at a trained network.

    Args:
        model: takes normalised (N, C, H, W), gives (N, K); its modes are left as they were.
        task: what it was trained on.
        config: of its training, for the augmentation.
        spec: the network's name, which says its bits.
        device: where it computes.
        answers: its logits of the test split, (N, K), where they are known.
    """
    model.to(device)
    logits = (predict(model, task.test, task, device=device) if answers is None else answers).numpy()
    labels, said = task.test.labels.numpy(), logits.argmax(axis=1)
    shares = softmax(logits)
    places = _notable(labels, said, shares)
    return Portrait(
        operations=operations(model, task.shape, spec),
        confusion=confusion(labels, said, len(task.classes)),
        certainties=[_chances(task, place, shares[place]) for place in places],
        looks=_looks(model, task, device),
        batch=_batch(task, config) if config.augments else None,
    )


def _notable(labels: np.ndarray, said: np.ndarray, shares: np.ndarray) -> list[int]:
    """The first right answers, each of another class, and the most confident mistakes."""
    right = labels == said
    firsts = [int(np.flatnonzero(right & (labels == k))[0]) for k in np.unique(labels[right])][:RIGHT]
    wrong = np.flatnonzero(~right)
    worst = wrong[np.argsort(-shares[wrong].max(axis=1), kind="stable")][:WRONG]
    return [*firsts, *(int(place) for place in worst)]


def _chances(task: Task, place: int, shares: np.ndarray) -> ImageChances:
    order = np.argsort(-shares, kind="stable")[:CHANCES]
    return ImageChances(
        png=base64.b64encode(png(task.test.images[place], scale=2)).decode(),
        label=task.classes[int(task.test.labels[place])],
        chances=[Guess(label=task.classes[int(k)], probability=float(shares[k])) for k in order],
    )


def _looks(model: nn.Module, task: Task, device: str) -> Shown | None:
    """One test image of each class, and below it which pixels spoke for the class."""
    labels = task.test.labels
    places = [int((labels == k).nonzero()[0, 0]) for k in range(len(task.classes)) if (labels == k).any()]
    places = places[:LOOKS]
    shown = task.test.images[places].to(device)
    black = task.normalise(torch.zeros_like(shown[:1]))[0]
    training, grads = model.training, [p.requires_grad for p in model.parameters()]
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    try:
        found = integrated_gradients(
            lambda x: model(x[0]).unsqueeze(0), task.normalise(shown), labels[places].to(device), black
        )[0]  # (N, C, H, W)
    except (ValueError, RuntimeError):  # a network without a gradient to its pixels has nothing to show
        return None
    finally:
        model.train(training)
        for parameter, wanted in zip(model.parameters(), grads, strict=True):
            parameter.requires_grad_(wanted)
    above, below = mosaic(_grey(pixels(shown)), len(places)), mosaic(_grey(found), len(places), signed=True)
    between = np.full((1, above.shape[1], 3), PAPER, np.uint8)
    sheet = torch.from_numpy(np.concatenate([above, between, below])).permute(2, 0, 1)
    return _shown(sheet, max(1, round(900 / sheet.shape[2])))


def _batch(task: Task, config: TrainConfig) -> Shown:
    """Training images as an update sees them."""
    chance = torch.Generator().manual_seed(config.seed)
    count = min(len(task.train), SHEET_ROWS * SHEET_COLUMNS)
    index = torch.randperm(len(task.train), generator=chance)[:count]
    images = pixels(task.train.images[index])
    images = shifted(images, draw(count, chance, flip=config.flip, pad=config.pad))
    n, c, h, w = images.shape
    rows = -(-n // SHEET_COLUMNS)
    sheet = torch.ones(c, rows * (h + 1) - 1, SHEET_COLUMNS * (w + 1) - 1)
    for place, image in enumerate(images):
        top, left = place // SHEET_COLUMNS * (h + 1), place % SHEET_COLUMNS * (w + 1)
        sheet[:, top : top + h, left : left + w] = image
    return _shown(sheet, max(1, round(900 / sheet.shape[2])))


def _shown(image: Tensor, scale: int) -> Shown:
    encoded = base64.b64encode(png(image.cpu(), scale=scale)).decode()
    return Shown(png=encoded, width=scale * image.shape[2], height=scale * image.shape[1])


def _grey(images: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """(N, H, W), channels added up."""
    return images.detach().sum(1).double().cpu().numpy()
