"""Agreement between a file and the network: counted over the whole split, and refused when it fails."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tersa.errors import ModelError
from tersa.export.artefact import Artefact
from tersa.export.check import BATCH, agreement, classify, compare_logits, module_logits, require

Exported = Callable[..., Artefact]
Pixels = Callable[..., npt.NDArray[np.float32]]


def test_a_whole_split_in_batches(exported: Exported, pixels: Pixels) -> None:
    artefact, images = exported("lenet"), pixels(count=BATCH + 3)
    assert artefact.module is not None
    reference = module_logits(artefact.module, images)
    found = agreement(artefact.path, reference, images)
    assert (found.images, found.same_class) == (BATCH + 3, BATCH + 3)
    assert 0.0 <= found.largest_difference <= found.tolerance
    require(found, "net.onnx")


def test_bytes_and_their_pixels_give_the_same(exported: Exported) -> None:
    stored = torch.arange(2 * 144, dtype=torch.int64).remainder(256).to(torch.uint8).view(2, 1, 12, 12)
    path = exported("lenet").path
    np.testing.assert_array_equal(classify(path, stored), classify(path, stored.float() / 255))


def test_another_network_is_found_out(exported: Exported, pixels: Pixels) -> None:
    path, images = exported("lenet").path, pixels()
    wrong = classify(path, images)
    wrong[3] = np.roll(wrong[3], 1) + 1.0
    found = agreement(path, wrong, images)
    assert found.same_class == len(images) - 1
    with pytest.raises(ModelError, match=r"net.onnx does not give .* 1 of 40 classes differ"):
        require(found, "net.onnx")


def test_nan_is_never_within_tolerance() -> None:
    with pytest.raises(ModelError):
        require(compare_logits(np.array([[np.nan, 1.0]]), np.array([[0.0, 1.0]]), tolerance=1.0), "x")


def test_shapes_are_checked(exported: Exported, pixels: Pixels) -> None:
    with pytest.raises(ModelError, match=r"takes images of shape \(1, 12, 12\), got \(3, 12, 12\)"):
        classify(exported("lenet").path, pixels(3))
    with pytest.raises(ModelError, match="gave logits of shape"):
        compare_logits(np.zeros((2, 3)), np.zeros((2, 4)), tolerance=0.0)
