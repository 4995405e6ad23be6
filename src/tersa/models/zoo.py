"""The zoo: every network that tersa builds by name, and the grammar of those names.

A spec is `FAMILY` or `FAMILY:ARGUMENT`: `lenet`, `mlp:100x100`, `vgg:16`, `mobilenet:0.5`. A new family is
one file with a `Family` and one line in `FAMILIES`; everything else picks it up. `+separable`, `+fire` or
`+shift` behind a spec replaces its convolutions by light modules: `lenet+separable`, `resnet:20+fire@layer3*`
(`lighten.py` has the grammar). `+w1a1` gives a network that has one its low-bit form: `cnv+w1a1`,
`sfc+w2a2:in=1` (`lowbit.py` has the grammar).

Example:
    >>> model = build("mlp:100x100", (1, 28, 28), 10)
    >>> type(model).__name__, default_spec((1, 8, 8), 10)
    ('MLP', 'lenet')
    >>> type(build("lenet+shift", (1, 28, 28), 10).conv2).__name__
    'ShiftConv'
    >>> bits_of("tfc+w2a2").describe()
    '2/2 (W/A), input 8, first 2/8, last 2/2'
"""

from __future__ import annotations

import torch
from torch import nn

from tersa.errors import UsageError, unknown
from tersa.models import (
    alexnet,
    binary_mlp,
    bresnet,
    bvgg,
    cnv,
    densenet,
    elman,
    lenet,
    mlp,
    mobilenet,
    resnet,
    vgg,
    vit,
)
from tersa.models.family import Family, Shape
from tersa.models.lighten import lighten_, split
from tersa.models.lowbit import BINARY, LowBitFamily, LowBits, split_bits

LOW_BIT: dict[str, LowBitFamily] = {
    each.family.name: each for each in (*bvgg.FAMILIES, *bresnet.FAMILIES, *binary_mlp.FAMILIES)
}
"""Families that take `+wXaY`."""

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        mlp.FAMILY,
        lenet.LENET,
        lenet.LENET5,
        vgg.VGG_FAMILY,
        vgg.SMALL,
        cnv.FAMILY,
        alexnet.FAMILY,
        mobilenet.FAMILY,
        resnet.CIFAR,
        resnet.RESNET18,
        densenet.FAMILY,
        elman.FAMILY,
        vit.FAMILY,
        *(each.family for each in LOW_BIT.values() if each.binary),
    )
}

MOST_PARAMETERS = 500_000_000
"""Largest network that is built: 2 GB of weights."""
LARGEST_SEED = 2**63 - 1


def known() -> tuple[str, ...]:
    """The grammar of every family, in the order of the registry."""
    return tuple(family.grammar for family in FAMILIES.values())


def build(spec: str, shape: Shape, classes: int, *, seed: int = 0) -> nn.Module:
    """A network by name, with weights drawn from `seed`.

    Equal arguments give equal weights on any machine; the global random state is left as it was.

    Args:
        spec: `FAMILY` or `FAMILY:ARGUMENT`, see `known()`, with or without light modules behind a `+`.
        shape: (C, H, W) of one image, or (1, 1, F) for F features.
        classes: K, the number of outputs.
        seed: of the weights, 0 or more.

    Returns:
        A plain module in train mode that maps (N, C, H, W) to logits (N, K).

    Raises:
        UsageError: an unknown name, a malformed argument, an image size that the family does not take, a
            network of more than `MOST_PARAMETERS` parameters, or light modules that replace nothing.
    """
    family, argument = parse(spec)
    _check_numbers(shape, classes, seed)
    family.check_size(spec, shape)
    with torch.device("meta"):
        count = sum(p.numel() for p in family.build(argument, shape, classes).parameters())
    if count > MOST_PARAMETERS:
        raise UsageError(
            f"model '{spec}' for {_times(shape)} images would have {count:,} parameters, "
            f"at most {MOST_PARAMETERS:,} are built; choose smaller widths"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = family.build(argument, shape, classes)
    for light in split(spec)[1]:
        lighten_(model, light.kind, light.layers, squeeze=light.squeeze, seed=seed)
    return model


def parse(spec: str) -> tuple[Family, str]:
    """The family and the argument that a spec names; the family's default where it has no argument.

    A low-bit suffix makes it the family at those bits. Light modules behind a `+` are checked and left out:
    `lighten.split` gives them.

    Raises:
        UsageError: an unknown name, an argument where none is taken or none follows the colon, a low-bit
            suffix that is malformed or behind a family without a low-bit form, or unknown light modules.
    """
    base, bits = split_bits(split(spec)[0])
    name, colon, argument = base.partition(":")
    if name not in FAMILIES:
        raise unknown("model", name, FAMILIES)
    if bits is not None and name not in LOW_BIT:
        raise UsageError(f"model '{spec}': '{name}' has no low-bit form; these have: {', '.join(LOW_BIT)}")
    family = FAMILIES[name] if bits is None else LOW_BIT[name].at(bits)
    if not colon:
        return family, family.default
    if not family.takes_argument:
        raise UsageError(f"model '{spec}': '{name}' takes no argument; write {family.grammar}")
    if not argument:
        raise UsageError(f"model '{spec}': nothing follows the colon; write {family.grammar}")
    return family, argument


def bits_of(spec: str) -> LowBits | None:
    """The bits that a spec's network has; None for a network in floating point, and for a user's own.

    Raises:
        UsageError: a malformed low-bit suffix.
    """
    base, bits = split_bits(split(spec)[0])
    name = base.partition(":")[0]
    if bits is None and name in LOW_BIT and LOW_BIT[name].binary:
        return BINARY
    return bits


def default_spec(shape: Shape, classes: int) -> str:
    """The model that is used when the user names none.

    Features (1, 1, F) get `mlp:64x64`; grey images up to 32x32 `lenet`; other images up to 64x64 `vgg-small`;
    larger ones `mobilenet:1.0`. `classes` has no say so far.
    """
    del classes
    channels, height, width = shape
    if min(height, width) < 8:
        return "mlp:64x64"
    if max(height, width) <= 32 and channels == 1:
        return "lenet"
    return "vgg-small" if max(height, width) <= 64 else "mobilenet:1.0"


def _check_numbers(shape: Shape, classes: int, seed: int) -> None:
    if min(shape) < 1:
        raise UsageError(
            f"images of shape {_times(shape)} have no pixels; shape is (channels, height, width)"
        )
    if classes < 1:
        raise UsageError(f"{classes} classes; a network needs at least one output")
    if not 0 <= seed <= LARGEST_SEED:
        raise UsageError(f"seed {seed} is outside 0..{LARGEST_SEED}")


def _times(shape: Shape) -> str:
    return "x".join(str(side) for side in shape)
