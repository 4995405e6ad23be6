"""Masks on a network: which weights take part, and training that leaves the dead ones at zero."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable

import pytest
import torch
from tests.prune.networks import Chain, Grouped, fill
from torch import Tensor, nn

from tersa.errors import ModelError, UsageError
from tersa.prune.holding import apply_, full_masks, held, maskable, masks_of
from tersa.prune.masks import choose_masks, gone, regrow

ROUNDING = 1e-12
"""A few float64 operations on shares of at most 1."""


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# Which weights take part


def test_every_layer_takes_part_and_nothing_else() -> None:
    assert maskable(fill(Chain())) == ("conv1.weight", "fc1.weight", "fc2.weight")
    assert maskable(nn.Linear(2, 3)) == ("weight",)


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        (("fc2",), ("conv1.weight", "fc1.weight")),
        (("fc*",), ("conv1.weight",)),
        (("conv1.weight", "fc2"), ("fc1.weight",)),
    ],
)
def test_layers_are_kept_by_pattern(keep: tuple[str, ...], left: tuple[str, ...]) -> None:
    assert maskable(fill(Chain()), keep) == left


@pytest.mark.parametrize("rule", ["fc3", "bn", "fc3*"])
def test_a_pattern_that_matches_no_layer_is_told(rule: str) -> None:
    with pytest.raises(UsageError, match="unknown layer") as caught:
        maskable(fill(Chain()), (rule,))
    assert "known: conv1, fc1, fc2" in str(caught.value)


def test_the_closest_layer_is_named() -> None:
    with pytest.raises(UsageError, match="did you mean 'conv1'"):
        maskable(fill(Chain()), ("conv",))


def test_nothing_to_prune_is_told() -> None:
    with pytest.raises(ModelError, match="3 of their weights kept"):
        maskable(fill(Chain()), ("*",))
    with pytest.raises(ModelError, match="no weights to prune: 0 conv"):
        maskable(nn.BatchNorm1d(3))


def test_tied_weights_come_once_and_are_kept_under_either_name() -> None:
    net = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2), "c": nn.Linear(2, 2)})
    net["b"].weight = net["a"].weight
    assert maskable(net) == ("a.weight", "c.weight")
    assert maskable(net, ("b",)) == ("c.weight",)


def test_a_computed_weight_is_told_unless_it_is_kept() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
    with pytest.raises(ModelError, match="keep 1"):
        maskable(net)
    assert maskable(net, ("1",)) == ("0.weight",)


# On a network


def loss_of(model: nn.Module) -> Tensor:
    x = torch.cos(torch.arange(2 * 3 * 64.0)).view(2, 3, 8, 8)
    return model(x).square().sum()


def pruned(model: nn.Module, share: float = 0.6) -> dict[str, Tensor]:
    names = maskable(model)
    scores = {name: model.get_parameter(name).detach().abs() for name in names}
    return choose_masks(scores, full_masks(model, names), "weight", share=share)


OPTIMISERS: dict[str, Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=0.1),
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1, fused=True),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=1e-2, max_iter=3, line_search_fn="strong_wolfe"),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_dead_weights_stay_dead(name: str) -> None:
    """With momentum from before the removal, with weight decay; the living ones move."""
    model = fill(Grouped())
    optimizer = OPTIMISERS[name](model.parameters())

    def closure() -> float:
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return float(loss.detach())

    for _ in range(3):
        optimizer.step(closure)
    masks = pruned(model)
    before = copy.deepcopy(model.state_dict())
    with held(model, masks):
        for _ in range(3):
            optimizer.step(closure)
            for weight, mask in masks.items():
                assert not bool(model.get_parameter(weight)[~mask].any())
    for weight, mask in masks.items():
        value = model.get_parameter(weight)
        assert not bool(value[~mask].any())
        assert not torch.equal(value[mask], before[weight][mask])


def test_without_being_held_momentum_revives_them() -> None:
    """What `held` is for: the same steps with zeroing on entry alone."""
    model = fill(Grouped())
    optimizer = OPTIMISERS["sgd"](model.parameters())
    loss_of(model).backward()
    optimizer.step()
    masks = pruned(model)
    apply_(model, masks)
    optimizer.step()
    assert any(bool(model.get_parameter(n)[~m].any()) for n, m in masks.items())


def test_living_weights_move_as_in_a_network_masked_by_hand() -> None:
    """One SGD step under `held` is w - lr (g * mask) from the masked weights."""
    model, rate = fill(Chain()), 1e-3
    masks = pruned(model)
    twin = copy.deepcopy(model)
    apply_(twin, masks)
    loss_of(twin).backward()
    with held(model, masks):
        loss_of(model).backward()
        torch.optim.SGD(model.parameters(), lr=rate).step()
    for name, value in model.named_parameters():
        start = twin.get_parameter(name)
        assert start.grad is not None
        step = torch.where(masks[name], start.grad, 0.0) if name in masks else start.grad
        assert torch.equal(value, torch.add(start, step, alpha=-rate))


def test_gradients_are_masked_for_clipping_and_whole_for_regrowth() -> None:
    model = fill(Chain())
    masks = pruned(model)
    with held(model, masks):
        weight, dead = model.get_parameter("fc1.weight"), ~masks["fc1.weight"]
        (whole_gradient,) = torch.autograd.grad(loss_of(model), [weight])
        loss_of(model).backward()
        assert weight.grad is not None
        assert bool(whole_gradient[dead].any())
        assert not bool(weight.grad[dead].any())
        assert torch.equal(weight.grad[~dead], whole_gradient[~dead])


def interrupted_(model: nn.Module) -> None:
    """Weights that move without an optimiser, then an error."""
    with torch.no_grad():
        model.get_parameter("fc1.weight").add_(1.0)
    raise ZeroDivisionError


def test_nothing_is_left_behind_even_after_an_error() -> None:
    model = fill(Chain())
    masks = pruned(model)
    keys, kinds = list(model.state_dict()), [type(m) for m in model.modules()]
    attributes = [set(vars(module)) for module in model.modules()]
    with pytest.raises(ZeroDivisionError), held(model, masks):
        interrupted_(model)
    assert not bool(model.get_parameter("fc1.weight")[~masks["fc1.weight"]].any())
    assert (list(model.state_dict()), [type(m) for m in model.modules()]) == (keys, kinds)
    assert [set(vars(module)) for module in model.modules()] == attributes
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    loss_of(model).backward()
    optimizer.step()
    for name, mask in masks.items():
        assert bool(model.get_parameter(name)[~mask].any())


def test_frozen_layers_and_strangers() -> None:
    """A frozen weight can be held; another network's steps are not touched."""
    model, other = fill(Chain()), nn.Linear(2, 2)
    model.get_parameter("fc2.weight").requires_grad_(False)
    masks = pruned(model)
    with held(model, masks):
        other(torch.ones(1, 2)).sum().backward()
        expected = other.weight.detach() - 0.1 * other.weight.grad  # type: ignore[operator]
        torch.optim.SGD(other.parameters(), lr=0.1).step()
        torch.testing.assert_close(other.weight.detach(), expected)
    assert not bool(model.get_parameter("fc2.weight")[~masks["fc2.weight"]].any())


