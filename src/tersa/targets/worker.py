"""One network on one runtime in a process of its own: its memory is its own, and its end is not ours.

The process (`serve`) prepares the artefact, then does what it is told: run a batch for the first time, warm
up, time a round, answer. `Worker` is its handle here. Rounds of several workers are interleaved from outside
(`rounds.time_sides`): each message says how many calls to make, and the process times them by its own clock,
so that passing the message is not measured.

Memory: a limit holds for the process's data (RLIMIT_DATA) and, where that sees too little, for its resident
memory, which is watched from outside while a batch runs for the first time. Either way, and also when the
system ends the process, the caller gets `Died` with the reason, and goes on.

    added = highest resident memory while running - resident memory before loading

What loading took for a moment, and the checks that every `prepare` makes, are given back first and not
counted.

Cores of a busy machine differ, and a process stays where it is. So a network of one thread changes the core
after every `STAY` rounds, all networks alike: round i of all of them runs on one core (Linux; elsewhere
the system chooses, and networks of several threads use all cores that they may). Every second start begins on
the next core: in fewer rounds than change it, starts still share out the cores, whichever side began first.

Processes come from a fork server that has imported the runtimes' packages and nothing else: no threads, no
data. Not for remote sessions: they run in another process as it is.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import multiprocessing
import os
import pickle
import re
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil

from tersa.errors import ModelError, TargetError
from tersa.export.artefact import Artefact
from tersa.targets.base import Effort, Pixels, Session
from tersa.targets.registry import parse
from tersa.targets.rounds import Here

WATCH_S = 0.01
"""Between two looks at the memory of a process that runs a batch for the first time."""

STAY = 6
"""Rounds on one core before the next: even, so that both orders of the sides are timed on each, and many,
because the first rounds on a core find its caches cold.
"""

FILES_ONLY = ("onnxruntime", "openvino", "tensorrt")
"""Targets that read the file alone: their process is not given the PyTorch module, which would count as
theirs.
"""

MEMORY_WORDS = re.compile(
    r"bad_alloc|out of memory|can(no|')t allocate|failed to allocate|not enough memory|could not allocate",
    re.I,
)
"""How runtimes say that an allocation failed; they have no common exception for it."""


End = Literal["out of memory", "over the time limit", "failed"]


class Died(Exception):
    """The process of a network ended, or was ended.

    Attributes:
        kind: what it ran out of, or `failed`.
    """

    def __init__(self, reason: str, kind: End = "failed") -> None:
        super().__init__(reason)
        self.kind: End = kind


@dataclass(frozen=True)
class Parcel:
    """An artefact on its way into another process.

    Attributes:
        artefact: without its module.
        module: pickled, or None.
        sources: the user's own Python files that the module's classes come from, by module name.
    """

    artefact: Artefact
    module: bytes | None
    sources: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Order:
    """What a process is started with.

    Attributes:
        target: text of the registry.
        model: what the measurement calls it.
        precision: to run in.
        parcel: the artefact.
        limit: bytes that the process may hold, or None.
        cores: that it may run on; empty for all.
    """

    target: str
    model: str
    precision: str
    parcel: Parcel
    limit: int | None = None
    cores: tuple[int, ...] = ()


@dataclass(frozen=True)
class Facts:
    """What a prepared network is, as `Session` says, and what loading it took.

    Attributes:
        load_ms: by the runtime's own clock where it has one, else of `prepare`.
        added_bytes: resident memory that loading added.
        size_bytes: of the file that the runtime loads.
    """

    model: str
    target: str
    precision: str
    threads: int
    runtime: str
    device: str
    executed: str
    load_ms: float
    added_bytes: int
    size_bytes: int


@dataclass(frozen=True)
class First:
    """A batch that was run for the first time.

    Attributes:
        ms: of this call.
        logits: (N, K).
        added_bytes: highest resident memory so far, over that before loading.
    """

    ms: float
    logits: Pixels
    added_bytes: int


@dataclass(frozen=True)
class Refused:
    """The runtime, or our code in that process, raised an error."""

    kind: str
    text: str
    memory: bool


def serve(pipe: Connection, order: Order) -> None:
    """Prepare a network, then answer messages until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C reaches the whole group; the parent decides
    gc.freeze()  # what the fork server imported is no garbage: collecting it took 0.3 s and copied its pages
    _confine(order)
    before = _resident()
    try:
        artefact = unpack(order.parcel)
        begun = time.perf_counter()
        session = parse(order.target).prepare(artefact, order.model, order.precision)
        load_ms = session.load_ms if session.load_ms is not None else 1e3 * (time.perf_counter() - begun)
    except Exception as error:  # noqa: BLE001 - whatever a runtime raises becomes a row of the table
        pipe.send(refused(error))
        return
    _give_back()
    facts = Facts(
        *(session.model, session.target, session.precision, session.threads, session.runtime, session.device),
        executed=session.executed,
        load_ms=load_ms,
        added_bytes=max(0, _resident() - before),
        size_bytes=session.size_bytes or artefact.path.stat().st_size,
    )
    pipe.send(facts)
    gc.disable()
    state = _State(session, before)
    while True:
        try:
            name, arguments = pipe.recv()
            answer: Any = getattr(state, name)(*arguments)
        except EOFError:
            session.close()
            return
        except Exception as error:  # noqa: BLE001 - as above; the images alone may be too large to receive
            answer = refused(error)
        pipe.send(answer)


