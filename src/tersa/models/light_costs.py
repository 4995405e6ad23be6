"""What a convolution costs, and the light modules that stand in for it: equations 2.2-2.5 of document 002.

    convolution   kh kw D D' P                                   (2.2)
    separable     kh kw D P + D' D P                             (2.3)
    their ratio   1 / D' + 1 / (kh kw)                           (2.4)
    fire          D b P0 + b ceil(D'/2) P + kh kw b floor(D'/2) P   (2.5)
    shift         D' D P

with D input and D' output channels, a kernel of kh x kw, b channels between squeeze and expand, P = height
times width of the output and P0 of the input. The document writes the input's size everywhere: the same
number for stride 1 and padding that keeps the size. It halves D' without saying what an odd one does.

Counted are multiply-accumulates of one image; biases, ReLU and memory traffic are not. The modules themselves
are in `light.py`; what a whole network costs is `summary.macs`.

Example:
    >>> conv_macs((5, 5), 32, 64, (14, 14)), separable_macs((5, 5), 32, 64, (14, 14))
    (10035200, 558208)
    >>> separable_gain((5, 5), 64)
    0.055625

References:
    Document 002, section 2.3.
"""

from __future__ import annotations

Pair = tuple[int, int]
"""(height, width)."""


def conv_macs(kernel: Pair, inputs: int, outputs: int, size: Pair) -> int:
    """Multiply-accumulates of a dense convolution.

        C = kh kw D D' H W

    Args:
        kernel: (kh, kw).
        inputs: D, channels read.
        outputs: D', channels made.
        size: (H, W) of the output.

    References:
        Document 002, equation 2.2; the size there is the input's, see the head of this file.
    """
    return _area(kernel) * inputs * outputs * _area(size)


def separable_macs(kernel: Pair, inputs: int, outputs: int, size: Pair) -> int:
    """Multiply-accumulates of a depthwise convolution and a 1x1 convolution behind it.

        C = kh kw D H W + D' D H W

    Args:
        kernel: (kh, kw) of the depthwise convolution, which has the stride.
        inputs: D, channels read.
        outputs: D', channels made.
        size: (H, W) of the output.

    References:
        Document 002, equation 2.3.
    """
    return (_area(kernel) * inputs + outputs * inputs) * _area(size)


def separable_gain(kernel: Pair, outputs: int) -> float:
    """Cost of a separable convolution as a share of the dense one: small is good.

        C_sep / C = 1 / D' + 1 / (kh kw)

    Args:
        kernel: (kh, kw).
        outputs: D', channels made.

    References:
        Document 002, equation 2.4.
    """
    return 1.0 / outputs + 1.0 / _area(kernel)


def fire_macs(
    kernel: Pair, inputs: int, outputs: int, squeeze: int, size: Pair, input_size: Pair | None = None
) -> int:
    """Multiply-accumulates of a fire module: squeeze at the input's size, both expansions at the output's.

        C = D b H0 W0 + b ceil(D'/2) H W + kh kw b floor(D'/2) H W

    Args:
        kernel: (kh, kw) of the larger expansion.
        inputs: D, channels read.
        outputs: D', channels made.
        squeeze: b, channels between.
        size: (H, W) of the output.
        input_size: (H0, W0) of the input; None where it is the output's, as the document assumes.

    References:
        Document 002, equation 2.5, which has D'/2 for both halves.
    """
    squeezed = inputs * squeeze * _area(input_size or size)
    small, large = outputs - outputs // 2, outputs // 2
    return squeezed + squeeze * (small + _area(kernel) * large) * _area(size)


def shift_macs(inputs: int, outputs: int, size: Pair) -> int:
    """Multiply-accumulates of a shift and the 1x1 convolution behind it, the shift being movement of memory.

        C = D' D H W

    `light.ShiftConv` runs its shift as a depthwise convolution with a fixed kernel, for the reasons given
    there: what it executes, and what `summary.macs` counts, is `separable_macs`.

    Args:
        inputs: D, channels read.
        outputs: D', channels made.
        size: (H, W) of the output.

    References:
        Document 002, section 2.3.3 (in words); Wu et al., Shift (2018), section 3.1.
    """
    return outputs * inputs * _area(size)


def _area(sides: Pair) -> int:
    return sides[0] * sides[1]
