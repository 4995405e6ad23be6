"""Each criterion against its closed form, on places and through `collect`; normalisation and the choice."""

from collections.abc import Callable

import pytest
import torch
from tests.prune import odd_networks as odd
from tests.prune.networks import Chain, Grouped, Residual, fill
from torch import Tensor, nn
from torch.nn import functional as F

from tersa.data.task import Provenance, Split, Task
from tersa.errors import Diverged, ModelError, UsageError
from tersa.prune.criteria import (
    CRITERIA,
    WEIGHT_CRITERIA,
    collect,
    find,
    taylor,
    weight_criterion,
    weight_scores,
)
from tersa.prune.evidence import Evidence
from tersa.prune.groups import find_groups
from tersa.prune.normalise import NORMALISATIONS, l1, l2, none, normalise
from tersa.prune.protocol import choose, layer_widths

SHAPE = (3, 8, 8)

SUMS = {"rtol": 1e-4, "atol": 1e-8}
"""float32 sums over images in another order."""

FILTERS = torch.tensor([[3.0, -4.0], [0.0, 0.0], [3.0, 0.0]])


@pytest.fixture
def task() -> Task:
    images = torch.sin(torch.arange(20 * 192, dtype=torch.float32)).view(20, *SHAPE)
    split = Split(images, torch.arange(20) % 4)
    return Task("t", split, split, split, tuple("abcd"), (0.0,) * 3, (1.0,) * 3, Provenance("made", "", {}))


def chance() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def score(name: str, **held: Tensor) -> list[float]:
    return CRITERIA[name].score(Evidence(**held)).tolist()


def test_weights_alone() -> None:
    assert score("l1", weights=FILTERS) == [7.0, 0.0, 3.0]
    assert score("l2", weights=FILTERS) == [5.0, 0.0, 3.0]
    assert score("geometric-median", weights=FILTERS) == [9.0, 8.0, 7.0]


def test_equal_filters_are_at_no_distance() -> None:
    """In float32 the distance of two equal long filters would be far from 0."""
    row = 10 + torch.sin(torch.arange(1000.0))
    found = CRITERIA["geometric-median"].score(Evidence(weights=row.expand(30, 1000)))
    assert float(found.max()) < 1e-3


def test_scale() -> None:
    assert score("bn-scale", scale=torch.tensor([0.5, -2.0])) == [0.5, 2.0]


def test_second_order() -> None:
    h = torch.tensor([[2.0, 1.0], [9.0, 9.0], [4.0, 0.0]])
    assert score("obd", weights=FILTERS, curvature=h) == [0.5 * (18 + 16), 0.0, 18.0]
    assert score("hessian-trace", weights=FILTERS, curvature=h) == [0.5 * 1.5 * 25, 0.0, 0.5 * 2 * 9]


def test_single_weights() -> None:
    other = torch.tensor([[2.0, 1.0], [9.0, 9.0], [4.0, 0.0]])
    held = Evidence(weights=FILTERS, curvature=other, squares=other)
    found = {name: one.score(held).tolist() for name, one in WEIGHT_CRITERIA.items() if name != "random"}
    assert found == {
        "l1": [[3.0, 4.0], [0.0, 0.0], [3.0, 0.0]],
        "l2": [[9.0, 16.0], [0.0, 0.0], [9.0, 0.0]],
        "taylor-weight": [[18.0, 16.0], [0.0, 0.0], [36.0, 0.0]],
        "obd": [[9.0, 8.0], [0.0, 0.0], [18.0, 0.0]],
    }


def test_taylor_closed_form() -> None:
    z = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    dz = torch.tensor([[[1.0, -1.0], [0.5, 0.5]]])
    torch.testing.assert_close(taylor(z, dz), torch.tensor([[0.5, 1.75]]))


def test_taylor_equals_a_plain_loop(task: Task) -> None:
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


def test_activation_is_taken_after_the_non_linearity(task: Task) -> None:
    model = fill(Chain())
    found = collect(model, find_groups(model, SHAPE), task, task.train, CRITERIA["activation"], batch=7)
    with torch.no_grad():
        maps = torch.relu(model.bn(model.conv1(task.train.images)))
        hidden = torch.relu(model.fc1(F.max_pool2d(maps, 2).flatten(1)))
    expected = torch.cat([maps.mean((0, 2, 3)), hidden.mean(0)])
    torch.testing.assert_close(found.float(), expected, rtol=1e-5, atol=1e-7)


