"""A whole network in few different values: clustered weights with trained centroids, biases in levels.

    weight    w_i = s c[code_i]        s: one number per tensor, c: 2^n centroids (the codebook), rising
    pruned    w_i = 0                  where it was exactly zero (1 % or more are): a symbol of its own
    bias      b_i = s (code_i - h)     h = 2^(m-1) - 1, m bits; of convolutions and fully connected layers
    other     normalisation, running statistics, small tensors: as half or single precision numbers

s and c are half precision numbers that mostly fit a byte (`steps.py`), so that s * c is exact in single
precision and what a decoder gives is bit for bit what was evaluated. A codebook belongs to one tensor
(`layer`) or to all (`network`): the latter costs 2^n numbers in all, and s, the deviation of each tensor,
makes the layers alike.

`Sharing` is the network in training: gradients reach the centroids as the sum over their members, and with
`reassign` also a latent copy of each weight, straight-through, whose nearest centroid is looked up in every
pass:

    w = s c[k] + (v - v.detach()),   k = argmin_j |v / s - c_j|

Differs from the paper: codes there are fixed once k-means has run (`reassign=False`).

Not here: how it is written (`coding.py`, `export/coded.py`), and how many bits a network needs
(`recipes/compress.py`).

Example:
    >>> net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 8))
    >>> found = cluster(net, bits=2, codebook="network")
    >>> install_(net, found), net[0].weight.unique().numel() <= 4, len(found.books)
    (None, True, 1)

References:
    Han, Mao & Dally, Deep Compression (ICLR 2016), section 3.
    Bengio, Léonard & Courville, Estimating or Propagating Gradients (2013): straight-through.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tersa.errors import ModelError
from tersa.prune.rate import Rate, estimate
from tersa.prune.steps import FINE_FROM, LARGEST_HALF, SMALLEST_HALF, coarse, half, nearby_scale
from tersa.prune.trace import LAYERS
from tersa.quant.clusters import cheapest, code_lengths, share, shared
from tersa.quant.primitives import round_half_even, ste
from tersa.quant.rounding import to_table

Codebook = Literal["layer", "network"]

FEWEST_WEIGHTS = 16
"""Values of a tensor from which it is clustered."""

SPARSE_SHARE = 0.01
"""Share of exact zeros from which they are kept: what nobody pruned has next to none."""

BIAS_BITS = 8

SETTLING = 10
"""Rounds of entropy-constrained quantisation."""

FORGET = 0.1
"""Share of the newest counts in their running mean."""


@dataclass(frozen=True)
class Codes:
    """One clustered tensor.

    Attributes:
        codes: int64, shaped like the tensor; where `sparse`, 0 is zero and k is centroid k - 1.
        scale: s, a half precision number.
        sparse: zeros have a symbol of their own.
    """

    codes: Tensor
    scale: float
    sparse: bool


@dataclass(frozen=True)
class Levels:
    """One tensor in levels at equal distances around zero.

    Attributes:
        codes: int64 in 0 .. 2 h, shaped like the tensor.
        scale: s, the distance, a half precision number.
    """

    codes: Tensor
    scale: float


@dataclass(frozen=True)
class Clustered:
    """The state of a network, as it is stored.

    Attributes:
        books: centroids in units of s, float32 that are half precision numbers, rising: one for each of
            `weights` in their order, or one for all.
        weights: by name in the state dict, in its order.
        biases: likewise.
        bias_bits: m.
        others: values as they are, likewise.
    """

    books: tuple[Tensor, ...]
    weights: Mapping[str, Codes]
    biases: Mapping[str, Levels]
    bias_bits: int
    others: Mapping[str, Tensor]

    def book(self, place: int) -> Tensor:
        """The centroids of the tensor at a place of `weights`."""
        return self.books[place if len(self.books) > 1 else 0]

    def state(self) -> dict[str, Tensor]:
        """Every tensor by name, those that are held under several names once; see `install_`."""
        found: dict[str, Tensor] = {}
        for place, (name, one) in enumerate(self.weights.items()):
            table = self.book(place) * one.scale
            table = torch.cat([table.new_zeros(1), table]) if one.sparse else table
            found[name] = shared(table, one.codes)
        middle = 2 ** (self.bias_bits - 1) - 1
        found |= {name: (one.codes - middle).float() * one.scale for name, one in self.biases.items()}
        return found | dict(self.others)


def cluster(
    network: nn.Module,
    bits: int | Mapping[str, int],
    *,
    codebook: Codebook = "layer",
    bias_bits: int = BIAS_BITS,
) -> Clustered:
    """Cluster a network's weights by k-means, without training.

    Args:
        network: any; it is not changed.
        bits: n, at most 2^n centroids in a codebook; or n of each clustered tensor (`sort_out`), by
            name, where each has its own.
        codebook: one for each tensor, or one for all.
        bias_bits: m.

    Raises:
        ModelError: nothing to cluster, weights that are not finite or not float32.
    """
    kinds, state = sort_out(network), held(network)
    scales = {name: _scale(state[name]) for name in kinds.weights}
    scaled = [_in_units(state[name], scales[name]) for name in kinds.weights]
    groups = [torch.cat(scaled)] if codebook == "network" else scaled
    widths = [bits] * len(groups) if isinstance(bits, int) else [bits[name] for name in kinds.weights]
    books = tuple(_centroids(values, each) for values, each in zip(groups, widths, strict=True))
    weights = {
        name: _assign(state[name], books[place if len(books) > 1 else 0], scales[name])
        for place, name in enumerate(kinds.weights)
    }
    return _collect(books, weights, kinds, state, bias_bits)


def install_(network: nn.Module, clustered: Clustered) -> None:
    """Give a network of the same sizes the stored values."""
    network.load_state_dict(whole(network, clustered.state()))


def whole(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with tensors that the network holds under several names filled in."""
    first = {id(value): name for name, value in reversed(network.state_dict(keep_vars=True).items())}
    return {name: state[first[id(value)]] for name, value in network.state_dict(keep_vars=True).items()}


