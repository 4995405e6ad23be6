"""The same command with the same seed gives the same bytes, in two processes that hash differently."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.hardening.test_disk_full import STUDY, TRAIN
from tests.hardening.test_kill import FP32, LITTLE, NET, PRUNE, digests
from tests.hardening.trials import trials

from tersa.study.store import StudyStore

SHRINK = ["shrink", *NET, *LITTLE, *FP32, "--max-loss", "20", "--share", "0.3", "--retrain", "4"]
SHRINK += ["--criterion-samples", "100"]


def twice(words: list[str], tmp_path: Path) -> tuple[Path, Path]:
    """Two folders, each made by a process of its own, with a cache of its own."""
    for number in (1, 2):
        environment = {
            **os.environ,
            "PYTHONHASHSEED": str(number),
            "OMP_NUM_THREADS": "1",
            "TERSA_CACHE": str(tmp_path / f"cache{number}"),
        }
        command = [sys.executable, "-m", "tersa", *words, "--out", str(tmp_path / f"run{number}")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode in (0, 3), done.stderr
    return tmp_path / "run1", tmp_path / "run2"


def study_digest(folder: Path) -> str:
    """sha256 of every run, epoch and layer of a study, without the seconds."""
    with StudyStore(folder / "study.db") as store:
        rows = [row.model_dump_json(exclude={"seconds"}) for row in store.results()]
    assert len(rows) == 4
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


@pytest.mark.slow
@trials(2)
def test_a_study_twice(tmp_path: Path) -> None:
    one, two = twice(STUDY, tmp_path)
    assert study_digest(one) == study_digest(two)


@pytest.mark.slow
@trials(2)
def test_a_training_twice(tmp_path: Path) -> None:
    one, two = twice(TRAIN, tmp_path)
    assert digests(one) == digests(two)
    assert set(digests(one)) >= {"model.safetensors"}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("words", [SHRINK, PRUNE], ids=["shrink", "prune"])
@trials(2)
def test_a_compression_twice(words: list[str], tmp_path: Path) -> None:
    one, two = twice(words, tmp_path)
    assert digests(one) == digests(two)
    assert set(digests(one)) >= {"model.safetensors", "model.onnx"}


def test_another_seed_gives_other_bytes(tmp_path: Path) -> None:
    """The comparison can fail."""
    from tersa.recipes.train import Setting, run_training
    from tersa.recipes.train_request import TrainRequest

    for seed in (0, 1):
        request = TrainRequest(data="digits", model="mlp:4", settings={"epochs": 1, "seed": seed})
        run_training(request, tmp_path / str(seed), setting=Setting(threads=1))
    assert digests(tmp_path / "0") != digests(tmp_path / "1")
