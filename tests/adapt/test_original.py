"""The published search for widths: its grid, its estimates, and what each remedy leaves of its work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.interpolate import Rbf

from tersa.adapt.anatomy import Anatomy, Channels, Family, Layer
from tersa.adapt.original import Estimator, Found, How, bisected, cut, published_table
from tersa.recipes.published_adaptation import bisection_example

CONV, DENSE = Family("conv", (3, 3), size=(4, 4)), Family("linear")
POOL = Family("max-pool", (2, 2), (2, 2), size=(4, 4))
NET = Anatomy(
    (
        Layer("conv", CONV, Channels(16), Channels(0, ((0, 1),))),
        Layer("pool", POOL, Channels(0, ((0, 1),)), Channels(0, ((0, 1),))),
        Layer("fc", DENSE, Channels(0, ((0, 4),)), Channels(0, ((1, 1),))),
        Layer("out", DENSE, Channels(0, ((1, 1),)), Channels(10)),
    ),
    ("conv", "fc"),
    (32, 512),
)  # fmt: skip
WHOLE = [32, 512]


def cost(family: Family, inputs: int, outputs: int) -> float:
    return (family.operation == "conv") * 4.0 + inputs * outputs / 1000


@pytest.fixture
def table() -> dict[int, dict[tuple[int, int], float]]:
    return published_table(NET, cost)


def estimator(table: dict[int, dict[tuple[int, int], float]], path: Path, **how: bool) -> Estimator:
    return Estimator(NET, table, How(**how), path / "table")


def test_the_grid_goes_down_in_eights_and_sixty_fours(table: dict[int, dict[tuple[int, int], float]]) -> None:
    assert sorted(table) == [0, 2, 3], "convolutions and fully connected layers alone"
    assert sorted(table[0]) == [(i, o) for i in (8, 16) for o in (8, 16, 24, 32)]
    assert len(table[2]) == 2 * 8
    assert (64, 448) in table[2]
    assert sorted(table[3]) == [(i, 10) for i in range(64, 513, 64)]


def test_an_estimate_is_measured_points_and_cubic_interpolators(
    table: dict[int, dict[tuple[int, int], float]], tmp_path: Path
) -> None:
    one = estimator(table, tmp_path)
    assert one.at(WHOLE) == pytest.approx(
        sum(cost(*layer) for n, layer in enumerate(NET.channels()) if n != 1)
    )
    assert one.built == 0
    found = one.at([32, 500])
    assert one.built == 2, "inputs of the output layer and outputs of the one before"
    places = np.array(sorted(table[2]), float)
    fc = Rbf(places[:, 0], places[:, 1], [table[2][i, o] for i, o in sorted(table[2])], function="cubic")
    places = np.array(sorted(table[3]), float)
    out = Rbf(places[:, 0], places[:, 1], [table[3][i, o] for i, o in sorted(table[3])], function="cubic")
    assert found == pytest.approx(table[0][16, 32] + float(fc(128, 500)) + float(out(500, 10)))


def search(table: dict[int, dict[tuple[int, int], float]], path: Path, **how: bool) -> Found:
    one = estimator(table, path, **how)
    return cut(one, 1, WHOLE, one.at(WHOLE) - 20.0)


def test_remedies_leave_the_width_and_take_work_away(
    table: dict[int, dict[tuple[int, int], float]], tmp_path: Path
) -> None:
    plain = search(table, tmp_path)
    assert plain.width is not None
    assert plain.tries == (512 - plain.width) // 8 + 1
    others = [
        search(table, tmp_path, **how)
        for how in ({"bisect": True}, {"once": True}, {"once": True, "memory": True})
    ]
    assert {each.width for each in others} == {plain.width}
    assert others[0].tries < plain.tries
    assert others[1].tries == others[2].tries == plain.tries
    assert plain.built > 2 * others[0].built > 2 * others[1].built == 2 * 2


def test_interpolators_that_are_charged_are_counted_and_change_nothing(
    table: dict[int, dict[tuple[int, int], float]], tmp_path: Path
) -> None:
    whole = search(table, tmp_path)
    few = Estimator(NET, table, How(), tmp_path / "table", builds=1)
    found = cut(few, 1, WHOLE, few.at(WHOLE) - 20.0)
    assert (found.width, found.tries, found.built) == (whole.width, whole.tries, whole.built)
    assert few.charged > 0
    assert found.seconds > few.charged


def test_nothing_below_the_constraint_is_no_width(
    table: dict[int, dict[tuple[int, int], float]], tmp_path: Path
) -> None:
    for bisect in (False, True):
        one = estimator(table, tmp_path, bisect=bisect, once=True)
        assert cut(one, 0, WHOLE, 1.0).width is None


def test_the_documents_example_of_a_bisection() -> None:
    """Figure 5.6: five estimates where a linear search takes ten."""
    latency = dict(bisection_example())
    asked: list[int] = []

    def meets(width: int) -> bool:
        asked.append(width)
        return latency[width] <= 0.5

    left = bisected(sorted(latency, reverse=True), meets, threshold=1)
    assert next(width for width in left if meets(width)) == 24
    assert len(asked) <= 6
    asked.clear()
    assert next(width for width in sorted(latency, reverse=True) if meets(width)) == 24
    assert len(asked) == 10
