"""How much work a pruning curve is, before and while it is walked.

Counted in multiply-accumulates, step by step, with the layers of the scope shrinking in proportion:

    step = retrain x (3 x batch x macs + ADAM x parameters)        learning; of one layer alone: a forward
                                                                   pass, its own gradients, and one backward
                                                                   pass of the layers behind it
         + 3 x 1,000 x macs for Taylor, 1 x for activation         scores, at every step or once
         + (validation images + test images / test_every) x macs  reading the accuracy

the last two in float32, which takes `FLOAT32` times as long where learning is in bfloat16,
and each in units of one iteration of training of the whole network, so that one timed iteration turns it
into seconds. An estimate: which layer loses its channels first is not known before.

Example:
    >>> size = Size({"conv1": 32, "conv2": 64, "fc1": 1024}, (627_200, 10_035_200, 3_211_264, 10_240),
    ...             (832, 51_264, 3_212_288, 10_250), 5_000, 10_000)
    >>> whole = work(Curve(criterion="taylor", retrain=100), size, test_every=5)
    >>> one = work(Curve(criterion="taylor", scope="conv1", retrain=100), size, test_every=5)
    >>> len(whole), len(one), sum(whole) < 60 * 130, sum(one) < 32 * 130
    (51, 31, True, True)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import nn

from tersa.data.task import Task
from tersa.models.summary import summary
from tersa.prune.protocol import stride
from tersa.recipes.pruning_curves import CRITERION_SAMPLES, LAYERS, Curve, document_training
from tersa.recipes.setting import Say
from tersa.train.config import Precision
from tersa.train.estimate import in_words

ADAM = 140
"""Multiply-accumulates that take as long as one parameter's share of an update of Adam (28 bytes moved)."""
FLOAT32 = 1.8
"""Time of a multiply-accumulate in float32 by one in bfloat16, all that is around them included."""
SCORED = {"taylor": 3, "activation": 1}
"""Passes over the scored images; a backward pass counts two. Other criteria read no images."""


@dataclass(frozen=True)
class Size:
    """What the work of a curve depends on.

    Attributes:
        widths: channels of the prunable layers, in order of the forward pass.
        macs: of each layer for one image, those of the prunable layers first.
        parameters: likewise.
        validation: images.
        test: images.
    """

    widths: dict[str, int]
    macs: tuple[int, ...]
    parameters: tuple[int, ...]
    validation: int
    test: int


def size_of(model: nn.Module, task: Task) -> Size:
    """The size of a LeNet on a task."""
    rows = [row for row in summary(model, task.shape).rows if row.macs]
    state = model.state_dict()
    widths = {name: len(state[f"{name}.weight"]) for name in LAYERS}
    return Size(
        widths,
        tuple(row.macs for row in rows),
        tuple(row.parameters for row in rows),
        len(task.validation),
        len(task.test),
    )


def work(curve: Curve, size: Size, test_every: int, precision: Precision = "fp32") -> list[float]:
    """Work of each step, in iterations of training of the whole network."""
    slower = FLOAT32 if precision == "bf16" else 1.0
    batch = document_training(0).batch
    one = 3 * batch * sum(size.macs) + ADAM * sum(size.parameters)
    found: list[float] = []
    for place, share in enumerate(_shares(curve, size)):
        each, values = _left(curve, size.macs, share), _left(curve, size.parameters, share)
        macs = sum(each)
        if curve.retrain_scope == "all":
            learning = curve.retrain * (3 * batch * macs + ADAM * sum(values))
        else:
            own = LAYERS.index(curve.scope)
            learning = curve.retrain * (batch * (macs + sum(each[own:])) + ADAM * values[own])
        scores = SCORED.get(curve.criterion, 0) * CRITERION_SAMPLES * macs
        scores *= curve.recompute == "every" or place == 0
        reading = (size.validation + size.test / test_every) * macs
        found.append((learning + slower * (scores + reading)) / one)
    return found


def spent(parts: Sequence[float], share: float) -> float:
    """Work that is done when this share of the channels is gone.

    >>> spent([4.0, 2.0, 2.0], 0.5)
    5.0
    """
    sums = [0.0, *accumulate(parts)]
    place = min(max(share, 0.0), 1.0) * len(parts)
    whole = min(int(place), len(parts) - 1) if parts else 0
    return sums[whole] + (place - whole) * (parts[whole] if parts else 0.0)


class Clock:
    """Share of the work that is done, in iterations of the whole network, and the time that is left.

    What a curve had done when it was first heard of, such as before a killed call, says nothing of the pace.

    Args:
        parts: work of each step of each curve.
        say: shows it.
        title: of the work.
    """

    def __init__(self, parts: Sequence[Sequence[float]], say: Say, title: str) -> None:
        self.parts, self.say, self.title = parts, say, title
        self.done = [0.0] * len(parts)
        self.before: dict[int, float] = {}
        self.ended = self.failed = 0
        self.total = sum(map(sum, parts))
        self.began = time.monotonic()

    def hear(self, number: int, share: float) -> None:
        """A curve has lost this share of its channels."""
        self.done[number] = spent(self.parts[number], share)
        self.before.setdefault(number, self.done[number])
        self.show()

    def end(self, number: int, *, failed: bool) -> None:
        """A curve has ended."""
        self.done[number] = sum(self.parts[number])
        self.ended += 1
        self.failed += failed
        self.show()

    def show(self) -> None:
        """Tell how far the work is."""
        done = sum(self.done)
        share = 1.0 if self.ended == len(self.parts) else done / self.total
        earned = done - sum(self.before.values())
        words = [f"{self.ended} of {len(self.parts)} curves"]
        words += [f"{self.failed} failed"] if self.failed else []
        if share < 1 and earned > 0:
            passed = time.monotonic() - self.began
            words.append(f"{in_words(passed / earned * (self.total - done))} left")
        self.say(self.title, share, ", ".join(words))


def _shares(curve: Curve, size: Size) -> list[float]:
    """Of the scope's channels, those left after each step."""
    scope = list(size.widths) if curve.scope == "network" else [curve.scope]
    start, least = sum(size.widths[name] for name in scope), len(scope)
    left, found = start, list[float]()
    pace = stride(curve.step)
    while left > least:
        left = max(least, left - pace.count(start, left))
        found.append(left / start)
    return found


def _left(curve: Curve, layers: Sequence[int], share: float) -> list[float]:
    """What is left of each layer: it shrinks with its own channels and with those it reads."""
    found, before = list[float](), 1.0
    for name, value in zip([*LAYERS, ""], layers, strict=True):
        own = share if name and curve.scope in ("network", name) else 1.0
        found.append(value * before * own)
        before = own
    return found
