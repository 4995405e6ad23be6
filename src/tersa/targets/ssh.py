"""Another machine over ssh: `ssh://user@host:port/onnxruntime@threads=1,python=/opt/venv/bin/python`.

The system's `ssh` starts Python over there and hands it one file (`ssh_runner.py`) through its standard
input; the artefact follows, logits and timed rounds come back as lines of JSON. Nothing is written to the
other machine's disk, and the runner ends with the connection. It needs numpy and the runtime, not tersa.

Sessions on one machine share a connection and a process, so that their rounds can be interleaved: time them
with `Session.elsewhere`, which measures by the other machine's clock.

Login is by key or agent and is never asked for (`BatchMode`); a host key that is not known is refused.
`$TERSA_SSH` replaces the command (`ssh -F other.config`).
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import re
import shlex
import shutil
import subprocess
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from typing import IO, Any, ClassVar

import numpy as np
import onnx

from tersa.errors import ModelError, TargetError, UsageError
from tersa.export.artefact import PACKED, Artefact
from tersa.export.tflite import tflite
from tersa.targets.base import (
    PRECISIONS,
    Effort,
    Pixels,
    RemoteTimes,
    Session,
    Target,
    described,
    executed,
    require_precision,
)
from tersa.targets.litert import LiteRt
from tersa.targets.onnx_runtime import OnnxRuntime, layers_of
from tersa.targets.openvino_cpu import OpenVino

SCHEME = "ssh://"

RUNTIMES: dict[str, type[Target]] = {"onnxruntime": OnnxRuntime, "openvino": OpenVino, "litert": LiteRt}
"""What the runner can load: the targets of this machine that it stands for."""

OPTIONS: dict[str, tuple[str, ...]] = {"onnxruntime": ("graph",), "openvino": ("hint",), "litert": ()}
"""The options that travel."""

DEFAULTS = {"graph": "all", "hint": "latency"}

PYTHON = "python3"

CONNECT_SECONDS = 15.0
ANSWER_SECONDS = 300.0

START = (
    "import sys; source = sys.stdin.buffer; "
    "exec(compile(source.read(int(source.readline())), 'tersa-runner', 'exec'))"
)
"""Reads the runner's size and text from standard input, and becomes it."""


@dataclass(frozen=True)
class Place:
    """Where to: `ssh://user@host:port`."""

    host: str
    user: str = ""
    port: int | None = None

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        return f"{SCHEME}{user}{self.host}{f':{self.port}' if self.port else ''}"


def is_remote(text: str) -> bool:
    """A target's text names another machine.

    >>> is_remote("ssh://pi/onnxruntime"), is_remote("onnxruntime")
    (True, False)
    """
    return text.startswith(SCHEME)


def split(text: str) -> tuple[Place, str]:
    """The place and the rest of a remote target's text.

    >>> place, rest = split("ssh://pi@raspberry:2222/onnxruntime@threads=4")
    >>> place, rest
    (Place(host='raspberry', user='pi', port=2222), 'onnxruntime@threads=4')

    Raises:
        UsageError: not of the form `ssh://[USER@]HOST[:PORT]/RUNTIME`.
    """
    form = re.fullmatch(
        r"ssh://(?:(?P<user>[A-Za-z0-9_][\w.+-]*)@)?(?P<host>[A-Za-z0-9][\w.-]*|\[[0-9A-Fa-f:.]+\])"
        r"(?::(?P<port>\d{1,5}))?/(?P<rest>[^,].*)",
        text,
    )
    port = int(form["port"]) if form and form["port"] else None
    if form is None or (port is not None and not 0 < port < 65536):
        raise UsageError(
            f"'{text}' is not ssh://[USER@]HOST[:PORT]/RUNTIME[@OPTIONS]; runtimes: {', '.join(RUNTIMES)}"
        )
    return Place(form["host"].strip("[]"), form["user"] or "", port), form["rest"]


def check_python(text: str) -> str:
    """A Python on the other machine, as its shell takes it.

    Raises:
        UsageError: characters that a path to Python does not need.
    """
    if not re.fullmatch(r"[\w~/.+][\w/.+-]*", text, re.ASCII):
        raise UsageError(f"python= is a command or path of letters, digits and ~/._+-, not '{text}'")
    return text


