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


def test_an_image_of_another_size_is_refused(exported: Exported, tmp_path: Path) -> None:
    script = write_run_script(tmp_path / "run.py", exported("lenet").path.name)
    np.save(tmp_path / "image.npy", np.zeros((5, 6), np.uint8))
    done = run(script, tmp_path / "image.npy")
    assert done.returncode == 1
    assert "(5, 6)" in done.stderr
    assert "(12, 12, 1)" in done.stderr


def test_without_an_image_it_says_how_it_is_used(exported: Exported, tmp_path: Path) -> None:
    script = write_run_script(tmp_path / "run.py", exported("lenet").path.name)
    assert "python run.py IMAGE..." in run(script).stderr


def test_it_stays_short(tmp_path: Path) -> None:
    lines = write_run_script(tmp_path / "run.py", "net.onnx").read_text().splitlines()
    assert len(lines) <= 35
    assert max(map(len, lines)) <= 110
