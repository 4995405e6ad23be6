"""Document 004's B-VGG16 on CIFAR-10 at full length, on a GPU: fully binary, and with 8-bit ends.

    python benchmarks/gpu/bvgg16.py --dry-run             on any machine, a minute: does all of it work?
    python benchmarks/gpu/bvgg16.py                       all networks, one after another
    python benchmarks/gpu/bvgg16.py binary --fit 400      as many epochs as take about 400 seconds here
    python benchmarks/gpu/bvgg16.py stage binary --fit 40,200          seconds of each
    python benchmarks/gpu/bvgg16.py binary --minutes 9    stop in time, all in all; the same command goes on

Aims: 90.5 % fully binary (document 004: 88.21 %), 92.5 % with 8-bit first and last layers, 82 % for
BNN-PYNQ's CNV. All of them follow a VGG16 in floating point (`teacher`), which is asked once about fixed
views of the images; poolings learn from sums. The fully binary network starts from one with binary
activations and float weights (`stage`), the one with 8-bit ends from the latent weights of the fully binary
one. What a network follows or starts from is trained before it where its weights are not in `--out`. Forward
passes are in bfloat16 with channels last; images stay on the device and are augmented there; updates are
replayed as CUDA graphs. `binary_settings.py` tells which settings gain.

A training that was stopped goes on from its last checkpoint (`--out`); one that has ended there and has its
row is not run again. The network's weights (signs as bytes) are written as safetensors in pieces of at most
`--limit` MB, which `pieces.py` puts together and checks. A row goes to `--results`, the accuracy after every
fifth epoch to the same name with `_curves`. A network that was not trained stands there as "not run: needs a
GPU", one whose training did not end, or diverged, as "stopped", with how far it came; both are trained when
asked for. No network starts from one that diverged.
"""

from __future__ import annotations

import argparse
import csv
import math
import shlex
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pieces import DATA, MB, RESULTS, VALIDATION, compact, read_pieces, write_pieces
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tersa.data.sources import load as load_task
from tersa.data.task import Task
from tersa.errors import TersaError
from tersa.files import replacing, write_rows
from tersa.models.load import load as load_model
from tersa.models.summary import macs, parameters
from tersa.models.zoo import bits_of
from tersa.quant.layers import FLOAT, QuantConv2d, QuantLinear
from tersa.recipes.folder import RESULT
from tersa.recipes.setting import Say, Setting
from tersa.recipes.train import (
    HISTORY,
    WEIGHTS,
    TrainedRun,
    bits_in_words,
    history_of,
    lessons_for,
    run_training,
)
from tersa.recipes.train_request import TrainRequest
from tersa.records.base import read_record
from tersa.records.results import Epoch
from tersa.report.numbers import plural
from tersa.train.baseline import default_config
from tersa.train.config import TrainConfig, override
from tersa.train.device import choose
from tersa.train.evaluation import predict
from tersa.train.lessons import Lessons, prepare
from tersa.train.loop import train

OPEN, STOPPED = "not run: needs a GPU", "stopped"
"""In place of an accuracy: never begun, and begun but not to a good end."""
TEACHER = "vgg:16"
TEACHING: dict[str, object] = {"batch": 256, "epochs": 80, "learning_rate": 0.1, "label_smoothing": 0.0}
LEARNING: dict[str, object] = {
    "batch": 256,
    "epochs": 250,
    "learning_rate": 0.01,
    "label_smoothing": 0.0,
    "keep": "last",
    "distillation": "temperature",
    "distillation_weight": 0.7,
    "distillation_temperature": 4.0,
}
VIEWS = 48
"""Of each training image, on which the teacher is asked."""
START = "start.safetensors"
"""Latent weights, made of float weights."""
EVERY = 5
"""Epochs between two looks at the validation split."""
TINY = 1e-12
FEW = 64
"""Images of a dry run."""
TIMED = (60, 260)
"""Updates of the two short trainings whose difference is the time of an update."""


@dataclass(frozen=True)
class Network:
    """What is trained, and how well it should do.

    Attributes:
        model: its spec.
        aim: test accuracy in percent, or None.
        published: accuracy that was published for it.
        settings: of the training.
        start: the network whose weights it starts from, or nothing.
    """

    model: str
    aim: float | None
    published: float | None
    settings: dict[str, object] = field(default_factory=lambda: LEARNING)
    start: str = ""


