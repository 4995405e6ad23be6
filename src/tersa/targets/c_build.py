"""Plain C: an artefact as direct loops, compiled by the system's compiler into a shared library.

The slow, honest baseline: FP32, and INT8 products for INT8 files, without tiling, intrinsics or threads
(`tersa.export.c_direct`). A packed program is what `tersa export --format c` writes (`export.c_source`):
XNOR and population counts, one image a call; floats in 0..1 go to the nearest byte first. The compiler is
`$CC`, or the first of `cc`, `gcc` and `clang` on the path; the flags are in the session's `runtime`.

`compile_shared` is the frame for any other C that this project writes.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from tersa.errors import ModelError, TargetError
from tersa.export.artefact import PACKED, Artefact
from tersa.export.bundle import read_bundle
from tersa.export.c_direct import c_direct
from tersa.export.c_source import c_source
from tersa.export.graph import read_graph
from tersa.targets.base import Pixels, Session, described, executed, require_precision

INSTALL = "apt-get install gcc (or set CC to a C compiler)"

OPTIONS = {"opt": ("O3", "O2", "Os", "O0"), "march": ("native", "generic")}

EXACT = ("-std=c99", "-ffp-contract=off")
"""Of a packed program, whose logits are the network's bit for bit: no product and sum in one rounding."""

COMPILE_SECONDS = 300.0
"""After this a compiler is taken to hang."""


@dataclass(frozen=True)
class PlainC:
    """Direct loops in C, one thread.

    Attributes:
        threads: 1; the program has no other.
        opt: optimisation level of the compiler.
        march: `native` for this processor's instructions, `generic` for its family's.
    """

    threads: int = 1
    opt: str = "O3"
    march: str = "native"
    name: ClassVar[str] = "c"
    precisions: ClassVar[tuple[str, ...]] = (PACKED, "fp32", "int8")

    def describe(self) -> str:
        """`c@threads=1`, with `opt` and `march` when they are not the defaults."""
        return described(self.name, self.threads, opt=(self.opt, "O3"), march=(self.march, "native"))

    @property
    def flags(self) -> tuple[str, ...]:
        """What the compiler is told."""
        return (f"-{self.opt}", *(("-march=native",) if self.march == "native" else ()), "-std=gnu99")

    def prepare(self, artefact: Artefact, model: str, precision: str | None = None) -> Session:
        """Write, compile and load the program."""
        asked = require_precision(self, artefact, precision)
        compiler = find_compiler()
        if asked == PACKED:
            return self._packed(artefact, model, compiler)
        program = c_direct(artefact.path)
        graph = read_graph(artefact.path)
        output = graph.shapes[graph.output]  # what the program writes, whatever the header says
        folder = tempfile.TemporaryDirectory(prefix="tersa.")
        library = compile_shared(program.source, Path(folder.name), self.flags, compiler)
        size = library.stat().st_size + len(program.weights)
        start = time.perf_counter()
        loaded = ctypes.CDLL(str(library))
        load_ms = 1e3 * (time.perf_counter() - start)
        loaded.tersa_arena_bytes.restype = ctypes.c_long
        call = loaded.tersa_run
        call.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_long]
        call.restype = None
        weights = aligned(len(program.weights))
        weights[:] = np.frombuffer(program.weights, np.uint8)
        arena = aligned(loaded.tersa_arena_bytes())
        shape = artefact.header.shape

        def run(pixels: Pixels) -> Pixels:
            if pixels.shape[1:] != shape or pixels.dtype != np.float32:
                raise ModelError(f"c takes float32 images {shape}, got {pixels.dtype} {pixels.shape[1:]}")
            images = np.ascontiguousarray(pixels)
            logits = np.empty((len(images), *output), np.float32)
            call(weights.ctypes.data, arena.ctypes.data, images.ctypes.data, logits.ctypes.data, len(images))
            return logits

        weakref.finalize(run, folder.cleanup)
        runtime = f"{compiler_version(compiler)} {' '.join(self.flags)}"
        return Session(
            *(model, self.describe(), asked, 1, runtime, run),
            executed=executed(self.name, asked, program.layers),
            load_ms=load_ms,
            size_bytes=size,
            close=folder.cleanup,
        )

    def _packed(self, artefact: Artefact, model: str, compiler: str) -> Session:
        packed = read_bundle(artefact.path)
        folder = tempfile.TemporaryDirectory(prefix="tersa.")
        flags = (*self.flags[:-1], *EXACT)
        library = compile_shared(c_source(packed, "program"), Path(folder.name), flags, compiler)
        size = library.stat().st_size
        start = time.perf_counter()
        call = ctypes.CDLL(str(library)).program_predict
        call.argtypes, call.restype = [ctypes.c_void_p, ctypes.c_void_p], None
        load_ms = 1e3 * (time.perf_counter() - start)

        def run(pixels: Pixels) -> Pixels:
            if pixels.shape[1:] != packed.shape or pixels.dtype != np.float32:
                raise ModelError(
                    f"c takes float32 images {packed.shape}, got {pixels.dtype} {pixels.shape[1:]}"
                )
            images = np.rint(np.clip(pixels, 0, 1) * np.float32(255)).astype(np.uint8, order="C")
            logits = np.empty((len(images), len(packed.classes)), np.float32)
            for image, row in zip(images, logits, strict=True):
                call(image.ctypes.data, row.ctypes.data)
            return logits

        weakref.finalize(run, folder.cleanup)
        return Session(
            *(model, self.describe(), PACKED, 1, f"{compiler_version(compiler)} {' '.join(flags)}", run),
            executed=packed.precision,
            load_ms=load_ms,
            size_bytes=size,
            close=folder.cleanup,
        )


