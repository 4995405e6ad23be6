"""Stacks as Ray tasks: against a stand-in for Ray everywhere, against Ray where it is installed."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tersa.errors import UsageError
from tersa.study.cell import Cell
from tersa.study.cluster import load_ray, on_cluster
from tersa.study.workers import Ended, Event, Launch, Stack

STACKS = [
    Stack(number, tuple(Cell(data="digits", model=model, epochs=1, seed=seed) for seed in (1, 2)), 2.0)
    for number, model in ((3, "mlp:4"), (1, "mlp:13"), (2, "mlp:6"))
]


class RayError(Exception):
    """As Ray's."""


class StandIn:
    """Enough of Ray for one caller; the task of stack 2 is lost."""

    def __init__(self) -> None:
        self.exceptions = SimpleNamespace(RayError=RayError)
        self.asked: list[dict[str, Any]] = []
        self.up = False

    def init(self, **options: Any) -> None:
        self.up = True

    def shutdown(self) -> None:
        self.up = False

    def remote(self, **options: Any) -> Callable[..., Any]:
        self.asked.append(options)

        def wrap(task: Callable[[Stack, Launch], Ended]) -> Any:
            return SimpleNamespace(remote=lambda stack, launch: (task, stack.number, stack, launch))

        return wrap

    def wait(self, references: list[Any]) -> tuple[list[Any], list[Any]]:
        return references[:1], references[1:]

    def get(self, reference: Any) -> Ended:
        task, number, stack, launch = reference
        if number == 2:
            raise RayError("the node died")
        return task(stack, launch)


def trained(launch: Launch) -> dict[int, Ended]:
    found: list[Event] = []
    on_cluster(STACKS, launch, found.append)
    assert all(isinstance(event, Ended) for event in found)
    return {event.number: event for event in found if isinstance(event, Ended)}


def test_stacks_become_tasks_and_their_failures_results(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = StandIn()
    monkeypatch.setitem(sys.modules, "ray", ray)  # type: ignore[arg-type]  # a stand-in, no module
    ended = trained(Launch(threads=2, engine=engine))
    assert [result.cell for result in ended[3].results] == list(STACKS[0].cells)
    assert ended[1].trouble.rstrip().endswith("RuntimeError: thirteen units")
    assert ended[2].trouble.rstrip().endswith("RayError: the node died")
    assert ray.asked == [{"num_cpus": 2, "max_retries": 1}]
    assert not ray.up


def test_a_missing_ray_is_named_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'tersa\[cluster\]'"):
        load_ray()


@pytest.mark.runtime
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray, the extra 'cluster'")
@pytest.mark.filterwarnings("default")  # Ray's own
def test_ray_itself(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    ended = trained(Launch(engine=engine))
    assert [result.cell for result in ended[3].results] == list(STACKS[0].cells)
    assert ended[1].trouble.rstrip().endswith("RuntimeError: thirteen units")
    assert len(ended[2].results) == 2
