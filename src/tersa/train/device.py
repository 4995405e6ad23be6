"""Where a run computes, and where its random numbers come from.

One seed gives three independent streams: the order of images, augmentation, and torch's global generator
(which dropout reads and nothing else may). The global one is set only inside `reproducible`, which puts it
back as it was.

Example:
    >>> choose("cpu")
    'cpu'
    >>> choose("gpu")
    Traceback (most recent call last):
    ...
    tersa.errors.UsageError: unknown device 'gpu'; did you mean 'cpu'? known: auto, cpu, cuda
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from tersa.errors import UsageError, unknown


def choose(device: str) -> str:
    """The device that a name stands for: `auto` is a GPU when there is one, else the CPU.

    Raises:
        UsageError: an unknown name, or a GPU that is not there.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return device
    kind, _, index = device.partition(":")
    if kind != "cuda" or (index and not index.isdigit()):
        raise unknown("device", device, ["auto", "cpu", "cuda"])
    seen = torch.cuda.device_count()
    if int(index or 0) >= seen:
        raise UsageError(
            f"device '{device}' is not there: torch {torch.__version__} sees {seen} GPUs; use cpu or auto"
        )
    return device


@contextmanager
def torch_threads(count: int) -> Generator[None]:
    """That many threads for torch's operators in a block, then as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def streams(seed: int) -> tuple[int, int, int]:
    """Seeds of the three streams: order of images, augmentation, dropout."""
    state = np.random.SeedSequence(seed).generate_state(3, np.uint64) >> np.uint64(1)
    return int(state[0]), int(state[1]), int(state[2])


@contextmanager
def reproducible(seed: int, device: str) -> Generator[None]:
    """Seed torch's global generators for a block, choose repeatable kernels, and put all back after it."""
    on_gpu = device.startswith("cuda")
    with torch.random.fork_rng(devices=[torch.device(device)] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if not on_gpu:
            yield
            return
        with (
            torch.cuda.device(torch.device(device)),
            torch.backends.cudnn.flags(enabled=True, deterministic=True),
        ):
            torch.cuda.manual_seed(seed)
            yield


def sent(values: Tensor, device: str) -> Tensor:
    """The values on a device, without waiting for what that device is still at.

    A plain copy from a CPU's ordinary memory holds Python until the GPU has run everything before it, and the
    GPU then idles while the next update is prepared. From pinned memory it is one more thing in its queue.
    """
    if device.startswith("cuda") and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def random_state(device: str) -> dict[str, Tensor]:
    """States of the global generators that a run on `device` reads."""
    state = {"cpu": torch.get_rng_state()}
    if device.startswith("cuda"):
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state_(state: dict[str, Tensor], device: str) -> None:
    """Put `random_state` back."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


@contextmanager
def modes_kept(*modules: nn.Module | None) -> Generator[None]:
    """Put every submodule back into the mode (train or eval) that it was in."""
    before = [(part, part.training) for module in modules if module is not None for part in module.modules()]
    try:
        yield
    finally:
        for part, training in before:
            part.training = training
