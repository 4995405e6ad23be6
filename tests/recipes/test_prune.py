"""`prune` as a library: every setting of a descent on networks of ten channels, and a few whole runs."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import tomlkit
import torch
from onnx import numpy_helper
from safetensors.torch import load_file
from torch import Tensor, nn

from tersa.data import load as load_task
from tersa.data.task import Task
from tersa.errors import Diverged, ModelError, UsageError
from tersa.export.check import classify, module_logits
from tersa.models.lighten import lighten_
from tersa.models.load import load
from tersa.models.summary import macs, parameters
from tersa.models.zoo import build
from tersa.prune.criteria import CRITERIA, WEIGHT_CRITERIA
from tersa.prune.evidence import collect
from tersa.prune.groups import Groups, find_groups
from tersa.prune.holding import maskable
from tersa.prune.normalise import NORMALISATIONS
from tersa.prune.protocol import choose, within
from tersa.prune.schedules import SCHEDULES
from tersa.prune.surgery import after, remove_, resize_
from tersa.recipes import channels, descent, outcome, retraining
from tersa.recipes.bench import Plan
from tersa.recipes.bench_matrix import Batches
from tersa.recipes.beside import twin_config
from tersa.recipes.channels import Channels
from tersa.recipes.deploy import Dock
from tersa.recipes.descent import descend_
from tersa.recipes.goals import Bound, Goals, Start
from tersa.recipes.job import Job
from tersa.recipes.pruning import Protocol, listed
from tersa.recipes.request import ShrinkSpec
from tersa.recipes.retraining import Follower, retrain_
from tersa.recipes.setting import Setting
from tersa.recipes.shrink import shrink
from tersa.recipes.start import find_start
from tersa.recipes.subjects import accuracy_on_test, find_subject, to_artefact
from tersa.recipes.train import run_training
from tersa.recipes.train_request import TrainRequest
from tersa.recipes.trajectory import Trajectory
from tersa.recipes.zeroed import masked_training
from tersa.records.results import ShrinkResult, Step
from tersa.targets.registry import parse
from tersa.train.baseline import save_weights
from tersa.train.config import TrainConfig
from tersa.train.continued import learn_
from tersa.train.evaluation import evaluate
from tersa.train.loop import Progress, train

LENET = "lenet:4-6-8"
UNITS = 10
"""Prunable channels of `Normed`."""


class Normed(nn.Module):
    """Four and six channels, each layer with a batch norm, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.fc = nn.Linear(6 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 2)
        x = nn.functional.max_pool2d(torch.relu(self.bn2(self.conv2(x))), 2)
        return self.fc(torch.flatten(x, 1))


def normed() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return Normed()


@pytest.fixture(scope="module")
def task() -> Task:
    """Some of the digits."""
    whole = load_task("digits")
    return replace(
        whole, train=whole.train.take(slice(0, 320)), validation=whole.validation.take(slice(0, 120))
    )


@pytest.fixture(scope="module")
def trained(task: Task) -> nn.Module:
    model = normed()
    train(model, task, TrainConfig(optimizer="adam", learning_rate=0.02, iterations=40, batch=64))
    return model.cpu().eval()


@dataclass(frozen=True)
class Sized:
    """A file that was not written."""

    size_bytes: int


Make = Callable[..., Job]


@pytest.fixture
def make(task: Task, trained: nn.Module, tmp_path: Path) -> Make:
    """Jobs on `Normed`: `make("folder", step="2")`."""

    def made(
        name: str = "run",
        *,
        goals: Goals | None = None,
        model: nn.Module | None = None,
        fresh: Callable[[], nn.Module] = normed,
        light: str = "",
        **changes: object,
    ) -> Job:
        settings = {"retrain": 0, "tune": 0, "criterion_samples": 40, "batch": 64, "step": "3", **changes}
        protocol = Protocol.model_validate(settings)
        whole = (model or trained).eval()
        found = evaluate(whole, task.validation, task)
        dock = Dock(task, ("fp32",), "onnxruntime@threads=1", 1, 0, zeroes=protocol.granularity != "map")
        dock.correct = found.correct.numpy()
        cost = macs(whole, task.shape)
        dock.start = Start(found.accuracy, cost, 4 * parameters(whole), 1.0, parameters(whole))
        (tmp_path / name).mkdir(exist_ok=True)
        return Job(
            task=task,
            baseline=whole,
            groups=find_groups(fresh(), task.shape, listed(protocol.keep)),
            fresh=fresh,
            goals=goals or Goals(),
            protocol=protocol,
            dock=dock,
            way=Trajectory(tmp_path / name, {"data": "d", "baseline": "b"}),
            seed=0,
            device="cpu",
            say=lambda task, done, remark: None,
            light=light,
        )

    return made


def counts(job: Job, rows: list[Step]) -> list[int]:
    """Channels gone after each step."""
    return [len(job.way.gone(row.index)) for row in rows]


def files(job: Job) -> dict[str, bytes]:
    folder = job.way.folder / "steps"
    return {path.name: path.read_bytes() for path in sorted(folder.glob("???.safetensors"))}


# What is removed


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_and_normalisation_ends_with_a_smaller_network(
    criterion: str, normalisation: str, make: Make
) -> None:
    job = make(criterion=criterion, normalisation=normalisation)
    rows = descend_(job)
    assert counts(job, rows) == [0, 3, 6, 8]
    assert job.ended == "empty"
    sizes = [row.parameters for row in rows]
    assert sizes == sorted(set(sizes), reverse=True)
    for row in rows:
        model = job.network("steps", row.index)
        assert parameters(model) == row.parameters
        assert row.widths == {"conv1": model.conv1.out_channels, "conv2": model.conv2.out_channels}
        assert evaluate(model, job.task.validation, job.task).accuracy == row.validation_accuracy
    assert rows[-1].widths == {"conv1": 1, "conv2": 1}


