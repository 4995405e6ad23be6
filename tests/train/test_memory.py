"""Freed memory is kept: the next allocation finds its pages there."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tersa.train.memory import keep_freed

COUNT = """
import resource, sys
import torch
from tersa.train.memory import keep_freed

kept = keep_freed() if sys.argv[1] == "keep" else None


def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(12_000_000)  # 48 MB, above the largest threshold that malloc sets itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


faults()
print(kept, faults())
"""


def counted(how: str) -> tuple[str, int]:
    """Whether it was kept, and page faults of ten allocations after ten others."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", COUNT, how], capture_output=True, text=True, check=True, env=clean
    )
    kept, number = done.stdout.split()
    return kept, int(number)


def test_the_second_allocation_faults_no_pages_in() -> None:
    kept, faults = counted("keep")
    if kept != "True":
        pytest.skip("this C library has no mallopt")
    assert faults < 500, "of 117,000 pages of 4 kB"
    assert counted("leave")[1] > 10 * max(faults, 100)


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_a_user_who_has_set_it_up_is_left_alone(name: str) -> None:
    assert not keep_freed({name: "1"})
