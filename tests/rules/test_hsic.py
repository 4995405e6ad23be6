"""The HSIC bottleneck: kernels against dense matrices in float64, losses by hand, who moves when."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tests.rules.teaching import begin, gradients, sine_batch
from torch import Tensor

from tersa.errors import UsageError
from tersa.rules.base import Batch, Draw, Extras, Recipe, Turn, cross_entropy
from tersa.rules.hsic import CLASSIFIER, DOCUMENT, FLOOR, SIMULTANEOUS, HsicBottleneck
from tersa.rules.kernels import centred, dependence, gaussian_less_one, inverse, nhsic, projector
from tersa.rules.network import Network, Pair, network_of

EXACT = 1e-9
"""Absolute, with 1e-7 relative: float64 inverses of matrices whose condition is up to 1e6."""
SINGLE = 2e-3
"""Float32 against float64, relative to the largest entry: rounding times the same condition."""
SEEDS = (3, 4)

same = partial(torch.testing.assert_close, rtol=1e-7, atol=EXACT)


def wave(*shape: int, pace: float = 0.7) -> Tensor:
    return torch.sin(pace * torch.arange(1.0, 1.0 + torch.Size(shape).numel(), dtype=torch.float64)).reshape(
        shape
    )


def naive_projector(a: Tensor, sigma: float, epsilon: float) -> Tensor:
    """Kc (Kc + eps m I)^-1 with Kc = K H, of (m, d), as the paper and document 000 write it."""
    m, d = a.shape
    distance = (a[:, None] - a[None]).square().sum(-1)
    eye = torch.eye(m, dtype=a.dtype)
    one_sided = torch.exp(-distance / (2 * sigma**2 * d)) @ (eye - 1 / m)
    return one_sided @ torch.linalg.inv(one_sided + epsilon * m * eye)


def naive_nhsic(a: Tensor, b: Tensor, sigma: float, epsilon: float) -> Tensor:
    return (naive_projector(a, sigma, epsilon) * naive_projector(b, sigma, epsilon).T).sum()


def leaf(a: Tensor) -> Tensor:
    return a.detach().clone().requires_grad_()


@pytest.mark.parametrize(("sigma", "epsilon"), [(5.0, 1e-5), (1.0, 1e-3), (0.3, 1e-2)])
@pytest.mark.parametrize("relu", [False, True])
def test_value_and_gradient_are_those_of_the_dense_formula(sigma: float, epsilon: float, relu: bool) -> None:
    images, labels = wave(12, 7), torch.eye(3, dtype=torch.float64)[torch.arange(12) % 3]
    z = wave(2, 12, 5, pace=1.3) * 2
    z = leaf(z.relu() if relu else z)
    target = projector(images, sigma, epsilon) - 500 * projector(labels, sigma, epsilon)
    found = dependence(z, target, sigma, epsilon)
    (slope,) = torch.autograd.grad(found.sum(), z)
    for run in range(2):
        alone = leaf(z[run])
        by_hand = naive_nhsic(alone, images, sigma, epsilon) - 500 * naive_nhsic(
            alone, labels, sigma, epsilon
        )
        same(found[run], by_hand)
        same(slope[run], torch.autograd.grad(by_hand, alone)[0])


def test_the_gradient_agrees_with_finite_differences() -> None:
    target = projector(wave(9, 4)) - 3 * projector(wave(9, 2, pace=2.1))
    assert torch.autograd.gradcheck(lambda a: dependence(a, target, 1.0, 1e-3), leaf(wave(2, 9, 3)))


@pytest.mark.parametrize("scale", [0.01, 1.0, 5.0])
def test_float32_is_enough(scale: float) -> None:
    """With 64 images and document 000's sigma and epsilon, from young networks to grown ones."""
    source = torch.Generator().manual_seed(1)
    images = torch.randn(64, 50, dtype=torch.float64, generator=source)
    mixing = torch.randn(50, 20, dtype=torch.float64, generator=source)
    z = (images @ mixing).relu() * scale
    slopes = [
        torch.autograd.grad(dependence(a, projector(images.to(a.dtype))).sum(), a)[0].double()
        for a in (leaf(z[None]), leaf(z[None].float()))
    ]
    assert (slopes[1] - slopes[0]).abs().max() < SINGLE * slopes[0].abs().max()


