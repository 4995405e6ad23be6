"""The frozen network has the low-bit network's logits, bit for bit, and nothing of its training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.export.low_bit import (
    BITS,
    FLOAT_ENDS,
    HEADER,
    logits,
    normalised,
    perceptron,
    pixels,
    plain,
    residual,
    settled,
)
from torch import nn

from tersa.errors import ModelError
from tersa.export.frozen import Conv2d, Levels, Linear, freeze, reads_pixels, require_pixels
from tersa.export.lines import codes_of, line
from tersa.models.lowbit import LowBits
from tersa.quant.layers import (
    IntegerBatchNorm1d,
    QuantActivation,
    QuantConv2d,
    QuantLinear,
    WeightForm,
)
from tersa.quant.steps import steps, thresholds
from tersa.quant.xnor import Xnor

IMAGES = pixels(40)
Topology = Callable[[LowBits], nn.Module]


def frozen_logits(network: nn.Module) -> npt.NDArray[np.float32]:
    frozen = freeze(network)
    given = torch.from_numpy(IMAGES / np.float32(255)) if reads_pixels(frozen) else normalised(IMAGES)
    with torch.no_grad():
        return frozen(given).numpy()


@pytest.mark.parametrize("name", BITS)
@pytest.mark.parametrize("topology", [plain, residual])
def test_logits_are_the_networks(topology: Topology, name: str) -> None:
    network = settled(topology(BITS[name]))
    wanted = logits(network, IMAGES)
    assert np.ptp(wanted, axis=0).max() > 0.01  # the images differ in it
    np.testing.assert_array_equal(frozen_logits(network), wanted)


def test_a_perceptron_and_float_ends() -> None:
    for network in (settled(perceptron()), settled(plain(FLOAT_ENDS))):
        np.testing.assert_array_equal(frozen_logits(network), logits(network, IMAGES))


XNOR = LowBits(xnor=True, scale="channel")


@pytest.mark.parametrize("topology", [plain, residual])
def test_xnor_layers_become_levels_a_product_and_the_magnitude(topology: Topology) -> None:
    network = settled(topology(XNOR))
    np.testing.assert_array_equal(frozen_logits(network), logits(network, IMAGES))
    kinds = {type(layer) for layer in freeze(network).modules()}
    assert not kinds & {Xnor, QuantLinear, QuantConv2d, QuantActivation}


def test_an_unknown_module_that_holds_low_bit_layers_is_refused_by_name() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = QuantLinear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(self.layer(x))

    with pytest.raises(ModelError, match=r"^Twice holds low-bit layers in an order that is not known"):
        freeze(nn.Sequential(nn.Flatten(), Twice()))


def test_weights_are_levels_and_hidden_layers_have_no_float() -> None:
    frozen = freeze(settled(plain(BITS["binary"])))
    layers = [layer for layer in frozen if isinstance(layer, Conv2d | Linear)]
    assert len(layers) == 5
    assert {float(value) for layer in layers for value in layer.weight.unique()} == {-1.0, 1.0}
    for layer in layers[:-1]:
        assert layer.bias is not None
        assert (layer.bias % 1 == 0.5).all()
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_the_network_given_is_left_alone() -> None:
    network = settled(plain(BITS["alpha"]))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    freeze(network)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_a_float_network_is_refused() -> None:
    with pytest.raises(ModelError, match="only float layers"):
        freeze(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 7, 8])
def test_rounding_down_counts_the_thresholds(bits: int) -> None:
    """floor(x n / 2) at every threshold and at the float32 values on both sides of it."""
    t = thresholds(bits)
    x = torch.cat([t, torch.nextafter(t, torch.tensor(-9.0)), torch.nextafter(t, torch.tensor(9.0))])
    scaled = x if bits == 1 else x * (steps(bits) / 2)
    found = Levels(bits, half_even=False)(scaled)
    torch.testing.assert_close(found, QuantActivation(bits)(x), rtol=0, atol=0)


def test_five_bits_miss_one_value_and_no_other() -> None:
    t = thresholds(5)
    x = torch.cat([t, torch.nextafter(t, torch.tensor(-9.0)), torch.nextafter(t, torch.tensor(9.0))])
    found = Levels(5, half_even=False)(x * (steps(5) / 2))
    assert int((found != QuantActivation(5)(x)).sum()) == 1


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 4),
    st.lists(st.tuples(st.floats(-0.25, 0.25, width=32), st.floats(-2, 2, width=32)), min_size=1, max_size=6),
    st.integers(1, 300),
)
def test_a_line_has_the_levels_of_every_sum(bits: int, rows: list[tuple[float, float]], bound: int) -> None:
    scale, shift = (np.array(each, np.float32) for each in zip(*rows, strict=True))
    found = line(scale, shift, None, bound, bits=bits)
    sums = np.arange(-bound, bound + 1)[:, None]
    y = torch.from_numpy(sums.astype(np.float32) * scale + shift)
    if found is None:  # two ties or more, decided by float32's rounding
        ties = (y[:, :, None] - thresholds(bits)).abs() < 1e-6
        assert ties.sum((0, 2)).max() >= 2
        return
    wanted = QuantActivation(bits)(y).numpy()
    np.testing.assert_array_equal(2 * codes_of(sums, *found, bits) + 1, wanted)


def test_no_sum_lies_at_a_tie() -> None:
    """Thresholds of y = a / 4 are met exactly at a = 0; the line keeps away from that."""
    found = line(np.float32([0.25]), np.float32([0.0]), None, 40, bits=2)
    assert found is not None
    y = np.arange(-5, 6) * found[0][0] + found[1][0]
    assert np.abs(y - np.floor(y) - 0.5).min() > 0.01


def test_millions_of_sums_fall_back_to_the_networks_own_operations() -> None:
    layer = QuantLinear(200, 4, form=WeightForm(8), input_bits=8)
    network = settled_pair(nn.Sequential(layer, IntegerBatchNorm1d(4), QuantActivation(8)))
    kinds = [type(part).__name__ for part in freeze(network)]
    assert kinds == ["Linear", "Affine", "Scale", "Levels"]


def settled_pair(network: nn.Sequential) -> nn.Sequential:
    """Fully connected parts, normalised by integers of 8 bits."""
    network.train()
    for _ in range(4):
        network(2.0 * torch.randint(-128, 128, (50, 200), generator=torch.Generator().manual_seed(1)) + 1)
    return network.eval()


def test_another_normalisation_is_refused() -> None:
    network = settled(plain(BITS["binary"]))
    require_pixels(network, HEADER)
    with pytest.raises(ModelError, match="train it on these data") as caught:
        require_pixels(network, replace(HEADER, mean=(0.5, 0.5, 0.5)))
    assert "\n" not in str(caught.value)
