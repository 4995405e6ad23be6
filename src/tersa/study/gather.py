"""Jobs of one kind done at once by workers, their results in the jobs' order.

What a job raises as `Diverged` is its result; anything else ends the work with the job's traceback. How
workers live and die is in `pool.py`, where they are in `cluster.py`.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from tersa.errors import Diverged, TersaError
from tersa.study.cluster import Crew, carry_out
from tersa.study.pool import Pool

J = TypeVar("J")
R = TypeVar("R")


@dataclass(frozen=True)
class _Done:
    """What came of a job: its result, why it diverged, or the traceback of an error."""

    place: int
    result: Any = None
    diverged: str = ""
    broken: str = ""


def gather(
    jobs: Sequence[J], begin: Callable[[], Callable[[J], R]], crew: Crew, *, what: str
) -> list[R | Diverged]:
    """Do all jobs.

    Args:
        jobs: what is to be done; each crosses a pipe.
        begin: called once in each worker, gives what does a job; it crosses a pipe, so it is a function of a
            module or a `functools.partial` of one.
        crew: the workers.
        what: a job, in a word, for errors.

    Raises:
        TersaError: a job or what begins a worker broke, or workers died; the message is the traceback or the
            reason.
        UsageError: no cluster answers.
    """
    found: dict[int, R | Diverged] = {}

    def hear(event: _Done) -> None:
        if event.broken:
            raise TersaError(f"{what} {event.place + 1} of {len(jobs)}: {event.broken.rstrip()}")
        found[event.place] = Diverged(event.diverged) if event.diverged else event.result

    pool = Pool[tuple[int, J], _Done](
        min(crew.workers, len(jobs)), crew.threads, partial(_begin, begin), _ended, _lost
    )
    carry_out(list(enumerate(jobs)), pool, hear, crew.on)
    return [found[place] for place in range(len(jobs))]


def _begin(
    begin: Callable[[], Callable[[J], R]],
) -> Callable[[tuple[int, J], Callable[[_Done], None]], _Done]:
    do = begin()
    return lambda job, tell: _one(do, *job)


def _one(do: Callable[[J], R], place: int, job: J) -> _Done:
    try:
        return _Done(place, do(job))
    except Diverged as error:
        return _Done(place, diverged=str(error))
    except Exception:  # noqa: BLE001  raised again by `gather`, in the calling process, with its traceback
        return _Done(place, broken=traceback.format_exc())


def _ended(event: _Done) -> bool:
    return True


def _lost(job: tuple[int, J], reason: str) -> _Done:
    return _Done(job[0], broken=reason)
