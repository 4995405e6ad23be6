"""B-VGG16 (document 004) and the low-bit forms of VGG, VGG-Small and CNV.

`bvgg16` is a VGG16 for 32x32 whose every weight and activation has one bit:

    3x3 convolutions   64 64 pool | 128 128 pool | 256 256 256 pool | 512 512 512 | 512 512 512
    fully connected    512 -> 1024 -> 10

There is no pooling after the last two groups, so that 4x4 maps of 512 channels are left of 32x32, while the
document's first fully connected layer has 512 inputs, and it does not say how the one becomes the other. Here
each channel votes: its signs are summed over the map (an integer), normalised, and the sign is the channel's.
That keeps every activation between layers at 1 bit, adds no weights, and folds into one integer threshold.
Differs from the document: normalisation of the logits, as in BNN-PYNQ's networks.

`vgg:11|16|19` with a suffix are `vgg.py`'s plans (five poolings: one place is left of 32x32; larger maps
vote), `vgg-small` flattens its maps, `cnv` is BNN-PYNQ's network, with 512 and 512 units.

Example:
    >>> model = build_bvgg16("", (3, 32, 32), 10, LowBits())
    >>> sum(p.numel() for p in model.parameters() if p.dim() > 1)
    15244992

References:
    Document 004, section III and figure 2; Liu & Deng, Very deep convolutional neural network based image
    classification using small training sample size (2015), for its VGG16.
"""

from __future__ import annotations

from torch import nn

from tersa.models import cnv, vgg
from tersa.models.family import Shape
from tersa.models.lowbit import Builder, LowBitFamily, LowBitNetwork, LowBits, binary_family, vote

POOL = vgg.POOL
BVGG16_PLAN = (64, 64, POOL, 128, 128, POOL, *[256] * 3, POOL, *[512] * 6)
BVGG16_UNITS = (1024,)


def stack(
    layers: Builder,
    channels: int,
    plan: tuple[int, ...],
    *,
    padding: int,
    before_last: bool = False,
    before_vote: bool = False,
) -> list[nn.Module]:
    """3x3 convolutions with normalisation, activation and pooling, from the pixels on.

    Args:
        layers: of the network.
        channels: C of the images.
        plan: widths, and `POOL` for a 2x2 maximum.
        padding: of the convolutions.
        before_last: the network's last layer follows.
        before_vote: a vote follows.
    """
    modules: list[nn.Module] = [layers.pixels()]
    final = max(place for place, width in enumerate(plan) if width != POOL)
    for place, width in enumerate(plan):
        if width == POOL:
            modules.append(layers.pool(2))
            continue
        pool = 2 if place + 1 < len(plan) and plan[place + 1] == POOL else 1
        last = before_last and place == final
        masked = not (before_vote and place == final)
        act = layers.activation
        modules += [
            *layers.conv(channels, width, padding=padding, pool=pool),
            act(before_last=last, masked=masked),
        ]
        channels = width
    return modules


def dense(layers: Builder, features: int, units: tuple[int, ...], classes: int) -> nn.Sequential:
    """Fully connected layers with normalisation and activation, and the logits."""
    modules: list[nn.Module] = []
    for place, width in enumerate(units, start=1):
        modules += [*layers.linear(features, width), layers.activation(before_last=place == len(units))]
        features = width
    return nn.Sequential(*modules, *layers.logits(features, classes))


def build_bvgg16(argument: str, shape: Shape, classes: int, bits: LowBits) -> nn.Module:
    """The network of `bvgg16`."""
    layers = Builder(bits, shape[0])
    features = stack(layers, shape[0], BVGG16_PLAN, padding=1, before_vote=True)
    features += vote(layers, BVGG16_PLAN[-1])
    return LowBitNetwork(nn.Sequential(*features), dense(layers, BVGG16_PLAN[-1], BVGG16_UNITS, classes))


def build_vgg(argument: str, shape: Shape, classes: int, bits: LowBits) -> nn.Module:
    """The network of `vgg:ARGUMENT` with a suffix."""
    plan = vgg.plan_of(argument)
    layers = Builder(bits, shape[0])
    voting = max(shape[1:]) >= 64  # five halvings leave more than one place
    features = stack(layers, shape[0], plan, padding=1, before_last=not voting, before_vote=voting)
    if voting:
        features += vote(layers, plan[-2], before_last=True)
    return LowBitNetwork(nn.Sequential(*features), dense(layers, plan[-2], (), classes))


def build_small(argument: str, shape: Shape, classes: int, bits: LowBits) -> nn.Module:
    """The network of `vgg-small` with a suffix."""
    layers = Builder(bits, shape[0])
    features = stack(layers, shape[0], vgg.SMALL_PLAN, padding=1, before_last=True)
    inputs = vgg.SMALL_PLAN[-2] * (shape[1] // 8) * (shape[2] // 8)
    return LowBitNetwork(nn.Sequential(*features), dense(layers, inputs, (), classes))


def build_cnv(argument: str, shape: Shape, classes: int, bits: LowBits) -> nn.Module:
    """The network of `cnv` with a suffix."""
    layers = Builder(bits, shape[0])
    features = nn.Sequential(*stack(layers, shape[0], CNV_PLAN, padding=0))
    inputs = cnv.PAIRS[-1] * cnv.left(shape[1]) * cnv.left(shape[2])
    return LowBitNetwork(features, dense(layers, inputs, cnv.UNITS, classes))


CNV_PLAN = (64, 64, POOL, 128, 128, POOL, 256, 256)

BVGG16 = binary_family(
    "bvgg16", "document 004's fully binary VGG16, 15.2 M weights of one bit", build_bvgg16, smallest=8
)
FAMILIES: tuple[LowBitFamily, ...] = (
    BVGG16,
    LowBitFamily(vgg.VGG_FAMILY, build_vgg),
    LowBitFamily(vgg.SMALL, build_small),
    LowBitFamily(cnv.FAMILY, build_cnv),
)
