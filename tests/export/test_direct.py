"""The writers of C and TFLite against ONNX Runtime: every operator, odd shapes, FP32 and INT8."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from torch import Tensor, nn

from tersa.errors import ModelError, TargetError
from tersa.export.artefact import Artefact, Header, open_session
from tersa.export.c_direct import ALIGN, c_direct
from tersa.export.check import classify
from tersa.export.graph import channel_values, read_graph
from tersa.export.int8 import Calibration, quantise_onnx
from tersa.export.onnx import export_onnx
from tersa.targets.base import Target
from tersa.targets.c_build import PlainC, installed_compiler
from tersa.targets.litert import LiteRt
from tersa.targets.packed import Packed
from tersa.targets.registry import package_version

Images = npt.NDArray[np.float32]
Exported = Callable[..., Artefact]

SAME = 2e-5
"""float32 sums in another order, relative to the largest logit (or 1)."""

LEVELS = 0.03
"""Activations that fall to the other one of 255 levels, relative to the largest logit (or 1)."""

NO_COMPILER = pytest.mark.skipif(not installed_compiler(), reason="no C compiler here")
NO_LITERT = pytest.mark.skipif(not package_version("ai-edge-litert"), reason="LiteRT is not installed")

each_target = pytest.mark.parametrize(
    "target",
    [
        pytest.param(PlainC(opt="O0"), id="c", marks=NO_COMPILER),
        pytest.param(Packed(), id="packed"),
        pytest.param(LiteRt(), id="litert", marks=[pytest.mark.runtime, NO_LITERT]),
    ],
)


class Corners(nn.Module):
    """Uneven padding, strides, dilation, groups, pools that count their padding, clips, stored values."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, (3, 5), stride=(2, 1), padding=(1, 3))
        self.grouped = nn.Conv2d(8, 6, 3, groups=2, padding=2, dilation=2)
        self.wide = nn.Conv2d(6, 12, 3, groups=6, stride=2, padding=1)  # two maps for each channel
        self.norm = nn.BatchNorm2d(12)
        self.fc = nn.Linear(24 * 2, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).clamp(-0.4, 0.7)
        x = nn.functional.max_pool2d(x, 3, stride=2, padding=1)
        x = nn.functional.avg_pool2d(self.grouped(x), 3, stride=1, padding=1)
        x = self.norm(torch.relu(self.wide(x)) * 0.5 + 0.25) / 2.0
        return self.fc(nn.functional.max_pool2d(torch.cat([x, x - 0.125], 1), (1, 2)).flatten(1))


def waves(network: nn.Module) -> nn.Module:
    """Weights that are sines, variances above 0."""
    with torch.no_grad():
        for index, (key, tensor) in enumerate(network.state_dict().items()):
            if tensor.is_floating_point():
                wave = torch.sin(torch.arange(tensor.numel(), dtype=torch.float32) * 0.7 + index)
                tensor.copy_((wave * 0.3 + (1.0 if "var" in key else 0.05)).view_as(tensor))
    return network.eval()


def close(found: Images, wanted: Images, tolerance: float) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * max(1.0, float(np.abs(wanted).max())))
    assert np.ptp(wanted, axis=0).max() > 1e-3, "logits that do not depend on the image prove nothing"


@each_target
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", ["residual", "depthwise", "dense", "mlp", "mlp-without-bias", "lenet"])
def test_networks(
    name: str,
    precision: str,
    target: Target,
    exported: Exported,
    pixels: Callable[..., Images],
    tmp_path: Path,
) -> None:
    artefact, images = exported(name, 3), pixels(3, 7)
    if precision == "int8":
        artefact = quantise_onnx(artefact, tmp_path / "int8.onnx", Calibration(pixels(3)))
    if (target.name, name, precision) == ("litert", "mlp-without-bias", "int8"):
        with pytest.raises(TargetError, match=r"litert computes 0 of 1 layers in int8 .* \(fp32 1\)"):
            target.prepare(artefact, "m")  # its one layer gives the float logits
        return
    session = target.prepare(artefact, "m")
    close(session.run(images), classify(artefact.path, images), SAME if precision == "fp32" else LEVELS)
    assert session.executed.startswith(precision)
    assert session.size_bytes is not None
    assert session.size_bytes > 100
    session.close()