@dataclass(frozen=True)
class Kinds:
    """Which tensor is stored how; names as in the state dict, in its order, each tensor once.

    Attributes:
        weights: clustered.
        biases: in levels.
        others: as they are.
    """

    weights: tuple[str, ...]
    biases: tuple[str, ...]
    others: tuple[str, ...]


def held(network: nn.Module) -> dict[str, Tensor]:
    """The state dict on the CPU, each tensor under its first name only."""
    tensors = network.state_dict(keep_vars=True)
    first = {id(value): name for name, value in reversed(tensors.items())}
    return {name: tensors[name].detach().cpu() for name in tensors if first[id(tensors[name])] == name}


def sort_out(network: nn.Module) -> Kinds:
    """What is clustered, put into levels, and stored as it is.

    Raises:
        ModelError: nothing to cluster, or values that cannot be stored.
    """
    state = held(network)
    trained = {name for name, _ in network.named_parameters()}
    layers = {name for name, module in network.named_modules() if isinstance(module, LAYERS)}
    for name, value in state.items():
        _check(name, value)
    weights = [n for n in state if n in trained and state[n].ndim > 1 and state[n].numel() >= FEWEST_WEIGHTS]
    biases = [
        name
        for name in state
        if name.rpartition(".")[0] in layers and name.rpartition(".")[2] == "bias" and _fits(state[name])
    ]
    weights = [name for name in weights if _fits(state[name])]
    if not weights:
        raise ModelError(
            f"nothing to cluster: the network has no weight tensor of {FEWEST_WEIGHTS} values or more"
        )
    rest = [name for name in state if name not in {*weights, *biases}]
    return Kinds(tuple(weights), tuple(biases), tuple(rest))


