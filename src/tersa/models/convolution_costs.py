"""What a convolution costs by each algorithm: multiplications, additions, bytes moved, memory beside.

A layer reads N x C x H x W, has K filters of C/G x R x S and writes N x K x P x Q (G groups, T = C/G R S
taps of one output, numbers of 4 bytes):

    direct       N K P Q T products, N K P Q (T - 1) additions
    im2col       the same, as a matrix product (K/G x T) (T x N P Q) for each group; G T N P Q numbers beside
    Strassen     7^L (m k n) / 8^L products instead of m k n, at 18 additions of quarters a level
    Winograd     (m + r - 1)^2 C products for a tile of m x m outputs instead of m^2 r^2 C, and transforms
    FFT          F (F/2 + 1) C complex products for a tile of (F - R + 1) (F - S + 1) outputs, and transforms

Winograd and FFT transform the filters once, when a network is loaded: `Cost.once`. Taps that fall on the
padding are counted as if they were pixels: padded copies do that work. Bytes are those between a cache of a
given size and the memory behind it, of matrix products cut into square tiles that fit (`tile_side`).

Every formula is held against the readable twin in `convolution_algorithms` by counting what that does. What a
formula does not know: vector units, packing, the number of threads.

Example:
    >>> layer = ConvolutionLayer(64, 64, (56, 56), (3, 3), padding=1)
    >>> [round(cost(layer, f"winograd-{tile}").multiplications / layer.macs, 3) for tile in (2, 4)]
    [0.444, 0.272]

References:
    Document 003, section 3.2.1. Chellapilla et al., High Performance Convolutional Neural Networks for
    Document Processing (2006): im2col. Strassen, Gaussian Elimination is not Optimal (1969). Lavin, Gray,
    Fast Algorithms for Convolutional Neural Networks (2016). Mathieu et al., Fast Training of Convolutional
    Networks through FFTs (2014). Hong, Kung, I/O Complexity: the Red-Blue Pebble Game (1981): the tile side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tersa.errors import UsageError, unknown
from tersa.models.convolution_transforms import Counts, Winograd, rfft_counts, winograd

Pair = tuple[int, int]
Kind = Literal["direct", "depthwise", "copy", "product", "complex product", "transform", "fft"]
"""What sort of arithmetic a phase is: machines do them at different rates."""

WORD = 4
"""Bytes of a number."""
CACHE = 1 << 20
"""Bytes of the cache that tiles are made for where none is given."""
FFT_SIZES = (8, 16, 32, 64)
"""Tiles that `algorithms` offers."""
WINOGRAD_TILES = (2, 4)


@dataclass(frozen=True)
class ConvolutionLayer:
    """A convolution; a fully connected layer is one of 1x1 on a 1x1 image.

    Attributes:
        inputs: C, channels read.
        outputs: K, channels written.
        size: (H, W) of the image.
        kernel: (R, S).
        stride: in both directions.
        padding: zeros on each side.
        groups: G; C of them with C outputs is a depthwise convolution.
        batch: N, images.
    """

    inputs: int
    outputs: int
    size: Pair
    kernel: Pair
    stride: int = 1
    padding: int = 0
    groups: int = 1
    batch: int = 1

    def __post_init__(self) -> None:
        sides = (self.inputs, self.outputs, *self.size, *self.kernel, self.stride, self.groups, self.batch)
        if min(sides) < 1 or self.padding < 0:
            raise UsageError(f"a layer's sizes are at least 1 and its padding at least 0: {self}")
        if self.inputs % self.groups or self.outputs % self.groups:
            raise UsageError(f"{self.groups} groups do not divide {self.inputs} and {self.outputs} channels")
        if min(self.output) < 1:
            raise UsageError(f"the kernel {self.kernel} is larger than the padded image of {self}")

    @property
    def output(self) -> Pair:
        """(P, Q)."""
        height, width = (
            (side + 2 * self.padding - kernel) // self.stride + 1
            for side, kernel in zip(self.size, self.kernel, strict=True)
        )
        return height, width

    @property
    def taps(self) -> int:
        """T, products of one output."""
        return self.inputs // self.groups * self.kernel[0] * self.kernel[1]

    @property
    def positions(self) -> int:
        """N P Q."""
        return self.batch * self.output[0] * self.output[1]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the batch."""
        return self.outputs * self.positions * self.taps

    @property
    def input_words(self) -> int:
        """N C H W."""
        return self.batch * self.inputs * self.size[0] * self.size[1]

    @property
    def weight_words(self) -> int:
        """K T."""
        return self.outputs * self.taps

    @property
    def output_words(self) -> int:
        """N K P Q."""
        return self.outputs * self.positions


