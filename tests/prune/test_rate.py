"""A bit has a price: codes cost what they say, and training finds the size that is asked."""

import pytest
import torch
from tests.prune.networks import Chain, fill
from torch import Tensor
from torch.nn import functional as F

from tersa.data.task import Provenance, Split, Task
from tersa.prune.clustering import Sharing, cluster
from tersa.prune.coding import entropy_bits
from tersa.prune.evidence import Sample
from tersa.prune.rate import FLOOR, LEAST, MOST, VALUE_BYTES, Rate, curvature, estimate
from tersa.quant.clusters import cheapest, code_lengths
from tersa.quant.rounding import to_table

VALUES = torch.sin(torch.arange(400.0)) * 2
BOOK = torch.linspace(-2, 2, 9)
IMAGES = torch.sin(0.3 * torch.arange(6 * 3 * 8 * 8, dtype=torch.float32)).view(6, 3, 8, 8)


def task() -> Task:
    split = Split(IMAGES, torch.arange(6) % 4)
    return Task("t", split, split, split, tuple("abcd"), (0.0,) * 3, (1.0,) * 3, Provenance("made", "", {}))


def test_a_free_bit_changes_nothing() -> None:
    lengths = code_lengths(torch.bincount(to_table(VALUES, BOOK), minlength=9).float())
    assert torch.equal(cheapest(VALUES, BOOK, lengths, 0.0), to_table(VALUES, BOOK))


@pytest.mark.parametrize("shape", [(400,), (20, 20), (0, 3)])
def test_codes_are_the_cheapest_of_all(shape: tuple[int, ...]) -> None:
    x = VALUES[: torch.Size(shape).numel()].view(shape)
    weigh = torch.cos(torch.arange(float(x.numel()))).square().view(shape) + 0.1
    lengths = 1 + torch.arange(9.0).flip(0)
    codes = cheapest(x, BOOK, lengths, 0.03, weigh)
    assert codes.shape == x.shape
    for value, h, code in zip(x.flatten(), weigh.flatten(), codes.flatten(), strict=True):
        costs = [float(h * (value - BOOK[k]) ** 2 + 0.03 * lengths[k]) for k in range(9)]
        assert costs[int(code)] == pytest.approx(min(costs), rel=1e-5)


def test_large_tensors_go_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = cheapest(VALUES, BOOK, torch.arange(9.0), 0.1)
    monkeypatch.setattr("tersa.quant.clusters.COSTS_AT_ONCE", 70)
    assert torch.equal(cheapest(VALUES, BOOK, torch.arange(9.0), 0.1), whole)


def test_lengths_are_those_of_the_counts() -> None:
    counts = torch.tensor([0.0, 3.0, 12.0])
    expected = -((counts + 0.5) / 16.5).log2()
    torch.testing.assert_close(code_lengths(counts), expected)


def test_dearer_bits_give_fewer_of_them() -> None:
    """Alternating codes and lengths, as training does."""
    sizes: list[float] = []
    for trade in (0.0, 0.01, 0.05, 0.3):
        codes = to_table(VALUES, BOOK)
        for _ in range(10):
            codes = cheapest(VALUES, BOOK, code_lengths(torch.bincount(codes, minlength=9).float()), trade)
        sizes.append(entropy_bits(codes.numpy()))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 0.7 * sizes[0]


def test_the_estimate_is_entropy_and_values() -> None:
    codes = torch.tensor([0, 0, 0, 2, 2, 1])
    counts = torch.bincount(codes, minlength=5).float()
    assert estimate(counts) == pytest.approx(entropy_bits(codes.numpy()) / 8 + 3 * VALUE_BYTES)
    assert estimate(torch.zeros(3)) == 0


def test_the_trade_follows_the_size() -> None:
    free, steered = Rate(0.01), Rate(0.01, aim=100.0)
    assert free.next(0.01, 1e9) == 0.01
    assert steered.next(0.01, 110.0) > 0.01 > steered.next(0.01, 90.0)
    assert steered.next(0.01, 100.0) == 0.01
    assert steered.next(MOST, 1e9) == MOST
    assert steered.next(LEAST, 1.0) == LEAST


def test_curvature_is_the_mean_squared_gradient_of_an_image() -> None:
    model = fill(Chain())
    scales = {"conv1.weight": 0.5, "fc2.weight": 2.0}
    found = curvature(model, scales, Sample(task(), task().train, 4, None))
    by_hand: dict[str, Tensor] = {}
    for name, scale in scales.items():
        total = torch.zeros_like(model.get_parameter(name))
        for image, label in zip(IMAGES, torch.arange(6) % 4, strict=True):
            loss = F.cross_entropy(model(image[None]), label[None])
            total += torch.autograd.grad(loss, model.get_parameter(name))[0].square()
        by_hand[name] = total / 6 * scale**2
    mean = torch.cat([each.flatten() for each in by_hand.values()]).mean()
    for name, each in by_hand.items():
        torch.testing.assert_close(found[name], (each / mean + FLOOR) / (1 + FLOOR), rtol=1e-3, atol=1e-5)


def test_training_settles_at_the_aim() -> None:
    model = fill(Chain())
    start = cluster(model, 4, codebook="network")
    free = sum(entropy_bits(one.codes.numpy()) for one in start.weights.values()) / 8
    aim = 0.6 * free
    sharing = Sharing(model, start, reassign=True, rate=Rate(0.01, aim=aim)).train()
    with torch.no_grad():
        for _ in range(400):
            sharing(IMAGES)
    found = sharing.clustered()
    codes = torch.cat([one.codes.flatten() for one in found.weights.values()])
    size = entropy_bits(codes.numpy()) / 8 + VALUE_BYTES * len(found.books[0])
    assert size == pytest.approx(aim, rel=0.1)
    assert float(sharing.trade) > 0.01