@pytest.fixture(scope="module")
def corners(tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    header = Header(tuple("abcde"), (3, 11, 9), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    return export_onnx(waves(Corners()), header, tmp_path_factory.mktemp("corners") / "corners.onnx")


@each_target
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_corners(target: Target, precision: str, corners: Artefact, tmp_path: Path) -> None:
    images = np.random.default_rng(5).random((5, 3, 11, 9), dtype=np.float32)
    artefact = corners
    if precision == "int8":
        artefact = quantise_onnx(corners, tmp_path / "int8.onnx", Calibration(images))
    session = target.prepare(artefact, "m")
    tolerance = SAME if precision == "fp32" else LEVELS
    for batch in (1, 5, 3):
        found, wanted = session.run(images[:batch]), classify(artefact.path, images[:batch])
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * max(1.0, np.abs(wanted).max()))


PRODUCTS = {
    "(O, I), one scale": ("Gemm", 1, 4, None),
    "(I, O), one scale": ("Gemm", 0, 4, None),
    "(O, I), a scale for each output": ("Gemm", 1, 4, 0),
    "(O, I), a scale for each output, counted from the last side": ("Gemm", 1, 4, -2),
    "square (O, I), one scale": ("Gemm", 1, 3, None),
    "square (I, O), one scale": ("MatMul", 0, 3, None),
    "square (I, O), a scale for each output": ("MatMul", 0, 3, 1),
    "square (O, I), a scale for each input": ("Gemm", 1, 3, 1),
}
"""Operator, transB, outputs and axis of the scales of a product of 3 inputs with stored int8 weights."""


def product_file(name: str, path: Path) -> Artefact:
    """Pixels as uint8, times the weights of `PRODUCTS`."""
    kind, turned, outputs, axis = PRODUCTS[name]
    shape = (outputs, 3) if turned else (3, outputs)
    count = 1 if axis is None else shape[axis]
    stored = {
        "step": np.float32(1 / 255),
        "zero": np.uint8(3),
        "weights": (np.arange(3 * outputs) * 29 % 101 - 50).astype(np.int8).reshape(shape),
        "scales": np.linspace(0.01, 0.03, count, dtype=np.float32) if count > 1 else np.float32(0.02),
        "zeros": np.zeros(count, np.int8) if count > 1 else np.int8(0),
    }
    node = onnx.helper.make_node
    given = {"transB": turned} if kind == "Gemm" else {}
    nodes = [
        node("Flatten", ["pixels"], ["flat"]),
        node("QuantizeLinear", ["flat", "step", "zero"], ["bytes"]),
        node("DequantizeLinear", ["bytes", "step", "zero"], ["values"]),
        node(
            "DequantizeLinear",
            ["weights", "scales", "zeros"],
            ["factors"],
            **({} if axis is None else {"axis": axis}),
        ),
        node(kind, ["values", "factors"], ["logits"], **given),
    ]
    precision = "fp32" if "each input" in name else "int8"  # what the layer can be computed in
    header = Header(tuple("abcd"[:outputs]), (1, 3, 1), (0.0,), (1.0,), precision)
    real = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "product",
        [onnx.helper.make_tensor_value_info("pixels", real, ["n", 1, 3, 1])],
        [onnx.helper.make_tensor_value_info("logits", real, ["n", outputs])],
        [onnx.numpy_helper.from_array(np.asarray(value), key) for key, value in stored.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    onnx.helper.set_model_props(model, header.properties())
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return Artefact(path, header)


@pytest.mark.parametrize(
    "target", [pytest.param(PlainC(opt="O0"), id="c", marks=NO_COMPILER), pytest.param(Packed(), id="packed")]
)
@pytest.mark.parametrize("name", PRODUCTS)
def test_integers_of_a_product_lie_as_its_weights_do(name: str, target: Target, tmp_path: Path) -> None:
    artefact = product_file(name, tmp_path / "product.onnx")
    images = np.random.default_rng(2).random((4, 1, 3, 1), dtype=np.float32)
    # As written: fused, ONNX Runtime takes the scales of inputs for those of outputs.
    reference = open_session(artefact.path, graph="ORT_DISABLE_ALL")
    session = target.prepare(artefact, "m")
    close(session.run(images), np.asarray(reference.run(None, {"pixels": images})[0]), SAME)
    assert session.executed.startswith(artefact.header.precision)
    session.close()


@each_target
def test_an_operator_that_is_not_there(target: Target, exported: Exported) -> None:
    with pytest.raises(TargetError, match=rf"{target.name} has no operator .*Tanh; it has Add, AveragePool,"):
        target.prepare(exported("forked", 3), "m")


@NO_COMPILER
def test_images_of_another_shape_are_refused(exported: Exported, pixels: Callable[..., Images]) -> None:
    session = PlainC(opt="O0").prepare(exported("mlp", 1), "m")
    with pytest.raises(ModelError, match=r"c takes float32 images \(1, 12, 12\), got float32 \(3, 12, 12\)"):
        session.run(pixels(3))
    with pytest.raises(ModelError, match="got float64"):
        session.run(pixels(1).astype(np.float64))  # pyright: ignore[reportArgumentType] - that is the test


def test_stored_tensors_lie_on_cache_lines_and_memory_is_shared(exported: Exported) -> None:
    program = c_direct(exported("lenet", 1).path)
    graph = read_graph(exported("lenet", 1).path)
    stored = sum(
        graph.constants[name].nbytes
        for node in graph.nodes
        for name in node.inputs[1:]
        if name in graph.constants
    )
    assert stored <= len(program.weights) <= stored + ALIGN * 12
    assert dict(program.layers) == {"fp32": 3}
    needed = sum(4 * int(np.prod(graph.shapes[node.output])) for node in graph.nodes)
    arena = int(program.source.split("long tersa_arena_bytes(void) { return ")[1].split(";")[0])
    assert 0 < arena < needed, "tensors that are not alive together share memory"


def test_values_for_each_channel() -> None:
    np.testing.assert_array_equal(channel_values(np.float32([[[1.0]], [[2.0]]]), 2, 3), [1.0, 2.0])
    np.testing.assert_array_equal(channel_values(np.array(3.0, np.float32), 2, 3), [3.0, 3.0])
    np.testing.assert_array_equal(channel_values(np.float32([4.0, 5.0]), 2, 1), [4.0, 5.0])
    with pytest.raises(TargetError, match=r"shape \(2,\) is not one value for each of 2 channels"):
        channel_values(np.float32([1.0, 2.0]), 2, 3)  # along the width


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no file"):
        read_graph(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelError, match="is not an ONNX file"):
        read_graph(tmp_path / "bad.onnx")


def test_forms_that_are_not_there(corners: Artefact, tmp_path: Path) -> None:
    model = onnx.load(corners.path)
    pool = next(node for node in model.graph.node if node.op_type == "MaxPool")
    pool.attribute.append(onnx.helper.make_attribute("auto_pad", "SAME_UPPER"))
    onnx.save(model, tmp_path / "auto.onnx")
    with pytest.raises(
        TargetError, match="MaxPool must have two dimensions, explicit padding and no ceil_mode"
    ):
        c_direct(tmp_path / "auto.onnx")


def test_integers_that_quantisation_left(
    exported: Exported, pixels: Callable[..., Images], tmp_path: Path
) -> None:
    found = quantise_onnx(exported("lenet", 1), tmp_path / "int8.onnx", Calibration(pixels(1)))
    graph = read_graph(found.path)
    layer = next(node for node in graph.nodes if node.kind == "Conv")
    form = graph.quantised[layer.inputs[1]]
    integers = graph.constants[form.name]
    assert integers.dtype == np.int8
    assert form.scale.shape == (integers.shape[0],), "a scale for each output channel"
    np.testing.assert_array_equal(
        graph.constant(layer.inputs[1]), integers.astype(np.float32) * form.scale[:, None, None, None]
    )
    with pytest.raises(TargetError, match="is computed where only a stored one is supported"):
        graph.constant(layer.output)


@pytest.mark.parametrize(
    ("form", "value", "wanted"),
    [
        ("value_float", 6.0, np.float32(6)),
        ("value_floats", [1.0, 2.0], np.float32([1, 2])),
        ("value_int", 3, np.int64(3)),
        ("value_ints", [3, 4], np.int64([3, 4])),
    ],
)
def test_constants_without_a_tensor_are_read(
    form: str, value: object, wanted: object, tmp_path: Path
) -> None:
    """As ONNX lets a file write numbers; clips of ReLU6 often have them."""
    helper, path = onnx.helper, tmp_path / "constant.onnx"
    nodes = [
        helper.make_node("Constant", [], ["number"], **{form: value}),
        helper.make_node("Relu", ["pixels"], ["logits"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 2]) for name in ("pixels", "logits")
    ]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:])), path)
    found = read_graph(path).constants["number"]
    np.testing.assert_array_equal(found, wanted)
    assert found.dtype == np.asarray(wanted).dtype


def test_a_constant_of_texts_is_refused(tmp_path: Path) -> None:
    helper, path = onnx.helper, tmp_path / "texts.onnx"
    nodes = [
        helper.make_node("Constant", [], ["words"], value_strings=["a"]),
        helper.make_node("Relu", ["pixels"], ["logits"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 2]) for name in ("pixels", "logits")
    ]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:])), path)
    with pytest.raises(TargetError, match=r"texts.onnx: a Constant with 'value_strings', which is no tensor"):
        read_graph(path)