def test_activation_of_a_residual_sum_is_the_mean_of_the_shares(task: Task) -> None:
    model = fill(Residual())
    found = collect(model, find_groups(model, SHAPE), task, task.train, CRITERIA["activation"])
    with torch.no_grad():
        stem = model.stem(task.train.images)
        inner = model.inner(torch.relu(stem))
        shares = [torch.relu(z).mean((0, 2, 3)) for z in (stem, model.outer(torch.relu(inner)), inner)]
    expected = torch.cat([(shares[0] + shares[1]) / 2, shares[2]])
    torch.testing.assert_close(found.float(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("activation", "after"),
    [
        (nn.ReLU6(inplace=True), F.relu6),
        (nn.LeakyReLU(0.2, inplace=True), lambda z: F.leaky_relu(z, 0.2)),
        (nn.GELU("tanh"), lambda z: F.gelu(z, approximate="tanh")),
        (nn.Tanh(), torch.tanh),
        (nn.Sequential(nn.AvgPool2d(2), nn.Dropout(), nn.ReLU()), torch.relu),
        (nn.Sequential(nn.LayerNorm([6, 8, 8]), nn.ReLU()), None),
        (nn.Identity(), lambda z: z),
    ],
    ids=["relu6", "leaky", "gelu", "tanh", "pooled", "norm", "none"],
)
def test_activation_of_other_non_linearities(activation: nn.Module, after, task: Task) -> None:
    """In place or not, behind pooling or not; without one, the size of what the layer returns."""
    pool, conv = nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 6, 3, padding=1)
    model = fill(nn.Sequential(conv, activation, pool, nn.Flatten(), nn.Linear(6, 4)))
    groups = find_groups(model, SHAPE)
    if after is None:
        assert not groups.groups, "a layer norm has no pruning rule"
        return
    found = collect(model, groups, task, task.train, CRITERIA["activation"])
    with torch.no_grad():
        expected = after(model[0](task.train.images)).abs().mean((0, 2, 3))
    torch.testing.assert_close(found.float(), expected, rtol=1e-5, atol=1e-7)


class Side(nn.Module):
    """Something made of the whole map, beside the map itself."""

    def __init__(self, how: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.how = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 5, 1), how
        self.fc = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.b(self.how(self.a(x))).mean((2, 3)))


@pytest.mark.parametrize(
    ("how", "found"),
    [
        (lambda x: x / (x * x).mean((2, 3), keepdim=True).add(1e-5).sqrt(), None),
        (lambda x: x * x.pow(2).mean((2, 3), keepdim=True).add(1e-5).rsqrt(), None),
        (lambda x: (x * x.mean((2, 3), keepdim=True).sigmoid()).relu(), "relu"),
        (lambda x: (x * F.adaptive_avg_pool2d(x, 1).sigmoid()).relu(), "relu"),
        (lambda x: F.max_pool2d(x, 2).relu(), "relu"),
        (lambda x: x.mean((2, 3), keepdim=True).tanh(), "tanh"),
        (lambda x: (x * x).relu(), None),
        (lambda x: (x + 1).sigmoid(), "sigmoid"),
    ],
    ids=["rms", "rms-pow", "gate", "gate-pool", "pooled", "mean", "square", "shifted"],
)
def test_a_side_branch_has_no_say_in_the_activation(
    how: Callable[[Tensor], Tensor], found: str | None
) -> None:
    groups = find_groups(fill(Side(how)), SHAPE)
    assert "a" in groups.widths()
    gate = next(gate for gate in groups.gates if gate.module == "a")
    assert (gate.activation.name if gate.activation else None) == found