class _State:
    """The session and the batch at work; its methods are the messages."""

    def __init__(self, session: Session, before: int) -> None:
        self.session = session
        self.before = before
        self.here: Here | None = None
        self.cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
        self.turn = 0

    def first(self, images: Pixels) -> First:
        gc.collect()
        with self.session.pinned():
            start = time.perf_counter()
            logits = self.session.run(images)
            ms = 1e3 * (time.perf_counter() - start)
        self.here = Here(self.session, images, interrupted=_interruptions)
        return First(ms, np.asarray(logits, np.float32), max(0, _highest() - self.before))

    def warm_up(self, effort: Effort) -> tuple[int, float]:
        assert self.here is not None
        gc.collect()
        self.turn = STAY * (effort.start // 2)
        return self.here.warm_up(effort)

    def round(self, calls: int) -> float:
        assert self.here is not None
        if self.session.threads == 1 and len(self.cores) > 1:
            _move(self.cores[self.turn // STAY % len(self.cores)])
        self.turn += 1
        return self.here.round(calls)

    def answer(self, images: Pixels) -> Pixels:
        with self.session.pinned():
            return np.asarray(self.session.run(images), np.float32)

    def keep_running(self, seconds: float) -> int:
        assert self.here is not None
        calls, end = 0, time.perf_counter() + seconds
        with self.session.pinned():
            while time.perf_counter() < end:
                self.session.run(self.here.images)
                calls += 1
        return calls


def _confine(order: Order) -> None:
    if order.cores:
        psutil.Process().cpu_affinity(list(order.cores))
    if order.limit is not None and sys.platform == "linux":
        import resource  # not on Windows

        resource.setrlimit(resource.RLIMIT_DATA, (order.limit, order.limit))


def _move(core: int) -> None:
    """Put every thread of this process on one core: some runtimes work in a thread of their own."""
    for task in os.listdir("/proc/self/task"):
        with suppress(OSError):  # a thread that has ended since
            os.sched_setaffinity(int(task), {core})


def _interruptions() -> int:
    """How often the kernel took the processor away from any thread of this process."""
    import resource  # Linux only, see `interruptions`

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if sys.platform == "linux" else 0


def refused(error: Exception) -> Refused:
    """An error on its way to the parent: its first line, and whether an allocation failed."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    memory = isinstance(error, MemoryError) or MEMORY_WORDS.search(str(error)) is not None
    return Refused(type(error).__name__, text, memory)


def _give_back() -> None:
    """Return freed memory to the system, and start the highest mark anew; neither is possible everywhere."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _resident() -> int:
    return psutil.Process().memory_info().rss


def _highest() -> int:
    """Highest resident memory of this process, in bytes."""
    with suppress(OSError, StopIteration, ValueError), open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    return _resident()


def pack(artefact: Artefact, target: str) -> Parcel:
    """An artefact for another process; its module goes along where the target wants one."""
    module = artefact.module
    bare = replace(artefact, module=None)
    if module is None or target.partition("@")[0] in FILES_ONLY:
        return Parcel(bare, None)
    try:
        data = pickle.dumps(module)
    except Exception as error:  # a user's module may hold anything
        raise ModelError(
            f"{artefact.path.name}: its module cannot be sent to a process of its own: {error}"
        ) from error
    sources: dict[str, str] = {}
    for part in module.modules():
        name = type(part).__module__
        place = getattr(sys.modules.get(name), "__file__", None)
        if name.startswith("tersa_user_") and place:
            sources[name] = place
    return Parcel(bare, data, sources)


def unpack(parcel: Parcel) -> Artefact:
    """The artefact again."""
    if parcel.module is None:
        return parcel.artefact
    for name, place in parcel.sources.items():
        _import_as(name, Path(place))
    return replace(parcel.artefact, module=pickle.loads(parcel.module))  # our own bytes, through our own pipe


def _import_as(name: str, path: Path) -> None:
    """The user's file under the name that pickled classes have, with its folder on the import path."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModelError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))
    sys.modules[name] = module
    spec.loader.exec_module(module)


class Worker:
    """The handle of one process, or of several, one after the other. It is a `rounds.Restartable`.

    Use it as a context manager.

    Args:
        order: what to run.

    Attributes:
        order: as given.
        facts: of the prepared network.
        start_s: seconds that the process took until its first answer to the batch at hand: some runtimes
            compile in their first call.

    Raises:
        TargetError: the runtime refuses the artefact.
        ModelError: the artefact cannot be loaded.
        Died: the process ended while loading.
    """

    def __init__(self, order: Order) -> None:
        self.order = order
        self._images: Pixels | None = None
        self._loading_s = 0.0
        self.facts = self._begin()

    def _begin(self) -> Facts:
        began, context = time.monotonic(), _context()
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, self.order), daemon=True)
        self._process.start()
        theirs.close()
        try:
            found = self._receive(watch=True)
        except BaseException:
            self.close()
            raise
        if isinstance(found, Refused):
            self.close()
            if found.memory:
                raise Died(self._over(f"loading it failed: {found.text}"), "out of memory")
            raise (ModelError if found.kind == "ModelError" else TargetError)(found.text)
        self.start_s = self._loading_s = time.monotonic() - began
        return found

    @property
    def pid(self) -> int | None:
        """Of the process."""
        return self._process.pid

    @property
    def closed(self) -> bool:
        """Its process was ended by `close`."""
        return self._pipe.closed

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def first(self, images: Pixels, patience: float | None = None) -> First:
        """Run a batch for the first time, and keep it for the rounds that follow.

        Args:
            images: (N, C, H, W) float32 in 0..1.
            patience: seconds after which the process is ended.

        Raises:
            Died: the process ended, was ended for its memory, or took too long.
        """
        self._images, began = images, time.monotonic()
        found: First = self._ask("first", images, watch=True, patience=patience)
        self.start_s = self._loading_s + time.monotonic() - began
        return found

    def restart(self) -> None:
        """As `rounds.Restartable`: another process with the batch that this one had.

        Raises:
            Died: the new process ended while loading or in its first call.
        """
        self.close()
        try:
            self._begin()
        except (TargetError, ModelError) as error:
            raise Died(f"it could not be started again: {error}") from error
        if self._images is not None:
            self.first(self._images)

    def warm_up(self, effort: Effort) -> tuple[int, float]:
        """As `rounds.Side`."""
        return self._ask("warm_up", effort)

    def round(self, calls: int) -> float:
        """As `rounds.Side`."""
        return self._ask("round", calls)

    def answer(self, images: Pixels) -> Pixels:
        """Logits (N, K) of images."""
        return self._ask("answer", images, watch=True)

    def keep_running(self, seconds: float) -> int:
        """Call for some seconds; how many calls that were."""
        return self._ask("keep_running", seconds)

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(timeout=2.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _ask(self, name: str, *arguments: Any, watch: bool = False, patience: float | None = None) -> Any:
        try:
            self._pipe.send((name, arguments))
        except OSError:
            raise self._end() from None
        found = self._receive(watch=watch, patience=patience)
        if isinstance(found, Refused):
            raise Died(self._over(found.text), "out of memory") if found.memory else Died(found.text)
        return found

    def _receive(self, *, watch: bool = False, patience: float | None = None) -> Any:
        start = time.monotonic()
        watched = psutil.Process(self._process.pid) if watch and self.order.limit is not None else None
        try:
            while (watched is not None or patience is not None) and not self._pipe.poll(WATCH_S):
                if watched is not None and self.order.limit is not None:
                    with suppress(psutil.Error):
                        if watched.memory_info().rss > self.order.limit:
                            self._process.kill()
                            raise Died(self._over("more was in use"), "out of memory")
                if patience is not None and time.monotonic() - start > patience:
                    self._process.kill()
                    raise Died(
                        f"its first call, which warms up and may compile, took longer than {patience:.3g} s",
                        "over the time limit",
                    )
            return self._pipe.recv()
        except (EOFError, ConnectionError):
            raise self._end() from None

    def _over(self, detail: str) -> str:
        limit = self.order.limit
        return f"limit {limit / 1e9:.3g} GB: {detail}" if limit is not None else detail

    def _end(self) -> Died:
        """Why the process is gone."""
        self._process.join(timeout=10.0)
        code = self._process.exitcode
        if code == -signal.SIGKILL:
            return Died(self._over("the system ended the process"), "out of memory")
        if code == -signal.SIGABRT and self.order.limit is not None:
            return Died(self._over("an allocation failed and the runtime gave up"), "out of memory")
        return Died(f"its process ended with code {code}")


def _context() -> Any:
    """A fork server where there is one: starting a process then takes milliseconds, not seconds."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context
