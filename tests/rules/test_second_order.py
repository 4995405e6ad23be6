"""Second-order optimisers: exact on quadratics, against lstsq, finite differences and torch; refusals."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from tersa.data import digits
from tersa.errors import UsageError
from tersa.rules.base import Batch, cross_entropy
from tersa.rules.conjugate import Place, conjugate_gradient, inverse_product, limited_bfgs, search
from tersa.rules.network import Network, Pair, network_of
from tersa.rules.second_order import (
    KINDS,
    Curvature,
    SecondOrder,
    assign_,
    check_rule,
    check_size,
    curvature_of,
    damped_step,
    flat,
    gauss_newton,
    hessian,
    residual_rows,
    softmax_rows,
)

EXACT = {"rtol": 1e-9, "atol": 1e-9}
"""A few hundred float64 operations."""
CLOSE = {"rtol": 1e-4, "atol": 1e-6}
"""Sums of some dozen float32 products in another order."""
DIFFERENCE = {"rtol": 1e-4, "atol": 1e-7}
"""Central differences with steps of 1e-5 in float64."""


def wave(*shape: int, pace: float = 0.7) -> Tensor:
    values = torch.sin(pace * torch.arange(1.0, 1.0 + math.prod(shape), dtype=torch.float64))
    return values.reshape(shape)


def bowl(n: int) -> tuple[Tensor, Tensor]:
    """A positive definite matrix (n, n) and a vector (n,)."""
    root = wave(n, n) + torch.eye(n, dtype=torch.float64)
    return root @ root.T + torch.diag(torch.arange(1.0, n + 1, dtype=torch.float64)), wave(n, pace=1.3)


def rosenbrock(x: Tensor) -> tuple[float, Tensor]:
    value = (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
    first = -2 * (1 - x[0]) - 400 * x[0] * (x[1] - x[0] ** 2)
    return float(value), torch.stack([first, 200 * (x[1] - x[0] ** 2)])


def teachable(spec: str = "mlp:3") -> tuple[Network, list[Pair], list[Tensor], Batch]:
    network = network_of(spec, (1, 2, 3), 4)
    weights = [
        Pair(p.weight.double().requires_grad_(), p.bias.double().requires_grad_())
        for p in network.initial((3,))
    ]
    leaves = [tensor for pair in weights for tensor in (pair.weight, pair.bias)]
    return network, weights, leaves, Batch(wave(9, 1, 2, 3, pace=1.9), torch.arange(9) % 4)


def test_newton_solves_a_quadratic_in_one_step() -> None:
    matrix, vector = bowl(6)
    x = wave(1, 6, pace=0.2).requires_grad_()
    loss = SecondOrder("newton", damping=0.0).update_([x], lambda: x[0] @ matrix @ x[0] / 2 - vector @ x[0])
    torch.testing.assert_close(x.detach()[0], torch.linalg.solve(matrix, vector), **EXACT)
    assert loss == pytest.approx(float(-vector @ x.detach()[0] / 2))


def test_conjugate_gradient_solves_n_variables_in_n_steps() -> None:
    matrix, vector = bowl(6)
    solution = torch.linalg.solve(matrix, vector)

    def evaluate(x: Tensor) -> tuple[float, Tensor]:
        return float(x @ matrix @ x / 2 - vector @ x), matrix @ x - vector

    start = wave(6, pace=0.2)
    end = conjugate_gradient(evaluate, start, 6)
    torch.testing.assert_close(
        end.point, solution, rtol=1e-5, atol=1e-6
    )  # each step rounds the next direction
    early = conjugate_gradient(evaluate, start, 5)
    assert float((early.point - solution).abs().max()) > 1e-4


def test_conjugate_gradient_directions_are_conjugate() -> None:
    matrix, vector = bowl(4)

    def evaluate(x: Tensor) -> tuple[float, Tensor]:
        return float(x @ matrix @ x / 2 - vector @ x), matrix @ x - vector

    points = [conjugate_gradient(evaluate, torch.zeros_like(vector), k).point for k in range(4)]
    steps = [b - a for a, b in pairwise(points)]
    for i, left in enumerate(steps):
        for right in steps[i + 1 :]:
            cosine = left @ matrix @ right / ((left @ matrix @ left) * (right @ matrix @ right)).sqrt()
            assert abs(float(cosine)) < 1e-6


@pytest.mark.parametrize("method", [conjugate_gradient, limited_bfgs])
def test_rosenbrocks_valley(method: object) -> None:
    assert callable(method)
    end = method(rosenbrock, torch.tensor([-1.2, 1.0], dtype=torch.float64), 100)
    torch.testing.assert_close(end.point, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-4)


def test_lbfgs_product_fulfils_the_secant_equation() -> None:
    matrix, _ = bowl(5)
    pairs = [(wave(5, pace=p), matrix @ wave(5, pace=p)) for p in (0.4, 1.1, 2.3)]
    torch.testing.assert_close(inverse_product(pairs, pairs[-1][1]), pairs[-1][0], **EXACT)
    assert torch.equal(inverse_product([], pairs[0][0]), pairs[0][0])


def test_lbfgs_with_full_memory_is_bfgs() -> None:
    """H after each pair: (1 - rho s y') H (1 - rho y s') + rho s s', from s y / y y of the newest."""
    matrix, vector = bowl(4)
    pairs = [(wave(4, pace=p), matrix @ wave(4, pace=p)) for p in (0.4, 1.1)]
    step, change = pairs[-1]
    eye = torch.eye(4, dtype=torch.float64)
    inverse = eye * (step @ change) / (change @ change)
    for s, y in pairs:
        rho = 1 / (s @ y)
        inverse = (eye - rho * torch.outer(s, y)) @ inverse @ (eye - rho * torch.outer(y, s))
        inverse = inverse + rho * torch.outer(s, s)
    torch.testing.assert_close(inverse_product(pairs, vector), inverse @ vector, **EXACT)