class PreActivation(nn.Module):
    """The stem of a pre-activation ResNet: a skip path goes by the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n, self.b = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.fc((y + self.b(torch.relu(self.n(y)))).mean((2, 3)))


def test_a_path_beside_the_norm_shows(task: Task) -> None:
    """With nothing coming through the block, all that a channel does goes by the skip."""
    model = fill(PreActivation())
    with torch.no_grad():
        model.b.weight.zero_()
        model.b.bias.zero_()
    groups = find_groups(model, SHAPE)
    assert [gate.module for gate in groups.gates] == ["a", "n", "b", "fc"]
    assert (collect(model, groups, task, task.train) > 0).all()


def test_makers_of_one_unit_are_averaged() -> None:
    model = fill(Residual())
    found = collect(model, find_groups(model, SHAPE), None, None, CRITERIA["l1"])
    stem, outer, inner = (
        layer.weight.detach().abs().sum((1, 2, 3)) for layer in (model.stem, model.outer, model.inner)
    )
    torch.testing.assert_close(found.float(), torch.cat([(stem + outer) / 2, inner]))


def test_channels_of_one_unit_are_averaged() -> None:
    """A grouped convolution keeps the same channels of each of its 4 groups."""
    model = fill(Grouped())
    groups = find_groups(model, SHAPE)
    found = collect(model, groups, None, None, CRITERIA["l1"])
    place = next(i for i, group in enumerate(groups.groups) if group.layers == ("a",))
    assert len(groups.groups[place].units) == 2
    start = sum(len(group.units) for group in groups.groups[:place])
    expected = model.a.weight.detach().abs().sum((1, 2, 3)).view(4, 2).mean(0)
    torch.testing.assert_close(found[start : start + 2].float(), expected)


def test_scale_is_that_of_the_batch_norm_behind() -> None:
    model = fill(Chain())
    groups = find_groups(model, SHAPE, keep=("fc1",))
    found = collect(model, groups, None, None, CRITERIA["bn-scale"])
    torch.testing.assert_close(found.float(), model.bn.weight.detach().abs())


def test_random_is_uniform_and_of_the_generator() -> None:
    model = fill(Chain())
    groups = find_groups(model, SHAPE)
    found = collect(model, groups, None, None, CRITERIA["random"], generator=chance())
    assert torch.equal(found, torch.rand(13, generator=chance(), dtype=torch.float64))


def filter_gradients(model: nn.Module, task: Task, name: str) -> list[Tensor]:
    """dC/dw of each image, the readable way."""
    found = []
    for image, label in zip(task.train.images, task.train.labels, strict=True):
        cost = F.cross_entropy(model(image[None]), label[None])
        found.append(torch.autograd.grad(cost, model.get_parameter(name))[0])
    return found


@pytest.mark.parametrize(
    ("kind", "name"),
    [(Chain, "conv1"), (Chain, "fc1"), (Residual, "inner"), (odd.Subclasses, "a"), (odd.Computed, "c")],
)
def test_taylor_weight_equals_a_plain_loop(kind: type[nn.Module], name: str, task: Task) -> None:
    """From what the layer returns, also where its own forward code adds a non-linearity."""
    model = fill(kind())
    groups = find_groups(model, SHAPE)
    found = collect(model, groups, task, task.train, CRITERIA["taylor-weight"], batch=7)
    weight = model.get_submodule(name).weight.detach()
    expected = torch.zeros(len(weight))
    for gradient in filter_gradients(model, task, f"{name}.weight"):
        expected += (gradient * weight).flatten(1).sum(1).square() / 20
    place = next(i for i, group in enumerate(groups.groups) if group.layers == (name,))
    start = sum(len(group.units) for group in groups.groups[:place])
    torch.testing.assert_close(found[start : start + len(weight)].float(), expected, **SUMS)


def test_taylor_weight_of_tied_weights_sums_their_uses_first(task: Task) -> None:
    model = fill(odd.Tied())
    images = torch.sin(torch.arange(60.0)).view(10, 6, 1, 1)
    split = Split(images, torch.arange(10) % 4)
    flat = Task("t", split, split, split, tuple("abcd"), (0.0,) * 6, (1.0,) * 6, Provenance("made", "", {}))
    found = collect(model, find_groups(model, (6,)), flat, split, CRITERIA["taylor-weight"])[-7:]
    expected = torch.zeros(7)
    for gradient in filter_gradients(model, flat, "a.weight"):
        expected += (gradient * model.a.weight.detach()).sum(1).square() / 10
    torch.testing.assert_close(found.float(), expected, **SUMS)
    single = weight_scores(model, ["a.weight", "b.weight"], flat, split, "taylor-weight")
    squared = sum(g.square() for g in filter_gradients(model, flat, "a.weight"))
    for name in ("a.weight", "b.weight"):
        torch.testing.assert_close(single[name], squared * model.a.weight.detach().square() / 10, **SUMS)


@pytest.mark.parametrize("kind", [Chain, Grouped, odd.TwoNames, odd.Subclasses])
def test_taylor_of_single_weights_equals_a_plain_loop(kind: type[nn.Module], task: Task) -> None:
    model = fill(kind())
    names = [name for name, p in model.named_parameters() if p.dim() > 1 and name != "scale"]
    found = weight_scores(model, names, task, task.train, "taylor-weight", batch=7)
    assert list(found) == names
    for name in names:
        squared = sum(g.square() for g in filter_gradients(model, task, name))
        expected = squared * model.get_parameter(name).detach().square() / 20
        torch.testing.assert_close(found[name], expected, **SUMS)


def test_obd_of_channels_is_the_sum_over_their_weights(task: Task) -> None:
    model = fill(Chain())
    found = collect(model, find_groups(model, SHAPE), task, task.train, CRITERIA["obd"], generator=chance())
    single = weight_scores(model, ["conv1.weight", "fc1.weight"], task, task.train, "obd", generator=chance())
    expected = torch.cat([value.flatten(1).sum(1) for value in single.values()])
    torch.testing.assert_close(found.float(), expected)


class InPlace(nn.Module):
    """A residual block that writes over what its layers return."""

    def __init__(self, *, inplace: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.act = nn.SiLU(inplace=inplace)
        self.fc = nn.Linear(6, 4)
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        out = self.conv(x)
        if self.inplace:
            out += x
        else:
            out = out + x
        return self.fc(self.act(out).mean((2, 3)))


@pytest.mark.parametrize("name", ["activation", "taylor", "taylor-weight", "obd"])
def test_writing_in_place_changes_no_score(name: str, task: Task) -> None:
    found = []
    for inplace in (True, False):
        model = fill(InPlace(inplace=inplace))
        groups = find_groups(model, SHAPE)
        found.append(collect(model, groups, task, task.train, CRITERIA[name], generator=chance()))
    torch.testing.assert_close(found[0], found[1], **SUMS)


@pytest.mark.parametrize("name", sorted(WEIGHT_CRITERIA))
def test_weight_scores_leave_the_model_alone(name: str, task: Task) -> None:
    model = fill(Grouped()).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    names = ["b.weight", "fc.weight"]
    found = weight_scores(model, names, task, task.train, name, generator=chance())
    assert {key: value.shape for key, value in found.items()} == {
        key: model.get_parameter(key).shape for key in names
    }
    again = weight_scores(model, names, task, task.train, name, generator=chance(), batch=6)
    for key in names:
        torch.testing.assert_close(found[key], again[key], **SUMS)
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_not_finite_is_said(task: Task) -> None:
    model = fill(Chain())
    with torch.no_grad():
        model.fc1.weight[0, 0] = float("nan")
    with pytest.raises(Diverged, match="NaN"):
        collect(model, find_groups(model, SHAPE), task, task.train)
    with pytest.raises(Diverged, match="NaN"):
        weight_scores(model, ["fc1.weight"], None, None, "l1")


def test_nothing_prunable_has_no_scores(task: Task) -> None:
    model = fill(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)))
    assert collect(model, find_groups(model, SHAPE), task, task.train).shape == (0,)


def test_a_unit_without_batch_norm_is_told() -> None:
    model = fill(Chain())
    with pytest.raises(UsageError, match=r"'bn-scale' needs a batch norm .* none for fc1; keep these layers"):
        collect(model, find_groups(model, SHAPE), None, None, CRITERIA["bn-scale"])


def test_a_batch_norm_without_scale_is_none() -> None:
    model = fill(Chain())
    model.bn = nn.BatchNorm2d(6, affine=False)
    with pytest.raises(UsageError, match="none for conv1, fc1"):
        collect(model, find_groups(model, SHAPE), None, None, CRITERIA["bn-scale"])


class Direct(nn.Conv2d):
    """A convolution by an operation that torch offers to nobody."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.ops.aten.conv2d.default(input, self.weight, self.bias)


