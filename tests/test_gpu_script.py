"""The GPU script's own parts: weights in pieces, and a table whose lines stay open until something ran."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tersa.errors import TersaError

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu" / "bvgg16.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_bvgg16", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


STATE = {f"layer{i}": torch.sin(torch.arange(100) * (i + 0.7)) for i in range(5)}


def test_weights_come_back_from_pieces_of_limited_size(script: ModuleType, tmp_path: Path) -> None:
    paths = script.write_pieces(STATE, tmp_path, 900)  # two tensors of 400 bytes each
    assert [path.name for path in paths] == [f"part-{i}-of-3.safetensors" for i in (1, 2, 3)]
    again = script.read_pieces(tmp_path)
    assert list(again) == list(STATE)
    assert all(torch.equal(again[name], STATE[name]) for name in STATE)


def test_a_missing_piece_and_too_large_a_tensor_are_refused(script: ModuleType, tmp_path: Path) -> None:
    script.write_pieces(STATE, tmp_path, 900)[1].unlink()
    with pytest.raises(TersaError, match="holds 2 pieces, and not all"):
        script.read_pieces(tmp_path)
    with pytest.raises(TersaError, match="layer0 has 400 bytes, pieces at most 399; raise --limit"):
        script.write_pieces(STATE, tmp_path, 399)


def test_lines_stay_open_until_a_network_was_trained(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "RESULTS", tmp_path / "results" / "t.csv")
    script.store()
    assert [line["test_accuracy"] for line in script.stored().values()] == ["not run: needs a GPU"] * 2
    script.store({**script.row("binary", None), "test_accuracy": "90.91"})
    assert [line["test_accuracy"] for line in script.stored().values()] == ["90.91", "not run: needs a GPU"]