def test_a_search_lands_on_the_minimum_of_a_parabola() -> None:
    start = Place(torch.tensor([2.0]), 4.0, torch.tensor([4.0]))
    found = search(lambda x: (float(x[0] ** 2), 2 * x), start, torch.tensor([-1.0]), probe=0.125)
    assert found.point.item() == pytest.approx(0.0, abs=1e-6)
    assert found.length == pytest.approx(2.0)


def test_a_search_that_finds_nothing_lower_stays() -> None:
    start = Place(torch.tensor([0.0]), 0.0, torch.tensor([1.0]))
    found = search(lambda x: (1.0, torch.tensor([1.0])), start, torch.tensor([-1.0]), probe=1.0)
    assert found.length == 0
    assert torch.equal(found.point, start.point)


def test_levenberg_marquardt_is_least_squares() -> None:
    design = wave(12, 4, pace=1.1) ** 3 + wave(12, 4, pace=0.4)  # a sine alone has rank 2
    goal = wave(12, pace=0.3)
    x = wave(1, 4).requires_grad_()

    def outputs(copies: list[Tensor]) -> Tensor:
        return ((copies[0] * design).sum(1) - goal).unsqueeze(1)  # (12, 1): one residual an "image"

    curvature = Curvature(lambda: x.sum(), 12, outputs, residual_rows)
    optimiser = SecondOrder("levenberg-marquardt", damping=0.0)
    optimiser.update_([x], lambda: (design @ x[0] - goal).square().sum() / 2, curvature)
    expected, *_ = np.linalg.lstsq(design.numpy(), goal.numpy(), rcond=None)
    torch.testing.assert_close(x.detach()[0], torch.from_numpy(expected), **EXACT)


