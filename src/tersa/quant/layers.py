"""Low-bit layers: pixels, convolutions, fully connected layers, activations and normalisation in integers.

    PixelInput            normalised images -> odd integers of b bits
    QuantConv2d/Linear    integer inputs x integer weights -> exact integer sums [x alpha per output]
    IntegerBatchNorm      y = x scale + shift, in eval as two float32 operations
    QuantActivation       k-bit levels of clip(x, -1, 1), as odd integers (`steps.py`)

What flows between layers are integers in floating-point tensors. In eval mode all sums are exact (below 2^24
in float32, else they are taken in float64 and rounded once), so that the network is an integer computation up
to the multiplication and addition of the normalisation: a packed program gives its logits bit for bit. A
padded place of a convolution contributes 0, which is not a level.

Weights are latent: a float copy that the optimiser moves, kept in -1..1 by `train.latents`, read through its
levels in the forward pass and through an estimator (`estimators.py`) in the backward pass. In bfloat16
autocast the levels stay exact and sums are rounded to 8 bits of precision; eval mode is float32.

    weight_bits   1..8, "ternary" (-1, 0, 1), or 32: the float weights themselves
    scale         none; channel: alpha_o = mean |w_o| (BWN, XNOR-Net), through which the gradient flows too;
                  lab: alpha_o = sum(d_o |w_o|) / sum(d_o), d the root of the optimiser's second moments
    draw          deterministic; stochastic: while training, +1 with probability clip((w + 1) / 2, 0, 1)
    shaping       none; standardise: (w - mean_o) / std_o before the levels (IR-Net); recu: the standardised
                  weights clamped to their quantiles 1 - tau and tau, tau = 0.85 + 0.14 p (ReCU)

Differs from the papers: LAB's alpha is one per layer, here one per output; ReCU's tau rises linearly.

Example:
    >>> layer = QuantLinear(4, 2).eval()
    >>> sums = layer(torch.tensor([[1.0, -1.0, 1.0, 1.0]]))
    >>> bool((sums == sums.round()).all()), layer.largest_sum
    (True, 4)

References:
    Rastegari et al., XNOR-Net (ECCV 2016), section 3; Courbariaux, Bengio & David, BinaryConnect (NIPS 2015);
    Hou, Yao & Kwok, Loss-aware Binarization (ICLR 2017), section 3; Qin et al., IR-Net (CVPR 2020), section
    3.2; Xu et al., ReCU (ICCV 2021), section 3.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tersa.errors import UsageError
from tersa.quant.estimators import ESTIMATORS, quantised
from tersa.quant.primitives import round_half_even, ste
from tersa.quant.steps import EXACT, MOST_BITS, steps, to_ternary
from tersa.quant.sums import convolve

FLOAT = 32
"""Bits of a value that is not quantised."""
TIES_UP = 2.0**-14
"""Added to a pixel's level: more than the error of a normalisation undone, less than a byte is from a tie."""
RECU_START, RECU_END = 0.85, 0.99

WeightBits = int | Literal["ternary"]
Scale = Literal["none", "channel", "lab"]
Draw = Literal["deterministic", "stochastic"]
Shaping = Literal["none", "standardise", "recu"]


class WeightForm(NamedTuple):
    """How latent weights become levels; see the head of this file for each setting."""

    bits: WeightBits = 1
    by: str = "ste"
    scale: Scale = "none"
    draw: Draw = "deterministic"
    shaping: Shaping = "none"

    @property
    def largest(self) -> int:
        """The largest level, or 0 for float weights."""
        return 1 if self.bits == "ternary" else 0 if self.bits == FLOAT else steps(self.bits)

    def check(self) -> None:
        """Refuse what cannot be, in one line.

        Raises:
            UsageError: settings that have no meaning, or none together.
        """
        if self.bits not in ("ternary", FLOAT) and not 1 <= self.bits <= MOST_BITS:
            raise UsageError(
                f"weights of {self.bits} bits; allowed: 1 to {MOST_BITS}, ternary, {FLOAT} for float"
            )
        if self.draw == "stochastic" and self.bits != 1:
            raise UsageError(f"draw=stochastic needs weights of 1 bit, these have {self.bits}; leave it out")
        if self.bits == FLOAT and (self.scale, self.shaping) != ("none", "none"):
            raise UsageError("float weights take no scale and no shape; leave them out or choose 1 to 8 bits")
        if self.draw == "stochastic" and self.by != "ste":
            raise UsageError(f"draw=stochastic is estimated by ste, not {self.by}; leave out one of them")


