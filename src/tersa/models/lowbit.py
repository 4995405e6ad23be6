"""Low-bit networks by name: `cnv+w1a1`, `sfc+w1a1:in=1`, `bvgg16+w1a1:first=8/8,last=8/8`.

Behind a family that has a low-bit form (`bvgg16`, `vgg-small`, `vgg:11|16|19`, `cnv`, `bresnet18`,
`bresnet20`, `tfc`, `sfc`, `lfc`) stands

    +wXaY           X bits of weights (1..8, t for ternary, 32 for float), Y of activations (1..8, or 32)

and, after a colon, any of these, with commas between them:

    in=1..8             bits of a pixel; 8 are the stored bytes, 1 is a threshold at one half        [8]
    first=W/A, last=W/A bits of the first and last layer's weights and inputs, or float         [X/in, X/Y]
    by=...              gradient of the sign, an estimator of `quant.estimators`; two as W/A, by=ste/approx,
                        for weights and activations                                                [ste]
    scale=...           none, channel (BWN), lab, xnor (channel, and inputs in float)             [none]
    draw=stochastic     weights drawn while training (BinaryConnect)                     [deterministic]
    shape=...           none, standardise, recu: latent weights before their sign                 [none]
    mask=subsidiary     learn which filters can go (`quant.subsidiary`); without shortcuts        [none]
    pool=sums|signs     what poolings choose from while training (`quant.layers`); trained on sums,
                        scales are kept at 0 or more, and the network is the same in the end     [signs]

A network is printed as `1/1 (W/A), input 8, first 1/8, last 1/1`: bits of weights and of the activations
that they meet. *Fully binary* means that every weight has 1 bit, and every activation between layers too,
with pixels of 8 bits or 1. Families whose names begin with b, and `tfc`, `sfc`, `lfc`, are 1/1 by themselves.

The order in all of them is convolution, normalisation, activation, pooling (the maximum of signs is an OR);
the last layer's sums are normalised and are the logits. Networks are nested `nn.Sequential`s, or have
`features` and `classifier` with a flattening between them.

Example:
    >>> base, bits = split_bits("cnv+w1a1:first=8/8")
    >>> base, bits.describe()
    ('cnv', '1/1 (W/A), input 8, first 8/8, last 1/1')
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor, nn

from tersa.errors import UsageError, unknown
from tersa.models.family import Family, Shape
from tersa.quant.estimators import ESTIMATORS
from tersa.quant.layers import (
    FLOAT,
    Draw,
    IntegerBatchNorm1d,
    IntegerBatchNorm2d,
    PixelInput,
    QuantActivation,
    QuantConv2d,
    QuantLayer,
    QuantLinear,
    Scale,
    Shaping,
    SignPool2d,
    SumPool2d,
    WeightBits,
    WeightForm,
)
from tersa.quant.steps import MOST_BITS
from tersa.quant.subsidiary import FilterMask
from tersa.quant.xnor import Xnor

SUFFIX = re.compile(r"\+w([^+:@a]*)a([^+:@]*)(?::([^+]*))?$")
"""The last part of a spec that may be one."""
GRAMMAR = "+w1a1, w 1..8, t or 32, a 1..8 or 32; then :in=8,first=8/8,last=8/8,by=ste,scale=none,..."
ALLOWED = {str(bits) for bits in (*range(1, MOST_BITS + 1), FLOAT)}
KEYS = ("in", "first", "last", "by", "scale", "draw", "shape", "mask", "pool")


@dataclass(frozen=True)
class LowBits:
    """Bits of a network's weights, activations and pixels, and how they are trained.

    Attributes:
        weights: X, of every layer but those below.
        activations: Y, of everything between layers.
        pixels: of the input; `FLOAT` passes normalised images on.
        first: bits of the first layer's weights.
        last: bits of the last layer's weights.
        last_input: of the activations that the last layer reads.
        masked: activations have a subsidiary network's masks (`quant.subsidiary`).
        sums: poolings choose from sums while training (`quant.layers.IntegerBatchNorm2d`).
        xnor: inner layers put the magnitude of their inputs back, in floating point (`quant.xnor`).
        by: gradient of the sign, of activations and weights, or of activations alone where `by_weights` is.
        by_weights: gradient of the weights' sign, None for the same.
        scale: of the weights.
        draw: of the weights.
        shaping: of the weights.
    """

    weights: WeightBits = 1
    activations: int = 1
    pixels: int = 8
    first: WeightBits = 1
    last: WeightBits = 1
    last_input: int = 1
    by: str = "ste"
    scale: Scale = "none"
    draw: Draw = "deterministic"
    shaping: Shaping = "none"
    xnor: bool = False
    by_weights: str | None = None
    masked: bool = False
    sums: bool = False

    def describe(self) -> str:
        """`1/1 (W/A), input 8, first 1/8, last 1/1`, and the training's settings where they are not plain."""
        text = (
            f"{_word(self.weights)}/{self.activations} (W/A), input {self.pixels}, "
            f"first {_word(self.first)}/{self.pixels}, last {_word(self.last)}/{self.last_input}"
        )
        plain = LowBits()
        scale = "xnor" if self.xnor else self.scale
        mask = "subsidiary" if self.masked else "none"
        pool = "sums" if self.sums else "signs"
        named = {
            "by": self.by if self.by_weights is None else f"{self.by_weights}/{self.by}",
            "scale": scale,
            "draw": self.draw,
            "shape": self.shaping,
            "mask": mask,
            "pool": pool,
        }
        usual = {
            "by": plain.by,
            "scale": plain.scale,
            "draw": plain.draw,
            "shape": plain.shaping,
            "mask": "none",
            "pool": "signs",
        }
        return ", ".join([text, *(f"{key}={value}" for key, value in named.items() if value != usual[key])])

    def form(self, weights: WeightBits) -> WeightForm:
        """Of a layer's weights; settings of 1-bit weights are left out for others."""
        if weights == FLOAT:
            return WeightForm(FLOAT)
        one = weights == 1
        return WeightForm(
            bits=weights,
            by=(self.by_weights or self.by) if one else "ste",
            scale=self.scale,
            draw=self.draw if one else "deterministic",
            shaping=self.shaping,
        )


