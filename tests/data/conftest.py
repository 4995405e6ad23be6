"""Small data sets in every form that tersa reads, and a server that misbehaves on order."""

from __future__ import annotations

import gzip
import io
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tersa.data.idx import STEMS


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty user cache, and no data folder, for each test."""
    home = tmp_path / "cache"
    monkeypatch.setenv("TERSA_CACHE", str(home))
    monkeypatch.delenv("TERSA_DATA", raising=False)
    return home


def pattern(*shape: int, seed: int = 0) -> np.ndarray:
    """Bytes that look like nothing else: a sine of the position."""
    values = np.sin(np.arange(np.prod(shape)) * 0.37 + seed)
    return ((values + 1) * 127.5).astype(np.uint8).reshape(shape)


def idx_bytes(array: np.ndarray) -> bytes:
    """An array as an IDX file."""
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(np.uint8).tobytes()


def labels_of(n: int, k: int) -> np.ndarray:
    return np.arange(n) % k


@pytest.fixture
def write_idx() -> Callable[..., Path]:
    """`write_idx(folder, train=40, test=20, zipped=True)`: the four files of a small MNIST."""

    def write(folder: Path, train: int = 40, test: int = 20, *, zipped: bool = True, seed: int = 0) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        arrays = (
            pattern(train, 6, 5, seed=seed),
            labels_of(train, 10),
            pattern(test, 6, 5, seed=seed + 1),
            labels_of(test, 10),
        )
        for stem, array in zip(STEMS, arrays, strict=True):
            data = idx_bytes(array)
            (folder / (stem + ".gz" * zipped)).write_bytes(gzip.compress(data, mtime=0) if zipped else data)
        return folder

    return write


def png_bytes(values: np.ndarray, kind: str = "PNG") -> bytes:
    """(H, W) or (H, W, 3) bytes as an image file."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format=kind)
    return buffer.getvalue()


@pytest.fixture
def class_files() -> Callable[..., dict[str, bytes]]:
    """`class_files(...)`: names and bytes of images in class folders, before they are a folder or a zip."""

    def make(
        classes: tuple[str, ...] = ("cat", "dog"),
        *,
        train: int = 5,
        test: int = 2,
        size: tuple[int, ...] = (4, 6),
        suffix: str = "png",
    ) -> dict[str, bytes]:
        kind = "PNG" if suffix == "png" else "JPEG"
        return {
            f"{split}/{name}/{i}.{suffix}": png_bytes(
                pattern(*size, seed=100 * k + i + (split == "test") * 50), kind
            )
            for split, count in (("train", train), ("test", test))
            for k, name in enumerate(classes)
            for i in range(count)
        }

    return make


@pytest.fixture
def write_folder() -> Callable[[Path, dict[str, bytes]], Path]:
    def write(root: Path, files: dict[str, bytes]) -> Path:
        for name, data in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        return root

    return write


@pytest.fixture
def write_zip() -> Callable[[Path, dict[str, bytes]], Path]:
    def write(path: Path, files: dict[str, bytes]) -> Path:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(zipfile.ZipInfo(name), data)
        return path

    return write


@dataclass
class Server:
    """A local HTTP server.

    Attributes:
        files: what it serves, by name.
        ranges: honours Range requests.
        cuts: for each coming answer, after how many bytes of the body the connection breaks; None: never.
        statuses: for each coming answer, another status than 200 or 206.
        sized: sends Content-Length.
        asked: (name, Range header) of each request.
    """

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    cuts: list[int | None] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    sized: bool = True
    asked: list[tuple[str, str]] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, wanted = self.path.rsplit("/", 1)[-1], self.headers.get("Range", "")
            state.asked.append((name, wanted))
            data = state.files.get(name)
            status = state.statuses.pop(0) if state.statuses else 404 if data is None else 200
            if data is None or status != 200:
                self.send_error(status)
                return
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and state.ranges else 0
            if start >= len(data):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            if state.sized:
                self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            cut = state.cuts.pop(0) if state.cuts else None
            self.wfile.write(data[start:] if cut is None else data[start : start + cut])
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    state.address = f"http://127.0.0.1:{http.server_address[1]}/data/"
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture(name="pattern")
def pattern_() -> Callable[..., np.ndarray]:
    return pattern


@pytest.fixture(name="idx_bytes")
def idx_bytes_() -> Callable[[np.ndarray], bytes]:
    return idx_bytes


@pytest.fixture(name="png_bytes")
def png_bytes_() -> Callable[..., bytes]:
    return png_bytes


@pytest.fixture
def leftovers(cache_home: Path) -> Callable[[], list[str]]:
    """Names of everything in the cache that a finished command must not leave there."""

    def find() -> list[str]:
        return [
            str(path.relative_to(cache_home))
            for path in cache_home.rglob("*")
            if path.name.endswith((".part", ".download"))
            or path.name in ("partial",)
            or path.parent.name == "decoded"
        ]

    return find