@dataclass(frozen=True)
class Remote:
    """A runtime on another machine.

    Attributes:
        place: the machine.
        runtime: a key of `RUNTIMES`.
        threads: of one inference, over there.
        python: the Python that has the runtime, over there.
        options: of the runtime, as sorted pairs.
    """

    place: Place
    runtime: str
    threads: int = 1
    python: str = PYTHON
    options: tuple[tuple[str, str], ...] = ()

    name: ClassVar[str] = "ssh"
    precisions: ClassVar[tuple[str, ...]] = tuple(each for each in PRECISIONS if each != PACKED)

    def describe(self) -> str:
        """`ssh://user@host/onnxruntime@threads=N`, with every option that is not its default."""
        pairs = {key: (value, DEFAULTS[key]) for key, value in self.options}
        return described(f"{self.place}/{self.runtime}", self.threads, **pairs, python=(self.python, PYTHON))

    def prepare(self, artefact: Artefact, model: str, precision: str | None = None) -> Session:
        """Send the artefact and load it over there."""
        offered = tuple(each for each in RUNTIMES[self.runtime].precisions if each in self.precisions)
        if (precision or artefact.header.precision) not in offered:
            asked = precision or artefact.header.precision
            raise TargetError(f"{self.describe()} does not offer {asked}; it has {', '.join(offered)}")
        asked = require_precision(self, artefact, precision)
        if not artefact.path.is_file():
            raise ModelError(f"no file {artefact.path}")
        content, layers = artefact.path.read_bytes(), Counter[str]()
        if self.runtime == "litert":
            program = tflite(artefact.path)
            content, layers = program.model, program.layers
        connection = connect(self.place, self.python)
        message = {
            "do": "load", "runtime": self.runtime, "threads": self.threads, "options": dict(self.options),
            "precision": asked,
        }  # fmt: skip
        try:
            told, rest = connection.ask(message, content)
            if rest:
                layers = layers_of(onnx.load_model_from_string(rest))
            layers.update(told.get("executed", {}))
            computes = executed(self.describe(), asked, layers) if layers else ""
        except (TargetError, ModelError):
            connection.leave()
            raise
        index = int(told["session"])

        def run(pixels: Pixels) -> Pixels:
            images = np.ascontiguousarray(pixels, "<f4")
            head, logits = connection.ask(
                {"do": "run", "session": index, "shape": list(images.shape)}, images.tobytes()
            )
            return np.frombuffer(logits, "<f4").reshape(head["shape"])

        holding = connection.hold(run)
        connection.indices[id(run)] = index
        return Session(
            *(model, self.describe(), asked, self.threads, str(told["version"]), run),
            device=str(self.place),
            executed=computes,
            load_ms=float(told["load_ms"]),
            size_bytes=len(content),
            close=holding,
            elsewhere=connection.time,
            hardware=connection.hardware,
        )