BINARY = LowBits()
"""1/1 with pixels of 8 bits."""


@dataclass(frozen=True)
class LowBitFamily:
    """Networks that can be built at any bits.

    Attributes:
        family: name, grammar and sizes; its `build` is the network without a suffix.
        build: from (argument, shape, classes, bits) to a network.
        binary: without a suffix it is 1/1, not in floating point.
    """

    family: Family
    build: Callable[[str, Shape, int, LowBits], nn.Module]
    binary: bool = False

    def at(self, bits: LowBits) -> Family:
        """The family with its networks at these bits."""
        return replace(
            self.family, build=lambda argument, shape, classes: self.build(argument, shape, classes, bits)
        )


def binary_family(
    name: str,
    about: str,
    build: Callable[[str, Shape, int, LowBits], nn.Module],
    smallest: int,
    largest: int = 224,
) -> LowBitFamily:
    """A family without an argument whose plain name means 1/1."""
    family = Family(
        name=name,
        grammar=name,
        default="",
        takes_argument=False,
        smallest=smallest,
        largest=largest,
        build=lambda argument, shape, classes: build(argument, shape, classes, BINARY),
        about=about,
    )
    return LowBitFamily(family, build, binary=True)


def split_bits(spec: str) -> tuple[str, LowBits | None]:
    """A spec without its low-bit suffix, and what the suffix says; None where there is none.

    Raises:
        UsageError: a malformed suffix.
    """
    match = SUFFIX.search(spec)
    if match is None:
        return spec, None
    return spec[: match.start()], _parse(match[1], match[2], match[3], spec)


