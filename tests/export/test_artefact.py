"""The header: what it accepts, what it refuses, and files that are no artefacts."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from torch import nn

from tersa.errors import ModelError
from tersa.export.artefact import Header, open_session, read_artefact
from tersa.export.onnx import export_onnx

HEADER = Header(
    ('a "quoted" name', "größe"), (3, 8, 9), (0.1, 0.2, 0.3), (0.5, 1.0 / 3.0, 0.7), "int8", "1.2.3"
)


def test_the_header_survives_the_file_exactly() -> None:
    assert Header.parse(HEADER.properties(), "x.onnx") == HEADER


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": "2"}, "has schema 2, this tersa reads up to 1"),
        ({"schema": "?"}, "damaged"),
        ({"input_shape": "[1, 2]"}, "damaged"),
        ({"classes": "not json"}, "damaged"),
        ({"classes": '"abcdef"'}, "classes is no list"),
        ({"classes": "[1, 2]"}, "classes is no list of texts"),
        ({"classes": "[]"}, "classes is no list of texts"),
        ({"classes": '["cat\\u001b[2J", "dog"]'}, r"class name 'cat\\x1b\[2J' holds control characters"),
        ({"classes": '["cat\\ud800", "dog"]'}, "holds control characters or no UTF-8"),
        ({"precision": "\x1b[2J"}, r"unknown precision '\\x1b\[2J'"),
        ({"input_shape": "[3, 0, 0]"}, "not .C, H, W. of an image"),
        ({"input_shape": "[1e400, 8, 9]"}, "not .C, H, W. of an image"),
        ({"input_shape": "[3, 99999, 99999]"}, "not .C, H, W. of an image"),
        ({"mean": "[NaN, 0, 0]"}, "mean .* no list of finite numbers"),
        ({"std": f"[1{'0' * 400}, 1, 1]"}, "damaged"),
        ({"mean": "[0.5]"}, "3 channels need as many means"),
        ({"precision": "int3"}, "unknown precision"),
    ],
)
def test_a_damaged_header_is_refused(change: dict[str, str], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        Header.parse({**HEADER.properties(), **change}, "x.onnx")


def test_a_missing_key_is_named() -> None:
    properties = HEADER.properties()
    del properties["std"]
    with pytest.raises(ModelError, match=r"x\.onnx has damaged tersa metadata: 'std'"):
        Header.parse(properties, "x.onnx")


def test_a_file_of_another_program_is_told_apart() -> None:
    with pytest.raises(ModelError, match="was not written by tersa"):
        Header.parse({"producer": "other"}, "x.onnx")


def test_a_standard_deviation_must_be_positive() -> None:
    with pytest.raises(ModelError, match="above 0"):
        Header(("a",), (1, 2, 2), (0.0,), (0.0,))


def test_no_file_and_no_onnx_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no file"):
        read_artefact(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"\x00\x01 not a model")
    with pytest.raises(ModelError, match="not an ONNX file") as caught:
        open_session(tmp_path / "bad.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": '["a"]'},
        {"classes": '["a", "b", "c"]'},
        {"input_shape": "[1, 4, 4]"},
        {"input_shape": "[2, 2, 2]", "mean": "[0, 0]", "std": "[1, 1]"},
    ],
)
def test_metadata_that_do_not_fit_the_network_are_refused(tmp_path: Path, change: dict[str, str]) -> None:
    header = Header(("a", "b"), (1, 2, 2), (0.0,), (1.0,))
    path = export_onnx(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), header, tmp_path / "net.onnx").path
    assert read_artefact(path).header == header
    model = onnx.load(path)
    onnx.helper.set_model_props(model, header.properties() | change)
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"its network takes \(1, 2, 2\) and gives \(2,\)"):
        read_artefact(path)