def test_masks_come_back_from_stored_weights() -> None:
    model = fill(Chain())
    masks = pruned(model)
    apply_(model, masks)
    stored = model.state_dict()
    fresh = Chain()
    fresh.load_state_dict(stored)
    assert same(masks_of(fresh, maskable(fresh)), masks)
    assert not any(bool(torch.signbit(stored[n][~m]).any()) for n, m in masks.items())


def test_masks_of_another_network_are_told() -> None:
    model = fill(Chain())
    mask = torch.ones(6, 3, 3, 3, dtype=torch.bool)
    with pytest.raises(UsageError, match=r"did you mean 'conv1\.weight'"):
        apply_(model, {"conv.weight": mask})
    with pytest.raises(ModelError, match=r"mask of fc2\.weight is \(6, 3, 3, 3\)"):
        apply_(model, {"fc2.weight": mask})
    with pytest.raises(ModelError, match=r"torch\.float32"), held(model, {"conv1.weight": mask.float()}):
        pass
    with pytest.raises(UsageError, match="unknown parameter"):
        masks_of(model, ["fc9.weight"])


def test_tied_weights_are_dead_under_either_mask() -> None:
    net = nn.ModuleDict({"a": nn.Linear(2, 1), "b": nn.Linear(2, 1)})
    net["b"].weight = net["a"].weight
    apply_(net, {"a.weight": torch.tensor([[True, False]]), "b.weight": torch.tensor([[False, True]])})
    assert net.get_parameter("a.weight").tolist() == [[0.0, 0.0]]


def test_a_masked_network_trains_through_rigged_lottery_rounds() -> None:
    """Drop and grow keep the share; what was regrown has moved off zero."""
    model = fill(Chain())
    masks = pruned(model, 0.8)
    share = gone(masks)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    for _ in range(3):
        with held(model, masks):
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
            names = list(masks)
            grads = torch.autograd.grad(loss_of(model), [model.get_parameter(n) for n in names])
        scores = {n: model.get_parameter(n).detach().abs() for n in names}
        grown = regrow(masks, dict(zip(names, grads, strict=True)), count=25)
        scores = {n: torch.where(grown[n] & ~masks[n], math.inf, s) for n, s in scores.items()}
        scores = {n: s.nan_to_num(posinf=1e9) for n, s in scores.items()}
        masks = choose_masks(scores, grown, "weight", count=25)
        assert gone(masks) == pytest.approx(share, abs=ROUNDING)
