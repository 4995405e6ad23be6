"""Training-free scores: the registry's contract, and each formula on a network that can be worked out."""

from __future__ import annotations

import math

import pytest
import torch
from tests.prune.networks import Chain, Residual, fill
from torch import nn

from tersa.adapt.proxies import PROXIES, Probe, find
from tersa.adapt.proxies.gradients import SMALL, grad_norm, jacob_cov, synflow, taylor
from tersa.adapt.proxies.naswot import RIDGE, kernel
from tersa.adapt.proxies.naswot import score as naswot
from tersa.adapt.proxies.zen import score as zen
from tersa.errors import UsageError


def probe(count: int = 6, shape: tuple[int, ...] = (3, 8, 8)) -> Probe:
    images = torch.sin(torch.arange(count * math.prod(shape), dtype=torch.float32) * 0.37).view(count, *shape)
    return Probe(images, torch.arange(count) % 4)


@pytest.mark.parametrize("name", sorted(PROXIES))
@pytest.mark.parametrize("kind", [Chain, Residual])
def test_contract(name: str, kind: type[nn.Module]) -> None:
    """A finite number, the same each time; the network is afterwards as it was."""
    model = fill(kind()).train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    first, second = (PROXIES[name].score(model, probe()) for _ in range(2))
    assert math.isfinite(first)
    assert first == second
    assert model.training
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(random_state, torch.get_rng_state())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", sorted(PROXIES))
def test_scores_that_look_at_no_images_say_so(name: str) -> None:
    """Their number and their values change such a score by nothing, and every other one."""
    model = fill(Chain())
    few, more = (PROXIES[name].score(model, probe(count)) for count in (4, 6))
    assert (few == more) is not PROXIES[name].images


def test_naswot_counts_where_codes_agree() -> None:
    """Three images with codes 11, 10 and 00: K_ij = 2 - Hamming distance."""
    net = nn.Sequential(nn.Linear(1, 2), nn.ReLU())
    net[0].weight.data.fill_(1.0)
    net[0].bias.data.copy_(torch.tensor([2.0, 0.0]))
    x = torch.tensor([[1.0], [-1.0], [-3.0]])
    found, units = kernel(net, x)
    assert units == 2
    assert found.tolist() == [[2.0, 1.0, 0.0], [1.0, 2.0, 1.0], [0.0, 1.0, 2.0]]
    wanted = math.log(torch.linalg.det(found + RIDGE * torch.eye(3, dtype=torch.float64)))
    assert naswot(net, Probe(x, torch.zeros(3))) == pytest.approx(wanted)


def test_naswot_without_non_linearity() -> None:
    with pytest.raises(UsageError, match="this network has none"):
        naswot(nn.Linear(2, 2), Probe(torch.ones(2, 2), torch.zeros(2)))


def test_synflow_of_a_chain_is_layers_times_paths() -> None:
    """R = sum over paths of the product of sizes; each weight layer contributes R once."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    net[0].weight.data.copy_(torch.tensor([[1.0, -2.0], [0.5, 3.0]]))
    net[1].weight.data.copy_(torch.tensor([[-4.0, 1.0]]))
    flow = 4.0 * (1.0 + 2.0) + 1.0 * (0.5 + 3.0)
    assert synflow(net, Probe(torch.zeros(1, 2), torch.zeros(1))) == pytest.approx(math.log(2 * flow))


def test_grad_norm_and_taylor_of_one_layer() -> None:
    """Cross-entropy of a linear layer: dL/dW = mean of (p - y) x^T."""
    net = nn.Linear(2, 2, bias=False)
    net.weight.data.copy_(torch.tensor([[0.3, -0.2], [0.1, 0.4]]))
    x, y = torch.tensor([[1.0, 2.0], [-1.0, 0.5]]), torch.tensor([0, 1])
    p = torch.softmax(x @ net.weight.detach().T, dim=1)
    gradient = (p - nn.functional.one_hot(y, 2)).T @ x / 2
    assert grad_norm(net, Probe(x, y)) == pytest.approx(float(gradient.norm()), rel=1e-5)
    wanted = float((gradient * net.weight.detach()).abs().sum())
    assert taylor(net, Probe(x, y)) == pytest.approx(wanted, rel=1e-5)


def test_jacob_cov_of_a_linear_network_is_the_worst() -> None:
    """All images have the same Jacobian: one eigenvalue N, the others 0."""
    net = nn.Linear(5, 2)
    x = probe(4, (5,)).images
    wanted = -(math.log(4 + SMALL) + 1 / (4 + SMALL)) - 3 * (math.log(SMALL) + 1 / SMALL)
    assert jacob_cov(net, Probe(x, torch.zeros(4))) == pytest.approx(wanted, rel=1e-3)


def test_zen_grows_with_width_and_ignores_weights() -> None:
    narrow, wide = (nn.Sequential(nn.Linear(4, w), nn.ReLU(), nn.Linear(w, 2)) for w in (4, 64))
    seen = probe(3, (4,))
    before = zen(wide, seen)
    assert before > zen(narrow, seen)
    wide[0].weight.data.mul_(100.0)
    assert zen(wide, seen) == before


def test_zen_of_one_linear_layer() -> None:
    """||W a e|| averaged: about a sqrt(inputs outputs) for standard normal weights."""
    net = nn.Linear(400, 400, bias=False)
    assert zen(net, probe(2, (400,))) == pytest.approx(math.log(0.01 * 400), abs=0.05)


def test_an_unknown_score_is_named_with_the_closest() -> None:
    with pytest.raises(UsageError, match="did you mean 'naswot'"):
        find("nas-wot")