def _check(name: str, value: Tensor) -> None:
    if value.is_complex() or (value.is_floating_point() and value.dtype != torch.float32):
        raise ModelError(f"tensor {name} is {value.dtype}; compression takes float32 networks: use .float()")
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise ModelError(f"tensor {name} has values that are NaN or infinite; train the network again")


def _fits(value: Tensor) -> bool:
    """Its scale does not overflow half precision (one that is too small is clamped, and loses nothing)."""
    return value.numel() > 0 and float(value.abs().max()) <= LARGEST_HALF


def settled(book: Tensor) -> Tensor:
    """Centroids as they are stored: a byte each in a small codebook, half precision in a large one."""
    return half(book) if len(book) >= FINE_FROM else coarse(book)


def _scale(weights: Tensor) -> float:
    """s: root mean square of what is not zero, on the grid of scales; 1 where all is zero."""
    values = weights[weights != 0]
    if not values.numel():
        return 1.0
    return nearby_scale(float(values.double().square().mean().sqrt()))


def _in_units(weights: Tensor, scale: float) -> Tensor:
    return weights[weights != 0] / scale


def _centroids(values: Tensor, bits: int) -> Tensor:
    if not values.numel():
        return torch.zeros(1)
    return settled(share(values, bits).centroids).unique()


def _assign(weights: Tensor, book: Tensor, scale: float) -> Codes:
    """The nearest centroid of each weight; where many are exactly zero, zero is a symbol of its own."""
    there = weights != 0
    sparse = float(there.float().mean()) <= 1 - SPARSE_SHARE
    codes = nearest(weights / scale, book)
    return Codes(torch.where(there, codes + 1, 0) if sparse else codes, scale, sparse)


def nearest(values: Tensor, book: Tensor) -> Tensor:
    """Place of the nearest centroid in a rising book, int64."""
    return to_table(values, book) if len(book) > 1 else torch.zeros_like(values, dtype=torch.int64)


def snap_bias(bias: Tensor, bits: int) -> Levels:
    """b in 2 h + 1 levels around zero, s the first scale on the grid from max |b| / h on."""
    steps = 2 ** (bits - 1) - 1
    scale = nearby_scale(max(float(bias.detach().abs().max()) / steps, SMALLEST_HALF), up=True)
    codes = round_half_even(bias.detach() / scale).clamp(-steps, steps).long() + steps
    return Levels(codes, scale)


def _collect(
    books: Sequence[Tensor],
    weights: Mapping[str, Codes],
    kinds: Kinds,
    state: Mapping[str, Tensor],
    bits: int,
) -> Clustered:
    """Everything as it is stored: centroids without members are left out."""
    kept: list[Tensor] = []
    fresh: dict[str, Codes] = {}
    for place, book in enumerate(books):
        mine = {n: one for i, (n, one) in enumerate(weights.items()) if len(books) == 1 or i == place}
        used = torch.zeros(len(book) + 1, dtype=torch.bool)
        for one in mine.values():
            used[one.codes.unique() + (0 if one.sparse else 1)] = True
        used[0] = False
        kept.append(book[used[1:]] if bool(used.any()) else book[:1])
        rank = used.long().cumsum(0)  # of centroid k - 1 among those kept, plus 1
        for name, one in mine.items():
            codes = rank[one.codes] if one.sparse else rank[one.codes + 1] - 1
            fresh[name] = Codes(codes, one.scale, one.sparse)
    return Clustered(
        books=tuple(kept),
        weights={name: fresh[name] for name in kinds.weights},
        biases={name: snap_bias(state[name], bits) for name in kinds.biases},
        bias_bits=bits,
        others={name: stored(state[name]) for name in kinds.others},
    )


def stored(values: Tensor) -> Tensor:
    """Values as they are stored: in half precision where that loses last bits only, else as they are."""
    if not values.is_floating_point():  # whole numbers, or true and false
        return values.clone()
    size = values.abs()
    small = bool(((size == 0) | (size >= SMALLEST_HALF)).all())
    return half(values) if small and bool((size <= LARGEST_HALF).all()) else values.clone()


