"""Devices by name, and streams of random numbers."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch

from tersa.errors import UsageError
from tersa.train.device import choose, modes_kept, reproducible, sent, streams


def test_auto_is_the_gpu_when_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose("auto") == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose("auto") == "cpu"


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose("cuda:0") == "cuda:0"
    with pytest.raises(UsageError, match=r"'cuda:1' is not there: .* sees 1 GPUs; use cpu or auto"):
        choose("cuda:1")


@pytest.mark.parametrize("name", ["", "gpu", "cuda:x", "CPU", "cpu:0"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="unknown device"):
        choose(name)


def test_streams_differ_from_each_other_and_between_seeds() -> None:
    drawn = [number for seed in range(50) for number in streams(seed)]
    assert len(set(drawn)) == 150
    assert all(0 <= number < 2**63 for number in drawn)
    assert streams(3) == streams(3)


def test_reproducible_restores_the_global_state_even_after_an_error() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    drawn: list[float] = []
    for _ in range(2):
        with suppress(KeyError), reproducible(5, "cpu"):
            drawn.append(torch.rand(1).item())
            raise KeyError
    assert drawn[0] == drawn[1]
    assert torch.equal(torch.get_rng_state(), before)


def test_modes_kept_takes_none() -> None:
    module = torch.nn.Dropout().train()
    with modes_kept(None, module):
        module.eval()
    assert module.training


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_reproducible_restores_the_gpu_state() -> None:
    before = torch.cuda.get_rng_state()
    with reproducible(5, "cuda"):
        torch.rand(1, device="cuda")
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_values_are_sent_as_they_are() -> None:
    values = torch.arange(3)
    assert sent(values, "cpu") is values


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_values_arrive_on_the_gpu() -> None:
    values = torch.arange(1000)
    assert torch.equal(sent(values, "cuda").cpu(), values)
