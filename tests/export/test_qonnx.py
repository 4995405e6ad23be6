"""QONNX files: quantisers as nodes, data types that qonnx infers, logits that qonnx computes.

FINN itself is no package and is not run here. Its steps that the qonnx package has are applied, and those
that it has not (`BipolarQuant` and `Quant` as `MultiThreshold`) are done here by their definition.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from tests.export.low_bit import (
    BITS,
    FLOAT_ENDS,
    HEADER,
    SHAPE,
    logits,
    perceptron,
    pixels,
    plain,
    residual,
    settled,
    unpadded,
)
from torch import nn

from tersa.errors import ModelError, TargetError
from tersa.export import qonnx_check
from tersa.export.qonnx import DOMAIN, OPSET, build_qonnx, export_qonnx
from tersa.export.qonnx_check import as_bytes, classify_qonnx, with_batch
from tersa.models.lowbit import LowBits

IMAGES = pixels(12)


def quantisers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.domain == DOMAIN]


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}


def test_the_file_is_what_finn_asks_for(tmp_path: Path) -> None:
    path = export_qonnx(settled(plain(BITS["binary"])), HEADER, tmp_path / "net.onnx").path
    model = onnx.load(path)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": OPSET, DOMAIN: 1}
    assert [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim] == [1, *SHAPE]
    kinds = {node.op_type for node in model.graph.node}
    assert kinds <= {"BipolarQuant", "Conv", "MatMul", "Mul", "Add", "MaxPool", "ReduceSum"}
    assert all(len(node.input) == 2 for node in model.graph.node if node.op_type == "Conv")  # no bias
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert {entry.key: entry.value for entry in model.metadata_props}["input_values"] == "bytes 0..255"


def test_quantisers_have_scale_one_and_no_zero_point() -> None:
    model = build_qonnx(settled(plain(BITS["ternary/3"])), HEADER)
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    quants = [node for node in quantisers(model) if node.op_type == "Quant"]
    assert len(quants) == 10  # five layers, five activations (one behind the vote)
    for node in quants:
        assert stored[node.input[1]] == 1
        assert stored[node.input[2]] == 0
        assert attributes(node)["signed"] == 1
        assert attributes(node)["rounding_mode"] == b"ROUND"
    assert sorted(int(stored[node.input[3]]) for node in quants) == [2] * 5 + [3] * 5


def test_equal_networks_give_equal_bytes(tmp_path: Path) -> None:
    first, second = (export_qonnx(settled(plain(BITS["2/2"])), HEADER, tmp_path / name).path for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_xnor_net_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match=r"scale=xnor has one; export it with --format onnx"):
        build_qonnx(settled(plain(LowBits(xnor=True, scale="channel"))), HEADER)


def test_float_networks_are_refused() -> None:
    with pytest.raises(ModelError, match="this one has only float layers; export it as onnx"):
        build_qonnx(nn.Sequential(nn.Flatten(), nn.Linear(4, 5)), HEADER)


def test_unknown_layers_are_named() -> None:
    network = settled(perceptron())
    with pytest.raises(ModelError, match="knows no Tanh"):
        build_qonnx(nn.Sequential(network, nn.Tanh()), HEADER)


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(qonnx_check, "find_spec", lambda name: None)
    with pytest.raises(TargetError, match=r"pip install 'tersa\[qonnx\]'"):
        classify_qonnx(tmp_path / "net.onnx", IMAGES)


def test_floats_become_the_nearest_bytes() -> None:
    assert as_bytes(torch.tensor([0.0, 0.2, 1.0])).tolist() == [0, 51, 255]


@pytest.mark.runtime
@pytest.mark.parametrize("name", BITS)
@pytest.mark.parametrize("topology", [plain, residual])
def test_qonnx_computes_the_networks_logits(topology: Any, name: str, tmp_path: Path) -> None:
    pytest.importorskip("qonnx")
    network = settled(topology(BITS[name]))
    path = export_qonnx(network, HEADER, tmp_path / "net.onnx").path
    np.testing.assert_array_equal(classify_qonnx(path, IMAGES), logits(network, IMAGES))


@pytest.mark.runtime
def test_float_ends_are_equal_up_to_rounding(tmp_path: Path) -> None:
    pytest.importorskip("qonnx")
    network = settled(plain(FLOAT_ENDS))
    path = export_qonnx(network, HEADER, tmp_path / "net.onnx").path
    np.testing.assert_allclose(classify_qonnx(path, IMAGES), logits(network, IMAGES), rtol=0, atol=1e-5)


@pytest.mark.runtime
def test_images_of_another_shape_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("qonnx")
    path = export_qonnx(settled(perceptron()), HEADER, tmp_path / "net.onnx").path
    with pytest.raises(ModelError, match=r"takes images of shape \(3, 9, 9\), got \(1, 9, 9\)"):
        classify_qonnx(path, IMAGES[:, :1])


# As FINN reads it -----------------------------------------------------------------------------------------


def read(network: nn.Module, batch: int = len(IMAGES)) -> Any:
    """A model in qonnx's wrapper, with shapes, unique names and data types."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.general import GiveReadableTensorNames, GiveUniqueNodeNames
    from qonnx.transformation.infer_datatypes import InferDataTypes
    from qonnx.transformation.infer_shapes import InferShapes

    model = ModelWrapper(with_batch(build_qonnx(network, HEADER), batch))
    for step in (InferShapes(), GiveUniqueNodeNames(), GiveReadableTensorNames(), InferDataTypes()):
        model = model.transform(step)
    return model


