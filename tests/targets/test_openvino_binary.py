"""Packed programs on OpenVINO's binary convolution: the reference's logits, bit for bit, or a refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.binary.programs import CLASSES, MEAN, STD, affine, images, network, one_layer, residual, weights

from tersa.binary.convert import convert
from tersa.binary.program import (
    Add,
    Affine,
    AveragePool,
    Convolution,
    Levels,
    MaxPool,
    Operation,
    Pixels,
    Program,
    Relu,
    Repeat,
    Shape,
    SumPool,
    Threshold,
)
from tersa.binary.reference import run
from tersa.cli.main import execute
from tersa.errors import ModelError, TargetError
from tersa.export.artefact import PACKED, Artefact, read_artefact
from tersa.export.bundle import write_bundle
from tersa.targets import openvino_cpu
from tersa.targets.base import Pixels as Images
from tersa.targets.openvino_binary import binary_layers, require_binary
from tersa.targets.registry import KINDS, parse

here = pytest.mark.skipif(not KINDS["openvino"].version, reason="openvino is not installed")

SIDE = 6
"""Rows and columns of the maps of `chain`."""


def artefact_of(program: Program, folder: Path) -> Artefact:
    write_bundle(folder / "net.tersa", program)
    return read_artefact(folder / "net.tersa")


def as_floats(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Images:
    return (pixels / np.float32(255)).astype(np.float32)


@pytest.fixture
def same(tmp_path: Path) -> Callable[..., str]:
    """Holds OpenVINO's logits against the reference's, and gives what was executed."""

    def check(program: Program, count: int = 5) -> str:
        session = parse("openvino").prepare(artefact_of(program, tmp_path), "m")
        pixels = images(program.shape, count, seed=1)
        np.testing.assert_array_equal(session.run(as_floats(pixels)), run(program, pixels))
        return session.executed

    return check


def told(binary: int, others: int = 0) -> str:
    """What is said of a network with so many binary and other layers."""
    return f"binary (u1) {binary} of {binary + others} layers" + (f", fp32 {others}" if others else "")


@pytest.mark.runtime
@here
@pytest.mark.parametrize("channels", [1, 2, 3, 5, 8, 31, 63, 64, 65, 130])
@pytest.mark.parametrize("padding", [0, 1])
def test_any_number_of_channels(channels: int, padding: int, same: Callable[..., str]) -> None:
    layer = one_layer(size=(channels, 6, 9), outputs=channels + 1, kernel=3, padding=padding)
    assert same(layer) == told(2)


@pytest.mark.runtime
@here
@pytest.mark.parametrize(
    ("size", "outputs", "kernel", "stride", "padding", "pool", "binary"),
    [
        ((16, 7, 9), 20, 5, 2, 2, None, 2),
        ((16, 7, 9), 20, 1, 1, 0, (2, 2), 2),
        ((16, 6, 6), 10, 1, 2, 0, None, 2),
        ((33, 9, 9), 70, 3, 1, 1, (3, 2), 2),
        ((65, 8, 8), 3, 3, 2, 0, (2, 1), 2),
        ((64, 5, 5), 1, 5, 1, 0, None, 2),
        ((8, 7, 1), 8, 1, 1, 0, None, 2),
        ((16, 9, 9), 8, 5, 3, 1, None, 1),  # OpenVINO's is wrong there
        ((8, 9, 9), 8, 7, 1, 6, None, 1),  # and refuses these
        ((8, 2, 2), 8, 5, 2, 2, None, 1),
        ((8, 9, 9), 8, 9, 2, 4, None, 1),
    ],
)
def test_kernels_strides_paddings_and_poolings(
    size: Shape,
    outputs: int,
    kernel: int,
    stride: int,
    padding: int,
    pool: tuple[int, int] | None,
    binary: int,
    same: Callable[..., str],
) -> None:
    layer = one_layer(size=size, outputs=outputs, kernel=kernel, stride=stride, padding=padding, pool=pool)
    assert len(binary_layers(layer)) == binary
    assert same(layer) == told(binary, 2 - binary)


@pytest.mark.runtime
@here
@pytest.mark.parametrize(("pixel_bits", "weight_bits"), [(8, 1), (4, 1), (2, 2), (8, 4), (2, 0)])
@pytest.mark.parametrize("code_bits", [1, 2, 3])
def test_other_bits_are_whole_numbers_in_float32(
    pixel_bits: int, weight_bits: int, code_bits: int, same: Callable[..., str]
) -> None:
    """Pixels, and codes of several bits behind a layer of a binary network."""
    rng = np.random.default_rng(0)
    first = Convolution(0, weights(rng, (5, 3, 3, 3), weight_bits), 2, 1)
    levels = np.sort(rng.integers(-99, 99, (5, 2**code_bits - 1)), axis=1).astype(np.int32)
    more = Convolution(2, weights(rng, (9, 2, 2, 5), 1))
    signs = Threshold(3, rng.integers(-5, 5, (9, 1)).astype(np.int32))
    last = Convolution(4, weights(rng, (len(CLASSES), 2, 2, 9), 1))
    operations = (Pixels(pixel_bits, (3, 5, 5)), first, Threshold(1, levels), more, signs, last)
    program = Program(CLASSES, (3, 5, 5), (*operations, affine(rng, 5, len(CLASSES))))
    assert same(program) == (told(2, 1) if code_bits == 1 else told(1, 2))


def chain(kind: str, outputs: int, pixel_bits: int, seed: int) -> Program:
    """A layer and what the kind says behind it, with floats that are 0 where rounding twice decides."""
    rng = np.random.default_rng(seed)
    operations: list[Operation] = [
        Pixels(pixel_bits, (8, SIDE, SIDE)),
        Convolution(0, weights(rng, (outputs, 3, 3, 8), 1), 1, 1),
    ]
    zero = np.zeros(1, np.float32)

    def put(*more: Operation) -> None:
        operations.extend(more)

    def scaled(source: int, channels: int = outputs) -> Affine:
        scale, alpha = rng.normal(size=(2, channels)).astype(np.float32)
        at = rng.integers(-4, 5, channels).astype(np.float32)
        if rng.random() < 0.5:
            return Affine(source, scale, -(at * scale))
        return Affine(source, scale, -((at * alpha) * scale), alpha)

    shape = (outputs, SIDE, SIDE)
    match kind.split():
        case ["one"]:
            put(scaled(1), Levels(2, zero))
        case ["two"]:
            put(scaled(1), scaled(2), Levels(3, zero))
        case ["relu"]:
            put(scaled(1), Relu(2), Levels(3, np.array([1e-30], np.float32)))
        case ["mean", size]:
            put(scaled(1), AveragePool(2, int(size)), Levels(3, zero))
            shape = (outputs, *[-(-SIDE // int(size))] * 2)
        case ["sum"]:
            put(Threshold(1, np.zeros((outputs, 1), np.int32)), SumPool(2), scaled(3), Levels(4, zero))
            shape = (outputs, 1, 1)
        case ["largest"]:
            put(scaled(1), MaxPool(2, 2, 1), Levels(3, zero), MaxPool(4, 2, 2), MaxPool(5, 2, 2))
            shape = (outputs, 1, 1)
        case ["shared"]:
            turned = (np.arange(outputs) % 2).astype(np.uint8)
            put(scaled(1), Levels(2, zero), SumPool(3, turned))
            put(Threshold(4, np.zeros((outputs, 1), np.int32)))
            put(Convolution(3, weights(rng, (outputs, SIDE, SIDE, outputs), 1)), scaled(6))
            put(Convolution(5, weights(rng, (outputs, 1, 1, outputs), 2)), scaled(8))
            put(Add(7, 9), Levels(10, zero))
            shape = (outputs, 1, 1)
        case _:
            put(
                scaled(1),
                Levels(2, zero),
                Convolution(3, weights(rng, (2 * outputs, 3, 3, outputs), 1), 2, 1),
            )
            put(scaled(4, 2 * outputs), AveragePool(2, 2), Repeat(6, 2), Add(7, 5), Relu(8), MaxPool(9, 2, 1))
            put(Levels(10, np.array([0.2], np.float32)))
            shape = (2 * outputs, 2, 2)
    c, h, w = shape
    put(Convolution(len(operations) - 1, weights(rng, (len(CLASSES), h, w, c), 1)))
    put(scaled(len(operations) - 1, len(CLASSES)))
    return Program(CLASSES, (8, SIDE, SIDE), tuple(operations))


@pytest.mark.runtime
@here
@pytest.mark.parametrize("outputs", [16, 9])
@pytest.mark.parametrize(
    "kind",
    ["one", "two", "relu", "mean 2", "mean 3", "mean 4", "mean 9", "sum", "largest", "shared", "residual"],
)
def test_floats_are_rounded_after_each_step(kind: str, outputs: int, same: Callable[..., str]) -> None:
    for seed, pixel_bits in enumerate((1, 8, 1, 8)):
        assert same(chain(kind, outputs, pixel_bits, seed), 20).startswith("binary (u1) ")


@pytest.mark.runtime
@here
@pytest.mark.parametrize(
    ("spec", "shape", "executed"),
    [
        ("tfc", (1, 28, 28), told(3, 1)),
        ("sfc+w1a1:in=1", (1, 28, 28), told(4)),
        ("cnv+w1a1", (3, 32, 32), told(8, 1)),
        ("cnv+w1a1:in=1,scale=channel", (3, 32, 32), told(9)),
        ("cnv+w1a1:last=8/1", (3, 32, 32), told(7, 2)),
        ("vgg-small+w1a1", (3, 16, 16), told(6, 1)),
        ("bresnet20", (3, 16, 16), told(18, 2)),
        pytest.param("bvgg16", (3, 32, 32), told(14, 1), marks=pytest.mark.slow),
    ],
)
def test_networks_of_the_zoo(spec: str, shape: Shape, executed: str, same: Callable[..., str]) -> None:
    """Scales have both signs, and one is 0."""
    channels = shape[0]
    program = convert(network(spec, shape), CLASSES, shape, MEAN[:channels], STD[:channels])
    assert program.exact
    assert same(program, 3) == executed


@pytest.mark.runtime
@here
def test_batches_of_any_size_and_pixels_between_bytes(tmp_path: Path) -> None:
    program = one_layer(size=(3, 5, 5), outputs=9, kernel=3, pixel_bits=8)
    session = parse("openvino").prepare(artefact_of(program, tmp_path), "m")
    pixels = images(program.shape, 9)
    wanted = run(program, pixels)
    for count in (1, 9, 2, 2, 1):
        np.testing.assert_array_equal(session.run(as_floats(pixels[:count])), wanted[:count])
    first = session.run(as_floats(pixels[:1]))
    kept = first.copy()
    session.run(as_floats(pixels[1:2]))
    np.testing.assert_array_equal(first, kept)
    near = as_floats(pixels) + np.float32(0.4 / 255)
    np.testing.assert_array_equal(session.run(near), wanted)
    far = np.where(pixels > 127, 1.5, -0.5).astype(np.float32)
    np.testing.assert_array_equal(
        session.run(far), run(program, np.where(pixels > 127, 255, 0).astype(np.uint8))
    )
    with pytest.raises(
        ModelError, match=r"openvino takes float32 images \(3, 5, 5\), got float32 \(3, 4, 5\)"
    ):
        session.run(as_floats(pixels)[:, :, 1:])
    with pytest.raises(ModelError, match="got uint8"):
        session.run(pixels)  # pyright: ignore[reportArgumentType] - what a careless caller does


@pytest.mark.runtime
@here
def test_bench_times_a_file_on_both_and_compares_them_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_bundle(tmp_path / "net.tersa", one_layer(size=(3, 9, 9), outputs=20, kernel=3, pixel_bits=8))
    command = [
        "bench",
        "net.tersa",
        "--targets",
        "packed,openvino,onnxruntime",
        "--seconds",
        "0.02",
        "--json",
    ]
    assert execute(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["target"], row["precision"]) for row in found["measurements"]] == [
        ("packed@threads=1", PACKED),
        ("openvino@threads=1", PACKED),
    ]
    assert found["measurements"][1]["executed"] == told(1, 1)
    [gap] = found["not_offered"]
    assert gap["reason"] == "onnxruntime does not offer packed; it has fp32, int8"


def headed(*operations: Operation, channels: int = 200) -> Program:
    """What is given, from 8-bit pixels of one place on to codes, and a head of 1-bit weights."""
    rng = np.random.default_rng(0)
    first = (Pixels(8, (channels, 1, 1)), *operations)
    signs = Convolution(len(first) - 1, weights(rng, (len(CLASSES), 1, 1, channels), 1))
    return Program(CLASSES, (channels, 1, 1), (*first, signs, affine(rng, len(first), len(CLASSES))))


def refused() -> dict[str, tuple[Program, str]]:
    """Programs, and what is said of them."""
    rng = np.random.default_rng(0)
    few, many = weights(rng, (200, 1, 1, 200), 1), weights(rng, (200, 1, 1, 200), 8)
    signs = np.zeros((200, 1), np.int32)
    four = np.sort(rng.integers(-9, 9, (200, 3)), axis=1).astype(np.int32)
    binary = (Convolution(0, few), Threshold(1, signs), Convolution(2, few))
    layer = (Pixels(1, (3, 2, 2)), Convolution(0, weights(rng, (len(CLASSES), 1, 1, 3), 1)))
    floats = Program(CLASSES, (3, 2, 2), (*layer, affine(rng, 1, len(CLASSES)), SumPool(2)))
    three = np.array([-1, 0, 1], np.float32)
    return {
        "float pixels": (residual(code_bits=1), r"operation 0 \(FloatPixels\) works on floats"),
        "sums of floats": (floats, r"operation 3 \(SumPool\) adds floats"),
        "floats to 2 bits": (
            headed(*binary, affine(rng, 3, 200), Levels(4, three)),
            r"operation 5 \(Levels\) makes activations of 2 bits, OpenVINO has binary ones",
        ),
        "large sums": (
            headed(Convolution(0, many), Threshold(1, signs)),
            r"operation 1 \(Convolution\) makes sums of up to 13,005,000; .* is exact below 8,388,608",
        ),
        "a large table": (
            headed(binary[0], Threshold(1, four), binary[2], Threshold(3, signs)),
            r"operation 2 \(Threshold\) would be a table of 20,400,200 levels; at most 16,777,216",
        ),
        "2 bits": (
            replace(one_layer(size=(3, 5, 5), outputs=4, kernel=3, weight_bits=2), precision="2/1 (W/A)"),
            r"no layer is one for OpenVINO's binary convolution .* the network is 2/1 \(W/A\)",
        ),
    }


@pytest.mark.parametrize("name", refused())
def test_what_is_not_binary_is_refused_by_name(name: str) -> None:
    program, words = refused()[name]
    with pytest.raises(TargetError, match=f"openvino in packed: {words}"):
        require_binary(program)


@pytest.mark.runtime
@here
def test_a_file_that_is_no_program_is_refused(tmp_path: Path) -> None:
    artefact = artefact_of(one_layer(size=(3, 5, 5), outputs=4, kernel=3), tmp_path)
    openvino = parse("openvino")
    with pytest.raises(TargetError, match=r"fp32 needs the fp32 file, net\.tersa is packed"):
        openvino.prepare(artefact, "m", "fp32")
    artefact.path.write_bytes(artefact.path.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"is damaged|in a file of"):
        openvino.prepare(artefact, "m")
    with pytest.raises(TargetError, match="openvino in packed: no layer is one"):
        openvino.prepare(
            artefact_of(one_layer(size=(3, 5, 5), outputs=4, kernel=3, weight_bits=2), tmp_path), "m"
        )


def test_no_program_goes_to_another_machine(tmp_path: Path) -> None:
    """Refused before anything is connected."""
    artefact = artefact_of(one_layer(size=(3, 5, 5), outputs=4, kernel=3), tmp_path)
    words = r"ssh://pi/openvino@threads=1 does not offer packed; it has fp32, bf16, fp16, int8"
    with pytest.raises(TargetError, match=words):
        parse("ssh://pi/openvino").prepare(artefact, "m")


class Text(str):
    """As openvino's own values do, it becomes a type."""

    def astype(self, kind: type[str]) -> str:
        return kind(self)