NETWORKS = {
    "teacher": Network(TEACHER, None, None, TEACHING),
    "stage": Network(
        "bvgg16+w32a1:by=approx,pool=sums,last=32/1",
        None,
        None,
        LEARNING | {"epochs": 60, "learning_rate": 0.002},
    ),
    "binary": Network("bvgg16+w1a1:by=ste/approx,pool=sums", 90.5, 88.21, start="stage"),
    "8-bit-ends": Network(
        "bvgg16+w1a1:first=8/8,last=8/8,by=ste/approx,pool=sums",
        92.5,
        None,
        LEARNING | {"epochs": 100, "learning_rate": 0.005},
        start="binary",
    ),
    "cnv": Network(
        "cnv+w1a1:by=ste/approx,pool=sums", 82.0, 84.22, LEARNING | {"epochs": 300, "learning_rate": 0.02}
    ),
}


class TimeIsUp(Exception):
    """The minutes that were given are over."""


class TooSlow(Exception):
    """A training will not end in the seconds it was fitted to.

    Attributes:
        seconds: that all of it would take.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"{seconds:.0f} s")
        self.seconds = seconds


@dataclass
class Fit:
    """Watches whether a training ends in time, from its own speed once it has started up.

    Attributes:
        seconds: that are left for it.
        began: when it did, by `time.monotonic`.
        running: the share that was done, and when, at the first look after `STARTED` of it.
        again: it has started again once, and does not do so twice.
    """

    seconds: float
    began: float
    running: tuple[float, float] | None = None
    again: bool = False

    def look(self, done: float, now: float) -> None:
        """Told that a share of the training is done.

        Raises:
            TooSlow: between `JUDGED` of the training, where starting again costs little.
        """
        if self.running is None:
            self.running = (done, now) if done >= STARTED else None
        elif not self.again and JUDGED[0] <= done <= JUDGED[1]:
            whole = (now - self.running[1]) / (done - self.running[0])
            if whole * (1 - done) > SLACK * (self.seconds - (now - self.began)):
                raise TooSlow(whole)

    def fewer(self, epochs: int, slow: TooSlow, now: float) -> tuple[Fit, int]:
        """What is left of the time, and the epochs that fit into it."""
        left = self.seconds - (now - self.began)
        return Fit(left, now, again=True), max(1, int(epochs * left / (SLACK * slow.seconds)))


STARTED, JUDGED, SLACK = 0.02, (0.05, 0.12), 1.08
"""When a training has started up, when it is judged, and how much slower than planned it may be."""


def seconds_of_an_epoch(name: str, device: str) -> float:
    """What an epoch takes on this machine as it is now."""
    network, task = NETWORKS[name], load_task(DATA, validation=VALIDATION)
    config = settle(network, task, device)
    plain = override(
        config, {"distillation": "none", "distillation_weight": 0.5, "distillation_temperature": 1}
    )
    spent: list[float] = []
    for updates in (TIMED[0], *TIMED):  # the first one warms up
        model = load_model(network.model, task.shape, len(task.classes)).module
        start = time.perf_counter()
        train(model, task, override(plain, {"iterations": updates}), device=device, evaluate_every=0)
        spent.append(time.perf_counter() - start)
    update = (spent[2] - spent[1]) / (TIMED[1] - TIMED[0])
    if config.distillation != "none":
        update *= TAUGHT
    epoch = update * -(-len(task.train) // config.batch) * (1 + EVALUATED)
    print(f"{name}: {1e3 * update:.2f} ms an update, {epoch:.2f} s an epoch", flush=True)
    return epoch


TAUGHT, EVALUATED = 1.02, 0.03
"""What the teacher's answers and the looks at the validation split add to an update and an epoch."""


def settle(network: Network, task: Task, device: str) -> TrainConfig:
    """The whole config of a network's training."""
    return override(default_config(task, network.model, device=device), network.settings)


def needed(name: str) -> list[str]:
    """The networks whose weights a training reads: its teacher, and the one that it starts from."""
    network = NETWORKS[name]
    teacher = ["teacher"] if "distillation" in network.settings else []
    return [*teacher, *filter(None, [network.start])]


def in_order(names: Sequence[str], out: Path) -> list[str]:
    """The networks that are asked for, before each those that it needs and whose weights are not in `out`."""
    order: list[str] = []
    for name in names:
        missing = [one for one in needed(name) if not (out / one / WEIGHTS).is_file()]
        order += [one for one in (*in_order(missing, out), name) if one not in order]
    return order


def is_open(name: str, results: Path) -> bool:
    """Whether the table has no accuracy of a network."""
    return stored(results)[name]["test_accuracy"] in (OPEN, STOPPED)


def has_ended(name: str, asked: argparse.Namespace) -> bool:
    """Whether a network's training has ended here and its accuracy is in the table."""
    return not is_open(name, asked.results) and (asked.out / name / RESULT).is_file()