def test_huge_features_with_twins_stay_finite() -> None:
    """Float32 distances of such features are off by more than the regulariser."""
    z = leaf((1e4 * wave(1, 16, 5)).float().repeat(1, 4, 1) + 0.01 * wave(1, 64, 5, pace=0.1).float())
    found = dependence(z, projector(wave(64, 8).float()))
    (slope,) = torch.autograd.grad(found.sum(), z)
    assert found.isfinite().all()
    assert slope.isfinite().all()


def test_dead_features_depend_on_nothing_and_get_no_gradient() -> None:
    z = leaf(torch.zeros(1, 10, 4))
    found = dependence(z, projector(wave(10, 3).float()))
    torch.testing.assert_close(found, torch.zeros(1), rtol=0, atol=1e-4)
    assert torch.autograd.grad(found.sum(), z)[0].abs().max() == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_diverged_run_leaves_the_others_alone(bad: float) -> None:
    z = wave(2, 10, 4).float()
    target = projector(wave(10, 3).float())
    good = dependence(z, target)[1]
    z[0, 3, 2] = bad
    found = dependence(z, target)
    assert found[0].isnan()
    torch.testing.assert_close(found[1], good)


def test_vmap_gives_what_a_loop_gives() -> None:
    z, target = wave(3, 8, 4), projector(wave(8, 5))

    def slope(a: Tensor) -> Tensor:
        return torch.func.grad(lambda b: dependence(b[None], target).sum())(a)

    loop = torch.stack([slope(a) for a in z])
    same(torch.func.vmap(slope)(z), loop)


def test_the_projector_is_symmetric_centred_and_between_zero_and_one() -> None:
    p = projector(wave(3, 11, 4), 1.0)
    same(p, p.mT)
    torch.testing.assert_close(p.sum(-1), torch.zeros(3, 11, dtype=p.dtype), rtol=0, atol=1e-9)
    values = torch.linalg.eigvalsh(p)
    assert values.min() > -EXACT
    assert values.max() < 1


def test_dependence_ignores_shifts_and_is_largest_on_itself() -> None:
    a, b = wave(20, 3), wave(20, 3, pace=2.9)
    p, q = projector(a), projector(b)
    torch.testing.assert_close(projector(a + 7), p, rtol=1e-5, atol=1e-7)
    assert 0 < nhsic(p, q) < min(nhsic(p, p), nhsic(q, q)) < 19
    order = torch.arange(20).roll(3)
    same(nhsic(projector(a[order]), projector(b[order])), nhsic(p, q))


def test_kernel_centring_and_inverse_by_hand() -> None:
    a = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]], dtype=torch.float64)
    kernel = gaussian_less_one(a, 0.5) + 1  # distances 2, 4, 2; 2 sigma^2 d = 1
    by_hand = torch.exp(-torch.tensor([[0.0, 2, 4], [2, 0, 2], [4, 2, 0]], dtype=torch.float64))
    same(kernel, by_hand)
    h = torch.eye(3, dtype=torch.float64) - 1 / 3
    same(centred(kernel), h @ by_hand @ h)
    ridge = 3e-3 * torch.eye(3, dtype=torch.float64)
    dense = h @ torch.linalg.inv(h @ by_hand @ h + ridge) @ h
    torch.testing.assert_close(inverse(kernel, 1e-3), dense, rtol=1e-6, atol=1e-6)


def setting(rule: HsicBottleneck, spec: str = "mlp:6x5") -> tuple[Network, list[Pair], Extras, Batch]:
    network = network_of(spec, (1, 8, 8), 3)
    weights, extras, _ = begin(rule, network, SEEDS)
    return network, weights, extras, sine_batch(network, 12)


def features(network: Network, weights: list[Pair], batch: Batch, run: int, relu_last: bool) -> list[Tensor]:
    """Outputs of one run in float64, one layer's graph each."""
    u = batch.inputs.flatten(1).double()
    found: list[Tensor] = []
    for i, pair in enumerate(weights):
        z = u @ pair.weight[run].double().T + pair.bias[run].double()
        h = z.relu() if i < len(weights) - 1 or relu_last else z
        found.append(h)
        u = h.detach()
    return found


