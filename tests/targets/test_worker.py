"""Networks in processes of their own: the same answers, and every way in which a process can end."""

from __future__ import annotations

import os
import pickle
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tersa.errors import ModelError, TargetError
from tersa.export.artefact import Artefact, Header
from tersa.export.check import module_logits
from tersa.export.onnx import Deployed, export_onnx
from tersa.models.load import load
from tersa.targets.base import Effort, Pixels
from tersa.targets.rounds import time_sides
from tersa.targets.worker import STAY, Died, Order, Refused, Worker, pack, refused, unpack

QUICK = Effort(seconds=0.02, warmup_seconds=0.02)
MIB = 2**20


def order(
    artefact: Artefact, target: str = "onnxruntime", limit: int | None = None, precision: str = "fp32"
) -> Order:
    return Order(target, "m", precision, pack(artefact, target), limit)


def test_a_process_answers_like_this_one_and_is_timed(artefact: Artefact, images: Pixels) -> None:
    assert artefact.module is not None
    wanted = module_logits(artefact.module, images)
    with Worker(order(artefact)) as worker:
        found = worker.first(images)
        np.testing.assert_allclose(found.logits, wanted, atol=1e-5)
        np.testing.assert_allclose(worker.answer(images[:1]), wanted[:1], atol=1e-5)
        [timing] = time_sides([worker], QUICK)
        assert len(timing.times_ms) >= 3
        assert timing.times_ms.min() > 0
        assert worker.keep_running(0.01) >= 1
        assert (worker.facts.model, worker.facts.target) == ("m", "onnxruntime@threads=1")
        assert worker.facts.size_bytes == artefact.size_bytes
        assert worker.facts.load_ms > 0
        assert found.added_bytes >= 0


def test_a_worker_goes_on_in_another_process(artefact: Artefact, images: Pixels) -> None:
    with Worker(order(artefact)) as worker:
        wanted, before = worker.first(images).logits, worker.pid
        worker.restart()
        assert worker.pid != before
        np.testing.assert_array_equal(worker.answer(images), wanted)
        again = replace(QUICK, starts=3)
        [timing] = time_sides([worker], again)
        assert len(timing.starts) == 3
        assert sum(timing.starts) == len(timing.times_ms)


def test_the_first_call_counts_as_starting(artefact: Artefact, images: Pixels) -> None:
    with Worker(order(artefact, "torch")) as worker:
        loading = worker.start_s
        found = worker.first(images)
        assert worker.start_s >= loading + found.ms / 1e3  # a runtime that compiles does so in this call


def test_a_worker_that_cannot_start_again_says_so(artefact: Artefact, images: Pixels, tmp_path: Path) -> None:
    own = tmp_path / "own.onnx"
    own.write_bytes(artefact.path.read_bytes())
    with Worker(order(replace(artefact, path=own))) as worker:
        worker.first(images)
        own.write_bytes(b"no network")
        with pytest.raises(Died, match="could not be started again"):
            worker.restart()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processes are bound to cores on Linux only")
def test_rounds_change_the_core_and_every_second_start_begins_on_another(
    artefact: Artefact, images: Pixels
) -> None:
    cores = sorted(os.sched_getaffinity(0))
    with Worker(order(artefact)) as worker:
        assert worker.pid is not None
        worker.first(images)
        for start in (0, 1, 2):
            worker.warm_up(replace(QUICK, start=start))
            first = start // 2 % len(cores)
            seen = []
            for _ in range(2 * STAY * len(cores)):
                worker.round(1)
                seen.append(os.sched_getaffinity(worker.pid))
            turned = cores[first:] + cores[:first]
            assert seen == [{core} for core in turned for _ in range(STAY)] * 2


def test_memory_that_ends_is_told_and_is_not_ours(artefact: Artefact) -> None:
    with Worker(order(artefact, limit=700 * MIB)) as worker:
        worker.first(np.zeros((1, 1, 8, 8), np.float32))
        with pytest.raises(Died, match=r"limit 0\.734 GB") as caught:
            worker.first(np.zeros((10**6, 1, 8, 8), np.float32))
    assert caught.value.kind == "out of memory"


def test_a_first_call_that_takes_too_long_says_that_it_may_compile(
    artefact: Artefact, images: Pixels
) -> None:
    with (
        Worker(order(artefact)) as worker,
        pytest.raises(Died, match=r"its first call, which warms up and may compile, took longer") as caught,
    ):
        worker.first(np.zeros((10**5, 1, 8, 8), np.float32), patience=0.0)
    assert caught.value.kind == "over the time limit"


def test_a_process_that_is_killed(artefact: Artefact, images: Pixels) -> None:
    with Worker(order(artefact)) as worker:
        worker.first(images)
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGSEGV)
        with pytest.raises(Died, match="its process ended with code -11") as caught:
            worker.round(1)
        assert caught.value.kind == "failed"


def test_what_a_runtime_refuses_is_the_same_error_here(
    artefact: Artefact, int8_artefact: Artefact, tmp_path: Path
) -> None:
    with pytest.raises(TargetError, match="torch does not offer int8"):
        Worker(order(int8_artefact, "torch", precision="int8"))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no")
    with pytest.raises(ModelError, match="not an ONNX file"):
        Worker(order(replace(artefact, path=broken)))


def test_allocations_that_fail_are_told_from_other_errors() -> None:
    assert refused(MemoryError()).memory
    assert refused(RuntimeError("std::bad_alloc")).memory
    assert refused(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")).memory
    assert refused(ValueError("two\nlines")) == Refused("ValueError", "two", memory=False)


def test_a_users_own_module_finds_its_classes_again(tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("WIDTH = 5\n")
    (tmp_path / "own.py").write_text(
        "import torch\nfrom neighbour import WIDTH\n"
        "class Own(torch.nn.Module):\n"
        "    def __init__(self, classes):\n"
        "        super().__init__()\n"
        "        self.body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, WIDTH))\n"
        "        self.head = torch.nn.Linear(WIDTH, classes)\n"
        "    def forward(self, x):\n"
        "        return self.head(torch.relu(self.body(x)))\n"
        "def build(classes):\n    return Own(classes)\n"
    )
    module = load(f"{tmp_path}/own.py:build", (1, 4, 4), 3).module
    header = Header(tuple("abc"), (1, 4, 4), (0.0,), (1.0,))
    artefact = export_onnx(module, header, tmp_path / "own.onnx")
    images = np.random.default_rng(0).random((2, 1, 4, 4), dtype=np.float32)
    assert artefact.module is not None
    with Worker(order(artefact, "torch")) as worker:
        np.testing.assert_allclose(
            worker.first(images).logits, module_logits(artefact.module, images), atol=1e-6
        )


def test_files_travel_without_their_module_where_the_file_is_enough(artefact: Artefact) -> None:
    assert pack(artefact, "onnxruntime@threads=2").module is None
    parcel = pickle.loads(pickle.dumps(pack(artefact, "torch")))
    assert isinstance(unpack(parcel).module, Deployed)