def require_good(name: str, out: Path) -> None:
    """Refuse a training that would read the weights of one that diverged.

    Raises:
        TersaError: it would.
    """
    for one in needed(name):
        path = out / one / RESULT
        if path.is_file() and read_record(path, TrainedRun).status == "diverged":
            raise TersaError(
                f"{name} would be trained with the weights of {one}, whose training diverged; "
                f"remove {out / one} and train {one} again"
            )


def request_of(name: str, epochs: int, out: Path) -> TrainRequest:
    """What is asked of a training."""
    network = NETWORKS[name]
    settings = network.settings | {"epochs": epochs}
    request = TrainRequest(data=DATA, model=network.model, validation=VALIDATION, settings=settings)
    if "distillation" in network.settings:
        taught = {"teacher": TEACHER, "teacher_checkpoint": str(out / "teacher" / WEIGHTS)}
        request = request.model_copy(update={**taught, "teacher_views": VIEWS})
    if network.start:
        request = request.model_copy(update={"checkpoint": str(start_of(network, out))})
    return request


def lessons_of(name: str, asked: argparse.Namespace, say: Say) -> Lessons | None:
    """What the teacher says of its views; asked once for all networks that follow it."""
    request = request_of(name, 1, asked.out)
    if not request.teacher:
        return None
    if request.teacher not in asked.lessons:
        asked.lessons[request.teacher] = lessons_for(request, Setting(device=asked.device, say=say))
    return asked.lessons[request.teacher]


def start_of(network: Network, out: Path) -> Path:
    """The weights that a network starts from; where they are of a network with float weights, made of them.

    A latent weight is the float one over twice the root mean square of its layer, within -1..1.
    """
    given = out / network.start / WEIGHTS
    if not floating(network.start):
        return given
    made = given.with_name(START)
    model = load_model(network.model, (3, 32, 32), 10).module
    with replacing(made) as part:
        save_file(latents_of(load_file(given), model), part)
    return made


def floating(name: str) -> bool:
    """A network has float weights, of which latent ones are to be made."""
    bits = bits_of(NETWORKS[name].model)
    return bits is not None and bits.weights == FLOAT