SIGNS = WeightForm()


class PixelInput(nn.Module):
    """Normalised images back to pixel codes, as odd integers: the first module of a low-bit network.

        q = round((x std + mean) (2^b - 1)), within 0 .. 2^b - 1;  value 2 q - (2^b - 1)

    8 bits recover the stored bytes; 1 bit is a threshold at one half; 32 passes the images on as they are.
    Bytes never lie on the border between two codes, so the codes do not depend on rounding. A pixel of one
    half, which is no byte, gets the code of byte 128 at every b. The gradient is straight through, in units
    of the value.

    Args:
        bits: b, 1 to 8, or 32.
        channels: C of the images.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, bits: int = 8, channels: int = 1) -> None:
        super().__init__()
        if not 1 <= bits <= MOST_BITS and bits != FLOAT:
            raise UsageError(f"pixels of {bits} bits; allowed: 1 to {MOST_BITS}, {FLOAT} for float")
        self.bits, self.channels = bits, channels
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def settle_(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Take over the normalisation of a task, per channel of pixels in 0..1."""
        self.mean.copy_(torch.tensor(mean))
        self.std.copy_(torch.tensor(std))

    def forward(self, x: Tensor) -> Tensor:
        """Integers (N, C, H, W) of normalised images (N, C, H, W)."""
        if self.bits == FLOAT:
            return x
        n = steps(self.bits)
        pixels = x * self.std.view(1, -1, 1, 1) + self.mean.view(1, -1, 1, 1)
        levels = 2 * round_half_even(pixels * n + TIES_UP).clamp(0, n) - n
        return ste(levels, 2 * n * pixels) if x.requires_grad else levels

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{self.bits}, channels={self.channels}"


class QuantConv2d(nn.Conv2d):
    """A convolution with low-bit weights, without bias; zero padding.

    Args:
        in_channels: of the input.
        out_channels: O.
        kernel_size: height and width.
        stride: of the kernel.
        padding: zeros on every side.
        form: of the weights.
        input_bits: of the odd integers that come in, 32 for float values.
    """

    factor: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        form: WeightForm = SIGNS,
        input_bits: int = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=False)
        self.form, self.input_bits, self.progress = form, input_bits, 0.0
        _begin_(self)

    def reset_parameters(self) -> None:
        """Draw the weights anew: latents as `_begin_` does, float weights as PyTorch does."""
        super().reset_parameters()
        if hasattr(self, "form"):  # PyTorch calls this before there is one
            _draw_(self)

    def integer_weight(self) -> Tensor:
        """The weights' levels, (O, I, kh, kw); float weights as they are."""
        return weight_levels(self.weight, self.form, self.training, self.progress)

    def alpha(self) -> Tensor | None:
        """The factor of each output channel, (O,), or None."""
        return weight_factor(self.weight, self.form, self.factor)

    @property
    def largest_sum(self) -> int:
        """No sum of an output exceeds this; 0 where float values come in or float weights are used."""
        return self.weight[0].numel() * self.form.largest * _largest_input(self.input_bits)

    def forward(self, input: Tensor) -> Tensor:
        """Sums (N, O, H', W') of integers (N, I, H, W), times alpha where there is one."""
        weight = self.integer_weight()
        if not self.training and self.largest_sum >= EXACT:
            sums = F.conv2d(input.double(), weight.double(), None, self.stride, self.padding).float()
        elif self.form.bits == self.input_bits == 1:
            sums = convolve(input, weight, self.stride, self.padding)
        else:
            sums = F.conv2d(input, weight, None, self.stride, self.padding)
        alpha = self.alpha()
        return sums if alpha is None else sums * alpha.view(1, -1, 1, 1)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{super().extra_repr()}, {_shown(self.form, self.input_bits)}"


