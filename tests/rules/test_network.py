"""Networks of a stack of runs: equal to the zoo's modules, run by run, forward and backward."""

from dataclasses import replace

import pytest
import torch
from tests.rules.teaching import sine_batch, sine_weights

from tersa.errors import UsageError
from tersa.models.zoo import build
from tersa.rules.base import Batch, Draw, cross_entropy, one_hot
from tersa.rules.network import Network, Pair, Signals, affine, network_of

ROUNDING = 1e-5
"""Sums of some hundred float32 products in another order."""
SHAPE = (1, 8, 8)
SPECS = ("mlp:6x5", "lenet:3-4-7")


def leaves(network: Network, runs: int) -> list[Pair]:
    return [
        Pair(pair.weight.requires_grad_(), pair.bias.requires_grad_()) for pair in sine_weights(network, runs)
    ]


@pytest.mark.parametrize(
    ("spec", "shape"), [("mlp:6x5", SHAPE), ("lenet:3-4-7", SHAPE), ("lenet5:3-4-7", (2, 16, 18))]
)
def test_each_run_answers_as_the_module_of_its_seed(spec: str, shape: tuple[int, int, int]) -> None:
    network = network_of(spec, shape, 3)
    x = sine_batch(network).inputs
    found = network.logits(network.initial([4, 9]), x)
    for run, seed in enumerate((4, 9)):
        torch.testing.assert_close(
            found[run], build(spec, shape, 3, seed=seed)(x), rtol=ROUNDING, atol=ROUNDING
        )


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("own_order", [False, True])
def test_gradients_of_a_stack_are_those_of_its_runs(spec: str, own_order: bool) -> None:
    network = network_of(spec, SHAPE, 3)
    batch = sine_batch(network)
    if own_order:
        batch = Batch(torch.stack([batch.inputs, batch.inputs.flip(0)]), torch.stack([batch.labels] * 2))
    stack = leaves(network, 2)
    cross_entropy(network.logits(stack, batch.inputs), batch).sum().backward()
    for run in range(2):
        alone = [
            Pair(p.weight[[run]].detach().requires_grad_(), p.bias[[run]].detach().requires_grad_())
            for p in stack
        ]
        own = Batch(batch.inputs[run], batch.labels[run]) if own_order else batch
        cross_entropy(network.logits(alone, own.inputs), own).sum().backward()
        for one, many in zip(alone, stack, strict=True):
            torch.testing.assert_close(
                one.weight.grad, many.weight.grad[run : run + 1], rtol=ROUNDING, atol=1e-7
            )
            torch.testing.assert_close(one.bias.grad, many.bias.grad[run : run + 1], rtol=ROUNDING, atol=1e-7)


@pytest.mark.parametrize("spec", SPECS)
def test_gradients_are_those_of_the_module(spec: str) -> None:
    network = network_of(spec, SHAPE, 3)
    batch = sine_batch(network)
    pairs = [Pair(p.weight.requires_grad_(), p.bias.requires_grad_()) for p in network.initial([5])]
    cross_entropy(network.logits(pairs, batch.inputs), batch).sum().backward()
    module = build(spec, SHAPE, 3, seed=5)
    torch.nn.functional.cross_entropy(module(batch.inputs), batch.labels).backward()
    for layer, pair in zip(network.layers, pairs, strict=True):
        theirs = module.get_submodule(layer.name)
        torch.testing.assert_close(pair.weight.grad[0], theirs.weight.grad, rtol=ROUNDING, atol=1e-6)
        torch.testing.assert_close(pair.bias.grad[0], theirs.bias.grad, rtol=ROUNDING, atol=1e-6)


def test_a_shared_image_gets_the_gradients_of_all_runs() -> None:
    for spec in SPECS:
        network = network_of(spec, SHAPE, 3)
        x = sine_batch(network).inputs.requires_grad_()
        each = x.detach().expand(2, *x.shape).clone().requires_grad_()
        pairs = sine_weights(network, 2)
        (shared,) = torch.autograd.grad(network.logits(pairs, x).square().sum(), x)
        (apart,) = torch.autograd.grad(network.logits(pairs, each).square().sum(), each)
        torch.testing.assert_close(shared, apart.sum(0), rtol=ROUNDING, atol=ROUNDING)


def test_errors_go_back_through_feedback_dense() -> None:
    network = network_of("mlp:6", SHAPE, 3)
    layer, pair = network.layers[1], sine_weights(network, 2)[1]
    u = torch.sin(torch.arange(2 * 4 * 6.0)).view(2, 4, 6).requires_grad_()
    g = torch.cos(torch.arange(2 * 4 * 3.0)).view(2, 4, 3)
    back = pair.weight.flip(1)
    (found,) = torch.autograd.grad(affine(layer, pair, u, back), u, g)
    torch.testing.assert_close(found, g @ back)


