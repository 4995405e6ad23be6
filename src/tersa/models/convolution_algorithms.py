"""Convolution by each algorithm of `convolution_costs`, readable, in numpy.

    direct     one matrix product for every tap of the kernel, added up
    im2col     patches as columns, one product
    strassen   that product by seven products of quarters, recursively
    winograd   tiles, transforms with small matrices, one product for every point of the tile
    fft        tiles, the radix-2 FFT, one complex product for every frequency of half the spectrum

All take x (N, C, H, W) and filters w (K, C/G, R, S) and give (N, K, P, Q), equal up to rounding. They use
nothing but +, -, * and @ on arrays, so that what they do can be counted; `fast=True` takes numpy's own FFT
instead. They are for understanding and for checking the cost formulas: no library's convolution is as slow.

References:
    See `convolution_costs`.

Example:
    >>> layer = ConvolutionLayer(3, 4, (10, 10), (3, 3), padding=1)
    >>> x, w = np.ones((1, 3, 10, 10)), np.ones((4, 3, 3, 3))
    >>> y = convolve(layer, "direct", x, w)
    >>> [bool(np.allclose(convolve(layer, name, x, w), y)) for name in ("im2col", "strassen-1", "winograd-4")]
    [True, True, True]
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tersa.errors import UsageError
from tersa.models.convolution_costs import ConvolutionLayer, refusal
from tersa.models.convolution_transforms import Matrix, winograd

Array = npt.NDArray[np.inexact]


def convolve(layer: ConvolutionLayer, algorithm: str, x: Array, w: Array, *, fast: bool = False) -> Array:
    """A convolution by an algorithm.

    Args:
        layer: what to compute.
        algorithm: as for `convolution_costs.cost`.
        x: (N, C, H, W).
        w: (K, C/G, R, S).
        fast: numpy's FFT for the readable one.

    Returns:
        (N, K, P, Q).

    Raises:
        UsageError: no such algorithm, it cannot compute the layer, or the arrays are of other shapes.
    """
    if reason := refusal(layer, algorithm):
        raise UsageError(reason)
    each = layer.inputs // layer.groups
    wanted = (layer.batch, layer.inputs, *layer.size), (layer.outputs, each, *layer.kernel)
    if (x.shape, w.shape) != wanted:
        raise UsageError(f"x is {wanted[0]} and w {wanted[1]}, not {x.shape} and {w.shape}")
    family, _, argument = algorithm.partition("-")
    if family == "direct":
        return direct(layer, x, w)
    if family == "im2col":
        return im2col(layer, x, w)
    if family == "strassen":
        return by_strassen(layer, x, w, int(argument))
    filters = transformed_filters(layer, algorithm, w, fast=fast)
    return with_filters(layer, algorithm, x, filters, fast=fast)


def direct(layer: ConvolutionLayer, x: Array, w: Array) -> Array:
    """y[k] = sum over taps (r, s) of w[k, :, r, s] . x shifted by (r, s)."""
    groups = layer.groups
    padded = pad(x, layer.padding)
    total = None
    for row in range(layer.kernel[0]):
        for column in range(layer.kernel[1]):
            patch = _shifted(layer, padded, row, column)  # (N, G, C/G, P Q)
            term = w[:, :, row, column].reshape(groups, layer.outputs // groups, -1) @ patch
            total = term if total is None else total + term
    assert total is not None
    return total.reshape(layer.batch, layer.outputs, *layer.output)


def _shifted(layer: ConvolutionLayer, padded: Array, row: int, column: int) -> Array:
    """The pixel that each output meets at one tap, (N, G, C/G, P Q)."""
    (rows, columns), step = layer.output, layer.stride
    found = padded[:, :, row : row + rows * step : step, column : column + columns * step : step]
    found = found[:, :, :rows, :columns]
    return found.reshape(layer.batch, layer.groups, layer.inputs // layer.groups, rows * columns)


def columns_of(layer: ConvolutionLayer, x: Array) -> Array:
    """Patches as columns, (G, T, N P Q), in the order of a flattened filter: channel, row, column."""
    padded = pad(x, layer.padding)
    taps = [
        _shifted(layer, padded, row, column)
        for row in range(layer.kernel[0])
        for column in range(layer.kernel[1])
    ]
    each = layer.inputs // layer.groups
    shape = (layer.groups, each, len(taps), layer.batch, taps[0].shape[-1])
    found = np.empty_like(x, shape=shape)
    for index, tap in enumerate(taps):  # (N, G, C/G, P Q)
        found[:, :, index] = tap.transpose(1, 2, 0, 3)
    return found.reshape(layer.groups, layer.taps, layer.positions)


def im2col(layer: ConvolutionLayer, x: Array, w: Array) -> Array:
    """(G, K/G, T) @ (G, T, N P Q)."""
    product = _as_matrix(layer, w) @ columns_of(layer, x)
    return _as_images(layer, product)


def _as_matrix(layer: ConvolutionLayer, w: Array) -> Array:
    return w.reshape(layer.groups, layer.outputs // layer.groups, layer.taps)


def _as_images(layer: ConvolutionLayer, product: Array) -> Array:
    """(G, K/G, N P Q) as (N, K, P, Q)."""
    rows, columns = layer.output
    return product.reshape(layer.outputs, layer.batch, rows, columns).transpose(1, 0, 2, 3)


def by_strassen(layer: ConvolutionLayer, x: Array, w: Array, levels: int) -> Array:
    """im2col with Strassen's product, sides padded to multiples of 2^levels."""
    step = 2**levels
    a, b = _as_matrix(layer, w)[0], columns_of(layer, x)[0]
    m, n = a.shape[0], b.shape[1]
    sides = [step * math.ceil(side / step) for side in (m, a.shape[1], n)]
    product = strassen(_grown(a, sides[0], sides[1]), _grown(b, sides[1], sides[2]), levels)
    return _as_images(layer, product[:m, :n])