def test_the_least_important_go_and_survivors_are_as_they_were(make: Make, trained: nn.Module) -> None:
    """Without retraining, step by step equals surgery by hand on the trained network."""
    job = make(criterion="l1", normalisation="none", mac_weight=0.0)
    scores = collect(trained, job.groups, None, None, CRITERIA["l1"])
    units = choose(scores, job.groups, count=3)
    descend_(job)
    assert job.way.gone(1).tolist() == units.tolist()
    model = copy.deepcopy(trained)
    remove_(model, job.groups, units)
    found = job.way.weights("steps", 1)
    assert all(torch.equal(value, found[name]) for name, value in model.state_dict().items())


def test_scope_and_keep_leave_the_other_layers_alone(make: Make) -> None:
    scoped, kept = make("scoped", scope="conv2", step="2"), make("kept", keep="conv1", step="2")
    for job in (scoped, kept):
        rows = descend_(job)
        assert [row.widths["conv2"] for row in rows] == [6, 4, 2, 1]
        assert all(job.network("steps", row.index).conv1.out_channels == 4 for row in rows)


@pytest.mark.parametrize(
    ("step", "gone"),
    [
        ("1", list(range(9))),
        ("4", [0, 4, 8]),
        ("20%", [0, 2, 4, 6, 8]),
        ("40%left", [0, 4, 6, 8]),
        ("1%", list(range(9))),
    ],
)
def test_forms_of_a_step(step: str, gone: list[int], make: Make) -> None:
    job = make(step=step)
    assert counts(job, descend_(job)) == gone


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_reach_their_amount(name: str, make: Make) -> None:
    job = make(schedule=name, amount=0.7, steps=4, step="")
    rows = descend_(job)
    shares = [SCHEDULES[name](step, 4, 0.7) for step in range(5)]
    assert counts(job, rows) == [round(share * UNITS) for share in shares]
    assert counts(job, rows)[-1] == 7
    assert job.ended == "schedule"


def test_a_schedule_counts_what_is_in_scope(make: Make) -> None:
    job = make(schedule="steady", amount=0.5, steps=3, step="", scope="conv2")
    assert counts(job, descend_(job)) == [0, 1, 2, 3]


def test_scores_are_taken_at_every_step_or_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = channels._fresh

    def spy(job: Job, model: nn.Module, groups: Groups, index: int, priced: str) -> Tensor:
        calls.append(index)
        return real(job, model, groups, index, priced)

    monkeypatch.setattr(channels, "_fresh", spy)
    every, once = make("every", step="2"), make("once", step="2", recompute="once")
    descend_(every)
    assert calls == [1, 2, 3, 4]
    calls.clear()
    rows = descend_(once)
    assert calls == [1]
    first = real(once, once.baseline, once.groups, 1, "macs")
    for row in rows:  # the order of the first scores, whatever has gone since
        assert once.way.gone(row.index).tolist() == choose(first, once.groups, count=2 * row.index).tolist()


def test_bounds_end_it_at_the_first_step_within(make: Make) -> None:
    job = make(goals=Goals(parameters=Bound(value=0.5, relative=True)), step="1")
    rows = descend_(job)
    assert job.ended == "bounds"
    assert [row.within for row in rows] == [False] * (len(rows) - 1) + [True]
    assert rows[-1].parameters <= 0.5 * rows[0].parameters < rows[-2].parameters


def test_the_price_is_on_what_is_still_too_much(make: Make) -> None:
    """MACs, or parameters where they alone are too many; MACs also stand for size and latency."""
    half, met = Bound(value=0.5, relative=True), Bound(value=1e9, relative=False)
    asked = {
        "none": (Goals(), "macs"),
        "both": (Goals(macs=half, parameters=half), "macs"),
        "macs are met": (Goals(macs=met, parameters=half), "parameters"),
        "parameters alone": (Goals(parameters=half), "parameters"),
        "latency too": (Goals(parameters=half, latency=half), "macs"),
    }
    for name, (goals, wanted) in asked.items():
        job = make(name, goals=goals, step="1")
        assert channels.Channels.at(job, 0)._priced(job.baseline) == wanted


# Learning after a step


@pytest.mark.parametrize("optimiser", ["fresh", "follow"])
def test_only_the_layers_that_lost_channels_learn(optimiser: str, make: Make, trained: nn.Module) -> None:
    """Also after steps of a schedule that remove nothing."""
    job = make(
        schedule="one-shot", amount=0.5, steps=2, step="", scope="conv2", retrain=3, retrain_scope="layer",
        optimiser=optimiser,
    )  # fmt: skip
    rows = descend_(job)
    assert counts(job, rows) == [0, 3, 3]
    model = copy.deepcopy(trained)
    remove_(model, job.groups, job.way.gone(1))
    before = model.state_dict()
    for row in rows[1:]:
        found = job.way.weights("steps", row.index)
        moved = {name for name in before if not torch.equal(before[name], found[name])}
        assert {name.partition(".")[0] for name in moved} == {"conv2", "bn2"}, "statistics too"
        assert {"conv2.weight", "bn2.running_mean"} <= moved
        before = found


def test_everything_learns_otherwise(make: Make, trained: nn.Module) -> None:
    job = make(retrain=2, scope="conv2")
    descend_(job)
    model = copy.deepcopy(trained)
    remove_(model, job.groups, job.way.gone(1))
    found = job.way.weights("steps", 1)
    assert not torch.equal(found["conv1.weight"], model.conv1.weight)
    assert not torch.equal(found["fc.bias"], model.fc.bias)


def test_a_follower_remembers_and_a_fresh_optimiser_does_not(make: Make) -> None:
    jobs = [make(each, retrain=2, optimiser=each, step="2") for each in ("fresh", "follow")]
    last = [descend_(job)[-1].index for job in jobs]
    assert [bool(job.way.memory(index)) for job, index in zip(jobs, last, strict=True)] == [False, True]
    assert len(list((jobs[1].way.folder / "steps").glob("*.optimiser.safetensors"))) == 1
    assert files(jobs[0]) != files(jobs[1])


