"""Exported files compute what the network computes, for any batch, in few bytes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from torch import Tensor, nn

from tersa.errors import ModelError, UsageError
from tersa.export.artefact import Artefact, Header, read_artefact
from tersa.export.check import classify
from tersa.export.onnx import Deployed, as_pixels, build_model, export_onnx

Build = Callable[..., nn.Module]
MakeHeader = Callable[..., Header]
Pixels = Callable[..., npt.NDArray[np.float32]]

SAME = 1e-5
"""float32 sums in another order, and weights divided by std once more, for logits of size 1 to 10."""

OVERHEAD_BYTES = 1600
"""What a graph of up to twenty nodes and its metadata may weigh beside its weights."""

NETWORKS = ("residual", "depthwise", "dense", "forked", "mlp", "mlp-without-bias", "lenet")


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_gives_the_networks_logits(
    name: str,
    channels: int,
    build: Build,
    header: MakeHeader,
    pixels: Pixels,
    exported: Callable[..., Artefact],
) -> None:
    network, images = build(name, channels), pixels(channels)
    artefact = exported(name, channels)
    with torch.inference_mode():
        expected = Deployed(network.eval(), header(channels))(torch.from_numpy(images)).numpy()
    assert np.ptp(expected, axis=0).min() > 100 * SAME  # the logits depend on the image
    np.testing.assert_allclose(classify(artefact.path, images), expected, atol=SAME, rtol=SAME)
    np.testing.assert_allclose(classify(artefact.path, images[:1]), expected[:1], atol=SAME, rtol=SAME)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in network.parameters())
    assert artefact.size_bytes < weights + OVERHEAD_BYTES


def test_normalisation_and_batch_normalisation_disappear_into_the_weights(
    exported: Callable[..., Artefact],
) -> None:
    assert operators(exported("lenet").path) == ["Conv", "Relu", "MaxPool", "Reshape", "Gemm", "Relu", "Gemm"]
    assert operators(exported("mlp").path) == ["Reshape", "Gemm", "Relu", "Gemm"]
    assert operators(exported("mlp-without-bias").path) == ["Reshape", "Gemm"]


def test_a_padded_first_convolution_keeps_one_subtraction(exported: Callable[..., Artefact]) -> None:
    found = operators(exported("residual").path)
    assert found[:2] == ["Sub", "Conv"]
    assert not {"BatchNormalization", "Div", "Mul"} & set(found)


def test_other_readers_of_the_pixels_get_one_batch_normalisation(exported: Callable[..., Artefact]) -> None:
    found = operators(exported("forked", 3).path)
    assert found.count("BatchNormalization") == 1
    assert found.count("Sub") == 1
    assert "Div" not in found


def test_a_normalisation_that_does_nothing_leaves_no_trace(build: Build, tmp_path: Path) -> None:
    plain = Header(tuple("abcde"), (1, 12, 12), (0.0,), (1.0,))
    for name in ("residual", "forked"):
        found = operators(export_onnx(build(name), plain, tmp_path / f"{name}.onnx").path)
        assert not {"Sub", "BatchNormalization"} & set(found)


def test_a_scale_without_a_mean_is_folded_into_a_padded_convolution(
    build: Build, pixels: Pixels, tmp_path: Path
) -> None:
    scaled = Header(tuple("abcde"), (1, 12, 12), (0.0,), (0.25,))
    artefact = export_onnx(build("residual"), scaled, tmp_path / "net.onnx")
    assert operators(artefact.path)[0] == "Conv"
    assert artefact.module is not None
    with torch.inference_mode():
        expected = artefact.module(torch.from_numpy(pixels())).numpy()
    np.testing.assert_allclose(classify(artefact.path, pixels()), expected, atol=SAME, rtol=SAME)


def test_equal_weights_give_equal_bytes(build: Build, header: MakeHeader, tmp_path: Path) -> None:
    first = export_onnx(build("residual"), header(), tmp_path / "first.onnx").path.read_bytes()
    export_onnx(build("dense"), header(), tmp_path / "between.onnx")
    assert export_onnx(build("residual"), header(), tmp_path / "second.onnx").path.read_bytes() == first


def test_the_file_says_what_it_is(exported: Callable[..., Artefact], header: MakeHeader) -> None:
    path = exported("lenet", 3).path
    assert read_artefact(path).header == header(3)
    model = onnx.load(path)
    assert {entry.key for entry in model.metadata_props} == {
        *("schema", "tersa_version", "precision", "classes", "input_shape", "mean", "std")
    }
    assert [value.name for value in model.graph.input] == ["pixels"]
    assert [value.name for value in model.graph.output] == ["logits"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert {"0.weight", "0.bias", "6.weight"} <= {tensor.name for tensor in model.graph.initializer}


def test_nothing_of_this_machine_is_in_the_file(exported: Callable[..., Artefact]) -> None:
    content = exported("residual").path.read_bytes()
    assert str(Path(__file__).parent).encode() not in content
    assert b"forward" not in content
    assert b"site-packages" not in content


def test_the_network_is_left_as_it_was(build: Build, header: MakeHeader, tmp_path: Path) -> None:
    network = build("mlp").train()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    export_onnx(network, header(), tmp_path / "net.onnx")
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_the_export_is_quiet(
    build: Build,
    header: MakeHeader,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.WARNING)
    export_onnx(build("lenet"), header(), tmp_path / "net.onnx")
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert logging.getLogger("torch.onnx").level == logging.WARNING
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_an_exported_program_can_be_exported(
    build: Build, header: MakeHeader, tmp_path: Path, pixels: Pixels
) -> None:
    network = build("lenet").eval()
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(network, (torch.zeros(2, 1, 12, 12),), dynamic_shapes=shapes).module()
    artefact = export_onnx(program, header(), tmp_path / "net.onnx")
    direct = export_onnx(network, header(), tmp_path / "direct.onnx")
    np.testing.assert_allclose(
        classify(artefact.path, pixels()), classify(direct.path, pixels()), atol=SAME, rtol=SAME
    )


class Refusing(nn.Module):
    """Branches on its input's values, which no graph can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(144, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1)) if x.sum() > 0 else self.fc(-x.flatten(1))


