"""The transforms of fast convolution and what they cost: Winograd's small matrices, the radix-2 FFT.

    Winograd   y = A^T [(G g G^T) * (B^T d B)] A      for an m x m tile of outputs, points m + r - 1 a side
    FFT        y = F^-1 [conj(F g) * (F d)]           for a tile of F x F inputs, F a power of two

A sum with coefficients 1 and -1 takes no product, and a sign alone costs nothing; every other coefficient is
one product. A complex product is four real ones and two additions, a complex addition two additions. The FFT
of real numbers keeps half of its spectrum: rows first, then the F/2 + 1 columns that are needed.

Sums that two rows share are not reused, so the filter transform counts more than Lavin and Gray's 28
operations; their 32 for the input and 24 for the output of F(2x2, 3x3) are these.

Example:
    >>> form = winograd(2)
    >>> form.input_counts.additions, form.output_counts.additions
    (32, 24)
    >>> rfft_counts(8)
    Counts(multiplications=624, additions=936)

References:
    Document 003, section 3.2.1. Winograd, Arithmetic Complexity of Computations (1980). Lavin, Gray, Fast
    Algorithms for Convolutional Neural Networks (2016), section 4. Cooley, Tukey, An Algorithm for the
    Machine Calculation of Complex Fourier Series (1965).
"""

from __future__ import annotations

from dataclasses import dataclass

from tersa.errors import UsageError

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Counts:
    """Multiplications and additions of real numbers."""

    multiplications: int
    additions: int

    def times(self, count: int) -> Counts:
        """Of so many repetitions."""
        return Counts(count * self.multiplications, count * self.additions)


@dataclass(frozen=True)
class Winograd:
    """F(m x m, 3 x 3).

    Attributes:
        tile: m, outputs of a tile in each direction.
        input: B^T, (m + 2) x (m + 2).
        filter: G, (m + 2) x 3.
        output: A^T, m x (m + 2).
    """

    tile: int
    input: Matrix
    filter: Matrix
    output: Matrix

    @property
    def points(self) -> int:
        """m + r - 1: products of a tile in each direction."""
        return len(self.input)

    @property
    def input_counts(self) -> Counts:
        """Of one tile of one channel."""
        return sandwich_counts(self.input)

    @property
    def filter_counts(self) -> Counts:
        """Of one kernel."""
        return sandwich_counts(self.filter)

    @property
    def output_counts(self) -> Counts:
        """Of one tile of one channel."""
        return sandwich_counts(self.output)


FORMS = {
    2: Winograd(
        tile=2,
        input=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
        filter=((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
        output=((1, 1, 1, 0), (0, 1, -1, -1)),
    ),
    4: Winograd(
        tile=4,
        input=(
            (4, 0, -5, 0, 1, 0),
            (0, -4, -4, 1, 1, 0),
            (0, 4, -4, -1, 1, 0),
            (0, -2, -1, 2, 1, 0),
            (0, 2, -1, -2, 1, 0),
            (0, 4, 0, -5, 0, 1),
        ),
        filter=(
            (1 / 4, 0, 0),
            (-1 / 6, -1 / 6, -1 / 6),
            (-1 / 6, 1 / 6, -1 / 6),
            (1 / 24, 1 / 12, 1 / 6),
            (1 / 24, -1 / 12, 1 / 6),
            (0, 0, 1),
        ),
        output=(
            (1, 1, 1, 1, 1, 0),
            (0, 1, -1, 2, -2, 0),
            (0, 1, 1, 4, 4, 0),
            (0, 1, -1, 8, -8, 1),
        ),
    ),
}
"""Lavin and Gray's matrices for 3x3 kernels: points 0, 1, -1 and, for 4, also 2 and -2."""


def winograd(tile: int) -> Winograd:
    """F(tile x tile, 3 x 3).

    Raises:
        UsageError: no such form.
    """
    if tile not in FORMS:
        raise UsageError(f"Winograd's tile is {' or '.join(map(str, FORMS))}, not {tile}")
    return FORMS[tile]


def sandwich_counts(matrix: Matrix) -> Counts:
    """What M X M^T costs, M being p x q and X q x q: q columns, then p rows.

    (q + p) sum over rows of M of (nonzero - 1) additions, and of (not 0, 1, -1) products
    """
    additions = sum(sum(value != 0 for value in row) - 1 for row in matrix)
    products = sum(abs(value) not in (0, 1) for row in matrix for value in row)
    sides = len(matrix) + len(matrix[0])
    return Counts(sides * products, sides * additions)


def fft_counts(size: int) -> Counts:
    """The radix-2 FFT of n complex numbers: n/2 log2(n) products and n log2(n) additions of them.

    >>> fft_counts(2)
    Counts(multiplications=4, additions=6)
    """
    if size < 1 or size & (size - 1):
        raise UsageError(f"the radix-2 FFT is for powers of two, not {size}")
    levels = size.bit_length() - 1
    return Counts(4 * size // 2 * levels, 2 * size // 2 * levels + 2 * size * levels)


def rfft_counts(size: int) -> Counts:
    """The two-dimensional FFT of size x size real numbers, or its inverse: `size` rows, `size`/2 + 1 columns.

    The inverse's factor 1 / size^2 is in the filters.
    """
    return fft_counts(size).times(size + size // 2 + 1)
