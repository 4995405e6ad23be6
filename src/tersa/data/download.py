"""Downloads of files whose bytes are known: resumed, checked, and put in place whole or not at all.

A file is gathered in a staging folder beside its place (`.NAME.download/`), continued there after a cut or
a kill (HTTP Range), checked against its sha256 and only then renamed into place. So a partial file never
stands under the name of a whole one. Mirrors are tried in order; one file is downloaded by one process at
a time.

Example:
    mnist = tersa.data.sources.SOURCES["mnist"]
    fetch(mnist.remote[0], mnist.mirrors, Path("data/mnist"))
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pooch
import requests
from urllib3.exceptions import HTTPError as BrokenStream

from tersa.data.source import Remote
from tersa.errors import DataError

logger = logging.getLogger(__name__)

TRIES = 3
"""Tries in a row that bring no byte, after which the next mirror is asked."""

TIMEOUT_S = (10.0, 60.0)
"""Seconds to connect, and between two blocks."""

BLOCK_BYTES = 1 << 16
REPORT_S = 5.0


class _Cut(Exception):
    """The connection ended before the file did; what came is kept and continued."""


class _Refused(Exception):
    """This mirror will not give the file; another may."""


def fetch(remote: Remote, mirrors: tuple[str, ...], folder: Path, *, pause_s: float = 1.0) -> Path:
    """Download one file unless it is there already with the right bytes.

    Args:
        remote: the file, with its digest.
        mirrors: base addresses; `remote.name` is appended.
        folder: where the file goes; made when missing.
        pause_s: before the second try at a mirror; doubled each time.

    Returns:
        The path of the whole, checked file.

    Raises:
        DataError: no mirror gave the right bytes; the message has what each of them did.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / remote.name
    with _alone_in(folder):
        if target.is_file() and pooch.file_hash(str(target), alg="sha256") == remote.sha256:
            return target
        failures: list[str] = []
        for mirror in mirrors:
            failure = _from_mirror(remote, mirror, target, pause_s)
            if not failure:
                return target
            failures.append(failure)
            logger.warning("%s: %s", remote.name, failure)
    raise DataError(
        f"cannot download {remote.name}: {'; '.join(failures)}; put the file into {folder} yourself"
    )


def staging(target: Path) -> Path:
    """The folder in which a download of `target` is gathered."""
    return target.with_name(f".{target.name}.download")


def _from_mirror(remote: Remote, mirror: str, target: Path, pause_s: float) -> str:
    """Try one mirror as long as bytes come; return why it failed, or an empty string."""
    url = f"{mirror.rstrip('/')}/{remote.name}"
    stage = staging(target)
    partial = stage / "partial"
    failure, fruitless = "", 0
    while fruitless < TRIES:
        if fruitless:
            time.sleep(pause_s * 2 ** (fruitless - 1))
        stage.mkdir(exist_ok=True)
        had = _size(partial)
        try:
            _checked_download(url, remote, target, partial)
            return ""
        except _Cut as error:
            failure = f"{url}: {error}"
            fruitless = 0 if _size(partial) > had else fruitless + 1
        except _Refused as error:
            failure, fruitless = f"{url}: {error}", TRIES
        except ValueError:  # pooch: the bytes have another sha256
            failure = f"{url}: the file served there is not the official one (sha256 differs)"
            # The fault may lie in what was kept from before: once more from nothing.
            fruitless = fruitless + 1 if had else TRIES
    if not _size(partial):
        shutil.rmtree(stage)
    return failure


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _checked_download(url: str, remote: Remote, target: Path, partial: Path) -> None:
    """Gather the file in the staging folder, have pooch check it there, then rename it into place."""

    def stream(address: str, output: str, _: object) -> None:
        _stream(address, remote, partial)
        partial.replace(output)

    level = pooch.get_logger().level
    pooch.get_logger().setLevel(logging.WARNING)  # our own progress lines say it
    try:
        whole = pooch.retrieve(
            url,
            f"sha256:{remote.sha256}",
            fname=remote.name,
            path=partial.parent,
            downloader=stream,  # pyright: ignore[reportArgumentType] - pooch declares other names than it calls
        )
    finally:
        pooch.get_logger().setLevel(level)
    with open(whole, "rb+") as file:
        os.fsync(file.fileno())
    Path(whole).replace(target)
    shutil.rmtree(partial.parent)


def _stream(url: str, remote: Remote, partial: Path) -> None:
    """Append to `partial` until it is as long as the file should be; the digest is checked afterwards."""
    have = _size(partial)
    if have >= remote.size:
        return
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    logger.info(
        "downloading %s (%.1f MB)%s", url, remote.size / 1e6, f", from byte {have} on" if have else ""
    )
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
            _append(response, remote, partial, have)
    except (requests.RequestException, BrokenStream) as error:
        raise _Cut(_reason(error)) from error
    got = _size(partial)
    if got < remote.size:
        raise _Cut(f"the connection ended after {got} of {remote.size} bytes")


def _append(response: requests.Response, remote: Remote, partial: Path, have: int) -> None:
    """Write what the server sends behind the `have` bytes, or from the start where it knows no ranges."""
    if response.status_code >= 500:
        raise _Cut(f"server error {response.status_code}")
    if response.status_code not in (200, 206, 416):
        raise _Refused(f"answers {response.status_code} {response.reason}")
    ranged = response.status_code != 200
    if (
        ranged
        and response.headers.get("Content-Range", "").split("/")[0] != f"bytes {have}-{remote.size - 1}"
    ):
        raise _Refused(f"has a file of another size than {remote.size} bytes")
    length = response.headers.get("Content-Length", "")
    if not ranged and length.isdigit() and int(length) != remote.size:
        raise _Refused(f"has a file of {length} bytes, expected {remote.size}")
    written, last = (have if ranged else 0), time.monotonic()
    with partial.open("ab" if ranged else "wb") as file:
        for block in response.raw.stream(BLOCK_BYTES, decode_content=False):
            written += file.write(block)
            if written > remote.size:
                partial.unlink()
                raise _Refused(f"sends more than {remote.size} bytes")
            if time.monotonic() - last > REPORT_S:
                last = time.monotonic()
                logger.info("%s: %.0f %%", remote.name, 100 * written / remote.size)


def _reason(error: Exception) -> str:
    """The innermost cause, in a few words."""
    inner: BaseException = error
    while (cause := inner.__cause__ or inner.__context__) is not None:
        inner = cause
    return f"{type(inner).__name__}: {str(inner)[:160]}".replace("\n", " ")


@contextmanager
def _alone_in(folder: Path) -> Generator[None]:
    """Hold the folder's lock, which ends with the process; wait for another process that holds it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process is downloading into %s; waiting for it", folder)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
