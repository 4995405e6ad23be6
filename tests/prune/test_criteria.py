"""Scores against closed forms: what Taylor says, and what zeroing a map really costs."""

import pytest
import torch
from tests.prune.networks import Chain, Residual, fill
from torch.nn import functional as F

from tersa.data.task import Provenance, Split, Task
from tersa.errors import Diverged
from tersa.prune.criteria import CRITERIA, collect, taylor
from tersa.prune.groups import find_groups
from tersa.prune.normalise import NORMALISATIONS, l1, l2, none, normalise
from tersa.prune.protocol import choose, layer_widths

SHAPE = (3, 8, 8)


@pytest.fixture
def task() -> Task:
    images = torch.sin(torch.arange(20 * 192, dtype=torch.float32)).view(20, *SHAPE)
    split = Split(images, torch.arange(20) % 4)
    return Task("t", split, split, split, tuple("abcd"), (0.0,) * 3, (1.0,) * 3, Provenance("made", "", {}))


@pytest.mark.parametrize("criterion", CRITERIA.values())
def test_scores_are_one_per_image_and_channel_and_not_negative(criterion) -> None:
    z, dz = torch.randn(2, 5, 3, 7, generator=torch.Generator().manual_seed(0))
    scores = criterion(z, dz)
    assert scores.shape == (5, 3)
    assert (scores >= 0).all()


def test_taylor_closed_form() -> None:
    z = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    dz = torch.tensor([[[1.0, -1.0], [0.5, 0.5]]])
    torch.testing.assert_close(taylor(z, dz), torch.tensor([[0.5, 1.75]]))


def test_collect_equals_a_plain_loop(task: Task) -> None:
    """The last hidden layer of a chain, image by image, by autograd on its output alone."""
    model = fill(Chain())
    groups = find_groups(model, SHAPE)
    found = collect(model, groups, task, task.train, batch=7)
    expected = torch.zeros(7)
    for image, label in zip(task.train.images, task.train.labels, strict=True):
        hidden = torch.relu(model.bn(model.conv1(image[None])))
        z = model.fc1(F.max_pool2d(hidden, 2).flatten(1)).detach().requires_grad_()
        cost = F.cross_entropy(model.fc2(torch.relu(z)), label[None])
        expected += (torch.autograd.grad(cost, z)[0] * z).abs()[0].detach() / 20
    torch.testing.assert_close(found[-7:].float(), expected, rtol=1e-5, atol=1e-7)


def test_taylor_is_the_slope_of_scaling_a_map(task: Task) -> None:
    """mean(dC/dz z) is the derivative of the cost when the map is scaled, over its positions."""
    model = fill(Residual())
    groups = find_groups(model, SHAPE)
    one = Split(task.train.images[:1], task.train.labels[:1])
    found = collect(model, groups, task, one)[-5:]
    model.double()
    step = 1e-6
    for channel in range(5):

        def cost(scale: float, channel: int = channel) -> float:
            factor = torch.ones(5, dtype=torch.float64)
            factor[channel] = scale
            hook = model.inner.register_forward_hook(lambda _, __, out: out * factor[:, None, None])
            with torch.no_grad():
                value = F.cross_entropy(model(one.images.double()), one.labels)
            hook.remove()
            return float(value)

        slope = (cost(1 + step) - cost(1 - step)) / (2 * step)
        assert float(found[channel]) == pytest.approx(abs(slope) / 64, rel=1e-3, abs=1e-9)


def test_collect_leaves_the_model_alone(task: Task) -> None:
    model = fill(Chain()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    collect(model, find_groups(model, SHAPE), task, task.train)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_batch_size_does_not_matter(task: Task) -> None:
    model = fill(Residual())
    groups = find_groups(model, SHAPE)
    whole, parts = (collect(model, groups, task, task.train, batch=b) for b in (20, 3))
    torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-9)


def test_not_finite_is_said(task: Task) -> None:
    model = fill(Chain())
    with torch.no_grad():
        model.fc1.weight[0, 0] = float("nan")
    with pytest.raises(Diverged, match="NaN"):
        collect(model, find_groups(model, SHAPE), task, task.train)


def test_normalisations() -> None:
    scores = torch.tensor([3.0, 4.0])
    assert none(scores).tolist() == [3.0, 4.0]
    torch.testing.assert_close(l1(scores), torch.tensor([3 / 7, 4 / 7]))
    torch.testing.assert_close(l2(scores), torch.tensor([0.6, 0.8]))
    assert all(torch.equal(how(torch.zeros(3)), torch.zeros(3)) for how in NORMALISATIONS.values())


def test_normalisation_is_within_groups() -> None:
    groups = find_groups(fill(Residual()), SHAPE)
    scores = torch.arange(1.0, 12.0)
    found = normalise(scores, groups, l2)
    torch.testing.assert_close(found[:6].norm(), torch.tensor(1.0))
    torch.testing.assert_close(found[6:].norm(), torch.tensor(1.0))
    assert scores.tolist() == list(range(1, 12))


def test_choose_takes_the_least_and_leaves_one_of_each_group() -> None:
    groups = find_groups(fill(Residual()), SHAPE)  # 6 + 5 units
    scores = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 7.0, 8.0, 9.0, 10.0, 11.0])
    chosen = choose(scores, groups, count=7)
    assert chosen.tolist() == sorted(groups.units[[0, 1, 2, 3, 4, 6, 7]].tolist())
    assert len(choose(scores, groups, count=99)) == 9
    assert len(choose(scores, groups, count=99, least=4)) == 3
    assert layer_widths(fill(Residual()), groups) == {"stem": 6, "outer": 6, "inner": 5}
