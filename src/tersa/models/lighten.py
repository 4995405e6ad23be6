"""Convolutions of a network replaced by light modules, by name: `lighten_`, and the `+` of model specs.

A spec may end in one or more replacements (`lenet+separable`, `net.py:build+shift`):

    +separable | +fire | +fire:0.25 | +shift          each, where wanted, with @LAYER,PREFIX*

0.25 being fire's squeeze ratio. Without `@` every convolution is replaced that has a kernel above 1x1, no
groups, and reads more than 3 channels: the first layer reads pixels, and has little to save. A layer that is
named exactly is replaced however few it reads. New weights are drawn from a seed, layer by layer: the same
arguments give the same network. The modules are in `light.py`.

Not carried: convolutions with groups, of one or three dimensions, and transposed ones; subclasses of
`nn.Conv2d`, which have a forward of their own.

Example:
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    >>> lighten_(net, "separable"), type(net[2]).__name__
    (['2'], 'SeparableConv')
    >>> split("resnet:20+fire:0.25@layer1*+shift")[1][0]
    Lightening(kind='fire', layers=('layer1*',), squeeze=0.25)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from tersa.errors import UsageError, unknown
from tersa.models.light import (
    LIGHT,
    SQUEEZE,
    ConvSettings,
    Fire,
    SeparableConv,
    ShiftConv,
    closest_separable,
    draw_,
)
from tersa.numerics import digest

LOW_BITS = re.compile(r"w[^+:@a]*a[^+:@]*(:[^+]*)?")
"""A part that says how many bits a network has (`lowbit.py`): it belongs to the network's name."""

KINDS: dict[str, Callable[[ConvSettings, float], nn.Module]] = {
    "separable": lambda conv, _: SeparableConv(conv),
    "fire": Fire,
    "shift": lambda conv, _: ShiftConv(conv),
}
GRAMMAR = "+separable, +fire, +fire:0.25 or +shift, with @LAYER,PREFIX* to choose layers"

FEWEST_INPUTS = 4
"""Input channels from which a layer is replaced unasked."""

SHOWN = 4
"""Layers listed in a message; the rest is counted."""

FILE = re.compile(
    r"(.*\.(?:py(?::[^+]*)?|pt2|onnx|pt|pth|ckpt|safetensors|h5|keras|tflite))(\+.*)?",
    re.DOTALL | re.IGNORECASE,
)
"""A spec that names a file: the file may have a plus in its path."""
PART = re.compile(r"([^:@]*)(?::([^@]*))?(?:@(.*))?", re.DOTALL)

Start = Literal["random", "weights"]


@dataclass(frozen=True)
class Lightening:
    """One replacement, as a spec names it.

    Attributes:
        kind: one of `KINDS`.
        layers: exact names, or prefixes ending in `*`.
        squeeze: channels between squeeze and expand as a share of the outputs; read by `fire` alone.
    """

    kind: str
    layers: tuple[str, ...] = ("*",)
    squeeze: float = SQUEEZE


def split(spec: str) -> tuple[str, tuple[Lightening, ...]]:
    """A spec without its replacements, and the replacements in order.

    Raises:
        UsageError: an unknown kind, or a replacement that is not of the form at the head of this file.

    >>> split("a+b/net.py:build+shift@conv2")
    ('a+b/net.py:build', (Lightening(kind='shift', layers=('conv2',), squeeze=0.125),))
    >>> split("cnv+w1a1:first=8/8")
    ('cnv+w1a1:first=8/8', ())
    """
    text = spec.strip()
    named = FILE.fullmatch(text)
    if named:
        base, rest = named[1], named[2] or ""
    else:
        base, plus, rest = text.partition("+")
        rest = plus + rest
    first, *others = rest[1:].split("+")
    if rest and named is None and LOW_BITS.fullmatch(first) and "/" not in base:
        base, rest = f"{base}+{first}", "".join(f"+{part}" for part in others)
    if not rest or (named is None and "/" in rest + base.partition("+")[0]):
        return text, ()  # a path of no known kind is for `load` to refuse
    return base, tuple(_replacement(part, text) for part in rest[1:].split("+"))


def lighten_(
    model: nn.Module,
    kind: str,
    layers: Sequence[str] = ("*",),
    *,
    squeeze: float = SQUEEZE,
    start: Start = "random",
    seed: int = 0,
) -> list[str]:
    """Replace convolutions by light modules, in place.

    A layer that stands in several places of the network is replaced in all of them; two layers that share
    their weights no longer do. The modules take the device, the number type and the mode of what they
    replace. The global random state is left as it was.

    Args:
        model: any network.
        kind: `separable`, `fire` or `shift`.
        layers: names of convolutions, or prefixes ending in `*`.
        squeeze: of fire: channels between squeeze and expand, as a share of the outputs.
        start: `random`, or `weights`: the separable convolution closest to the one that it replaces.
        seed: of random weights; each layer draws its own.

    Returns:
        Names of the layers replaced, in the order of the network.

    Raises:
        UsageError: an unknown kind, a pattern that matches nothing or nothing that can be replaced, a squeeze
            ratio outside 0..1, or `weights` for another kind than `separable`.
    """
    if kind not in KINDS:
        raise unknown("light module", kind, KINDS)
    if not 0.0 < squeeze <= 1.0:
        raise UsageError(f"squeeze ratio {squeeze:g} is outside 0..1; it is a share of the outputs")
    if start == "weights" and kind != "separable":
        raise UsageError(
            f"only separable convolutions can be derived from weights, not {kind}; leave out start"
        )
    found = dict(model.named_modules(remove_duplicate=False))
    chosen = _chosen(found, kind, layers)
    made: dict[nn.Module, nn.Module] = {}
    for name in chosen:
        conv = found[name]
        assert isinstance(conv, nn.Conv2d)
        if conv not in made:
            made[conv] = _light(conv, name, Lightening(kind, squeeze=squeeze), start, seed)
    for name, module in found.items():
        if module in made:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, made[module])
    return chosen


