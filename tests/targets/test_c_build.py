"""The frame around C: finding a compiler, compiling, and what goes wrong."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from tests.binary.programs import images, one_layer

from tersa.binary.runtime import Runner
from tersa.errors import ModelError, TargetError
from tersa.export.artefact import Artefact, read_artefact
from tersa.export.bundle import write_bundle
from tersa.targets.c_build import (
    PlainC,
    aligned,
    compile_shared,
    compiler_version,
    find_compiler,
    installed_compiler,
)

needs_compiler = pytest.mark.skipif(not installed_compiler(), reason="no C compiler here")


@needs_compiler
def test_a_library_is_compiled_with_the_flags(tmp_path: Path) -> None:
    library = compile_shared("int twice(int x) { return FACTOR * x; }", tmp_path, ("-O1", "-DFACTOR=2"))
    assert ctypes.CDLL(str(library)).twice(21) == 42


@needs_compiler
def test_source_that_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"c: .* -O1 failed: .*error") as caught:
        compile_shared("int broken(", tmp_path, ("-O1",))
    assert "\n" not in str(caught.value)


@needs_compiler
def test_the_session_tells_the_flags(artefact: Artefact) -> None:
    session = PlainC(opt="O2", march="generic").prepare(artefact, "m")
    assert session.runtime == f"{compiler_version(find_compiler())} -O2 -std=gnu99"
    assert session.target == "c@threads=1,opt=O2,march=generic"
    session.close()


@needs_compiler
@pytest.mark.parametrize("padding", [0, 1])
def test_a_packed_program_in_c_gives_its_logits_bit_for_bit(padding: int, tmp_path: Path) -> None:
    program = one_layer(
        size=(3, 7, 6), outputs=33, kernel=3, stride=1, padding=padding, pixel_bits=8, weight_bits=1,
        code_bits=1, pool=(2, 2), seed=padding,
    )  # fmt: skip
    write_bundle(tmp_path / "net.tersa", program)
    session = PlainC().prepare(read_artefact(tmp_path / "net.tersa"), "m")
    assert session.precision == "packed"
    pixels = images(program.shape, 5)
    found = session.run(pixels / np.float32(255))
    assert np.array_equal(found, Runner(program)(pixels))
    assert found.std() > 0
    turned = np.asfortranarray(pixels / np.float32(255))
    assert np.array_equal(session.run(turned), found)
    with pytest.raises(ModelError, match=r"c takes float32 images \(3, 7, 6\), got uint8"):
        session.run(pixels)
    session.close()


def test_no_compiler(artefact: Artefact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -m64")
    with pytest.raises(
        TargetError, match="c: CC names 'no-such-compiler -m64', which is not on the path; apt-get"
    ):
        PlainC().prepare(artefact, "m")
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TargetError, match="c: no C compiler on the path; apt-get install gcc"):
        PlainC().prepare(artefact, "m")
    assert installed_compiler() == ""


def test_memory_begins_on_a_cache_line() -> None:
    for size in (1, 63, 64, 1000):
        found = aligned(size)
        assert (found.ctypes.data % 64, found.size, int(found.sum())) == (0, size, 0)
