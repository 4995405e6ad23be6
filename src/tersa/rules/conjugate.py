"""Descent that remembers where it went: nonlinear conjugate gradient and L-BFGS, with one line search.

Both minimise a function f of a vector from its values and gradients alone; with g_k the gradient at step k,

    conjugate gradient   d_k = -g_k + beta_k d_{k-1},   beta_k = max(0, g_k (g_k - g_{k-1}) / |g_{k-1}|^2)
    L-BFGS               d_k = -H_k g_k,   H_k from the last m pairs s = x_{k+1} - x_k, y = g_{k+1} - g_k

and x_{k+1} = x_k + t_k d_k, with t_k from `search`: a secant step on the slope (exact where f is quadratic),
halved until f falls by Armijo's share. Neither holds a matrix: any number of parameters will do.

On mini-batches every batch is a function of its own: start anew for each, with several iterations on a large
batch (Le et al.). Not here: Wolfe's curvature condition; L-BFGS skips a pair with s y <= 0 instead.

References:
    Polak & Ribiere, Note sur la convergence de methodes de directions conjuguees (1969).
    Nocedal & Wright, Numerical optimization (2006), algorithms 5.4 (with beta of eq. 5.45) and 7.4.
    Le, Ngiam, Coates, Lahiri, Prochnow & Ng, On optimization methods for deep learning (ICML 2011).

Example:
    >>> curvature = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    >>> bowl = lambda x: (float((curvature * x * x).sum()) / 2, curvature * x)
    >>> end = conjugate_gradient(bowl, torch.ones(3, dtype=torch.float64), iterations=3)
    >>> end.loss < 1e-20
    True
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Evaluate = Callable[[Tensor], tuple[float, Tensor]]
"""From a point (P,) to the value there and the gradient (P,)."""

ARMIJO = 1e-4
"""Share of the fall that the slope promises which a step has to deliver (Nocedal & Wright, section 3.1)."""
LONGEST = 100.0
"""A secant step is at most this many times, and at least one part in this many of, the probe before it."""
HALVINGS = 20
ROUGH = 0.9
"""Share of the slope that L-BFGS leaves after a step; its steps have a scale of their own (section 3.1)."""


@dataclass(frozen=True)
class Place:
    """Where a descent is.

    Attributes:
        point: (P,).
        loss: f there.
        gradient: of f there, (P,).
        length: t of the step that led here; 0 where no step did.
    """

    point: Tensor
    loss: float
    gradient: Tensor
    length: float = 0.0


def search(evaluate: Evaluate, start: Place, direction: Tensor, probe: float, flat: float = 0.0) -> Place:
    """The place after one step along a direction of descent.

        t_1 = probe,   t_2 = t_1 slope(0) / (slope(0) - slope(t_1)),   then t_2 / 2, / 4, ...

    until f(t) <= f(0) + 1e-4 t slope(0). Where the slope falls further on (no minimum in sight), t_2 = 2 t_1.
    A probe with |slope(t_1)| <= flat |slope(0)| that fulfils the condition is taken as it is.

    Args:
        evaluate: f and its gradient.
        start: where the step begins.
        direction: (P,), downhill.
        probe: the first length tried.
        flat: share of the slope that may be left (Wolfe's second condition); 0 always takes the secant step.

    Returns:
        The lowest place tried that fulfils the condition; `start` with length 0 where none does.
    """
    slope = float(start.gradient @ direction)
    first = _at(evaluate, start, direction, probe)
    ahead = float(first.gradient @ direction)
    if abs(ahead) <= -flat * slope and _falls(first, start, slope):
        return first
    bend = ahead - slope
    length = 2 * probe
    if bend > 0:
        length = min(max(-slope / bend * probe, probe / LONGEST), probe * LONGEST)
    tried = [first]
    for _ in range(HALVINGS):
        tried.append(_at(evaluate, start, direction, length))
        good = [place for place in tried if _falls(place, start, slope)]
        if good:
            return min(good, key=lambda place: place.loss)
        length = min(place.length for place in tried) / 2
    return Place(start.point, start.loss, start.gradient)


def _at(evaluate: Evaluate, start: Place, direction: Tensor, length: float) -> Place:
    point = start.point + length * direction
    return Place(point, *evaluate(point), length)


def _falls(place: Place, start: Place, slope: float) -> bool:
    """Armijo's condition."""
    return place.loss <= start.loss + ARMIJO * place.length * slope


def conjugate_gradient(evaluate: Evaluate, start: Tensor, iterations: int) -> Place:
    """Polak-Ribiere conjugate gradient, restarted downhill where beta would be negative.

    A quadratic function of n variables is at its minimum after n iterations.

    Args:
        evaluate: f and its gradient.
        start: (P,).
        iterations: at most; fewer where no step lowers f.
    """
    here = Place(start, *evaluate(start))
    direction, probe = -here.gradient, _first_probe(here)
    for _ in range(iterations):
        slope = float(here.gradient @ direction)
        if slope >= 0:  # not downhill: forget the past
            direction = -here.gradient
            slope = float(here.gradient @ direction)
        if slope == 0:
            break
        there = search(evaluate, here, direction, probe)
        if there.length == 0:
            break
        beta = float(there.gradient @ (there.gradient - here.gradient) / here.gradient.square().sum())
        direction = max(beta, 0.0) * direction - there.gradient
        # the next step is expected to change f as this one did (Nocedal & Wright, section 3.5)
        ahead = float(there.gradient @ direction)
        probe = there.length * min(slope / ahead, LONGEST) if ahead < 0 else there.length
        here = there
    return here


def limited_bfgs(evaluate: Evaluate, start: Tensor, iterations: int, memory: int = 10) -> Place:
    """L-BFGS.

    Args:
        evaluate: f and its gradient.
        start: (P,).
        iterations: at most; fewer where no step lowers f.
        memory: m, pairs that are kept.
    """
    here = Place(start, *evaluate(start))
    pairs: list[tuple[Tensor, Tensor]] = []
    for _ in range(iterations):
        direction = -inverse_product(pairs, here.gradient)
        there = search(evaluate, here, direction, 1.0 if pairs else _first_probe(here), ROUGH)
        if there.length == 0:
            break
        step, change = there.point - here.point, there.gradient - here.gradient
        if float(step @ change) > 0:
            pairs = [*pairs, (step, change)][-memory:]
        here = there
    return here


def inverse_product(pairs: list[tuple[Tensor, Tensor]], gradient: Tensor) -> Tensor:
    """H g, with H the L-BFGS estimate of the inverse Hessian: the two-loop recursion.

    Args:
        pairs: (s, y), oldest first, each with s y > 0; none gives the gradient back.
        gradient: (P,).
    """
    found, shares = gradient, list[Tensor]()
    for step, change in reversed(pairs):
        shares.append((step @ found) / (step @ change))
        found = found - shares[-1] * change
    if pairs:
        step, change = pairs[-1]
        found = found * ((step @ change) / (change @ change))
    for (step, change), share in zip(pairs, reversed(shares), strict=True):
        found = found + (share - (change @ found) / (step @ change)) * step
    return found


def _first_probe(here: Place) -> float:
    """A step of length 1, or less where the gradient is short."""
    return min(1.0, 1.0 / max(float(torch.linalg.vector_norm(here.gradient)), 1e-12))
