"""Drawing a network's weights again, at the sizes that it has."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tersa.models import build
from tersa.models.family import draw_anew_
from tersa.models.lighten import lighten_
from tersa.models.load import load

SHAPE = (3, 32, 32)


@pytest.mark.parametrize("spec", ["lenet", "resnet:20", "vit:tiny", "tfc+w1a1", "cnv+w1a1:scale=lab"])
def test_they_are_drawn_as_their_family_draws_them(spec: str) -> None:
    """Other numbers of the same spread, tensor by tensor; what begins with a constant does so again."""
    network = load(spec, SHAPE, 10, seed=1).module
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        for value in network.parameters():
            value.fill_(7.0)
    draw_anew_(network)
    for name, value in network.state_dict().items():
        old = before[name].double()
        spread = old.numel() > 200 and float(old.std()) > 0
        if spread:
            assert not torch.equal(value, before[name])
            assert float(value.double().std()) == pytest.approx(float(old.std()), rel=0.2), name
        elif bool((old == old.flatten()[0]).all()):
            assert torch.equal(value, before[name]), name


def test_a_shift_goes_on_shifting() -> None:
    network = build("lenet", (1, 28, 28), 10)
    lighten_(network, "shift", ("conv2",))
    kernels = network.conv2.shift.weight.clone()
    draw_anew_(network)
    assert torch.equal(network.conv2.shift.weight, kernels)


def test_a_traced_network_has_no_layers_and_is_drawn_all_the_same() -> None:
    class Traced(nn.Module):
        """Parameters, and no layers."""

        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.full((8, 4), 5.0)), nn.Parameter(torch.ones(8))

    network = Traced()
    draw_anew_(network)
    assert float(network.weight.detach().abs().max()) <= 0.5, "uniform in +-1 / sqrt(4)"
    assert not network.bias.any()
