"""The rows of a result, as text: one source for the HTML page and for the terminal.

Both show these rows in this order, so that they tell the same story in the same words. Rows are frozen
dataclasses of strings that are ready to print; the few numbers and flags among them (`left`, `met`, `tone`)
only steer how a row is drawn. No colours, no HTML, no torch.

Example:
    >>> target_name("onnxruntime@threads=1")
    ('ONNX Runtime', 'threads=1')
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tersa.records.results import Comparison, Goal, LayerWidth, Measurement, ShrinkResult, Step
from tersa.report.numbers import (
    SAME_BELOW,
    change,
    count,
    duration,
    factor,
    latency,
    millijoules,
    milliseconds,
    percent,
    plus_minus,
    points,
    precision_text,
    share,
    si,
    size,
)

Tone = Literal["better", "same", "worse"]

NOT_OFFERED = "not offered by this runtime"
NOT_MEASURED = "not measured"
RUNTIMES = {
    "torch": "torch eager",
    "torch-compile": "torch compiled",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "litert": "LiteRT",
    "executorch": "ExecuTorch",
    "tensorrt": "TensorRT",
    "packed": "packed kernels",
    "c": "generated C",
}


@dataclass(frozen=True)
class BeforeAfterRow:
    """One figure of the network before and after.

    Attributes:
        label: what is counted.
        before: the baseline's value with its unit.
        after: the result's value with its unit.
        change: the difference in words (`312× fewer`, `−0.21 points`).
        tone: whether the change is the one that was wanted.
        left: result over baseline, for a bar.
    """

    label: str
    before: str
    after: str
    change: str
    tone: Tone
    left: float


@dataclass(frozen=True)
class GoalRow:
    """One goal: what was asked, what was reached, and whether that is within it."""

    text: str
    asked: str
    reached: str
    status: str
    reason: str
    met: bool


@dataclass(frozen=True)
class ComparisonRow:
    """Latency before and after on one runtime, with 95 % intervals, in ms."""

    runtime: str
    options: str
    precision: str
    before: str
    before_interval: str
    after: str
    after_interval: str
    verdict: str
    interval: str
    reason: str
    tone: Tone


@dataclass(frozen=True)
class LayerRow:
    """What is left of one layer; `left` is the kept fraction of its channels."""

    name: str
    kind: str
    kept: str
    left: float
    parameters: str
    parameter_share: str
    macs: str
    mac_share: str
    note: str


@dataclass(frozen=True)
class StepRow:
    """One step of the way; `loss` is its validation accuracy against the baseline's, in points."""

    index: str
    stage: str
    what: str
    accuracy: str
    loss: str
    parameters: str
    macs: str
    size: str
    latency: str
    seconds: str
    kept: bool


def before_after_rows(result: ShrinkResult) -> list[BeforeAfterRow]:
    """The figures that head a report: accuracy, parameters, MACs, file, latency, and a measured energy."""
    before, after = result.baseline, result.result
    gain = after.test_accuracy - before.test_accuracy
    first, last = before.latency_ms.median, after.latency_ms.median
    words, tone = _latency_change(result)
    rows = [
        BeforeAfterRow(
            "Accuracy",
            percent(before.test_accuracy),
            percent(after.test_accuracy),
            change(gain),
            "same" if abs(gain) < 0.005 else "better" if gain > 0 else "worse",
            _left(after.test_accuracy, before.test_accuracy),
        ),
        _smaller("Parameters", before.parameters, after.parameters, "fewer", "more"),
        _smaller("MACs", before.macs, after.macs, "fewer", "more"),
        _smaller("File", before.size_bytes, after.size_bytes, "smaller", "bigger"),
        BeforeAfterRow("Latency", milliseconds(first), milliseconds(last), words, tone, _left(last, first)),
    ]
    used, uses = before.energy_mj, after.energy_mj
    if used is not None and uses is not None:
        words, tone = _change(used, uses, "less", "more")
        name = "Energy, measured"
        rows.append(
            BeforeAfterRow(name, millijoules(used), millijoules(uses), words, tone, _left(uses, used))
        )
    return rows


