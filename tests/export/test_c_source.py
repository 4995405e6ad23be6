"""C sources of packed programs: compiled without a warning, and the reference's logits bit for bit."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.binary.programs import CLASSES, MEAN, STD, images, network, one_layer, residual

from tersa.binary import reference
from tersa.binary.convert import convert
from tersa.binary.program import Program
from tersa.binary.runtime import Runner
from tersa.errors import UsageError
from tersa.export.c_source import c_source, identifier

GCC = shutil.which("gcc") or shutil.which("cc")
STRICT = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror")

pytestmark = pytest.mark.skipif(GCC is None, reason="no C compiler here")


def compiled(source: str, folder: Path, *flags: str, program: str = "") -> Path:
    """A shared library, or a program that is switched on by a macro."""
    assert GCC is not None
    text, made = folder / "net.c", folder / ("net" if program else "net.so")
    text.write_text(source, encoding="utf-8")
    kind = (f"-D{program}",) if program else ("-shared", "-fPIC")
    done = subprocess.run(
        [GCC, *STRICT, *flags, *kind, "-o", str(made), str(text)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return made


def logits_of(library: Path, pixels: npt.NDArray[np.uint8], classes: int) -> npt.NDArray[np.float32]:
    predict = ctypes.CDLL(str(library)).net_predict
    predict.argtypes, predict.restype = [ctypes.c_void_p, ctypes.c_void_p], None
    found = np.full((len(pixels), classes), np.nan, np.float32)
    for image, row in zip(np.ascontiguousarray(pixels), found, strict=True):
        predict(image.ctypes.data, row.ctypes.data)
    return found


def agree(program: Program, folder: Path, *flags: str, count: int = 3) -> None:
    """The same bits as the reference, on images one after the other."""
    pixels = images(program.shape, count)
    library = compiled(c_source(program, "net"), folder, *(flags or ("-O2",)))
    wanted = reference.run(program, pixels)
    np.testing.assert_array_equal(logits_of(library, pixels, len(program.classes)), wanted)


LAYERS = {
    "odd channels": one_layer(size=(5, 6, 7), outputs=33, kernel=3, padding=1),
    "words and a bit": one_layer(size=(65, 5, 5), outputs=70, kernel=3, padding=1, pool=(2, 2)),
    "stride, 5x5": one_layer(size=(3, 9, 8), outputs=9, kernel=5, stride=2, padding=2, pixel_bits=8),
    "planes": one_layer(size=(4, 6, 6), outputs=66, kernel=1, weight_bits=3, code_bits=2, pool=(3, 2)),
    "ternary": one_layer(size=(7, 5, 6), outputs=10, kernel=3, pixel_bits=1, weight_bits=0, code_bits=3),
    "ternary pixels": one_layer(size=(3, 6, 6), outputs=5, kernel=3, pixel_bits=3, weight_bits=0),
    "one channel": one_layer(size=(1, 5, 5), outputs=1, kernel=3, pixel_bits=8, weight_bits=8),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_the_references_bit_for_bit(name: str, tmp_path: Path) -> None:
    agree(LAYERS[name], tmp_path)


@pytest.mark.parametrize("bits", [1, 2])
def test_everything_that_is_no_plain_layer(bits: int, tmp_path: Path) -> None:
    agree(residual(code_bits=bits), tmp_path)


@pytest.mark.parametrize("weight_bits", [0, 1, 3])
def test_integer_weights_that_meet_floats_stay_integers(weight_bits: int, tmp_path: Path) -> None:
    program = residual(weight_bits=weight_bits)
    assert "static const float weights" not in c_source(program, "net")
    agree(program, tmp_path)


def test_without_builtins_and_unoptimised(tmp_path: Path) -> None:
    agree(LAYERS["words and a bit"], tmp_path, "-O0", "-DPORTABLE")


@pytest.mark.parametrize("name", ["words and a bit", "stride, 5x5", "ternary", "all the rest"])
def test_no_undefined_behaviour_and_no_byte_outside(name: str, tmp_path: Path) -> None:
    """Run with the address and undefined-behaviour sanitizers, as a program: what they find ends it."""
    program = LAYERS.get(name) or residual(weight_bits=2)
    sanitizers = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    made = compiled(c_source(program, "net"), tmp_path, *sanitizers, program="net_MAIN")
    pixels = images(program.shape, 3)
    done = subprocess.run([str(made)], input=pixels.tobytes(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[:2000]
    rows = [line.split() for line in done.stdout.decode().splitlines()]
    found = np.array([[float(word) for word in row[:-1]] for row in rows], np.float32)
    wanted = reference.run(program, pixels)
    np.testing.assert_array_equal(found, wanted)  # nine digits bring every float32 back
    assert [row[-1] for row in rows] == [CLASSES[k] for k in wanted.argmax(1)]


def test_a_perceptron_of_the_zoo_from_torch(tmp_path: Path) -> None:
    program = convert(network("tfc", (1, 28, 28)), CLASSES, (1, 28, 28), MEAN[:1], STD[:1])
    pixels = images(program.shape, 8)
    library = compiled(c_source(program, "net"), tmp_path, "-O2")
    np.testing.assert_array_equal(logits_of(library, pixels, len(CLASSES)), reference.run(program, pixels))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "side"),
    [
        ("cnv+w1a1:scale=channel", 32),
        ("cnv+wta2:first=8/8,last=8/8", 32),
        ("bvgg16", 32),
        ("bresnet20+w2a2", 16),
        ("vgg-small+w1a1:first=float,last=float", 16),
    ],
)
def test_networks_of_the_zoo(spec: str, side: int, tmp_path: Path) -> None:
    shape = (3, side, side)
    program = convert(network(spec, shape), CLASSES, shape, MEAN, STD)
    pixels = images(shape, 4)
    library = compiled(c_source(program, "net"), tmp_path, "-O2")
    np.testing.assert_array_equal(logits_of(library, pixels, len(CLASSES)), Runner(program)(pixels))


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    channels=st.sampled_from([1, 2, 5, 31, 64, 65, 130]),
    outputs=st.sampled_from([1, 3, 33, 64, 70]),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 2),
    padded=st.booleans(),
    sides=st.tuples(st.integers(5, 9), st.integers(5, 8)),
    bits=st.tuples(st.integers(1, 8), st.integers(0, 4), st.integers(1, 3)),
    pool=st.sampled_from([None, (2, 2), (3, 2)]),
    seed=st.integers(0, 9),
)
def test_layers_of_every_shape(
    channels: int,
    outputs: int,
    kernel: int,
    stride: int,
    padded: bool,
    sides: tuple[int, int],
    bits: tuple[int, int, int],
    pool: tuple[int, int] | None,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    padding = kernel // 2 if padded else 0
    smallest = (min(sides) + 2 * padding - kernel) // stride + 1
    program = one_layer(
        size=(channels, *sides), outputs=outputs, kernel=kernel, stride=stride, padding=padding,
        pixel_bits=bits[0], weight_bits=bits[1], code_bits=bits[2],
        pool=None if pool is None or pool[0] > smallest else pool, seed=seed,
    )  # fmt: skip
    agree(program, tmp_path_factory.mktemp("c"))


# The text -------------------------------------------------------------------------------------------------


def test_the_same_program_is_the_same_text_and_says_what_it_needs() -> None:
    program = LAYERS["words and a bit"]
    text = c_source(program, "net")
    assert c_source(program, "net") == text
    includes = re.findall(r"#include <(.+)>", text.split("#ifdef net_MAIN")[0])
    assert includes == ["stdint.h"]
    assert "malloc" not in text
    found = {kind: int(n) for kind, n in re.findall(r"^static (\w+) \w+\[(\d+)\];", text, re.MULTILINE)}
    scratch = 8 * found["uint64_t"] + 4 * found["int32_t"]
    assert f"Static scratch: {scratch:,} bytes" in text


def test_only_what_is_called_is_in_the_file() -> None:
    text = c_source(LAYERS["stride, 5x5"], "net")
    assert "static void pixel_sums" in text
    assert "static void ternary_sums" not in text
    assert "static void max_codes" not in text


def test_values_that_are_not_alive_together_share_memory() -> None:
    program = convert(network("cnv+w1a1", (3, 32, 32)), CLASSES, (3, 32, 32), MEAN, STD)
    found = re.search(r"static uint64_t words\[(\d+)\];", c_source(program, "net"))
    assert found is not None
    assert int(found[1]) == 30 * 30 + 28 * 28  # one word a place: the first two maps, and nothing more


def test_class_names_of_every_kind(tmp_path: Path) -> None:
    labels = ('a "b"\\', "Zürich ??/", "猫\n", "*/", "5")
    program = one_layer(size=(1, 5, 5), outputs=2, kernel=3)
    named = Program(labels, program.shape, program.operations)
    library = ctypes.CDLL(str(compiled(c_source(named, "net"), tmp_path)))
    found = (ctypes.c_char_p * len(labels)).in_dll(library, "net_classes")
    assert [one.decode() for one in found] == list(labels)


def test_a_precision_cannot_end_the_comment_that_it_stands_in() -> None:
    made = one_layer(size=(2, 4, 4), outputs=3, kernel=3)
    text = c_source(replace(made, precision="*/ int evil(void) {return 7;} /*/\n#error"), "net")
    comment = text[: text.index("*/")]
    assert "int evil(void)" in comment
    assert "#include" not in comment
    assert "\n#error" not in comment


@pytest.mark.parametrize(
    ("name", "wanted"), [("my-net", "my_net"), ("2fast", "net_2fast"), ("größe", "gr__e")]
)
def test_files_give_their_names(name: str, wanted: str) -> None:
    assert identifier(name) == wanted


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="'2x' begins no name in C"):
        c_source(LAYERS["ternary"], "2x")