@pytest.mark.parametrize("optimiser", ["fresh", "follow"])
def test_divergence_ends_it_with_the_steps_there_are(
    optimiser: str, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    job = make(retrain=2, learning_rate=1e36, optimiser=optimiser)
    assert len(descend_(job)) == 1
    assert job.ended == "diverged"
    assert "diverged 3 times" in caplog.text


class Squeezed(nn.Module):
    """Forgets the axis of images' channels where there is one channel only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(nn.functional.adaptive_avg_pool2d(torch.relu(self.conv(x)), 1).squeeze())


class NarrowInTraining(Squeezed):
    """Does so while it is trained."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.training else self.fc(torch.relu(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize("retrain", [0, 2])
@pytest.mark.parametrize("kind", [Squeezed, NarrowInTraining])
def test_a_network_that_does_not_run_ends_it_with_the_steps_there_are(
    kind: type[nn.Module], retrain: int, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    def fresh() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            return kind()

    job = make(model=fresh(), fresh=fresh, step="1", retrain=retrain)
    for _ in range(2):  # going on with what is stored, too
        assert [row.widths["conv"] for row in descend_(job)] == [4, 3, 2]
        assert job.ended == "broken"
        assert "the network does not run after removing 1 channel: mat1 and mat2" in job.reason
        assert caplog.messages[-1] == f"{job.reason}; going on with the 3 steps there are"


def test_a_step_is_as_small_as_the_bounds_allow_where_a_larger_one_does_not_run(make: Make) -> None:
    bound = Goals(parameters=Bound(value=0.6, relative=True))
    job = make(model=Squeezed(), fresh=Squeezed, step="3", goals=bound)
    assert [row.widths["conv"] for row in descend_(job)] == [4, 2]
    assert job.ended == "bounds"


def test_after_divergence_it_is_tried_again_from_the_same_state(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither weights nor the optimiser's memory keep anything of the attempt that failed."""

    def follower(name: str, rate: float) -> Follower:
        job = make(name, retrain=3, optimiser="follow", learning_rate=rate)
        return Follower.begin(job, copy.deepcopy(job.baseline), {}, 0)

    def fail_once(run: object, iterations: int, only: object) -> None:
        learn_(run, iterations, only)  # type: ignore[arg-type]
        if not failed:
            failed.append(True)
            raise Diverged("invented")

    for warm in (0, 3):  # from nothing, and with a memory
        failed: list[bool] = []
        hurt, calm = follower(f"hurt{warm}", 0.02), follower(f"calm{warm}", 0.02)
        for each in (hurt, calm):
            each.learn_(warm, None)
        monkeypatch.setattr(retraining, "learn_", fail_once)
        hurt.learn_(3, None)
        monkeypatch.setattr(retraining, "learn_", learn_)
        calm.run.config = calm.run.config.model_copy(update={"learning_rate": 0.005})
        learn_(calm.run, 3)
        assert failed == [True]
        assert hurt.run.iteration == calm.run.iteration == warm + 3
        assert hurt.run.config.learning_rate == 0.02
        wanted = calm.run.model.state_dict()
        assert all(torch.equal(value, wanted[name]) for name, value in hurt.run.model.state_dict().items())


# Killed and resumed


class Stop(Exception):
    """A kill."""


WAYS = {
    "fresh": {"retrain": 2, "step": "2"},
    "follow": {"retrain": 2, "step": "2", "optimiser": "follow"},
    "follow, once": {"retrain": 2, "step": "2", "optimiser": "follow", "recompute": "once"},
    "follow, regrow": {"retrain": 3, "optimiser": "follow", "regrow": 0.5, "learning_rate": 0.05},
    "follow, in pairs": {"retrain": 2, "step": "2", "optimiser": "follow", "round_to": 2},
    "layer": {"retrain": 2, "step": "2", "optimiser": "follow", "retrain_scope": "layer"},
    "weight": {"retrain": 2, "step": "30%left", "granularity": "weight", "criterion": "l1"},
    "weight, regrow": {
        "retrain": 2, "step": "20%", "granularity": "weight", "criterion": "l1", "regrow": 0.3,
        "optimiser": "follow",
    },
    "kernel": {
        "retrain": 2, "step": "30%", "granularity": "kernel", "criterion": "obd", "optimiser": "follow",
    },
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_killed_after_every_step_it_ends_with_the_same_bytes(way: str, make: Make) -> None:
    few = {"goals": Goals(parameters=Bound(value=0.3, relative=True)), **WAYS[way]}
    calm = make("calm", **few)
    rows = descend_(calm)
    assert len(rows) > 2

    def stop(task: str, share: float, remark: str) -> None:
        if task == "prune" and share < 1:
            raise Stop

    for made in range(2, len(rows) + 1):
        job = make("rough", **few)
        job.say = stop
        with pytest.raises(Stop):
            descend_(job)
        assert len(job.way.rows("steps")) == made
        steps = job.way.folder / "steps"  # what has no row did not happen
        (steps / f"{made:03d}.safetensors").write_bytes(b"half a file")
        (steps / f"{made:03d}.optimiser.safetensors").write_bytes(b"half a file")
    job = make("rough", **few)
    again = descend_(job)
    (job.way.folder / "steps" / f"{len(rows):03d}.safetensors").unlink()
    assert files(job) == files(calm)
    told = [(row.what, row.parameters, row.validation_accuracy) for row in again]
    assert told == [(row.what, row.parameters, row.validation_accuracy) for row in rows]
    assert job.way.gone().tolist() == calm.way.gone().tolist()


def test_layers_that_lose_channels_keep_multiples(make: Make) -> None:
    job = make(round_to=2, step="1", retrain=0)
    descend_(job)
    found = [after(job.groups, job.way.gone(row.index)).widths() for row in job.way.rows("steps")]
    assert len(found) > 3
    assert all(width % 2 == 0 for widths in found for width in widths.values())
    assert set(found[-1].values()) == {2}, "two of each layer stay"


# Channels come back


def test_channels_come_back_for_others_and_as_many_are_gone(make: Make) -> None:
    job = make(regrow=0.7, retrain=4, learning_rate=0.05, criterion="taylor", mac_weight=0.0)
    rows = descend_(job)
    assert counts(job, rows) == [0, 3, 6, 8]
    assert any("took back" in row.what for row in rows)
    assert all("took back 3" not in row.what for row in rows), "at most 0.7 of three"


def test_what_comes_back_never_empties_a_layer(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores turn round; one of two may come back, and the other layer has two channels."""
    fresh = lambda: build("mlp:2x3", (1, 8, 8), 10, seed=1)  # noqa: E731
    job = make(model=fresh(), fresh=fresh, regrow=0.5, retrain=1)
    before = torch.tensor([0.0, 5.0, 1.0, 6.0, 7.0])  # the first of each layer go
    then = torch.tensor([2.0, 0.0, 9.0, 1.0, 8.0])  # now the second of each would
    answers = [before, then]
    monkeypatch.setattr(Channels, "_scores", lambda self, index: answers.pop(0))
    remover = Channels.at(job, 0)
    said = remover.step_(1, 2)
    first, second = (group.units.tolist() for group in job.groups.groups)
    assert remover.gone().tolist() == [first[0], second[1]], "the first of the second layer came back"
    assert remover.groups.widths() == {"fc1": 1, "fc2": 2}
    assert said == "removed 2 channels, took back 1 for others, retrained 1 iteration"


def test_zeroed_weights_come_back_where_the_loss_pulls(make: Make) -> None:
    job = make(granularity="weight", criterion="l1", step="20%", regrow=0.5, retrain=2)
    rows = descend_(job)
    assert any("took back" in row.what for row in rows)
    alive = [
        {name: job.way.weights("steps", row.index)[name] != 0 for name in maskable(job.baseline)}
        for row in rows
    ]
    revived = sum(
        int((new[name] & ~old[name]).sum()) for old, new in itertools.pairwise(alive) for name in new
    )
    assert revived > 0
    start = sum(mask.numel() for mask in alive[0].values())
    left = [sum(int(mask.sum()) for mask in masks.values()) for masks in alive]
    assert left[:3] == [start, start - round(0.2 * start), start - 2 * round(0.2 * start)]


# Zeros in place of channels


@pytest.mark.parametrize("criterion", WEIGHT_CRITERIA)
@pytest.mark.parametrize("granularity", ["kernel", "weight", "2:4", "1:3"])
def test_zeros_stay_through_retraining_and_fine_tune(granularity: str, criterion: str, make: Make) -> None:
    step = "" if ":" in granularity else "40%"
    job = make(granularity=granularity, criterion=criterion, retrain=2, step=step, keep="fc")
    rows = descend_(job)
    assert job.ended == "empty"
    names = maskable(job.baseline, ["fc"])
    dead = {name: torch.zeros_like(job.baseline.get_parameter(name), dtype=torch.bool) for name in names}
    for row in rows[1:]:
        found = job.way.weights("steps", row.index)
        zero = {name: found[name] == 0 for name in names}
        assert all(bool((zero[name] | ~dead[name]).all()) for name in names), "nothing comes back"
        assert sum(int(each.sum()) for each in zero.values()) > sum(int(each.sum()) for each in dead.values())
        assert row.parameters == parameters(job.baseline) - sum(int(each.sum()) for each in zero.values())
        assert row.macs == rows[0].macs
        assert bool((found["fc.weight"] != 0).all())
        dead = zero
    if granularity == "kernel":
        assert all(bool((each.flatten(2).all(2) == each.flatten(2).any(2)).all()) for each in dead.values())
    if granularity == "2:4":
        assert bool((dead["conv2.weight"].sum(dim=1) == 2).all())
        assert not dead["conv1.weight"].any(), "one input channel is too small for it"
        assert "conv1.weight too small for it" in rows[1].what
    model = job.network("steps", rows[-1].index)
    with masked_training(job, model):
        retrain_(job, model, 3, seed=1)
    assert all(torch.equal(model.get_parameter(name) == 0, dead[name]) for name in names)
    assert not torch.equal(model.conv2.weight, job.network("steps", rows[-1].index).conv2.weight)


def test_weights_of_a_scope_reach_their_amount(make: Make) -> None:
    job = make(
        granularity="weight", criterion="l2", schedule="cubic", amount=0.9, steps=3, step="", scope="conv2"
    )
    rows = descend_(job)
    size = job.baseline.conv2.weight.numel()
    found = job.way.weights("steps", 3)
    assert len(rows) == 4
    assert int((found["conv2.weight"] == 0).sum()) == round(0.9 * size)
    assert bool((found["fc.weight"] != 0).all())


# Light modules


@pytest.mark.parametrize("kind", ["separable", "fire", "shift"])
@pytest.mark.parametrize("granularity", ["map", "weight"])
def test_light_modules_are_distilled_and_pruned(kind: str, granularity: str, make: Make, task: Task) -> None:
    def fresh() -> nn.Module:
        model = normed()
        lighten_(model, kind)
        return model

    criterion = "l1" if granularity == "weight" else "taylor"
    job = make(fresh=fresh, light=kind, retrain=1, tune=2, granularity=granularity, criterion=criterion)
    job.goals = Goals(parameters=Bound(value=0.6, relative=True))
    rows = descend_(job)
    assert [row.stage for row in rows] == ["baseline", "light", *["prune"] * (len(rows) - 2)]
    assert kind in rows[1].what
    assert len(rows) > 2
    assert rows[-1].within
    model = job.network("steps", rows[-1].index)
    assert type(model.conv2).__name__.lower().startswith(kind)
    assert evaluate(model, task.validation, task).accuracy == rows[-1].validation_accuracy
    again = make(fresh=fresh, light=kind, retrain=1, tune=2, granularity=granularity, criterion=criterion)
    again.goals = job.goals
    assert [row.parameters for row in descend_(again)] == [row.parameters for row in rows], "goes on as it is"


# Whole runs


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", autouse=True)
def weighed_without_files() -> Iterator[None]:
    """Steps are weighed without a file each; what is shipped is exported as ever."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(descent, "export_exact", lambda _, model, *__: Sized(4 * parameters(model)))
        yield


def spec(**changes: object) -> ShrinkSpec:
    half = {"schedule": "steady", "amount": 0.5, "steps": 2}
    protocol = {"retrain": 2, "tune": 5, **half, **changes.pop("protocol", {})}
    if protocol.get("criterion") not in ("l1", "bn-scale"):  # which look at no images
        protocol = {"criterion_samples": 40, **protocol}
    settings = {
        "verb": "prune",
        "data": "digits",
        "precision": "fp32",
        "goals": Goals(),
        "protocol": protocol,
    }
    start = {} if "run" in changes else {"model": LENET, "epochs": 3}
    return ShrinkSpec.model_validate({**settings, **start, **changes})


def run(out: Path, cache: Path, **changes: object) -> ShrinkResult:
    return shrink(spec(**changes), out, setting=Setting(threads=1, seconds=0.05, cache=cache))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> tuple[Path, ShrinkResult]:
    """Half the channels in two steps, an optimiser that follows, the twin from scratch beside it."""
    out = tmp_path_factory.mktemp("runs") / "half"
    return out, run(out, cache, scratch=True, protocol={"optimiser": "follow"})


def test_a_schedule_without_goals_ships_its_last_step(done: tuple[Path, ShrinkResult]) -> None:
    out, result = done
    assert result.verb == "prune"
    assert result.goals == []
    assert [step.stage for step in result.steps] == ["baseline", "prune", "prune", "distil"]
    assert [step.kept for step in result.steps] == [False, False, False, True]
    assert sum(result.steps[0].widths.values()) == 18
    assert sum(result.steps[2].widths.values()) == 9
    assert result.compression == result.baseline.parameters / result.result.parameters > 1.3
    assert {path.name for path in (out / "steps").glob("???.safetensors")} == {
        f"{index:03d}.safetensors" for index in range(3)
    }


def test_the_twin_from_scratch_has_the_results_sizes(done: tuple[Path, ShrinkResult]) -> None:
    _, result = done
    twin = result.scratch
    assert twin is not None
    assert twin.epochs == 3
    assert 10 < twin.test_accuracy <= 100
    assert twin.loss_points == pytest.approx(result.baseline.test_accuracy - twin.test_accuracy)
    assert result.sparse is None


@pytest.mark.slow
def test_killed_in_a_descent_that_follows_it_ends_with_the_same_files(
    done: tuple[Path, ShrinkResult], cache: Path, tmp_path: Path
) -> None:
    out, result = done

    def stop(task: str, share: float, remark: str) -> None:
        if task == "prune":
            raise Stop

    asked = spec(protocol={"optimiser": "follow"})  # the twin changes nothing of the result
    with pytest.raises(Stop):
        shrink(asked, tmp_path / "run", setting=Setting(threads=1, seconds=0.05, cache=cache, say=stop))
    again = shrink(
        asked, tmp_path / "run", setting=Setting(threads=1, seconds=0.05, cache=cache), resume=True
    )
    for name in ("model.safetensors", "model.onnx"):
        assert (tmp_path / "run" / name).read_bytes() == (out / name).read_bytes()
    assert again.result.test_accuracy == result.result.test_accuracy


def test_a_run_begins_with_the_network_of_an_earlier_one(
    done: tuple[Path, ShrinkResult], cache: Path, tmp_path: Path
) -> None:
    earlier, first = done
    out = tmp_path / "again"
    result = run(out, cache, run=str(earlier), scratch=True)
    assert result.baseline.test_accuracy == first.result.test_accuracy
    assert result.baseline.parameters == first.result.parameters > result.result.parameters
    assert result.model == first.model == LENET
    assert result.steps[0].widths == first.steps[-1].widths
    assert result.scratch is not None
    assert not any("another seed" in note for note in result.notes)
    subject = find_subject(str(out), None)
    assert subject.module is not None
    assert parameters(subject.module) == result.result.parameters


@pytest.mark.slow
def test_a_run_whose_network_ceases_to_run_ships_its_last_good_step(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says why."""
    answers = iter(["", "", "too narrow"])
    monkeypatch.setattr(channels, "fault_of", lambda *_: next(answers))
    result = run(tmp_path / "run", cache, protocol={"amount": 0.8, "steps": 4})
    told = [note for note in result.notes if note.startswith("Pruning ended early: the network does not run")]
    assert len(told) == 1
    assert "too narrow" in told[0]
    pruned = [step.parameters for step in result.steps if step.stage == "prune"]
    assert len(pruned) == 2
    assert result.result.parameters == pruned[-1]


def test_a_split_that_may_have_trained_the_run_is_remarked_upon(done: tuple[Path, ShrinkResult]) -> None:
    out, _ = done
    assert not outcome._split_elsewhere(spec(run=str(out)))
    assert outcome._split_elsewhere(spec(run=str(out), seed=1))
    assert outcome._split_elsewhere(spec(run=str(out), validation=100))


def test_light_modules_take_the_sizes_of_the_run(done: tuple[Path, ShrinkResult]) -> None:
    """Groups belong to the pruned sizes, not to those that the model's name stands for."""
    out, result = done
    whole = load_task("digits")
    found = find_start(spec(run=str(out), light="shift@conv2"), whole)
    network = found.pruned()
    assert network.conv1.out_channels == result.steps[-1].widths["conv1"]
    groups = find_groups(network, whole.shape)
    assert len(groups.groups[0].units) == result.steps[-1].widths["conv1"]
    assert found.pruned_model == f"{LENET}+shift@conv2"


def test_light_layers_of_a_run_are_those_of_its_spec(tmp_path: Path) -> None:
    """Which layers read few channels is asked of the whole network, as `load` does."""
    whole, light = load_task("digits"), "separable"
    network = build("lenet:6-6-8", whole.shape, 10)
    groups = find_groups(network, whole.shape)
    first = next(group for group in groups.groups if "conv1" in group.name)
    remove_(network, groups, first.units[:3])
    save_weights(network, tmp_path / "model.safetensors")
    (tmp_path / "spec.toml").write_text('verb = "train"\ndata = "digits"\nmodel = "lenet:6-6-8"\n')
    (tmp_path / "result.json").write_text('{"model": "lenet:6-6-8", "artefacts": []}')
    found = find_start(spec(run=str(tmp_path), light=light), whole)
    begun = found.pruned()
    assert begun.conv2.depthwise.in_channels == 3
    again = load(found.pruned_model, whole.shape, 10).module
    resize_(again, begun.state_dict())
    drawn = found.drawn().state_dict()
    assert {n: v.shape for n, v in drawn.items()} == {n: v.shape for n, v in begun.state_dict().items()}
    assert not torch.equal(drawn["conv1.weight"], begun.state_dict()["conv1.weight"])


def test_the_twin_is_trained_as_the_earlier_run_was_but_without_its_teacher(tmp_path: Path) -> None:
    config = TrainConfig(
        epochs=7, distillation="temperature", distillation_weight=0.9, distillation_temperature=4.0
    )
    kept = {"verb": "train", "config": config.model_dump(mode="json", exclude_none=True)}
    (tmp_path / "spec.toml").write_text(tomlkit.dumps(kept))
    whole = load_task("digits")
    found = twin_config(spec(run=str(tmp_path), seed=3), whole, LENET)
    assert (found.epochs, found.seed, found.distillation) == (7, 3, "none")
    (tmp_path / "spec.toml").write_text('verb = "shrink"\nepochs = 9\n')
    assert twin_config(spec(run=str(tmp_path)), whole, LENET).epochs == 9


def test_a_training_run_is_a_start_too(tmp_path: Path) -> None:
    request = TrainRequest(data="digits", model=LENET, settings={"epochs": 1})
    kept = run_training(request, tmp_path / "trained")
    whole = load_task("digits")
    found = find_start(spec(run=str(tmp_path / "trained")), whole)
    assert found.trained
    assert found.model == LENET
    accuracy = evaluate(found.network(), whole.test, whole).accuracy
    assert accuracy == pytest.approx(kept.test_accuracy)


def test_zeros_are_kept_to_the_file_and_counted(cache: Path, tmp_path: Path) -> None:
    result = run(tmp_path / "run", cache, protocol={"granularity": "weight", "criterion": "l1"}, scratch=True)
    weights = load_file(tmp_path / "run" / "model.safetensors")
    zeros = sum(int((value == 0).sum()) for value in weights.values())
    dense = sum(value.numel() for value in weights.values())
    masked = sum(value.numel() for name, value in weights.items() if value.dim() > 1)
    assert zeros == round(0.5 * masked)
    assert result.sparse is not None
    assert (result.sparse.zeros, result.sparse.values) == (zeros, dense)
    assert result.sparse.smallest_bytes < result.sparse.dense_bytes == 4 * dense
    assert result.result.parameters == dense - zeros
    assert result.acceleration == 1.0
    assert result.scratch is None
    graph = onnx.load(tmp_path / "run" / "model.onnx").graph
    stored = [numpy_helper.to_array(each) for each in graph.initializer]
    assert sum(int((each == 0).sum()) for each in stored if each.ndim > 1) == zeros
    assert "fewer weights" in result.verdict


@pytest.mark.parametrize("granularity", ["weight", "kernel", "2:4"])
def test_only_the_layers_with_new_zeros_learn(granularity: str, make: Make, trained: nn.Module) -> None:
    pace = {} if granularity == "2:4" else {"schedule": "one-shot", "amount": 0.5, "steps": 1}
    job = make(
        granularity=granularity,
        criterion="l1",
        step="",
        scope="conv2",
        retrain=3,
        retrain_scope="layer",
        **pace,
    )
    descend_(job)
    found, before = job.way.weights("steps", 1), trained.state_dict()
    moved = {name for name in before if not torch.equal(before[name], found[name])}
    assert {name.partition(".")[0] for name in moved} == {"conv2", "bn2"}


@pytest.mark.slow
def test_zeros_of_an_earlier_run_stay(cache: Path, tmp_path: Path) -> None:
    """A schedule's share is of what was alive; the zeros are counted from the first step on."""
    how: dict[str, object] = {"granularity": "weight", "criterion": "l1"}
    run(tmp_path / "one", cache, protocol=how)
    first = load_file(tmp_path / "one" / "model.safetensors")
    result = run(tmp_path / "two", cache, run=str(tmp_path / "one"), protocol=how)
    second = load_file(tmp_path / "two" / "model.safetensors")
    weights = [name for name, value in first.items() if value.dim() > 1]
    assert all(bool((second[name][first[name] == 0] == 0).all()) for name in weights)
    alive, left = (sum(int((each[name] != 0).sum()) for name in weights) for each in (first, second))
    assert left == alive - round(0.5 * alive)
    assert result.steps[0].parameters == alive + sum(v.numel() for n, v in first.items() if n not in weights)
    channels = run(tmp_path / "three", cache, run=str(tmp_path / "one"))
    assert any("had zeroed by weight: under --granularity map its zeros" in note for note in channels.notes)
    assert not any("had zeroed" in note for note in result.notes)
    scoped = run(tmp_path / "four", cache, run=str(tmp_path / "one"), protocol={**how, "scope": "fc1"})
    fourth = load_file(tmp_path / "four" / "model.safetensors")
    assert all(bool((fourth[name][first[name] == 0] == 0).all()) for name in weights), "in every layer"
    assert scoped.baseline.parameters == scoped.steps[0].parameters == result.steps[0].parameters
    goal = Goals(parameters=Bound(value=0.6, relative=True))
    bounded = spec(run=str(tmp_path / "one"), goals=goal).model_copy(
        update={"protocol": {**how, "step": "10%", "retrain": 1, "tune": 0}}
    )
    within = shrink(bounded, tmp_path / "five", setting=Setting(threads=1, seconds=0.05, cache=cache))
    assert within.result.parameters <= 0.6 * within.baseline.parameters, "of what is alive, not of all"


@pytest.mark.slow
def test_light_modules_that_lose_too_much_give_the_baseline_back(cache: Path, tmp_path: Path) -> None:
    """The run then holds the baseline's network, under the baseline's name."""
    goals = Goals(min_accuracy=100.0)
    result = run(tmp_path / "run", cache, light="separable", goals=goals, protocol={"tune": 1})
    assert result.result.parameters == result.baseline.parameters
    assert result.model == LENET
    subject = find_subject(str(tmp_path / "run"), None)
    assert subject.module is not None
    assert [goal.met for goal in result.goals] == [False]
    assert result.goals[0].reason


# What cannot be


@pytest.mark.parametrize("precision", ["packed", "auto"])
def test_a_low_bit_network_is_pruned_timed_and_shipped_as_a_packed_program(
    precision: str, tmp_path: Path, cache: Path
) -> None:
    result = run(
        tmp_path / "run",
        cache,
        model="tfc+w1a1",
        precision=precision,
        target="packed@threads=1",
        goals=Goals(size=Bound(value=0.8, relative=True)),
        scratch=False,
    )
    assert result.artefacts == ["model.tersa", "model.safetensors", "baseline.tersa"]
    assert (result.baseline.precision, result.result.precision) == ("packed", "packed")
    assert [goal.met for goal in result.goals] == [True]
    assert result.result.size_bytes == (tmp_path / "run/model.tersa").stat().st_size
    assert [step.kept for step in result.steps].count(True) == 1
    assert result.comparisons[0].target == "packed@threads=1"
    assert result.comparisons[0].speedup is not None
    held = result.agreement
    assert (held.images, held.same_class, held.largest_difference, held.tolerance) == (360, 360, 0.0, 0.0)
    assert result.reference_agreement == held
    logits = classify(tmp_path / "run/model.tersa", load_task("digits").test.images)
    right = float((logits.argmax(1) == load_task("digits").test.labels.numpy()).mean())
    assert result.result.test_accuracy == pytest.approx(100 * right)
    packed_run_is_run_from_its_file(tmp_path, result.result.test_accuracy)


def packed_run_is_run_from_its_file(place: Path, accuracy: float) -> None:
    """The run's network has the data's normalisation and other forms than bits; bits are the shipped file."""
    task = load_task("digits")
    subject = find_subject(str(place / "run"), task)
    assert (subject.header.precision, subject.header.mean) == ("fp32", task.mean)
    shipped = to_artefact(subject, "packed", place / "other.tersa", task)
    assert shipped.path == place / "run/model.tersa"
    assert shipped.module is not None
    told = classify(shipped.path, task.test.images[:50])
    assert np.array_equal(module_logits(shipped.module, task.test.images[:50]), told)
    plain = to_artefact(subject, "fp32", place / "fp32.onnx", task)
    assert accuracy_on_test(plain, task) == pytest.approx(accuracy)
    plan = Plan([subject], [("packed", parse("packed"))], [], Batches((1,)))
    assert plan.wanted(subject) == ["fp32", "packed"]


def test_layers_that_no_packed_program_has_are_refused_before_any_work(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(ModelError, match="scale=lab"):
        run(tmp_path / "run", cache, model="tfc+w1a1:scale=lab", precision="packed", target="packed")
    assert not (tmp_path / "run").exists()


REFUSED = [
    (
        {"protocol": {"criterion": "bn-scale"}},
        "'bn-scale' needs a batch norm .* got none for conv1, conv2, fc1",
    ),
    ({"protocol": {"criterion": "tailor"}}, "unknown criterion 'tailor'; did you mean 'taylor'"),
    ({"protocol": {"scope": "conv9"}}, "unknown prunable layer 'conv9'"),
    ({"protocol": {"scope": "fc2"}}, "the channels of layer 'fc2' stay: it gives the output"),
    ({"protocol": {"keep": "convv1"}}, "unknown layer to keep 'convv1'; did you mean 'conv1'"),
    ({"protocol": {"keep": "*"}}, "no channels that can be removed .*conv1: asked to stay"),
    ({"model": "lenet:1-4-4", "protocol": {"scope": "conv1"}}, "--scope conv1: nothing can be removed"),
    ({"protocol": {"amount": 0.9}}, "--amount 90% of the 18 channels in scope is 16; at most 15 can go"),
    ({"protocol": {"amount": 0.0}}, "--schedule steady needs --amount"),
    ({"protocol": {"schedule": "open"}}, "--amount belongs to a schedule"),
    ({"protocol": {"schedule": "open", "amount": 0.0}}, "--steps belongs to a schedule"),
    ({"protocol": {"step": "2"}}, "both say how many go at a step"),
    ({"protocol": {"regrow": 0.2, "recompute": "once"}}, "does not go with --recompute once"),
    ({"protocol": {"regrow": 0.2, "retrain": 0}}, "needs --retrain of at least 1"),
    (
        {"protocol": {"regrow": 0.2, "round_to": 2}},
        "--round-to removes channels in blocks, --regrow exchanges",
    ),
    (
        {"protocol": {"round_to": 2, "granularity": "weight", "criterion": "l1"}},
        "--round-to is of channels; with --granularity weight no channel goes",
    ),
    (
        {"protocol": {"round_to": 64}},
        "--round-to 64: nothing can be removed, the widest .* has 8 of them",
    ),
    (
        {"protocol": {"round_to": 4, "amount": 0.9}},
        "at most 6 can go, since at least 4 of each layer stay",
    ),
    ({"protocol": {"amount": 0.02}}, "--amount 2% of the 18 channels in scope is none; one is 5.6%"),
    (
        {"protocol": {"amount": 0.02, "granularity": "kernel", "criterion": "l1", "scope": "conv1"}},
        "--amount 2% of the 4 kernels in scope is none; one is 25%",
    ),
    ({"protocol": {"criterion": "l1", "criterion_samples": 5}}, "--criterion l1 looks at no images"),
    (
        {"protocol": {"granularity": "weight", "criterion": "l1", "mac_weight": 3.0}},
        "--mac-penalty is of channels; --granularity weight saves no MACs",
    ),
    (
        {
            "protocol": {
                "granularity": "2:4",
                "criterion": "l1",
                "normalisation": "l1",
                "schedule": "open",
                "amount": 0.0,
            }
        },
        "--normalize compares layers; --granularity 2:4 compares weights of one block",
    ),
    (
        {"protocol": {"retrain": 0, "tune": 0, "learning_rate": 0.3, "arithmetic": "bf16"}},
        "--learning-rate, --arithmetic: nothing is trained with --retrain 0 and --tune 0",
    ),
    ({"protocol": {"retrain": 0, "retrain_scope": "layer"}}, "--retrain-scope layer is of what --retrain 0"),
    ({"protocol": {"learning_rate": float("inf")}}, "learning_rate is inf: input should be a finite number"),
    ({"protocol": {"scope": ","}}, "--scope ',' names no layer"),
    ({"protocol": {"keep": ""}}, "--keep '' names no layer"),
    ({"protocol": {"keep": " ,"}}, "--keep ' ,' names no layer"),
    ({"coder": "huffman"}, "--coder huffman is of the file that --cluster writes"),
    ({"model": "tfc+w1a1:in=8", "cluster": 2}, "--cluster: tfc.w1a1:in=8 is a low-bit network"),
    (
        {"precision": "packed", "target": "packed@threads=1"},
        "--precision packed is of low-bit networks, and this one has floats",
    ),
    (
        {"model": "tfc+w1a1:in=8", "precision": "fp32", "target": "packed"},
        "--precision fp32: packed does not run the ONNX file of a low-bit network; tersa prune and",
    ),
    ({"model": "tfc+w1a1:in=8", "precision": "int8", "target": "c"}, "--precision int8: c does not run"),
    ({"protocol": {"granularity": "weights"}}, "unknown granularity 'weights'; did you mean 'weight'"),
    ({"protocol": {"granularity": "weight"}}, "--criterion taylor scores whole channels; with --granularity"),
    (
        {"protocol": {"granularity": "weight", "criterion": "l1", "scope": "conv9"}},
        "unknown layer with weights 'conv9'",
    ),
    ({"protocol": {"granularity": "2:4", "criterion": "l1"}}, "--granularity 2:4 removes all it can in one"),
    (
        {
            "protocol": {"granularity": "weight", "criterion": "l1"},
            "goals": Goals(macs=Bound(value=0.5, relative=True)),
        },
        "--macs is out of reach of --granularity weight",
    ),
    (
        {
            "protocol": {"granularity": "weight", "criterion": "l1"},
            "goals": Goals(size=Bound(value=0.5, relative=True)),
        },
        "--size is out of reach of --granularity weight",
    ),
    (
        {
            "protocol": {"granularity": "kernel", "criterion": "l1"},
            "goals": Goals(latency=Bound(value=0.5, relative=True)),
        },
        "--latency is out of reach of --granularity kernel",
    ),
    ({"light": "lite"}, "unknown light module 'lite'"),
    ({"light": "shift@conv7"}, "unknown layer 'conv7'"),
    ({"run": "nowhere"}, "--run nowhere is not a finished run"),
    ({"run": "nowhere", "model": LENET}, "--run brings a trained network; leave out --model"),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED, ids=[words[:30] for _, words in REFUSED])
def test_what_cannot_be_is_refused_before_any_work(
    changes: dict[str, object], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        run(tmp_path / "run", tmp_path / "cache", **copy.deepcopy(changes))
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "cache").exists()


def test_a_pattern_of_zeros_leaves_what_it_leaves(tmp_path: Path) -> None:
    asked = ShrinkSpec(
        verb="prune",
        precision="fp32",
        goals=Goals(parameters=Bound(value=0.3, relative=True)),
        protocol={"granularity": "2:4", "criterion": "l1"},
    )
    with pytest.raises(UsageError, match=r"--parameters 0.3x is out of reach of .* 2:4, which leaves 0.5x"):
        shrink(asked, tmp_path / "run", setting=Setting(threads=1))


def test_a_fine_tune_that_was_killed_goes_on(make: Make, tmp_path: Path) -> None:
    """From its last epoch, to the weights of one that was not."""
    ends: list[dict[str, Tensor]] = []
    for stop in (None, 30, None):
        keep = tmp_path / ("whole" if not ends else "killed")
        job, seen = make(), list[int]()

        def watch(at: Progress, stop: int | None = stop, seen: list[int] = seen) -> None:
            seen.append(at.iteration)
            if stop is not None and at.iteration >= stop:
                raise KeyboardInterrupt

        model = copy.deepcopy(job.baseline)
        try:
            retrain_(job, model, 60, seed=1, progress=watch, keep=keep)
        except KeyboardInterrupt:
            continue
        ends.append(model.state_dict())
        last = seen
    assert last[0] > 1, "not from the beginning"
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    assert list(tmp_path.glob("killed.*"))
    retraining.forget(tmp_path / "killed")
    strange = tmp_path / "strange"
    job = make()
    retrain_(job, copy.deepcopy(job.baseline), 20, seed=2, keep=strange)
    model = copy.deepcopy(job.baseline)
    retrain_(job, model, 60, seed=1, keep=strange)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in ends[0].items())
    assert not list(tmp_path.glob("killed.*"))


def test_a_run_is_not_pruned_into_itself_nor_on_other_data(
    done: tuple[Path, ShrinkResult], cache: Path, tmp_path: Path
) -> None:
    out, _ = done
    with pytest.raises(UsageError, match="is the run whose network is pruned"):
        shrink(spec(run=str(out)), out, setting=Setting(threads=1, cache=cache), overwrite=True)
    assert (out / "model.safetensors").is_file()
    (tmp_path / "data").mkdir()
    other = str(tmp_path / "data" / "other.npz")
    np.savez(other, images=np.zeros((30, 8, 8, 1), np.uint8), labels=np.arange(30) % 10)
    with pytest.raises(UsageError, match="was made on data 'digits', not on"):
        run(tmp_path / "run", cache, run=str(out), data=other)


def test_units_left_by_a_step_are_those_of_the_network(make: Make) -> None:
    """`gone` and the weights on disk tell of the same channels."""
    job = make(step="3")
    for row in descend_(job):
        left = after(job.groups, job.way.gone(row.index))
        assert left.widths() == row.widths
        assert int(within(left, ["conv2"]).sum()) == row.widths["conv2"]
