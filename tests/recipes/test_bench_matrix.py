"""The matrix of fake processes: who is the anchor, what a failure costs, which form runs where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from tests.binary.programs import one_layer

from tersa import data
from tersa.data.task import Task
from tersa.errors import TargetError
from tersa.export.artefact import Artefact, Header
from tersa.export.bundle import write_bundle
from tersa.export.check import classify
from tersa.export.onnx import export_onnx
from tersa.models import build
from tersa.recipes import bench_matrix
from tersa.recipes.bench_matrix import Batches, File, Job, alive, nothing, packs, run_matrix, suits
from tersa.recipes.subjects import Subject, find_subject
from tersa.targets import lanes, sweep
from tersa.targets.base import Effort, Pixels, RemoteTimes, Session, Target
from tersa.targets.lanes import Limits
from tersa.targets.registry import KINDS, parse
from tersa.targets.sweep import Gap, GapKind
from tersa.targets.worker import Died, Facts, First, Order


class FakeWorker:
    """Calls take a millisecond an image, or a quarter; `most` images are what memory holds on a target."""

    made: ClassVar[list[FakeWorker]] = []
    most: ClassVar[dict[str, int]] = {}

    def __init__(self, order: Order) -> None:
        FakeWorker.made.append(self)
        self.order = order
        self.closed = False
        self.start_s = 0.1
        self.batches: list[int] = []
        self.answered: list[int] = []
        self.patience: float | None = None
        target = parse(order.target).describe()
        self.facts = Facts(order.model, target, order.precision, 1, "fake 1", "cpu", "", 3.0, 1000, 500)

    def first(self, images: Pixels, patience: float | None = None) -> First:
        self.batches.append(len(images))
        self.patience = patience
        if len(images) > FakeWorker.most.get(self.order.target, len(images)):
            raise Died("more was in use", "out of memory")
        return First(7.0, np.zeros((len(images), 10), np.float32), 2000)

    def warm_up(self, effort: Effort) -> tuple[int, float]:
        return 1, self.round(1)

    def round(self, calls: int) -> float:
        return self.batches[-1] * (1.0 if self.order.target == "onnxruntime" else 0.25)

    def answer(self, images: Pixels) -> Pixels:
        if len(images) > FakeWorker.most.get(self.order.target, len(images)):
            raise Died("more was in use", "out of memory")
        self.answered.append(len(images))
        return np.zeros((len(images), 10), np.float32)

    def close(self) -> None:
        pass


class FakeMachine:
    """ONNX Runtime over ssh; the connection is lost when it is asked for `fails`."""

    name: ClassVar[str] = "ssh"
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    threads = 1

    def __init__(self, fails: str = "") -> None:
        self.fails = fails

    def describe(self) -> str:
        return "ssh://pi/onnxruntime@threads=1"

    def prepare(self, artefact: Artefact, model: str, precision: str | None = None) -> Session:
        def run(pixels: Pixels) -> Pixels:
            if self.fails == "run":
                raise TargetError("the connection to ssh://pi was lost (run)")
            return np.zeros((len(pixels), 10), np.float32)

        def times(sessions: Sequence[Session], inputs: object, effort: Effort) -> list[RemoteTimes]:
            return [RemoteTimes((1.0, 1.0, 1.0), 1, 1) for _ in sessions]

        named = (model, self.describe(), "fp32", 1, "fake 1", run)
        return Session(*named, device="ssh://pi", load_ms=1.0, elsewhere=times)


@pytest.fixture(scope="module")
def task() -> Task:
    return data.load("digits")


@pytest.fixture(scope="module")
def file(task: Task, tmp_path_factory: pytest.TempPathFactory) -> File:
    header = Header.of(task)
    module = build("mlp:4", header.shape, 10)
    artefact = export_onnx(module, header, tmp_path_factory.mktemp("matrix") / "net.onnx")
    return File(Subject("net", header, module), "fp32", artefact)


@pytest.fixture
def job(file: File, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """A job whose processes are fakes; targets by name, or with their own object."""
    monkeypatch.setattr(FakeWorker, "made", [])
    for module in (lanes, sweep):
        monkeypatch.setattr(module, "Worker", FakeWorker)
    monkeypatch.setattr(sweep.energy, "counters", lambda _device: None)
    monkeypatch.setattr(
        bench_matrix, "module_logits", lambda _module, pixels: np.zeros((len(pixels), 10), np.float32)
    )

    def make(*targets: str | tuple[str, Target], files: Sequence[File] = (file,), **more: Any) -> Job:
        pairs = [(one, parse(one)) if isinstance(one, str) else one for one in targets]
        given: dict[str, Any] = {"batches": Batches((1, 2, 4)), "seconds": 0.01, **more}
        return Job(pairs, list(files), **given)

    return make


def quiet(_task: str, _fraction: float, _remark: str) -> None:
    """A listener that says nothing."""


def test_every_target_is_compared_with_the_anchor(job: Callable[..., Job]) -> None:
    found = run_matrix(job("onnxruntime", "torch", "torch-compile"), None, quiet)
    assert [len(cell.across) for cell in found.cells] == [0] * 3 + [1] * 6
    assert {pair.before.target for cell in found.cells for pair in cell.across if pair.before} == {
        "onnxruntime@threads=1"
    }
    assert found.notes == []


@pytest.mark.parametrize(
    ("limits", "most"), [(Limits(call_s=0.0015), {}), (Limits(call_s=1.0), {"onnxruntime": 2})]
)
def test_an_anchor_stays_out_of_batches_that_it_did_not_reach(
    job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, limits: Limits, most: dict[str, int]
) -> None:
    monkeypatch.setattr(FakeWorker, "most", most)
    found = run_matrix(job("onnxruntime", "torch", limits=limits), None, quiet)
    rows = [(cell.batch, len(cell.rows), len(cell.across)) for cell in found.cells if cell.rows]
    assert rows == [(1, 1, 0), (2, 1, 0), (1, 1, 1), (2, 1, 1), (4, 1, 0)]
    [_, anchor, _] = FakeWorker.made
    assert (anchor.batches, anchor.patience, found.notes) == ([1, 2], limits.patience(), [])


def test_a_low_bit_network_is_the_anchor_in_the_form_that_the_first_target_has(
    job: Callable[..., Job], file: File
) -> None:
    files = [file, replace(file, precision="packed")]
    asked = job("packed", "onnxruntime", files=files, packable=frozenset({"net"}))
    found = run_matrix(asked, None, quiet)
    across = [pair for cell in found.cells for pair in cell.across]
    assert {(pair.before.precision, pair.precision) for pair in across if pair.before} == {("packed", "fp32")}
    assert len(across) == 3


def test_a_reference_without_a_file_is_not_replaced(job: Callable[..., Job], file: File) -> None:
    """Neither by the first network that has one, nor as the anchor."""
    second = replace(file, subject=replace(file.subject, name="other"))
    given = {"files": [file, second], "batches": Batches((1,))}
    found = run_matrix(job("onnxruntime", "torch", **given), None, quiet)
    assert [(len(cell.comparisons), len(cell.across)) for cell in found.cells] == [(1, 0), (1, 2)]
    found = run_matrix(job("onnxruntime", "torch", **given, model="no file"), None, quiet)
    assert [(len(cell.rows), cell.comparisons, cell.across) for cell in found.cells] == [(2, [], [])] * 2


def test_the_reference_has_the_form_that_each_target_takes(job: Callable[..., Job], file: File) -> None:
    files = [file, replace(file, precision="packed")]
    asked = job("onnxruntime", files=files, packable=frozenset({"net"}))
    assert [asked.reference_on(parse(name)) for name in ("onnxruntime", "packed")] == ["fp32", "packed"]
    assert replace(asked, model="no file").reference_on(parse("packed")) is None


def test_processes_that_live_together_are_counted() -> None:
    forms = [("a", "fp32"), ("a", "int8"), ("b", "fp32")]
    far = ("ssh://pi/onnxruntime", parse("ssh://pi/onnxruntime"))
    one, two, absent = ("torch", parse("torch")), ("onnxruntime", parse("onnxruntime")), ("x", "not here")
    assert alive([one, far, absent], forms) == 2  # torch has no int8
    assert alive([one, two], forms) == 3 + 1  # and the anchor
    assert alive([far], forms) == 1


@pytest.mark.parametrize(("kind", "code"), [("not offered", 2), ("failed", 1), ("out of memory", 1)])
def test_nothing_measured_is_the_fault_of_the_request_or_of_the_work(kind: GapKind, code: int) -> None:
    kinds: list[tuple[str, GapKind]] = [("a", "not offered"), ("b", kind)]
    gaps = [Gap(model=model, target="t", precision="fp32", kind=one, reason="why") for model, one in kinds]
    error = nothing(gaps)
    assert (str(error), error.exit_code) == ("a on t: why; b on t: why", code)


def test_a_machine_that_is_lost_costs_its_own_cells(job: Callable[..., Job]) -> None:
    far = FakeMachine("run")
    found = run_matrix(job("onnxruntime", ("ssh://pi/onnxruntime", far), "torch"), None, quiet)
    assert [(cell.target.partition("@")[0], len(cell.rows)) for cell in found.cells] == [
        *[("onnxruntime", 1)] * 3,
        ("ssh://pi/onnxruntime", 0),
        *[("torch", 1)] * 3,
    ]
    [gap] = [gap for cell in found.cells for gap in cell.gaps]
    assert gap.text == "failed at batch 1: the connection to ssh://pi was lost (run)"


def test_a_machine_that_is_lost_while_accuracy_is_asked(job: Callable[..., Job], task: Task) -> None:
    far = ("ssh://pi/onnxruntime", FakeMachine("run"))
    found = run_matrix(job(far, "torch", task=task, tested=150), None, quiet)
    assert [one.target for one in found.accuracies] == ["torch@threads=1"]
    assert [len(cell.rows) for cell in found.cells] == [0, 1, 1, 1]
    assert found.cells[0].gaps[0].text == "failed: the connection to ssh://pi was lost (run)"


def test_another_machine_is_not_timed_beside_the_anchor(job: Callable[..., Job]) -> None:
    far = ("ssh://pi/onnxruntime", FakeMachine())
    found = run_matrix(job("onnxruntime", "torch", far), None, quiet)
    assert [(len(cell.rows), len(cell.across)) for cell in found.cells[-3:]] == [(1, 0)] * 3


def test_memory_that_ends_at_the_batch_of_the_accuracy(
    job: Callable[..., Job], task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeWorker, "most", {"onnxruntime": 3})
    found = run_matrix(job("onnxruntime", task=task, tested=150, batches=Batches((2, 4))), None, quiet)
    [answer] = found.accuracies
    assert answer.images == 150
    assert answer.test_accuracy == pytest.approx(100.0 * float((task.test.labels[:150] == 0).sum()) / 150)
    assert [worker.answered for worker in FakeWorker.made] == [[], [2] * 75]
    assert [(cell.batch, len(cell.rows)) for cell in found.cells] == [(2, 1), (4, 0)]


def test_memory_that_ends_at_the_smallest_batch_too(
    job: Callable[..., Job], task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeWorker, "most", {"onnxruntime": 1})
    found = run_matrix(job("onnxruntime", task=task, tested=150, batches=Batches((2, 4))), None, quiet)
    assert (found.accuracies, [cell.rows for cell in found.cells]) == ([], [[]])
    assert [gap.kind for gap in found.cells[0].gaps] == ["out of memory"]


def test_each_target_takes_the_form_that_it_has() -> None:
    packed, plain, far = parse("packed"), parse("onnxruntime"), parse("ssh://pi/onnxruntime")
    both = KINDS["openvino"].make()
    assert [packs(one) for one in (packed, plain, far, "numba is not installed")] == [True, *[False] * 3]
    assert [suits({"a"}, "a", form, packed) for form in ("fp32", "packed")] == [False, True]
    assert [suits({"a"}, "a", form, far) for form in ("fp32", "packed")] == [True, False]
    assert [suits({"a"}, "a", form, both) for form in ("fp32", "packed")] == [True, True]
    assert suits({"a"}, "b", "fp32", packed)
    forms = [("a", "fp32"), ("a", "packed")]
    assert alive([("packed", packed), ("openvino", both)], forms, {"a"}) == 3, "two beside the anchor"


def test_a_bare_program_is_held_against_the_packed_kernels(
    job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runtime that gives other logits is not timed, also where the network itself is not there."""
    program = one_layer(size=(3, 5, 5), outputs=9, kernel=3)
    write_bundle(tmp_path / "net.tersa", program)
    subject = find_subject(str(tmp_path / "net.tersa"), None)
    assert subject.file is not None
    file = File(subject, "packed", subject.file)

    def answers(_worker: FakeWorker, images: Pixels, _patience: float | None = None) -> First:
        return First(1.0, classify(tmp_path / "net.tersa", images) + np.float32(1), 0)

    monkeypatch.setattr(FakeWorker, "first", answers)
    found = run_matrix(job("packed", files=[file]), None, quiet)
    assert [gap.kind for cell in found.cells for gap in cell.gaps] == ["wrong outputs"]


def test_a_target_that_is_not_there_is_one_line_for_each_network(job: Callable[..., Job], file: File) -> None:
    files = [file, replace(file, precision="packed")]
    asked = replace(
        job("packed", files=files, packable=frozenset({"net"})), targets=[("litert", "not installed")]
    )
    [cell] = run_matrix(asked, None, quiet).cells
    assert [(gap.target, gap.precision) for gap in cell.gaps] == [("litert", "fp32")]