def goal_rows(result: ShrinkResult) -> list[GoalRow]:
    """Every goal with what was asked and reached, in the order in which they were given."""
    return [
        GoalRow(
            text=goal.text,
            asked=goal_value(goal, goal.asked),
            reached=goal_value(goal, goal.reached),
            status="met" if goal.met else "missed",
            reason=goal.reason,
            met=goal.met,
        )
        for goal in result.goals
    ]


def comparison_rows(result: ShrinkResult) -> list[ComparisonRow]:
    """Latency on every runtime that was asked, in the order in which they were measured."""
    return [_comparison_row(comparison) for comparison in result.comparisons]


def layer_rows(result: ShrinkResult) -> list[LayerRow]:
    """What is left of each layer, and its share of all parameters and MACs that are left."""
    parameters = sum(layer.parameters_after for layer in result.layers)
    macs = sum(layer.macs_after for layer in result.layers)
    return [
        LayerRow(
            name=layer.name,
            kind=layer.kind,
            kept=f"{count(layer.after)} of {count(layer.before)}",
            left=_left(layer.after, layer.before),
            parameters=f"{si(layer.parameters_before)} → {si(layer.parameters_after)}",
            parameter_share=share(layer.parameters_after, parameters),
            macs=f"{si(layer.macs_before)} → {si(layer.macs_after)}",
            mac_share=share(layer.macs_after, macs),
            note=layer.note,
        )
        for layer in result.layers
    ]


def step_rows(steps: list[Step]) -> list[StepRow]:
    """Steps as text, for the short table (`key_steps`) and for the full one."""
    return [
        StepRow(
            index=str(step.index),
            stage=step.stage,
            what=step.what,
            accuracy=percent(step.validation_accuracy),
            loss="–"
            if step.index == 0
            else f"{plus_minus(-step.loss_points)} ± {abs(step.standard_error):.2f}",
            parameters=si(step.parameters),
            macs=si(step.macs),
            size="" if step.size_bytes is None else size(step.size_bytes),
            latency="" if step.latency_ms is None else latency(step.latency_ms),
            seconds=duration(step.seconds),
            kept=step.kept,
        )
        for step in steps
    ]


def kept_step(result: ShrinkResult) -> Step | None:
    """The step whose network became the result; the last one marked, None when none is."""
    return next((step for step in reversed(result.steps) if step.kept), None)


def pruned_step(result: ShrinkResult) -> Step | None:
    """The pruning step that the result was made from: the last one with the kept network's widths."""
    kept = kept_step(result)
    if kept is None:
        return None
    upto = [step for step in result.steps if step.stage in ("baseline", "prune") and step.index <= kept.index]
    return next((step for step in reversed(upto) if step.widths == kept.widths), None)


def key_steps(result: ShrinkResult) -> list[Step]:
    """The steps that tell the way: the baseline, the pruned network that was chosen, the furthest one
    tried, and everything after pruning."""
    chosen = {id(step) for step in (pruned_step(result), kept_step(result)) if step is not None}
    pruned = [step for step in result.steps if step.stage == "prune"]
    if pruned:
        chosen.add(id(pruned[-1]))
    return [step for step in result.steps if step.stage != "prune" or id(step) in chosen]


def main_comparison(result: ShrinkResult) -> Comparison | None:
    """The comparison on the goal's target in the result's precision: the one the headline speaks of."""
    on_target = [item for item in result.comparisons if item.target == result.target]
    same = [item for item in on_target if item.precision == result.result.precision]
    return same[0] if same else None


def goal_value(goal: Goal, value: float) -> str:
    """A goal's number with its unit."""
    match goal.unit:
        case "points":
            return points(value)
        case "%":
            return percent(value)
        case "bytes":
            return size(value)
        case "ms":
            return milliseconds(value)
        case "mJ":
            return millijoules(value)
        case "MACs":
            return f"{si(value)} MACs"
        case unit:
            return f"{si(value)} {unit}".strip()


