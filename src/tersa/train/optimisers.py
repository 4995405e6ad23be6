"""Optimisers by name, over a module's trainable parameters.

Weight decay acts on weights of two or more axes (convolutions, fully connected layers) and not on biases
nor on the scale and shift of normalisation layers, where it only slows the fit. `adam` adds the decay to
the gradient (L2), `adamw` takes it off the weight (decoupled); the others add it to the gradient.
L-BFGS evaluates the loss up to 20 times per update (strong Wolfe line search, history 10), over all
parameters as one vector.

Example:
    >>> from torch import nn
    >>> [len(group["params"]) for group in build(TrainConfig(weight_decay=0.1), nn.Linear(2, 3)).param_groups]
    [1, 1]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adadelta, Adagrad, Adam, AdamW, Optimizer

from tersa.errors import UsageError
from tersa.train.config import TrainConfig

Groups = list[dict[str, Any]]

LBFGS_EVALUATIONS = 20
LBFGS_HISTORY = 10


def parameter_groups(module: nn.Module, weight_decay: float) -> Groups:
    """Trainable parameters in two groups: those that decay (two or more axes), and the rest.

    Raises:
        UsageError: the module has no trainable parameter.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trainable:
        raise UsageError("the model has no trainable parameters; training it would change nothing")
    groups: Groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build(config: TrainConfig, module: nn.Module) -> Optimizer:
    """The config's optimiser over the module's trainable parameters, at the peak learning rate."""
    return FACTORIES[config.optimizer](parameter_groups(module, config.weight_decay), config)


def _sgd(groups: Groups, config: TrainConfig) -> Optimizer:
    return SGD(groups, lr=config.learning_rate, fused=True)


def _momentum(groups: Groups, config: TrainConfig) -> Optimizer:
    return SGD(groups, lr=config.learning_rate, momentum=config.momentum, fused=True)


def _nesterov(groups: Groups, config: TrainConfig) -> Optimizer:
    return SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=True, fused=True)


def _adagrad(groups: Groups, config: TrainConfig) -> Optimizer:
    return Adagrad(groups, lr=config.learning_rate)


def _adadelta(groups: Groups, config: TrainConfig) -> Optimizer:
    return Adadelta(groups, lr=config.learning_rate)


def _adam(groups: Groups, config: TrainConfig) -> Optimizer:
    return Adam(groups, lr=config.learning_rate, fused=True)


def _adamw(groups: Groups, config: TrainConfig) -> Optimizer:
    return AdamW(groups, lr=config.learning_rate, fused=True)


def _lbfgs(groups: Groups, config: TrainConfig) -> Optimizer:
    everything = [parameter for group in groups for parameter in group["params"]]
    return torch.optim.LBFGS(
        everything,
        lr=config.learning_rate,
        max_iter=LBFGS_EVALUATIONS,
        history_size=LBFGS_HISTORY,
        line_search_fn="strong_wolfe",
    )


FACTORIES: dict[str, Callable[[Groups, TrainConfig], Optimizer]] = {
    "sgd": _sgd,
    "momentum": _momentum,
    "nesterov": _nesterov,
    "adagrad": _adagrad,
    "adadelta": _adadelta,
    "adam": _adam,
    "adamw": _adamw,
    "lbfgs": _lbfgs,
}


def set_rate_(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