def _light(conv: nn.Conv2d, name: str, how: Lightening, start: Start, seed: int) -> nn.Module:
    """The stand-in for one layer, with its weights."""
    with torch.random.fork_rng(devices=[]):  # layers draw when they are made; those numbers are not used
        light = KINDS[how.kind](ConvSettings.of(conv), how.squeeze)
    stream = int(digest(["light", name, seed], length=15), 16)
    draw_(light, torch.Generator().manual_seed(stream))
    light.to(conv.weight.device, conv.weight.dtype).train(conv.training)
    if start == "weights":
        assert isinstance(light, SeparableConv)
        with torch.no_grad():
            for part, values in zip(
                (light.depthwise, light.pointwise), closest_separable(conv.weight), strict=True
            ):
                part.weight.copy_(values)
            if conv.bias is not None and light.pointwise.bias is not None:
                light.pointwise.bias.copy_(conv.bias)
    return light


def _chosen(found: dict[str, nn.Module], kind: str, patterns: Sequence[str]) -> list[str]:
    """Names of the layers that the patterns ask for, each under its first name."""
    inside = {part for module in found.values() if isinstance(module, LIGHT) for part in module.modules()}
    why = {
        name: "it is part of a light module" if module in inside else _obstacle(module, kind)
        for name, module in found.items()
        if name
    }
    wanted: set[str] = set()
    for pattern in patterns:
        wanted.update(_matching(pattern, found, why, kind))
    first: dict[nn.Module, str] = {}
    for name, module in found.items():
        if name in wanted:
            first.setdefault(module, name)
    return list(first.values())


def _matching(pattern: str, found: dict[str, nn.Module], why: dict[str, str], kind: str) -> list[str]:
    """Names that one pattern replaces.

    Raises:
        UsageError: there are none.
    """
    convolutions = [name for name in why if isinstance(found[name], nn.Conv2d)]
    if not pattern.endswith("*"):
        if pattern not in why:
            raise unknown("layer", pattern, convolutions)
        if why[pattern]:
            below = f"; for the layers below it write {pattern}.*" if list(found[pattern].children()) else ""
            raise UsageError(f"layer '{pattern}' cannot become {kind}: {why[pattern]}{below}")
        return [pattern]
    hits = [name for name in convolutions if name.startswith(pattern[:-1])]
    few = {name: _few(found[name]) for name in hits}
    good = [name for name in hits if not why[name] and not few[name]]
    if good:
        return good
    if hits:
        reasons = [f"{name}: {why[name] or few[name]}" for name in hits]
        raise UsageError(f"no layer that matches '{pattern}' can become {kind}: {_listed(reasons, '; ')}")
    if not convolutions:
        raise UsageError(f"nothing can become {kind}: the network has no convolution")
    raise UsageError(
        f"no convolution matches '{pattern}', nothing becomes {kind}; known: {_listed(convolutions, ', ')}"
    )


def _obstacle(module: nn.Module, kind: str) -> str:
    """Why a module cannot be replaced; empty if it can."""
    if type(module) is not nn.Conv2d:
        return f"it is a {type(module).__name__}, not a plain 2-D convolution"
    if module.groups != 1:
        return f"it has {module.groups} groups"
    if max(module.kernel_size) == 1:
        return "its kernel is 1x1"
    if kind == "fire" and module.out_channels < 2:
        return "it has one output, and fire makes two halves"
    return ""


def _few(module: nn.Module) -> str:
    """Why a layer that can be replaced is not unless it is named."""
    assert isinstance(module, nn.Conv2d)
    inputs = module.in_channels
    return "" if inputs >= FEWEST_INPUTS else f"with {inputs} input channels it is replaced only when named"


def _listed(parts: list[str], separator: str) -> str:
    more = f" and {len(parts) - SHOWN} more" if len(parts) > SHOWN else ""
    return separator.join(parts[:SHOWN]) + more


def _replacement(part: str, spec: str) -> Lightening:
    """`KIND`, `KIND:RATIO`, `KIND@LAYERS` or all of it."""
    match = PART.fullmatch(part)
    assert match is not None  # every group may be empty
    kind, ratio, names = match[1], match[2], match[3]
    if not part:
        raise UsageError(f"model '{spec}': nothing follows the plus; write {GRAMMAR}")
    if kind not in KINDS:
        raise unknown("light module", kind, KINDS)
    layers = tuple(name.strip() for name in names.split(",")) if names is not None else ("*",)
    if not all(layers):
        raise UsageError(f"model '{spec}': a layer's name is missing after the @; write {GRAMMAR}")
    return Lightening(kind, layers, SQUEEZE if ratio is None else _ratio(ratio, kind, spec))


def _ratio(text: str, kind: str, spec: str) -> float:
    if kind != "fire":
        raise UsageError(f"model '{spec}': '{kind}' takes no argument; write {GRAMMAR}")
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,6})?", text, re.ASCII) or not 0.0 < float(text) <= 1.0:
        raise UsageError(f"model '{spec}': '{text}' is not a squeeze ratio above 0 and at most 1")
    return float(text)
