"""What a run minimises: cross-entropy with smoothed labels, alone or with a teacher's answers.

Axes: N batch, K classes. z are the student's logits, v the teacher's, p = softmax(z), q = softmax(v),
H(p, t) = -sum_k t_k log p_k, all averaged over the batch. With s the label smoothing, the target is
y = (1 - s) one_hot(label) + s / K.

    cross-entropy   L = H(p, y)                          dL/dz = (p - y) / N
    document        L = H(p, y) + lambda H(p, q)         dL/dz = ((p - y) + lambda (p - q)) / N
    temperature     L = (1 - w) H(p, y) + w T^2 KL(q^T || p^T)
                    dL/dz = ((1 - w)(p - y) + w T (p^T - q^T)) / N

where p^T = softmax(z / T) and q^T = softmax(v / T). Nothing here holds state or knows of networks.

A low-bit student of a trained teacher in floating point is what Apprentice calls scheme B; begun from
trained weights in floating point (`--checkpoint`) it is scheme C. Scheme A, which trains the teacher at the
same time, is not here.

References:
    Document 002, equation 2.1 (the document form).
    Hinton, Vinyals & Dean, Distilling the Knowledge in a Neural Network (2015), section 2.
    Mishra & Marr, Apprentice: Using Knowledge Distillation Techniques to Improve Low-Precision Network
    Accuracy (ICLR 2018).

Example:
    >>> import torch
    >>> cross_entropy(torch.zeros(1, 4), torch.tensor([2])).item() == torch.log(torch.tensor(4.0)).item()
    True
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from tersa.errors import UsageError
from tersa.train.config import TrainConfig

Objective = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(logits (N, K), labels (N,), teacher's logits (N, K) or None) -> scalar loss."""


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """H(p, y), mean over the batch.

    Args:
        logits: (N, K) float.
        labels: (N,) int64.
        smoothing: s in 0..1.
    """
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


def soft_cross_entropy(logits: Tensor, teacher: Tensor) -> Tensor:
    """H(p, q), mean over the batch; no gradient goes to the teacher.

    Args:
        logits: (N, K) of the student.
        teacher: (N, K) logits of the teacher.
    """
    targets = torch.softmax(teacher.detach(), dim=1)
    return -(targets * torch.log_softmax(logits, dim=1)).sum(dim=1).mean()


def document_distillation(
    logits: Tensor, labels: Tensor, teacher: Tensor, weight: float, smoothing: float = 0.0
) -> Tensor:
    """H(p, y) + lambda H(p, q): document 002, equation 2.1.

    Args:
        logits: (N, K) of the student.
        labels: (N,) int64.
        teacher: (N, K) logits of the teacher.
        weight: lambda, 0 or more.
        smoothing: of the labels, 0..1.
    """
    return cross_entropy(logits, labels, smoothing) + weight * soft_cross_entropy(logits, teacher)


def temperature_distillation(
    logits: Tensor, labels: Tensor, teacher: Tensor, weight: float, temperature: float, smoothing: float = 0.0
) -> Tensor:
    """(1 - w) H(p, y) + w T^2 KL(q^T || p^T).

    Args:
        logits: (N, K) of the student.
        labels: (N,) int64.
        teacher: (N, K) logits of the teacher.
        weight: w in 0..1.
        temperature: T above 0.
        smoothing: of the labels, 0..1.
    """
    soft = F.kl_div(
        torch.log_softmax(logits / temperature, dim=1),
        torch.log_softmax(teacher.detach() / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return (1.0 - weight) * cross_entropy(logits, labels, smoothing) + weight * temperature**2 * soft


def objective(config: TrainConfig) -> Objective:
    """The loss that a config asks for, as one function of logits, labels and the teacher's logits.

    Raises:
        UsageError: when it is called without teacher's logits and the config distils.
    """
    smoothing, weight, heat = (
        config.label_smoothing,
        config.distillation_weight,
        config.distillation_temperature,
    )

    def loss(logits: Tensor, labels: Tensor, teacher: Tensor | None) -> Tensor:
        if config.distillation == "none":
            return cross_entropy(logits, labels, smoothing)
        if teacher is None:
            raise UsageError(
                f"distillation={config.distillation} needs a teacher; give one or distillation=none"
            )
        if config.distillation == "document":
            return document_distillation(logits, labels, teacher, weight, smoothing)
        return temperature_distillation(logits, labels, teacher, weight, heat, smoothing)

    return loss
