"""The task: what a network has to do, as tensors, with where they came from.

A `Task` is made once by `tersa.data.load` and never changes. Images are kept as stored (bytes 0..255, or
floats for data that are not bytes) and become pixels in 0..1 batch by batch, so that CIFAR-10 costs 180 MB
and not 720. Axes: N images, C channels, H rows, W columns.

Example:
    >>> import torch
    >>> pixels(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([0., 1.])
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from tersa.numerics import digest


@dataclass(frozen=True)
class Split:
    """Images and their labels.

    Attributes:
        images: (N, C, H, W), uint8 in 0..255 or float32 as stored.
        labels: (N,), int64 in 0..K-1.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor | slice) -> Split:
        """The images and labels at `index`."""
        return Split(self.images[index], self.labels[index])

    def spread(self, count: int | None) -> Split:
        """So many of the images, at even distances (`evenly`); all of them for None."""
        return self if count is None else self.take(evenly(len(self), count))


def evenly(total: int, count: int) -> Tensor:
    """Places of a part of a split that stands for all of it, also where that is sorted by class: (M,) int64.

    >>> evenly(10, 4).tolist(), evenly(3, 8).tolist()
    ([0, 2, 5, 7], [0, 1, 2])
    """
    return torch.arange(min(total, count)) * total // min(total, count)


@dataclass(frozen=True)
class Provenance:
    """Where a task's data came from.

    Attributes:
        source: the source that read them (`digits`, `mnist`, `folder`, `npz`, ...).
        location: the file or folder that was read, or a package's name.
        sha256: one digest per file read, by file name.
        note: what a reader must know (`JPEG copy: expect 1-2 points less than published`), or empty.
    """

    source: str
    location: str
    sha256: dict[str, str]
    note: str = ""


@dataclass(frozen=True)
class Task:
    """A data set cut into train, validation and test, with shape, classes and normalisation.

    Validation is cut from train and steers every choice; test is read once, at the end.

    Attributes:
        name: as the user asked for it.
        train: what networks learn from.
        validation: what choices are made on; stratified, seeded, disjoint from `train`.
        test: what the last line of a report is measured on.
        classes: names of the K classes, in label order.
        mean: per channel, of pixels in 0..1, subtracted before the network.
        std: per channel, of pixels in 0..1, divided by before the network.
        provenance: where the data came from.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    provenance: Provenance

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        c, h, w = self.train.images.shape[1:]
        return int(c), int(h), int(w)

    def normalise(self, images: Tensor) -> Tensor:
        """Network input: `(pixels(images) - mean) / std`, per channel, float32, (N, C, H, W)."""
        return (pixels(images) - _per_channel(self.mean, images.device)) / _per_channel(
            self.std, images.device
        )


@lru_cache(maxsize=64)
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(1, C, 1, 1) on a device, made once: a copy to a GPU waits for it, and cannot be part of a graph."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device).view(1, -1, 1, 1)


def pixels(images: Tensor) -> Tensor:
    """Stored images as float32: bytes are divided by 255, floats are left as they are."""
    if images.dtype == torch.uint8:
        return images.to(torch.float32) / 255.0
    return images.to(torch.float32)


def fingerprint(task: Task) -> str:
    """Name of what a network can learn and be judged from: other data or another split, another name.

    Made of the digests of the files, the sizes and labels of the splits, the images of validation (they tell
    which were cut from train), the classes and the normalisation. A task made by hand, without file digests,
    is hashed whole.

    Returns:
        16 hexadecimal digits, the same on any machine.
    """
    parts = {"train": task.train, "validation": task.validation, "test": task.test}
    files = task.provenance.sha256
    hashed = ("validation",) if files else tuple(parts)
    return digest(
        {
            "sha256": files if len(files) > 1 else list(files.values()),  # one file may have any name
            "sizes": {name: len(split) for name, split in parts.items()},
            "labels": {name: _sha256(split.labels) for name, split in parts.items()},
            "images": {name: _sha256(parts[name].images) for name in hashed},
            "shape": task.shape,
            "classes": task.classes,
            "normalisation": [f"{v:.6g}" for v in (*task.mean, *task.std)],  # last bits depend on the machine
        }
    )


def _sha256(tensor: Tensor) -> str:
    values = tensor.detach().cpu().contiguous().numpy()
    return hashlib.sha256(f"{values.dtype}{values.shape}".encode() + values.tobytes()).hexdigest()
