"""The frame around C: finding a compiler, compiling, and what goes wrong."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from tersa.errors import TargetError
from tersa.export.artefact import Artefact
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
