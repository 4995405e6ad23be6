"""NetAdapt as published against `tersa adapt`: how accurate and how fast are the networks at the end?

    python benchmarks/adaptation_accuracy.py [--models alexnet:0.25,mobilenet:0.25] [--budgets 0.5]
    python benchmarks/adaptation_accuracy.py --budgets 0.3,0.5,0.7 --sides ob [--match]

Each side is run whole, with the same closing fine-tune of `--tune` iterations, at every budget, for several
seeds:

    o   the original: `--search netadapt --cut linear --score finetune`, every candidate fine-tuned
    a   `--search netadapt --cut bisect --score naswot --hybrid 0.3`, short lists that run a race
    b   `--search budget`, all widths at once

A search in steps ends below the budget, by up to a step and more where its estimates were too low, and its
short fine-tunes have trained its network on the way. `--match` gives (b) no more time and as much training:
it is asked for the upper end of the interval of the latency that the original's network was measured to have,
where that is below the budget, and its closing fine-tune has as many iterations as the original's network had
in all, those of the steps that led to it included.

All begin from the same trained network, of which there is one a seed. Printed and stored are the test
accuracy and the measured latency, a share of the baseline's that is measured beside it in interleaved
rounds; then the means over seeds, a line for each network, budget and pair of sides (`*_means.csv`). What a
search takes is timed by `adaptation_speed.py`.

Each baseline is trained once. By default networks are a quarter as wide as their families, short fine-tunes
of few iterations and baselines trained for few epochs: what two cores finish in an hour. Every setting is a
column of the file, of which each row takes the place of one of the same settings; other rows stay. A killed
command goes on when it is given again: finished runs are read from `--out`, whose settings must be the
same. The last line has the gaps.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from tersa.errors import UsageError
from tersa.files import keep_rows
from tersa.recipes.adapt import adapt
from tersa.recipes.adapt_request import AdaptSpec, specified
from tersa.recipes.adaptation import settings_of
from tersa.recipes.goals import Goals, parse_bound
from tersa.recipes.pruning import usual_retraining
from tersa.recipes.setting import Setting

RESULTS = Path(__file__).parent / "results" / "adaptation_accuracy.csv"
SIDES = {"original": "original", "(a)": "H30 naswot", "(b)": "budget"}
"""What each side is called among the strategies of `tersa reproduce adaptation`."""
LETTERS = {"o": "original", "a": "(a)", "b": "(b)"}
PAIRS = (("(b)", "original"), ("(b)", "(a)"), ("(a)", "original"))
SETTINGS = (
    "network", "data", "target", "budget", "seed", "side", "delta", "finetune_steps", "race", "epochs",
    "tune", "validation", "device", "matched",
)  # fmt: skip
"""Columns of an accuracy that say what was run; the file has one row of each."""
MEANS = ("network", "data", "target", "budget", "side", "other", "matched")
"""The same of means."""
Final = dict[str, str]
"""One whole run, as its row in the file."""


def accuracy(asked: argparse.Namespace) -> None:
    """Final accuracies and latencies of whole runs, seed by seed, and their means over seeds."""
    rows: list[Final] = []
    print(
        f"{'network':<16}{'budget':>7}{'seed':>5}{'side':>10}{'baseline':>10}{'test accuracy':>15}"
        f"{'of latency':>12}{'search s':>10}"
    )
    for model in asked.models.split(","):
        for budget in asked.budgets:
            for seed in range(asked.seeds):
                matched: Final | None = None
                for side in sides_of(asked.sides):
                    row = whole_run(asked, model, budget, seed, side, matched if side == "(b)" else None)
                    if asked.match and side == "original":
                        matched = row
                    rows.append(row)
                    keep_rows(asked.csv, [row], SETTINGS)
                    print(
                        f"{model:<16}{budget:>7g}{seed:>5}{side:>10}{row['baseline']:>10}"
                        f"{row['accuracy']:>15}{row['latency_share']:>12}{row['search_s']:>10}",
                        flush=True,
                    )
    found = compared(rows)
    if found:
        means = asked.csv.with_name(f"{asked.csv.stem}_means.csv")
        keep_rows(means, [row_of(asked, each) for each in found], MEANS)
    print(
        f"\n{'network':<16}{'budget':>7}  {'':<22}{'seeds':>6}{'latency, % of the baseline':>28}"
        f"{'test accuracy, %':>20}{'points':>16}"
    )
    for each in found:
        print(
            f"{each.network:<16}{each.budget:>7}  {f'{each.side} against {each.other}':<22}{each.seeds:>6}"
            f"{f'{100 * each.latency[0]:.1f} against {100 * each.latency[1]:.1f}':>28}"
            f"{f'{each.accuracy[0]:.2f} against {each.accuracy[1]:.2f}':>20}{each.gained():>16}"
        )
    told_off = [
        f"{each.network} at {each.budget}x {each.side} {each.gained()} points at "
        f"{each.latency[0] / each.latency[1]:.3f} of the latency of {each.other}"
        for each in found
    ]
    print("ratio " + (", ".join(told_off) or "of nothing: one side alone was run"))


def sides_of(letters: str) -> list[str]:
    """Sides by their letters.

    Raises:
        UsageError: a letter that is none.
    """
    if unknown := [letter for letter in letters if letter not in LETTERS]:
        known = ", ".join(f"{letter} for {side}" for letter, side in LETTERS.items())
        raise UsageError(f"--sides {letters}: unknown {', '.join(unknown)}; known: {known}")
    return [side for letter, side in LETTERS.items() if letter in letters]


def accuracy_spec(
    asked: argparse.Namespace, model: str, limit: float, seed: int, side: str, tune: int
) -> AdaptSpec:
    """What `tersa adapt` is asked in one whole run; limit: share of the latency."""
    how = settings_of(SIDES[side], asked.delta)
    return specified(
        **how,
        data=asked.data,
        model=model,
        target=asked.target,
        goals=Goals(latency=parse_bound(f"{limit:g}x", "latency")),
        finetune_steps=asked.steps,
        seed=seed,
        epochs=asked.epochs,
        validation=asked.validation,
        table=str(asked.out / "table.db"),
        protocol={**usual_retraining("adapt"), "tune": tune},
    )


def whole_run(
    asked: argparse.Namespace, model: str, budget: float, seed: int, side: str, matched: Final | None
) -> Final:
    """One run of adapt, made now or read.

    Args:
        asked: the command's settings.
        model: of the zoo.
        budget: share of the latency that is compared at.
        seed: of everything random.
        side: which search.
        matched: the run whose latency and iterations it is given; None for the budget and `--tune`.
    """
    limit, tune = budget, asked.tune
    if matched:
        limit, tune = min(budget, float(matched["latency_high_share"])), int(matched["updates"])
    spec = accuracy_spec(asked, model, limit, seed, side, tune)
    ending = "-matched" if matched else ""
    folder = asked.out / f"{model.replace(':', '-')}-{budget:g}x-{seed}-{side.strip('()')}{ending}"
    setting = Setting(threads=1, device=asked.device, seconds=asked.seconds, cache=asked.out / "cache")
    result = adapt(spec, folder, setting=setting, resume=folder.exists())
    assert result.adaptation is not None
    assert result.speedup is not None
    slowest = next(each.low for each in result.comparisons if each.target == result.target)
    assert slowest is not None
    led = sum(step.stage == "prune" for step in result.steps) if spec.search == "netadapt" else 0
    return {
        "network": model,
        "data": asked.data,
        "target": asked.target,
        "budget": f"{budget:g}",
        "seed": str(seed),
        "side": side,
        "delta": f"{asked.delta:g}",
        "finetune_steps": str(asked.steps),
        "race": str(spec.heat) if spec.search == "netadapt" else "",
        "epochs": str(asked.epochs),
        "tune": str(tune),
        "validation": str(asked.validation),
        "device": asked.device,
        "matched": "yes" if matched else "",
        "limit": f"{limit:g}",
        "baseline": f"{result.baseline.test_accuracy:.4g}",
        "accuracy": f"{result.result.test_accuracy:.4g}",
        "latency_ms": f"{result.result.latency_ms.median:.4g}",
        "latency_share": f"{1.0 / result.speedup:.4g}",
        "latency_high_share": f"{1.0 / slowest:.4g}",
        "speedup": f"{result.speedup:.4g}",
        "updates": str(tune + led * asked.steps),
        "search_s": f"{result.adaptation.seconds['search']:.4g}",
        "met": str(all(goal.met for goal in result.goals)),
        "processor": result.environment.processor,
        "commit": result.environment.commit,
    }


@dataclass(frozen=True)
class Compared:
    """Two sides of one network at one budget, over the seeds.

    Attributes:
        network: which.
        budget: share of the latency that was asked.
        side: the first.
        other: the second.
        latency: shares of the baseline's latency that are left, mean of each side.
        accuracy: percent of the test images, mean of each side.
        gaps: points of accuracy by which the first is above the second, seed by seed.
    """

    network: str
    budget: str
    side: str
    other: str
    latency: tuple[float, float]
    accuracy: tuple[float, float]
    gaps: list[float]

    @property
    def seeds(self) -> int:
        """How many."""
        return len(self.gaps)

    def gained(self) -> str:
        """Mean gap with its standard error."""
        error = f" +- {stdev(self.gaps) / math.sqrt(self.seeds):.2f}" if self.seeds > 1 else ""
        return f"{mean(self.gaps):+.2f}{error}"


def compared(rows: Sequence[Final]) -> list[Compared]:
    """Every pair of sides that was run, for each network and budget."""
    found: list[Compared] = []
    for network, budget in dict.fromkeys((row["network"], row["budget"]) for row in rows):
        own = [row for row in rows if (row["network"], row["budget"]) == (network, budget)]
        for side, other in PAIRS:
            both = [[row for row in own if row["side"] == name] for name in (side, other)]
            if not all(both):
                continue
            accuracies, shares = (
                [[float(row[name]) for row in each] for each in both]
                for name in ("accuracy", "latency_share")
            )
            gaps = [a - b for a, b in zip(*accuracies, strict=True)]
            latency = mean(shares[0]), mean(shares[1])
            found.append(
                Compared(
                    network, budget, side, other, latency, (mean(accuracies[0]), mean(accuracies[1])), gaps
                )
            )
    return found


def row_of(asked: argparse.Namespace, means: Compared) -> dict[str, str]:
    """Two sides compared, as a row of the file of means."""
    gained, _, error = means.gained().partition(" +- ")
    return {
        "network": means.network,
        "data": asked.data,
        "target": asked.target,
        "budget": means.budget,
        "side": means.side,
        "other": means.other,
        "seeds": str(means.seeds),
        "matched": "yes" if asked.match and means.side == "(b)" else "",
        "latency_percent": f"{100 * means.latency[0]:.1f}",
        "other_latency_percent": f"{100 * means.latency[1]:.1f}",
        "accuracy": f"{means.accuracy[0]:.2f}",
        "other_accuracy": f"{means.accuracy[1]:.2f}",
        "points": gained,
        "standard_error": error,
    }


def budgets_of(text: str) -> list[float]:
    """Shares of the latency, from 0 to 1.

    Raises:
        UsageError: something else.
    """
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < each < 1 for each in found):
        raise UsageError(f"--budgets {text}: not shares of the latency between 0 and 1, such as 0.3,0.5,0.7")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="alexnet:0.25,mobilenet:0.25")
    parser.add_argument("--data", default="cifar-10")
    parser.add_argument("--target", default="onnxruntime@threads=1")
    parser.add_argument("--budgets", default="0.5", help="shares of the latency")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sides", default="oab", help="o (original), a and b")
    parser.add_argument("--match", action="store_true", help="(b) has the original's latency and iterations")
    parser.add_argument("--delta", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=20, help="T, iterations of a short fine-tune")
    parser.add_argument("--epochs", type=int, default=3, help="of the baseline's training")
    parser.add_argument("--tune", type=int, default=200, help="iterations of the closing fine-tune")
    parser.add_argument(
        "--validation", type=int, default=2000, help="images that steer, of the training split"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="of a closing measurement")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--csv", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=Path("runs/adaptation/accuracy"))
    asked = parser.parse_args()
    try:
        asked.budgets = budgets_of(asked.budgets)
        sides = sides_of(asked.sides)
        if asked.match and not {"original", "(b)"} <= {*sides}:
            raise UsageError(f"--match with --sides {asked.sides}: it needs o and b, such as --sides ob")
    except UsageError as error:
        parser.error(str(error))
    accuracy(asked)


if __name__ == "__main__":
    main()
