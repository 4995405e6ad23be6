"""Jobs as Ray tasks: against a stand-in for Ray everywhere, against Ray where it is installed."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tersa.errors import UsageError
from tersa.recipes.study import run_study
from tersa.study.cell import Cell
from tersa.study.cluster import check_place, load_ray, place
from tersa.study.spec import StudySpec, Value
from tersa.study.store import StudyStore
from tersa.study.workers import Ended, Event, Launch, Stack, in_workers

STACKS = [
    Stack(number, tuple(Cell(data="digits", model=model, epochs=1, seed=seed) for seed in (1, 2)), 2.0)
    for number, model in ((3, "mlp:4"), (1, "mlp:13"), (2, "mlp:6"))
]
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs ray, the extra 'cluster'"
)


class RayError(Exception):
    """As Ray's."""


class StandIn:
    """Enough of Ray for one caller; the task of stack 2 is lost."""

    def __init__(self) -> None:
        self.exceptions = SimpleNamespace(RayError=RayError)
        self.asked: list[dict[str, Any]] = []
        self.options: dict[str, Any] = {}
        self.begun = 0
        self.up = False

    def init(self, **options: Any) -> None:
        if options.get("address") == "nowhere:1":
            raise ConnectionError("no answer\nafter 5 s")
        self.options = options
        self.up = True

    def shutdown(self) -> None:
        self.up = False

    def remote(self, **options: Any) -> Callable[..., Any]:
        self.asked.append(options)
        return lambda task: SimpleNamespace(remote=lambda *given: (task, len(self.asked), *given))

    def wait(self, references: list[Any]) -> tuple[list[Any], list[Any]]:
        return references[:1], references[1:]

    def get(self, reference: Any) -> Ended:
        task, _, begin, threads, stack = reference
        if stack.number == 2:
            raise RayError("the node died")
        return task(begin, threads, stack)


def trained(launch: Launch) -> dict[int, Ended]:
    found: list[Event] = []
    in_workers(STACKS, launch, found.append)
    assert all(isinstance(event, Ended) for event in found)
    assert len(found) == len(STACKS)
    return {event.number: event for event in found if isinstance(event, Ended)}


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "ray", stand_in)  # type: ignore[arg-type]  # a stand-in, no module
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return stand_in


def test_stacks_become_tasks_and_their_failures_results(engine: str, ray: StandIn) -> None:
    ended = trained(Launch(workers=3, threads=2, engine=engine, on="ray"))
    assert [result.cell for result in ended[3].results] == list(STACKS[0].cells)
    assert ended[1].trouble.rstrip().endswith("RuntimeError: thirteen units")
    assert ended[2].trouble.rstrip().endswith("RayError: the node died")
    assert ray.asked == [{"num_cpus": 2, "max_retries": 1}]
    assert ray.options["num_cpus"] == 6  # of the cluster that is started here
    assert not ray.up


def test_a_cluster_that_runs_is_joined_by_its_address(
    engine: str, ray: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(Launch(engine=engine, on="ray://head:10001"))
    assert ray.options["address"] == "ray://head:10001"
    assert "num_cpus" not in ray.options
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    trained(Launch(engine=engine, on="ray"))
    assert not {"num_cpus", "address"} & ray.options.keys()  # Ray reads the variable itself
    with pytest.raises(UsageError, match=r"--on nowhere:1: no Ray cluster answers: no answer$"):
        trained(Launch(engine=engine, on="nowhere:1"))


@pytest.mark.parametrize("on", ["ray://head", "head", "ray:", "http://head:1", ""])
def test_other_places_are_refused_before_any_work(on: str) -> None:
    with pytest.raises(UsageError, match="give local, ray, auto, HOST:PORT or ray://HOST:PORT"):
        check_place(on)


def test_places() -> None:
    assert [place(on) for on in ("ray", "auto", "10.0.0.1:6379", "[::1]:6379")] == [
        None,
        "auto",
        "10.0.0.1:6379",
        "[::1]:6379",
    ]
    check_place("local")


def test_a_missing_ray_is_named_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'tersa\[cluster\]'"):
        load_ray()


@pytest.fixture
def alone(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's workers find what this process imports, the engine too; no cluster is joined."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.runtime
@needs_ray
@pytest.mark.usefixtures("alone")
@pytest.mark.filterwarnings("default")  # Ray's own
def test_workers_that_are_killed_lose_and_double_nothing(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Ray with two workers: mlp:7 kills its worker once, mlp:9 each time, mlp:13 fails."""
    monkeypatch.setenv("FAKE_ENGINE_MARK", str(tmp_path / "mark"))
    models: list[Value] = ["mlp:4", "mlp:7", "mlp:6", "mlp:9", "mlp:13", "mlp:8", "mlp:10"]
    spec = StudySpec(
        name="rough", fixed={"data": "digits", "epochs": 2, "quant": "none"}, axes={"model": models}, seeds=3
    )
    result = run_study(spec, tmp_path / "rough", workers=2, on="ray", engine=engine)
    assert (result.cells, result.done, result.failed) == (21, 15, 6)
    with StudyStore(tmp_path / "rough" / "study.db") as store:
        rows = store.results()
    assert max(Counter(row.key for row in rows).values()) == 1
    by_model = {model: {row.status for row in rows if row.cell.model == model} for model in models}
    assert {model for model, ways in by_model.items() if ways == {"failed"}} == {"mlp:9", "mlp:13"}
    assert all(len(row.epochs) == 2 for row in rows if row.status == "done")
    monkeypatch.setenv("FAKE_ENGINE_MARK", str(tmp_path / "mark"))
    calm = run_study(spec, tmp_path / "calm", workers=2, engine=engine)
    assert (calm.done, calm.failed) == (result.done, result.failed)
    with StudyStore(tmp_path / "calm" / "study.db") as store:
        here = {row.key: row.test_accuracy for row in store.results()}
    assert here == {row.key: row.test_accuracy for row in rows}  # the same numbers wherever they are trained
