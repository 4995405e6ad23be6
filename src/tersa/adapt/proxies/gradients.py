"""Scores from gradients: grad_norm, taylor, synflow and the covariance of the input's Jacobian.

    grad_norm   sum over weights W of ||dL/dW||_2,  L the mean cross-entropy of a batch
    taylor      sum over weights of |w dL/dw|
    synflow     log sum over parameters of |t dR/dt|,  R = 1^T f_|.|(1): parameters by their size, input one
    jacob_cov   - sum_i [log(l_i + k) + 1 / (l_i + k)],  l the eigenvalues of the correlations between the
                images' gradients d(sum of logits)/dx, k = 1e-5

Batch norm uses its running statistics, so that a score does not depend on the other images (the papers'
scores are of untrained networks in training mode); in synflow it passes its input on, as in the papers' code.
The synflow of a deep network is astronomically large: its logarithm is given, which orders alike.

Example:
    >>> net = nn.Linear(2, 1, bias=False)
    >>> _ = net.weight.data.copy_(torch.tensor([[1.0, -3.0]]))
    >>> round(synflow(net, Probe(torch.zeros(1, 2), torch.zeros(1))), 6)  # log(|1| + |-3|)
    1.386294

References:
    Tanaka et al., Pruning Neural Networks without any Data by Iteratively Conserving Synaptic Flow (NeurIPS
    2020), equations 1-3 and 8; Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS (ICLR 2021), section
    3.2 (grad_norm, and synflow as a sum over a network); Mellor et al., first version (2020), section 3
    (jacob_cov); Molchanov et al. (CVPR 2019), equation 8, without the square (taylor).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from tersa.adapt.proxies.base import Probe, Proxy
from tersa.models.summary import evaluating
from tersa.prune.trace import BATCH_NORMS, LAYERS

SMALL = 1e-5
"""k of jacob_cov."""


def _weights(model: nn.Module) -> list[Tensor]:
    """Weights of convolutions and fully connected layers, tied ones once."""
    found = {id(m.weight): m.weight for m in model.modules() if isinstance(m, LAYERS)}
    return [weight for weight in found.values() if weight.requires_grad]


def unused_too(found: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
    """What `autograd.grad` gives with `allow_unused`; its type does not say that parts may be missing."""
    return found


def _gradients(model: nn.Module, probe: Probe) -> list[tuple[Tensor, Tensor]]:
    """Each weight with dL/dW."""
    weights = _weights(model)
    with evaluating(model), torch.enable_grad():
        loss = functional.cross_entropy(model(probe.images), probe.labels)
        found = unused_too(torch.autograd.grad(loss, weights, allow_unused=True))
    pairs = zip(weights, found, strict=True)
    return [(weight.detach(), gradient) for weight, gradient in pairs if gradient is not None]


def grad_norm(model: nn.Module, probe: Probe) -> float:
    """Sum of the Euclidean norms of the weights' gradients."""
    return float(sum(float(gradient.double().norm()) for _, gradient in _gradients(model, probe)))


def taylor(model: nn.Module, probe: Probe) -> float:
    """Sum over all weights of |w dL/dw|."""
    return float(sum(float((w.double() * g.double()).abs().sum()) for w, g in _gradients(model, probe)))


@contextmanager
def _norms_pass(model: nn.Module) -> Generator[None]:
    """Batch norms give their input for a block."""
    handles = [
        module.register_forward_hook(lambda _module, inputs, _output: inputs[0])
        for module in model.modules()
        if isinstance(module, BATCH_NORMS)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def synflow(model: nn.Module, probe: Probe) -> float:
    """Logarithm of the synaptic flow that is conserved, in float64."""
    sizes = {name: p.detach().double().abs().requires_grad_() for name, p in model.named_parameters()}
    others = {name: b.double() if b.is_floating_point() else b for name, b in model.named_buffers()}
    ones = torch.ones_like(probe.images[:1], dtype=torch.float64)
    with evaluating(model), torch.enable_grad(), _norms_pass(model):
        flow = torch.func.functional_call(model, {**sizes, **others}, (ones,)).sum()
        wanted = list(sizes.values())
        found = unused_too(torch.autograd.grad(flow, wanted, allow_unused=True))
    pairs = zip(sizes.values(), found, strict=True)
    total = sum(
        float((size.detach() * gradient).abs().sum()) for size, gradient in pairs if gradient is not None
    )
    return math.log(total) if total > 0 else -math.inf if not math.isnan(total) else math.nan


def jacob_cov(model: nn.Module, probe: Probe) -> float:
    """How little the images' Jacobians resemble one another."""
    images = probe.images.detach().clone().requires_grad_()
    with evaluating(model), torch.enable_grad():
        (found,) = torch.autograd.grad(model(images).sum(), images)
    rows = found.detach().flatten(1).double()
    rows = rows - rows.mean(dim=1, keepdim=True)
    rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-30)
    return spread(torch.linalg.eigvalsh(rows @ rows.T))


def spread(eigenvalues: Tensor) -> float:
    """-sum [log(l + k) + 1 / (l + k)]: greatest where all eigenvalues are 1.

    >>> spread(torch.ones(4)) > spread(torch.tensor([4.0, 0.0, 0.0, 0.0]))
    True
    """
    held = eigenvalues.clamp(min=0.0) + SMALL
    return float(-(held.log() + 1.0 / held).sum())


GRAD_NORM = Proxy("grad_norm", grad_norm, "sum of the norms of the weights' gradients")
TAYLOR = Proxy("taylor", taylor, "sum of |weight times gradient|")
SYNFLOW = Proxy("synflow", synflow, "log of the sum of |parameter times gradient of the flow|", images=False)
JACOB_COV = Proxy("jacob_cov", jacob_cov, "spread of the correlations between the images' Jacobians")
