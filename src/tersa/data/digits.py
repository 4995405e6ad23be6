"""`digits`: 1,797 grey 8x8 images of handwritten digits that come with scikit-learn; needs no network.

Pixels are float32 in 0..1 (the stored 0..16 divided by 16), (N, 1, 8, 8). The set has no test split of its
own: 360 images are cut for it, stratified, with a fixed seed that no option changes, so that every accuracy
on `digits` is of the same images.

References:
    Alpaydin & Kaynak, Optical Recognition of Handwritten Digits (1998), UCI Machine Learning Repository:
    the test part of that set.

Example:
    >>> [split.stop - split.start for split in (read(()).part("train"), read(()).part("test"))]
    [1437, 360]
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

from tersa.data.source import Array, Decoded, Found, Source
from tersa.data.split import stratified

TEST_COUNT = 360
TEST_SEED = 1797
"""Fixed for ever: another value would make accuracies on `digits` incomparable."""

CLASSES = tuple("0123456789")
NOTE = f"test is a fixed stratified cut of {TEST_COUNT} images"


def find(_: Path) -> Found:
    """No folder holds them."""
    return Found()


def read(_: tuple[Path, ...]) -> Decoded:
    """All 1,797 images, train first, then the fixed test cut."""
    # Here and not above: it costs more to import than everything else in tersa.data together.
    from sklearn.datasets import load_digits

    values: Array
    labels: Array
    values, labels = load_digits(return_X_y=True)
    images = (values.reshape(-1, 1, 8, 8) / 16.0).astype(np.float32)  # (N, 1, 8, 8)
    generator = torch.Generator().manual_seed(TEST_SEED)
    rest, taken = stratified(torch.from_numpy(labels.astype(np.int64)), TEST_COUNT, generator)
    order = torch.cat((rest, taken)).numpy()
    sha256 = hashlib.sha256(images.tobytes() + labels.astype(np.uint8).tobytes()).hexdigest()
    return Decoded(
        images[order],
        labels[order].astype(np.int64),
        (len(rest), len(taken), 0),
        CLASSES,
        NOTE,
        {"digits": sha256},
    )


SOURCE = Source(
    name="digits",
    about="1,797 grey 8x8 handwritten digits, bundled with scikit-learn",
    find=find,
    read=read,
    package="scikit-learn",
    cached=False,
)