class Builder:
    """Layers of one network at given bits, in order.

    Keeps track of which layer is the first, so that families only say what follows what.

    Args:
        bits: of the network.
        channels: C of the images.
    """

    def __init__(self, bits: LowBits, channels: int) -> None:
        self.bits = bits
        self.channels = channels
        self._layers = 0
        self._outputs = 0
        self._incoming = bits.pixels

    def pixels(self) -> PixelInput:
        """The first module."""
        return PixelInput(self.bits.pixels, self.channels)

    def conv(
        self, inputs: int, outputs: int, kernel: int = 3, *, pool: int = 1, **how: int
    ) -> list[nn.Module]:
        """A convolution and its normalisation; `pool` is the window of the pooling that follows, or 1."""
        self._outputs = outputs
        conv = QuantConv2d(inputs, outputs, kernel, form=self._form(), input_bits=self._incoming, **how)
        return [self._whole(conv), IntegerBatchNorm2d(outputs, pool if self.bits.sums else 1)]

    def pool(self, size: int) -> nn.Module:
        """The maximum over windows, behind an activation."""
        return SignPool2d(size) if self.bits.sums else nn.MaxPool2d(size)

    def linear(self, inputs: int, outputs: int) -> list[nn.Module]:
        """A fully connected layer and its normalisation."""
        self._outputs = outputs
        linear = QuantLinear(inputs, outputs, form=self._form(), input_bits=self._incoming)
        return [self._whole(linear), IntegerBatchNorm1d(outputs)]

    def activation(self, *, before_last: bool = False, masked: bool = True) -> nn.Module:
        """What the next layer reads; its bits are the last layer's where that is next.

        Args:
            before_last: the last layer is next.
            masked: a masked channel would be gone (not so before a vote, where it would count as a sign).
        """
        self._incoming = self.bits.last_input if before_last else self.bits.activations
        if self.bits.xnor and not before_last:
            return nn.Identity()  # the next layer takes the sign itself
        plain = QuantActivation(self._incoming, self.bits.by if self._incoming == 1 else "ste")
        return nn.Sequential(plain, FilterMask(self._outputs)) if self.bits.masked and masked else plain

    def logits(self, inputs: int, classes: int, *, places: int = 1) -> list[nn.Module]:
        """The last layer, on sums over `places`, and the normalisation that makes its sums logits."""
        form = self.bits.form(self.bits.last)
        last = QuantLinear(inputs, classes, form=form, input_bits=self._incoming, places=places)
        return [last, IntegerBatchNorm1d(classes)]

    def _whole(self, layer: QuantLayer) -> nn.Module:
        """The layer, with its inputs' sign and magnitude where XNOR-Net has them."""
        first = self._layers == 1
        return Xnor(layer, self.bits.by) if self.bits.xnor and not first else layer

    def _form(self) -> WeightForm:
        weights = self.bits.weights if self._layers else self.bits.first
        self._layers += 1
        return self.bits.form(weights)


