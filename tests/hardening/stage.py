"""Whole commands under a fault, quickly: torch is loaded once, each command runs in a fork of that process.

    with Stage() as stage:
        calm = stage.run("train", "--data", "digits", "--out", folder)
        killed = stage.run("train", ..., kill_after_s=0.4)   # SIGKILL, to the command and its children
        full = stage.run("train", ..., largest_file=4096)    # as on a full disk: no file grows beyond that
        closed = stage.run("train", ..., obey=True)          # permissions hold for root too

A fork has its own process group, working folder, environment and limits. Its two streams are files, so that
nothing is lost where it is killed.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

READY = "ready"
LOADED = [
    "tersa.cli.main",
    "sklearn.datasets",
    "onnxscript",
    "tersa.report.network_page",
    "tersa.report.page",
]
LOADED += [
    f"tersa.recipes.{name}" for name in ("adapt", "bench", "study", "train", "network_report", "learn")
]
"""What every command would load anew."""
POLL_S = 0.002


@dataclass(frozen=True)
class Job:
    """One command and what happens to it."""

    argv: list[str]
    out: str
    err: str
    cwd: str
    env: dict[str, str] = field(default_factory=dict)
    kill_after_s: float | None = None
    largest_file: int | None = None
    before: str = ""
    obey: bool = False


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str
    seconds: float
    peak_bytes: int

    @property
    def said(self) -> list[str]:
        """Lines on standard error that begin with `error:`."""
        return [line for line in self.err.splitlines() if line.startswith("error:")]

    def json(self) -> dict[str, Any]:
        """The result of a command that was asked for `--json`."""
        assert self.code in (0, 3), self.err
        return json.loads(self.out)

    def refused(self) -> str:
        """The one line of a command that failed for a reason the user can act on."""
        assert self.code in (1, 2), f"code {self.code}\n{self.out[-2000:]}{self.err[-3000:]}"
        assert "Traceback" not in self.err, self.err[-3000:]
        assert "unexpected" not in self.err, self.err[-3000:]
        assert len(self.said) == 1, self.err[-3000:]
        return self.said[0]


class Stage:
    """The process that has loaded torch, seen from a test."""

    def __enter__(self) -> Stage:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
        self.folder = tempfile.TemporaryDirectory(prefix="stage.")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.hardening.stage"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == READY
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.communicate()
        self.folder.cleanup()

    def run(self, *argv: object, cwd: str = "", **how: Any) -> Done:
        """Run `tersa ARGV`; see `Job` for the faults."""
        streams = [str(Path(self.folder.name) / name) for name in ("out", "err")]
        how["env"] = {"TERSA_CACHE": os.environ["TERSA_CACHE"], **how.get("env", {})}
        job = Job(
            [str(word) for word in argv], *streams, cwd=cwd or tempfile.mkdtemp(dir=self.folder.name), **how
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(asdict(job)) + "\n")
        self.process.stdin.flush()
        code, seconds, peak = json.loads(self.process.stdout.readline())
        texts = [Path(stream).read_bytes().decode("utf-8", "replace") for stream in streams]
        return Done(code, *texts, seconds, peak)


def serve() -> None:
    """Read jobs from standard input until it ends; answer each with exit code, seconds and peak memory."""
    for name in LOADED:
        importlib.import_module(name)
    print(READY, flush=True)
    for line in sys.stdin:
        job = Job(**json.loads(line))
        began = time.perf_counter()
        child = os.fork()
        if child == 0:
            play(job)
        code, peak = ended(child, job, began)
        print(json.dumps([code, time.perf_counter() - began, peak]), flush=True)


def ended(child: int, job: Job, began: float) -> tuple[int, int]:
    """Wait for a child, and kill it with its children when its time has come."""
    while True:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024
        if job.kill_after_s is not None and time.perf_counter() - began >= job.kill_after_s:
            os.killpg(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            return os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024
        time.sleep(POLL_S)


def obey_permissions() -> None:
    """Take from root the right to pass over file permissions, as no other user has it."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    head = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    assert libc.capget(head, sets) == 0
    for index in range(3):
        sets[index] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(head, sets) == 0


def play(job: Job) -> None:
    """The child: put the fault in place, run the command, leave without Python's own end."""
    from tersa.cli.main import execute

    os.setpgid(0, 0)
    os.chdir(job.cwd)
    for stream, path in ((1, job.out), (2, job.err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(job.env)
    for name in [name for name, value in job.env.items() if not value]:
        del os.environ[name]
    if job.obey:
        obey_permissions()
    if job.largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job.largest_file, job.largest_file))
    if job.before:
        exec(job.before, {})
    code = execute(job.argv)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve()
    os._exit(0)  # nothing is left to tidy, and torch takes seconds for it
