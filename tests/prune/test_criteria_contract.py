"""What every criterion keeps to, on networks with every kind of coupling."""

from dataclasses import replace

import pytest
import torch
from tests.prune import odd_networks as odd
from tests.prune.networks import Chain, Dense, Depthwise, Grouped, Residual, fill
from torch import Tensor, nn

from tersa.data.task import Provenance, Split, Task
from tersa.errors import UsageError
from tersa.prune.criteria import CRITERIA, WEIGHT_CRITERIA, collect, weight_scores
from tersa.prune.evidence import FROM_IMAGES, Evidence
from tersa.prune.groups import Groups, find_groups
from tersa.prune.surgery import remove_

SHAPE = (3, 8, 8)

SUMS = {"rtol": 1e-4, "atol": 1e-8}
"""float32 sums over images in another order."""

PLACES = [
    {"taylor"},
    {"activations"},
    {"weights", "products", "squares", "curvature"},
    {"scale"},
    {"chance"},
]
"""What can be had together."""

ZERO_IS_LEAST = sorted(CRITERIA.keys() - {"random", "geometric-median"})
"""Not those: a filter of zeros may be far from all others, and chance knows nothing."""


class Normed(nn.Module):
    """Batch norm behind every layer: a residual addition, a depthwise convolution, a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv, self.bn2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.deep, self.bn3 = nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6)
        self.hidden, self.bn4 = nn.Linear(6, 5), nn.BatchNorm1d(5)
        self.fc = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.stem(x)))
        x = torch.relu(x + self.bn2(self.conv(x)))
        x = torch.relu(self.bn3(self.deep(x))).mean((2, 3))
        return self.fc(torch.relu(self.bn4(self.hidden(x))))


KINDS = (
    *(Chain, Residual, Depthwise, Grouped, Dense, Normed),
    *(odd.Subclasses, odd.TwoNames, odd.TwoDepthwise, odd.Partial),
)

CASES = [
    pytest.param(name, kind, id=f"{name}-{kind.__name__}")
    for name in CRITERIA
    for kind in KINDS
    if name != "bn-scale" or kind is Normed
]


def build(kind: type[nn.Module]) -> tuple[nn.Module, Groups]:
    model = fill(kind())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_var.abs_().add_(0.5)
    return model, find_groups(model, SHAPE)


@pytest.fixture(scope="module")
def task() -> Task:
    images = torch.sin(torch.arange(12 * 192, dtype=torch.float32)).view(12, *SHAPE)
    split = Split(images, torch.arange(12) % 4)
    return Task("t", split, split, split, tuple("abcd"), (0.0,) * 3, (1.0,) * 3, Provenance("made", "", {}))


def score(
    name: str, model: nn.Module, groups: Groups, task: Task, batch: int = 250, images: Split | None = None
) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return collect(
        model, groups, task, images or task.train, CRITERIA[name], batch=batch, generator=generator
    )


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_one_finite_score_per_unit_that_follows_the_units(
    name: str, kind: type[nn.Module], task: Task
) -> None:
    """Whatever the order of the groups and the batch size; twice the same."""
    model, groups = build(kind)
    found = score(name, model, groups, task)
    assert found.shape == groups.units.shape
    assert found.dtype == torch.float64
    assert bool(torch.isfinite(found).all())
    assert bool((found >= 0).all())
    assert len(found.unique()) > 1, "a criterion that tells no unit from another"
    assert torch.equal(found, score(name, model, groups, task))
    torch.testing.assert_close(found, score(name, model, groups, task, batch=5), **SUMS)
    turned = replace(groups, groups=groups.groups[::-1])
    if name != "random":
        expected = dict(zip(groups.units.tolist(), found.tolist(), strict=True))
        again = score(name, model, turned, task).tolist()
        assert dict(zip(turned.units.tolist(), again, strict=True)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", CRITERIA)
def test_the_model_is_left_alone(name: str, task: Task) -> None:
    model, groups = build(Normed)
    model.train()
    model.bn2.eval()
    model.stem.weight.requires_grad_(False)
    model.fc.weight.grad = torch.ones_like(model.fc.weight)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = {part: part.training for part in model.modules()}
    frozen = score(name, model, groups, task)
    assert {part: part.training for part in model.modules()} == modes
    assert [key for key, p in model.named_parameters() if p.grad is not None] == ["fc.weight"]
    assert [key for key, p in model.named_parameters() if not p.requires_grad] == ["stem.weight"]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(part._forward_hooks for part in model.modules())
    model.requires_grad_(True)
    torch.testing.assert_close(score(name, model, groups, task), frozen, **SUMS)


@pytest.mark.parametrize("kind", [Normed, odd.Partial])
@pytest.mark.parametrize("name", ZERO_IS_LEAST)
def test_a_unit_of_zeros_is_the_least_important(name: str, kind: type[nn.Module], task: Task) -> None:
    if name == "bn-scale" and kind is not Normed:
        kind = Normed
    model, groups = build(kind)
    tensors = dict(model.named_parameters())
    gone = [group.units[-1] for group in groups.groups]
    with torch.no_grad():
        for slot in groups.slots:
            if not slot.incoming and slot.name in tensors:
                tensors[slot.name][torch.isin(slot.units, torch.stack(gone))] = 0
    found = dict(zip(groups.units.tolist(), score(name, model, groups, task).tolist(), strict=True))
    assert all(found[int(unit)] == 0 for unit in gone)
    assert max(found.values()) > 0


@pytest.mark.parametrize("name", CRITERIA)
def test_what_is_left_after_a_removal_is_scored(name: str, task: Task) -> None:
    model, groups = build(Normed)
    groups = remove_(model, groups, groups.units[[0, 3, 7]])
    assert score(name, model, groups, task).shape == (len(groups.units),)


@pytest.mark.parametrize("name", CRITERIA)
def test_the_memory_format_does_not_matter(name: str, task: Task) -> None:
    model, groups = build(Normed)
    found = score(name, model, groups, task)
    torch.testing.assert_close(
        found, score(name, model.to(memory_format=torch.channels_last), groups, task), **SUMS
    )


@pytest.mark.parametrize("name", CRITERIA)
def test_only_what_is_asked_for_is_needed(name: str, task: Task) -> None:
    """Images and a generator where it says so, one line where they lack, else no pass over images."""
    model, groups = build(Normed)
    criterion = CRITERIA[name]
    assert criterion.name == name
    assert criterion.about
    assert criterion.needs <= vars(Evidence()).keys()
    assert any(criterion.needs <= kind for kind in PLACES), "its evidence does not show at one kind of place"
    assert len(criterion.needs & FROM_IMAGES) <= 1, "one pass over the images"
    assert criterion.needs_images == bool(criterion.needs & FROM_IMAGES)
    generator = torch.Generator().manual_seed(0)
    if criterion.needs_images:
        with pytest.raises(UsageError, match=f"'{name}' needs training images, got none; give at least one"):
            collect(model, groups, task, task.train.take(slice(0, 0)), criterion, generator=generator)
    else:
        ran = []
        model.register_forward_hook(lambda *_: ran.append(1))
        assert len(collect(model, groups, None, None, criterion, generator=generator)) == len(groups.units)
        assert not ran
    if criterion.needs_generator:
        with pytest.raises(UsageError, match=f"'{name}' draws random numbers, got no generator; give one"):
            collect(model, groups, task, task.train, criterion)


@pytest.mark.parametrize("name", WEIGHT_CRITERIA)
def test_single_weights_are_scored_where_they_are(name: str, task: Task) -> None:
    """Of the weight's shape, finite, not negative, and 0 for a weight that is 0."""
    model, _ = build(Normed)
    assert WEIGHT_CRITERIA[name].name == name
    assert name in CRITERIA
    names = [key for key, p in model.named_parameters() if p.dim() > 1]
    with torch.no_grad():
        model.conv.weight[2, 1] = 0
    generator = torch.Generator().manual_seed(3)
    found = weight_scores(model, names, task, task.train, name, generator=generator)
    for key in names:
        assert found[key].shape == model.get_parameter(key).shape
        assert bool((found[key] >= 0).all())
    if name != "random":
        assert not found["conv.weight"][2, 1].any()
        assert found["conv.weight"].any()