@dataclass(frozen=True)
class Phase:
    """One pass over the data.

    Attributes:
        name: of the pass.
        kind: what sort of arithmetic.
        counts: multiplications and additions of real numbers.
        bytes: read from and written to the memory behind the cache.
        product: (m, k, n) of its matrix products, whose smallest side limits their rate; None for no product.
    """

    name: str
    kind: Kind
    counts: Counts
    bytes: int
    product: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Cost:
    """What a layer costs by one algorithm.

    Attributes:
        algorithm: its name.
        phases: for every call.
        once: when the network is loaded (filters transformed).
        extra_bytes: of memory beside input, weights and output.
    """

    algorithm: str
    phases: tuple[Phase, ...]
    once: tuple[Phase, ...] = ()
    extra_bytes: int = 0

    @property
    def multiplications(self) -> int:
        """Of every call."""
        return sum(phase.counts.multiplications for phase in self.phases)

    @property
    def additions(self) -> int:
        """Of every call."""
        return sum(phase.counts.additions for phase in self.phases)

    @property
    def bytes(self) -> int:
        """Moved in every call."""
        return sum(phase.bytes for phase in self.phases)


def tile_side(cache_bytes: int, word: int = WORD) -> int:
    """Largest t of which three t x t tiles fit the cache: one of each factor and one of the product.

    >>> tile_side(32 * 1024), tile_side(1 << 20)
    (52, 295)
    """
    return max(1, math.isqrt(cache_bytes // (3 * word)))


def tiled_words(m: int, k: int, n: int, tile: int) -> int:
    """Numbers moved by the product of m x k and k x n in square tiles, the product's tile staying.

        m k ceil(n / t) + k n ceil(m / t) + m n

    so that each factor is read once for every stripe of the other: about 2 m k n / t for large matrices.

    >>> tiled_words(512, 512, 512, 1), tiled_words(512, 512, 512, 64), tiled_words(512, 512, 512, 512)
    (268697600, 4456448, 786432)
    """
    return m * k * math.ceil(n / tile) + k * n * math.ceil(m / tile) + m * n


def algorithms(layer: ConvolutionLayer) -> list[str]:
    """Names of all that can compute a layer.

    >>> algorithms(ConvolutionLayer(8, 8, (8, 8), (3, 3), stride=2))
    ['direct', 'im2col', 'strassen-1', 'strassen-2']
    """
    names = ["direct", "im2col", "strassen-1", "strassen-2"]
    names += [f"winograd-{tile}" for tile in WINOGRAD_TILES]
    names += [f"fft-{size}" for size in FFT_SIZES]
    return [name for name in names if not refusal(layer, name)]


def refusal(layer: ConvolutionLayer, algorithm: str) -> str:
    """Why an algorithm cannot compute a layer; empty where it can.

    >>> refusal(ConvolutionLayer(8, 8, (8, 8), (3, 3), stride=2), "winograd-2")
    'winograd-2 is for stride 1, not 2'

    Raises:
        UsageError: no such algorithm.
    """
    family, argument = _split(algorithm)
    if family in ("winograd", "fft") and layer.stride != 1:
        return f"{algorithm} is for stride 1, not {layer.stride}"
    if family in ("winograd", "fft", "strassen") and layer.groups != 1:
        return f"{algorithm} is for one group, not {layer.groups}"
    if family == "winograd" and layer.kernel != (3, 3):
        return f"{algorithm} is for 3x3 kernels, not {layer.kernel[0]}x{layer.kernel[1]}"
    if family == "fft" and argument < max(layer.kernel):
        return f"{algorithm} is for kernels of at most {argument}, not {max(layer.kernel)}"
    needed = max(layer.output) + max(layer.kernel) - 1
    if family == "fft" and argument >= 2 * needed and argument > FFT_SIZES[0]:
        return f"{algorithm} would be mostly padding for an output of {layer.output[0]}x{layer.output[1]}"
    if family == "fft" and max(layer.kernel) == 1:
        return f"{algorithm} has nothing to share between outputs of a 1x1 kernel"
    return ""


def cost(layer: ConvolutionLayer, algorithm: str, cache_bytes: int = CACHE) -> Cost:
    """What a layer costs by an algorithm.

    Args:
        layer: the convolution.
        algorithm: `direct`, `im2col`, `strassen-L` (levels), `winograd-M` (tile) or `fft-F` (tile).
        cache_bytes: that matrix products are tiled for.

    Raises:
        UsageError: no such algorithm, or it cannot compute the layer.
    """
    if reason := refusal(layer, algorithm):
        raise UsageError(reason)
    family, argument = _split(algorithm)
    tile = tile_side(cache_bytes)
    if family == "direct":
        return _direct(layer, tile)
    if family == "im2col":
        return _im2col(layer, tile)
    if family == "strassen":
        return _strassen(layer, argument, tile)
    if family == "winograd":
        return _winograd(layer, winograd(argument), tile)
    return _fft(layer, argument, tile)


def _split(algorithm: str) -> tuple[str, int]:
    family, _, argument = algorithm.partition("-")
    known: dict[str, tuple[str, ...]] = {
        "direct": ("",),
        "im2col": ("",),
        "strassen": ("1", "2", "3"),
        "winograd": tuple(map(str, WINOGRAD_TILES)),
        "fft": tuple(map(str, (*FFT_SIZES, 128, 256))),
    }
    if family not in known or argument not in known[family]:
        every = [name if value == "" else f"{name}-{value}" for name in known for value in known[name]]
        raise unknown("convolution algorithm", algorithm, every)
    return family, int(argument or 0)


def _dot(outputs: int, terms: int) -> Counts:
    """So many sums of so many products."""
    return Counts(outputs * terms, outputs * (terms - 1))


def _direct(layer: ConvolutionLayer, tile: int) -> Cost:
    depthwise = layer.groups > 1 and layer.inputs == layer.groups
    passes = math.ceil(layer.outputs // layer.groups / tile), math.ceil(layer.positions / tile)
    words = layer.input_words * passes[0] + layer.weight_words * passes[1] + layer.output_words
    phase = Phase(
        "taps", "depthwise" if depthwise else "direct", _dot(layer.output_words, layer.taps), WORD * words
    )
    return Cost("direct", (phase,))


def _im2col(layer: ConvolutionLayer, tile: int) -> Cost:
    m, k, n = layer.outputs // layer.groups, layer.taps, layer.positions
    words = layer.groups * tiled_words(m, k, n, tile)
    product = Phase("product", "product", _dot(layer.output_words, k), WORD * words, (m, k, n))
    return Cost("im2col", (*_unfold(layer), product), extra_bytes=_columns_bytes(layer))


def _unfold(layer: ConvolutionLayer) -> tuple[Phase, ...]:
    """The copy that im2col makes; none where the columns are the image itself."""
    if not (made := _columns_bytes(layer)):
        return ()
    return (Phase("unfold", "copy", Counts(0, 0), WORD * layer.input_words + made),)


def _columns_bytes(layer: ConvolutionLayer) -> int:
    if (layer.kernel, layer.stride, layer.padding) == ((1, 1), 1, 0):
        return 0
    return WORD * layer.groups * layer.taps * layer.positions


def strassen_counts(m: int, k: int, n: int, levels: int) -> Counts:
    """Strassen's product of m x k and k x n, sides divisible by 2^levels.

        products   7^L m k n / 8^L
        additions  S_L(m, k, n) = 7 S_{L-1}(m/2, k/2, n/2) + 5 m k / 4 + 5 k n / 4 + 8 m n / 4

    >>> strassen_counts(2, 2, 2, 1), strassen_counts(64, 64, 64, 0)
    (Counts(multiplications=7, additions=18), Counts(multiplications=262144, additions=258048))
    """
    if not levels:
        return Counts(m * k * n, m * n * (k - 1))
    inner = strassen_counts(m // 2, k // 2, n // 2, levels - 1)
    return Counts(7 * inner.multiplications, 7 * inner.additions + _quarter_sums(m, k, n))


def _quarter_sums(m: int, k: int, n: int) -> int:
    """Numbers that one level adds: five sums of quarters of each factor, eight of the product's."""
    return (5 * m * k + 5 * k * n + 8 * m * n) // 4


def _strassen(layer: ConvolutionLayer, levels: int, tile: int) -> Cost:
    step = 2**levels
    m, k, n = (step * math.ceil(side / step) for side in (layer.outputs, layer.taps, layer.positions))
    inner = (m // step, k // step, n // step)
    products = strassen_counts(m, k, n, levels)
    leaves = Counts(products.multiplications, 7**levels * inner[0] * inner[2] * (inner[1] - 1))
    sums = products.additions - leaves.additions
    moved = 7**levels * tiled_words(*inner, tile)
    held = sum((7 * m * n + m * k + k * n) // 4**level for level in range(1, levels + 1))
    phases = (
        *_unfold(layer),
        Phase("sums of quarters", "transform", Counts(0, sums), 3 * WORD * sums),
        Phase("products", "product", leaves, WORD * moved, inner),
    )
    return Cost(f"strassen-{levels}", phases, extra_bytes=_columns_bytes(layer) + WORD * held)


def _cut(layer: ConvolutionLayer, words: int) -> Phase:
    """The copy that makes overlapping tiles; a library that fuses it with the transform saves it."""
    return Phase("tiles", "copy", Counts(0, 0), WORD * (layer.input_words + words))


def _winograd(layer: ConvolutionLayer, form: Winograd, tile: int) -> Cost:
    tiles = layer.batch * math.prod(math.ceil(side / form.tile) for side in layer.output)
    points = form.points**2
    into, out = points * layer.inputs * tiles, points * layer.outputs * tiles
    m, k, n = layer.outputs, layer.inputs, tiles
    phases = (
        _cut(layer, into),
        Phase(
            "input transform",
            "transform",
            form.input_counts.times(layer.inputs * tiles),
            2 * WORD * into,
        ),
        Phase("products", "product", _dot(out, k), WORD * points * tiled_words(m, k, n, tile), (m, k, n)),
        Phase(
            "output transform",
            "transform",
            form.output_counts.times(layer.outputs * tiles),
            WORD * (out + layer.output_words),
        ),
    )
    filters = points * layer.outputs * layer.inputs
    once = Phase(
        "filter transform",
        "transform",
        form.filter_counts.times(layer.outputs * layer.inputs),
        WORD * (layer.weight_words + filters),
    )
    return Cost(f"winograd-{form.tile}", phases, (once,), WORD * (2 * into + out + filters))


def _fft(layer: ConvolutionLayer, size: int, tile: int) -> Cost:
    reach = tuple(size - side + 1 for side in layer.kernel)
    tiles = layer.batch * math.prod(math.ceil(p / r) for p, r in zip(layer.output, reach, strict=True))
    points = size * (size // 2 + 1)  # of the half spectrum, each a complex number
    into, out = points * layer.inputs * tiles, points * layer.outputs * tiles
    m, k, n = layer.outputs, layer.inputs, tiles
    pixels = size * size * layer.inputs * tiles
    each, complex_word = rfft_counts(size), 2 * WORD
    products = Counts(4 * out * k, 2 * out * k + 2 * out * (k - 1))
    phases = (
        _cut(layer, pixels),
        Phase(
            "input transform",
            "fft",
            each.times(layer.inputs * tiles),
            WORD * pixels + complex_word * into,
        ),
        Phase(
            "products",
            "complex product",
            products,
            complex_word * points * tiled_words(m, k, n, tile),
            (m, k, n),
        ),
        Phase(
            "output transform",
            "fft",
            each.times(layer.outputs * tiles),
            complex_word * out + WORD * layer.output_words,
        ),
    )
    filters = points * layer.outputs * layer.inputs
    once = Phase(
        "filter transform",
        "fft",
        each.times(layer.outputs * layer.inputs),
        WORD * layer.weight_words + complex_word * filters,
    )
    return Cost(f"fft-{size}", phases, (once,), WORD * pixels + complex_word * (into + out + filters))
