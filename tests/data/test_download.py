"""Downloads from a local server that cuts connections, serves wrong bytes, or is not there."""

from __future__ import annotations

import hashlib
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tersa.data.download import fetch, staging
from tersa.data.source import Remote
from tersa.errors import DataError

CONTENT = bytes(range(256)) * 2000  # 512,000 bytes: eight blocks
REMOTE = Remote("file.gz", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


def dead_address() -> str:
    """An address on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/"


def only_the_file(folder: Path) -> bool:
    return [path.name for path in folder.iterdir()] == ["file.gz"]


def test_a_file_is_fetched_whole(tmp_path: Path, server: Any) -> None:
    server.files["file.gz"] = CONTENT
    path = fetch(REMOTE, (server.address,), tmp_path, pause_s=0)
    assert path.read_bytes() == CONTENT
    assert only_the_file(tmp_path)
    assert server.asked == [("file.gz", "")]


def test_a_whole_file_is_not_fetched_again(tmp_path: Path, server: Any) -> None:
    (tmp_path / "file.gz").write_bytes(CONTENT)
    fetch(REMOTE, (server.address,), tmp_path, pause_s=0)
    assert server.asked == []


def test_a_damaged_file_is_replaced(tmp_path: Path, server: Any) -> None:
    server.files["file.gz"] = CONTENT
    (tmp_path / "file.gz").write_bytes(CONTENT[:-1])
    assert fetch(REMOTE, (server.address,), tmp_path, pause_s=0).read_bytes() == CONTENT
    assert only_the_file(tmp_path)


@pytest.mark.parametrize("sized", [True, False])
def test_a_cut_connection_is_continued_where_it_broke(tmp_path: Path, server: Any, sized: bool) -> None:
    server.files["file.gz"], server.sized = CONTENT, sized
    server.cuts = [100_000, 0, 150_000, None]
    assert fetch(REMOTE, (server.address,), tmp_path, pause_s=0).read_bytes() == CONTENT
    asked = [wanted for _, wanted in server.asked]
    assert asked == ["", "bytes=100000-", "bytes=100000-", "bytes=250000-"]
    assert only_the_file(tmp_path)


def test_a_server_without_ranges_starts_again(tmp_path: Path, server: Any) -> None:
    server.files["file.gz"], server.ranges = CONTENT, False
    server.cuts = [100_000, None]
    assert fetch(REMOTE, (server.address,), tmp_path, pause_s=0).read_bytes() == CONTENT


def test_a_partial_file_never_has_the_name_of_the_whole(tmp_path: Path, server: Any) -> None:
    server.files["file.gz"] = CONTENT
    server.cuts = [100_000, 0, 0, 0]
    with pytest.raises(DataError, match=r"cannot download file.gz: .*; put the file into"):
        fetch(REMOTE, (server.address,), tmp_path, pause_s=0)
    assert not (tmp_path / "file.gz").exists()
    partial = staging(tmp_path / "file.gz") / "partial"
    assert partial.read_bytes() == CONTENT[:100_000]
    server.cuts = []
    fetch(REMOTE, (server.address,), tmp_path, pause_s=0)
    assert server.asked[-1] == ("file.gz", "bytes=100000-")
    assert only_the_file(tmp_path)


def test_the_next_mirror_continues_what_the_first_began(tmp_path: Path, server: Any) -> None:
    server.files["file.gz"] = CONTENT
    stage = staging(tmp_path / "file.gz")
    stage.mkdir()
    (stage / "partial").write_bytes(CONTENT[:7])
    path = fetch(REMOTE, (dead_address(), server.address), tmp_path, pause_s=0)
    assert path.read_bytes() == CONTENT
    assert server.asked == [("file.gz", "bytes=7-")]


def test_a_wrong_beginning_is_thrown_away(tmp_path: Path, server: Any) -> None:
    server.files["file.gz"] = CONTENT
    stage = staging(tmp_path / "file.gz")
    stage.mkdir()
    (stage / "partial").write_bytes(b"x" * 1000)
    assert fetch(REMOTE, (server.address,), tmp_path, pause_s=0).read_bytes() == CONTENT
    assert only_the_file(tmp_path)


def test_a_partial_that_is_too_long_is_thrown_away(tmp_path: Path, server: Any) -> None:
    server.files["file.gz"] = CONTENT
    stage = staging(tmp_path / "file.gz")
    stage.mkdir()
    (stage / "partial").write_bytes(CONTENT + b"x")
    assert fetch(REMOTE, (server.address,), tmp_path, pause_s=0).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("content", "sized", "message"),
    [
        (CONTENT[:-1] + b"!", True, "not the official one"),
        (CONTENT + b"!", True, "has a file of 512001 bytes, expected 512000"),
        (CONTENT + b"!" * 70_000, False, "sends more than 512000 bytes"),
        (b"<html>please log in</html>", True, "has a file of 26 bytes"),
        (b"<html>please log in</html>", False, "has a file of another size than 512000 bytes"),
    ],
)
def test_wrong_bytes_are_refused_and_a_partial_of_them_never_passes(
    tmp_path: Path, server: Any, content: bytes, sized: bool, message: str
) -> None:
    server.files["file.gz"], server.sized = content, sized
    with pytest.raises(DataError, match=message) as caught:
        fetch(REMOTE, (server.address,), tmp_path, pause_s=0)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "file.gz").exists()
    server.files["file.gz"] = CONTENT
    assert fetch(REMOTE, (server.address,), tmp_path, pause_s=0).read_bytes() == CONTENT


def test_a_mirror_without_the_file_is_passed_over_at_once(tmp_path: Path, server: Any) -> None:
    with pytest.raises(DataError, match="answers 404 Not Found"):
        fetch(REMOTE, (server.address,), tmp_path, pause_s=0)
    assert len(server.asked) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_busy_server_is_asked_again(tmp_path: Path, server: Any) -> None:
    server.files["file.gz"] = CONTENT
    server.statuses = [503, 502]
    assert fetch(REMOTE, (server.address,), tmp_path, pause_s=0).read_bytes() == CONTENT
    assert len(server.asked) == 3


def test_nobody_listening_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"cannot download file.gz: http://127.0.0.1:.*Connection refused"
    ) as caught:
        fetch(REMOTE, (dead_address(), dead_address()), tmp_path, pause_s=0)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count("Connection refused") == 2
    assert list(tmp_path.iterdir()) == []


PROGRAM = """
import hashlib, os, signal, sys
from pathlib import Path
from tersa.data import download
from tersa.data.source import Remote

content = bytes(range(256)) * 2000
remote = Remote("file.gz", hashlib.sha256(content).hexdigest(), len(content))

def dying(response, remote, partial, have):
    with partial.open("wb") as file:
        file.write(content[:131072])
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[3] == "die":
    download._append = dying
path = download.fetch(remote, (sys.argv[1],), Path(sys.argv[2]), pause_s=0)
sys.exit(0 if path.read_bytes() == content else 5)
"""


def start(server: Any, folder: Path, how: str) -> subprocess.Popen[bytes]:
    """The same download in a process of its own."""
    return subprocess.Popen([sys.executable, "-c", PROGRAM, server.address, str(folder), how])


def test_two_processes_do_not_mix_their_bytes(tmp_path: Path, server: Any) -> None:
    server.files["file.gz"] = CONTENT
    server.cuts = [200_000, 100_000]
    both = [start(server, tmp_path, "live") for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert only_the_file(tmp_path)
    assert sum(not wanted for _, wanted in server.asked) == 1, "the second found the file of the first"


def test_a_kill_leaves_a_partial_that_is_continued(tmp_path: Path, server: Any) -> None:
    server.files["file.gz"] = CONTENT
    assert start(server, tmp_path, "die").wait(timeout=120) == -signal.SIGKILL
    assert not (tmp_path / "file.gz").exists()
    assert fetch(REMOTE, (server.address,), tmp_path, pause_s=0).read_bytes() == CONTENT
    assert server.asked[-1] == ("file.gz", "bytes=131072-")
    assert only_the_file(tmp_path)
