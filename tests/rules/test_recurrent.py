"""Elman's network: equal to its module, in values and gradients; signals reach it; other rules refuse it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.rules.teaching import teach
from torch import Tensor, nn

from tersa.errors import UsageError
from tersa.models.zoo import build
from tersa.rules.backprop import BackPropagation
from tersa.rules.network import Network, Pair, Signals, line_only, network_of
from tersa.rules.recurrent import elman
from tersa.rules.registry import RULES

CLOSE = {"rtol": 1e-4, "atol": 1e-6}
"""Sums of some dozen float32 products in another order."""
SHAPE = (2, 5, 3)


def wave(*shape: int, pace: float = 0.7) -> Tensor:
    return torch.sin(pace * torch.arange(1.0, 1.0 + torch.Size(shape).numel())).reshape(shape)


@pytest.fixture(scope="module")
def network() -> Network:
    return network_of("elman:4", SHAPE, 3)


def test_layers_and_size(network: Network) -> None:
    assert [(layer.name, layer.weight_shape) for layer in network.layers] == [
        ("input", (4, 6)), ("recurrent", (4, 4)), ("output", (3, 4)),
    ]  # fmt: skip
    assert network.recurrent
    assert network.dense
    assert network.parameters == sum(p.numel() for p in build("elman:4", SHAPE, 3).parameters()) == 63


def test_the_module_follows_the_formula() -> None:
    module, x = build("elman:4", SHAPE, 3, seed=5), wave(1, *SHAPE)
    parts = [module.get_submodule(name) for name in ("input", "recurrent", "output")]
    (w, b), (u, c), (v, d) = [(part.weight, part.bias) for part in parts]
    h = torch.zeros(4)
    for t in range(5):
        row = torch.cat([x[0, 0, t], x[0, 1, t]])
        h = torch.tanh(w @ row + b + u @ h + c)
    torch.testing.assert_close(module(x)[0], v @ h + d, **CLOSE)


def test_the_module_is_torchs_rnn() -> None:
    module, x = build("elman:4", SHAPE, 3, seed=5), wave(7, *SHAPE)
    twin = nn.RNN(6, 4, batch_first=True)
    names = {"input": "ih", "recurrent": "hh"}
    for ours, theirs in names.items():
        part = module.get_submodule(ours)
        for kind in ("weight", "bias"):
            twin.get_parameter(f"{kind}_{theirs}_l0").data = getattr(part, kind).data
    _, last = twin(x.transpose(1, 2).flatten(2))
    torch.testing.assert_close(module(x), module.get_submodule("output")(last[0]), **CLOSE)


@pytest.mark.parametrize("own", [False, True], ids=["shared batch", "own batches"])
def test_a_stack_equals_its_modules_in_values_and_gradients(network: Network, own: bool) -> None:
    x = wave(2, 7, *SHAPE) if own else wave(7, *SHAPE)
    weights = [
        Pair(p.weight.clone().requires_grad_(), p.bias.clone().requires_grad_())
        for p in network.initial((5, 6))
    ]
    logits = network.logits(weights, x)
    target = wave(2, 7, 3, pace=1.3)
    (logits * target).sum().backward()
    for run, seed in enumerate((5, 6)):
        module = build("elman:4", SHAPE, 3, seed=seed)
        found = module(x[run] if own else x)
        torch.testing.assert_close(logits[run], found, **CLOSE)
        (found * target[run]).sum().backward()
        for layer, pair in zip(network.layers, weights, strict=True):
            part = module.get_submodule(layer.name)
            assert pair.weight.grad is not None
            assert pair.bias.grad is not None
            torch.testing.assert_close(pair.weight.grad[run], part.weight.grad, **CLOSE)
            torch.testing.assert_close(pair.bias.grad[run], part.bias.grad, **CLOSE)


def test_hidden_signals_reach_every_state(network: Network) -> None:
    seen: list[Tensor] = []

    def note(h: Tensor) -> Tensor:
        seen.append(h)
        return torch.zeros_like(h)

    weights = network.initial((5,))
    silent = network.with_signals(Signals(hidden=note))
    logits = silent.logits(weights, wave(7, *SHAPE))
    assert [tuple(h.shape) for h in seen] == [(1, 7, 4)] * 5
    torch.testing.assert_close(logits, weights[-1].bias.unsqueeze(1).expand(1, 7, 3))


def test_gains_act_on_all_three_layers(network: Network) -> None:
    gain = torch.tensor([[0.5, 2.0, 3.0]])
    weights, x = network.initial((5,)), wave(7, *SHAPE)
    scaled = [Pair(pair.weight * gain[0, i], pair.bias * gain[0, i]) for i, pair in enumerate(weights)]
    amplified = network.with_signals(Signals(gain=gain))
    torch.testing.assert_close(amplified.logits(weights, x), network.logits(scaled, x), **CLOSE)


def test_the_rows_are_read_from_top_to_bottom() -> None:
    seen: list[Tensor] = []

    def linear(i: int, u: Tensor) -> Tensor:
        seen.append(u)
        return u[:, :1].unsqueeze(0) if i == 0 else torch.zeros(1, len(u) if i == 0 else 2, 1)

    x = torch.arange(12.0).reshape(2, 1, 3, 2)
    elman(linear, x)
    assert torch.equal(seen[0], x.reshape(6, 2))
    assert len(seen) == 1 + 3 + 1


def test_rules_that_need_a_line_refuse_it(network: Network) -> None:
    for name, rule in RULES.items():
        if name == "bp":
            rule.check(network)
        else:
            with pytest.raises(UsageError, match=f"rule '{name}' .*model 'elman:4' is recurrent.*--rule bp"):
                rule.check(network)


def test_a_line_is_not_refused(network: Network) -> None:
    for line in (network_of("lenet", (1, 8, 8), 3), replace(network, recurrent=False)):
        assert line_only("fa", line) is None
    with pytest.raises(UsageError):
        line_only("fa", network)


def test_it_learns_what_only_the_first_row_says() -> None:
    """The first of four rows has a sign, the rest is the same for all: the state has to carry it."""
    labels = torch.arange(64) % 2
    x = 0.1 * wave(64, 1, 4, 2, pace=1.7)
    x[:, 0, 0] += (2.0 * labels - 1)[:, None]
    taught = teach(BackPropagation(), network_of("elman:6", (1, 4, 2), 2), x, labels, epochs=10, batch=16)
    assert taught.accuracy(x, labels).item() == 100
