"""The trial removals: forward code that does not bear them is told, with the layers to keep."""

import pytest
import torch
from tests.prune.networks import Chain, fill
from tests.prune.test_groups import SHAPE, images
from torch import Tensor, nn
from torch.nn import functional as F

from tersa.errors import ModelError
from tersa.prune.groups import find_groups
from tersa.prune.surgery import verify


class Between(nn.Module):
    """Two convolutions and a classifier, with something between the convolutions."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, channels, 3, padding=1)
        self.b = nn.Conv2d(channels, 5, 3, padding=1)
        self.fc = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.b(self.between(torch.relu(self.a(x))))).mean((2, 3)))

    def between(self, x: Tensor) -> Tensor:
        return x


class Scaled(Between):
    """A factor that depends on the number of channels."""

    def between(self, x: Tensor) -> Tensor:
        return x * x.shape[1] ** -0.5


class Squeezed(Between):
    """An axis that goes only where one channel is left."""

    def between(self, x: Tensor) -> Tensor:
        return x.squeeze(1)[..., None].squeeze(-1)


class Blurred(Between):
    """A fixed depthwise kernel that no layer holds."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel: Tensor
        self.register_buffer("kernel", torch.ones(8, 1, 3, 3) / 9)

    def between(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, groups=x.shape[1], padding=1)


class Learnt(Blurred):
    """The same, learnt."""

    def __init__(self) -> None:
        super().__init__()
        del self.kernel
        self.kernel = nn.Parameter(torch.ones(8, 1, 3, 3) / 9)


class InTraining(Between):
    """A layer that runs in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Conv2d(8, 8, 1)

    def between(self, x: Tensor) -> Tensor:
        return x + self.extra(x) if self.training else x


def tried(model: nn.Module) -> float:
    groups = find_groups(model, SHAPE)
    return verify(model, groups, torch.cat([group.units[:1] for group in groups.groups]), images(SHAPE))


@pytest.mark.parametrize("kind", [Blurred, Learnt])
def test_a_depthwise_kernel_without_a_layer_is_no_obstacle(kind: type[nn.Module]) -> None:
    model = fill(kind())
    groups = find_groups(model, SHAPE)
    assert groups.widths() == {"b": 5}
    assert groups.depthwise == frozenset()
    assert tried(model) < 1e-5


def test_a_dependence_on_the_width_shows_however_small_the_outputs_are() -> None:
    """One channel of 128 makes less than 1e-4 of difference here; all but one make much more."""
    model = fill(Scaled(128))
    with torch.no_grad():
        model.fc.weight.mul_(1e-3)
        model.fc.bias.mul_(1e-3)
    with pytest.raises(ModelError, match=r"depends on the number of channels.*--keep a$"):
        tried(model)


def test_small_outputs_are_no_fault() -> None:
    model = fill(Between())
    with torch.no_grad():
        model.fc.weight.mul_(1e-6)
        model.fc.bias.zero_()
    assert tried(model) < 1e-9


def test_what_breaks_at_one_channel_is_told_beforehand() -> None:
    model = fill(Squeezed())
    with pytest.raises(ModelError, match=r"does not run with one channel left of each group.*--keep a$"):
        tried(model)


def test_code_of_training_is_tried_too() -> None:
    model = fill(InTraining())
    before = torch.random.get_rng_state()
    with pytest.raises(ModelError, match=r"^the pruned network does not run in training: .*--keep a$"):
        tried(model)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_training_that_never_runs_is_not_held_against_pruning() -> None:
    class Never(Between):
        def between(self, x: Tensor) -> Tensor:
            if self.training:
                raise ValueError("evaluation only")
            return x

    assert tried(fill(Never())) < 1e-5


def test_dropout_in_the_trial_leaves_the_random_state_alone() -> None:
    class Dropped(Between):
        def between(self, x: Tensor) -> Tensor:
            return F.dropout(x, training=self.training)

    model = fill(Dropped())
    before = torch.random.get_rng_state()
    tried(model)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:The tensor attribute self.a.weight:UserWarning")
def test_weights_set_by_a_hook_are_told_with_the_mend() -> None:
    model = fill(Between())
    nn.utils.weight_norm(model.a)
    with pytest.raises(ModelError, match=r"cannot be copied: .*torch\.nn\.utils\.parametrizations$"):
        tried(model)


def test_only_the_layers_that_do_not_bear_it_are_named() -> None:
    class Fixed(Between):
        def between(self, x: Tensor) -> Tensor:
            return x.view(len(x), 8, 8, 8)

    model = fill(Fixed())
    with pytest.raises(ModelError, match=r"^the pruned network does not run: .*--keep a$"):
        tried(model)
    kept = find_groups(model, SHAPE, keep=("a",))
    assert kept.widths() == {"b": 5}
    assert verify(model, kept, kept.units[:1], images(SHAPE)) < 1e-5


def test_units_that_cannot_go_are_still_refused_as_such() -> None:
    model = fill(Chain())
    groups = find_groups(model, SHAPE)
    with pytest.raises(ModelError, match=r"^nothing would be left of conv1; [^-]*$"):
        verify(model, groups, groups.groups[0].units, images(SHAPE))