def by_hand(rule: HsicBottleneck, h: Tensor, batch: Batch) -> Tensor:
    labels = torch.eye(3, dtype=torch.float64)[batch.labels]
    images = batch.inputs.flatten(1).double()
    if rule.standardise:
        h = (h - h.mean(0)) / (h.std(0, correction=0) + FLOOR)
    p = naive_projector(h, rule.sigma, rule.epsilon)
    x, y = (naive_projector(a, rule.target_sigma, rule.target_epsilon) for a in (images, labels))
    return (p * x.T).sum() - rule.balance * (p * y.T).sum()


@pytest.mark.parametrize("rule", [DOCUMENT, HsicBottleneck()], ids=lambda rule: rule.name)
def test_each_turn_moves_its_layer_by_its_own_loss(rule: HsicBottleneck) -> None:
    network, weights, _, batch = setting(rule)
    extras = rule.extras(network, weights, Draw(SEEDS))
    for i, turn in enumerate(rule.phases(network)[0].turns):
        assert turn.layers == (i,)
        found = gradients(rule, turn, network, weights, extras, batch, Draw(SEEDS))
        loss = rule.loss(turn, network, weights, extras, batch, Draw(SEEDS))
        for run in range(2):
            hand = by_hand(rule, features(network, weights, batch, run, rule.relu_last)[i], batch)
            torch.testing.assert_close(loss[run].double(), hand, rtol=SINGLE, atol=0)
            slopes = torch.autograd.grad(hand, (weights[i].weight, weights[i].bias))
            largest = slopes[0][run].abs().max()  # the last layer's bias only shifts: its slope is 0
            for mine, theirs in zip(found, slopes, strict=True):
                assert (mine[run] - theirs[run]).abs().max() < SINGLE * largest


def test_moving_at_once_takes_the_gradients_of_the_turns_at_the_same_weights() -> None:
    network, weights, _, batch = setting(HsicBottleneck())
    extras = HsicBottleneck().extras(network, weights, Draw(SEEDS))
    (together,) = SIMULTANEOUS.phases(network)[0].turns
    at_once = gradients(SIMULTANEOUS, together, network, weights, extras, batch, Draw(SEEDS))
    in_turn = [
        slope
        for turn in HsicBottleneck().phases(network)[0].turns
        for slope in gradients(HsicBottleneck(), turn, network, weights, extras, batch, Draw(SEEDS))
    ]
    for a, b in zip(at_once, in_turn, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6 * b.abs().max().item())


def test_the_document_snaps_once_per_batch_and_brings_its_optimisers() -> None:
    network = network_of("mlp:6x5", (1, 8, 8), 3)
    unformatted, classifier = DOCUMENT.phases(network)
    assert [turn.snap for turn in unformatted.turns] == [False, False, False]
    assert unformatted.epochs is None
    assert unformatted.recipe == Recipe("sgd", 1.0, decay=1.0, weight_decay=0.001)
    assert classifier.turns == (Turn(CLASSIFIER, extras=(0, 1)),)
    assert classifier.epochs == 20
    assert classifier.recipe == Recipe("adadelta", 1.0, decay=0.7)


def test_the_classifier_learns_from_frozen_features() -> None:
    network, weights, _, batch = setting(DOCUMENT)
    extras = DOCUMENT.extras(network, weights, Draw(SEEDS))
    assert [tuple(e.shape) for e in extras.trained] == [(2, 3, 3), (2, 3)]
    turn = DOCUMENT.phases(network)[1].turns[0]
    loss = DOCUMENT.loss(turn, network, weights, extras, batch, Draw(SEEDS))
    assert not loss.requires_grad  # neither weights nor these extras ask for it
    last = torch.stack([features(network, weights, batch, run, True)[-1] for run in range(2)]).float()
    logits = last @ extras.trained[0].mT + extras.trained[1].unsqueeze(1)
    torch.testing.assert_close(loss, cross_entropy(logits, batch).detach())


def test_the_classifier_may_see_every_layer() -> None:
    network, weights, _, batch = setting(HsicBottleneck(), "lenet:2-3-8")
    extras = HsicBottleneck().extras(network, weights, Draw(SEEDS))
    wide = sum(torch.Size(shape).numel() for shape in network.shapes)
    assert extras.trained[0].shape == (2, 3, wide)
    assert HsicBottleneck().predict(network, weights, extras, batch.inputs).shape == (2, 12, 3)


def test_a_recurrent_network_is_refused() -> None:
    with pytest.raises(UsageError, match="rule 'hsic' teaches layer by layer"):
        HsicBottleneck().check(network_of("elman:7", (1, 8, 8), 3))
