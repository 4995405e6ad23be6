"""Can the numbers of `tersa bench` be believed on a busy machine?

    python benchmarks/measuring.py --trials 100 --pairs 20

Four questions, with LeNet on 28x28 images, one thread, each network in a process of its own, measured as
`tersa bench` measures: several starts of each, and new processes in every trial:

    equal      two copies of one file: how often is the verdict "no difference"? (at least 90 of 100)
    slower     the second copy's times are taken 10 % longer: how often is it "slower"? (at least 90 of 100)
    repeated   the ratio of two targets measured twice: how often do the two differ by under 5 %? (at least 18
               of 20)
    small      the same with LeNet-5 of 20-50-500: 1.7 MB of weights, where LeNet has 13 MB, which what else
               the machine does drives out of the cache that all cores share

Then how much the starts of two copies differ, how much slower the one is that begins first, and the load.
Writes `results/measuring.csv`, a row for each trial with the ratio of every start, as it goes: a run that was
ended goes on with `--resume`.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np

from tersa.export.artefact import Artefact, Header
from tersa.files import write_atomic
from tersa.records.results import Environment
from tersa.targets.base import Effort
from tersa.targets.environment import environment
from tersa.targets.rounds import time_sides
from tersa.targets.statistics import Ratio, compare_rounds
from tersa.targets.worker import Order, Worker, pack

RESULTS = Path(__file__).parent / "results" / "measuring.csv"
EXTRA = 1.1
WANTED = {"equal": "no difference", "slower": "slower"}
"""The right verdict of each question about two copies."""

TWICE = {"repeated": "lenet", "small": "lenet5"}
"""The network of each question about two targets."""

Found = tuple[Ratio, list[float]]


@dataclass(frozen=True)
class Slower:
    """A network that takes 10 % longer."""

    worker: Worker

    def warm_up(self, effort: Effort) -> tuple[int, float]:
        """As `rounds.Side`."""
        made, per_call = self.worker.warm_up(effort)
        return made, EXTRA * per_call

    def round(self, calls: int) -> float:
        """As `rounds.Side`."""
        return EXTRA * self.worker.round(calls)

    def close(self) -> None:
        """As `rounds.Restartable`."""
        self.worker.close()

    def restart(self) -> None:
        """As `rounds.Restartable`."""
        self.worker.restart()


def ratio(artefact: Artefact, targets: tuple[str, str], seconds: float, *, slower: bool = False) -> Found:
    """The first target over the second, from interleaved rounds in new processes; and that of each start."""
    from tersa.recipes.bench import STARTS  # here: each process would import it anew, which takes 0.3 s
    from tersa.recipes.bench_matrix import WARMUP_S

    image = np.random.default_rng(0).random((1, *artefact.header.shape), dtype=np.float32)
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(Order(target, "m", "fp32", pack(artefact, target))))
            for target in targets
        ]
        for worker in workers:
            worker.first(image)
        sides = [workers[0], Slower(workers[1]) if slower else workers[1]]
        first, second = time_sides(sides, Effort(seconds=seconds, warmup_seconds=WARMUP_S, starts=STARTS))
    ends = np.cumsum(first.starts)[:-1]
    parts = zip(np.split(first.times_ms, ends), np.split(second.times_ms, ends), strict=True)
    by_start = [compare_rounds(before, after).speedup for before, after in parts]
    return compare_rounds(first.times_ms, second.times_ms, first.starts), by_start


def read(path: Path) -> list[dict[str, str]]:
    """The rows of an earlier run that was ended."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(rows: list[dict[str, str]], path: Path) -> None:
    """All rows so far, whole."""
    text = StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())


def row(
    kind: str, trial: int, measured: Found, good: bool, machine: Environment, again: str = ""
) -> dict[str, str]:
    """One trial."""
    found, each = measured
    return {
        "question": kind,
        "trial": str(trial),
        "ratio": f"{found.speedup:.4f}",
        "low": f"{found.low:.4f}",
        "high": f"{found.high:.4f}",
        "by_start": " ".join(f"{ratio:.4f}" for ratio in each),
        "verdict": found.verdict,
        "again": again,
        "good": str(good),
        "load": f"{os.getloadavg()[0]:.1f}",
        "processor": machine.processor,
        "date": machine.date,
        "commit": machine.commit,
    }


def trials(
    artefacts: dict[str, Artefact], options: argparse.Namespace, known: set[tuple[str, str]]
) -> Generator[dict[str, str]]:
    """What is not known yet, a row at a time."""
    machine, seconds, same = environment(threads=1), options.seconds, ("onnxruntime", "onnxruntime")
    artefact = artefacts["lenet"]
    for trial in range(options.trials):
        for kind, wanted in WANTED.items():
            if (kind, str(trial)) not in known:
                found = ratio(artefact, same, seconds, slower=kind == "slower")
                yield row(kind, trial, found, found[0].verdict == wanted, machine)
    for kind, model in TWICE.items():
        for trial in range(options.pairs):
            if (kind, str(trial)) not in known:
                first, again = (ratio(artefacts[model], tuple(options.targets), seconds) for _ in range(2))
                near = abs(first[0].speedup / again[0].speedup - 1) < 0.05
                yield row(kind, trial, first, near, machine, f"{again[0].speedup:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--targets", nargs=2, default=("onnxruntime", "torch"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--resume", action="store_true", help="go on with the trials that --out lacks")
    options = parser.parse_args()
    rows = read(options.out) if options.resume and options.out.is_file() else []
    known = {(each["question"], each["trial"]) for each in rows}
    from tersa.export.onnx import export_onnx  # as above
    from tersa.models import build

    with tempfile.TemporaryDirectory(prefix="tersa.") as folder:
        header = Header(tuple("0123456789"), (1, 28, 28), (0.1307,), (0.3081,))
        artefacts = {
            model: export_onnx(build(model, header.shape, 10), header, Path(folder) / f"{model}.onnx")
            for model in TWICE.values()
        }
        for each in trials(artefacts, options, known):
            rows.append(each)
            write(rows, options.out)
    tell(rows, options.targets)


def tell(rows: list[dict[str, str]], targets: Sequence[str]) -> None:
    """What came of all trials."""
    asked = Counter(each["question"] for each in rows)
    good = Counter(each["question"] for each in rows if each["good"] == "True")
    print(f"two copies: no difference in {good['equal']} of {asked['equal']}")
    print(f"10 % slower: slower in {good['slower']} of {asked['slower']}")
    for kind, model in TWICE.items():
        print(f"{' over '.join(targets)}, {model}, twice: within 5 % in {good[kind]} of {asked[kind]}")
    starts = [each["by_start"].split() for each in rows if each["question"] == "equal"]
    equal = np.log([float(ratio) for each in starts for ratio in each])
    print(
        f"starts of two copies differ by {100 * equal.std():.1f} % (standard deviation), the first by "
        f"{100 * equal.mean():+.1f} % in the mean"
    )
    swapped = [(-1) ** place * np.log(float(ratio)) for each in starts for place, ratio in enumerate(each)]
    print(f"what begins first is slower by {100 * np.mean(swapped):.1f} %")
    loads = [float(each["load"]) for each in rows]
    print(f"load {min(loads):.1f} to {max(loads):.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
