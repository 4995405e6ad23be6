"""The training split on the device, in the form that costs least, and the batches cut from it.

No loader and no worker processes: images are moved once and indexed as whole tensors. They wait as network
inputs (normalised once) when nothing changes them, as float pixels when augmentation does (a crop's border
must be black before the normalisation, as around a real image), and as stored bytes when a run is too short,
or the float copy larger than `RESIDENT_BYTES`, for converting all of them to pay.

An epoch is one permutation cut into equal parts, so that its last batch is as large as the others.

Example:
    >>> [len(part) for part in parts(torch.arange(10), 3)]
    [4, 3, 3]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tersa.data.augment import Shifts, shifted
from tersa.data.task import Task, pixels
from tersa.train.config import Extent, TrainConfig

RESIDENT_BYTES = 10**9
"""Largest float copy of the training images that is kept."""

Form = Literal["stored", "pixels", "inputs"]


@dataclass(frozen=True)
class Resident:
    """Training images and labels on the device.

    Attributes:
        images: (N, C, H, W) in `form`.
        labels: (N,) int64.
        form: `stored` as in the task, `pixels` float32 in 0..1, `inputs` normalised float32.
    """

    images: Tensor
    labels: Tensor
    form: Form


def settle(task: Task, config: TrainConfig, length: Extent, device: str) -> Resident:
    """Move the training split to the device in the form that this run should index."""
    images, labels = task.train.images.to(device), task.train.labels.to(device)
    reads = length.iterations / length.per_epoch
    if reads < 1.0 or images.numel() * 4 > RESIDENT_BYTES:
        return Resident(images, labels, "stored")
    if config.augments:
        return Resident(pixels(images), labels, "pixels")
    return Resident(task.normalise(images), labels, "inputs")


def order(images: int, generator: torch.Generator) -> Tensor:
    """A permutation of the images, (N,) int64, on the CPU: the same on every device."""
    return torch.randperm(images, generator=generator)


def parts(index: Tensor, count: int) -> tuple[Tensor, ...]:
    """Cut an order into `count` parts whose lengths differ by one at most."""
    return tuple(torch.tensor_split(index, count))


def part(index: Tensor, count: int, place: int) -> Tensor:
    """`parts(index, count)[place]`, without making the others.

    >>> [part(torch.arange(10), 3, place).tolist() for place in range(3)]
    [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
    """
    least, longer = divmod(len(index), count)
    start = place * least + min(place, longer)
    return index[start : start + least + (place < longer)]


def inputs(data: Resident, index: Tensor, task: Task, config: TrainConfig, shifts: Shifts) -> Tensor:
    """Network inputs of the images at `index`, shifted and normalised: (N, C, H, W) float32."""
    images = data.images.index_select(0, index)
    if data.form != "inputs":
        images = pixels(images) if data.form == "stored" else images
        images = task.normalise(shifted(images, shifts))
    return images.contiguous(memory_format=torch.channels_last) if config.channels_last else images
