"""Who walks the curves of `tersa reproduce pruning`: this process, or worker processes beside it.

A worker loads the data and each baseline once, walks the curves that it is handed and sends back their
points; how it lives and dies is in `study.pool`. A walk whose worker dies goes on from its checkpoint in
another. Whatever else goes wrong with a curve is its result: its traceback is stored and the others go on.

Nothing here writes to the store: `recipes.pruning_study` does.

Example:
    >>> walks = Walks("nowhere", "lenet", Path("runs"), "fp32")
    >>> walk(Baselines(walks), Job(0, Curve(criterion="random"), 5)).walked.trouble
    "tersa.errors.UsageError: unknown data set 'nowhere'; known: cifar-10, digits, ..."
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from tersa.data.sources import load
from tersa.data.task import Task
from tersa.errors import Diverged
from tersa.files import remove_leftovers
from tersa.models import zoo
from tersa.recipes.pruning_curves import Curve, run_curve
from tersa.recipes.pruning_store import Walked
from tersa.study.cluster import Crew, carry_out
from tersa.study.pool import Pool, Told, seldom
from tersa.train.config import Precision
from tersa.train.device import torch_threads
from tersa.train.memory import keep_freed

TOLD_S = 0.5
"""Least time between two words of a worker about its progress."""


@dataclass(frozen=True)
class Walks:
    """What every curve of a reproduction shares.

    Attributes:
        data: name of the task.
        model: spec of the network.
        folder: of the reproduction; baselines and checkpoints lie in it.
        precision: of the forward pass while retraining.
        data_dir: where data are looked for first.
        device: `cpu` or `cuda`.
        crew: how many walk at once, and where.
    """

    data: str
    model: str
    folder: Path
    precision: Precision
    data_dir: Path | None = None
    device: str = "cpu"
    crew: Crew = field(default_factory=Crew)

    def weights(self, seed: int) -> Path:
        """File of the baseline that the curves of a seed start from."""
        return self.folder / f"baseline-s{seed}.safetensors"

    def state(self, curve: Curve) -> Path:
        """File of a curve's checkpoint while it is walked."""
        return self.folder / "curves" / f"{curve.name}-s{curve.seed}.safetensors"


@dataclass(frozen=True)
class Job:
    """One curve to walk.

    Attributes:
        number: of the curve in this call.
        curve: how.
        test_every: steps between two looks at the test split.
    """

    number: int
    curve: Curve
    test_every: int


@dataclass(frozen=True)
class Ended:
    """What came of a curve.

    Attributes:
        number: of the job.
        walked: its points, or its trouble.
    """

    number: int
    walked: Walked


Event = Told | Ended


class Baselines:
    """The task and the trained networks, each loaded once."""

    def __init__(self, walks: Walks, task: Task | None = None) -> None:
        self.walks = walks
        self._task = task
        self._trained: dict[int, nn.Module] = {}

    @property
    def task(self) -> Task:
        """The data."""
        if self._task is None:
            self._task = load(self.walks.data, data_dir=self.walks.data_dir)
        return self._task

    def trained(self, seed: int) -> nn.Module:
        """The baseline of a seed."""
        if seed not in self._trained:
            model = zoo.build(self.walks.model, self.task.shape, len(self.task.classes))
            model.load_state_dict(load_file(self.walks.weights(seed)))
            self._trained[seed] = model.eval()
        return self._trained[seed]


def walk(baselines: Baselines, job: Job, tell: Callable[[Told], None] | None = None) -> Ended:
    """Walk a curve; whatever goes wrong is its result."""
    walks, curve = baselines.walks, job.curve
    say = seldom(tell, job.number, every_s=TOLD_S)
    state = walks.state(curve)
    remove_leftovers(state)
    try:
        points = run_curve(
            curve,
            baselines.task,
            baselines.trained(curve.seed),
            state=state,
            precision=walks.precision,
            device=walks.device,
            test_every=job.test_every,
            progress=lambda share, _: say(share),
        )
    except Diverged:
        return Ended(job.number, Walked(curve=curve, status="diverged", message=traceback.format_exc()))
    except Exception:  # noqa: BLE001  one curve must not end the others: its traceback is stored
        return Ended(job.number, Walked(curve=curve, status="failed", message=traceback.format_exc()))
    return Ended(job.number, Walked(curve=curve, status="done", points=tuple(points)))


def here(jobs: Sequence[Job], baselines: Baselines, tell: Callable[[Event], None]) -> None:
    """Walk curves one after the other in this process."""
    keep_freed()
    with torch_threads(baselines.walks.crew.threads):
        for job in jobs:
            tell(walk(baselines, job, tell))


def in_workers(jobs: Sequence[Job], walks: Walks, tell: Callable[[Event], None]) -> None:
    """Walk curves in the crew's processes or on a cluster, in their order.

    Raises:
        TersaError: workers end before they have begun.
        UsageError: no cluster answers.
    """
    crew = walks.crew
    pool = Pool[Job, Event](crew.workers, crew.threads, partial(_worker, walks), _ended, _lost)
    carry_out(jobs, pool, tell, crew.on)


def _worker(walks: Walks) -> Callable[[Job, Callable[[Event], None]], Event]:
    """What walks the curves of one worker, which loads the data and each baseline once."""
    baselines = Baselines(walks)
    return lambda job, tell: walk(baselines, job, tell)


def _ended(event: Event) -> bool:
    return isinstance(event, Ended)


def _lost(job: Job, reason: str) -> Event:
    return Ended(job.number, Walked(curve=job.curve, status="failed", message=reason))
