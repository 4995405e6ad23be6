"""Who trains the networks of a joint search: this process, or workers beside it or on a cluster.

A worker prepares what all trials share once (data, the baseline's weights, channel groups), trains the
networks that it is handed and keeps their files in the search's folder, which every machine must mount.
Latencies are measured by the calling process, on this machine, when no worker trains.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tersa.data.sources import load as load_task
from tersa.errors import Diverged, TersaError
from tersa.models.checkpoint import read as read_checkpoint
from tersa.prune.surgery import resize_
from tersa.recipes.deploy import Dock, shippable
from tersa.recipes.joint_networks import Workshop, learned
from tersa.recipes.joint_request import JointSpec
from tersa.recipes.joint_result import TriedNetwork
from tersa.recipes.joint_trials import Asked
from tersa.recipes.request import protocol_of
from tersa.recipes.setting import Setting
from tersa.recipes.shrink import prunable
from tersa.recipes.start import find_start
from tersa.study.cluster import Crew, carry_out
from tersa.study.pool import Pool
from tersa.train.baseline import save_weights

BASELINE = "baseline.safetensors"


@dataclass(frozen=True)
class _Bench:
    """What a worker prepares itself from."""

    spec: JointSpec
    folder: Path
    data_dir: Path | None
    device: str
    threads: int
    correct: npt.NDArray[np.bool_] = field(repr=False)


@dataclass(frozen=True)
class _Learned:
    """What came of a trial: its network, or why there is none; `broken` is no result but an error."""

    number: int
    row: TriedNetwork | None = None
    trouble: str = ""
    broken: bool = False


def train_networks(work: Workshop, crew: Crew, asked: Sequence[Asked]) -> dict[int, TriedNetwork | Diverged]:
    """The networks of trials by their numbers, without latency, or why there is none.

    Raises:
        TersaError: something else went wrong in a worker.
        UsageError: no cluster answers.
    """
    path = work.folder / BASELINE
    if not path.is_file():
        save_weights(work.baseline, path)
    bench = _Bench(
        work.spec,
        work.folder.resolve(),
        work.setting.data_dir,
        work.device,
        crew.threads,
        work.dock.correct,
    )
    found: dict[int, TriedNetwork | Diverged] = {}

    def hear(event: _Learned) -> None:
        if event.broken:
            raise TersaError(f"trial {event.number}: {event.trouble.rstrip()}")
        found[event.number] = Diverged(event.trouble) if event.row is None else event.row

    pool = Pool[Asked, _Learned](
        min(crew.workers, len(asked)), crew.threads, partial(_begin, bench), _ended, _lost, script="searches"
    )
    carry_out(asked, pool, hear, crew.on)
    return found


def _begin(bench: _Bench) -> Callable[[Asked, Callable[[_Learned], None]], _Learned]:
    """What trains the networks of one worker."""
    spec, base = bench.spec, bench.spec.shrinking()
    task = load_task(spec.data, data_dir=bench.data_dir, seed=spec.seed, validation=spec.validation)
    begin = find_start(base, task)
    groups = prunable(begin.pruned(), task, protocol_of(base, task))
    baseline = begin.pruned()
    resize_(baseline, read_checkpoint(bench.folder / BASELINE))
    dock = Dock(
        task, shippable("fp32", spec.target), spec.target, spec.batch, spec.seed, correct=bench.correct
    )
    setting = Setting(data_dir=bench.data_dir, device=bench.device, threads=bench.threads)
    work = Workshop(spec, task, begin, baseline.eval(), groups, dock, bench.folder, bench.device, setting)
    return lambda asked, tell: _learn(work, asked)


def _learn(work: Workshop, asked: Asked) -> _Learned:
    try:
        return _Learned(asked.number, learned(work, asked.number, asked.settings))
    except Diverged as error:
        return _Learned(asked.number, trouble=str(error))
    except Exception:  # noqa: BLE001  it is told where it was asked for, with its traceback
        return _Learned(asked.number, trouble=traceback.format_exc(), broken=True)


def _ended(event: _Learned) -> bool:
    return True


def _lost(asked: Asked, reason: str) -> _Learned:
    return _Learned(asked.number, trouble=reason, broken=True)