def test_a_layer_that_shows_nothing_is_told(task: Task) -> None:
    model = fill(nn.Sequential(Direct(3, 6, 8), nn.ReLU(), nn.Flatten(), nn.Linear(6, 4)))
    groups = find_groups(model, SHAPE)
    assert (collect(model, groups, task, task.train) > 0).any()
    with pytest.raises(ModelError, match="'taylor-weight' finds nothing to go by at 0: what runs there"):
        collect(model, groups, task, task.train, CRITERIA["taylor-weight"])


def test_unknown_names_are_told() -> None:
    model = fill(Chain())
    with pytest.raises(UsageError, match="unknown criterion 'tailor'; did you mean 'taylor'"):
        find("tailor")
    with pytest.raises(UsageError, match=r"'geometric-median' scores whole channels.*l1, l2, obd, random"):
        weight_criterion("geometric-median")
    with pytest.raises(UsageError, match=r"unknown weight 'fc1.wieght'; did you mean 'fc1.weight'"):
        weight_scores(model, ["fc1.wieght"], None, None, "l1")


def test_a_weight_that_no_layer_uses_is_told(task: Task) -> None:
    model = fill(Chain())
    model.spare = nn.Parameter(torch.ones(2, 2))
    with pytest.raises(ModelError, match="finds nothing to go by at spare"):
        weight_scores(model, ["fc1.weight", "spare"], task, task.train, "taylor-weight")


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
