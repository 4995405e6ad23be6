"""The GPU script's own parts: weights in pieces, and a table whose lines stay open until something ran."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tersa.errors import TersaError
from tersa.models.load import load
from tersa.records import Epoch

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


def test_lines_stay_open_until_a_network_was_trained(script: ModuleType, tmp_path: Path) -> None:
    table = tmp_path / "results" / "t.csv"
    script.store(table)
    assert {line["test_accuracy"] for line in script.stored(table).values()} == {"not run: needs a GPU"}
    script.store(table, {**script.row("binary", None), "test_accuracy": "90.91"})
    found = {name: line["test_accuracy"] for name, line in script.stored(table).items()}
    assert found.pop("binary") == "90.91"
    assert set(found.values()) == {"not run: needs a GPU"}


def test_curves_of_networks_stand_beside_one_another(script: ModuleType, tmp_path: Path) -> None:
    def epoch(number: int, accuracy: float) -> Epoch:
        return Epoch(
            epoch=number,
            train_loss=1.0,
            train_accuracy=accuracy,
            validation_loss=1.0,
            validation_accuracy=accuracy,
            learning_rate=0.1,
            seconds=1.0,
        )

    table = tmp_path / "t.csv"
    script.store_curve("cnv", [epoch(5, 50.0)], table)
    script.store_curve("binary", [epoch(5, 60.0)], table)
    script.store_curve("cnv", [epoch(5, 51.0), epoch(10, 70.0)], table)
    lines = (tmp_path / "t_curves.csv").read_text().splitlines()
    assert lines[1:] == ["binary,5,60.00,60.00", "cnv,5,51.00,51.00", "cnv,10,70.00,70.00"]


def test_weights_of_one_bit_travel_as_bytes(script: ModuleType, tmp_path: Path) -> None:
    model = load("cnv+w1a1:first=8/8,by=ste/approx,pool=sums", (3, 32, 32), 10).module.eval()
    state = script.compact(model)
    bytewise = [name for name, tensor in state.items() if tensor.dtype == torch.int8]
    assert len(bytewise) == 8  # of nine layers the first has 8 bits
    script.write_pieces(state, tmp_path, 2_000_000)
    again = load("cnv+w1a1:first=8/8", (3, 32, 32), 10, seed=1).module.eval()
    again.load_state_dict(script.read_pieces(tmp_path))
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(images), again(images))


def test_a_training_that_is_too_slow_starts_again_with_the_epochs_that_fit(script: ModuleType) -> None:
    fit = script.Fit(400.0, began=100.0)
    fit.look(0.01, 300.0)  # not started up
    fit.look(0.02, 120.0)
    fit.look(0.10, 150.0)  # another 8 % in 30 seconds, 375 of all: as planned
    fit.look(0.50, 999.0)  # too late to start again
    with pytest.raises(script.TooSlow) as caught:
        fit.look(0.10, 184.0)
    assert caught.value.seconds == pytest.approx(800.0)
    again, epochs = fit.fewer(200, caught.value, 180.0)
    assert (again.seconds, again.began, again.running) == (320.0, 180.0, None)
    assert epochs == int(200 * 320 / (1.04 * 800))
