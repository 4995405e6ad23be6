"""Statistics against simulation and closed forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tersa.numerics import bootstrap_interval, digest, paired_loss

ANSWERS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


@given(ANSWERS)
def test_paired_loss_is_the_mean_and_its_standard_error(pairs: list[tuple[bool, bool]]) -> None:
    before, after = np.array(pairs, dtype=float).T
    found = paired_loss(before, after)
    difference = before - after
    assert found.points == pytest.approx(100 * difference.mean())
    assert found.standard_error == pytest.approx(100 * difference.std() / np.sqrt(len(pairs)), abs=1e-9)
    assert found.pessimistic >= found.points + 100 / len(pairs) - 1e-9, "never less than one image"


@given(ANSWERS)
def test_paired_loss_changes_sign_with_its_sides(pairs: list[tuple[bool, bool]]) -> None:
    before, after = np.array(pairs).T
    assert paired_loss(before, after).points == -paired_loss(after, before).points


@pytest.mark.parametrize(("a", "b"), [([1, 0], [1]), ([], []), ([[1]], [[1]])])
def test_paired_loss_refuses_what_is_not_paired(a: list, b: list) -> None:
    with pytest.raises(ValueError, match="two equal, non-empty vectors"):
        paired_loss(a, b)


def test_bootstrap_interval_covers_the_mean() -> None:
    """Of 200 samples of a normal distribution, about 95 % of the intervals hold its mean."""
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        values = rng.normal(3.0, 1.0, size=40)
        low, high = bootstrap_interval(values, lambda x: x.mean(axis=1), seed=trial, resamples=400)
        assert low < high
        held += low <= 3.0 <= high
    assert 180 <= held <= 200


def test_bootstrap_interval_follows_its_seed() -> None:
    values = np.arange(10.0)
    first = bootstrap_interval(values, lambda x: np.median(x, axis=1), seed=1)
    assert first == bootstrap_interval(values, lambda x: np.median(x, axis=1), seed=1)


def test_digest_is_stable_over_releases() -> None:
    assert digest({"b": 1, "a": [1.5, None]}) == digest({"a": [1.5, None], "b": 1}) == "cf0c4895ed707baa"