class QuantLinear(nn.Linear):
    """A fully connected layer with low-bit weights, without bias.

    Args:
        in_features: of the input.
        out_features: O.
        form: of the weights.
        input_bits: of the odd integers that come in, 32 for float values.
        places: how many of these were summed into each input (`SumPool2d`).
    """

    factor: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        form: WeightForm = SIGNS,
        input_bits: int = 1,
        places: int = 1,
    ) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.form, self.input_bits, self.places, self.progress = form, input_bits, places, 0.0
        _begin_(self)

    def reset_parameters(self) -> None:
        """Draw the weights anew: latents as `_begin_` does, float weights as PyTorch does."""
        super().reset_parameters()
        if hasattr(self, "form"):  # PyTorch calls this before there is one
            _draw_(self)

    def integer_weight(self) -> Tensor:
        """The weights' levels, (O, I); float weights as they are."""
        return weight_levels(self.weight, self.form, self.training, self.progress)

    def alpha(self) -> Tensor | None:
        """The factor of each output, (O,), or None."""
        return weight_factor(self.weight, self.form, self.factor)

    @property
    def largest_sum(self) -> int:
        """No sum of an output exceeds this; 0 where float values come in or float weights are used."""
        return self.in_features * self.places * self.form.largest * _largest_input(self.input_bits)

    def forward(self, input: Tensor) -> Tensor:
        """Sums (N, O) of integers (N, I), times alpha where there is one."""
        weight = self.integer_weight()
        if not self.training and self.largest_sum >= EXACT:
            sums = F.linear(input.double(), weight.double()).float()
        else:
            sums = F.linear(input, weight)
        alpha = self.alpha()
        return sums if alpha is None else sums * alpha

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{super().extra_repr()}, {_shown(self.form, self.input_bits)}"


class QuantActivation(nn.Module):
    """k-bit levels of clip(x, -1, 1) as odd integers; 1 bit is the sign with 0 -> +1.

    Args:
        bits: k, 1 to 8; 32 is ReLU in floating point.
        by: gradient of 1 bit, one of `estimators.ESTIMATORS`.
    """

    def __init__(self, bits: int = 1, by: str = "ste") -> None:
        super().__init__()
        if not 1 <= bits <= MOST_BITS and bits != FLOAT:
            raise UsageError(f"activations of {bits} bits; allowed: 1 to {MOST_BITS}, {FLOAT} for float")
        self.bits, self.by, self.progress = bits, by, 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Levels shaped like x."""
        if self.bits == FLOAT:
            return torch.relu(x)
        return quantised(x, self.bits, by=self.by, progress=self.progress)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{self.bits}" + (f", by={self.by}" if self.by != "ste" else "")


class _Affine(nn.modules.batchnorm._BatchNorm):  # pyright: ignore[reportPrivateUsage] - the common base of both
    """What both normalisations share: eval as one multiplication and one addition."""

    def scale_shift(self) -> tuple[Tensor, Tensor]:
        """(scale, shift), (C,) float32: gamma / sqrt(var + eps) and beta - mean scale."""
        assert self.running_mean is not None
        assert self.running_var is not None
        scale = self.weight / torch.sqrt(self.running_var + self.eps)
        return scale, self.bias - self.running_mean * scale

    def forward(self, input: Tensor) -> Tensor:
        """Normalised by the batch while training; x scale + shift in eval, in that order."""
        if self.training:
            return super().forward(input)
        scale, shift = self.scale_shift()
        shape = (1, -1, *([1] * (input.dim() - 2)))
        return input.float() * scale.view(shape) + shift.view(shape)


class IntegerBatchNorm2d(_Affine, nn.BatchNorm2d):
    """Batch normalisation of (N, C, H, W) whose eval mode numpy repeats bit for bit.

    With `pool` above 1 it learns from maxima: while training its input is pooled first, and the `SignPool2d`
    behind the activation passes on what it gets. With gamma >= 0 (`train.latents` sees to it) that is the
    same function as normalisation, activation, maximum, in eval mode bit for bit, since all of these rise
    with their input. What differs is how it trains: means and variances are those of the maxima, so that
    signs stay balanced behind a pooling (of four balanced signs the maximum is +1 in 15 of 16), and the
    gradient goes to the largest sum of a window rather than to its first +1.

    Args:
        num_features: C.
        pool: side of the window, 1 for none.
    """

    def __init__(self, num_features: int, pool: int = 1) -> None:
        super().__init__(num_features)
        self.pool = pool

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W), while training (N, C, H / pool, W / pool)."""
        if self.training and self.pool > 1:
            input = F.max_pool2d(input, self.pool)
        return super().forward(input)


