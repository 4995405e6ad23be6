"""The timing loop with a clock of its own: order, calls per round, warm-up, bounds, reasons."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tersa.errors import ModelError
from tersa.export.artefact import Artefact
from tersa.export.processor import processor_name
from tersa.targets import rounds, ssh_runner
from tersa.targets.base import Effort, Pixels, RemoteTimes, Session
from tersa.targets.measure import (
    Timed,
    compare,
    likely_reason,
    measure,
    measure_timed,
    not_offered,
)
from tersa.targets.registry import parse
from tersa.targets.rounds import LEAST_ROUNDS, TRIES, Here, never, time_rounds, time_sides, untimed_calls

Make = Callable[..., Session]
IMAGES = np.zeros((2, 1, 8, 8), np.float32)


def test_a_known_cost_is_measured_exactly(session: Make, clock: Callable[[], int]) -> None:
    [found] = measure([session(lambda _: 0.5)], IMAGES, effort=Effort(seconds=1.0), clock=clock)
    assert found.latency_ms.median == pytest.approx(0.5)
    assert found.latency_ms.p10 == found.latency_ms.p90 == pytest.approx(0.5)
    assert found.batch == 2
    assert found.rounds == 120
    assert found.calls == 120 * 8  # a round of 4 ms holds eight calls
    assert (found.drift, found.outliers) == (1.0, 0)
    assert found.runtime == "fake 1"


def test_rounds_alternate_in_order(session: Make, clock: Callable[[], int]) -> None:
    log: list[str] = []
    sides = [session(lambda _: 10.0, "A", log), session(lambda _: 10.0, "B", log)]
    [first, _] = time_rounds(sides, [IMAGES, IMAGES], Effort(seconds=0.05), clock)
    assert log[first.warmup * 2 :] == list("AABBBBAAAABBBBAAAABB")  # one call untimed, one timed


def test_warm_up_waits_for_a_steady_time(session: Make, clock: Callable[[], int]) -> None:
    effort = Effort(seconds=0.1, warmup_seconds=10.0)
    [quick, slow] = time_rounds(
        [session(lambda _: 5.0), session(lambda call: 50.0 / (call + 1) + 5.0)],
        [IMAGES, IMAGES],
        effort,
        clock,
    )
    assert quick.warmup == 4
    assert slow.warmup > 6
    assert slow.times_ms.max() < 9.0


def test_warm_up_is_bounded(session: Make, clock: Callable[[], int]) -> None:
    never = session(lambda call: 5.0 + 5.0 * (call % 2))
    [found] = time_rounds([never], [IMAGES], Effort(seconds=0.05, warmup_seconds=0.1), clock)
    assert found.warmup < 0.1 * 1000 / 5.0 + 3


@pytest.mark.parametrize(("cost", "rounds"), [(1000.0, 3), (100.0, 10), (4.0, 120)])
def test_slow_networks_get_fewer_rounds(
    cost: float, rounds: int, session: Make, clock: Callable[[], int]
) -> None:
    [found] = time_rounds([session(lambda _: cost)], [IMAGES], Effort(seconds=1.0), clock)
    assert len(found.times_ms) == rounds
    assert found.calls == 1


def test_a_comparison_of_a_slow_and_a_quick_side(session: Make, clock: Callable[[], int]) -> None:
    found = compare(
        session(lambda _: 3.0, "baseline"),
        session(lambda _: 1.0, "result"),
        IMAGES,
        effort=Effort(seconds=0.2),
        clock=clock,
    )
    assert found.verdict == "faster"
    assert found.speedup == pytest.approx(3.0)
    assert found.reason == ""
    assert found.before is not None
    assert found.after is not None
    assert (found.before.model, found.after.model) == ("baseline", "result")


@pytest.mark.slow
def test_equal_sides_under_load_do_not_differ(session: Make, clock: Callable[[], int]) -> None:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        jitter = rng.gamma(2.0, 0.02, 100_000) * np.repeat(rng.choice([1.0, 20.0], 1000, p=[0.9, 0.1]), 100)
        sides = [
            session(lambda call, jitter=jitter: 1.0 + jitter[call]),
            session(lambda call, jitter=jitter: 1.0 + jitter[-call - 1]),
        ]
        found = compare(sides[0], sides[1], IMAGES, effort=Effort(seconds=0.5), clock=clock)
        assert found.verdict == "no difference"
        assert found.reason


def test_outputs_are_compared_before_anything_is_timed(session: Make, clock: Callable[[], int]) -> None:
    log: list[str] = []
    sides = [session(lambda _: 1.0, "A", log), session(lambda _: 1.0, "B", log)]
    wrong = np.full((2, 3), 0.5, np.float32)
    with pytest.raises(ModelError, match=r"B on fake@threads=1 does not give .* 0\.5 \(allowed 0\.001\)"):
        measure(sides, IMAGES, reference=[np.zeros((2, 3), np.float32), wrong], clock=clock)
    assert log == ["A", "B"]
    with pytest.raises(ModelError, match="inf"):
        measure(sides, IMAGES, reference=[np.zeros((1, 3), np.float32), None], clock=clock)


def test_settings_are_held_for_every_round_and_given_back(session: Make, clock: Callable[[], int]) -> None:
    depth: list[int] = []
    inside = 0

    @contextmanager
    def pinned() -> Generator[None]:
        nonlocal inside
        inside += 1
        depth.append(inside)
        yield
        inside -= 1

    time_rounds([session(lambda _: 5.0, pinned=pinned)], [IMAGES], Effort(seconds=0.05), clock)
    assert inside == 0
    assert set(depth) == {1}
    assert len(depth) == 11  # warm-up and ten rounds


def test_caches_that_another_network_filled_are_no_difference(
    session: Make, clock: Callable[[], int]
) -> None:
    """Each call of a run is closer to the steady time; only the steady time is measured."""
    log: list[str] = []

    def side(name: str) -> Session:
        def cost(_: int) -> float:
            run = next((i for i, each in enumerate(reversed(log)) if each != name), len(log))
            return 0.5 * (1.0 + max(0, 8 - run) / 8)

        return session(cost, name, log)

    found = time_rounds([side("A"), side("B")], [IMAGES, IMAGES], Effort(seconds=0.1), clock)
    for one in found:
        assert one.times_ms == pytest.approx(0.5)


@pytest.mark.parametrize("per_call_ms", [0.01, 0.3, 0.5, 3.0, 9.9, 30.0, 100.0, 101.0])
@pytest.mark.parametrize("round_ms", [0.5, 4.0])
def test_rounds_begin_over_ssh_as_they_do_here(per_call_ms: float, round_ms: float) -> None:
    assert ssh_runner.untimed(per_call_ms, round_ms) == untimed_calls(per_call_ms, round_ms)


def test_the_rules_over_ssh_are_those_here() -> None:
    names = (
        *("ALIKE", "RECOVERY", "RECOVERY_ROUNDS", "OVERTIME", "LEAST_ROUNDS"),
        *("LEAST_PER_START", "TRIES", "LONGEST_MS", "WARM_SHARE"),
    )
    assert [getattr(ssh_runner, name) for name in names] == [getattr(rounds, name) for name in names]


@pytest.mark.parametrize(
    "costs",
    [
        [lambda _: 0.5, lambda _: 0.6],  # alike: as many calls in a round
        [lambda _: 0.6, lambda _: 3.0],
        [lambda _: 300.0, lambda _: 1.0],
        [lambda call: 50.0 / (call + 1) + 5.0, lambda call: 5.0 + 5.0 * (call % 2)],  # slowly steady; never
        [lambda _: 5000.0],
    ],
)
def test_sides_over_ssh_are_timed_as_they_are_here(
    costs: list[Callable[[int], float]],
    session: Make,
    clock: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    effort = Effort(seconds=0.3, warmup_seconds=0.1)
    here: list[str] = []
    sides = [session(cost, str(index), here) for index, cost in enumerate(costs)]
    wanted = time_rounds(sides, [IMAGES] * len(sides), effort, clock)
    there: list[str] = []
    runs = [session(cost, str(index), there).run for index, cost in enumerate(costs)]
    monkeypatch.setattr(ssh_runner, "time", SimpleNamespace(perf_counter_ns=clock, monotonic=lambda: 0.0))
    told: list[dict[str, float]] = []
    message = {
        "sessions": list(range(len(runs))),
        "shapes": [list(IMAGES.shape)] * len(runs),
        **{name: getattr(effort, name) for name in ("seconds", "rounds", "round_ms", "warmup_seconds")},
    }
    done = ssh_runner.time_rounds(message, IMAGES.tobytes() * len(runs), runs, told.append, never)["done"]
    assert there == here
    assert [(one["calls"], one["warmup"]) for one in done] == [(one.calls, one.warmup) for one in wanted]
    for index, one in enumerate(wanted):
        assert [each["ms"] for each in told if each["session"] == index] == pytest.approx(one.times_ms)


@pytest.mark.parametrize("counted", [[0, 0], [0, 1, 1, 1], list(range(8))])
@pytest.mark.parametrize("cost", [1.0, 9.0, 200.0])
def test_interrupted_rounds_over_ssh_are_made_again_as_they_are_here(
    cost: float,
    counted: list[int],
    session: Make,
    clock: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ssh_runner, "time", SimpleNamespace(perf_counter_ns=clock))
    logs: list[list[str]] = [[], []]
    counts = [iter(counted), iter(counted)]
    first, second = (session(lambda call: cost / (1 + call), "A", log) for log in logs)
    here = Here(first, IMAGES, clock, lambda: next(counts[0])).round(8)
    there = ssh_runner.one_round(second.run, IMAGES, 8, 1, lambda: next(counts[1]))
    assert there == pytest.approx(here, rel=1e-3)  # this clock counts whole nanoseconds
    assert logs[0] == logs[1]


def test_an_interrupted_round_is_made_again_with_half_the_calls(
    session: Make, clock: Callable[[], int]
) -> None:
    log: list[str] = []
    side = session(lambda call: 9.0 if call < 9 else 1.0, "A", log)
    counts = iter([0, 1, 1, 1])  # the first try is interrupted, the second is not
    found = Here(side, IMAGES, clock, lambda: next(counts)).round(8)
    assert found == pytest.approx(1.0)
    assert len(log) == 1 + 8 + 1 + 4
    counts = iter([0, 1, 1, 1])
    side = session(lambda call: 1.0 if call < 9 else 5.0, "A", log)
    found = Here(side, IMAGES, clock, lambda: next(counts)).round(8)
    assert found == pytest.approx(5.0)  # the quicker try was interrupted, and such tries are not chosen


def test_a_busy_machine_ends_the_rounds(session: Make, clock: Callable[[], int]) -> None:
    passing = iter(range(0, 10**6, 10))  # ten seconds between two looks
    side = Here(session(lambda _: 5.0), IMAGES, clock, never)
    [found] = time_sides([side], Effort(seconds=0.5), lambda: next(passing))
    assert len(found.times_ms) == LEAST_ROUNDS < 100


def test_every_start_has_its_share_of_the_rounds(session: Make, clock: Callable[[], int]) -> None:
    log: list[str] = []

    class Anew(Here):
        def close(self) -> None:
            log.append(f"{self.session.model} ends")

        def restart(self) -> None:
            log.append(f"{self.session.model} again")

    def side(name: str) -> Anew:
        one = session(lambda _: 5.0, name, log)
        return Anew(replace(one, model=name), IMAGES, clock, never)

    first, second = time_sides([side("A"), side("B")], Effort(seconds=0.6, starts=4), lambda: 0.0)
    assert first.starts == second.starts == (30, 30, 30, 30)
    assert len(first.times_ms) == 120
    between = [word for word in log if word.endswith(("ends", "again"))]
    forth, back = ["A ends", "B ends", "A again", "B again"], ["B ends", "A ends", "B again", "A again"]
    assert between == [*back, *forth, *back]  # each gets the memory of another one, none is always the first
    log.clear()
    time_sides([side("A"), side("B")], Effort(seconds=0.6, starts=3), lambda: 0.0, turned=True)
    assert [word for word in log if word.endswith(("ends", "again"))] == [
        *forth,
        *back,
    ]  # goes on alternating


def test_sides_that_cannot_be_started_anew_are_started_once(session: Make, clock: Callable[[], int]) -> None:
    [found] = time_sides([Here(session(lambda _: 5.0), IMAGES, clock, never)], Effort(seconds=0.6, starts=4))
    assert (found.starts, len(found.times_ms)) == ((), 120)


def test_a_call_that_takes_seconds_is_not_made_dozens_of_times(
    session: Make, clock: Callable[[], int]
) -> None:
    """It is interrupted every time, fills the warm-up by itself, and starts of processes change it little."""
    log: list[str] = []

    class Anew(Here):
        def close(self) -> None:
            log.append("ends")

        def restart(self) -> None:
            log.append("again")

    counts = iter(range(1000))
    side = Anew(session(lambda _: 5000.0, "A", log), IMAGES, clock, lambda: next(counts))
    [found] = time_sides([side], Effort(seconds=1.0, starts=4), lambda: 0.0)
    assert log == ["A"] * 5  # one untimed call, one that ends the warm-up, three rounds
    assert (found.times_ms.tolist(), found.starts) == ([5000.0] * 3, ())


def test_sessions_elsewhere_are_timed_there(session: Make) -> None:
    asked: list[Effort] = []

    def times(sessions: Sequence[Session], inputs: Sequence[Pixels], effort: Effort) -> list[RemoteTimes]:
        asked.append(effort)
        return [RemoteTimes((1.0, 2.0, 3.0), 4, 5) for _ in sessions]

    there = replace(session(lambda _: 5.0), elsewhere=times)
    [found] = time_rounds([there], [IMAGES], Effort(seconds=0.5, starts=4))
    assert asked == [Effort(seconds=0.5, starts=4)]
    assert (found.times_ms.tolist(), found.calls, found.warmup, found.starts) == ([1.0, 2.0, 3.0], 4, 5, ())


def test_a_round_that_is_always_interrupted_gives_its_quickest_try(
    session: Make, clock: Callable[[], int]
) -> None:
    log: list[str] = []
    side = session(lambda call: 2.0 if call == 2 else 5.0, "A", log)
    counts = iter(range(100))
    assert Here(side, IMAGES, clock, lambda: next(counts)).round(1) == pytest.approx(5.0)
    assert len(log) == 2 * TRIES
    log.clear()
    side = session(lambda call: 2.0 if call == 3 else 5.0, "A", log)
    assert Here(side, IMAGES, clock, lambda: next(counts)).round(1) == pytest.approx(2.0)


def test_garbage_collection_waits_and_comes_back(session: Make, clock: Callable[[], int]) -> None:
    seen: list[bool] = []
    side = session(lambda _: 5.0)

    def run(pixels: Pixels) -> Pixels:
        seen.append(gc.isenabled())
        return side.run(pixels)

    watched = Session("m", "t", "fp32", 1, "r", run)
    [found] = time_rounds([watched], [IMAGES], Effort(seconds=0.05), clock)
    assert not any(seen[found.warmup :])
    assert gc.isenabled()


def sides(
    session: Make, clock: Callable[[], int], before: float, after: float, **more: object
) -> tuple[Timed, Timed]:
    first, second = measure_timed(
        [session(lambda _: before), session(lambda _: after, **more)],
        IMAGES,
        effort=Effort(seconds=0.1),
        clock=clock,
    )
    return first, second


@pytest.mark.parametrize(
    ("before", "after", "more", "words"),
    [
        (0.012, 0.01, {}, "one call takes 0.01 ms: the runtime's fixed cost dominates"),
        (2.0, 2.0, {"precision": "int8"}, "converting between float and INT8"),
        (2.0, 2.0, {"threads": 4}, "do not keep 4 threads busy"),
        (2.0, 2.0, {}, "small share of the time"),
    ],
)
def test_reasons(
    before: float, after: float, more: dict[str, object], words: str, session: Make, clock: Callable[[], int]
) -> None:
    first, second = sides(session, clock, before, after, **more)
    assert words in likely_reason(first.measurement, second.measurement)


def test_a_busy_machine_is_named(session: Make, clock: Callable[[], int]) -> None:
    [steady, busy] = measure(
        [session(lambda _: 5.0), session(lambda call: 5.0 + 3.0 * (call % 3))],
        IMAGES,
        effort=Effort(seconds=0.3),
        clock=clock,
    )
    assert "the machine was busy" in likely_reason(steady, busy)


def test_what_is_not_offered_is_a_row_too() -> None:
    found = not_offered("torch@threads=1", "int8", "torch has fp32")
    assert (found.verdict, found.reason, found.after) == ("not offered", "torch has fp32", None)


@pytest.mark.parametrize(
    "wrong", [{"seconds": 0.0}, {"rounds": 2}, {"round_ms": -1.0}, {"warmup_seconds": 0.0}]
)
def test_effort_is_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Effort(**wrong)  # pyright: ignore[reportArgumentType] - one of several fields


def test_real_sessions_end_to_end(artefact: Artefact, int8_artefact: Artefact, images: Pixels) -> None:
    runtime = parse("onnxruntime@threads=1")
    sessions = [runtime.prepare(artefact, "baseline"), runtime.prepare(int8_artefact, "result")]
    found = compare(sessions[0], sessions[1], images, effort=Effort(seconds=0.05, warmup_seconds=0.05))
    assert found.before is not None
    assert found.after is not None
    assert 0.0 < found.before.latency_ms.p10 <= found.before.latency_ms.median <= found.before.latency_ms.p90
    assert found.after.precision == "int8"
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.high


def processors(*cores_of: tuple[int, int]) -> str:
    """The text of `/proc/cpuinfo` on x86, a block for each (socket, core)."""
    return "\n".join(
        f"processor\t: {place}\nmodel name\t: Some CPU\nphysical id\t: {socket}\ncore id\t\t: {core}\n"
        for place, (socket, core) in enumerate(cores_of)
    )


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (processors((0, 0), (0, 1), (0, 0), (0, 1)), 2),  # two threads of each core
        (processors((0, 0), (1, 0)), 2),
        ("processor\t: 0\nprocessor\t: 1\nModel\t: A Board Rev 1.2\n", 3),
        ("", 3),
    ],
)
def test_a_machine_over_ssh_names_its_processor_as_it_is_named_here(
    text: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_runner.os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert ssh_runner.hardware(text) == {"processor": processor_name(text), "cores": count}
