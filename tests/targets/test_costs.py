"""Multiply-accumulates and bytes of a file's nodes, by hand and against the module they came from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tersa.errors import ModelError
from tersa.export.artefact import Artefact, Header
from tersa.export.onnx import export_onnx
from tersa.models import build
from tersa.models.summary import summary
from tersa.targets.costs import file_costs


def test_a_convolution_and_a_product_by_hand(artefact: Artefact) -> None:
    costs = {one.name: one for one in file_costs(artefact.path, 2, "fp32") if one.macs}
    # 8x8 pixels, 3x3 kernel, 4 channels of 6x6; pooled to 3x3, 36 inputs to 3 classes; two images
    assert costs["0"].macs == 2 * 4 * 36 * 9
    assert costs["0"].weight_bytes == 4 * (4 * 9 + 4)
    assert costs["0"].moved_bytes == 4 * (2 * 64 + 36 + 4 + 2 * 4 * 36)
    assert costs["4"].macs == 2 * 36 * 3
    assert costs["4"].shape == (2, 3)


def test_int8_moves_a_quarter(artefact: Artefact, int8_artefact: Artefact) -> None:
    exact = {one.name: one for one in file_costs(artefact.path, 1, "fp32")}
    integer = {one.name: one for one in file_costs(int8_artefact.path, 1, "int8")}
    assert integer["0"].macs == exact["0"].macs
    assert not any(one.kind.endswith("Linear") for one in integer.values() if one.kind.startswith(("Q", "D")))
    assert integer["4"].moved_bytes < 0.5 * exact["4"].moved_bytes


def test_sixteen_bits_move_half(artefact: Artefact) -> None:
    exact, half = (sum(one.moved_bytes for one in file_costs(artefact.path, 1, p)) for p in ("fp32", "bf16"))
    assert half == exact // 2


@pytest.mark.parametrize("spec", ["lenet:2-3-4", "mobilenet:0.05", "vit:1x16"])
def test_the_sum_is_the_modules(spec: str, tmp_path: Path) -> None:
    header = Header(tuple("abc"), (1, 8, 8), (0.3,), (0.4,))
    module = build(spec, (1, 8, 8), 3)
    with torch.no_grad():  # equal tensors would be stored once, and name no layer
        for index, tensor in enumerate(module.parameters()):
            tensor.add_(torch.sin(torch.arange(tensor.numel()) + index).view_as(tensor) / 10)
    path = export_onnx(module, header, tmp_path / "net.onnx").path
    costs = file_costs(path, 1, "fp32")
    assert sum(one.macs for one in costs) == summary(module, (1, 8, 8)).macs
    named = {row.name for row in summary(module, (1, 8, 8)).rows if row.macs and row.name != "(functions)"}
    assert named <= {one.name for one in costs}


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"net\.tersa is no ONNX file"):
        file_costs(tmp_path / "net.tersa", 1, "fp32")
