"""An update recorded as a CUDA graph and replayed, so that the GPU does not wait for Python.

An update of a small network is hundreds of kernels of a few microseconds each, and launching one takes
Python longer than the GPU takes to run it. A graph launches all of them at once. It reads the same memory in
every replay, so that the batch is copied into tensors that stay where they are, and the learning rate is a
tensor too:

    updates 1..3 of a batch size    run as written (kernels are chosen, the optimiser makes its state)
    update 4                        recorded, which runs nothing, then replayed
    from then on                    replayed

The kernels are those that would run anyway, in the same order on the same values; what differs is the rate,
which is rounded to float32.
Batches of one run have two sizes at most (`batches.parts`), so that there are two graphs at most.

What cannot be recorded runs as written: see `reason`. The same class with `graphs=False` goes through the
same tensors without recording, on any device; that is how the CPU tests it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from tersa.train.config import TrainConfig
from tersa.train.step import CHUNK, Outcome

OPTIMISERS = ("sgd", "momentum", "nesterov", "adam", "adamw")
"""Whose update is kernels alone, with the rate read from a tensor."""
AS_WRITTEN = 3
"""Updates of a batch size before it is recorded."""
FEWEST = 50
"""Updates of a run below which recording does not pay."""

Inputs = tuple[Tensor | None, ...]
"""What differs from one update to the next; None where there is nothing."""
Update = Callable[[Inputs], Outcome]


def reason(config: TrainConfig, device: str, updates: int, largest_batch: int, *, changes: bool) -> str:
    """Why a run's updates are not recorded, or nothing where they are.

    Args:
        config: of the run.
        device: where it computes.
        updates: of the run.
        largest_batch: images.
        changes: something outside of tensors changes from update to update (estimators that sharpen, masks
            that take turns, factors that follow the optimiser).
    """
    if not device.startswith("cuda"):
        return "no CUDA device"
    if config.optimizer not in OPTIMISERS:
        return f"optimizer {config.optimizer} decides on the CPU"
    if changes:
        return "the network changes from update to update"
    if updates < FEWEST:
        return f"{updates} updates, fewer than {FEWEST}"
    return f"batches of {largest_batch}, above {CHUNK}" if largest_batch > CHUNK else ""


def rates_in_tensors_(optimizer: Optimizer, device: str) -> None:
    """Put the optimiser's learning rates, and what else a graph has to find on the device, there."""
    for group in optimizer.param_groups:
        rate = group["lr"]
        group["lr"] = torch.as_tensor(rate, dtype=torch.float32).to(device)
        if "capturable" in group:
            group["capturable"] = device.startswith("cuda")


def state_in_numbers(optimizer: Optimizer) -> dict[str, Any]:
    """The optimiser's state without what `rates_in_tensors_` did: the same with graphs and without."""
    state = optimizer.state_dict()
    groups: list[dict[str, Any]] = []
    for group in state["param_groups"]:
        plain = {"capturable": False} if "capturable" in group else {}
        groups.append({**group, "lr": float(group["lr"]), **plain})
    return {**state, "param_groups": groups}


class Replayed:
    """Updates of one run, by batch size.

    Args:
        update: one update as written, of its inputs; it must touch nothing but tensors.
        graphs: record and replay; else every update runs as written.
    """

    def __init__(self, update: Update, *, graphs: bool = True) -> None:
        self._update, self._graphs = update, graphs
        self._held: dict[int, Inputs] = {}
        self._seen: dict[int, int] = {}
        self._recorded: dict[int, tuple[Any, Outcome]] = {}
        self._pool: object = None

    def __call__(self, inputs: Inputs, size: int) -> Outcome:
        """One update on a batch of `size` images; the outcome is overwritten by the next of its size.

        Args:
            inputs: of the update, on any device, alike for every batch of a size.
            size: images.
        """
        held = self._hold(inputs, size)
        if not self._graphs:
            return self._update(held)
        seen = self._seen[size] = self._seen.get(size, 0) + 1
        if seen <= AS_WRITTEN:
            return self._beside(held)
        if size not in self._recorded:
            self._recorded[size] = self._record(held)
        graph, outcome = self._recorded[size]
        graph.replay()
        return outcome

    def _hold(self, inputs: Inputs, size: int) -> Inputs:
        """The inputs in the tensors that updates of this size read."""
        if size not in self._held:
            self._held[size] = tuple(None if each is None else each.clone() for each in inputs)
            return self._held[size]
        for kept, new in zip(self._held[size], inputs, strict=True):
            if kept is not None and new is not None:
                kept.copy_(new, non_blocking=True)
        return self._held[size]

    def _beside(self, held: Inputs) -> Outcome:
        """One update as written, on a stream of its own, as recording asks of the updates before it."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            outcome = self._update(held)
        torch.cuda.current_stream().wait_stream(stream)
        return outcome

    def _record(self, held: Inputs) -> tuple[Any, Outcome]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=cast(Any, self._pool)):
            outcome = self._update(held)
        self._pool = graph.pool()
        return graph, outcome