def find_compiler() -> str:
    """The C compiler, as a command.

    Raises:
        TargetError: there is none.
    """
    named = os.environ.get("CC", "")
    for command in (named,) if named else ("cc", "gcc", "clang"):
        words = shlex.split(command)
        if words and shutil.which(words[0]):
            return command
    what = f"CC names '{named}', which is not on the path" if named else "no C compiler on the path"
    raise TargetError(f"c: {what}; {INSTALL}")


@functools.cache
def compiler_version(command: str) -> str:
    """Name and version of a compiler (`gcc 12.2.0`), or the command where it does not say."""
    try:
        done = subprocess.run(
            [*shlex.split(command), "--version"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return command
    words = done.stdout.splitlines()[0].split() if done.stdout.strip() else [command]
    numbers = [word for word in words if word[0].isdigit() and "." in word]
    name = (
        "clang"
        if "clang" in done.stdout.splitlines()[0]
        else "gcc"
        if "Free Software" in done.stdout
        else words[0]
    )
    return f"{name} {numbers[-1]}" if numbers else " ".join(words)


def installed_compiler() -> str:
    """The compiler's name and version, or an empty text where there is none."""
    try:
        return compiler_version(find_compiler())
    except TargetError:
        return ""


def compile_shared(source: str, folder: Path, flags: tuple[str, ...], compiler: str | None = None) -> Path:
    """Compile C source into a shared library.

    Args:
        source: one complete translation unit.
        folder: where source and library are written.
        flags: for the compiler, beside those that make a shared library.
        compiler: a command; None to look for one.

    Returns:
        The library's path.

    Raises:
        TargetError: no compiler, or it refuses the source (with its first message).
    """
    command = compiler or find_compiler()
    text = folder / "program.c"
    library = folder / f"program.{'dylib' if sys.platform == 'darwin' else 'so'}"
    text.write_text(source, encoding="utf-8")
    words = [*shlex.split(command), *flags, "-shared", "-fPIC", "-o", str(library), str(text), "-lm"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise TargetError(f"c: {command} took more than {COMPILE_SECONDS:.0f} s") from None
    if done.returncode:
        lines = (
            [line for line in done.stderr.splitlines() if "error" in line]
            or done.stderr.splitlines()
            or ["?"]
        )
        raise TargetError(f"c: {command} {' '.join(flags)} failed: {lines[0]}")
    return library


def aligned(size: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """Zero bytes that begin on a cache line."""
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size]
