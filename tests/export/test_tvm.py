"""Apache TVM compiles the plain ONNX files as docs/export-formats.md shows; its Relay is gone."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.export.low_bit import BITS, HEADER, logits, perceptron, pixels, residual, settled
from torch import nn

from tersa.export.onnx import as_pixels, export_onnx

pytestmark = pytest.mark.runtime

IMAGES = pixels(6)


def compiled(path: Path, batch: int) -> Any:
    """The lines of the page."""
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    module = from_onnx(onnx.load(path), shape_dict={"pixels": [batch, *HEADER.shape]})
    program = tvm.compile(relax.get_pipeline("zero")(module), target="llvm")
    machine = relax.VirtualMachine(program, tvm.cpu())
    return lambda images: machine["main"](tvm.runtime.tensor(images)).numpy()


@pytest.mark.parametrize("name", ["perceptron", "residual 2/2"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_tvm_gives_the_networks_logits(name: str, tmp_path: Path) -> None:
    pytest.importorskip("tvm")
    network: nn.Module = settled(perceptron() if name == "perceptron" else residual(BITS["2/2"]))
    path = export_onnx(network, HEADER, tmp_path / "net.onnx").path
    found = compiled(path, len(IMAGES))(as_pixels(IMAGES))
    np.testing.assert_allclose(found, logits(network, IMAGES), rtol=0, atol=2e-6)


def test_the_way_over_pyxir_is_gone() -> None:
    """PyXIR hooks into TVM's Relay: when that comes back, the page is to be written anew."""
    pytest.importorskip("tvm")
    assert importlib.util.find_spec("tvm.relay") is None
    assert importlib.util.find_spec("tvm.contrib") is None or not importlib.util.find_spec(
        "tvm.contrib.target"
    )