class LowBitNetwork(nn.Module):
    """Convolutions, then fully connected layers on the flattened features.

    Args:
        features: from images to maps (N, C, H, W) or features (N, F).
        classifier: from (N, F) to logits (N, K).
    """

    def __init__(self, features: nn.Sequential, classifier: nn.Sequential) -> None:
        super().__init__()
        self.features = features
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W)."""
        return self.classifier(torch.flatten(self.features(x), 1))


def vote(layers: Builder, channels: int, *, before_last: bool = False) -> list[nn.Module]:
    """One sign per channel from a map of signs: their sum against a learnt threshold."""
    return [SumPool2d(), IntegerBatchNorm1d(channels), layers.activation(before_last=before_last)]


def _parse(weights: str, activations: str, settings: str | None, spec: str) -> LowBits:
    w, a = _weight_bits(weights, spec), _bits(activations, spec, "activations")
    given = _settings(settings, spec)
    pixels = _bits(given["in"], spec, "pixels") if "in" in given else None
    first, first_input = _layer(given.get("first"), spec, w, pixels if pixels is not None else 8)
    if pixels is not None and pixels != first_input:
        raise UsageError(
            f"model '{spec}': in={pixels} and first={given['first']} disagree about the pixels' bits"
        )
    last, last_input = _layer(given.get("last"), spec, w, a)
    for key, allowed in CHOICES.items():
        if key in given and given[key] not in allowed:
            raise unknown(key, given[key], allowed)
    estimators = given.get("by", BINARY.by).split("/")
    for each in estimators:
        if each not in ESTIMATORS:
            raise unknown("by", each, ESTIMATORS)
    if len(estimators) > 2:
        raise UsageError(f"model '{spec}': by={given['by']} names more than two estimators; give one, or W/A")
    bits = LowBits(w, a, first_input, first, last, last_input)
    if given.get("mask") == "subsidiary":
        bits = replace(bits, masked=True)
    bits = replace(bits, sums=given.get("pool") == "sums")
    if given.get("scale") == "xnor":
        bits, given = replace(bits, xnor=True), {**given, "scale": "channel"}
    bits = replace(bits, by=estimators[-1], by_weights=estimators[0] if len(estimators) == 2 else None)
    named = {"scale": "scale", "draw": "draw", "shape": "shaping"}
    bits = replace(bits, **{named[key]: given[key] for key in named if key in given})
    _check(bits, spec)
    return bits


CHOICES: dict[str, tuple[str, ...]] = {
    "scale": (*get_args(Scale), "xnor"),
    "draw": get_args(Draw),
    "shape": get_args(Shaping),
    "mask": ("none", "subsidiary"),
    "pool": ("signs", "sums"),
}


def _check(bits: LowBits, spec: str) -> None:
    """Refuse settings that nothing in the network would follow."""
    weights: set[WeightBits] = {bits.weights, bits.first, bits.last}
    inside = {bits.activations, bits.last_input}
    if (bits.by != "ste" or bits.by_weights) and 1 not in weights | inside:
        raise UsageError(f"model '{spec}': by={bits.by} is for 1 bit, and nothing has 1 bit; leave it out")
    if bits.by_weights and not (1 in weights and 1 in inside):
        raise UsageError(
            f"model '{spec}': by={bits.by_weights}/{bits.by} is for 1 bit of weights and of activations; "
            "give one"
        )
    if bits.xnor and (bits.weights, bits.activations) != (1, 1):
        raise UsageError(f"model '{spec}': scale=xnor is for w1a1; choose scale=channel or w1a1")
    if bits.xnor and bits.masked:
        raise UsageError(f"model '{spec}': scale=xnor and mask=subsidiary do not go together; leave out one")
    if bits.masked:
        bound = {
            f"scale={bits.scale}": bits.scale == "channel",
            f"shape={bits.shaping}": bits.shaping != "none",
        }
        bound["ternary weights"] = "ternary" in weights
        if found := [name for name, given in bound.items() if given]:
            raise UsageError(
                f"model '{spec}': mask=subsidiary and {' and '.join(found)} do not go together: a masked "
                "filter could not be removed without changing the others; leave out one (scale=lab goes)"
            )
    if bits.draw == "stochastic" and 1 not in weights:
        raise UsageError(f"model '{spec}': draw=stochastic is for weights of 1 bit; leave it out")
    if weights == {FLOAT} and (bits.scale, bits.shaping) != ("none", "none"):
        raise UsageError(f"model '{spec}': float weights take no scale and no shape; leave them out")
    for each in weights:
        try:
            bits.form(each).check()
        except UsageError as error:
            raise UsageError(f"model '{spec}': {error}") from None


def _settings(text: str | None, spec: str) -> dict[str, str]:
    if text is None:
        return {}
    found: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or not value:
            raise UsageError(f"model '{spec}': '{part}' is not key=value; known keys: {', '.join(KEYS)}")
        if key not in KEYS:
            raise unknown("low-bit setting", key, KEYS)
        if key in found:
            raise UsageError(f"model '{spec}': {key} is given twice")
        found[key] = value
    return found


def _layer(text: str | None, spec: str, weights: WeightBits, inputs: int) -> tuple[WeightBits, int]:
    """Bits of the weights and inputs of a first or last layer."""
    if text is None:
        return weights, inputs
    if text == "float":
        return FLOAT, FLOAT
    left, slash, right = text.partition("/")
    if not slash:
        raise UsageError(f"model '{spec}': '{text}' is neither W/A, as in 8/8, nor float")
    return _weight_bits(left, spec), _bits(right, spec, "inputs")


def _weight_bits(text: str, spec: str) -> WeightBits:
    return "ternary" if text in ("t", "ternary") else _bits(text, spec, "weights")


def _bits(text: str, spec: str, what: str) -> int:
    if text in ALLOWED:
        return int(text)
    ternary = ", t for ternary" if what == "weights" else ""
    raise UsageError(
        f"model '{spec}': '{text}' bits of {what}; allowed: 1 to {MOST_BITS}{ternary}, {FLOAT} for float"
    )


def _word(bits: WeightBits) -> str:
    return "t" if bits == "ternary" else str(bits)