def test_levenberg_marquardt_fits_a_curve() -> None:
    """y = a exp(-b t): the textbook's example of a problem that is not linear in its parameters."""
    t = torch.linspace(0, 2, 20, dtype=torch.float64)
    goal = 2.5 * torch.exp(-1.3 * t)
    x = torch.tensor([[1.0, 0.1]], dtype=torch.float64, requires_grad=True)

    def outputs(copies: list[Tensor]) -> Tensor:
        a, b = copies[0].unbind(1)
        return (a * torch.exp(-b * t) - goal).unsqueeze(1)

    def loss() -> Tensor:
        return (x[0, 0] * torch.exp(-x[0, 1] * t) - goal).square().sum() / 2

    optimiser = SecondOrder("levenberg-marquardt")
    dampings: list[float] = []
    for _ in range(12):
        dampings.append(optimiser.damping)
        optimiser.update_([x], loss, Curvature(loss, 20, outputs, residual_rows))
    torch.testing.assert_close(
        x.detach()[0], torch.tensor([2.5, 1.3], dtype=torch.float64), rtol=1e-6, atol=0
    )
    assert min(dampings) < 0.001 < dampings[0]  # trusted once the steps came as promised


@pytest.mark.parametrize("spec", ["mlp:3", "elman:2"])
def test_the_hessian_is_the_difference_of_gradients(spec: str) -> None:
    network, weights, leaves, batch = teachable(spec)

    def loss() -> Tensor:
        return cross_entropy(network.logits(weights, batch.inputs), batch).sum()

    found = hessian(leaves, loss)
    start = flat(leaves)
    for place in range(0, len(start), 5):
        slopes: list[Tensor] = []
        for sign in (1, -1):
            moved = start.clone()
            moved[place] += sign * 1e-5
            assign_(leaves, moved)
            slopes.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss(), leaves)]))
        torch.testing.assert_close(found[place], (slopes[0] - slopes[1]) / 2e-5, **DIFFERENCE)


def test_gauss_newton_is_the_sum_over_images() -> None:
    network, weights, leaves, batch = teachable()
    found = gauss_newton(leaves, curvature_of(network, weights, batch, images=5))
    expected = torch.zeros_like(found)
    for n in range(5):
        logits = network.logits(weights, batch.inputs[n : n + 1])[0, 0]
        rows = [torch.autograd.grad(z, leaves, retain_graph=True) for z in logits]
        jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
        p = logits.detach().softmax(0)
        expected += jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian / 5
    torch.testing.assert_close(found, expected, **EXACT)


def test_gauss_newton_of_a_linear_network_is_its_hessian() -> None:
    """Cross-entropy of logits that are linear in the leaves bends through the logits alone."""
    x, labels = wave(9, 5, pace=1.9), torch.arange(9) % 3
    leaf = wave(1, 3, 5).requires_grad_()

    def loss() -> Tensor:
        return torch.nn.functional.cross_entropy(x @ leaf[0].T, labels)

    def outputs(copies: list[Tensor]) -> Tensor:
        return (copies[0] @ x.unsqueeze(-1)).squeeze(-1)

    found = gauss_newton([leaf], Curvature(loss, 9, outputs, softmax_rows))
    torch.testing.assert_close(found, hessian([leaf], loss), **EXACT)


def test_damping_follows_the_ratio() -> None:
    def evaluate(x: Tensor) -> tuple[float, Tensor]:
        return float(x @ x / 2), x

    x = wave(3)
    here, eye = Place(x, *evaluate(x)), torch.eye(3, dtype=torch.float64)
    there, damping = damped_step(evaluate, here, eye, 1.0)
    torch.testing.assert_close(there.point, x / 2)
    assert damping == 0.25  # the fall was as promised
    _, damping = damped_step(evaluate, here, 0.1 * eye, 1.0)  # 0.496 |x|^2 of 0.868 |x|^2 promised
    assert damping == 1.0
    _, damping = damped_step(evaluate, here, 0.1 * eye, 0.5)  # 0.278 of 1.528
    assert damping == 2.0
    there, damping = damped_step(evaluate, here, 0.01 * eye, 0.001)  # overshoots, is taken back
    assert there.loss < here.loss
    assert damping > 0.25


