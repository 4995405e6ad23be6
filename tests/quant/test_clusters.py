"""Shared values: the algorithm against a plain loop, the centroids' gradient against autograd."""

import pytest
import torch
from torch import Tensor

from tersa.errors import UsageError
from tersa.quant.clusters import ROUNDS, centroid_gradient, lloyd, retrain, share, shared
from tersa.quant.quantiser import fake_quantise, quantise
from tersa.quant.spec import QuantSpec

X = torch.sin(torch.arange(300) * 0.7) ** 3 + 0.1 * torch.cos(torch.arange(300) * 1.3)


def plain_lloyd(x: Tensor, count: int) -> Tensor:
    """Assign and move, cluster by cluster."""
    low, high = float(x.min()), float(x.max())
    centroids = torch.tensor([low + (high - low) * k / (count - 1) for k in range(count)])
    for _ in range(ROUNDS):
        nearest = (x.unsqueeze(1) - centroids).abs().argmin(1)
        for k in range(count):
            if bool((nearest == k).any()):
                centroids[k] = x[nearest == k].double().mean()
    return centroids


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_lloyd_equals_a_plain_loop(bits: int) -> None:
    found = lloyd(X, X.min(), X.max(), 2**bits)
    torch.testing.assert_close(found, plain_lloyd(X, 2**bits), rtol=1e-5, atol=1e-6)  # order of sums


def test_well_apart_groups_are_found() -> None:
    x = torch.cat([centre + 0.01 * torch.sin(torch.arange(9.0)) for centre in (-2.0, 0.2, 2.9, 5.0)])
    found = share(x, bits=2)
    torch.testing.assert_close(found.centroids, x.view(4, 9).mean(1))
    assert found.codes.tolist() == [k for k in range(4) for _ in range(9)]


def test_few_values_are_kept_exactly() -> None:
    x = torch.tensor([0.3, -1.0, 0.30000004, 0.3, 7.0])
    assert torch.equal(quantise(x, QuantSpec(kind="clusters", bits=2)).values, x)


def test_error_falls_with_bits() -> None:
    errors = [
        float((quantise(X, QuantSpec(kind="clusters", bits=bits)).values - X).square().mean())
        for bits in range(1, 9)
    ]
    assert errors == sorted(errors, reverse=True)
    uniform = float((quantise(X, QuantSpec(kind="asymmetric", bits=3)).values - X).square().mean())
    assert errors[2] < uniform, "shared values that follow the weights beat levels at equal distances"


def test_centroid_gradient_is_autograds() -> None:
    found = share(X.view(30, 10), bits=3)
    upstream = torch.cos(torch.arange(300.0)).view(30, 10)
    centroids = found.centroids.clone().requires_grad_()
    (grad,) = torch.autograd.grad((shared(centroids, found.codes) * upstream).sum(), centroids)
    by_hand = torch.stack([upstream[found.codes == k].sum() for k in range(8)])
    torch.testing.assert_close(grad, by_hand)
    torch.testing.assert_close(centroid_gradient(upstream, found.codes, 8), by_hand)


def test_retraining_lowers_the_loss_and_keeps_the_members() -> None:
    """Descent on half the squared distance to a target brings each centroid to its members' target mean."""
    found, target = share(X, bits=2), torch.cos(torch.arange(300.0))
    members = shared(found.centroids, found.codes)
    for _ in range(400):
        found = retrain(found, (shared(found.centroids, found.codes) - target) / 300, 2.0)
    now = shared(found.centroids, found.codes)
    for value in members.unique():
        torch.testing.assert_close(now[members == value].unique(), target[members == value].mean()[None])
    assert bool((found.centroids.diff() >= 0).all())


def test_retraining_refuses_another_shape() -> None:
    with pytest.raises(UsageError, match=r"shape \(3,\), the clustered tensor \(300,\)"):
        retrain(share(X, bits=2), torch.ones(3), 0.1)


def test_stochastic_goes_to_a_neighbouring_centroid() -> None:
    x = torch.tensor([0.0, 1.0, 3.0, 1.5, 0.9, 2.9])
    spec = QuantSpec(kind="clusters", bits=1, rounding="stochastic")
    table = share(x, bits=1).centroids
    found = fake_quantise(x, spec, uniform=torch.tensor([0.0, 0.9, 0.0, 0.0, 0.99, 0.0]))
    assert found.tolist() == [table[k] for k in (0, 0, 1, 1, 0, 1)]