class SignPool2d(nn.MaxPool2d):
    """The maximum over windows of what a normalisation with `pool` gave, which has pooled while training."""

    def forward(self, input: Tensor) -> Tensor:
        """Maxima in eval mode, the input itself while training."""
        return input if self.training else F.max_pool2d(input, self.kernel_size)


class IntegerBatchNorm1d(_Affine, nn.BatchNorm1d):
    """Batch normalisation of (N, C) whose eval mode numpy repeats bit for bit."""


class SumPool2d(nn.Module):
    """The sum over all places of a map, (N, C, H, W) -> (N, C): exact, and integer for integers."""

    def forward(self, x: Tensor) -> Tensor:
        """Sums, (N, C)."""
        return x.float().sum((2, 3))


QuantLayer = QuantConv2d | QuantLinear


def weight_levels(weight: Tensor, form: WeightForm, training: bool = False, progress: float = 0.0) -> Tensor:
    """Latent weights as levels, with the estimated gradient.

    Args:
        weight: (O, ...), latent.
        form: what is done.
        training: draw at random where the form is stochastic.
        progress: how far the training has come, 0..1.
    """
    if form.bits == FLOAT:
        return weight
    weight = shaped(weight, form.shaping, progress if training else 1.0)
    if form.bits == "ternary":
        return ste(to_ternary(weight), weight)
    if form.draw == "stochastic" and training:
        rises = torch.rand_like(weight) < (weight + 1) / 2
        return ste(torch.where(rises, 1.0, -1.0).to(weight.dtype), weight.clamp(-1, 1))
    return quantised(weight, form.bits, by=form.by, progress=progress)


def weight_factor(weight: Tensor, form: WeightForm, stored: Tensor | None) -> Tensor | None:
    """alpha of each output, (O,), or None; see the head of this file."""
    if form.scale == "channel":
        return shaped(weight, form.shaping, 1.0).abs().flatten(1).mean(1)
    return stored


def shaped(weight: Tensor, shaping: Shaping, progress: float = 0.0) -> Tensor:
    """Latent weights standardised per output, and clamped to their quantiles where that is asked."""
    if shaping == "none":
        return weight
    rows = weight.flatten(1)
    rows = (rows - rows.mean(1, keepdim=True)) / (rows.std(1, keepdim=True, correction=0) + 1e-12)
    if shaping == "recu":
        tau = RECU_START + (RECU_END - RECU_START) * progress
        ends = torch.quantile(
            rows.detach(), torch.tensor([1 - tau, tau], device=rows.device), dim=1
        )  # (2, O)
        rows = torch.minimum(torch.maximum(rows, ends[0, :, None]), ends[1, :, None])
    return rows.view_as(weight)


def _begin_(layer: QuantConv2d | QuantLinear) -> None:
    """Check the form, draw latents, and make room for LAB's factor."""
    layer.form.check()
    if layer.form.by not in ESTIMATORS:
        quantised(torch.zeros(()), 1, by=layer.form.by)  # says what is known
    layer.register_buffer("factor", None)
    _draw_(layer)


def _draw_(layer: QuantConv2d | QuantLinear) -> None:
    """Latents drawn evenly in -1..1, and LAB's factor as it is for them; float weights stay."""
    if layer.form.bits != FLOAT:
        nn.init.uniform_(layer.weight, -1, 1)
    if layer.form.scale == "lab":
        layer.factor = layer.weight.detach().abs().flatten(1).mean(1)


def _largest_input(bits: int) -> int:
    return 0 if bits == FLOAT else steps(bits)


def _shown(form: WeightForm, input_bits: int) -> str:
    more = [f"{name}={value}" for name, value in form._asdict().items() if value != getattr(SIGNS, name)]
    return ", ".join([f"input_bits={input_bits}", *more])
