"""A real sshd on loopback, with keys and settings of its own, for one test session."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@dataclass(frozen=True)
class Server:
    """A running sshd.

    Attributes:
        port: on 127.0.0.1.
        user: who may log in.
        folder: of its keys, settings and notes.
        process: the listening sshd.
    """

    port: int
    user: str
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def places(self) -> tuple[Path, Path]:
        """The home and the temporary folder of its logins: no other test writes there."""
        return self.folder / "home", self.folder / "temporary"

    @property
    def place(self) -> str:
        return f"ssh://{self.user}@127.0.0.1:{self.port}"

    def target(self, runtime: str) -> str:
        """The text of a target that runs with this very Python."""
        name, _, options = runtime.partition("@")
        return f"{self.place}/{name}@{','.join(filter(None, (options, f'python={sys.executable}')))}"

    def client(self, *more: str) -> str:
        """The ssh command that knows this server's key, and nothing of the user's own settings."""
        settings = (
            f"UserKnownHostsFile={self.folder / 'known_hosts'}",
            "GlobalKnownHostsFile=/dev/null",
            f"IdentityFile={self.folder / 'key'}",
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            *more,
        )
        return " ".join(["ssh", "-F", "/dev/null", *(f"-o{one}" for one in settings)])

    def sessions(self) -> list[psutil.Process]:
        """The processes that sshd runs for its logins."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def runners(self) -> list[psutil.Process]:
        """The runners among them."""
        return [one for one in self.sessions() if "tersa-runner" in " ".join(_words(one))]

    def cut(self) -> None:
        """Kill what serves the logins, as a machine that goes away."""
        for one in self.sessions():
            if one.name() == "sshd" or "sshd" in " ".join(_words(one)):
                one.send_signal(signal.SIGKILL)

    def quiet(self, seconds: float = 10.0) -> bool:
        """Whether no runner is left within some seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not runners_anywhere(self.folder):
                return True
            time.sleep(0.05)
        return False


def runners_anywhere(folder: Path) -> list[psutil.Process]:
    """Runners of this test's server, also those whose sshd is gone (by a mark in their environment)."""
    found: list[psutil.Process] = []
    for one in psutil.process_iter():
        try:
            if one.environ().get("TERSA_TEST_SERVER") == str(folder) and "tersa-runner" in " ".join(
                one.cmdline()
            ):
                found.append(one)
        except (psutil.Error, OSError):
            continue
    return found


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def serve(folder: Path) -> Generator[Server]:
    """An sshd that lets this user in with a key made for it."""
    assert SSHD is not None
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd separates its privileges
    for name in ("host", "key"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)]
        subprocess.run(words, check=True)
    shutil.copy(folder / "key.pub", folder / "authorized_keys")
    port = free_port()
    for name in ("home", "temporary"):
        (folder / name).mkdir()
    public = (folder / "host.pub").read_text().split()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {public[0]} {public[1]}\n")
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\n"
        f"AuthorizedKeysFile {folder / 'authorized_keys'}\nPidFile none\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
        f"SetEnv TERSA_TEST_SERVER={folder} HOME={folder / 'home'} TMPDIR={folder / 'temporary'}\n"
    )
    process = subprocess.Popen(
        [SSHD, "-D", "-f", str(folder / "sshd_config"), "-E", str(folder / "sshd.log")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 10
        while True:
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None or time.monotonic() > end:
                notes = (folder / "sshd.log").read_text() if (folder / "sshd.log").exists() else ""
                raise RuntimeError(f"sshd did not start: {notes}")
            time.sleep(0.02)
        yield Server(port, getpass.getuser(), folder, process)
    finally:
        for one in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else ():
            one.kill()
        process.kill()
        process.wait()
