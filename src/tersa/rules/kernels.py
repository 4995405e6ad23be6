"""Dependence between two views of a batch: normalised HSIC with Gaussian kernels.

    K_ij = exp(-|a_i - a_j|^2 / (2 sigma^2 d))            d: width of a
    S    = H K H,  H = I - 11^T / m                       centred on both sides, symmetric
    P_a  = S (S + eps m I)^-1                             eigenvalues s / (s + eps m), in [0, 1)
    nHSIC(a, b) = tr(P_a P_b)

This is the sum of squared canonical correlations between the two kernels' feature spaces. The paper and
document 000 centre on one side, Kc = K H and P' = Kc (Kc + eps m I)^-1; tr(P'_a P'_b) is the same number,
because P' = K H (S + eps m I)^-1 H and the trace is cyclic. The symmetric form has a Cholesky factor.

The gradient is closed. With M = H (S + eps m I)^-1 H and a constant symmetric B whose rows sum to zero,

    L = tr(P_a B) = tr(B) - eps m tr(M B),   dL/dK = eps m M B M = G
    dL/da_i = sum_j Q_ij (a_i - a_j),        Q = -2 G * K / (sigma^2 d), element by element

so several terms that share a, such as nHSIC(a, x) - 500 nHSIC(a, y), cost one inverse: B = P_x - 500 P_y.

Axes: R runs, m images of a batch, d width. Distances are taken in float64: weights of document 000's HSIC
reach 1,000, and |a|^2 + |b|^2 - 2ab in float32 then leaves a K that is not positive. The rest is float32
and handles K - 1, which is small while networks are young.

Not here: the learning rule (`tersa.rules.hsic`), other kernels.

References:
    Fukumizu, Gretton, Sun & Schoelkopf, Kernel measures of conditional dependence (2007).
    Ma, Lewis & Kleijn, The HSIC bottleneck: deep learning without back-propagation (2019), section 3.

Example:
    >>> a = torch.linspace(0, 1, 12).reshape(6, 2)
    >>> bool(torch.isclose(nhsic(projector(a), projector(3 - a)), nhsic(projector(a), projector(a))))
    True
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SIGMA = 5.0
"""Width of the Gaussian kernel in units of sqrt(d): the paper's and document 000's."""
EPSILON = 1e-5
"""Regulariser per image: the same sources."""


def standardised(x: Tensor, floor: float) -> Tensor:
    """(x - mean) / (deviation + floor) of each unit over the batch of its run.

    Args:
        x: (R, N, D).
        floor: keeps units that hardly ever change from being blown up.
    """
    deviation, mean = torch.std_mean(x, 1, correction=0, keepdim=True)
    return (x - mean) / (deviation + floor)


def gaussian_less_one(a: Tensor, sigma: float = SIGMA) -> Tensor:
    """K_ij - 1 = exp(-|a_i - a_j|^2 / (2 sigma^2 d)) - 1.

    Centring removes the constant anyway, and near images keep their digits: with sigma 5 and weights as a
    network starts, K is within 0.001 of 1 everywhere.

    Args:
        a: (..., m, d).
        sigma: width in units of sqrt(d).

    Returns:
        (..., m, m) of a's dtype, zeros on the diagonal.
    """
    exact = a.double()
    product = exact @ exact.mT
    square = torch.diagonal(product, dim1=-2, dim2=-1)  # (..., m)
    distance = (square.unsqueeze(-1) + square.unsqueeze(-2)).sub_(product, alpha=2)
    return distance.mul_(-0.5 / (sigma**2 * a.shape[-1])).clamp(max=0).to(a.dtype).expm1_()


def centred(kernel: Tensor) -> Tensor:
    """H K H of a symmetric kernel, by subtracting means, (..., m, m)."""
    mean = kernel.mean(-1)  # (..., m)
    return kernel - mean.unsqueeze(-1) - mean.unsqueeze(-2) + mean.mean(-1)[..., None, None]


def inverse(kernel: Tensor, epsilon: float = EPSILON) -> Tensor:
    """M = H (H K H + eps m I)^-1 H of K, or of K plus any constant, (..., m, m).

    The constant direction, which H removes, gets the eigenvalue 1: its own, eps m, would be the smallest and
    drown the rest in rounding. Kernels that are not finite give NaN, not an error: a run that diverged must
    not end its stack.
    """
    count = kernel.shape[-1]
    ridge = epsilon * count * torch.eye(count, dtype=kernel.dtype, device=kernel.device)
    factor, fault = torch.linalg.cholesky_ex(centred(kernel) + (ridge + 1 / count))
    m = centred(torch.cholesky_inverse(factor))
    return torch.where(fault[..., None, None] > 0, torch.nan, m)


def projector(a: Tensor, sigma: float = SIGMA, epsilon: float = EPSILON) -> Tensor:
    """P = S (S + eps m I)^-1 = H - eps m M, (..., m, m): symmetric, rows sum to zero.

    Args:
        a: (..., m, d).
        sigma: of its kernel.
        epsilon: regulariser per image.
    """
    m = inverse(gaussian_less_one(a, sigma), epsilon)
    count = m.shape[-1]
    return torch.eye(count, dtype=m.dtype, device=m.device) - 1 / count - epsilon * count * m


def nhsic(p: Tensor, q: Tensor) -> Tensor:
    """tr(P Q) of two projectors, (...): 0 for independence, below m - 1 always."""
    return (p * q).sum((-2, -1))


class _Dependence(torch.autograd.Function):
    """tr(P_a B) with the closed gradient above; K - 1 and M are outputs so that vmap can see them."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor, sigma: float, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
        less_one = gaussian_less_one(a, sigma)
        m = inverse(less_one, epsilon)  # (R, m, m)
        trace = torch.diagonal(b, dim1=-2, dim2=-1).sum(-1)
        return trace - epsilon * m.shape[-1] * nhsic(m, b), less_one, m

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Tensor, Tensor, float, float], output: tuple[Tensor, ...]
    ) -> None:
        a, b, ctx.sigma, ctx.epsilon = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(a, b, *output[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        a, b, less_one, m = ctx.saved_tensors
        near = a - a.mean(-2, keepdim=True)  # the formula needs differences only; small ones lose less
        scale = -2 * ctx.epsilon * m.shape[-1] / (ctx.sigma**2 * a.shape[-1])
        q = (m @ b @ m) * (less_one + 1) * (grads[0] * scale)[..., None, None]  # (R, m, m)
        return q.sum(-1, keepdim=True) * near - q @ near, None, None, None


def dependence(a: Tensor, b: Tensor, sigma: float = SIGMA, epsilon: float = EPSILON) -> Tensor:
    """tr(P_a B), differentiable in a alone: nHSIC(a, x) where B is the projector of x.

    Args:
        a: (R, m, d).
        b: (m, m) shared by all runs, or (R, m, m): a sum of projectors, each times a factor.
        sigma: of a's kernel.
        epsilon: regulariser per image.

    Returns:
        (R,).
    """
    found = _Dependence.apply(a, b, sigma, epsilon)
    assert isinstance(found, tuple)
    return found[0]