def run(model: Any) -> npt.NDArray[np.float32]:
    from qonnx.core.onnx_exec import execute_onnx

    name, result = model.graph.input[0].name, model.graph.output[0].name
    size = model.get_tensor_shape(name)[0]
    parts = np.split(IMAGES.astype(np.float32), len(IMAGES) // size)
    return np.concatenate([execute_onnx(model, {name: part})[result] for part in parts])


def folded(model: Any) -> Any:
    """Weights through their quantisers, once and for all."""
    from qonnx.transformation.fold_constants import FoldConstants

    return model.transform(FoldConstants(exclude_op_types=[]))


def thresholded(model: Any) -> Any:
    """`Quant` and `BipolarQuant` as `MultiThreshold`, as FINN's importer does: thresholds at half steps."""
    from qonnx.transformation.infer_datatypes import InferDataTypes

    for node in list(model.graph.node):
        if node.op_type not in ("Quant", "BipolarQuant"):
            continue
        bits = 1 if node.op_type == "BipolarQuant" else int(model.get_initializer(node.input[3]))
        low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
        ends = [0.0] if bits == 1 else [level - 0.5 for level in range(low + 1, high + 1)]
        model.set_initializer(f"{node.name}_ends", np.array([ends], np.float32))
        node.op_type, node.input[:] = "MultiThreshold", [node.input[0], f"{node.name}_ends"]
        node.ClearField("attribute")
        how: dict[str, Any] = {"out_dtype": "BIPOLAR", "out_scale": 2.0, "out_bias": -1.0}
        if bits > 1:
            how = {"out_dtype": f"INT{bits}", "out_scale": 1.0, "out_bias": float(low)}
        node.attribute.extend(onnx.helper.make_attribute(key, value) for key, value in how.items())
    return model.transform(InferDataTypes())


@pytest.mark.runtime
def test_data_types_are_those_of_the_network() -> None:
    pytest.importorskip("qonnx")
    model = read(settled(plain(BITS["binary"])))
    assert str(model.get_tensor_datatype(model.graph.input[0].name)) == "UINT8"
    products = [node for node in model.graph.node if node.op_type in ("Conv", "MatMul")]
    inputs = [str(model.get_tensor_datatype(node.input[0])) for node in products]
    assert inputs == ["INT32", *["BIPOLAR"] * 4]  # 2 x - 255 is whole, and FINN makes it bytes again
    assert {str(model.get_tensor_datatype(node.input[1])) for node in products} == {"BIPOLAR"}
    assert {str(model.get_tensor_datatype(node.output[0])) for node in products} == {"INT32"}


@pytest.mark.runtime
def test_data_types_of_more_bits() -> None:
    pytest.importorskip("qonnx")
    model = read(settled(plain(BITS["2/2"])))
    made = [str(model.get_tensor_datatype(node.output[0])) for node in quantisers(model.model)]
    assert sorted(made) == [*["INT2"] * 5, *["INT3"] * 5]  # activations; odd weights, which need a bit more
    products = [node for node in model.graph.node if node.op_type in ("Conv", "MatMul")]
    assert {str(model.get_tensor_datatype(node.output[0])) for node in products} == {"INT32"}


@pytest.mark.runtime
@pytest.mark.parametrize("name", ["binary", "2/2", "ternary/3", "1/5, ends 8/8"])
def test_thresholds_as_finn_makes_them_keep_the_logits(name: str) -> None:
    pytest.importorskip("qonnx")
    network = settled(plain(BITS[name]))
    model = thresholded(folded(read(network)))
    assert not quantisers(model.model) or {n.op_type for n in quantisers(model.model)} == {"MultiThreshold"}
    np.testing.assert_array_equal(run(model), logits(network, IMAGES))


@pytest.mark.runtime
@pytest.mark.filterwarnings("ignore:The values of tensor")
def test_binary_products_become_xnor_and_popcount() -> None:
    """`ConvertBipolarMatMulToXnorPopcount`, with the convolutions as products."""
    pytest.importorskip("qonnx")
    from qonnx.transformation.bipolar_to_xnor import ConvertBipolarMatMulToXnorPopcount

    network = settled(perceptron())
    model = thresholded(folded(read(network)))
    model = model.transform(ConvertBipolarMatMulToXnorPopcount())
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("XnorPopcountMatMul") == 3  # all but the pixels' layer
    np.testing.assert_array_equal(run(model), logits(network, IMAGES))


def lowered(network: nn.Module) -> Any:
    """Convolutions as products, as FINN maps them."""
    from qonnx.transformation.gemm_to_matmul import GemmToMatMul
    from qonnx.transformation.lower_convs_to_matmul import LowerConvsToMatMul

    return (
        thresholded(folded(read(network, batch=1))).transform(GemmToMatMul()).transform(LowerConvsToMatMul())
    )


@pytest.mark.runtime
@pytest.mark.parametrize("name", ["binary", "2/2"])
def test_convolutions_become_products(name: str) -> None:
    pytest.importorskip("qonnx")
    network = settled(unpadded(BITS[name]))
    model = lowered(network)
    kinds = [node.op_type for node in model.graph.node]
    assert "Conv" not in kinds
    assert kinds.count("Im2Col") == 3
    np.testing.assert_array_equal(run(model), logits(network, IMAGES))


@pytest.mark.runtime
def test_a_padded_convolution_of_signs_is_nothing_that_finn_can_lower() -> None:
    """A padded 0 is no value of BIPOLAR: docs/export-formats.md says so, and this notices when it changes."""
    pytest.importorskip("qonnx")
    model = lowered(settled(plain(BITS["binary"])))
    with pytest.raises(AssertionError, match="Im2Col dtype must allow pad_val"):
        run(model)


@pytest.mark.runtime
def test_quantisers_of_more_bits_become_qcdq() -> None:
    """`QuantToQCDQ`: QuantizeLinear, Clip, DequantizeLinear, which ONNX Runtime executes."""
    pytest.importorskip("qonnx")
    import onnxruntime
    from qonnx.transformation.qonnx_to_qcdq import QuantToQCDQ

    network = settled(plain(BITS["2/2"]))
    model = read(network).transform(QuantToQCDQ())
    assert not quantisers(model.model)
    session = onnxruntime.InferenceSession(
        model.model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found = session.run(None, {session.get_inputs()[0].name: IMAGES.astype(np.float32)})[0]
    np.testing.assert_allclose(found, logits(network, IMAGES), rtol=0, atol=2e-6)
