"""Joint search: what is searched, the front, what is taken, goals, resume, shared storage, missing Optuna."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.recipes.in_this_process import in_this_process

from tersa.cli.main import execute
from tersa.data.sources import load
from tersa.errors import ModelError, TargetError, TersaError, UsageError
from tersa.export.check import classify
from tersa.export.coded import read_coded
from tersa.models.zoo import build
from tersa.prune.clustering import cluster, sort_out
from tersa.prune.groups import find_groups
from tersa.recipes import joint_networks, joint_plan, joint_trials, joint_workers
from tersa.recipes.deploy import not_offered
from tersa.recipes.goals import Bound, Goals, Start
from tersa.recipes.joint import DATABASE, Place, joint_search
from tersa.recipes.joint_networks import axes_of, narrowing, violation
from tersa.recipes.joint_plan import plan_search
from tersa.recipes.joint_request import JointSpec, command_of
from tersa.recipes.joint_result import SearchResult, TriedNetwork, burden, front, pick
from tersa.recipes.joint_trials import Axis, Trials, own_study, shown, url_of
from tersa.recipes.setting import Setting
from tersa.study import gather
from tersa.study.cluster import Crew
from tersa.train.evaluation import predict

pytest.importorskip("optuna")

SMALL = JointSpec(
    model="mlp:16x8", epochs=3, tune=10, costs=("size", "macs"), widths=(1.0, 0.5), bits="2..4", seed=3
)
TRIALS = 6
"""More than are drawn at random here, so that the sampler has a say."""


@pytest.fixture(scope="module", autouse=True)
def _few_at_random() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joint_trials, "STARTUP", 3)
        yield


def quick(place: Path, **changes: Any) -> Setting:
    return Setting(**{"threads": 1, "seconds": 0.05, "cache": place / "cache", **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SearchResult]:
    place = tmp_path_factory.mktemp("search")
    return place / "run", joint_search(SMALL, place / "run", trials=TRIALS, setting=quick(place))


def plain(row: TriedNetwork) -> dict[str, Any]:
    return row.model_dump(exclude={"number", "seconds"})


def test_a_search_tries_widths_ratios_and_bits(whole: tuple[Path, SearchResult]) -> None:
    _, result = whole
    first = result.trials[0]
    assert len(result.trials) == TRIALS
    assert (first.width, set(first.ratios.values()), set(first.bits.values())) == (1.0, {0.0}, {4})
    assert {row.width for row in result.trials} == {0.5, 1.0}
    assert len({tuple(row.bits.values()) for row in result.trials}) > 2
    for row in result.trials:
        channels = sum(max(1, round(row.width * width)) for width in (16, 8))
        assert sum(row.channels.values()) == channels - round(row.ratios["network"] * channels)
        assert row.bits.keys() == {"fc1.weight", "fc2.weight", "fc3.weight"}
        assert row.latency_ms is None, "latency was neither a cost nor a goal"


def test_the_front_is_not_dominated(whole: tuple[Path, SearchResult]) -> None:
    _, result = whole
    for row in result.trials:
        beaten = any(
            other.validation_accuracy >= row.validation_accuracy
            and other.size_bytes <= row.size_bytes
            and other.macs <= row.macs
            and (other.validation_accuracy, other.size_bytes, other.macs)
            != (row.validation_accuracy, row.size_bytes, row.macs)
            for other in result.trials
        )
        assert row.on_front != beaten
    assert {row.number for row in result.front} == {row.number for row in result.trials if row.on_front}


def test_the_files_are_the_network_that_was_taken(whole: tuple[Path, SearchResult]) -> None:
    out, result = whole
    task = load("digits", seed=SMALL.seed)
    chosen = next(row for row in result.trials if row.number == result.chosen)
    assert (out / "model.coded").stat().st_size == chosen.size_bytes == result.result.size_bytes
    decoded, _ = read_coded(out / "model.coded")
    answers = predict(decoded, task.test, task).argmax(dim=1)
    assert 100.0 * float((answers == task.test.labels).float().mean()) == pytest.approx(
        result.result.test_accuracy
    )
    found = classify(out / "model.onnx", task.test.images).argmax(axis=1)
    assert np.array_equal(found, answers.numpy())
    for name, value in decoded.state_dict().items():
        if name in chosen.bits:
            assert len(value.unique()) <= 2 ** chosen.bits[name] + 1


def test_the_page_shows_the_front(whole: tuple[Path, SearchResult]) -> None:
    out, result = whole
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") >= len(result.costs)
    assert page.count('<tr class="all">') == (result.chosen in {row.number for row in result.front})
    assert "In multiply-accumulates?" in page


@pytest.mark.slow
def test_a_killed_search_ends_as_the_whole_one(whole: tuple[Path, SearchResult], tmp_path: Path) -> None:
    def stop(task: str, done: float, remark: str) -> None:
        if remark.startswith("network 4 "):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        joint_search(SMALL, tmp_path / "run", trials=TRIALS, setting=quick(tmp_path, say=stop))
    assert not (tmp_path / "run" / "result.json").exists()
    result = joint_search(SMALL, tmp_path / "run", trials=TRIALS, setting=quick(tmp_path), resume=True)
    assert list(map(plain, result.trials)) == list(map(plain, whole[1].trials))
    again = joint_search(SMALL, tmp_path / "run", trials=TRIALS, setting=quick(tmp_path), resume=True)
    assert again == result


@pytest.mark.slow
def test_a_kill_inside_a_trial_tries_its_settings_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tersa.recipes import joint

    spec, real, asked = SMALL.model_copy(update={"widths": (1.0,), "tune": 2}), joint.try_network, []

    def die(work: Any, number: int, settings: Any) -> Any:
        asked.append(dict(settings))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(work, number, settings)

    monkeypatch.setattr(joint, "try_network", die)
    with pytest.raises(KeyboardInterrupt):
        joint_search(spec, tmp_path / "run", trials=3, setting=quick(tmp_path))
    result = joint_search(spec, tmp_path / "run", trials=3, setting=quick(tmp_path), resume=True)
    assert asked[2] == asked[1]
    assert len(result.trials) == 3


@pytest.mark.slow
def test_a_shared_storage_is_joined(whole: tuple[Path, SearchResult], tmp_path: Path) -> None:
    out, result = whole
    url = f"sqlite:///{out / DATABASE}"
    place = Place(url, result.study)
    joined = joint_search(SMALL, tmp_path / "other", trials=TRIALS, place=place, setting=quick(tmp_path))
    assert list(map(plain, joined.trials)) == list(map(plain, result.trials))
    assert joined.chosen == result.chosen
    assert (tmp_path / "other" / "model.coded").read_bytes() == (out / "model.coded").read_bytes()
    other = SMALL.model_copy(update={"tune": 11})
    with pytest.raises(UsageError, match=r"has other settings: tune was 10, is now 11"):
        joint_search(other, tmp_path / "third", trials=1, place=place, setting=quick(tmp_path))


def test_a_renamed_folder_keeps_its_trials(whole: tuple[Path, SearchResult], tmp_path: Path) -> None:
    out, result = whole
    shutil.copytree(out, tmp_path / "renamed")
    setting = quick(tmp_path, cache=out.parent / "cache")
    more = joint_search(SMALL, tmp_path / "renamed", trials=TRIALS + 1, setting=setting, resume=True)
    assert list(map(plain, more.trials[:TRIALS]))[:TRIALS] == [
        plain(row.model_copy(update={"on_front": more.trials[place].on_front}))
        for place, row in enumerate(result.trials)
    ]
    assert (len(more.trials), more.study) == (TRIALS + 1, result.study)


def test_the_search_of_a_folder_has_a_name_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "mine" / DATABASE
    assert own_study(file) == "search"
    file.parent.mkdir()
    Trials.open(url_of(file), "an older name", AXES, ("size",), 0, {})
    assert own_study(file) == "an older name", "the only one, however the folder is called"
    Trials.open(url_of(file), "mine", AXES, ("size",), 0, {})
    assert own_study(file) == "mine"
    renamed = file.parent.rename(tmp_path / "ours") / DATABASE
    with pytest.raises(
        UsageError, match=r"holds the searches an older name, mine; name the folder as the one"
    ):
        own_study(renamed)
    Trials.open(url_of(renamed), "search", AXES, ("size",), 0, {})
    assert own_study(renamed) == "search"
    renamed.write_bytes(b"no database")
    with pytest.raises(UsageError, match=r"search\.db cannot be read: .*start again with --overwrite"):
        own_study(renamed)


def test_a_folder_goes_on_with_the_storage_that_it_was_begun_with(tmp_path: Path) -> None:
    """Its files are named by the numbers of trials, which mean nothing in another storage."""
    spec = JointSpec(model="mlp:8", epochs=1, tune=1, costs=("macs",), widths=(1.0,), bits="none")
    url, out = f"sqlite:///{tmp_path / 'shared.db'}", tmp_path / "run"

    def go_on(folder: Path, place: Place | None = None, trials: int = 1) -> SearchResult:
        setting = quick(tmp_path)
        return joint_search(spec, folder, trials=trials, place=place, setting=setting, resume=True)

    assert go_on(out, Place(url)).study == "run"
    renamed = out.rename(tmp_path / "renamed")
    assert go_on(renamed, Place(url), 2).study == "run", "as the folder says"
    with pytest.raises(UsageError, match=r"storage was sqlite:///.*shared\.db, is now not given"):
        go_on(renamed)
    with pytest.raises(UsageError, match="study was run, is now other"):
        go_on(renamed, Place(url, "other"))
    with pytest.raises(UsageError, match=r"storage was .*shared\.db, is now .*else\.db"):
        go_on(renamed, Place(f"sqlite:///{tmp_path / 'else.db'}"))


AXES = [Axis("prune", low=0.0, high=0.5, step=0.05)]
BEGUN = {"data": "/a/photos", "images": "1", "run": "/a/net", "checkpoint": None, "baseline": "w", "tune": 9}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"data": "/b/photos", "run": "/b/net"}, ""),
        ({"run": None, "checkpoint": "/b/net.safetensors"}, ""),
        (
            {"run": "/b/net", "baseline": "v"},
            r"baseline of other weights; give those .*\(/a/net there\) with --run",
        ),
        (
            {"data": "/b/photos", "images": "2"},
            "data was /a/photos, is now /b/photos; images was 1, is now 2;",
        ),
        (
            {"baseline": "v", "tune": 8},
            "baseline was w, is now v; tune was 9, is now 8; give another --study",
        ),
    ],
)
def test_a_storage_is_joined_by_content_not_by_path(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    url = url_of(tmp_path / "shared.db")
    Trials.open(url, "x", AXES, ("size",), 0, BEGUN)
    if said:
        with pytest.raises(UsageError, match=said):
            Trials.open(url, "x", AXES, ("size",), 0, {**BEGUN, **changes})
    else:
        Trials.open(url, "x", AXES, ("size",), 0, {**BEGUN, **changes})


def test_a_baseline_that_each_machine_trains_is_named_as_what_differs(tmp_path: Path) -> None:
    url, begun = url_of(tmp_path / "shared.db"), {**BEGUN, "run": None}
    Trials.open(url, "x", AXES, ("size",), 0, begun)
    with pytest.raises(UsageError, match=r"each machine trains its own.*another --study.*--widths 1"):
        Trials.open(url, "x", AXES, ("size",), 0, {**begun, "baseline": "v"})


def test_a_plan_counts_workers_but_no_more_than_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joint_plan, "cores", lambda: 4)
    monkeypatch.setattr(joint_plan, "check_place", lambda on: None)  # without Ray, too
    monkeypatch.setattr(joint_plan, "iteration_seconds", lambda *given, **options: 1.0)
    spec = JointSpec(model="mlp:8", tune=10, widths=(1.0,), costs=("macs",), bits="none", epochs=1)
    alone, two, many, cluster = (
        plan_search(spec, quick(tmp_path), 16, crew).seconds
        for crew in (None, Crew(2, 1), Crew(16, 1), Crew(16, 1, "ray"))
    )
    each = 10 + joint_plan.WEIGHING
    assert alone - two == pytest.approx(8 * each)
    assert alone - many == pytest.approx(12 * each)
    assert alone - cluster == pytest.approx(15 * each)


@pytest.mark.slow
def test_float_weights_and_latency(tmp_path: Path) -> None:
    spec = JointSpec(
        model="mlp:8", epochs=1, tune=2, bits="none", widths=(1.0,), scope="layer", costs=("latency",)
    )
    result = joint_search(spec, tmp_path / "run", trials=2, setting=quick(tmp_path))
    assert all(row.latency_ms and not row.bits for row in result.trials)
    assert result.artefacts == ["model.onnx", "baseline.onnx"]
    assert set(result.trials[0].ratios) == {"fc1"}
    assert result.result.size_bytes == (tmp_path / "run" / "model.onnx").stat().st_size


BY_LATENCY = JointSpec(model="mlp:8", epochs=1, tune=2, bits="none", widths=(1.0,), costs=("latency",))


@pytest.mark.slow
def test_a_target_that_disappears_leaves_trials_that_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = joint_networks.race, list[Any]()

    def gone(dock: Any, *files: Any, **options: Any) -> Any:
        asked.append(files)
        if len(asked) > 1:
            return not_offered(dock.target, "fp32", "no route to host")
        return real(dock, *files, **options)

    monkeypatch.setattr(joint_networks, "race", gone)
    with pytest.raises(TargetError, match="any more: no route to host; --resume goes on"):
        joint_search(BY_LATENCY, tmp_path / "run", trials=3, setting=quick(tmp_path))
    assert len(asked) == 3, "the second network, then the baseline"
    monkeypatch.setattr(joint_networks, "race", real)
    result = joint_search(BY_LATENCY, tmp_path / "run", trials=3, setting=quick(tmp_path), resume=True)
    assert (len(result.trials), result.diverged) == (3, 0)


@pytest.mark.slow
def test_a_network_that_the_runtime_refuses_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = joint_networks.race, list[Any]()

    def refused(*given: Any, **options: Any) -> Any:
        asked.append(given)
        if len(asked) == 2:
            raise ModelError("no such operator")
        return real(*given, **options)

    monkeypatch.setattr(joint_networks, "race", refused)
    result = joint_search(BY_LATENCY, tmp_path / "run", trials=2, setting=quick(tmp_path))
    assert (len(result.trials), result.diverged) == (1, 1)


@pytest.mark.slow
def test_a_search_ends_when_all_networks_were_tried(tmp_path: Path) -> None:
    spec = JointSpec(
        model="mlp:8", epochs=1, tune=2, bits="none", widths=(1.0, 0.5), most=0.0, costs=("macs",)
    )
    assert plan_search(spec, quick(tmp_path), 20).trials == 2
    goals = Goals(macs=Bound(value=1, relative=False))
    spec = spec.model_copy(update={"goals": goals})
    result = joint_search(spec, tmp_path / "run", trials=20, setting=quick(tmp_path))
    assert {row.width for row in result.trials} == {0.5, 1.0}
    assert len(result.trials) < 20
    assert "2 networks tried" in result.detail
    assert result.goals[0].reason == "of 2 networks that were tried none was nearer; no others can be made"
    again = joint_search(spec, tmp_path / "run", trials=20, setting=quick(tmp_path), resume=True)
    assert again == result


def test_a_plan_of_nothing_is_refused_as_the_search_is(tmp_path: Path) -> None:
    spec = JointSpec(model="mlp:8", widths=(1.0,), most=0.0, bits="none")
    for call in (
        lambda: plan_search(spec, quick(tmp_path), 40),
        lambda: joint_search(spec, tmp_path / "run", setting=quick(tmp_path)),
    ):
        with pytest.raises(UsageError, match="nothing to search: one width"):
            call()


def test_all_faults_come_together() -> None:
    spec = JointSpec(
        widths=(0.0, 1.0), costs=(), bits="6..2", most=0.03, target="onnxrutime", checkpoint="x.pt"
    )
    with pytest.raises(UsageError) as caught:
        spec.check()
    starts = (
        "--widths 0:",
        "--most 0.03: ratios go in steps of 0.05; give 0 for no pruning, or 0.05 or more",
        "--costs is empty",
        "--bits '6..2'",
        "--widths trains narrower",
        "unknown target",
    )
    for start in starts:
        assert any(fault.startswith(start) for fault in caught.value.found), start


def test_what_is_searched() -> None:
    network = build("lenet:4-6-16", (1, 8, 8), 10)
    groups = find_groups(network, (1, 8, 8))
    spec = JointSpec(scope="layer", most=0.42, bits="3")
    axes = {axis.name: axis for axis in axes_of(spec, network, groups)}
    assert axes["width"].values == (0.5, 0.75, 1.0)
    assert axes["prune.conv1"].high == pytest.approx(0.4)
    assert (axes["bits.conv1.weight"].low, axes["bits.conv1.weight"].high) == (3, 3)
    assert not axes_of(JointSpec(widths=(1.0,), most=0.0, bits="none"), network, groups)
    gone = narrowing(groups, 0.5)
    assert [int(torch.isin(group.units, gone).sum()) for group in groups.groups] == [2, 3, 8]
    assert len(narrowing(groups, 0.01)) == sum(len(group.units) - 1 for group in groups.groups)


def test_each_tensor_has_the_bits_that_it_was_given() -> None:
    network = build("mlp:16x8", (1, 8, 8), 10)
    names = sort_out(network).weights
    found = cluster(network, dict(zip(names, (1, 2, 4), strict=True)))
    assert [len(book) for book in found.books] == [2, 4, 16]


def row(number: int, accuracy: float, size: int, macs: int, violation: float = 0.0) -> TriedNetwork:
    return TriedNetwork(
        number=number,
        width=1,
        ratios={},
        bits={},
        validation_accuracy=accuracy,
        loss_points=90.0 - accuracy,
        standard_error=0.5,
        parameters=1,
        macs=macs,
        size_bytes=size,
        channels={},
        violation=violation,
    )


START = Start(accuracy=90.0, macs=100, size_bytes=100, latency_ms=1.0, parameters=100)


def test_front_of_equal_networks_keeps_the_first() -> None:
    rows = [row(0, 90, 50, 50), row(1, 90, 50, 50), row(2, 90, 60, 40), row(3, 89, 60, 50)]
    assert [each.number for each in front(rows, ("size", "macs"))] == [0, 2]


def test_what_is_taken() -> None:
    rows = [row(0, 90, 80, 80), row(1, 89.5, 20, 20), row(2, 80, 1, 1, violation=0.1)]
    assert pick(rows, ("size", "macs"), Goals(max_loss=1), START).number == 1
    bounded = Goals(size=Bound(value=0.9, relative=True))
    assert pick(rows, ("size", "macs"), bounded, START).number == 0
    missed = [each.model_copy(update={"violation": 0.1 + each.number}) for each in rows]
    assert pick(missed, ("size", "macs"), bounded, START).number == 0
    assert burden(rows[1], ("size", "macs"), START) == pytest.approx(0.2)


def test_by_how_much_goals_are_missed() -> None:
    goals = Goals(max_loss=1.0, size=Bound(value=0.5, relative=True), macs=Bound(value=40, relative=False))
    assert violation(row(0, 89.5, 50, 40), goals, START) == 0
    assert violation(row(0, 88.0, 75, 60), goals, START) == pytest.approx((2.5 - 1) / 100 + 0.5 + 0.5)


def test_passwords_are_not_shown() -> None:
    assert shown("postgresql://me:secret@host/x") == "postgresql://me:***@host/x"
    with pytest.raises(UsageError, match="--storage is not a database URL") as caught:
        shown("me:secret")
    assert "secret" not in str(caught.value)


def test_the_command_does_the_same() -> None:
    words = command_of(SMALL, 5).split()
    assert words[:2] == ["tersa", "search"]
    assert words[words.index("--widths") + 1] == "1,0.5"
    assert words[words.index("--costs") + 1] == "size,macs"


QUICK = ["--model", "mlp:8", "--epochs", "1", "--tune", "2", "--widths", "1", "--threads", "1"]


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*QUICK, "--costs", "macs", "--out", str(tmp_path / "run"), "--measure-seconds", "0.05"]
    assert execute(["search", *words, "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [axis["name"] for axis in plan["axes"]] == ["prune", "bits.fc1.weight", "bits.fc2.weight"]
    assert not (tmp_path / "run").exists()
    assert execute(["search", *words, "--dry-run", "--most", "0.07", "--workers", "2", "--trials", "9"]) == 0
    told = capsys.readouterr()
    assert "--most 0.07: ratios go in steps of 0.05, the largest is 0.05" in told.err
    assert "with 2 workers; nothing was done" in " ".join(told.out.split())
    assert execute(["search", *words, "--trials", "2", "--size", "10", "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert [goal["met"] for goal in found["goals"]] == [False]
    assert Path(found["report"]).is_file()
    assert all(Path(path).is_file() for path in found["artefacts"])
    assert execute(["search", *words, "--costs", "mac"]) == 2
    assert "did you mean 'macs'?" in capsys.readouterr().err
    assert execute(["search", *words, "--storage", "nothing", "--overwrite"]) == 2
    assert (tmp_path / "run" / "result.json").is_file()


def test_without_optuna_it_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert execute(["search", "--data", "digits"]) == 2
    assert capsys.readouterr().err == (
        "error: tersa search needs Optuna, which is not installed: pip install 'tersa[search]'\n"
    )


@pytest.mark.slow
def test_workers_train_a_batch_that_is_then_weighed_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "carry_out", in_this_process)
    spec, crew = SMALL.model_copy(update={"tune": 2, "costs": ("latency", "size")}), Crew(workers=2)

    def search(folder: str, trials: int, **options: Any) -> SearchResult:
        setting = options.pop("setting", quick(tmp_path))
        return joint_search(spec, tmp_path / folder, trials=trials, crew=crew, setting=setting, **options)

    whole = search("whole", 5)  # two batches of two, one of one
    assert len(whole.trials) + whole.diverged == 5
    assert all(row.latency_ms for row in whole.trials)
    assert not list((tmp_path / "whole" / "trials").glob("*.onnx"))  # weighed: gone

    def stop(task: str, done: float, remark: str) -> None:
        if remark.startswith("network 3 "):  # inside the second batch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search("killed", 5, setting=quick(tmp_path, say=stop))
    resumed = search("killed", 5, resume=True)
    assert len(resumed.trials) + resumed.diverged == 5
    settings = [[(row.width, row.ratios, row.bits) for row in each.trials] for each in (whole, resumed)]
    assert settings[0][:2] == settings[1][:2]


def test_a_worker_in_trouble_ends_the_search_with_its_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(work: Any, number: int, settings: Any) -> Any:
        raise RuntimeError("no memory left")

    monkeypatch.setattr(gather, "carry_out", in_this_process)
    monkeypatch.setattr(joint_workers, "learned", broken)
    with pytest.raises(TersaError, match=r"network 2 of 2: Traceback[\s\S]*RuntimeError: no memory left$"):
        joint_search(SMALL, tmp_path / "run", trials=2, crew=Crew(workers=2), setting=quick(tmp_path))


@pytest.mark.slow
def test_worker_processes_find_what_one_process_finds(tmp_path: Path) -> None:
    """The first networks are drawn at random by their number: the same, whoever trains them."""
    found = [
        joint_search(SMALL, tmp_path / str(workers), trials=2, crew=Crew(workers), setting=quick(tmp_path))
        for workers in (1, 2)
    ]
    first = [each.trials[0] for each in found]
    assert plain(first[0]) == plain(first[1])
    assert found[1].environment is not None
