"""Another machine over ssh: a real sshd on loopback, and every way in which it can fail."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.targets.sshd import SSHD, Server, runners_anywhere, serve

from tersa.errors import ModelError, TargetError, UsageError
from tersa.export.artefact import Artefact
from tersa.export.check import classify
from tersa.export.processor import cpuinfo, processor_name
from tersa.targets import ssh
from tersa.targets.base import Effort, Pixels, Session
from tersa.targets.environment import cores
from tersa.targets.registry import parse, split_list
from tersa.targets.rounds import time_rounds

EFFORT = Effort(seconds=0.05, rounds=9, round_ms=0.5, warmup_seconds=0.02, starts=4)

needs_sshd = pytest.mark.skipif(SSHD is None, reason="no sshd here; apt-get install openssh-server")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    with serve(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def reachable(server: Server, monkeypatch: pytest.MonkeyPatch) -> Generator[Server]:
    """The server, with a client that may log in; every connection ends with the test."""
    monkeypatch.setenv("TERSA_SSH", server.client())
    yield server
    ssh.close_all()
    assert server.quiet(), "a runner was left running"


def remote(
    server: Server, artefact: Artefact, runtime: str = "onnxruntime", precision: str | None = None
) -> Session:
    return parse(server.target(runtime)).prepare(artefact, "m", precision)


@needs_sshd
def test_outputs_come_from_over_there(reachable: Server, artefact: Artefact, images: Pixels) -> None:
    session = remote(reachable, artefact)
    np.testing.assert_array_equal(session.run(images), classify(artefact.path, images))
    np.testing.assert_array_equal(session.run(images[:3]), classify(artefact.path, images[:3]))
    assert session.runtime.startswith("onnxruntime ")
    assert session.device == reachable.place
    assert session.hardware == (processor_name(cpuinfo()), cores())
    assert session.target == f"{reachable.place}/onnxruntime@threads=1,python={sys.executable}"
    assert (session.load_ms or 0.0) > 0
    assert len(reachable.runners()) == 1
    session.close()
    assert reachable.quiet()


@pytest.mark.slow
@needs_sshd
def test_rounds_are_interleaved_and_timed_over_there(
    reachable: Server, artefact: Artefact, images: Pixels
) -> None:
    pair = [remote(reachable, artefact), remote(reachable, artefact, "onnxruntime@graph=basic")]
    assert len(reachable.runners()) == 1, "one process, so that rounds can alternate"
    found = time_rounds(pair, [images, images[:1]], EFFORT)
    assert [len(one.times_ms) for one in found] == [len(found[0].times_ms)] * 2
    assert 3 <= len(found[0].times_ms) <= EFFORT.rounds
    assert all((one.times_ms > 0).all() for one in found)
    assert all(one.calls >= 1 and one.warmup >= 3 for one in found)


@needs_sshd
def test_int8_is_looked_at_over_there(reachable: Server, int8_artefact: Artefact, images: Pixels) -> None:
    session = remote(reachable, int8_artefact)
    assert session.executed == "int8 2 of 2 layers"
    np.testing.assert_array_equal(session.run(images), classify(int8_artefact.path, images))
    with pytest.raises(TargetError, match=r"does not offer bf16; it has fp32, int8"):
        remote(reachable, int8_artefact, precision="bf16")


@needs_sshd
@pytest.mark.runtime
@pytest.mark.parametrize("runtime", ["openvino", "litert"])
def test_other_runtimes_over_there(
    runtime: str, reachable: Server, artefact: Artefact, int8_artefact: Artefact, images: Pixels
) -> None:
    pytest.importorskip({"openvino": "openvino", "litert": "ai_edge_litert"}[runtime])
    session = remote(reachable, artefact, runtime)
    np.testing.assert_allclose(session.run(images), classify(artefact.path, images), atol=1e-5)
    assert session.executed == "fp32 2 of 2 layers"
    assert remote(reachable, int8_artefact, runtime).executed.startswith("int8 ")


@pytest.mark.slow
@needs_sshd
def test_a_connection_that_is_cut_while_timing(reachable: Server, artefact: Artefact, images: Pixels) -> None:
    session = remote(reachable, artefact)
    assert session.elsewhere is not None
    threading.Timer(0.7, reachable.cut).start()
    with pytest.raises(
        TargetError, match=r"the connection to ssh://.* was lost \(timing, ssh ended with"
    ) as caught:
        session.elsewhere([session], [images], Effort(60.0, rounds=10**6, round_ms=1.0, warmup_seconds=0.1))
    assert "\n" not in str(caught.value)
    assert reachable.quiet(), "the runner outlived its connection"
    np.testing.assert_array_equal(  # the next session opens a connection of its own
        remote(reachable, artefact).run(images), classify(artefact.path, images)
    )


@pytest.mark.slow
@needs_sshd
def test_nothing_is_left_on_the_disk(
    reachable: Server, artefact: Artefact, int8_artefact: Artefact, images: Pixels
) -> None:
    def shared() -> set[Path]:
        place = Path("/dev/shm")  # of the whole machine: others may write there, not under these names
        words = ("tersa", "runner", "onnx")
        every = place.iterdir() if place.is_dir() else ()
        return {path for path in every if any(word in path.name for word in words)}

    before = shared()
    for one in (artefact, int8_artefact):
        remote(reachable, one).run(images)
    ssh.close_all()
    assert reachable.quiet()
    assert [path for place in reachable.places for path in place.iterdir()] == []
    assert shared() <= before


@needs_sshd
@pytest.mark.parametrize(
    ("option", "words"),
    [
        (
            "UserKnownHostsFile=/dev/null",
            "its host key is not known or has changed; check it, and connect once by hand",
        ),
        ("IdentityFile=/dev/null", "refused the login; check the user and the key"),
    ],
)
def test_logins_that_fail(
    option: str, words: str, server: Server, artefact: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = server.client().replace(f"-o{option.split('=')[0]}={_value(server, option)}", f"-o{option}")
    monkeypatch.setenv("TERSA_SSH", client)
    with pytest.raises(TargetError, match=words) as caught:
        remote(server, artefact)
    assert "\n" not in str(caught.value)
    assert not runners_anywhere(server.folder)


def _value(server: Server, option: str) -> Path:
    return server.folder / {"UserKnownHostsFile": "known_hosts", "IdentityFile": "key"}[option.split("=")[0]]


@pytest.mark.slow
@needs_sshd
def test_a_user_who_is_not_there(reachable: Server, artefact: Artefact) -> None:
    text = reachable.target("onnxruntime").replace(f"{reachable.user}@", "nobody-like-this@", 1)
    with pytest.raises(TargetError, match="refused the login"):
        parse(text).prepare(artefact, "m")


@needs_sshd
def test_a_python_that_is_not_there(reachable: Server, artefact: Artefact) -> None:
    with pytest.raises(
        TargetError, match=r"has no python9\.9; name one that has the runtime with python=PATH"
    ):
        parse(f"{reachable.place}/onnxruntime@python=python9.9").prepare(artefact, "m")


@needs_sshd
def test_a_package_that_is_not_there(reachable: Server, artefact: Artefact, tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    text = f"{reachable.place}/onnxruntime@python={bare}"
    with pytest.raises(
        TargetError, match=f"has no numpy for {bare}; over there: {bare} -m pip install numpy"
    ):
        parse(text).prepare(artefact, "m")


@pytest.mark.slow
@needs_sshd
def test_more_threads_than_the_machine_has(reachable: Server, artefact: Artefact) -> None:
    with pytest.raises(TargetError, match=rf"threads is 1 to {len(os.sched_getaffinity(0))} on ssh://"):
        remote(reachable, artefact, "onnxruntime@threads=1000")


@needs_sshd
def test_a_file_that_is_no_network(reachable: Server, artefact: Artefact, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelError, match="cannot load the network") as caught:
        remote(reachable, replace(artefact, path=tmp_path / "bad.onnx"))
    assert "\n" not in str(caught.value)
    assert not ssh._CONNECTIONS, "the connection was left open"
    assert reachable.quiet()
    with pytest.raises(ModelError, match="no file"):
        remote(reachable, replace(artefact, path=tmp_path / "none.onnx"))


@needs_sshd
def test_a_connection_that_ends_late_leaves_its_successor(reachable: Server) -> None:
    place, _ = ssh.split(reachable.target("onnxruntime"))
    old = ssh.connect(place, sys.executable)
    new = ssh._CONNECTIONS[place, sys.executable] = ssh.Connection(place, sys.executable)
    old.close()
    assert ssh.connect(place, sys.executable) is new


@pytest.mark.slow
@needs_sshd
def test_an_answer_that_does_not_come(
    reachable: Server, artefact: Artefact, images: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = remote(reachable, artefact)
    connection = ssh.connect(*next(iter(ssh._CONNECTIONS)))
    for one in reachable.runners():
        one.suspend()
    monkeypatch.setattr(ssh, "CONNECT_SECONDS", 0.2)
    start = time.monotonic()
    with pytest.raises(TargetError, match=r"did not answer within 0 s \(run\)"):
        connection.ask({"do": "run", "session": 0, "shape": [1, 1, 8, 8]}, images[:1].tobytes(), seconds=0.1)
    assert time.monotonic() - start < 30
    del session
    for one in runners_anywhere(reachable.folder):
        one.resume()


def test_a_machine_that_is_not_there(artefact: Artefact, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.targets.sshd import free_port

    monkeypatch.setenv("TERSA_SSH", "ssh -F /dev/null")
    if shutil.which("ssh") is None:
        pytest.skip("no ssh client here")
    with pytest.raises(TargetError, match=r"cannot be reached: .*refused"):
        parse(f"ssh://127.0.0.1:{free_port()}/onnxruntime").prepare(artefact, "m")


def test_no_client(artefact: Artefact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERSA_SSH", "no-such-ssh")
    with pytest.raises(
        TargetError, match=r"no ssh client 'no-such-ssh' here; apt-get install openssh-client"
    ):
        parse("ssh://localhost/onnxruntime").prepare(artefact, "m")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ssh://host", r"is not ssh://\[USER@\]HOST"),
        ("ssh:///onnxruntime", r"is not ssh://\[USER@\]HOST"),
        ("ssh://-oProxyCommand=x/onnxruntime", r"is not ssh://\[USER@\]HOST"),
        ("ssh://a@b@c/onnxruntime", r"is not ssh://\[USER@\]HOST"),
        ("ssh://host:99999/onnxruntime", r"is not ssh://\[USER@\]HOST"),
        ("ssh://host/torch", "unknown target over ssh 'torch'.* known: litert, onnxruntime, openvino"),
        ("ssh://host/onnxruntime@graph=most", "graph is one of"),
        ("ssh://host/litert@converter=tersa", "unknown option 'converter'; known: threads, python"),
        ("ssh://host/onnxruntime@threads=all", "threads is 1 to 1024 on another machine"),
        ("ssh://host/onnxruntime@python=a;rm", "python= is a command or path"),
        ("ssh://host/onnxruntime@python=-c", "python= is a command or path"),
    ],
)
def test_texts_that_are_no_remote_target(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse(text)


def test_a_remote_target_describes_itself() -> None:
    for text in (
        "ssh://host/onnxruntime@threads=1",
        "ssh://me@host:2222/openvino@threads=4,hint=throughput,python=/opt/venv/bin/python",
    ):
        assert parse(text).describe() == text
        assert parse(parse(text).describe()) == parse(text)
    assert split_list("ssh://me@host/onnxruntime,threads=2,torch") == [
        "ssh://me@host/onnxruntime@threads=2",
        "torch",
    ]
    path = "ssh://me@host/onnxruntime@python=/opt/venv/bin/python"
    assert split_list(f"{path},threads=2,graph=basic,torch,threads=1") == [
        f"{path},threads=2,graph=basic",
        "torch@threads=1",
    ]
