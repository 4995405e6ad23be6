"""SIGKILL at random moments of a long command: resumed, it ends with the bytes of an undisturbed run.

`train`, `study run`, `shrink`, `data get` and the reproductions have kill tests beside their own code, too;
the fault table in `docs/reliability.md` names them.
"""

from __future__ import annotations

import hashlib
import random
import signal
from pathlib import Path

import pytest
from tests.hardening.stage import Stage
from tests.hardening.test_disk_full import STUDY, TRAIN, halves
from tests.hardening.trials import trials

from tersa.study.store import StudyStore

NET = ["--data", "digits", "--model", "mlp:24x16", "--epochs", "2", "--threads", "1"]
LITTLE = ["--tune", "10", "--measure-seconds", "0.02"]
FP32 = ["--precision", "fp32"]
PRUNE = [
    "prune",
    *NET,
    *LITTLE,
    *FP32,
    "--parameters",
    "0.5x",
    "--retrain",
    "4",
    "--criterion-samples",
    "100",
]
ADAPT = ["adapt", *NET, *LITTLE, "--macs", "0.5x"]
BENCH = ["bench", "mlp:8", "mlp:16", "--data", "digits", "--targets", "torch", "--batch", "1,2"]
BENCH += ["--seconds", "0.02"]
KILLS, FEW = 4, 2


def digests(folder: Path) -> dict[str, str]:
    """sha256 of everything that is shipped."""
    shipped = [path for path in folder.glob("*") if path.suffix in (".onnx", ".safetensors")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(shipped)}


def kill_often(
    stage: Stage, words: list[str], out: Path, calm_s: float, seed: int, kills: int = KILLS
) -> int:
    """Start, or go on, and kill after a random share of the time that an undisturbed run takes; how often."""
    chance = random.Random(seed)
    killed = 0
    for _ in range(kills):
        after = chance.uniform(0.05, 0.95) * calm_s
        done = stage.run(*words, "--out", out, "--resume", kill_after_s=after)
        assert done.code in (0, 3, -signal.SIGKILL), done.err
        killed += done.code == -signal.SIGKILL
    return killed


@trials(KILLS)
def test_a_training_killed_at_random_ends_the_same(stage: Stage, tmp_path: Path) -> None:
    calm = stage.run(*TRAIN, "--out", tmp_path / "calm", "--json")
    calm.json()
    assert kill_often(stage, TRAIN, tmp_path / "rough", calm.seconds, 3) > 0
    stage.run(*TRAIN, "--out", tmp_path / "rough", "--resume", "--json").json()
    assert digests(tmp_path / "rough") == digests(tmp_path / "calm")
    assert halves(tmp_path / "rough") == []


@trials(KILLS)
def test_a_study_killed_at_random_ends_the_same(stage: Stage, tmp_path: Path) -> None:
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    done = stage.run(*STUDY, "--out", calm, "--json")
    done.json()
    assert kill_often(stage, STUDY, rough, done.seconds, 4) > 0
    stage.run(*STUDY, "--out", rough, "--resume", "--json").json()
    with StudyStore(calm / "study.db") as a, StudyStore(rough / "study.db") as b:
        assert [row.model_dump(exclude={"seconds"}) for row in a.results()] == [
            row.model_dump(exclude={"seconds"}) for row in b.results()
        ]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("words", [PRUNE, ADAPT], ids=["prune", "adapt"])
@trials(FEW)
def test_a_compression_killed_at_random_ends_with_the_same_bytes(
    words: list[str], stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = stage.run(*words, "--out", tmp_path / "calm", "--json")
    done.json()
    monkeypatch.setenv("TERSA_CACHE", str(tmp_path / "another cache"))
    assert kill_often(stage, words, tmp_path / "rough", done.seconds, 5, FEW) > 0
    stage.run(*words, "--out", tmp_path / "rough", "--resume", "--json").json()
    assert digests(tmp_path / "rough") == digests(tmp_path / "calm")
    assert "model.onnx" in digests(tmp_path / "rough")
    assert halves(tmp_path / "rough") == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
@trials(FEW)
def test_a_bench_killed_at_random_measures_every_cell_once(stage: Stage, tmp_path: Path) -> None:
    done = stage.run(*BENCH, "--out", tmp_path / "calm", "--json")
    wanted = [cell(row) for row in done.json()["measurements"]]
    assert kill_often(stage, BENCH, tmp_path / "rough", done.seconds, 6, FEW) > 0
    found = stage.run(*BENCH, "--out", tmp_path / "rough", "--resume", "--json").json()
    assert sorted(map(cell, found["measurements"])) == sorted(wanted)
    assert digests(tmp_path / "rough") == digests(tmp_path / "calm")


def cell(row: dict[str, object]) -> tuple[str, ...]:
    """What was measured."""
    return tuple(str(row[name]) for name in ("model", "target", "precision", "batch", "threads"))
