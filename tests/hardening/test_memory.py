"""Commands stay under the memory ceilings that `docs/reliability.md` states."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from tests.hardening.stage import Stage
from tests.hardening.test_kill import ADAPT, PRUNE

DOCS = Path(__file__).parents[2] / "docs" / "reliability.md"
MB = 1_000_000
ROW = re.compile(r"^\| `tersa ([a-z ]+)` \| (\d+|–) \| (\d+|–) \| (\d+) \|$", re.MULTILINE)
"""Verb, peak on digits, peak on MNIST, ceiling; all in MB, a dash where it was not measured."""
LENET = ["--data", "digits", "--model", "lenet", "--epochs", "1", "--threads", "1"]


def ceilings() -> dict[str, int]:
    return {verb: int(most) for verb, _, _, most in ROW.findall(DOCS.read_text(encoding="utf-8"))}


def test_every_ceiling_is_above_what_was_measured() -> None:
    rows = ROW.findall(DOCS.read_text(encoding="utf-8"))
    assert len(rows) >= 7
    for verb, *sizes in rows:
        assert all(int(size) < int(sizes[2]) for size in sizes[:2] if size.isdigit()), verb


@pytest.mark.slow
def test_quick_commands_stay_under_their_ceilings(stage: Stage, tmp_path: Path) -> None:
    """`train`, `export`, `predict`, `bench`, `study run` on digits, one after the other."""
    limits = ceilings()
    np.save(tmp_path / "image.npy", np.zeros((64, 64), np.uint8))
    run, net = tmp_path / "run", tmp_path / "net.onnx"
    study = ["--model", "mlp:100x100", "--epochs", "1", "--bits", "2,3,4,8", "--seeds", "1", "--workers", "1"]
    jobs = {
        "train": ["train", *LENET, "--out", run],
        "export": ["export", "--run", run, "--out", net],
        "predict": ["predict", net, tmp_path / "image.npy", "--resize"],
        "bench": ["bench", net, "--data", "digits", "--targets", "onnxruntime", "--seconds", "0.02"],
        "study run": ["study", "run", "--data", "digits", *study, "--out", tmp_path / "study"],
    }
    for verb, words in jobs.items():
        done = stage.run(*words)
        assert done.code == 0, done.err
        assert done.peak_bytes < limits[verb] * MB, f"tersa {verb}: {done.peak_bytes / MB:.0f} MB"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("words", [PRUNE, ADAPT], ids=lambda words: words[0])
def test_compressions_stay_under_their_ceilings(words: list[str], stage: Stage, tmp_path: Path) -> None:
    done = stage.run(*words, "--out", tmp_path / "run")
    assert done.code in (0, 3), done.err
    assert done.peak_bytes < ceilings()[words[0]] * MB
