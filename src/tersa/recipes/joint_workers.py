"""Who trains the networks of a joint search: this process, or workers beside it or on a cluster.

A worker prepares what all trials share once (data, the baseline's weights, channel groups), trains the
networks that it is handed and keeps their files in the search's folder, which every machine must mount.
Latencies are measured by the calling process, on this machine, when no worker trains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tersa.data.sources import load as load_task
from tersa.errors import Diverged
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
from tersa.study.cluster import Crew
from tersa.study.gather import gather
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


def train_networks(work: Workshop, crew: Crew, asked: Sequence[Asked]) -> list[TriedNetwork | Diverged]:
    """The networks of trials in their order, without latency, or why there is none.

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
    return gather(asked, partial(_begin, bench), crew, what="network")


def _begin(bench: _Bench) -> Callable[[Asked], TriedNetwork]:
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
    return lambda asked: learned(work, asked.number, asked.settings)
