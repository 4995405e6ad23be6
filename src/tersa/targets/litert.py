"""LiteRT (TensorFlow Lite) with XNNPACK: FP32 and INT8. Optional: `pip install "tersa[runtimes]"`.

The `.tflite` file is written from the artefact's graph by `tersa.export.tflite`, integers of an INT8 file as
they are. BF16 and FP16 are not offered: the Python runtime has no switch for them.

`litert@converter=litert-torch` takes the official converter instead (FP32, one batch size for each file). It
is heavy and pins old packages, so it lives in an environment of its own: `$TERSA_LITERT_PYTHON` names that
environment's Python, or `.litert/bin/python` in the working folder is taken.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from tersa.errors import TargetError
from tersa.export.artefact import Artefact
from tersa.export.tflite import tflite
from tersa.targets.base import Pixels, Session, described, executed, require_precision
from tersa.targets.torch_eager import placed

INSTALL = 'pip install "ai-edge-litert>=1.3"'

INSTALL_CONVERTER = (
    "python -m venv .litert && .litert/bin/pip install torch litert-torch; or set TERSA_LITERT_PYTHON"
)

OPTIONS = {"converter": ("tersa", "litert-torch")}

CONVERT_SECONDS = 600.0

LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL", "TRANSPOSE_CONV")

CONVERT = """
import sys, torch, litert_torch
module = torch.export.load(sys.argv[1]).module()
example = (torch.zeros([int(size) for size in sys.argv[3].split(",")]),)
litert_torch.convert(module, example).export(sys.argv[2])
"""


@dataclass(frozen=True)
class LiteRt:
    """LiteRT's interpreter with its default delegate, XNNPACK.

    Attributes:
        threads: of one inference.
        converter: `tersa`, or `litert-torch` in its own environment.
    """

    threads: int = 1
    converter: str = "tersa"
    name: ClassVar[str] = "litert"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "int8")

    def describe(self) -> str:
        """`litert@threads=N`, with `converter` when it is not `tersa`."""
        return described(self.name, self.threads, converter=(self.converter, "tersa"))

    def prepare(self, artefact: Artefact, model: str, precision: str | None = None) -> Session:
        """Write the `.tflite` file and load it."""
        asked = require_precision(self, artefact, precision)
        if importlib.util.find_spec("ai_edge_litert") is None:
            raise TargetError(f"litert is not installed; {INSTALL}")
        official = self.converter == "litert-torch"
        if official and asked != "fp32":
            raise TargetError(
                f"{self.describe()} does not offer {asked}; it has fp32 (converter=tersa has int8)"
            )
        content = convert(artefact, 1) if official else tflite(artefact.path).model
        start = time.perf_counter()
        interpreter = load(content, self.threads)
        load_ms = 1e3 * (time.perf_counter() - start)
        layers = count_layers(interpreter)
        programs = {1: interpreter} if official else {}
        run = _by_batch(programs, artefact, self.threads) if official else _resized(interpreter)
        return Session(
            *(
                model,
                self.describe(),
                asked,
                self.threads,
                f"ai-edge-litert {version('ai-edge-litert')}",
                run,
            ),
            executed=executed(self.name, asked, layers),
            load_ms=load_ms,
            size_bytes=len(content),
        )


def load(content: bytes, threads: int) -> Any:
    """An interpreter of a `.tflite` file that says nothing.

    Raises:
        TargetError: LiteRT refuses the file.
    """
    from ai_edge_litert.interpreter import Interpreter  # pyright: ignore - an optional runtime

    try:
        with _without_notes():
            interpreter = Interpreter(model_content=content, num_threads=threads)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise TargetError(f"litert cannot load the network: {str(error).splitlines()[0]}") from None
    return interpreter


def count_layers(interpreter: Any) -> Counter[str]:
    """Convolutions and matrix products by the type of their inputs."""
    kinds = {np.float32: "fp32", np.int8: "int8", np.uint8: "int8", np.float16: "fp16"}
    found: Counter[str] = Counter()
    for one in interpreter._get_ops_details():
        if one["op_name"] in LAYERS:
            used = {kinds.get(kind, str(kind)) for kind in one["operand_types"][:2]}
            found["int8" if used == {"int8"} else "fp32" if "fp32" in used else used.pop()] += 1
    return found


def converter_python() -> Path:
    """The Python of the environment that has litert-torch.

    Raises:
        TargetError: there is none, with the line that makes one.
    """
    named = os.environ.get("TERSA_LITERT_PYTHON", "")
    path = Path(named) if named else Path(".litert/bin/python")
    if not path.is_file():
        found = (
            f"TERSA_LITERT_PYTHON names {named}, which is no file" if named else "no environment .litert here"
        )
        raise TargetError(f"litert@converter=litert-torch: {found}; {INSTALL_CONVERTER}")
    return path


def convert(artefact: Artefact, batch: int) -> bytes:
    """The `.tflite` file that litert-torch makes of an artefact's module for one batch size.

    Raises:
        TargetError: no module, no converter, or it fails (with its last line).
    """
    module = placed("litert", artefact, "fp32", "cpu", "contiguous")
    python = converter_python()
    shape = (batch, *artefact.header.shape)
    with tempfile.TemporaryDirectory(prefix="tersa.") as folder:
        source, target = Path(folder) / "module.pt2", Path(folder) / "model.tflite"
        torch.export.save(torch.export.export(module, (torch.zeros(shape),)), source)
        words = [str(python), "-c", CONVERT, str(source), str(target), ",".join(str(size) for size in shape)]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=CONVERT_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise TargetError(f"litert-torch took more than {CONVERT_SECONDS:.0f} s") from None
        if done.returncode or not target.is_file():
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise TargetError(f"litert-torch cannot convert the network: {lines[-1]}")
        return target.read_bytes()


def _resized(interpreter: Any) -> Callable[[Pixels], Pixels]:
    """Pixels to logits; the input is resized where the batch changes."""
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    batch = int(source["shape"][0])

    def run(pixels: Pixels) -> Pixels:
        nonlocal batch
        if len(pixels) != batch:
            batch = len(pixels)
            with _without_notes():
                interpreter.resize_tensor_input(source["index"], pixels.shape)
                interpreter.allocate_tensors()
        interpreter.set_tensor(source["index"], pixels)
        interpreter.invoke()
        return interpreter.get_tensor(target["index"])

    return run


def _by_batch(programs: dict[int, Any], artefact: Artefact, threads: int) -> Callable[[Pixels], Pixels]:
    """Pixels to logits, by one program for each batch size."""
    runs = {batch: _resized(one) for batch, one in programs.items()}

    def run(pixels: Pixels) -> Pixels:
        if len(pixels) not in runs:
            runs[len(pixels)] = _resized(load(convert(artefact, len(pixels)), threads))
        return runs[len(pixels)](pixels)

    return run


class _without_notes:
    """Send what LiteRT writes on standard error while it loads (`INFO: Created ... delegate`) to nowhere."""

    def __enter__(self) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        self._kept = os.dup(2)
        empty = os.open(os.devnull, os.O_WRONLY)
        os.dup2(empty, 2)
        os.close(empty)

    def __exit__(self, *_: object) -> None:
        os.dup2(self._kept, 2)
        os.close(self._kept)


def features() -> str:
    """Its delegate, and whether the official converter was found."""
    try:
        converter_python()
    except TargetError:
        return f"XNNPACK; converter=litert-torch: {INSTALL_CONVERTER}"
    return "XNNPACK; converter=litert-torch found"
