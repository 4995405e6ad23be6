"""The generated `run.py`, executed as its reader would: in a process of its own, without tersa."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tersa.export.artefact import Artefact
from tersa.export.check import classify
from tersa.export.run_script import write_run_script

MOST_LINES = 16
"""Of code: three to import, three to open the file, ten for each image."""
NEAR = 0.0005001
"""Half of the last digit that is printed, as a share, and the rounding of a float32."""
Exported = Callable[..., Artefact]


def run(script: Path, *images: Path, block: str = "tersa,torch,onnx") -> subprocess.CompletedProcess[str]:
    """Execute with some packages made unimportable."""
    blocked = f"import sys; [sys.modules.__setitem__(name, None) for name in {block.split(',')!r}]; "
    runner = "import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", blocked + runner, str(script), *map(str, images)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def stored(channels: int) -> npt.NDArray[np.uint8]:
    wave = 127.5 + 127.5 * np.sin(np.arange(12 * 12 * channels) * 0.37)
    return wave.astype(np.uint8).reshape(12, 12, channels)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_file_gives_the_artefacts_answer(
    channels: int, exported: Exported, tmp_path: Path
) -> None:
    artefact = exported("lenet", channels)
    image = stored(channels)
    np.save(tmp_path / "bytes.npy", image)
    np.save(tmp_path / "floats.npy", (image / 255).astype(np.float32))
    letter, suffix = ("5", "pgm") if channels == 1 else ("6", "ppm")
    netpbm = tmp_path / f"image.{suffix}"
    netpbm.write_bytes(f"P{letter}\n# a remark\n12 12\n255\n".encode() + image.tobytes())
    script = write_run_script(tmp_path / "run.py", artefact.path.name)
    done = run(script, tmp_path / "bytes.npy", tmp_path / "floats.npy", netpbm, block="tersa,torch,onnx,PIL")
    assert (done.returncode, done.stderr) == (0, "")
    answer = artefact.header.classes[classify(artefact.path, image.transpose(2, 0, 1)[None]).argmax()]
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all(f": {answer} (" in line for line in lines)


def test_png_needs_pillow_and_gives_the_same(exported: Exported, tmp_path: Path) -> None:
    script = write_run_script(tmp_path / "run.py", exported("lenet").path.name)
    Image.fromarray(stored(1)[:, :, 0]).save(tmp_path / "image.png")
    np.save(tmp_path / "image.npy", stored(1)[:, :, 0])
    done = run(script, tmp_path / "image.png", tmp_path / "image.npy")
    assert done.returncode == 0, done.stderr
    png, npy = (line.partition(": ")[2] for line in done.stdout.splitlines())
    assert png == npy
    assert run(script, tmp_path / "image.png", block="tersa,PIL").returncode != 0


def test_the_probability_is_the_softmax_of_the_answer(exported: Exported, tmp_path: Path) -> None:
    artefact = exported("lenet")
    np.save(tmp_path / "image.npy", stored(1))
    logits = classify(artefact.path, stored(1).transpose(2, 0, 1)[None])[0].astype(np.float64)
    done = run(write_run_script(tmp_path / "run.py", artefact.path.name), tmp_path / "image.npy")
    printed = float(done.stdout.rpartition("(")[2].removesuffix("%)\n")) / 100
    assert abs(printed - (np.exp(logits) / np.exp(logits).sum()).max()) <= NEAR


def test_an_image_of_another_size_is_refused(exported: Exported, tmp_path: Path) -> None:
    script = write_run_script(tmp_path / "run.py", exported("lenet").path.name)
    np.save(tmp_path / "image.npy", np.zeros((5, 6), np.uint8))
    done = run(script, tmp_path / "image.npy")
    assert done.returncode == 1
    assert "(5, 6)" in done.stderr
    assert "(12, 12, 1)" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("header", "shape"), [(b"P5 6 5 255\n", (5, 6, 1)), (b"P6\n12 12\n255\n", (12, 12, 3))]
)
def test_a_netpbm_file_of_another_shape_is_refused(
    header: bytes, shape: tuple[int, int, int], exported: Exported, tmp_path: Path
) -> None:
    script = write_run_script(tmp_path / "run.py", exported("lenet").path.name)
    (tmp_path / "image.pgm").write_bytes(header + bytes(shape[0] * shape[1] * shape[2]))
    done = run(script, tmp_path / "image.pgm")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"image.pgm is {shape}; rows, columns, channels must be (12, 12, 1)" in done.stderr


def test_a_netpbm_file_that_is_text_is_left_to_pillow(exported: Exported, tmp_path: Path) -> None:
    script = write_run_script(tmp_path / "run.py", exported("lenet").path.name)
    values = " ".join(map(str, stored(1).ravel().tolist()))
    (tmp_path / "text.pgm").write_text(f"P2 12 12 255\n{values}\n")
    np.save(tmp_path / "image.npy", stored(1))
    done = run(script, tmp_path / "text.pgm", tmp_path / "image.npy")
    assert done.returncode == 0, done.stderr
    text, npy = (line.partition(": ")[2] for line in done.stdout.splitlines())
    assert text == npy


def test_without_an_image_it_says_how_it_is_used(exported: Exported, tmp_path: Path) -> None:
    script = write_run_script(tmp_path / "run.py", exported("lenet").path.name)
    assert "python run.py IMAGE..." in run(script).stderr


def test_it_stays_short(tmp_path: Path) -> None:
    docstring, *lines = write_run_script(tmp_path / "run.py", "net.onnx").read_text().splitlines()
    assert docstring.startswith('"""Classify images with net.onnx: ')
    assert len([line for line in lines if line]) <= MOST_LINES
    assert max(map(len, lines)) <= 110