def test_errors_go_back_through_feedback_convolution() -> None:
    network = network_of("lenet:3-4-7", SHAPE, 3)
    layer, pair = network.layers[1], sine_weights(network, 2)[1]
    u = torch.sin(torch.arange(2 * 2 * 3 * 16.0)).view(2, 2, 3, 4, 4).requires_grad_()
    back = pair.weight.flip(1)
    z = affine(layer, pair, u, back)
    g = torch.cos(torch.arange(float(z.numel()))).view_as(z)
    (found,) = torch.autograd.grad(z, u, g)
    for run in range(2):
        expected = torch.nn.functional.conv_transpose2d(g[run], back[run], padding=layer.padding)
        torch.testing.assert_close(found[run], expected, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("spec", [*SPECS, "lenet:2-3-5"])
def test_shapes_are_those_of_the_outputs(spec: str) -> None:
    network = network_of(spec, (2, 11, 9), 3)
    outputs = network.run(sine_weights(network), sine_batch(network).inputs)
    assert network.shapes == tuple(tuple(h.shape[2:]) for h in outputs)


def test_apart_has_the_values_of_run_and_no_gradient_between_layers() -> None:
    network = network_of("lenet:3-4-7", SHAPE, 3)
    pairs = leaves(network, 2)
    x = sine_batch(network).inputs
    apart, run = network.apart(pairs, x), network.run(pairs, x)
    for ours, theirs in zip(apart, run, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    apart[2].sum().backward()
    assert [pair.weight.grad is not None for pair in pairs] == [False, False, True, False]


def test_signals_act_where_they_say() -> None:
    plain = network_of("mlp:6x5", SHAPE, 3)
    pairs, x = leaves(plain, 2), sine_batch(plain).inputs
    gain = torch.tensor([[2.0, 1.0, 1.0], [1.0, 1.0, 0.5]])
    amplified = plain.with_signals(Signals(gain=gain)).run(pairs, x)
    torch.testing.assert_close(amplified[0][0], 2.0 * plain.run(pairs, x)[0][0])
    torch.testing.assert_close(amplified[2][1], 0.5 * plain.run(pairs, x)[2][1])
    halved = plain.with_signals(Signals(hidden=lambda h: 0.5 * h)).run(pairs, x)
    torch.testing.assert_close(halved[0], 0.5 * plain.run(pairs, x)[0])
    torch.testing.assert_close(
        halved[2], plain.linear(2, pairs[2], halved[1]), msg="logits are not hidden values"
    )
    seen: list[int] = []
    noisy = plain.with_signals(Signals(read=lambda i, z, u: (seen.append(i), z + 1.0)[1])).run(pairs, x)
    assert seen == [0, 1, 2]
    torch.testing.assert_close(noisy[0], (plain.linear(0, pairs[0], x.flatten(1)) + 1.0).relu())


def test_backward_changes_gradients_and_nothing_else() -> None:
    plain = network_of("mlp:6", SHAPE, 3)
    pairs, batch = leaves(plain, 1), sine_batch(plain)
    halving = plain.with_signals(Signals(backward=lambda g: 0.5 * g))
    matrices = [pair.weight for pair in pairs]
    losses = [cross_entropy(network.logits(pairs, batch.inputs), batch) for network in (plain, halving)]
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=0)
    whole, half = (torch.autograd.grad(loss.sum(), matrices) for loss in losses)
    torch.testing.assert_close(half[1], 0.5 * whole[1])
    torch.testing.assert_close(half[0], 0.25 * whole[0])


def test_networks_that_are_no_lines_are_refused() -> None:
    for spec in ("resnet:20", "cnv"):
        with pytest.raises(UsageError, match="learning rules take mlp"):
            network_of(spec, (3, 32, 32), 10)


def test_parameters_are_counted() -> None:
    assert network_of("mlp:100x100", (1, 28, 28), 10).parameters == 89_610


def test_cross_entropy_and_labels() -> None:
    logits = torch.sin(torch.arange(2 * 4 * 3.0)).view(2, 4, 3)
    batch = Batch(torch.zeros(4, 1, 1, 1), torch.tensor([0, 2, 1, 1]))
    expected = torch.stack([torch.nn.functional.cross_entropy(run, batch.labels) for run in logits])
    torch.testing.assert_close(cross_entropy(logits, batch), expected)
    own = replace(batch, labels=torch.stack([batch.labels, batch.labels.flip(0)]))
    assert one_hot(own, 2, 3).argmax(-1).tolist() == own.labels.tolist()
    assert one_hot(batch, 2, 3).sum().item() == 8


def test_a_run_draws_the_same_alone_and_in_a_stack() -> None:
    stack, alone = Draw([3, 8]), Draw([8])
    for kind in ("normal", "uniform"):
        torch.testing.assert_close(getattr(stack, kind)(2, 3)[1:], getattr(alone, kind)(2, 3), rtol=0, atol=0)
    assert stack.integers(5, 4)[1].tolist() == alone.integers(5, 4)[0].tolist()
