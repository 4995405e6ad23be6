"""Optimisers that use curvature: Newton and Levenberg-Marquardt, with conjugate gradient and L-BFGS beside.

The first two solve for the step d of all P parameters at once, with g the gradient of the loss:

    (C + lambda I) d = -g
    newton                C = the Hessian of the loss, P products with it by double backward
    levenberg-marquardt   C = J^T J, with J the Jacobian of rows whose squares the loss bends like

For the mean cross-entropy of N images with logits z_n and p_n = softmax(z_n) the rows of image n are

    r_n = sqrt(p_n / N) (z_n - p_n . z_n)   with p_n held fixed, so that
    J^T J = 1/N sum_n J_n^T (diag p_n - p_n p_n^T) J_n

is the generalised Gauss-Newton matrix: the Hessian without the bending of the network, never negative.
Differs from the textbook, which fits squared errors: the loss stays the cross-entropy, as for every other
optimiser here. For least squares the rows are the residuals (`residual_rows`), and it is the textbook's.

The damping lambda follows the ratio of the fall that came to the fall that (C, g) promised: a quarter of it
above 3/4, fourfold below 1/4; a step that climbs is taken back and tried again with ten times the damping.

All four work on one run (R = 1), on large batches, and on the exact gradient: rule bp alone. `newton` and
`levenberg-marquardt` hold a P x P matrix; P is at most 4,000 (`check_size`). The curvature may come from
fewer images than the gradient (Byrd et al.).

References:
    Marquardt, An algorithm for least-squares estimation of nonlinear parameters (1963).
    Schraudolph, Fast curvature matrix-vector products for second-order gradient descent (2002).
    Byrd, Chin, Neveitt & Nocedal, On the use of stochastic Hessian information (2011).

Example:
    >>> x = torch.tensor([[3.0, -2.0]], requires_grad=True)
    >>> optimiser = SecondOrder("newton", damping=0.0)
    >>> round(optimiser.update_([x], lambda: (x - 1).square().sum()), 6)
    0.0
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tersa.errors import UsageError
from tersa.rules.base import Batch, cross_entropy
from tersa.rules.conjugate import Evaluate, Place, conjugate_gradient, limited_bfgs
from tersa.rules.network import Network, Pair, Weights

KINDS = ("cg", "lbfgs", "newton", "levenberg-marquardt")
"""Names, as on the command line."""
MATRIX_KINDS = ("newton", "levenberg-marquardt")
MOST_PARAMETERS = 4_000
"""Largest P of a P x P matrix: 64 MB in float32, a second to factorise."""
CHUNK = 64
"""Products with the Hessian that are taken together."""
ATTEMPTS = 12
"""Dampings that one update tries before it stays where it is."""


@dataclass(frozen=True)
class Curvature:
    """What the curvature is taken from.

    Attributes:
        loss: of the images that are used, as a scalar of the leaves (for `newton`).
        images: n of them (for `levenberg-marquardt`).
        outputs: from leaves with one copy per image, (n, ...), to what the network says, (n, K).
        rows: from outputs to the rows r, (n, K), whose J^T J is the curvature.
    """

    loss: Callable[[], Tensor]
    images: int
    outputs: Callable[[list[Tensor]], Tensor]
    rows: Callable[[Tensor], Tensor]


def check_size(optimizer: str, parameters: int) -> None:
    """Refuse a network that is too large for an optimiser: P x P matrices, or full-batch line searches.

    Raises:
        UsageError: more than `MOST_PARAMETERS` for `newton`, `levenberg-marquardt` or `cg`.
    """
    if optimizer == "cg" and parameters > MOST_PARAMETERS:
        raise UsageError(
            f"optimizer cg searches along lines over large batches: it is offered up to {MOST_PARAMETERS:,} "
            f"parameters, here are {parameters:,}; choose lbfgs or a network up to mlp:4"
        )
    if optimizer in MATRIX_KINDS and parameters > MOST_PARAMETERS:
        raise UsageError(
            f"optimizer {optimizer} keeps a P x P matrix: P is {parameters:,}, at most {MOST_PARAMETERS:,}; "
            "choose lbfgs or a network up to mlp:4"
        )


def check_rule(optimizer: str, rule: str) -> None:
    """Refuse a rule whose direction is not the gradient of one loss.

    Raises:
        UsageError: a second-order optimiser with any rule but bp.
    """
    if optimizer in KINDS and rule != "bp":
        raise UsageError(
            f"optimizer {optimizer} needs the exact gradient of one loss, rule '{rule}' has none; "
            "choose --rule bp, or an optimizer such as adadelta"
        )


class SecondOrder:
    """A second-order optimiser of one run; between updates it keeps its damping alone.

    Args:
        kind: one of `KINDS`.
        damping: lambda at the start; 0 is the undamped method.
        iterations: of `cg` and `lbfgs` in one update.

    Raises:
        ValueError: another kind.
    """

    def __init__(self, kind: str, *, damping: float = 0.01, iterations: int = 20) -> None:
        if kind not in KINDS:
            raise ValueError(f"unknown second-order optimiser '{kind}'; known: {', '.join(KINDS)}")
        self.kind = kind
        self.damping = damping
        self.iterations = iterations

    def update_(
        self, leaves: Sequence[Tensor], closure: Callable[[], Tensor], curvature: Curvature | None = None
    ) -> float:
        """Move the leaves once, in place.

        Args:
            leaves: what moves, each of shape (1, ...) and requiring a gradient.
            closure: the loss as a scalar, from the leaves as they are when it is called.
            curvature: where C is taken from; `newton` does without, and takes the closure.

        Returns:
            The loss after the update, on the closure's images.

        Raises:
            ValueError: `levenberg-marquardt` without `curvature`.
        """
        evaluate = _evaluation(leaves, closure)
        start = flat(leaves)
        if self.kind == "cg":
            end = conjugate_gradient(evaluate, start, self.iterations)
        elif self.kind == "lbfgs":
            end = limited_bfgs(evaluate, start, self.iterations)
        else:
            matrix = self._matrix(leaves, closure, curvature)
            here = Place(start, *evaluate(start))
            end, self.damping = damped_step(evaluate, here, matrix, self.damping)
        assign_(leaves, end.point)
        return end.loss

    def _matrix(
        self, leaves: Sequence[Tensor], closure: Callable[[], Tensor], curvature: Curvature | None
    ) -> Tensor:
        if self.kind == "newton":
            return hessian(leaves, curvature.loss if curvature else closure)
        if curvature is None:
            raise ValueError("levenberg-marquardt needs a `curvature`: the outputs, image by image")
        return gauss_newton(leaves, curvature)


def damped_step(evaluate: Evaluate, here: Place, matrix: Tensor, damping: float) -> tuple[Place, float]:
    """The place after d = -(C + lambda I)^-1 g, and the damping for the next step.

        ratio = (f(x) - f(x + d)) / -(g d + d C d / 2)

    Args:
        evaluate: f and its gradient.
        here: x, f(x), g.
        matrix: C, (P, P), symmetric.
        damping: lambda, 0 or more; raised until C + lambda I has a Cholesky factor and f does not rise.

    Returns:
        `here` itself, and the damping as it was, where none tried keeps f from rising.
    """
    eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    asked, least = damping, 1e-6 * float(matrix.diagonal().abs().mean()) + 1e-12
    for _ in range(ATTEMPTS):
        factor, fault = torch.linalg.cholesky_ex(matrix + damping * eye)
        if not int(fault):
            step = -torch.cholesky_solve(here.gradient.unsqueeze(1), factor).squeeze(1)
            point = here.point + step
            there = Place(point, *evaluate(point), length=1.0)
            promised = -float(here.gradient @ step + step @ (matrix @ step) / 2)
            if there.loss <= here.loss:
                ratio = (here.loss - there.loss) / max(promised, 1e-30)
                return there, damping * (0.25 if ratio > 0.75 else 4.0 if ratio < 0.25 else 1.0)
        damping = max(10 * damping, least)
    return here, asked


def hessian(leaves: Sequence[Tensor], closure: Callable[[], Tensor]) -> Tensor:
    """Second derivatives of a scalar with respect to all leaves, (P, P), by P backward passes in chunks."""
    slopes = torch.autograd.grad(closure(), leaves, create_graph=True)
    slope = torch.cat([s.flatten() for s in slopes])  # (P,)
    basis = torch.eye(len(slope), dtype=slope.dtype, device=slope.device)
    rows = [_rows(slope, leaves, chunk) for chunk in basis.split(CHUNK)]
    matrix = torch.cat(rows)
    return (matrix + matrix.T) / 2


def _rows(slope: Tensor, leaves: Sequence[Tensor], chunk: Tensor) -> Tensor:
    found = torch.autograd.grad(
        slope, leaves, chunk, retain_graph=True, is_grads_batched=True, materialize_grads=True
    )
    return torch.cat([f.flatten(1) for f in found], 1)  # (chunk, P)


def gauss_newton(leaves: Sequence[Tensor], curvature: Curvature) -> Tensor:
    """J^T J of the rows of `curvature`, (P, P).

    The leaves are copied once per image: one backward pass per output gives the Jacobian of all images.
    """
    copies = [leaf.detach().expand(curvature.images, *leaf.shape[1:]).requires_grad_() for leaf in leaves]
    rows = curvature.rows(curvature.outputs(copies))  # (n, K)
    size = sum(leaf.numel() for leaf in leaves)
    matrix = torch.zeros(size, size, dtype=rows.dtype, device=rows.device)
    for column in rows.unbind(1):
        found = torch.autograd.grad(column.sum(), copies, retain_graph=True)
        jacobian = torch.cat([f.flatten(1) for f in found], 1)  # (n, P)
        matrix.addmm_(jacobian.T, jacobian)
    return matrix


def softmax_rows(logits: Tensor) -> Tensor:
    """Rows r = sqrt(p / N) (z - p z), with p held fixed, of the mean cross-entropy of (N, K) logits."""
    p = logits.detach().softmax(-1)
    return (p / len(logits)).sqrt() * (logits - (p * logits).sum(-1, keepdim=True))


def residual_rows(residuals: Tensor) -> Tensor:
    """The rows of half a sum of squares: the residuals themselves."""
    return residuals


def curvature_of(network: Network, weights: Weights, batch: Batch, images: int = 500) -> Curvature:
    """The curvature of the mean cross-entropy of a network on the first images of a batch.

    Args:
        network: what is trained.
        weights: its numbers (R = 1); the leaves are weight, bias, weight, bias, ... of them.
        batch: inputs (N, C, H, W), or (1, N, C, H, W) where the run has an order of its own.
        images: at most as many are used.
    """
    inputs, labels = batch.inputs.flatten(0, -4)[:images], batch.labels.flatten()[:images]

    def loss() -> Tensor:
        return cross_entropy(network.logits(weights, inputs), Batch(inputs, labels)).sum()

    def outputs(copies: list[Tensor]) -> Tensor:
        pairs = [Pair(weight, bias) for weight, bias in zip(copies[::2], copies[1::2], strict=True)]
        return network.logits(pairs, inputs.unsqueeze(1))[:, 0]  # every image is a run: (n, 1, K) -> (n, K)

    return Curvature(loss, len(inputs), outputs, softmax_rows)


def flat(leaves: Sequence[Tensor]) -> Tensor:
    """All leaves as one vector (P,), a copy."""
    return torch.cat([leaf.detach().flatten() for leaf in leaves])


def assign_(leaves: Sequence[Tensor], vector: Tensor) -> None:
    """Write a vector (P,) back into the leaves."""
    with torch.no_grad():
        for leaf, part in zip(leaves, vector.split([leaf.numel() for leaf in leaves]), strict=True):
            leaf.copy_(part.view_as(leaf))


def _evaluation(leaves: Sequence[Tensor], closure: Callable[[], Tensor]) -> Evaluate:
    def evaluate(point: Tensor) -> tuple[float, Tensor]:
        assign_(leaves, point)
        loss = closure()
        found = torch.autograd.grad(loss, leaves)
        return float(loss.detach()), torch.cat([f.flatten() for f in found])

    return evaluate
