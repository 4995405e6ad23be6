"""Model files of any content are read, or refused in one line: what `--model` and `--checkpoint` take."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from tests.binary.programs import one_layer
from tests.hardening.trials import damaged, fuzz, one_line

from tersa.errors import TersaError
from tersa.export.artefact import Header, read_artefact
from tersa.export.bundle import encode
from tersa.export.coded import encode as encode_coded
from tersa.export.coded import read_coded
from tersa.export.onnx import export_onnx
from tersa.models import archive, checkpoint, lift, zoo
from tersa.prune.clustering import cluster
from tersa.recipes.subjects import find_subject
from tersa.train.checkpoint import Identity, Snapshot, read_snapshot, write_snapshot
from tersa.train.config import TrainConfig

SHAPE = (1, 4, 4)
HEADER = Header(("cat", "dog", "owl"), SHAPE, (0.5,), (0.25,))
IDENTITY = Identity(config=TrainConfig(), data="d", model={}, teacher="", evaluate_every=1)


def network() -> torch.nn.Module:
    module = zoo.build("mlp:3", SHAPE, 3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.sin(torch.arange(parameter.numel()) * 0.7).reshape(parameter.shape))
    return module.eval()


def tersa_file(folder: Path) -> bytes:
    return encode(one_layer(size=(2, 4, 4), outputs=3, kernel=3))


def onnx_file(folder: Path) -> bytes:
    return export_onnx(network(), HEADER, folder / "net.onnx").path.read_bytes()


def pt2_file(folder: Path) -> bytes:
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.export.save(torch.export.export(network(), (torch.zeros(2, *SHAPE),)), content)
    return content.getvalue()


def pt_file(folder: Path) -> bytes:
    content = io.BytesIO()
    torch.save(network().state_dict(), content)
    return content.getvalue()


def coded_file(folder: Path) -> bytes:
    return encode_coded(cluster(network(), 2), "mlp:3", HEADER, zoo.build("mlp:3", SHAPE, 3))[0]


def snapshot_file(folder: Path) -> bytes:
    weights = network().state_dict()
    snapshot = Snapshot(3, 1.0, (), weights, weights, {"state": {0: weights}}, {})
    write_snapshot(folder / "run.safetensors", snapshot, IDENTITY)
    return (folder / "run.safetensors").read_bytes()


def read_checkpoint(path: Path) -> object:
    return checkpoint.fit_(network(), checkpoint.read(path), str(path), "mlp:3")


@dataclass(frozen=True)
class Kind:
    """How a file is made and read."""

    name: str
    make: Callable[[Path], bytes]
    read: Callable[[Path], object]


KINDS = {
    "tersa": Kind("net.tersa", tersa_file, read_artefact),
    "onnx": Kind("net.onnx", onnx_file, read_artefact),
    "coded": Kind("net.coded", coded_file, read_coded),
    "checkpoint": Kind("run.safetensors", snapshot_file, lambda path: read_snapshot(path, IDENTITY)),
    "foreign onnx": Kind("net.onnx", onnx_file, lambda path: find_subject(str(path), None, foreign=True)),
    "pt2": Kind("net.pt2", pt2_file, lambda path: lift.from_export(archive.read(path))),
    "pt": Kind("net.pt", pt_file, read_checkpoint),
    "safetensors": Kind("net.safetensors", lambda folder: save(network().state_dict()), read_checkpoint),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    return {name: kind.make(folder) for name, kind in KINDS.items()}


def told(path: Path, content: bytes, read: Callable[[Path], object]) -> bool:
    path.write_bytes(content)
    try:
        read(path)
    except TersaError as error:
        one_line(error)
        return True
    return False


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_file_is_read(kind: str, whole: dict[str, bytes], tmp_path: Path) -> None:
    assert not told(tmp_path / KINDS[kind].name, whole[kind], KINDS[kind].read)


@pytest.mark.parametrize("kind", KINDS)
@fuzz(60)
@given(draw=st.data())
def test_a_damaged_file_is_read_or_refused_in_one_line(
    kind: str, whole: dict[str, bytes], tmp_path: Path, draw: st.DataObject
) -> None:
    told(tmp_path / KINDS[kind].name, draw.draw(damaged(whole[kind])), KINDS[kind].read)


@pytest.mark.parametrize("kind", KINDS)
@fuzz(40)
@given(content=st.binary(max_size=200), keep=st.integers(0, 16))
def test_any_bytes_are_refused_in_one_line(
    kind: str, whole: dict[str, bytes], tmp_path: Path, content: bytes, keep: int
) -> None:
    assert told(tmp_path / KINDS[kind].name, whole[kind][:keep] + content, KINDS[kind].read)