def test_an_indefinite_matrix_is_damped_until_it_falls() -> None:
    x = torch.tensor([[0.1, 1.0]], dtype=torch.float64, requires_grad=True)  # x^4 - x^2 + y^2: a saddle at 0
    optimiser = SecondOrder("newton", damping=0.0)
    for _ in range(30):
        loss = optimiser.update_([x], lambda: x[0, 0] ** 4 - x[0, 0] ** 2 + x[0, 1] ** 2)
    assert loss == pytest.approx(-0.25, abs=1e-6)


def test_a_place_that_cannot_fall_is_kept() -> None:
    here = Place(torch.zeros(2), 0.0, torch.ones(2))
    there, damping = damped_step(lambda x: (math.nan, x), here, torch.eye(2), 1.0)
    assert there is here
    assert damping == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_learns_and_the_loss_never_rises(kind: str) -> None:
    decoded = digits.read(())
    images, labels = torch.from_numpy(decoded.images[:200]), torch.from_numpy(decoded.labels[:200])
    network = network_of("mlp:4", (1, 8, 8), 10)
    weights = [
        Pair(p.weight.clone().requires_grad_(), p.bias.clone().requires_grad_())
        for p in network.initial((1,))
    ]
    leaves = [tensor for pair in weights for tensor in (pair.weight, pair.bias)]
    batch, optimiser = Batch(images, labels), SecondOrder(kind)

    def loss() -> Tensor:
        return cross_entropy(network.logits(weights, images), batch).sum()

    losses = [float(loss().detach())]
    for _ in range(10):
        losses.append(optimiser.update_(leaves, loss, curvature_of(network, weights, batch, 100)))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.6 * losses[0]
    assert losses[-1] == pytest.approx(float(loss().detach()), rel=1e-6)


def test_lbfgs_reaches_what_torchs_reaches() -> None:
    network, weights, leaves, batch = teachable()
    start = flat(leaves)

    def loss() -> Tensor:
        return cross_entropy(network.logits(weights, batch.inputs), batch).sum()

    ours = SecondOrder("lbfgs", iterations=15).update_(leaves, loss)
    assign_(leaves, start)
    theirs = torch.optim.LBFGS(leaves, max_iter=15, line_search_fn="strong_wolfe")

    def closure() -> float:
        theirs.zero_grad()
        value = loss()
        value.backward()
        return float(value.detach())

    theirs.step(closure)
    assert ours < 1.1 * float(loss().detach())


def test_vectors_and_leaves() -> None:
    leaves = [torch.zeros(1, 2, 3), torch.zeros(1, 2)]
    assign_(leaves, torch.arange(8.0))
    assert torch.equal(leaves[0], torch.arange(6.0).reshape(1, 2, 3))
    assert torch.equal(flat(leaves), torch.arange(8.0))


def test_large_networks_are_refused_where_a_matrix_is_kept() -> None:
    for kind in ("newton", "levenberg-marquardt"):
        check_size(kind, 3_190)
        with pytest.raises(UsageError) as caught:
            check_size(kind, 89_610)
        assert str(caught.value) == (
            f"optimizer {kind} keeps a P x P matrix: P is 89,610, at most 4,000; "
            "choose lbfgs or a network up to mlp:4"
        )
    check_size("cg", 3_190)
    with pytest.raises(UsageError, match=r"cg .* up to 4,000 parameters, here are 89,610; choose lbfgs"):
        check_size("cg", 89_610)
    for kind in ("lbfgs", "adadelta"):
        check_size(kind, 89_610)


def test_other_rules_are_refused() -> None:
    check_rule("newton", "bp")
    check_rule("adadelta", "fa")
    with pytest.raises(UsageError, match=r"optimizer cg needs the exact gradient.*rule 'fa'.*--rule bp"):
        check_rule("cg", "fa")


def test_faults_of_the_caller() -> None:
    with pytest.raises(ValueError, match="unknown second-order optimiser 'adam'; known: cg, lbfgs"):
        SecondOrder("adam")
    x = torch.ones(1, 2, requires_grad=True)
    with pytest.raises(ValueError, match="needs a `curvature`"):
        SecondOrder("levenberg-marquardt").update_([x], lambda: x.square().sum())
