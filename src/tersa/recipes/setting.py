"""How a job is carried out: what does not decide its result.

Example:
    >>> Setting(threads=2).device
    'auto'
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from tersa.binary.sign_sums import Patient
from tersa.export.processor import cpuinfo, features
from tersa.quant.sums import by
from tersa.recipes.folder import SPEC, read_spec
from tersa.study.cluster import Crew
from tersa.targets.environment import cores
from tersa.train.config import Precision
from tersa.train.device import torch_threads
from tersa.train.memory import keep_freed

_ON_BITS = Patient()

Say = Callable[[str, float, str], None]
"""Shows progress: (name of the work, share done, remark)."""


def silent(task: str, done: float, remark: str) -> None:
    """Shows nothing."""


@dataclass(frozen=True)
class Setting:
    """How a run is carried out; none of it is stored in its spec.

    Attributes:
        data_dir: where data are looked for first.
        device: `auto`, `cpu` or `cuda`, for training.
        threads: for training; None for all cores.
        say: shows progress.
        command: what the user typed, for the report.
        cache: of baselines, in place of the user's.
        seconds: timed calls of each side of a final comparison.
    """

    data_dir: Path | None = None
    device: str = "auto"
    threads: int | None = None
    say: Say = silent
    command: str = ""
    cache: Path | None = None
    seconds: float = 3.0


def crew_of(workers: int, threads: int | None, on: str) -> Crew:
    """Workers that share the cores of this machine, unless their threads are given."""
    return Crew(workers, threads or max(1, cores() // workers), on)


def precision_of(
    asked: str, device: str, *, gpu: Precision, begun: Path | None = None, verb: str = ""
) -> Precision:
    """What `auto` is: of work that goes on, that with which it began; else what the device computes fast in.

    Args:
        asked: `auto`, or the answer.
        device: `cpu` or a GPU's.
        gpu: the answer on a GPU. A processor with bf16 takes that, another one fp32, which is faster there.
        begun: folder of work that goes on.
        verb: of the folder; one of another verb, or that is not there, is not asked.
    """
    if asked != "auto":
        return cast(Precision, asked)
    spec = read_spec(begun) if begun is not None and (begun / SPEC).is_file() else {}
    if spec.get("verb") == verb and spec.get("precision") in get_args(Precision):
        return cast(Precision, spec["precision"])
    if device != "cpu":
        return gpu
    return "bf16" if "bf16" in features(cpuinfo()) else "fp32"


@contextmanager
def threads_of(setting: Setting) -> Generator[None]:
    """Let torch use the asked number of threads (None: one per core) for a block, and keep freed memory.

    Binary convolutions run forward on bits in it, where that pays: their sums are the same.
    """
    keep_freed()
    with torch_threads(setting.threads or cores()), by(_ON_BITS):
        yield
