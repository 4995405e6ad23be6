"""Tiles: the six networks of document 000, layouts by hand, refusals."""

import pytest

from tersa.errors import UsageError
from tersa.quant.tiles import Placement, by_count, by_geometry

DOCUMENT = {
    "1x4": (3_190, 1, 2),
    "6x20": (18_010, 5, 9),
    "2x50": (42_310, 11, 21),
    "3x50": (44_860, 11, 22),
    "2x100": (89_610, 22, 44),
    "3x100": (99_710, 25, 49),
}
"""Parameters, tiles with one synapse a weight, tiles with pairs."""


def layers(name: str) -> list[tuple[int, int]]:
    depth, width = (int(part) for part in name.split("x"))
    sizes = [784, *[width] * depth, 10]
    return list(zip(sizes[1:], sizes[:-1], strict=True))


@pytest.mark.parametrize("name", DOCUMENT)
def test_tiles_of_the_documents_networks(name: str) -> None:
    parameters, tiles, paired = DOCUMENT[name]
    assert sum(outputs * (inputs + 1) for outputs, inputs in layers(name)) == parameters
    assert by_count(parameters).tiles == tiles
    assert by_count(parameters, pairs=True) == Placement(2 * parameters, paired, 4096)


@pytest.mark.parametrize("name", DOCUMENT)
def test_both_ways_hold_the_same_synapses(name: str) -> None:
    counted, laid = by_count(DOCUMENT[name][0]), by_geometry(layers(name))
    assert laid.synapses == counted.synapses
    assert laid.tiles >= counted.tiles
    assert 0 < laid.occupancy <= counted.occupancy <= 1


def test_one_hidden_layer_of_four_fits_one_chip() -> None:
    assert by_count(3190).occupancy == 3190 / 4096


def test_layout_by_hand() -> None:
    # 785 rows are 13 blocks of 64, 100 columns are 2, 200 columns (pairs) are 4; 101 rows are 2
    assert by_geometry([(100, 784), (10, 100)]).tiles == 13 * 2 + 2
    assert by_geometry([(100, 784), (10, 100)], pairs=True).tiles == 13 * 4 + 2


def test_bias_needs_a_row_of_its_own() -> None:
    assert by_geometry([(64, 63)]) == Placement(4096, 1, 4096)
    assert by_geometry([(64, 64)]) == Placement(64 * 65, 2, 4096)


def test_convolution_is_a_matrix() -> None:
    assert by_geometry([(64, 32, 5, 5)]) == by_geometry([(64, 800)])


def test_other_tiles() -> None:
    assert by_geometry([(8, 15)], rows=4, columns=2) == Placement(128, 16, 8)
    assert by_count(10, capacity=3).tiles == 4


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: by_count(0), "parameters is 0"),
        (lambda: by_count(5, capacity=0), "capacity is 0"),
        (lambda: by_geometry([]), "layers is 0"),
        (lambda: by_geometry([(1, 1)], rows=-1), "rows is -1"),
    ],
)
def test_refusals_name_the_value(call, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        call()
