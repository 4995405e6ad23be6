"""How much time does it save to remove channels for real, instead of masking them?

    python benchmarks/pruning_speed.py --rounds 3

Document 002's global protocol on LeNet: score 1,000 images with Taylor and l2, remove one feature map,
retrain 100 iterations of 100 images, read the accuracy of 5,000 validation images; 1,117 times. At 20 points
evenly spaced along the way one step is timed on the network whose channels are gone (`surgery.remove_`) and
on the same network at its full size, the same weights zeroed and held at zero (`prune.holding.held`, what
masks do). Both take turns on the same images, from the same weights; times are medians over the rounds and
are integrated over the removals by the trapezoid rule. At each point both networks answer 1,000 images first.

The order of removal is that of a walk with 2 % of the maps a step and `--retrain` iterations after each.

How much could this order save? Two estimates, both with the masked times m(t) as they were measured, and
with everything beside the layers (optimiser, images, loss, Python) taken to shrink as they do:

    by MACs      m(t) times MACs left / MACs at the start
    by layers    m(t) times sum over layers of f_l work_l(t) / work_l(0)

f_l is the share of a layer in the time of a training update of the full network (forward and backward, each
layer timed alone); its work is MACs, or numbers read where it has no weights. They are estimates: `removed`
can pass them by what masking itself costs and fall short by what does not shrink (an update of a network of
one map in each layer) and by widths that suit the processor's vectors badly. `--profile` prints updates at
some widths and what they spend their time on; `--bound` walks again and adds the estimates to times that are
stored.

Writes `results/pruning_speed.csv`.
"""

from __future__ import annotations

import argparse
import copy
import csv
import itertools
import math
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor, nn

from tersa.data import load
from tersa.data.task import Task
from tersa.models.checkpoint import read
from tersa.models.summary import macs
from tersa.models.zoo import build
from tersa.prune.criteria import CRITERIA
from tersa.prune.evidence import collect
from tersa.prune.groups import Groups, find_groups
from tersa.prune.holding import apply_, held
from tersa.prune.normalise import NORMALISATIONS, normalise
from tersa.prune.protocol import choose
from tersa.prune.surgery import remove_, restore_
from tersa.recipes.pruning_curves import document_training
from tersa.targets.environment import environment
from tersa.train.baseline import baseline, default_config
from tersa.train.continued import begin, learn_
from tersa.train.evaluation import evaluate
from tersa.train.memory import keep_freed