def strassen(a: Array, b: Array, levels: int) -> Array:
    """a @ b by seven products of quarters for each level.

    References:
        Document 003, section 3.2.1, whose P1 to P7 these are.
    """
    if not levels:
        return a @ b
    (a11, a12), (a21, a22) = _quarters(a)
    (b11, b12), (b21, b22) = _quarters(b)
    p1 = strassen(a11, b12 - b22, levels - 1)
    p2 = strassen(a11 + a12, b22, levels - 1)
    p3 = strassen(a21 + a22, b11, levels - 1)
    p4 = strassen(a22, b21 - b11, levels - 1)
    p5 = strassen(a11 + a22, b11 + b22, levels - 1)
    p6 = strassen(a12 - a22, b21 + b22, levels - 1)
    p7 = strassen(a11 - a21, b11 + b12, levels - 1)
    found = np.empty_like(p1, shape=(a.shape[0], b.shape[1]))
    (c11, c12), (c21, c22) = _quarters(found)
    c11[...] = p5 + p4 - p2 + p6
    c12[...] = p1 + p2
    c21[...] = p3 + p4
    c22[...] = p5 + p1 - p3 - p7
    return found


def _quarters(matrix: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    row, column = (side // 2 for side in matrix.shape)
    return (matrix[:row, :column], matrix[:row, column:]), (matrix[row:, :column], matrix[row:, column:])


def _grown(matrix: Array, rows: int, columns: int) -> Array:
    found = np.zeros_like(matrix, shape=(rows, columns))
    found[: matrix.shape[0], : matrix.shape[1]] = matrix
    return found


def transformed_filters(layer: ConvolutionLayer, algorithm: str, w: Array, *, fast: bool = False) -> Array:
    """Filters as Winograd and FFT want them, (a, b, K, C): made once for a network."""
    family, _, argument = algorithm.partition("-")
    if family == "winograd":
        return sandwich(winograd(int(argument)).filter, w.transpose(2, 3, 0, 1))
    size = int(argument)
    square = np.zeros_like(w, shape=(*w.shape[:2], size, size))
    square[:, :, : layer.kernel[0], : layer.kernel[1]] = w
    spectrum = rfft2(square, fast=fast).conj() / size**2  # conj: correlation, not convolution
    return spectrum.transpose(2, 3, 0, 1).copy()


def with_filters(
    layer: ConvolutionLayer, algorithm: str, x: Array, filters: Array, *, fast: bool = False
) -> Array:
    """Winograd's or the FFT's convolution with filters that are transformed already."""
    family, _, argument = algorithm.partition("-")
    number = int(argument)
    if family == "winograd":
        form = winograd(number)
        tiles, grid = tiles_of(layer, x, form.points, (form.tile, form.tile))
        points = sandwich(form.input, tiles)  # (a, a, C, N tiles)
        made = sandwich(form.output, filters @ points)  # (m, m, K, N tiles)
        return _joined(layer, made, grid)
    reach = (number - layer.kernel[0] + 1, number - layer.kernel[1] + 1)
    tiles, grid = tiles_of(layer, x, number, reach)
    spectrum = rfft2(tiles.transpose(2, 3, 0, 1), fast=fast)  # (C, N tiles, F, F/2 + 1)
    product = filters @ spectrum.transpose(2, 3, 0, 1).copy()
    made = irfft2(product.transpose(2, 3, 0, 1), number, fast=fast)
    return _joined(layer, made.transpose(2, 3, 0, 1)[: reach[0], : reach[1]], grid)


def tiles_of(
    layer: ConvolutionLayer, x: Array, size: int, reach: tuple[int, int]
) -> tuple[Array, tuple[int, int]]:
    """Overlapping tiles of the padded image, (size, size, C, N tiles), and their numbers (down, across)."""
    down, across = (math.ceil(side / step) for side, step in zip(layer.output, reach, strict=True))
    rows, columns = (down - 1) * reach[0] + size, (across - 1) * reach[1] + size
    padded = np.zeros_like(x, shape=(*x.shape[:2], rows, columns))
    whole = pad(x, layer.padding)[:, :, :rows, :columns]
    padded[:, :, : whole.shape[2], : whole.shape[3]] = whole
    found = np.empty_like(x, shape=(size, size, layer.inputs, layer.batch, down, across))
    for row in range(size):
        for column in range(size):
            last = rows - size + row + 1, columns - size + column + 1
            seen = padded[:, :, row : last[0] : reach[0], column : last[1] : reach[1]]
            found[row, column] = seen.transpose(1, 0, 2, 3)
    return found.reshape(size, size, layer.inputs, -1), (down, across)


def _joined(layer: ConvolutionLayer, tiles: Array, grid: tuple[int, int]) -> Array:
    """Tiles of outputs (m, m', K, N tiles) as (N, K, P, Q)."""
    tall, wide = tiles.shape[:2]
    split = tiles.reshape(tall, wide, layer.outputs, layer.batch, *grid)
    whole = split.transpose(3, 2, 4, 0, 5, 1).reshape(
        layer.batch, layer.outputs, grid[0] * tall, grid[1] * wide
    )
    return whole[:, :, : layer.output[0], : layer.output[1]]


def sandwich(matrix: Matrix, x: Array) -> Array:
    """M X M^T over the first two axes, (q, q, ...) to (p, p, ...), without products by 0, 1 and -1."""
    half = _combined(matrix, x)
    return _combined(matrix, half.swapaxes(0, 1)).swapaxes(0, 1)


def _combined(matrix: Matrix, x: Array) -> Array:
    found = np.empty_like(x, shape=(len(matrix), *x.shape[1:]))
    for index, row in enumerate(matrix):
        found[index] = _sum(row, x)
    return found


def _sum(coefficients: Sequence[float], x: Array) -> Array:
    total: Array | None = None
    for coefficient, value in zip(coefficients, x, strict=True):
        if coefficient == 0:
            continue
        term = value if abs(coefficient) == 1 else abs(coefficient) * value
        if total is None:
            total = term if coefficient > 0 else -term
        else:
            total = total + term if coefficient > 0 else total - term
    assert total is not None
    return total


def radix2(x: Array) -> Array:
    """The FFT over the last axis, a power of two long."""
    size = x.shape[-1]
    if size == 1:
        return x
    even, odd = radix2(x[..., 0::2]), radix2(x[..., 1::2])
    turned = np.exp(-2j * np.pi * np.arange(size // 2) / size).astype(x.dtype) * odd
    found = np.empty_like(x)
    found[..., : size // 2] = even + turned
    found[..., size // 2 :] = even - turned
    return found


def rfft2(x: Array, *, fast: bool = False) -> Array:
    """The FFT of real squares over the last two axes, half of it kept: (..., F, F) to (..., F, F/2 + 1)."""
    if fast:
        return np.fft.rfft2(x)
    size = x.shape[-1]
    rows = radix2(x.astype(_complex(x)))[..., : size // 2 + 1]
    return radix2(rows.swapaxes(-1, -2)).swapaxes(-1, -2)


def irfft2(x: Array, size: int, *, fast: bool = False) -> Array:
    """The inverse of `rfft2` times size^2, (..., F, F/2 + 1) to (..., F, F); the filters have that factor."""
    if fast:
        return np.fft.irfft2(x, s=(size, size), norm="forward")
    columns = radix2(x.conj().swapaxes(-1, -2)).conj().swapaxes(-1, -2)  # inverse, but for 1 / F
    whole = np.empty_like(columns, shape=(*x.shape[:-1], size))
    whole[..., : size // 2 + 1] = columns
    whole[..., size // 2 + 1 :] = columns[..., 1 : size // 2][..., ::-1].conj()
    return radix2(whole.conj()).real


def _complex(x: Array) -> npt.DTypeLike:
    return np.complex64 if x.dtype == np.float32 else np.complex128


def pad(x: Array, width: int) -> Array:
    """Zeros on each side of the last two axes."""
    if not width:
        return x
    found = np.zeros_like(x, shape=(*x.shape[:-2], x.shape[-2] + 2 * width, x.shape[-1] + 2 * width))
    found[..., width:-width, width:-width] = x
    return found


def tiled_product(a: Array, b: Array, tile: int) -> tuple[Array, int]:
    """a @ b in square tiles, and how many numbers went between the memory and the tiles.

    The tile of the product stays until it is done; tiles of the factors come for every use.
    """
    m, k = a.shape
    n = b.shape[1]
    found, moved = np.zeros((m, n), dtype=a.dtype), 0
    for top in range(0, m, tile):
        for left in range(0, n, tile):
            held = np.zeros((min(tile, m - top), min(tile, n - left)), dtype=a.dtype)
            for inner in range(0, k, tile):
                one = a[top : top + tile, inner : inner + tile]
                other = b[inner : inner + tile, left : left + tile]
                moved += one.size + other.size
                held += one @ other
            found[top : top + tile, left : left + tile] = held
            moved += held.size
    return found, moved