def target_name(target: str) -> tuple[str, str]:
    """A target as a reader knows it, and its options.

    >>> target_name("ssh://pi/onnxruntime@threads=4"), target_name("my-runtime")
    (('ONNX Runtime on pi', 'threads=4'), ('my-runtime', ''))
    """
    runtime, _, options = target.partition("@")
    host = ""
    if runtime.startswith("ssh://"):
        host, _, runtime = runtime.removeprefix("ssh://").rpartition("/")
    name = RUNTIMES.get(runtime, runtime)
    return (f"{name} on {host}" if host else name), options


def environment_rows(result: ShrinkResult) -> list[tuple[str, str]]:
    """The machine that the numbers belong to."""
    machine = result.environment
    rows = [
        ("machine", machine.machine),
        ("processor", f"{machine.processor}, {machine.cores} cores"),
        ("memory", size(machine.memory_bytes)),
        ("system", machine.system),
        ("Python", machine.python),
        ("threads for training", str(machine.threads)),
        ("date", machine.date),
    ]
    told = [("container", machine.container), ("governor", machine.governor), ("commit", machine.commit)]
    return rows + [(name, value) for name, value in told if value]


def setting(value: str | int | float | bool) -> str:
    """One setting of the protocol as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)


def _comparison_row(comparison: Comparison) -> ComparisonRow:
    runtime, options = target_name(comparison.target)
    verdict, interval, tone = _verdict(comparison)
    return ComparisonRow(
        runtime=runtime,
        options=options,
        precision=precision_text(comparison.precision),
        before=_median(comparison.before),
        before_interval=_interval(comparison.before),
        after=_median(comparison.after),
        after_interval=_interval(comparison.after),
        verdict=verdict,
        interval=interval,
        reason=comparison.reason,
        tone=tone,
    )


def _verdict(comparison: Comparison) -> tuple[str, str, Tone]:
    """Verdict, its 95 % interval and its tone; slower is told as a factor above one."""
    ratio, low, high = comparison.speedup, comparison.low, comparison.high
    if comparison.verdict == "not offered":
        return NOT_OFFERED, "", "same"
    if ratio is None:
        return comparison.verdict, "", "same"
    known = low is not None and high is not None and low > 0 and high > 0
    if comparison.verdict == "slower":
        between = f"{factor(1 / high)} to {factor(1 / low)}" if known and low and high else ""
        return f"{factor(1 / ratio)} slower", between, "worse"
    between = f"{factor(low)} to {factor(high)}" if known and low and high else ""
    if comparison.verdict == "faster":
        return f"{factor(ratio)} faster", between, "better"
    return "no difference", between, "same"


def _latency_change(result: ShrinkResult) -> tuple[str, Tone]:
    comparison = main_comparison(result)
    if comparison is None:
        return "not compared", "same"
    words, _, tone = _verdict(comparison)
    return words, tone


def _smaller(label: str, before: int, after: int, less: str, more: str) -> BeforeAfterRow:
    show = size if label == "File" else si
    near = show(after) if label == "File" else si(after, like=before)
    words, tone = _change(before, after, less, more)
    return BeforeAfterRow(label, show(before), near, words, tone, _left(after, before))


def _change(before: float, after: float, less: str, more: str) -> tuple[str, Tone]:
    """The difference of a cost in words, and whether it is the one that was wanted."""
    ratio = before / after if after else math.inf
    if before == after:
        return "the same", "same"
    if 1 / SAME_BELOW < ratio < SAME_BELOW:
        return "about the same", "same"
    if ratio >= SAME_BELOW:
        return f"{factor(ratio)} {less}", "better"
    return f"{factor(1 / ratio)} {more}" if ratio else more, "worse"


def _left(after: float, before: float) -> float:
    """After over before; 1 where there was nothing before."""
    return after / before if before and math.isfinite(after / before) else 1.0


def _median(measurement: Measurement | None) -> str:
    return NOT_MEASURED if measurement is None else milliseconds(measurement.latency_ms.median)


def _interval(measurement: Measurement | None) -> str:
    return "" if measurement is None else f"{latency(measurement.low)} to {latency(measurement.high)}"


def layer_unit(layer: LayerWidth) -> str:
    """What a layer's width counts: neurons of a fully connected layer, else channels."""
    return "neurons" if layer.kind.lower() in ("linear", "fc", "dense", "gemm") else "channels"
