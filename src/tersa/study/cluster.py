"""Train the stacks of a study on a Ray cluster (the extra `cluster`).

Each stack is one Ray task with `threads` CPUs; a task whose worker or machine dies is begun once more. The
cluster is the one that `RAY_ADDRESS` names, else one is started on this machine. tersa and the data must be
on every machine (a home folder that all of them mount will do); only this process writes to the store.

Cells are cut for `workers` tasks at once: give the CPUs of the cluster. Progress is told when a stack ends.

Example: `RAY_ADDRESS=auto tersa study run study.toml --launcher ray`.
"""

from __future__ import annotations

import importlib
import os
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from tersa.errors import UsageError
from tersa.study.pool import ATTEMPTS
from tersa.study.workers import Ended, Event, Launch, Shelf, Stack, train


def on_cluster(stacks: Sequence[Stack], launch: Launch, tell: Callable[[Event], None]) -> None:
    """Train stacks as Ray tasks, the first ones first.

    Raises:
        UsageError: Ray is not installed.
    """
    ray = load_ray()
    ray.init(log_to_driver=False, ignore_reinit_error=True)
    try:
        remote = ray.remote(num_cpus=launch.threads, max_retries=ATTEMPTS - 1)(_task)
        left = {remote.remote(stack, launch): stack for stack in stacks}
        while left:
            ready, _ = ray.wait(list(left))
            for reference in ready:
                stack = left.pop(reference)
                try:
                    event = ray.get(reference)
                except ray.exceptions.RayError:  # the machine or its worker died: the stack is given up
                    event = Ended(stack.number, trouble=traceback.format_exc())
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
        raise UsageError(
            "--launcher ray needs Ray, which is not installed: pip install 'tersa[cluster]'"
        ) from None


def _task(stack: Stack, launch: Launch) -> Ended:
    """One stack on some machine."""
    return train(Shelf(launch.data_dir), stack, launch)