RESULTS = Path(__file__).parent / "results" / "pruning_speed.csv"
POINTS = 20
IMAGES = 1000
TOLERANCE = 1e-5
"""Largest difference of masked and removed outputs, relative to the largest: sums in another order."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="timed steps of each kind at each point")
    parser.add_argument("--iterations", type=int, default=20, help="timed of the 100, and scaled up")
    parser.add_argument("--retrain", type=int, default=20, help="after each removal of the walk")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--weights", type=Path, help="of a trained LeNet; else one is trained")
    parser.add_argument("--bound", action="store_true", help="add the bounds to stored times, time nothing")
    parser.add_argument("--profile", action="store_true", help="where an update spends its time, no more")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed()  # as `tersa prune` does
    task = load("mnist", validation=5000)
    if arguments.profile:
        profile(task)
        return
    network = trained(task, arguments.weights)
    if arguments.bound:
        rows = bound(task, network, arguments.retrain)
    else:
        machine = environment(arguments.threads)
        about = {
            "threads": arguments.threads,
            "rounds": arguments.rounds,
            "processor": machine.processor,
            "torch": machine.versions["torch"],
            "date": machine.date[:10],
        }
        timed = walk(task, network, arguments.retrain, arguments.rounds, arguments.iterations)
        rows = [{**row, **about} for row in timed]
    with RESULTS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    tell(rows)


def trained(task: Task, weights: Path | None) -> nn.Module:
    """The network to start from."""
    if weights is None:
        return copy.deepcopy(baseline(task, "lenet", default_config(task, "lenet")).module)
    network = build("lenet", (1, 28, 28), 10)
    network.load_state_dict(read(weights))
    return network.eval()


def tell(rows: Sequence[Mapping[str, Any]]) -> None:
    """The ratio and its bounds."""
    whole = {kind: integral(rows, kind) for kind in ("masked", "removed", "by_macs", "by_layers")}
    ratio = {kind: whole["masked"] / seconds for kind, seconds in whole.items()}
    worst = max(float(row["difference"]) for row in rows)
    print(f"largest difference of outputs {worst:.1e} of the largest output")
    print(
        f"if time were proportional to MACs: {ratio['by_macs']:.2f} times; to the work of each layer: ",
        end="",
    )
    print(f"{ratio['by_layers']:.2f} times in this order of removal")
    print(f"the whole protocol: removing is {ratio['removed']:.2f} times as fast as masking ", end="")
    print(f"({len(rows)} points)")


def walk(
    task: Task, network: nn.Module, retrain: int, rounds: int, iterations: int
) -> Iterator[dict[str, Any]]:
    """Go down the trajectory and time both kinds of step at the points; the estimates beside them."""
    whole = find_groups(network, task.shape)
    for model, groups, target, shares in descend(task, network, retrain):
        row = point(task, model, groups, whole, target, rounds, iterations)
        row |= {kind: round(row["masked"] * share, 4) for kind, share in shares.items()} | groups.widths()
        print(
            f"{target:5} maps gone: masked {row['masked']:6.2f} s, removed {row['removed']:6.2f} s a step, "
            f"{row['masked'] / row['removed']:5.2f} times ({row['masked'] / row['by_layers']:.2f} by layers)",
            flush=True,
        )
        yield row


def bound(task: Task, network: nn.Module, retrain: int) -> list[dict[str, Any]]:
    """The stored times with the bounds of this walk."""
    with RESULTS.open(newline="", encoding="utf-8") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    for row, (_, groups, target, shares) in zip(rows, descend(task, network, retrain), strict=True):
        assert target == int(row["maps_gone"])
        row |= {kind: round(float(row["masked"]) * share, 4) for kind, share in shares.items()}
        row |= groups.widths()
        print(f"{target:5} maps gone: {groups.widths()}, {shares}", flush=True)
    return rows


def descend(
    task: Task, network: nn.Module, retrain: int
) -> Iterator[tuple[nn.Module, Groups, int, dict[str, float]]]:
    """Remove from point to point; at each the share of the work that is left, by MACs and layers."""
    start_work, start_macs = work(network, task), macs(network, task.shape)
    shares = layer_shares(network, task)
    print("share of an update's time: " + ", ".join(f"{n} {100 * s:.1f} %" for n, s in shares.items()))
    groups = find_groups(network, task.shape)
    run = begin(network, task, document_training(0))
    start, least = len(groups.units), len(groups.groups)
    for place in range(POINTS):
        target = round(place * (start - least) / (POINTS - 1))
        while (gone := start - len(groups.units)) < target:
            units = lowest(task, run.model, groups, min(round(0.02 * start), target - gone), seed=gone)
            groups = remove_(run.model, groups, units, run.optimizer)
            learn_(run, retrain)
        left = {name: each / start_work[name] for name, each in work(run.model, task).items()}
        by_layers = sum(shares[name] * left[name] for name in shares)
        yield (
            run.model,
            groups,
            target,
            {"by_macs": macs(run.model, task.shape) / start_macs, "by_layers": by_layers},
        )


def leaves(model: nn.Module, images: Tensor) -> dict[str, tuple[nn.Module, Tensor]]:
    """The layers that run, with what they read."""
    found: dict[str, tuple[nn.Module, Tensor]] = {}
    handles = [
        module.register_forward_hook(
            lambda module, inputs, _, name=name: found.update({name: (module, inputs[0].detach())})
        )
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return found


def work(model: nn.Module, task: Task) -> dict[str, float]:
    """What each layer does for an image: multiply-accumulates, or numbers read where it has no weights."""
    found: dict[str, float] = {}
    for name, (module, x) in leaves(model, task.normalise(task.train.images[:1])).items():
        if isinstance(module, nn.Conv2d | nn.Linear):
            with torch.no_grad():
                found[name] = module(x).numel() * math.prod(module.weight.shape[1:])
        else:
            found[name] = x.numel()
    return found


def layer_shares(model: nn.Module, task: Task, repeats: int = 7) -> dict[str, float]:
    """The share of each layer in the time of an update, forward and backward, alone on the images it sees."""
    images = task.normalise(task.train.images[:100]).contiguous(memory_format=torch.channels_last)
    model = copy.deepcopy(model).train().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - stub lacks it
    seconds: dict[str, float] = {}
    for first, (name, (module, x)) in enumerate(leaves(model, images).items()):
        x.requires_grad_(first > 0)  # nobody asks for the gradient of the images
        wanted = [each for each in (x, *module.parameters()) if each.requires_grad]
        times: list[float] = []
        for _ in range(repeats if wanted else 0):
            began = time.perf_counter()
            y = module(x)
            torch.autograd.grad(y, wanted, torch.ones_like(y))
            times.append(time.perf_counter() - began)
        seconds[name] = statistics.median(times) if times else 0.0
    return {name: each / sum(seconds.values()) for name, each in seconds.items()}


PROFILED = ((32, 64, 1024), (32, 64, 60), (31, 63, 60), (24, 48, 20), (1, 1, 1))
"""Widths of conv1, conv2 and fc1."""


def profile(task: Task) -> None:
    """Milliseconds of an update, of scoring and of evaluating at some widths, and the slowest operations."""
    for widths in PROFILED:
        model = build("lenet", (1, 28, 28), 10)
        groups = find_groups(model, task.shape)
        gone = [group.units[width:] for group, width in zip(groups.groups, widths, strict=True)]
        groups = remove_(model, groups, torch.cat(gone))
        run = begin(model, task, document_training(0))
        learn_(run, 3)
        took: list[float] = []
        for _ in range(5):
            began = time.perf_counter()
            learn_(run, 4)
            took.append((time.perf_counter() - began) / 4)
        began = time.perf_counter()
        lowest(task, model, groups, 1, seed=0)
        scored = time.perf_counter()
        evaluate(model, task.validation, task)
        other = f"score {scored - began:.2f} s, evaluate {time.perf_counter() - scored:.2f} s"
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            learn_(run, 5)
        rows = sorted(seen.key_averages(), key=lambda row: -row.self_cpu_time_total)
        total = sum(row.self_cpu_time_total for row in rows)
        top = ", ".join(f"{row.key} {100 * row.self_cpu_time_total / total:.0f} %" for row in rows[:6])
        print(f"{widths}: update {1e3 * statistics.median(took):.1f} ms, {other}; {top}", flush=True)


def lowest(task: Task, model: nn.Module, groups: Groups, count: int, *, seed: int) -> Tensor:
    chosen = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(seed))[:IMAGES]
    scores = collect(model, groups, task, task.train.take(chosen), CRITERIA["taylor"], batch=IMAGES // 2)
    return choose(normalise(scores, groups, NORMALISATIONS["l2"]), groups, count=count)


def point(
    task: Task, model: nn.Module, groups: Groups, whole: Groups, gone: int, rounds: int, iterations: int
) -> dict[str, Any]:
    """One step of each kind, in turns."""
    masked, masks = full_size(model, groups, whole)
    images = task.normalise(task.validation.images[:IMAGES])
    with torch.inference_mode():
        wanted, found = masked(images), model(images)
    difference = float((wanted - found).abs().max() / wanted.abs().max())
    assert difference < TOLERANCE, f"masked and removed outputs differ by {difference:.1e} at {gone} maps"
    times: dict[str, list[float]] = {"masked": [], "removed": []}
    for round_ in range(rounds + 1):  # the first warms up
        for kind in times:
            if kind == "masked":
                with held(masked, masks):
                    taken = step(task, masked, whole, iterations, round_)
            else:
                taken = step(task, model, groups, iterations, round_)
            if round_:
                times[kind].append(taken)
    return {
        "maps_gone": gone,
        **{kind: round(statistics.median(each), 4) for kind, each in times.items()},
        "difference": difference,
    }


def step(task: Task, model: nn.Module, groups: Groups, iterations: int, seed: int) -> float:
    """Seconds of one step of the protocol on a copy, its retraining scaled to 100 iterations."""
    began = time.perf_counter()
    lowest(task, model, groups, 1, seed=seed)
    evaluate(model, task.validation, task)
    other = time.perf_counter() - began
    state = copy.deepcopy(model.state_dict())
    run = begin(model, task, document_training(seed))
    learn_(run, 2)  # the optimiser makes its state
    began = time.perf_counter()
    learn_(run, iterations)
    training = time.perf_counter() - began
    model.load_state_dict(state)
    return other + training * 100 / iterations


def full_size(model: nn.Module, groups: Groups, whole: Groups) -> tuple[nn.Module, dict[str, Tensor]]:
    """The network at its full size with the weights of the units that are gone at zero, and its masks."""
    blank = build("lenet", (1, 28, 28), 10)
    zeros = {name: torch.zeros_like(value) for name, value in blank.state_dict().items()}
    masked = copy.deepcopy(model)
    restore_(masked, groups, whole, zeros)
    masked.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - stub lacks it
    ones = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in ones.parameters():
            parameter.fill_(1.0)
    restore_(ones, groups, whole, zeros)
    names = [name for name, value in ones.named_parameters() if value.dim() >= 2]
    masks = {name: dict(ones.named_parameters())[name].detach() > 0 for name in names}
    apply_(masked, masks)
    return masked.eval(), masks


def integral(rows: Sequence[Mapping[str, Any]], kind: str) -> float:
    """Seconds of the whole protocol, by the trapezoid rule over the removals."""
    return sum(
        (int(b["maps_gone"]) - int(a["maps_gone"])) * (float(a[kind]) + float(b[kind])) / 2
        for a, b in itertools.pairwise(rows)
    )


if __name__ == "__main__":
    main()
