"""One update: its functional half under torch.func, clipping, chunks, L-BFGS with dropout."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from tersa.data.task import Provenance, Split, Task
from tersa.quant.layers import QuantConv2d
from tersa.train import step
from tersa.train.config import Precision, TrainConfig
from tersa.train.device import torch_threads
from tersa.train.loop import train
from tersa.train.losses import objective
from tersa.train.optimisers import build
from tersa.train.step import Batch, gradients_, loss_of, unit_strides, update_

N, SIDE, CLASSES = 12, 6, 3
MAPPED = 1e-6
"""A batched product sums in another order than a single one; float32."""

CROSS_ENTROPY = objective(TrainConfig())


def batch() -> Batch:
    images = torch.cos(torch.arange(N * SIDE * SIDE) * 0.37).reshape(N, 1, SIDE, SIDE)
    return Batch(images, torch.arange(N) % CLASSES)


def test_loss_of_maps_over_a_stack_of_runs(linear: Callable[[], nn.Module]) -> None:
    module = linear()
    one = {name: p.detach() for name, p in module.named_parameters()}
    stack = {name: torch.stack([p, 0.5 * p, p.flip(0)]) for name, p in one.items()}  # (R, ...)

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return loss_of(lambda x: functional_call(module, parameters, (x,)), CROSS_ENTROPY, batch())[0]

    mapped = vmap(grad(loss))(stack)
    for run in range(3):
        alone = grad(loss)({name: p[run] for name, p in stack.items()})
        for name, gradient in alone.items():
            torch.testing.assert_close(mapped[name][run], gradient, rtol=0, atol=MAPPED)


def test_the_gradients_of_a_module_are_those_of_its_function(linear: Callable[[], nn.Module]) -> None:
    module = linear()
    gradients_(build(TrainConfig(optimizer="sgd"), module), module, CROSS_ENTROPY, batch())
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    wanted = grad(lambda p: loss_of(lambda x: functional_call(module, p, (x,)), CROSS_ENTROPY, batch())[0])(
        parameters
    )
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter.grad, wanted[name])


def test_outcome_is_that_of_the_weights_before_the_update(linear: Callable[[], nn.Module]) -> None:
    module = linear()
    before, logits = loss_of(module, CROSS_ENTROPY, batch())
    updater = build(TrainConfig(optimizer="sgd"), module)
    outcome = update_(updater, module, CROSS_ENTROPY, batch())
    assert torch.equal(outcome.loss, before.detach())
    assert int(outcome.correct) == int((logits.argmax(1) == batch().labels).sum())
    assert loss_of(module, CROSS_ENTROPY, batch())[0] < before


@pytest.mark.parametrize("limit", [0.01, 0.1, 1e6])
def test_clipping_bounds_the_length_of_an_sgd_update(linear: Callable[[], nn.Module], limit: float) -> None:
    module, free = linear(), linear()
    start = [p.detach().clone() for p in module.parameters()]
    for net, clip in ((module, limit), (free, 0.0)):
        updater = build(TrainConfig(optimizer="sgd", learning_rate=1.0), net)
        update_(updater, net, CROSS_ENTROPY, batch(), clip_norm=clip)
    moved = torch.cat([(a - b).flatten() for a, b in zip(module.parameters(), start, strict=True)])
    whole = torch.cat([(a - b).flatten() for a, b in zip(free.parameters(), start, strict=True)])
    assert moved.norm().item() == pytest.approx(min(limit, whole.norm().item()), rel=1e-3)
    torch.testing.assert_close(moved / moved.norm(), whole / whole.norm(), rtol=0, atol=1e-4)


def test_chunks_give_the_gradient_of_the_whole(
    linear: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Tensor] = []
    for size in (N, 5):  # 5 + 5 + 2: unequal shares
        monkeypatch.setattr(step, "CHUNK", size)
        module = linear()
        teacher = torch.sin(torch.arange(N * CLASSES) * 1.0).reshape(N, CLASSES)
        taught = Batch(batch().inputs, batch().labels, teacher)
        loss = objective(TrainConfig(distillation="document"))
        outcome = gradients_(build(TrainConfig(optimizer="sgd"), module), module, loss, taught)
        gradient = torch.cat([p.grad.flatten() for p in module.parameters()])
        found.append(torch.cat([gradient, outcome.loss.view(1), outcome.correct.view(1).float()]))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=MAPPED)


def test_lbfgs_searches_under_one_dropout_mask() -> None:
    torch.manual_seed(5)  # the test's own global state: dropout has no generator of its own
    module = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(SIDE * SIDE, CLASSES))
    seen: list[Tensor] = []
    module[2].register_forward_pre_hook(lambda _, given: seen.append(given[0] == 0))
    updater = build(TrainConfig(optimizer="lbfgs"), module)
    update_(updater, module, CROSS_ENTROPY, batch())
    assert len(seen) > 2
    assert all(torch.equal(mask, seen[0]) for mask in seen)
    assert 0 < seen[0].float().mean() < 1
    first = seen[0]
    seen.clear()
    update_(updater, module, CROSS_ENTROPY, batch())
    assert not torch.equal(seen[0], first)


def test_autocast_computes_in_bf16_and_gives_float32_logits(linear: Callable[[], nn.Module]) -> None:
    module = linear()
    kinds: list[torch.dtype] = []
    module[1].register_forward_hook(lambda _, __, out: kinds.append(out.dtype))
    with step.autocast("cpu", "bf16"):
        logits = module(batch().inputs)
    with step.autocast("cpu", "fp32"):
        module(batch().inputs)
    assert kinds == [torch.bfloat16, torch.float32]
    assert loss_of(lambda _: logits, CROSS_ENTROPY, batch())[1].dtype == torch.float32


def strided() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = nn.Conv2d(9, 6, 1, stride=(2, 3)), nn.Conv2d(6, 4, 3, stride=2)
        return nn.Sequential(*plain, QuantConv2d(4, 5, 1, stride=2))


@pytest.mark.parametrize(
    ("device", "precision", "inside"),
    [("cpu", "bf16", (1, 1)), ("cpu", "fp32", (2, 3)), ("cuda", "bf16", (2, 3))],
)
def test_strided_1x1_convolutions_read_their_places_in_bf16_on_a_cpu(
    device: str, precision: Precision, inside: tuple[int, int]
) -> None:
    """oneDNN's backward pass of them writes past its memory; the result is the same without a stride."""
    net, images = strided(), torch.randn(3, 9, 13, 17, generator=torch.Generator().manual_seed(0))
    wanted = net(images)
    with suppress(ZeroDivisionError), unit_strides(net, device, precision):
        assert net[0].stride == inside
        assert net[1].stride == (2, 2)
        assert net[2].stride == ((1, 1) if inside == (1, 1) else (2, 2))
        torch.testing.assert_close(net(images), wanted)
        raise ZeroDivisionError
    assert [part.stride for part in net] == [(2, 3), (2, 2), (2, 2)]
    assert torch.equal(net(images), wanted)


def test_an_odd_batch_of_few_channels_trains_in_bf16_on_two_threads() -> None:
    """What corrupted memory: 15 channels to a 1x1 convolution with a stride, 127 images."""
    images = torch.arange(127 * 3 * 64).remainder(256).view(127, 3, 8, 8).to(torch.uint8)
    split = Split(images, torch.arange(127) % 2)
    task = Task("t", split, split, split, ("a", "b"), (0.5,) * 3, (0.3,) * 3, Provenance("made", "", {}))
    net = nn.Sequential(nn.Conv2d(3, 15, 1), nn.Conv2d(15, 28, 1, stride=2), nn.Flatten(), nn.Linear(448, 2))
    seen: list[tuple[int, ...]] = []
    net[1].register_forward_hook(lambda part, x, y: seen.append((*part.stride, *y.shape[2:])))
    config = TrainConfig(epochs=2, batch=127, precision="bf16", channels_last=True)
    with torch_threads(2):
        assert train(net, task, config).status == "done"
    assert (1, 1, 4, 4) in seen
    assert net[1].stride == (2, 2)
