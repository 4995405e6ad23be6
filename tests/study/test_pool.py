"""Workers that cannot begin: what is told of them."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tersa.errors import DataError, TersaError
from tersa.study.cluster import Crew
from tersa.study.gather import gather


def broken() -> Callable[[int], int]:
    raise DataError("no data here")


def gone() -> Callable[[int], int]:
    os._exit(3)


def test_an_error_before_the_first_job_is_told_with_its_traceback() -> None:
    with pytest.raises(TersaError) as caught:
        gather([1], broken, Crew(workers=2), what="row")
    first, *rest = str(caught.value).splitlines()
    assert first == "a worker process could not begin: tersa.errors.DataError: no data here"
    assert rest[0] == "Traceback (most recent call last):"
    assert rest[-1].endswith("DataError: no data here")


def test_a_worker_that_dies_before_it_began_is_told_in_neutral_words() -> None:
    with pytest.raises(TersaError, match=r"ended by exit code 3 before it began; .* start the work under"):
        gather([1], gone, Crew(workers=2), what="row")
