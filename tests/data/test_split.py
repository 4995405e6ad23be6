"""Cuts are stratified, disjoint, complete and repeatable; statistics agree with their definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tersa.data.split import channel_statistics, stratified, validation_count
from tersa.errors import UsageError

EXACT_FLOAT64 = 1e-12
"""Two double-precision sums of at most 1e5 values in 0..1 differ by less."""


def cut(labels: torch.Tensor, count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return stratified(labels, count, torch.Generator().manual_seed(seed))


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=6, max_size=60),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**31),
)
def test_a_cut_is_disjoint_complete_ordered_and_of_the_size_asked(
    labels: list[int], share: float, seed: int
) -> None:
    tensor = torch.tensor(labels)
    most = len(labels) - len(set(labels))
    if most < 1:
        return
    count = max(1, min(most, round(share * len(labels))))
    rest, taken = cut(tensor, count, seed)
    assert len(taken) == count
    assert sorted(rest.tolist() + taken.tolist()) == list(range(len(labels)))
    assert rest.tolist() == sorted(rest.tolist())
    assert set(tensor[rest].tolist()) == set(labels)


def test_every_class_gives_its_share() -> None:
    labels = torch.arange(1000) % 10
    _, taken = cut(labels, 200)
    assert torch.bincount(labels[taken]).tolist() == [20] * 10


def test_largest_remainders_come_first() -> None:
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])  # quotas of 5: 3.0, 1.5, 0.5
    _, taken = cut(labels, 5)
    assert torch.bincount(labels[taken], minlength=3).tolist() == [3, 2, 0]


def test_a_class_keeps_its_last_image() -> None:
    labels = torch.tensor([0, 0, 0, 0, 1])
    rest, taken = cut(labels, 3)
    assert labels[rest].tolist() == [0, 1]
    assert labels[taken].tolist() == [0, 0, 0]


def test_the_same_seed_cuts_the_same_and_another_does_not() -> None:
    labels = torch.arange(500) % 5
    first, again, other = (cut(labels, 100, seed)[1].tolist() for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    cut(torch.arange(50) % 5, 10)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("count", [0, -1, 9, 10, 11])
def test_a_cut_that_empties_a_class_is_refused(count: int) -> None:
    with pytest.raises(UsageError, match=r"cannot cut .* of 10 images in 2 classes; allowed: 1\.\.8"):
        cut(torch.arange(10) % 2, count)


@pytest.mark.parametrize(
    ("n", "asked", "expected"),
    [
        (60_000, None, 5000),
        (50_000, None, 5000),
        (49_999, None, 10_000),
        (1437, None, 287),
        (3, None, 1),
        (100, 7, 7),
        (100, 0.1, 10),
        (100, 0.001, 1),
    ],
)
def test_how_many_validation_gets(n: int, asked: float | None, expected: int) -> None:
    assert validation_count(n, asked) == expected


@pytest.mark.parametrize("asked", [0, -3, 1.0, 0.0, -0.1, 2.5, True, float("nan")])
def test_a_senseless_validation_is_refused(asked: float) -> None:
    with pytest.raises(UsageError, match="allowed: a count of 1 or more, or a fraction"):
        validation_count(100, asked)


def test_too_few_images_to_cut_any() -> None:
    with pytest.raises(UsageError, match="each class must keep one; add images"):
        cut(torch.arange(3), 1)


def images(dtype: torch.dtype) -> torch.Tensor:
    values = (torch.sin(torch.arange(5000 * 3 * 2 * 2, dtype=torch.float64)) + 1) / 2
    values = values.view(5000, 3, 2, 2)
    return (values * 255).to(torch.uint8) if dtype == torch.uint8 else values.to(torch.float32)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_statistics_are_those_of_the_definition(dtype: torch.dtype) -> None:
    stored = images(dtype)
    values = stored.double() / 255 if dtype == torch.uint8 else stored.double()
    mean, std = channel_statistics(stored)
    assert mean == pytest.approx(values.mean((0, 2, 3)).tolist(), abs=EXACT_FLOAT64)
    assert std == pytest.approx(values.std((0, 2, 3), correction=0).tolist(), abs=EXACT_FLOAT64)


@pytest.mark.parametrize("value", [torch.tensor(7, dtype=torch.uint8), torch.tensor(-3.5)])
def test_a_constant_channel_is_not_scaled(value: torch.Tensor) -> None:
    _, std = channel_statistics(value.expand(10, 2, 3, 3).contiguous())
    assert std == (1.0, 1.0)
