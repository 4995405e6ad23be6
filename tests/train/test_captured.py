"""Recorded updates: what can be recorded, and that going through held tensors changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tersa.data.task import Provenance, Split, Task
from tersa.models.load import load
from tersa.train import captured, loop
from tersa.train.captured import Replayed, rates_in_tensors_, reason, state_in_numbers
from tersa.train.config import TrainConfig
from tersa.train.loop import train
from tersa.train.optimisers import build, set_rate_

CONFIG = TrainConfig(optimizer="nesterov", batch=32, epochs=4, flip=True, pad=1, label_smoothing=0.1)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in model.state_dict().items()}


def assert_alike(a: nn.Module, b: nn.Module) -> None:
    """Equal but for the rate, which is float32 in a tensor and float64 as a number.

    A bias before a batch normalisation has no gradient but rounding, which Adam makes steps of: it is left
    out, and with it the running mean that follows it.
    """
    other = weights(b)
    for name, value in weights(a).items():
        if name in ("0.bias", "1.running_mean"):
            continue
        torch.testing.assert_close(value, other[name], rtol=1e-3, atol=3e-4)


@pytest.mark.parametrize(
    ("changed", "device", "updates", "changes", "words"),
    [
        ({}, "cuda", 400, False, ""),
        ({"optimizer": "adam"}, "cuda:1", 50, False, ""),
        ({}, "cpu", 400, False, "no CUDA device"),
        ({"optimizer": "lbfgs"}, "cuda", 400, False, "optimizer lbfgs decides on the CPU"),
        ({"optimizer": "adagrad"}, "cuda", 400, False, "optimizer adagrad decides"),
        ({}, "cuda", 400, True, "the network changes"),
        ({}, "cuda", 49, False, "49 updates, fewer than 50"),
    ],
)
def test_what_is_recorded(
    changed: dict[str, object], device: str, updates: int, changes: bool, words: str
) -> None:
    config = TrainConfig.model_validate({"batch": 32, **changed})
    found = reason(config, device, updates, 32, changes=changes)
    assert found.startswith(words)
    assert bool(found) == bool(words)


def test_batches_that_are_run_in_chunks_are_not_recorded() -> None:
    assert "batches of 5000" in reason(TrainConfig(), "cuda", 400, 5000, changes=False)


@pytest.mark.parametrize("optimizer", captured.OPTIMISERS)
def test_rates_in_tensors_give_the_same_weights(
    optimizer: str, task: Task, network: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, held = network(), network()
    config = CONFIG.model_copy(update={"optimizer": optimizer, "learning_rate": 0.01})
    train(plain, task, config)
    monkeypatch.setattr(loop, "reason", lambda *_, **__: "")
    monkeypatch.setattr(loop, "Replayed", lambda update: Replayed(update, graphs=False))
    train(held, task, config)
    assert_alike(plain, held)


def test_a_run_through_held_tensors_resumes_as_any_other(
    task: Task, network: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain, held = network(), network()
    config = CONFIG.model_copy(update={"optimizer": "adam", "learning_rate": 0.01})
    train(plain, task, config)
    monkeypatch.setattr(loop, "reason", lambda *_, **__: "")
    monkeypatch.setattr(loop, "Replayed", lambda update: Replayed(update, graphs=False))

    class Enough(Exception): ...

    def stop(row: object) -> None:
        if len(rows) == 2:
            raise Enough
        rows.append(row)

    rows: list[object] = []
    with pytest.raises(Enough):
        train(held, task, config, checkpoint=tmp_path / "c", on_epoch=stop)
    monkeypatch.undo()
    again = network()
    train(again, task, config, checkpoint=tmp_path / "c", resume=True)
    assert_alike(plain, again)


def test_a_state_says_nothing_of_tensors() -> None:
    optimizer = build(TrainConfig(optimizer="adam"), nn.Linear(2, 3))
    before = optimizer.state_dict()["param_groups"]
    rates_in_tensors_(optimizer, "cpu")
    rate = optimizer.param_groups[0]["lr"]
    set_rate_(optimizer, 0.25)
    assert isinstance(rate, Tensor)
    assert optimizer.param_groups[0]["lr"] is rate
    assert float(rate) == 0.25
    set_rate_(optimizer, 0.001)
    found = state_in_numbers(optimizer)["param_groups"]
    assert [type(group["lr"]) for group in found] == [float, float]
    assert [{**group, "lr": round(group["lr"], 6)} for group in found] == before


def test_inputs_stay_where_they_are() -> None:
    seen: list[Tensor] = []

    def update(inputs: captured.Inputs) -> loop.Outcome:
        index, nothing = inputs
        assert index is not None
        assert nothing is None
        seen.append(index)
        return loop.Outcome(index.sum(), index.max())

    replayed = Replayed(update, graphs=False)
    losses = [int(replayed((torch.arange(k, k + n), None), n).loss) for k, n in ((0, 3), (5, 3), (1, 2))]
    assert losses == [3, 18, 3]
    assert seen[0] is seen[1]
    assert len(seen[2]) == 2


class Kernels(TorchDispatchMode):
    """Names of what is computed inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.add(str(func).split(".")[1])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "spec", ["resnet:20", "vgg:11", "bvgg16+w1a1:pool=sums", "cnv+w2a2", "cnv+w1a1:by=approx"]
)
def test_an_update_makes_no_tensor_of_numbers_and_reads_none_back(
    spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph can hold neither: the one is a copy to the GPU, the other waits for it."""
    split = Split(
        torch.arange(12 * 3072).remainder(256).view(12, 3, 32, 32).to(torch.uint8), torch.arange(12) % 3
    )
    task = Task("t", split, split, split, ("a", "b", "c"), (0.5,) * 3, (0.2,) * 3, Provenance("made", "", {}))
    kernels, update = Kernels(), loop._on_tensors_

    def watched(run: Any, chosen: captured.Inputs) -> loop.Outcome:
        with kernels:
            return update(run, chosen)

    monkeypatch.setattr(loop, "_on_tensors_", watched)
    network = load(spec, task.shape, 3).module
    config = TrainConfig(
        optimizer="nesterov", batch=6, epochs=1, flip=True, pad=2, precision="bf16", clip_norm=1.0
    )
    train(network, task, config)
    assert {"convolution", "gather"} <= kernels.names
    assert not kernels.names & {"lift_fresh", "_local_scalar_dense", "nonzero", "equal", "is_nonzero"}


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", captured.OPTIMISERS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_graphs_give_the_weights_of_updates_as_written(
    optimizer: str,
    precision: str,
    task: Task,
    network: Callable[[], nn.Module],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = CONFIG.model_copy(
        update={"optimizer": optimizer, "learning_rate": 0.01, "epochs": 15, "precision": precision}
    )
    recorded, written = network(), network()
    train(recorded, task, config, device="cuda")
    monkeypatch.setattr(loop, "reason", lambda *_, **__: "not now")
    train(written, task, config, device="cuda")
    assert_alike(recorded, written)