class Sharing(nn.Module):
    """A clustered network in training; its forward pass computes with the values that will be stored.

    Args:
        network: the trained network; a copy is kept.
        start: its clustering, from `cluster`.
        reassign: weights may change their centroid; else only centroids, biases and the rest are trained.
        rate: what a bit is worth, so that a weight takes the cheapest centroid instead of the nearest; only
            with `reassign`. How often each is taken is counted as a running mean over updates.
    """

    trade: Tensor

    def __init__(
        self, network: nn.Module, start: Clustered, *, reassign: bool, rate: Rate | None = None
    ) -> None:
        super().__init__()
        self.rate = rate
        self.network = copy.deepcopy(network).cpu()
        self.names, self.bias_names = tuple(start.weights), tuple(start.biases)
        self.scales = tuple(one.scale for one in start.weights.values())
        self.sparse = tuple(one.sparse for one in start.weights.values())
        self.bias_bits, self.reassign = start.bias_bits, reassign
        self.books = nn.ParameterList([nn.Parameter(book.clone()) for book in start.books])
        latents: list[nn.Parameter] = []
        for place, name in enumerate(self.names):
            weight, one = self.network.get_parameter(name).requires_grad_(False), start.weights[name]
            latents.append(nn.Parameter(weight.detach().clone(), requires_grad=reassign))
            codes = one.codes - 1 if one.sparse else one.codes
            self.register_buffer(f"codes{place}", codes.clamp(min=0))
            self.register_buffer(f"mask{place}", one.codes > 0 if one.sparse else None)
        self.latents = nn.ParameterList(latents)
        if rate is not None:
            self.register_buffer("trade", torch.tensor(rate.trade, dtype=torch.float64))
            for own, book in enumerate(start.books):
                self.register_buffer(f"counts{own}", torch.zeros(len(book)))
            for place, name in enumerate(self.names):
                self.register_buffer(f"curvature{place}", rate.curvature.get(name))
                self._counts(self._own(place)).add_(self._taken(place, self.get_buffer(f"codes{place}")))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the network under `values()`."""
        values = self.values()
        if self.training and self.rate is not None:
            self._count_()
        return functional_call(self.network, values, (x,))

    def values(self) -> dict[str, Tensor]:
        """Weights and biases as they will be stored, with gradients to what is trained."""
        books = [ste(settled(book.detach()), book) for book in self._books()]
        found: dict[str, Tensor] = {}
        for place, (name, latent, scale) in enumerate(
            zip(self.names, self.latents, self.scales, strict=True)
        ):
            book = books[self._own(place)]
            codes = self._codes(place, latent.detach() / scale, book.detach())
            value = shared(book, codes) * scale
            if self.reassign:
                value = value + (latent - latent.detach())
            if self.sparse[place]:
                value = value * self.get_buffer(f"mask{place}")
            found[name] = value
        for name in self.bias_names:
            bias = self.network.get_parameter(name)
            snapped = snap_bias(bias, self.bias_bits)
            steps = 2 ** (self.bias_bits - 1) - 1
            found[name] = ste((snapped.codes - steps).float() * snapped.scale, bias)
        return found

    def _own(self, place: int) -> int:
        """The codebook of a tensor."""
        return place if len(self.books) > 1 else 0

    def _codes(self, place: int, scaled: Tensor, book: Tensor) -> Tensor:
        """The centroid of each weight of a tensor, given its latent values in units of s."""
        if not self.reassign:
            return self.get_buffer(f"codes{place}")
        if self.rate is None or len(book) == 1:
            return nearest(scaled, book)
        lengths = code_lengths(self._counts(self._own(place)).to(scaled.device))
        weigh = self.get_buffer(f"curvature{place}") if self.rate.curvature else None
        weigh = None if weigh is None else weigh.to(scaled.device)
        return cheapest(scaled, book, lengths, float(self.trade), weigh)

    def _counts(self, own: int) -> Tensor:
        """How many weights take each centroid of a codebook, a running mean."""
        return self.get_buffer(f"counts{own}")

    def _taken(self, place: int, codes: Tensor) -> Tensor:
        """How many weights of a tensor take each centroid; those that were pruned take none."""
        mask = self.get_buffer(f"mask{place}") if self.sparse[place] else None
        kept = codes.flatten() if mask is None else codes[mask]
        return torch.bincount(kept, minlength=len(self.books[self._own(place)])).float()

    @torch.no_grad()
    def _count_(self) -> None:
        """Bring the counts, and where there is an aim the trade, up to date."""
        assert self.rate is not None
        fresh = [torch.zeros_like(self._counts(own)) for own in range(len(self.books))]
        books = [settled(book) for book in self._books()]
        for place, (latent, scale) in enumerate(zip(self.latents, self.scales, strict=True)):
            own = self._own(place)
            fresh[own] += self._taken(place, self._codes(place, latent / scale, books[own]))
        for own, counts in enumerate(fresh):
            self._counts(own).lerp_(counts, FORGET)
        size = sum(estimate(self._counts(own).cpu()) for own in range(len(self.books)))
        self.trade.fill_(self.rate.next(float(self.trade), size))

    @torch.no_grad()
    def settle_(self, trade: float, rounds: int = SETTLING) -> None:
        """Entropy-constrained quantisation of the weights as they are, without training; needs `rate`.

            code_i = argmin over k of h_i (x_i - c_k)^2 + lambda l_k
            c_k = sum of h_i x_i / sum of h_i, over its members

        in turn, with l from the counts of the round before.

        Args:
            trade: lambda.
            rounds: of both.
        """
        assert self.rate is not None
        self.trade.fill_(trade)
        for _ in range(rounds):
            books = [settled(book) for book in self._books()]
            counts, sums, totals = ([torch.zeros_like(book) for book in books] for _ in range(3))
            for place, (latent, scale) in enumerate(zip(self.latents, self.scales, strict=True)):
                own, scaled = self._own(place), latent / scale
                codes = self._codes(place, scaled, books[own])
                weigh = self.get_buffer(f"curvature{place}") if self.rate.curvature else None
                weigh = torch.ones_like(scaled) if weigh is None else weigh
                if self.sparse[place]:
                    weigh = weigh * self.get_buffer(f"mask{place}")
                counts[own] += self._taken(place, codes)
                sums[own].index_add_(0, codes.flatten(), (weigh * scaled).flatten())
                totals[own].index_add_(0, codes.flatten(), weigh.flatten())
            for own, book in enumerate(books):
                self._counts(own).copy_(counts[own])
                self.books[own].copy_(torch.where(totals[own] > 0, sums[own] / totals[own], book))

    def _books(self) -> list[Tensor]:
        """Centroids, rising where codes are looked up again."""
        return [book.sort().values if self.reassign else book for book in self.books]

    def clustered(self) -> Clustered:
        """The network as it is stored now, on the CPU."""
        state = held(self.network)
        orders = [settled(book.detach().cpu()).sort() for book in self.books]
        books, weights = [order.values for order in orders], dict[str, Codes]()
        for place, (name, scale) in enumerate(zip(self.names, self.scales, strict=True)):
            own = self._own(place)
            mask = self.get_buffer(f"mask{place}").cpu() if self.sparse[place] else None
            codes = self._codes(place, self.latents[place].detach().cpu() / scale, books[own]).cpu()
            codes = codes if self.reassign else orders[own].indices.argsort()[codes]
            weights[name] = Codes(
                codes if mask is None else torch.where(mask, codes + 1, 0), scale, mask is not None
            )
        others = tuple(name for name in state if name not in {*self.names, *self.bias_names})
        return _collect(books, weights, Kinds(self.names, self.bias_names, others), state, self.bias_bits)