def test_a_network_that_cannot_be_traced_is_one_clean_error(header: MakeHeader, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"torch cannot export the network: .+") as caught:
        export_onnx(Refusing(), header(), tmp_path / "net.onnx")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (nn.Linear(3, 5), "does not take input"),
        (nn.Sequential(nn.Flatten(), nn.Linear(144, 4)), r"must give \(2, 5\) logits"),
    ],
)
def test_a_network_of_another_shape_is_refused(
    network: nn.Module, words: str, header: MakeHeader, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=words):
        export_onnx(network, header(), tmp_path / "net.onnx")


def test_precision_is_checked(build: Build, header: MakeHeader, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="int4"):
        export_onnx(build("mlp"), header(), tmp_path / "net.onnx", precision="int4")
    with pytest.raises(UsageError, match="calibration"):
        export_onnx(build("mlp"), header(), tmp_path / "net.onnx", precision="int8")


def test_a_failed_export_leaves_the_old_file(header: MakeHeader, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"old")
    with pytest.raises(ModelError):
        export_onnx(Refusing(), header(), path)
    assert path.read_bytes() == b"old"


def test_default_attributes_are_left_out_and_others_kept(build: Build, header: MakeHeader) -> None:
    model = build_model(build("depthwise", 3).eval(), header(3))
    attributes = [{a.name for a in node.attribute} for node in model.graph.node if node.op_type == "Conv"]
    assert attributes == [{"kernel_shape", "strides"}, {"kernel_shape", "pads", "group"}, {"kernel_shape"}]


def test_bytes_become_pixels_and_floats_stay() -> None:
    np.testing.assert_array_equal(
        as_pixels(torch.tensor([0, 51, 255], dtype=torch.uint8)), np.float32([0, 0.2, 1])
    )
    np.testing.assert_array_equal(as_pixels(np.array([0.25])), np.float32([0.25]))
