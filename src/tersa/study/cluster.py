"""The jobs of a pool on a Ray cluster (the extra `cluster`): a study's stacks, a reproduction's curves, the
networks of a joint search.

Each job is one Ray task with `threads` CPUs. A task whose worker or machine dies is begun once more, then
given up; what it was doing is handed in once or not at all, since only this process writes to the store. A
worker prepares itself once for all the jobs that it is given. Progress is told when a job ends.

`on` says where, as `--on` does:

    local               no cluster: processes of this machine (`tersa.study.pool`)
    ray                 the cluster that RAY_ADDRESS names, else one is started on this machine
    auto, HOST:PORT     a cluster that runs on this machine or is reached from it
    ray://HOST:PORT     one that is reached through its client port

tersa and the data must be on every machine, and a folder that jobs write to must be one that all of them
mount. Jobs are cut for `workers` at once: give the CPUs of the cluster.

Example:
    >>> place("ray://head:10001"), place("auto"), place("ray")
    ('ray://head:10001', 'auto', None)
"""

from __future__ import annotations

import importlib
import os
import pickle
import re
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tersa.errors import UsageError
from tersa.study.pool import ATTEMPTS, Do, Pool, in_processes

LOCAL = "local"
ADDRESS = re.compile(r"(ray://)?[\w.\-\[\]:]+:\d+")

J = TypeVar("J")
E = TypeVar("E")

_prepared: dict[bytes, Any] = {}
"""In a Ray worker: what does the jobs of each pool that it has seen."""


@dataclass(frozen=True)
class Crew:
    """Who works beside the calling process.

    Attributes:
        workers: processes; 1 on `local` is the calling one.
        threads: of torch in each of them.
        on: where, see above.
    """

    workers: int = 1
    threads: int = 1
    on: str = LOCAL

    @property
    def alone(self) -> bool:
        """The calling process does everything."""
        return self.workers == 1 and self.on == LOCAL


def carry_out(jobs: Sequence[J], pool: Pool[J, E], tell: Callable[[E], None], on: str = LOCAL) -> None:
    """Do all jobs of a pool in processes of this machine, or on a cluster.

    Raises:
        TersaError: workers end before they have begun.
        UsageError: no such place, Ray is not installed, or no cluster answers.
    """
    if on == LOCAL:
        in_processes(jobs, pool, tell)
    else:
        in_cluster(jobs, pool, tell, on)


def check_place(on: str) -> None:
    """Whether jobs can be done there, before any work.

    Raises:
        UsageError: no such place, or Ray is not installed.
    """
    if on != LOCAL:
        place(on)
        load_ray()


def place(on: str) -> str | None:
    """Ray's address; None for that of RAY_ADDRESS or a cluster of this machine.

    Raises:
        UsageError: something else.
    """
    if on == "ray":
        return None
    if on != "auto" and not ADDRESS.fullmatch(on):
        raise UsageError(f"--on {on}: give local, ray, auto, HOST:PORT or ray://HOST:PORT")
    return on


def in_cluster(jobs: Sequence[J], pool: Pool[J, E], tell: Callable[[E], None], on: str = "ray") -> None:
    """Do all jobs as Ray tasks, the first ones first.

    Raises:
        UsageError: Ray is not installed, or no cluster answers.
    """
    address, ray = place(on), load_ray()
    options: dict[str, Any] = {"log_to_driver": False, "ignore_reinit_error": True}
    if address is not None:
        options["address"] = address
    elif not os.environ.get("RAY_ADDRESS"):
        options |= {"num_cpus": pool.workers * pool.threads, "include_dashboard": False}
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(f"--on {on}: no Ray cluster answers: {str(error).splitlines()[0]}") from None
    try:
        remote = ray.remote(num_cpus=pool.threads, max_retries=ATTEMPTS - 1)(_task)
        left = {remote.remote(pool.begin, pool.threads, job): job for job in jobs}
        while left:
            ready, _ = ray.wait(list(left))
            for reference in ready:
                job = left.pop(reference)
                try:
                    event = ray.get(reference)
                except ray.exceptions.RayError:  # the machine or its worker died: the job is given up
                    event = pool.lost(job, traceback.format_exc())
                tell(event)
    finally:
        ray.shutdown()


def load_ray() -> Any:
    """The ray package, without its usage statistics.

    Raises:
        UsageError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise UsageError("--on needs Ray, which is not installed: pip install 'tersa[cluster]'") from None


def _task(begin: Callable[[], Do[J, E]], threads: int, job: J) -> E:
    """One job on some machine."""
    import torch

    from tersa.train.memory import keep_freed

    name = pickle.dumps(begin)
    if name not in _prepared:
        torch.set_num_threads(threads)
        keep_freed()
        _prepared.clear()  # of an earlier pool: its data are of no more use
        _prepared[name] = begin()
    return _prepared[name](job, _nobody)


def _nobody(event: object) -> None:
    """Hears of the progress of a job that is done elsewhere."""