class Compiled:
    """A compiled model of layers with their kernels."""

    def __init__(self, *layers: tuple[str, str]) -> None:
        self.layers = layers

    def get_runtime_model(self) -> Compiled:
        return self

    def get_ops(self) -> list[Compiled]:
        return [Compiled(layer) for layer in self.layers]

    def get_rt_info(self) -> dict[str, Text]:
        [(kind, kernel)] = self.layers
        names = {"layerType": kind, "primitiveType": kernel, "runtimePrecision": kernel.rpartition("_")[2]}
        return {name: Text(value) for name, value in names.items()}


def test_what_is_executed_is_said() -> None:
    first, layer = ("Convolution", "brgconv_avx512_f32"), ("BinaryConvolution", "jit_avx512_u1")

    def said(*layers: tuple[str, str]) -> str:
        compiled = Compiled(*layers)
        return openvino_cpu.binary(compiled, openvino_cpu.layers(compiled))

    assert said(first, layer, ("Reorder", "ref_any_u1"), layer) == told(2, 1)
    slow = ("BinaryConvolution", "ref_any_u1")
    assert said(first, slow) == "binary (u1) 1 of 2 layers, by OpenVINO's reference kernel, fp32 1"
    words = r"openvino computes 0 of 2 layers in binary on this machine \(fp32 2\)"
    with pytest.raises(TargetError, match=words):
        said(first, ("BinaryConvolution", "ref_any_f32"))
