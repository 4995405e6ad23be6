"""Every convolution algorithm gives the direct one's numbers, and costs what its formula says, counted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.models.counting import Counting, counted

from tersa.errors import UsageError
from tersa.models.convolution_algorithms import (
    columns_of,
    convolve,
    direct,
    irfft2,
    radix2,
    rfft2,
    sandwich,
    strassen,
    tiled_product,
    tiles_of,
    transformed_filters,
    with_filters,
)
from tersa.models.convolution_costs import (
    ConvolutionLayer,
    algorithms,
    cost,
    refusal,
    strassen_counts,
    tile_side,
    tiled_words,
)
from tersa.models.convolution_transforms import Counts, fft_counts, rfft_counts, winograd

TOLERANCE = 1e-9
"""Of outputs in float64, relative to the largest: sums in another order."""
LAYERS = {
    "same": ConvolutionLayer(4, 6, (9, 11), (3, 3), padding=1),
    "batch": ConvolutionLayer(3, 5, (8, 8), (3, 3), batch=2),
    "one pixel": ConvolutionLayer(2, 3, (3, 3), (3, 3)),
    "one by one": ConvolutionLayer(8, 4, (5, 7), (1, 1), batch=3),
    "stride": ConvolutionLayer(3, 4, (11, 10), (5, 3), stride=2, padding=2),
    "depthwise": ConvolutionLayer(6, 6, (7, 7), (3, 3), padding=1, groups=6, batch=2),
    "groups": ConvolutionLayer(4, 8, (6, 6), (3, 3), groups=2, batch=2),
    "wide kernel": ConvolutionLayer(3, 2, (12, 9), (5, 5), padding=2),
    "fully connected": ConvolutionLayer(30, 7, (1, 1), (1, 1), batch=4),
}
CASES = [(name, algorithm) for name, layer in LAYERS.items() for algorithm in algorithms(layer)]


def filled(*shape: int) -> np.ndarray:
    return np.sin(np.arange(math.prod(shape), dtype=np.float64) * 1.7).reshape(shape)


def arrays(layer: ConvolutionLayer) -> tuple[np.ndarray, np.ndarray]:
    return (
        filled(layer.batch, layer.inputs, *layer.size),
        filled(layer.outputs, layer.inputs // layer.groups, *layer.kernel),
    )


def library(layer: ConvolutionLayer, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    return torch.nn.functional.conv2d(
        torch.from_numpy(x),
        torch.from_numpy(w),
        stride=layer.stride,
        padding=layer.padding,
        groups=layer.groups,
    ).numpy()


@pytest.mark.parametrize(("name", "algorithm"), CASES)
def test_every_algorithm_is_the_librarys_convolution(name: str, algorithm: str) -> None:
    layer = LAYERS[name]
    x, w = arrays(layer)
    wanted = library(layer, x, w)
    found = convolve(layer, algorithm, x, w)
    assert found.shape == wanted.shape == (layer.batch, layer.outputs, *layer.output)
    assert np.abs(found - wanted).max() <= TOLERANCE * np.abs(wanted).max()
    if algorithm.startswith("fft"):
        quick = convolve(layer, algorithm, x, w, fast=True)
        assert np.abs(quick - wanted).max() <= TOLERANCE * np.abs(wanted).max()


@pytest.mark.parametrize(("name", "algorithm"), CASES)
def test_every_formula_is_what_is_done(name: str, algorithm: str) -> None:
    layer = LAYERS[name]
    x, w = (counted(each) for each in arrays(layer))
    expected = cost(layer, algorithm)
    if algorithm.startswith(("winograd", "fft")):
        filters = transformed_filters(layer, algorithm, w)
        Counting.reset()
        with_filters(layer, algorithm, x, filters)
    else:
        Counting.reset()
        convolve(layer, algorithm, x, w)
    assert Counting.counts() == Counts(expected.multiplications, expected.additions)


@pytest.mark.parametrize("tile", [2, 4])
def test_winograds_transforms_are_what_is_done(tile: int) -> None:
    form = winograd(tile)
    for matrix, expected in (
        (form.input, form.input_counts),
        (form.filter, form.filter_counts),
        (form.output, form.output_counts),
    ):
        Counting.reset()
        sandwich(matrix, counted(filled(len(matrix[0]), len(matrix[0]))))
        assert Counting.counts() == expected


def test_winograd_saves_the_products_that_the_paper_says() -> None:
    """Lavin and Gray: 36 products for 16, and 144 for 36, with sides that the tiles divide."""
    layer = ConvolutionLayer(7, 5, (8, 8), (3, 3), padding=1)
    for tile, saved in ((2, 36 / 16), (4, 144 / 36)):
        products = next(p for p in cost(layer, f"winograd-{tile}").phases if p.name == "products")
        assert layer.macs / products.counts.multiplications == saved
    assert winograd(2).input_counts == Counts(0, 32)
    assert winograd(2).output_counts == Counts(0, 24)


@pytest.mark.parametrize("size", [1, 2, 8, 32])
def test_radix2(size: int) -> None:
    x = filled(3, size) + 1j * filled(3, size)[::-1]
    np.testing.assert_allclose(radix2(x), np.fft.fft(x), atol=1e-12)
    Counting.reset()
    radix2(counted(x))
    assert Counting.counts() == fft_counts(size).times(3)
    square = filled(size, size)
    if size > 1:
        np.testing.assert_allclose(rfft2(square), np.fft.rfft2(square), atol=1e-11)
        np.testing.assert_allclose(irfft2(rfft2(square), size) / size**2, square, atol=1e-12)
        Counting.reset()
        irfft2(rfft2(counted(square)), size)
        assert Counting.counts() == rfft_counts(size).times(2)


def test_fft_refuses_sizes_that_are_no_power_of_two() -> None:
    with pytest.raises(UsageError, match="powers of two, not 12"):
        fft_counts(12)


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_strassen(levels: int) -> None:
    a, b = filled(8, 4), filled(4, 12)
    np.testing.assert_allclose(strassen(a, b, levels), a @ b, atol=1e-12)
    Counting.reset()
    strassen(counted(a), counted(b), levels)
    assert Counting.counts() == strassen_counts(8, 4, 12, levels)


def test_strassen_is_seven_products_and_eighteen_additions() -> None:
    assert strassen_counts(2, 2, 2, 1) == Counts(7, 18)
    side = 2**10
    assert strassen_counts(side, side, side, 10).multiplications == 7**10 == round(side ** math.log2(7))


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_tiles_move_what_the_formula_says(m: int, k: int, n: int, tile: int) -> None:
    a, b = filled(m, k), filled(k, n)
    product, moved = tiled_product(a, b, tile)
    np.testing.assert_allclose(product, a @ b, atol=1e-12)
    assert moved == tiled_words(m, k, n, tile)


def test_tiles_fill_the_cache_and_no_more() -> None:
    for cache in (12, 1024, 32 * 1024, 1 << 20):
        side = tile_side(cache)
        assert 3 * side * side * 4 <= cache < 3 * (side + 1) ** 2 * 4
    words = [tiled_words(256, 256, 256, tile) for tile in (1, 8, 64, 256)]
    assert words == sorted(words, reverse=True)
    assert words[-1] == 3 * 256 * 256


@pytest.mark.parametrize(("name", "algorithm"), CASES)
def test_bytes_are_at_least_input_weights_and_output(name: str, algorithm: str) -> None:
    layer = LAYERS[name]
    found = cost(layer, algorithm)
    if "stride" not in name and layer.size != (3, 3):  # there pixels or whole tiles are left out
        held = layer.output_words + layer.input_words
        assert found.bytes >= 4 * held
    assert found.extra_bytes >= 0
    assert (found.extra_bytes == 0) == (
        algorithm == "direct" or (algorithm == "im2col" and layer.kernel == (1, 1))
    )


@pytest.mark.parametrize(("algorithm", "side"), [("winograd-2", 4), ("winograd-4", 6), ("fft-8", 8)])
def test_tiles_are_as_large_as_the_formula_says(algorithm: str, side: int) -> None:
    layer = ConvolutionLayer(4, 6, (9, 11), (3, 3), padding=1, batch=2)
    cut = next(phase for phase in cost(layer, algorithm).phases if phase.name == "tiles")
    made = tiles_of(layer, arrays(layer)[0].astype(np.float32), side, (side - 2, side - 2))[0]
    assert cut.bytes == 4 * layer.input_words + made.nbytes


def test_im2col_holds_the_columns() -> None:
    layer = ConvolutionLayer(16, 8, (10, 12), (3, 3), padding=1, batch=2)
    columns = columns_of(layer, arrays(layer)[0].astype(np.float32))
    assert cost(layer, "im2col").extra_bytes == columns.nbytes == 4 * 9 * 16 * 2 * 10 * 12


def test_what_an_algorithm_cannot_do_says_why() -> None:
    strided = ConvolutionLayer(4, 4, (8, 8), (3, 3), stride=2)
    with pytest.raises(UsageError, match="winograd-2 is for stride 1, not 2"):
        cost(strided, "winograd-2")
    assert "3x3 kernels, not 5x5" in refusal(ConvolutionLayer(4, 4, (8, 8), (5, 5)), "winograd-4")
    assert "one group, not 4" in refusal(ConvolutionLayer(4, 4, (8, 8), (3, 3), groups=4), "fft-8")
    assert "at most 8, not 11" in refusal(ConvolutionLayer(4, 4, (32, 32), (11, 11)), "fft-8")
    assert "mostly padding" in refusal(ConvolutionLayer(4, 4, (8, 8), (3, 3)), "fft-64")
    assert "nothing to share" in refusal(ConvolutionLayer(4, 4, (8, 8), (1, 1)), "fft-8")
    with pytest.raises(
        UsageError, match="unknown convolution algorithm 'winograd-3'; did you mean 'winograd-"
    ):
        cost(strided, "winograd-3")


def test_faults_of_a_layer() -> None:
    with pytest.raises(UsageError, match="larger than the padded image"):
        ConvolutionLayer(1, 1, (2, 2), (3, 3))
    with pytest.raises(UsageError, match="3 groups do not divide 4 and 6"):
        ConvolutionLayer(4, 6, (4, 4), (3, 3), groups=3)
    with pytest.raises(UsageError, match="at least 1"):
        ConvolutionLayer(0, 6, (4, 4), (3, 3))
    layer = ConvolutionLayer(2, 3, (4, 4), (3, 3))
    with pytest.raises(UsageError, match=r"x is \(1, 2, 4, 4\)"):
        convolve(layer, "direct", np.ones((1, 2, 4, 5)), np.ones((3, 2, 3, 3)))


def test_larger_winograd_tiles_round_worse() -> None:
    """What the saved products cost: in float32 the error grows with the tile (Lavin and Gray, table 6)."""
    layer = ConvolutionLayer(64, 8, (16, 16), (3, 3), padding=1)
    x, w = arrays(layer)
    wanted = direct(layer, x, w)
    errors = [
        np.abs(convolve(layer, name, x.astype(np.float32), w.astype(np.float32)) - wanted).max()
        for name in ("im2col", "winograd-2", "winograd-4")
    ]
    assert errors[0] < errors[2]
    assert errors[1] < errors[2]
