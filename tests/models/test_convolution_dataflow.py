"""Dataflows: every count is what the loops do, and each family keeps what it says."""

from __future__ import annotations

import pytest

from tersa.errors import UsageError
from tersa.models.convolution_costs import ConvolutionLayer
from tersa.models.convolution_dataflow import FAMILIES, accesses, effective_macs, energy_pj, walk

LAYERS = {
    "same": ConvolutionLayer(2, 3, (5, 4), (3, 3), padding=1, batch=2),
    "valid": ConvolutionLayer(3, 2, (6, 5), (3, 2)),
    "stride": ConvolutionLayer(2, 2, (7, 7), (2, 2), stride=3),
    "depthwise": ConvolutionLayer(4, 4, (4, 4), (3, 3), padding=1, groups=4),
    "fully connected": ConvolutionLayer(6, 4, (1, 1), (1, 1), batch=3),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", LAYERS)
def test_counts_are_what_the_loops_do(name: str, family: str) -> None:
    assert accesses(LAYERS[name], family) == walk(LAYERS[name], family)


@pytest.mark.parametrize("name", LAYERS)
def test_each_family_fetches_least_of_what_it_keeps(name: str) -> None:
    layer = LAYERS[name]
    found = {family: accesses(layer, family) for family in FAMILIES}
    assert found["weight stationary"].weights == layer.weight_words
    assert found["output stationary"].sums_written == layer.output_words
    assert found["output stationary"].sums_read == 0
    assert found["input stationary"].inputs <= layer.input_words
    least = {
        "weight stationary": "weights",
        "input stationary": "inputs",
        "output stationary": "sums_written",
    }
    for family, datum in least.items():
        assert getattr(found[family], datum) == min(getattr(each, datum) for each in found.values())
        assert found[family].total <= found["no local reuse"].total


def test_no_reuse_is_the_documents_four_accesses_less_each_sums_first() -> None:
    layer = LAYERS["valid"]
    assert effective_macs(layer) == layer.macs
    assert accesses(layer, "no local reuse").total == 4 * layer.macs - layer.output_words


def test_padding_takes_no_work() -> None:
    layer = ConvolutionLayer(1, 1, (3, 3), (3, 3), padding=1)
    assert (layer.macs, effective_macs(layer)) == (81, 49)


def test_energy_is_mostly_movement_where_nothing_is_kept() -> None:
    layer = ConvolutionLayer(64, 64, (56, 56), (3, 3), padding=1)
    macs = effective_macs(layer)
    kept = energy_pj(accesses(layer, "row stationary"), macs, access_pj=10.0, mac_pj=4.9)
    none = energy_pj(accesses(layer, "no local reuse"), macs, access_pj=10.0, mac_pj=4.9)
    assert none / (macs * 4.9) > 9
    assert kept < none / 2


def test_unknown_dataflow() -> None:
    for function in (accesses, walk):
        with pytest.raises(UsageError, match="did you mean 'row stationary'"):
            function(LAYERS["same"], "row-stationary")