class Connection:
    """One ssh process and the runner at its other end.

    Args:
        place: the machine.
        python: the Python to start there.

    Raises:
        TargetError: no ssh here, no machine, no login, an unknown host key, or no such Python there.
    """

    def __init__(self, place: Place, python: str) -> None:
        self.place, self.python = place, python
        self.indices: dict[int, int] = {}
        self._holders = 0
        self._lock = threading.Lock()
        self._inbox: queue.Queue[tuple[dict[str, Any], bytes] | None] = queue.Queue()
        self._process = _start(place, python)
        self._notes = _Notes(self._process.stderr)
        threading.Thread(target=self._listen, daemon=True).start()
        runner = files("tersa.targets").joinpath("ssh_runner.py").read_bytes()
        self._send(f"{len(runner)}\n".encode() + runner)
        ready = self._receive(CONNECT_SECONDS, "connecting")[0]
        self.pid = int(ready["pid"])
        self.hardware = (str(ready["processor"]), int(ready["cores"]))

    @property
    def alive(self) -> bool:
        """Whether the ssh process still runs."""
        return self._process.poll() is None

    def ask(
        self, message: dict[str, Any], content: bytes = b"", seconds: float = ANSWER_SECONDS
    ) -> tuple[dict[str, Any], bytes]:
        """Send one message and wait for its answer.

        Raises:
            TargetError: the connection ends, the time is over, or the runner refuses.
        """
        with self._lock:
            self._send_message(message, content, seconds)
            return self._receive(seconds + CONNECT_SECONDS, str(message["do"]))

    def time(
        self, sessions: Sequence[Session], inputs: Sequence[Pixels], effort: Effort
    ) -> list[RemoteTimes]:
        """Interleaved rounds over there (`base.Elsewhere`).

        Raises:
            TargetError: a session of another machine, or as `ask`.
        """
        indices = [self.indices.get(id(session.run)) for session in sessions]
        if None in indices:
            raise TargetError(f"sessions of {self.place} can be timed together only with one another")
        arrays = [np.ascontiguousarray(one, "<f4") for one in inputs]
        message = {
            "do": "time", "sessions": indices, "shapes": [list(one.shape) for one in arrays],
            "seconds": effort.seconds,
            "rounds": effort.rounds, "round_ms": effort.round_ms, "warmup_seconds": effort.warmup_seconds,
        }  # fmt: skip
        limit = ANSWER_SECONDS + 6 * len(sessions) * (effort.seconds + effort.warmup_seconds)
        times: list[list[float]] = [[] for _ in sessions]
        with self._lock:
            self._send_message(message, b"".join(one.tobytes() for one in arrays), limit)
            while True:
                told, _ = self._receive(limit, "timing")
                if "done" in told:
                    break
                times[int(told["session"])].append(float(told["ms"]))
        return [
            RemoteTimes(tuple(ms), int(one["calls"]), int(one["warmup"]))
            for ms, one in zip(times, told["done"], strict=True)
        ]

    def hold(self, run: Callable[[Pixels], Pixels]) -> Callable[[], None]:
        """Count a session; what gives it back, at the latest when `run` is collected."""
        self._holders += 1
        key = id(run)
        return weakref.finalize(run, self._let_go, key)

    def _let_go(self, key: int) -> None:
        self.indices.pop(key, None)
        self._holders -= 1
        self.leave()

    def leave(self) -> None:
        """End the connection where no session holds it."""
        if self._holders <= 0:
            self.close()

    def close(self, patience: float = 5.0) -> None:
        """End the connection, and with it the runner; ssh is killed after `patience` seconds."""
        if _CONNECTIONS.get((self.place, self.python)) is self:  # and no newer one
            del _CONNECTIONS[self.place, self.python]
        if self._process.stdin is not None:
            with suppress(OSError):  # the other side is gone
                self._process.stdin.close()
        try:
            self._process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._notes.wait()

    def _send_message(self, message: dict[str, Any], content: bytes, limit: float) -> None:
        head = {**message, "bytes": len(content), "limit": limit}
        self._send(json.dumps(head).encode() + b"\n" + content)

    def _send(self, content: bytes) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        with suppress(OSError, ValueError):  # `_receive` tells the reason
            pipe.write(content)
            pipe.flush()

    def _receive(self, seconds: float, what: str) -> tuple[dict[str, Any], bytes]:
        try:
            told = self._inbox.get(timeout=seconds)
        except queue.Empty:
            self.close(patience=0.1)
            raise TargetError(f"{self.place} did not answer within {seconds:.0f} s ({what})") from None
        if told is None:
            self._inbox.put(None)
            self.close()
            raise TargetError(self._reason(what))
        if "error" in told[0]:
            raise self._refusal(str(told[0]["error"]), str(told[0].get("text", "")))
        return told

    def _reason(self, what: str) -> str:
        """Why the connection ended, from ssh's exit code and what it said."""
        return explain(str(self.place), self.python, self._process.returncode, self._notes.text(), what)

    def _refusal(self, kind: str, text: str) -> TargetError | ModelError:
        place = self.place
        if kind == "package":
            return TargetError(
                f"{place} has no {text} for {self.python}; over there: {self.python} -m pip install {text}"
            )
        if kind == "threads":
            return TargetError(f"threads is 1 to {text} on {place}")
        if kind == "model":
            return ModelError(f"{place} cannot load the network: {text}")
        return TargetError(f"{place}: {text}")

    def _listen(self) -> None:
        pipe = self._process.stdout
        assert pipe is not None
        with pipe:
            for line in iter(pipe.readline, b""):
                try:
                    head = json.loads(line)
                    content = pipe.read(int(head.get("bytes", 0)))
                except (ValueError, AttributeError):
                    continue  # a line that a login script prints
                self._inbox.put((head, content))
        self._process.wait()
        self._inbox.put(None)


