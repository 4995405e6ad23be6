"""A limit on energy, with counters that a test makes up: a call uses what the file's weights say, and a whole
network half as much again as its layers do."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tests.adapt.machine import CALL_MJ, FakeClock, FakeMeter, FakeTarget, by_weights

from tersa.adapt.energies import Energies
from tersa.adapt.measuring import Stopwatch
from tersa.errors import TargetError, UsageError
from tersa.export.artefact import Artefact
from tersa.recipes import adapt_energy, adapt_tables, deploy, outcome, shrink
from tersa.recipes.adapt import adapt
from tersa.recipes.adapt_energy import meter_of
from tersa.recipes.adapt_plan import plan
from tersa.recipes.adapt_request import AdaptSpec, adapt_command
from tersa.recipes.adapt_store import AdaptStore
from tersa.recipes.goals import Goals, parse_bound
from tersa.recipes.joint_request import JointSpec
from tersa.recipes.recipe_networks import SETTINGS, shrink_request
from tersa.recipes.request import ShrinkSpec
from tersa.recipes.setting import Setting
from tersa.recipes.trajectory import Trajectory
from tersa.records.adaptation import CheckedEnergy
from tersa.records.base import read_record
from tersa.records.results import ShrinkResult
from tersa.targets.energy import Reading

WHOLE = 1.5
NAMES = "package-0, dram of 0"


def energy_of(artefact: Artefact) -> float:
    """Millijoules of a call, without those of an empty one."""
    lone = artefact.path.parent.name.startswith("tersa.")
    return (1.0 if lone else WHOLE) * 0.5 * by_weights(artefact)


def goals(**bounds: str) -> Goals:
    return Goals.read(**bounds)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def setting(cache: Path) -> Callable[..., Setting]:
    return lambda **changes: Setting(**{"threads": 1, "seconds": 0.02, "cache": cache, **changes})


@pytest.fixture
def spec(tmp_path: Path) -> Callable[..., AdaptSpec]:
    def made(**changes: object) -> AdaptSpec:
        settings = {
            "model": "mlp:24x16",
            "epochs": 2,
            "protocol": {"tune": 12, "criterion_samples": 60},
            "goals": goals(energy="0.5x"),
            "finetune_steps": 4,
            "table": str(tmp_path / "t.db"),
        }
        return AdaptSpec.model_validate({**settings, **changes})

    return made


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> FakeTarget:
    """A target with counters, for layers and for whole networks; it is timed by its own clock, too."""
    clock = FakeClock()
    target = FakeTarget(clock, energy=energy_of)
    whole_compare = deploy.compare
    monkeypatch.setattr(outcome, "installed", list)
    monkeypatch.setattr(adapt_tables, "Stopwatch", partial(Stopwatch, clock))
    for module in (adapt_tables, adapt_energy, deploy):
        monkeypatch.setattr(module, "parse", lambda _: target)
    monkeypatch.setattr(deploy, "compare", partial(whole_compare, clock=clock))
    monkeypatch.setattr(adapt_energy, "counters", lambda device: target.meter)
    monkeypatch.setattr(adapt_tables, "Energies", partial(Energies, clock=clock))
    monkeypatch.setattr(deploy, "network_energies", partial(deploy.network_energies, clock=clock))
    return target


def held_by_measurement(result: ShrinkResult) -> CheckedEnergy:
    """The last check of a run whose energy was met; its estimate is the one that its checks correct."""
    used = result.adaptation.energy if result.adaptation else None
    assert used is not None
    last = used.checked[-1]
    assert last.measured_mj <= used.budget_mj
    assert last.estimate_mj == pytest.approx(last.measured_mj, rel=0.1)
    assert used.checked[0].step == 0
    assert used.checked[0].measured_mj == pytest.approx(result.baseline.energy_mj, rel=1e-3)
    assert used.checked[0].factor == pytest.approx(WHOLE, rel=1e-3)
    return last


def test_an_energy_budget_is_met_when_the_counters_say_so(
    tmp_path: Path,
    setting: Callable[..., Setting],
    spec: Callable[..., AdaptSpec],
    machine: FakeTarget,
) -> None:
    out = tmp_path / "run"
    result = adapt(spec(), out, setting=setting())
    (goal,) = result.goals
    assert goal.met
    assert (goal.name, goal.unit) == ("energy", "mJ")
    assert goal.text == f"at most 0.5 times the baseline's energy, measured by {NAMES}"
    assert result.result.energy_mj == goal.reached <= goal.asked
    assert goal.asked == pytest.approx(0.5 * (result.baseline.energy_mj or 0.0))
    assert result.result.energy_by == NAMES
    weights = [row.parameters_after for row in result.layers]
    assert goal.reached == pytest.approx(CALL_MJ + WHOLE * 5e-3 * sum(weights), rel=0.1)
    last = held_by_measurement(result)
    assert last.measured_mj >= 0.8 * goal.asked, "not much narrower than asked: widths go in fours"
    found = result.adaptation
    assert found is not None
    assert found.energy is not None
    assert found.energy.points == found.energy.measured > 20
    assert found.energy.counters == NAMES
    assert (found.machine, found.checked, found.budget_ms) == ("", [], None), "no latency was asked"
    with sqlite3.connect(tmp_path / "t.db") as table:
        assert table.execute("SELECT COUNT(*) FROM points").fetchone() == (0,)
    page = (out / "report.html").read_text()
    for words in ("Energy, measured", f"measured by {NAMES}", "Do the layers foretell the energy?"):
        assert words in page
    assert "Does the table foretell the clock?" not in page
    assert read_record(out / "result.json", ShrinkResult) == result
    assert "--energy 0.5x" in result.command
    assert adapt(spec(), out, setting=setting(), resume=True) == result


def test_an_old_result_has_no_energy(
    tmp_path: Path, setting: Callable[..., Setting], spec: Callable[..., AdaptSpec], machine: FakeTarget
) -> None:
    """And is read as it is: what is new has defaults."""
    result = adapt(spec(goals=goals(macs="0.5x"), table=None), tmp_path / "run", setting=setting())
    assert result.adaptation is not None
    old = result.model_dump(mode="json")
    for figures in (old["baseline"], old["result"]):
        assert (figures.pop("energy_mj"), figures.pop("energy_by")) == (None, "")
    assert old["adaptation"].pop("energy") is None
    assert ShrinkResult.model_validate(old) == result
    assert machine.meter.reads == 0


@pytest.mark.slow
def test_netadapt_goes_on_until_the_counters_agree(
    tmp_path: Path,
    setting: Callable[..., Setting],
    spec: Callable[..., AdaptSpec],
    machine: FakeTarget,
) -> None:
    asked = spec(search="netadapt", delta=0.1, hybrid=0.0, check_every=2)
    result = adapt(asked, tmp_path / "run", setting=setting())
    assert result.goals[0].met
    held_by_measurement(result)
    measured = [row.step for row in AdaptStore(tmp_path / "run").energies()]
    steps = Trajectory(tmp_path / "run").rows("steps")
    assert measured[:2] == [0, 2]
    assert measured[-1] == steps[-1].index


@pytest.mark.slow
def test_estimates_alone_decide_where_nothing_is_measured_on_the_way(
    tmp_path: Path, setting: Callable[..., Setting], spec: Callable[..., AdaptSpec], machine: FakeTarget
) -> None:
    asked = spec(search="netadapt", delta=0.1, hybrid=0.0, check_every=0)
    result = adapt(asked, tmp_path / "run", setting=setting())
    assert [row.step for row in AdaptStore(tmp_path / "run").energies()] == [0]
    assert result.goals[0].met


@pytest.mark.slow
@pytest.mark.parametrize("search", ["budget", "netadapt"])
def test_energy_and_macs_hold_together(
    search: str,
    tmp_path: Path,
    setting: Callable[..., Setting],
    spec: Callable[..., AdaptSpec],
    machine: FakeTarget,
) -> None:
    more = {"delta": 0.1, "hybrid": 0.0} if search == "netadapt" else {}
    asked = spec(goals=goals(energy="0.8x", macs="0.4x"), search=search, **more)
    result = adapt(asked, tmp_path / "run", setting=setting())
    assert {goal.name: goal.met for goal in result.goals} == {"macs": True, "energy": True}
    assert result.acceleration >= 2.5
    assert len(AdaptStore(tmp_path / "run").energies()) <= 3, "equal widths are not measured twice"


@pytest.mark.slow
def test_a_front_of_latency_and_energy_in_one_call(
    tmp_path: Path, setting: Callable[..., Setting], spec: Callable[..., AdaptSpec], machine: FakeTarget
) -> None:
    asked = spec(goals=goals(energy="0.5x", latency="0.7x", size="0.9x"), front=3, finetune_steps=0)
    result = adapt(asked, tmp_path / "run", setting=setting())
    assert {goal.name: goal.met for goal in result.goals} == {"latency": True, "energy": True, "size": True}
    found = result.adaptation
    assert found is not None
    assert found.energy is not None
    assert found.machine == found.energy.machine, "both tables are this machine's"
    energies = [point.estimate_mj or 0.0 for point in found.front]
    assert energies == sorted(energies, reverse=True)
    assert len(set(energies)) == 4
    for point in found.front:
        assert point.estimate_ms is not None
        shares = (point.estimate_mj or 0.0) / found.energy.budget_mj, point.estimate_ms / found.budget_ms
        assert point.cost >= max(shares) - 1e-9
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Estimate, mJ" in page


class Stop(Exception):
    """What a killed run looks like from inside."""


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_the_baselines_energy_of_its_beginning(
    tmp_path: Path, setting: Callable[..., Setting], spec: Callable[..., AdaptSpec], machine: FakeTarget
) -> None:
    def stop(task: str, _done: float, remark: str) -> None:
        if task == "netadapt" and remark.startswith("step 2:"):
            raise Stop

    asked = spec(search="netadapt", delta=0.1, hybrid=0.0, check_every=1)
    with pytest.raises(Stop):
        adapt(asked, tmp_path / "run", setting=setting(say=stop))
    before = AdaptStore(tmp_path / "run").energies()
    result = adapt(asked, tmp_path / "run", setting=setting(), resume=True)
    assert result.goals[0].met
    assert result.adaptation is not None
    assert result.adaptation.energy is not None
    assert result.adaptation.energy.checked[: len(before)] == before
    assert result.adaptation.energy.measured == 0, "the table was there"


@pytest.mark.slow
def test_a_budget_out_of_reach_ships_the_cheapest_and_says_so(
    tmp_path: Path, setting: Callable[..., Setting], spec: Callable[..., AdaptSpec], machine: FakeTarget
) -> None:
    result = adapt(spec(goals=goals(energy="0.01x")), tmp_path / "run", setting=setting())
    (goal,) = result.goals
    assert not goal.met
    assert "every layer is as narrow as it goes" in goal.reason
    assert "asked for 0.01× the energy, reached" in result.verdict


def test_counters_that_fail_during_a_run_end_it_in_one_line(
    tmp_path: Path,
    setting: Callable[..., Setting],
    spec: Callable[..., AdaptSpec],
    machine: FakeTarget,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Gone(FakeMeter):
        def read(self) -> Reading:
            raise PermissionError("permission denied")

    monkeypatch.setattr(adapt_energy, "counters", lambda device: Gone())
    with pytest.raises(TargetError, match=r"energy counters .* cannot be read any more: permission denied"):
        adapt(spec(), tmp_path / "run", setting=setting())


# Requests


def test_without_counters_nothing_is_begun(
    tmp_path: Path,
    setting: Callable[..., Setting],
    spec: Callable[..., AdaptSpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adapt_energy, "counters", lambda device: None)
    said = (
        r"^--energy: this machine has no energy counter that can be read for onnxruntime@threads=1 \(needed: "
        r"RAPL .* /sys/class/powercap\); limit --latency, --macs, --size or --parameters instead$"
    )
    for work in (lambda: adapt(spec(), tmp_path / "run", setting=setting()), lambda: plan(spec(), setting())):
        with pytest.raises(TargetError, match=said):
            work()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TargetError, match="runs on another machine, whose energy counters are not read"):
        meter_of("ssh://pi/onnxruntime")


def test_a_plan_counts_layers_and_their_time(
    tmp_path: Path, setting: Callable[..., Setting], spec: Callable[..., AdaptSpec], machine: FakeTarget
) -> None:
    found = plan(spec(), setting())
    steps = {step.name: step for step in found.steps}
    assert list(steps) == ["baseline", "energies of layers", "solve", "tune", "test and measure"]
    assert (found.layers, found.missing, found.energies) == (0, 0, 0)
    assert found.missing_energies > 20
    assert steps["energies of layers"].seconds == pytest.approx(found.missing_energies * 5 * 0.05)
    assert "up to 6 measurements" in steps["solve"].what
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_the_energy_in_millijoules(spec: Callable[..., AdaptSpec]) -> None:
    assert "--energy 500mJ" in adapt_command(spec(goals=goals(energy="0.5J")))


@pytest.mark.parametrize("bound", ["0.5x", "2mJ"])
def test_other_verbs_refuse_a_limit_on_energy(bound: str) -> None:
    asked = Goals(energy=parse_bound(bound, "energy"))
    said = "only tersa adapt limits energy; leave it out, or bound --latency"
    for verb in ("shrink", "prune"):
        with pytest.raises(UsageError, match=said):
            ShrinkSpec(verb=verb, goals=asked).check()
        with pytest.raises(UsageError, match=said):
            shrink_request(verb, {"energy": bound})
        assert "energy" not in SETTINGS[verb]
    with pytest.raises(UsageError, match=said):
        JointSpec(goals=asked).check()
    with pytest.raises(UsageError, match=said):
        shrink.shrink(ShrinkSpec(goals=asked), "nowhere")
    assert shrink_request("adapt", {"energy": bound}).goals == asked


def test_settings_of_tables_have_an_effect_with_energy_alone(spec: Callable[..., AdaptSpec]) -> None:
    spec(search="netadapt", check_every=3, allow_foreign=True).check()
    with pytest.raises(UsageError, match=r"--table: no effect: for tables of layers, and no --latency or"):
        spec(goals=goals(macs="0.5x")).check()
