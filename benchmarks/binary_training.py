"""How much faster is a binary network trained when its forward passes run on bits?

    python benchmarks/binary_training.py --rounds 5 --threads 1

For each network: one update (forward, backward, Adam) on 128 drawn images of 32x32 and the evaluation of 250,
with `tersa.binary.sign_sums` and without, in turns, channels last as in a training; ratios and intervals are
those of paired rounds (`targets.statistics`). Before that both ways make the same update from the same
weights, and every weight has to be the same to the last bit, or the script ends. Writes
`results/binary_training.csv`; rows of other networks, threads and processors are kept.
"""

from __future__ import annotations

import argparse
import copy
import csv
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tersa.binary.sign_sums import convolve
from tersa.models.load import load
from tersa.quant.sums import by
from tersa.targets.environment import environment
from tersa.targets.statistics import compare_rounds
from tersa.train.latents import Latents

RESULTS = Path(__file__).parent / "results" / "binary_training.csv"
NETWORKS = (
    "bvgg16",
    "cnv+w1a1",
    "vgg-small+w1a1:first=float,last=float,scale=xnor",
    "bresnet18+w1a1",
)
SHAPE, CLASSES, BATCH, EVALUATED = (3, 32, 32), 10, 128, 250
KEYS = ("network", "work", "threads", "processor")
WAYS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "floats": nullcontext,
    "bits": lambda: by(convolve),
}


class Trainee:
    """One network with its optimiser, and images."""

    def __init__(self, network: nn.Module) -> None:
        drawn = np.random.default_rng(0)
        self.network = network.train().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - stub lacks it
        self.latents = Latents.of(network)
        self.optimizer = torch.optim.Adam(network.parameters(), lr=0.001)
        self.images = self._images(drawn, BATCH)
        self.labels = torch.from_numpy(drawn.integers(0, CLASSES, BATCH))
        self.more = self._images(drawn, EVALUATED)

    @staticmethod
    def _images(drawn: np.random.Generator, count: int) -> Tensor:
        images = torch.from_numpy(drawn.standard_normal((count, *SHAPE), np.float32))
        return images.contiguous(memory_format=torch.channels_last)

    def update(self) -> None:
        """Forward, backward, Adam, and latents put into -1..1."""
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(self.network(self.images), self.labels).backward()
        self.optimizer.step()
        self.latents.after_(self.optimizer)

    def evaluation(self) -> Tensor:
        """Logits of 250 images."""
        self.network.eval()
        with torch.inference_mode():
            return self.network(self.more)


def check(network: nn.Module) -> None:
    """Both ways make the same update and the same logits.

    Raises:
        SystemExit: they do not.
    """
    found: list[list[Tensor]] = []
    for way in WAYS.values():
        trainee = Trainee(copy.deepcopy(network))
        with way():
            trainee.update()
            logits = trainee.evaluation()
        found.append([logits, *trainee.network.state_dict().values()])
    if not all(torch.equal(floats, bits) for floats, bits in zip(*found, strict=True)):
        raise SystemExit("bits gave other numbers than floats")


def measure(network: nn.Module, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each way, by the work."""
    trainee = Trainee(network)
    works: dict[str, Callable[[], object]] = {"update": trainee.update, "evaluation": trainee.evaluation}
    times: dict[str, dict[str, list[float]]] = {work: {way: [] for way in WAYS} for work in works}
    for turn in range(rounds + 1):
        for work, run in works.items():
            for way, within in WAYS.items():
                with within():
                    started = time.perf_counter()
                    run()
                    spent = time.perf_counter() - started
                if turn:  # the first warms up
                    times[work][way].append(spent)
    return times


def rows_of(spec: str, rounds: int, threads: int) -> list[dict[str, str]]:
    """The rows of one network."""
    network = load(spec, SHAPE, CLASSES).module
    check(network)
    machine = environment(threads)
    rows: list[dict[str, str]] = []
    for work, times in measure(network, rounds).items():
        ratio = compare_rounds(np.array(times["floats"]), np.array(times["bits"]))
        rows.append(
            {
                "network": spec,
                "work": work,
                "threads": str(threads),
                "times_faster": f"{ratio.speedup:.2f}",
                "low": f"{ratio.low:.2f}",
                "high": f"{ratio.high:.2f}",
                "seconds_floats": f"{np.median(times['floats']):.3g}",
                "seconds_bits": f"{np.median(times['bits']):.3g}",
                "rounds": str(rounds),
                "processor": machine.processor,
                "torch": machine.versions["torch"],
                "date": machine.date[:10],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    if RESULTS.exists():
        with RESULTS.open(newline="", encoding="utf-8") as file:
            rows = {tuple(row[key] for key in KEYS): row for row in csv.DictReader(file)}
    for spec in arguments.networks:
        for row in rows_of(spec, arguments.rounds, arguments.threads):
            rows[tuple(row[key] for key in KEYS)] = row
            print(
                f"{spec}  {row['work']}  {row['times_faster']}x ({row['low']} to {row['high']})", flush=True
            )
        with RESULTS.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(next(iter(rows.values()))), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows.values())


if __name__ == "__main__":
    main()
