"""The layers of a network as their cost sees them: families, and channels that follow from widths.

What runtimes fold is folded: batch norm into the convolution before it, activations into the layer before.
A *family* is a layer without its channels (operation, kernel, stride, image size, ...); its input and output
channels depend on the widths of the network's channel groups:

    channels(w) = fixed + sum_g times_g w_g

How they are found in a network: `signature.py`. What they cost: `table.py`, `resource.py`.

Example:
    >>> fc = Layer("fc", Family("linear", after="relu"), Channels(0, ((0, 36),)), Channels(2))
    >>> net = Anatomy((fc,), ("conv",), (4,))
    >>> [(family.text(), inputs, outputs) for family, inputs, outputs in net.channels([3])]
    [('linear, relu', 108, 2)]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Pair = tuple[int, int]
ONE: Pair = (1, 1)
NONE: Pair = (0, 0)

COMPANY = "company"
"""The operation of what layers of images are measured with: one of no network."""

IN_COMPANY = (
    "conv", "depthwise", "max-pool", "average-pool", "add", "concatenate", "norm", "activation",
)  # fmt: skip
"""Operations on images, which are measured in company (`single.py`)."""


@dataclass(frozen=True)
class Family:
    """A layer without its channels.

    Attributes:
        operation: `conv`, `depthwise`, `linear`, `product` (of two activations), `max-pool`, `average-pool`,
            `mean`, `add`, `multiply`, `concatenate`, `norm` or `activation`; `company` is none of a network
            (`Family.company`).
        kernel: height and width of the kernel.
        stride: of it.
        padding: at each side.
        dilation: of the kernel.
        groups: of a grouped convolution; 1 for a dense or depthwise one.
        size: height and width of the input; 1x1 for a vector, Tx1 for T vectors of one image (tokens), HxT
            for products of H matrices with T rows.
        bias: values are added at the end (a folded batch norm adds some).
        norm: a batch norm follows, which most runtimes fold.
        after: activation that follows and is folded, or empty.
        bits: of weights and activations, 32 for float.
        batch: images per call.
    """

    operation: str
    kernel: Pair = ONE
    stride: Pair = ONE
    padding: Pair = NONE
    dilation: Pair = ONE
    groups: int = 1
    size: Pair = ONE
    bias: bool = True
    norm: bool = False
    after: str = ""
    bits: int = 32
    batch: int = 1

    def text(self) -> str:
        """In words, for tables: what is not usual is named."""
        words = [self.operation]
        if self.kernel != ONE or self.operation in ("conv", "depthwise"):
            words.append(_times(self.kernel))
        words += [f"stride {self.stride[0]}"] if self.stride != ONE else []
        words += [f"{self.groups} groups"] if self.groups > 1 else []
        words += [f"on {_times(self.size)}"] if self.size != ONE else []
        return " ".join(words) + (f", {self.after}" if self.after else "")

    def key(self) -> str:
        """Every field, the same for equal families: what a table is searched by.

        >>> Family("linear", after="relu").key()
        'linear k1x1 s1x1 p0x0 d1x1 g1 on1x1 bias relu 32bit batch1'
        """
        sizes = (("k", self.kernel), ("s", self.stride), ("p", self.padding), ("d", self.dilation))
        words = [self.operation, *(name + _times(value) for name, value in sizes)]
        words += [f"g{self.groups}", f"on{_times(self.size)}", "bias" if self.bias else "plain"]
        words += ["norm"] if self.norm else []
        words += [self.after] if self.after else []
        words += ["in company"] if self.company else []
        return " ".join([*words, f"{self.bits}bit", f"batch{self.batch}"])

    @property
    def company(self) -> Family | None:
        """What a layer of images is measured with, and without: layers beside it (`single.py`), for images of
        the same size. None where it is measured alone: layers of vectors and tokens."""
        if 1 in self.size or self.operation not in IN_COMPANY:
            return None
        return Family(COMPANY, size=self.size, bits=self.bits, batch=self.batch)

    def taken(self, inputs: int) -> int:
        """Channels of one input tensor; a concatenation is of two halves."""
        return -(-inputs // 2) if self.operation == "concatenate" else inputs

    @property
    def square(self) -> bool:
        """Output channels are the input's: one number says both."""
        return self.operation not in ("conv", "linear", "product")

    def weights(self, inputs: int, outputs: int) -> int:
        """Values of the kernel or matrix; layers without one have none."""
        if self.operation == "linear":
            return inputs * outputs
        if self.operation == "conv":
            return inputs // self.groups * outputs * math.prod(self.kernel)
        return inputs * math.prod(self.kernel) if self.operation == "depthwise" else 0

    def macs(self, inputs: int, outputs: int) -> int:
        """Multiply-accumulates of one image."""
        each = inputs * outputs if self.operation == "product" else self.weights(inputs, outputs)
        return each * math.prod(self.out_size())

    def out_size(self) -> Pair:
        """Height and width of the output."""
        if self.operation == "mean":
            return ONE
        found = [
            (self.size[i] + 2 * self.padding[i] - self.dilation[i] * (self.kernel[i] - 1) - 1)
            // self.stride[i]
            + 1
            for i in (0, 1)
        ]
        return found[0], found[1]


def _times(pair: Pair) -> str:
    return f"{pair[0]}x{pair[1]}"


@dataclass(frozen=True)
class Channels:
    """A number of channels that follows from the widths of groups: `fixed + sum times w`.

    Attributes:
        fixed: channels that are there at any widths.
        times: (group, channels for each of its units).
    """

    fixed: int
    times: tuple[tuple[int, int], ...] = ()

    def at(self, widths: Sequence[int]) -> int:
        """Channels at the widths of all groups."""
        return self.fixed + sum(each * widths[group] for group, each in self.times)

    @property
    def groups(self) -> frozenset[int]:
        """The groups that it depends on."""
        return frozenset(group for group, _ in self.times)


@dataclass(frozen=True)
class Layer:
    """One layer of a network.

    Attributes:
        name: of the module that it was called in, for tables.
        family: what it does.
        inputs: its input channels.
        outputs: its output channels.
    """

    name: str
    family: Family
    inputs: Channels
    outputs: Channels

    @property
    def groups(self) -> frozenset[int]:
        """Channel groups whose widths decide its cost."""
        return self.inputs.groups | self.outputs.groups


@dataclass(frozen=True)
class Anatomy:
    """All layers of a network.

    Attributes:
        layers: in order of the forward pass.
        groups: names of the channel groups; widths are in this order.
        widths: of the network as it is.
        unknown: operations that no family stands for, by name; no table knows their cost.
    """

    layers: tuple[Layer, ...]
    groups: tuple[str, ...]
    widths: tuple[int, ...]
    unknown: tuple[str, ...] = ()

    def channels(self, widths: Sequence[int] | None = None) -> list[tuple[Family, int, int]]:
        """Family, input and output channels of every layer."""
        at = self.widths if widths is None else widths
        return [(each.family, each.inputs.at(at), each.outputs.at(at)) for each in self.layers]
