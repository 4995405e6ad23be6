"""A clock that jumps (a suspended laptop, a wrong battery) changes no weights and loses nothing."""

from __future__ import annotations

import ast
import os
import time
from pathlib import Path

import pytest
from tests.hardening.stage import Stage
from tests.hardening.test_disk_full import TRAIN, weights
from tests.hardening.trials import trials

import tersa
from tersa.data import cache as data_cache
from tersa.recipes.runs import read_run

SOURCE = Path(tersa.__file__).parent
WALL = {"data/cache.py": 1, "recipes/tracking.py": 1}
"""Calls of `time.time` by file: the age of leftovers in the cache, the date of a tracked run. Everything else
counts with clocks that never go back (`time.perf_counter`, `time.monotonic`)."""

JUMPING = """
import itertools, time
real, jumps = time.time, itertools.cycle([0, -3e8, 3e8, -1e9])
time.time = lambda: real() + next(jumps)
"""


def test_nothing_else_asks_the_wall_clock() -> None:
    found: dict[str, int] = {}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("time.time", "time.time_ns"):
                name = str(path.relative_to(SOURCE))
                found[name] = found.get(name, 0) + 1
    assert found.items() <= WALL.items()
    assert found


@trials(2)
def test_a_training_under_a_jumping_clock_gives_the_same_weights(stage: Stage, tmp_path: Path) -> None:
    calm, wild = tmp_path / "calm", tmp_path / "wild"
    stage.run(*TRAIN, "--out", calm, "--json").json()
    stage.run(*TRAIN, "--out", wild, before=JUMPING, largest_file=34_000)  # ends early, as a kill would
    said = stage.run(*TRAIN, "--out", wild, "--resume", "--json", before=JUMPING).json()
    assert weights(wild) == weights(calm)
    assert 0 < said["seconds"] < 3600


@pytest.mark.parametrize("age_s", [-1e9, 1e9])
def test_leftovers_from_another_time(age_s: float, tmp_path: Path) -> None:
    """A temporary file from the future is left, an old one is swept, a finished file is never touched."""
    for name in (".a.npy.x.part", "a.npy"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age_s, time.time() - age_s))
    data_cache._sweep(tmp_path)
    assert (tmp_path / "a.npy").exists()
    assert (tmp_path / ".a.npy.x.part").exists() == (age_s < 0)


@pytest.mark.parametrize("when", [-1e9, 0.0, 4e9, 1e12])
def test_a_run_of_any_date_is_listed(when: float, tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text('verb = "train"\n')
    os.utime(tmp_path / "spec.toml", (when, when))
    assert read_run(tmp_path).status == "incomplete"


@pytest.mark.parametrize("when", [-1e9, 4e9])
def test_a_digest_is_made_anew_where_the_file_has_another_time(when: float, tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(b"one")
    first = data_cache.file_digest(path)
    path.write_bytes(b"two")
    os.utime(path, (when, when))
    assert data_cache.file_digest(path) != first