def latents_of(floats: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The state of a network with float weights as that of `model`, the same one with latent weights."""
    state = dict(floats)
    for name, layer in model.named_modules():
        if isinstance(layer, (QuantConv2d, QuantLinear)) and layer.form.bits != FLOAT:
            weight = state[f"{name}.weight"].float()
            latent = weight / (2 * weight.square().mean().sqrt() + TINY)
            state[f"{name}.weight"] = latent.clamp(-1, 1).contiguous()
    return state


def train_network(name: str, asked: argparse.Namespace, end: float) -> dict[str, str]:
    """Train, or go on, write the pieces and the curve, and give the row.

    Raises:
        TimeIsUp: at `end`, by `time.monotonic`; the row and the curve so far are stored.
        TersaError: it would start from a training that diverged.
    """
    network, folder = NETWORKS[name], asked.out / name
    require_good(name, asked.out)

    def say(task: str, done: float, remark: str) -> None:
        if time.monotonic() > end and done < 1:
            raise TimeIsUp
        if fit and task == "train":
            fit.look(done, time.monotonic())
        if done == 1 or time.monotonic() - said[0] > 10:
            said[0] = time.monotonic()
            print(f"{name}: {task} {done:6.1%} {remark}", flush=True)

    said, started, fit = [0.0], folder / "spec.toml", None
    epochs = int(str(network.settings["epochs"]))
    if started.exists():
        epochs = int(tomllib.loads(started.read_text(encoding="utf-8"))["config"]["epochs"])
    elif name in asked.fit:
        began = time.monotonic()
        lessons_of(name, asked, say)
        epoch = seconds_of_an_epoch(name, choose(asked.device))
        fit = Fit(asked.fit[name] - (time.monotonic() - began), time.monotonic())
        epochs = max(1, int(fit.seconds / (SLACK * epoch)))
    while True:
        try:
            result = run_training(
                request_of(name, epochs, asked.out),
                folder,
                setting=Setting(device=asked.device, say=say),
                resume=fit is None and started.exists(),
                overwrite=fit is not None,
                evaluate_every=EVERY,
                lessons=lessons_of(name, asked, say),
            )
            break
        except TooSlow as slow:
            assert fit is not None
            planned = epochs
            fit, epochs = fit.fewer(epochs, slow, time.monotonic())
            print(f"{name}: {planned} epochs would take {slow}; again with {epochs}", flush=True)
        except TimeIsUp:
            history = history_of(folder) if (folder / HISTORY).is_file() else []
            if is_open(name, asked.results):  # an accuracy stays until its training has been repeated
                store_curve(name, history, asked.results)
                store(asked.results, unfinished(row(name, None), "stopped", history, epochs))
            raise
    history = history_of(folder)
    store_curve(name, history, asked.results)
    if result.status == "diverged":
        return unfinished(row(name, result), "diverged", history, epochs)
    if network.aim is not None:
        model = load_model(network.model, (3, 32, 32), 10, checkpoint=folder / result.artefacts[0]).module
        write_pieces(compact(model), folder / "pieces", int(asked.limit * MB))
    return row(name, result) | {"command": asked.command}


def row(name: str, result: TrainedRun | None) -> dict[str, str]:
    """A line of the table; of a network that was not trained, an open one."""
    network = NETWORKS[name]
    about = f"{VALIDATION:,} images of the training split do not train"
    if network.start:
        about += f"; starts from the weights of {network.start}"
    found = {
        "name": name,
        "model": network.model,
        "bits": bits_in_words(network.model),
        "aim": "" if network.aim is None else f"{network.aim}",
        "published": "" if network.published is None else f"{network.published}",
        "epochs": "",
        "test_accuracy": OPEN,
        "validation_accuracy": "",
        "seconds": "",
        "device": "",
        "torch": "",
        "seed": "0",
        "note": about,
        "command": f"python benchmarks/gpu/bvgg16.py {name}",
    }
    if result is not None:
        found |= {
            "epochs": f"{result.config.epochs}",
            "test_accuracy": f"{result.test_accuracy:.2f}",
            "validation_accuracy": f"{result.validation_accuracy:.2f}",
            "seconds": f"{result.seconds:.0f}",
            "device": torch.cuda.get_device_name() if result.device.startswith("cuda") else result.device,
            "torch": result.environment.versions.get("torch", ""),
            "seed": f"{result.config.seed}",
            "note": "; ".join(filter(None, [found["note"], result.task_note])),
        }
    return found


def unfinished(line: dict[str, str], how: str, history: list[Epoch], epochs: int) -> dict[str, str]:
    """A network's line when its training did not end well: no accuracy, but how far it came.

    Args:
        line: of the network.
        how: it ended, `stopped` or `diverged`.
        history: its evaluated epochs.
        epochs: that were planned.
    """
    note = f"{how} within the first {EVERY} of {epochs} epochs"
    if history:
        accuracy = f"{history[-1].validation_accuracy:.2f} % on validation"
        note = f"{how} after {plural(history[-1].epoch, 'epoch')} of {epochs}: {accuracy}"
    found = {"epochs": f"{epochs}", "test_accuracy": STOPPED, "validation_accuracy": ""}
    return line | found | {"note": "; ".join(filter(None, [line["note"], note]))}


def stored(results: Path) -> dict[str, dict[str, str]]:
    """Lines by name, open ones where nothing is stored."""
    lines = {name: row(name, None) for name in NETWORKS}
    if results.exists():
        with results.open(newline="", encoding="utf-8") as file:
            lines |= {line["name"]: line for line in csv.DictReader(file)}
    return lines


def store(results: Path, line: dict[str, str] | None = None) -> None:
    """Write the table, with one line replaced."""
    lines = stored(results) | ({line["name"]: line} if line else {})
    write_rows(results, list(lines.values()))


def store_curve(name: str, history: list[Epoch], results: Path) -> None:
    """Put a training's accuracies among those of the others; one without any changes nothing."""
    if not history:
        return
    path = results.with_name(f"{results.stem}_curves.csv")
    kept: list[dict[str, str]] = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            kept = [line for line in csv.DictReader(file) if line["name"] != name]
    new = [
        {
            "name": name,
            "epoch": f"{epoch.epoch}",
            "train_accuracy": f"{epoch.train_accuracy:.2f}",
            "validation_accuracy": f"{epoch.validation_accuracy:.2f}",
        }
        for epoch in history
    ]
    write_rows(path, [*kept, *new])


def rehearse(limit: int) -> None:
    """All of it on the CPU, a few images and two updates: start, train, write in pieces, read, compare."""
    whole = load_task(DATA)
    few = Task(
        **{**vars(whole), **{s: getattr(whole, s).take(slice(FEW)) for s in ("train", "validation", "test")}}
    )
    for name, network in NETWORKS.items():
        config = override(settle(network, few, "cuda"), {"iterations": 2, "batch": 32})
        teacher = load_model(TEACHER, few.shape, len(few.classes)).module
        model = load_model(network.model, few.shape, len(few.classes)).module
        size = f"{parameters(model):,} parameters, {macs(model, few.shape):,} MACs"
        print(f"{name}: {network.model}, {bits_in_words(network.model)}, {size}", flush=True)
        if network.start and floating(network.start):
            begun = load_model(NETWORKS[network.start].model, few.shape, len(few.classes)).module
            model.load_state_dict(latents_of(begun.state_dict(), model))
        follows = config.distillation != "none"
        views = prepare(teacher, few, flip=config.flip, pad=config.pad, views=2, seed=0) if follows else None
        done = train(model, few, config, teacher=views, progress=None)
        with tempfile.TemporaryDirectory() as folder:
            pieces = write_pieces(compact(model), Path(folder), limit)
            largest = max(path.stat().st_size for path in pieces) / MB
            again: nn.Module = load_model(network.model, few.shape, len(few.classes), seed=1).module
            again.load_state_dict(read_pieces(Path(folder)))
        same = torch.equal(predict(model, few.test, few), predict(again, few.test, few))
        print(
            f"  {config.precision}, channels last {config.channels_last}: 2 updates, loss "
            f"{done.history[-1].train_loss:.3f}; {len(pieces)} pieces of at most {largest:.1f} MB, logits of "
            f"{FEW} images {'equal' if same else 'DIFFER'} after reading them"
        )
        if not same:
            raise TersaError("the weights that were read are not those that were written")


def seconds_of(text: str, names: Sequence[str], order: Sequence[str]) -> dict[str, float]:
    """Seconds of each network that will be trained, from one number for all of them or one of each.

    Args:
        text: what `--fit` was given.
        names: the networks that were asked for.
        order: those that will be trained.

    Raises:
        ValueError: neither, no seconds, or none for a network that has to be trained before.
    """
    if not text:
        return {}
    given = [float(part) for part in text.split(",")]
    if not all(math.isfinite(each) and each > 0 for each in given):
        raise ValueError("seconds are numbers above 0")
    if len(given) == 1:
        return dict.fromkeys(order, given[0])
    if len(given) != len(names):
        raise ValueError(f"{len(given)} numbers for {len(names)} networks")
    if missing := [name for name in order if name not in names]:
        raise ValueError(f"{', '.join(missing)} will be trained before, without seconds; name it, too")
    return dict(zip(names, given, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=list(NETWORKS), help=", ".join(NETWORKS))
    parser.add_argument(
        "--dry-run", action="store_true", help="rehearse on the CPU; the table keeps its lines"
    )
    parser.add_argument(
        "--fit",
        default="",
        help="choose the epochs so that they take about so many seconds; one, or one each",
    )
    parser.add_argument("--minutes", type=float, help="stop after so many, of all networks together")
    parser.add_argument("--limit", type=float, default=16.0, help="MB of a piece of the weights")
    parser.add_argument("--out", type=Path, default=Path("runs/bvgg16-gpu"), help="folder of the trainings")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the table")
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args()
    if wrong := [name for name in asked.names if name not in NETWORKS]:
        parser.error(f"unknown network {wrong[0]}; known: {', '.join(NETWORKS)}")
    order = in_order([name for name in asked.names if not has_ended(name, asked)], asked.out)
    asked.lessons = {}
    fitted = ["--fit", asked.fit] if asked.fit else []
    asked.command = shlex.join(["python", "benchmarks/gpu/bvgg16.py", *asked.names, *fitted])
    try:
        asked.fit = seconds_of(asked.fit, asked.names, order)
    except ValueError as error:
        parser.error(f"--fit {asked.fit}: give seconds, one number or one for each network ({error})")
    end = time.monotonic() + 60 * asked.minutes if asked.minutes else float("inf")
    store(asked.results)
    try:
        if asked.dry_run:
            rehearse(int(asked.limit * MB))
            return
        if choose(asked.device) == "cpu":
            parser.error("there is no GPU here; --dry-run rehearses on the CPU, --device cpu would take days")
        for name in order:
            if time.monotonic() > end:
                raise TimeIsUp
            store(asked.results, train_network(name, asked, end))
    except TimeIsUp:
        print("time is up; the same command goes on from the last checkpoint")
    except TersaError as error:
        parser.exit(error.exit_code, f"error: {error}\n")
    for line in stored(asked.results).values():
        aim = f", aim {line['aim']} %" if line["aim"] else ""
        print(f"{line['model']}: {line['test_accuracy']} on test{aim}")


if __name__ == "__main__":
    main()