class _Notes:
    """What ssh and the other side write on standard error, kept for the reason of a failure."""

    def __init__(self, pipe: IO[bytes] | None) -> None:
        assert pipe is not None
        self._pipe = pipe
        self._lines: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._pipe:
            for line in iter(self._pipe.readline, b""):
                self._lines = [*self._lines[-50:], line.decode(errors="replace").strip()]

    def wait(self) -> None:
        self._thread.join(timeout=2)

    def text(self) -> str:
        self.wait()
        return "\n".join(self._lines)


_CONNECTIONS: dict[tuple[Place, str], Connection] = {}


def connect(place: Place, python: str) -> Connection:
    """The connection to a machine, opened where there is none.

    Raises:
        TargetError: as `Connection`.
    """
    found = _CONNECTIONS.get((place, python))
    if found is None or not found.alive:
        found = _CONNECTIONS[place, python] = Connection(place, python)
    return found


@atexit.register
def close_all() -> None:
    """End every connection."""
    for connection in list(_CONNECTIONS.values()):
        connection.close()


def ssh_command() -> list[str]:
    """The ssh client with its own options.

    Raises:
        TargetError: there is none.
    """
    words = shlex.split(os.environ.get("TERSA_SSH", "ssh"))
    if not words or not shutil.which(words[0]):
        raise TargetError(f"no ssh client '{words[0] if words else ''}' here; apt-get install openssh-client")
    return words


def _start(place: Place, python: str) -> subprocess.Popen[bytes]:
    settings = {
        "BatchMode": "yes", "ConnectTimeout": "10", "ServerAliveInterval": "5", "ServerAliveCountMax": "3",
    }  # fmt: skip
    words = [*ssh_command(), "-T", *(f"-o{key}={value}" for key, value in settings.items())]
    words += [*(["-l", place.user] if place.user else []), *(["-p", str(place.port)] if place.port else [])]
    words += ["--", place.host, f"{python} -c {shlex.quote(START)}"]
    return subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def explain(place: str, python: str, code: int | None, said: str, what: str) -> str:
    """One line for a connection that ended: the reason in plain words, and what to do.

    >>> explain("ssh://pi@raspberry", "python3", 255, "Host key verification failed.", "connecting")
    'ssh://pi@raspberry: its host key is not known or has changed; check it, and connect once by hand'
    """
    last = next((line for line in reversed(said.splitlines()) if line), "no reason given")
    if "Host key verification failed" in said:
        return f"{place}: its host key is not known or has changed; check it, and connect once by hand"
    if "Permission denied" in said:
        return (
            f"{place} refused the login; check the user and the key (a password is never asked for): {last}"
        )
    if (
        "Could not resolve" in said
        or "Connection refused" in said
        or "timed out" in said
        or "No route" in said
    ):
        return f"{place} cannot be reached: {last}"
    if code == 127 or (what == "connecting" and "not found" in said):
        return f"{place} has no {python}; name one that has the runtime with python=PATH"
    if code == 3:
        return f"{place}: the request took longer than it may ({what})"
    if what == "connecting":
        return f"{place}: {python} did not start (exit code {code}): {last}"
    return f"the connection to {place} was lost ({what}, ssh ended with {code}): {last}"


def client_version() -> str:
    """The ssh client's name and version, or an empty text where there is none."""
    try:
        done = subprocess.run([*ssh_command(), "-V"], capture_output=True, text=True, timeout=10, check=False)
    except (TargetError, OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stderr or done.stdout).partition(",")[0].strip()
