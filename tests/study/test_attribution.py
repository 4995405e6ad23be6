"""Attribution: complete, exact for linear scores, one run at a time equal to a stack."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tersa.rules.network import Network, Pair, network_of
from tersa.study.attribution import AGAINST, FOR, GAP, PAPER, atlas, integrated_gradients, mosaic

COMPLETE = 2e-3
"""The midpoint rule with 200 steps across the kinks of a small ReLU network."""


def waves(*shape: int, scale: float = 1.0) -> Tensor:
    count = int(np.prod(shape))
    return scale * torch.sin(torch.arange(count, dtype=torch.float32) * 1.7).reshape(shape)


@pytest.fixture
def network() -> Network:
    return network_of("mlp:6", (1, 4, 4), 3)


@pytest.fixture
def weights(network: Network) -> list[Pair]:
    return [
        Pair(waves(2, *layer.weight_shape, scale=0.5 + i), waves(2, layer.outputs, scale=0.2))
        for i, layer in enumerate(network.layers)
    ]


def test_the_sum_is_the_change_of_the_score(network: Network, weights: list[Pair]) -> None:
    images, classes, black = waves(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1]), torch.full((1, 4, 4), -0.4)

    def scores(x: Tensor) -> Tensor:
        return network.logits(weights, x)

    found = integrated_gradients(scores, images, classes, black, runs=2, steps=200)
    assert found.shape == (2, 5, 1, 4, 4)
    change = network.logits(weights, images) - network.logits(weights, black.unsqueeze(0))  # (R, N, K)
    expected = change.gather(-1, classes.expand(2, -1).unsqueeze(-1)).squeeze(-1)
    assert_close(found.sum((2, 3, 4)), expected, atol=COMPLETE, rtol=COMPLETE)


def test_linear_scores_are_shared_out_exactly() -> None:
    weight, images = waves(2, 3, 16), waves(4, 1, 4, 4)
    classes, black = torch.tensor([2, 0, 1, 1]), waves(1, 4, 4, scale=0.1)
    found = integrated_gradients(lambda x: x.flatten(2) @ weight.mT, images, classes, black, runs=2, steps=3)
    expected = weight[:, classes].view(2, 4, 1, 4, 4) * (images - black)
    assert_close(found, expected)


def test_a_stack_is_looked_at_run_by_run(network: Network, weights: list[Pair]) -> None:
    images, classes, black = waves(3, 1, 4, 4), torch.tensor([0, 1, 2]), torch.zeros(1, 4, 4)
    both = integrated_gradients(lambda x: network.logits(weights, x), images, classes, black, runs=2)
    for run in range(2):
        alone = [Pair(pair.weight[run : run + 1], pair.bias[run : run + 1]) for pair in weights]
        one = integrated_gradients(lambda x, w=alone: network.logits(w, x), images, classes, black)
        assert_close(both[run : run + 1], one)


def test_scores_without_a_gradient_are_refused() -> None:
    with pytest.raises(ValueError, match="no gradient"):
        integrated_gradients(
            lambda x: x.detach().flatten(2), waves(1, 1, 2, 2), torch.tensor([0]), torch.zeros(1, 2, 2)
        )


def test_the_atlas_is_the_weighted_mean_of_the_strongest() -> None:
    images = waves(4, 1, 2, 2)
    activations = torch.tensor([[[1.0], [3.0], [0.5], [-9.0]]])
    found = atlas(activations, images, top=2)
    assert_close(found, ((images[0] + 3 * images[1]) / 4).view(1, 1, 1, 2, 2))


def test_a_unit_that_is_never_active_is_black() -> None:
    found = atlas(torch.tensor([[[-1.0, 1.0], [0.0, 1.0]]]), waves(2, 1, 2, 2))
    assert_close(found[0, 0], torch.zeros(1, 2, 2))
    assert found[0, 1].abs().sum() > 0


def test_a_mosaic_has_its_tiles_in_rows() -> None:
    tiles = np.stack([np.full((2, 3), k, dtype=float) for k in range(3)])
    tiles[:, 0, 0] = 5.0
    sheet = mosaic(tiles, 2)
    assert sheet.shape == (4 + GAP, 6 + GAP, 3)
    assert sheet[0, 0].tolist() == [255] * 3
    assert sheet[0, 1].tolist() == [0] * 3
    assert sheet[2, 0].tolist() == list(PAPER)
    assert sheet[3, 5].tolist() == list(PAPER)  # no fourth tile


def test_a_signed_mosaic_says_for_and_against() -> None:
    sheet = mosaic(np.array([[[2.0, 0.0, -2.0, 1.0]]]), 1, signed=True)
    assert sheet[0, :3].tolist() == [list(FOR), list(PAPER), list(AGAINST)]
    assert all(FOR[k] < sheet[0, 3, k] < PAPER[k] for k in range(3))


def test_flat_tiles_do_not_divide_by_zero() -> None:
    assert mosaic(np.full((1, 2, 2), 7.0), 1).max() == 0
    assert (mosaic(np.zeros((1, 2, 2)), 1, signed=True) == PAPER).all()
