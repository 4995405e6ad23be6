"""One run of adapt at work: the network's layers with their costs, and how far estimates can be trusted.

Costs are shares of the limits asked (`adapt.cost`). Latency comes from the table times a factor that makes
the estimate of the last network that was measured whole equal to its measurement; the limit is aimed at a
little below (`aim`), because a network counts as within it only when the upper end of its interval is. Energy
comes from a table of its own in the same way, and counts as within its limit when the measured energy is.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from tersa.adapt.anatomy import Anatomy
from tersa.adapt.cost import Cost, Limit
from tersa.adapt.resource import Counter, Macs, Parameters, Table, byte_size, estimate, factor_of
from tersa.adapt.weights import Trainable, weights_of
from tersa.data.task import evenly
from tersa.errors import TargetError
from tersa.export.artefact import Artefact
from tersa.export.onnx import export_onnx
from tersa.models.summary import macs, parameters
from tersa.numerics import paired_loss
from tersa.prune.criteria import CRITERIA
from tersa.prune.evidence import collect
from tersa.prune.groups import Groups
from tersa.prune.protocol import layer_widths
from tersa.recipes.adapt_energy import held
from tersa.recipes.adapt_request import AdaptSpec
from tersa.recipes.adapt_store import AdaptStore
from tersa.recipes.deploy import QUICK_SECONDS, race, race_energy
from tersa.recipes.job import Job
from tersa.records.adaptation import Checked, CheckedEnergy
from tersa.records.results import Comparison, Step
from tersa.study.cluster import Crew
from tersa.train.evaluation import Evaluation, evaluate

log = logging.getLogger(__name__)

AIM = 0.97
"""Share of a limit on latency or energy that widths are chosen for: intervals are at least 2 % wide, and a
round of energy is read to 2 %."""

STEADY, REPEATS = 0.1, 3
"""A measurement whose interval is wider than this share of it is made again, on a busy machine so many times;
the one with the narrowest interval counts."""

GLANCE = 500
"""Validation images of a step that was ranked without training: its accuracy is shown and decides nothing."""

Widths = tuple[int, ...]

MEASURED = ("latency", "energy")
"""Resources that are estimated, and measured on the way; the others are counted."""


@dataclass(frozen=True)
class Measured:
    """A whole network, measured beside the baseline.

    Attributes:
        latency: None where it is not limited.
        energy: None where it is not limited.
    """

    latency: Checked | None
    energy: CheckedEnergy | None


@dataclass
class Fit:
    """One run at work.

    Attributes:
        job: the run, as shrink has it.
        spec: what is asked.
        anatomy: layers of the baseline, channels as functions of widths.
        table: latencies of single layers, with the factor in use; None where latency was not asked for.
        energies: the same of energy.
        store: candidates and measurements on disk.
        aim: share of the latency limit that is aimed at; less after a network whose interval was above it.
        crew: workers that fine-tune candidates.
        data_dir: where they look for data first.
        cause: why no candidate of a step lived, in words, where they did not diverge.
    """

    job: Job
    spec: AdaptSpec
    anatomy: Anatomy
    table: Table | None
    store: AdaptStore
    energies: Table | None = None
    crew: Crew = field(default_factory=Crew)
    data_dir: Path | None = None
    cause: str = ""
    aim: float = field(init=False)
    resources: dict[str, Counter] = field(init=False)

    def __post_init__(self) -> None:
        start, whole = self.job.dock.start, self.anatomy
        self.aim = self.first_aim
        assert start is not None
        file = start.size_bytes - estimate(whole, byte_size()).value
        weights = weights_of(self.job.baseline, self.job.groups)
        self.resources = {
            "macs": Counter(whole, Macs()),
            "size": Counter(whole, Parameters("bytes", "bytes", start=file, each=4)),
            "parameters": Counter(weights, Trainable()),
        }
        if self.table is not None:
            self.resources["latency"] = Counter(whole, self.table)
        if self.energies is not None:
            self.resources["energy"] = Counter(whole, self.energies)

    @property
    def first_aim(self) -> float:
        """What `aim` begins with: `AIM`, so that the interval is within the limit, too; all of it where
        estimates alone decide."""
        return AIM if self.spec.check_every else 1.0

    def limits(self) -> dict[str, float]:
        """Every limit that was asked, in its unit."""
        start, goals = self.job.dock.start, self.job.goals
        assert start is not None
        asked = (
            ("latency", goals.latency, start.latency_ms),
            ("energy", goals.energy, start.energy_mj),
            ("macs", goals.macs, float(start.macs)),
            ("size", goals.size, float(start.size_bytes)),
            ("parameters", goals.parameters, float(start.parameters)),
        )
        return {name: bound.limit(reference) for name, bound, reference in asked if bound is not None}

    @property
    def measures(self) -> bool:
        """A limit is held by measurements."""
        return not self.limits().keys().isdisjoint(MEASURED)

    def cost(self, share: float = 0.0, *, measured: bool = True) -> Cost:
        """What the search goes by.

        Args:
            measured: count what is measured, where it is limited.
            share: of the way back from the limits to the baseline, for the points of a front: limits are
                limit^(1 - share) baseline^share.
        """
        rows: list[Limit] = []
        for name, most in self.limits().items():
            if name in MEASURED and not measured:
                continue
            counter = self.resources[name]
            aimed = most * {"latency": self.aim, "energy": self.first_aim}.get(name, 1.0)
            whole = counter.total(self.anatomy.widths)
            rows.append(Limit(counter, max(aimed, 1e-12) ** (1.0 - share) * whole**share))
        return Cost(rows)

    def estimate_ms(self, widths: Sequence[int]) -> float | None:
        """Latency by the table, corrected; None without a table."""
        return self.resources["latency"].total(widths) if self.table is not None else None

    def estimate_mj(self, widths: Sequence[int]) -> float | None:
        """Energy by the table, corrected; None without a table."""
        return self.resources["energy"].total(widths) if self.energies is not None else None

    def widths(self, groups: Groups) -> Widths:
        """Of all groups, in the anatomy's order."""
        return tuple(len(group.units) for group in groups.groups)

    def importances(self, model: nn.Module, groups: Groups, index: int) -> list[Tensor]:
        """Of the units of each group; no normalisation: they are compared within their group alone."""
        job, protocol = self.job, self.job.protocol
        generator = torch.Generator().manual_seed(job.seed + index)
        chosen = torch.randperm(len(job.task.train), generator=generator)[: protocol.criterion_samples]
        images = job.task.train.take(chosen)
        model.to(job.device)
        scores = collect(model, groups, job.task, images, CRITERIA[protocol.criterion], generator=generator)
        model.cpu()
        return list(torch.split(scores, [len(group.units) for group in groups.groups]))

    def check(self, model: nn.Module, widths: Sequence[int], step: int) -> Measured:
        """Measure a network beside the baseline, and correct the factors by it.

        Raises:
            TargetError: the runtime or the counters have gone.
        """
        with self.store.timed("measure"):
            path = self.job.way.folder / "steps" / "candidate.onnx"
            artefact = export_onnx(model, self.job.task, path)
            latency = self._clocked(artefact, widths, step) if self.table is not None else None
            energy = self._metered(artefact, widths, step) if self.energies is not None else None
        for row in filter(None, (latency, energy)):
            self._learn(row)
        return Measured(latency, energy)

    def stored(self, step: int) -> Measured | None:
        """What was measured of a step; None where something is missing."""
        latencies = [row for row in self.store.checks() if row.step == step]
        energies = [row for row in self.store.energies() if row.step == step]
        if (self.table is not None and not latencies) or (self.energies is not None and not energies):
            return None
        return Measured(latencies[-1] if latencies else None, energies[-1] if energies else None)

    def share(self, found: Measured) -> float:
        """The largest share of a limit that a measured network takes up: the upper end of its interval of the
        limit on latency, its energy of that on energy."""
        limits = self.limits()
        latency = found.latency.high / limits["latency"] if found.latency else 0.0
        return max(latency, found.energy.measured_mj / limits["energy"] if found.energy else 0.0)

    def within(self, found: Measured) -> bool:
        """A measured network is within the limits on latency and energy, where there are any."""
        return self.share(found) <= 1.0

    def _learn(self, row: Checked | CheckedEnergy) -> None:
        """Estimates follow a measurement; where its interval alone was above the limit, the aim goes down."""
        if isinstance(row, CheckedEnergy):
            assert self.energies is not None
            self.energies.factor = row.factor
            return
        assert self.table is not None
        self.table.factor = row.factor
        limit = self.limits()["latency"]
        if row.step and row.measured_ms <= limit < row.high:
            self.aim = min(self.aim, 0.995 * row.measured_ms / row.high)

    def _clocked(self, artefact: Artefact, widths: Sequence[int], step: int) -> Checked:
        """The latency of a network's file, stored; on a busy machine the steadiest of a few measurements."""
        dock = self.job.dock
        assert dock.reference is not None
        rows: list[Checked] = []
        for _ in range(REPEATS):
            timed = race(dock, dock.reference, artefact, seconds=QUICK_SECONDS)
            rows.append(self._checked(timed, widths, step))
            if rows[-1].high - rows[-1].low <= STEADY * rows[-1].measured_ms:
                break
        row = min(rows, key=lambda each: (each.high - each.low) / each.measured_ms)
        self.store.add_check(row)
        return row

    def _metered(self, artefact: Artefact, widths: Sequence[int], step: int) -> CheckedEnergy:
        """The energy of a network's file, stored."""
        dock, table = self.job.dock, self.energies
        assert dock.reference is not None
        assert dock.start is not None
        assert table is not None
        before, after = race_energy(dock, dock.reference, artefact, seconds=QUICK_SECONDS)
        measured, first = dock.start.energy_mj * after / before, self.store.energies()[0].factor
        row = held(self.anatomy, table, widths, step=step, measured=measured, first=first)
        self.store.add_energy(row)
        return row

    def _checked(self, timed: Comparison, widths: Sequence[int], step: int) -> Checked:
        start, table = self.job.dock.start, self.table
        assert start is not None
        assert table is not None
        if timed.speedup is None or timed.low is None or timed.high is None:
            raise TargetError(
                f"{self.job.dock.target} cannot be measured any more: {timed.reason}; --resume goes on"
            )
        measured = start.latency_ms / timed.speedup
        known = estimate(self.anatomy, table, widths)
        plain = table.plain(self.anatomy.channels(widths))
        earlier = self.store.checks()
        first = earlier[0].factor if earlier else table.factor
        return Checked(
            step=step,
            estimate_ms=known.value,
            first_ms=table.start + first * plain,
            measured_ms=measured,
            low=start.latency_ms / timed.high,
            high=start.latency_ms / timed.low,
            factor=factor_of(measured, plain, table.start),
            interpolated=known.interpolated,
            layers=known.exact + known.interpolated,
        )

    def calibrate(self) -> None:
        """The factors of the baseline, or the last ones that a run that goes on had found."""
        for row in [*self._latencies(), *self._energies()]:
            self._learn(row)

    def _energies(self) -> list[CheckedEnergy]:
        """Measurements so far, the baseline's first."""
        start, rows, table = self.job.dock.start, self.store.energies(), self.energies
        assert start is not None
        if table is None or rows:
            return rows
        table.factor = 1.0
        whole = self.anatomy.widths
        row = held(self.anatomy, table, whole, step=0, measured=start.energy_mj, first=None)
        self.store.add_energy(row)
        return [row]

    def _latencies(self) -> list[Checked]:
        """Measurements so far, the baseline's first."""
        start, rows, table = self.job.dock.start, self.store.checks(), self.table
        assert start is not None
        if table is not None and not rows:
            table.factor = 1.0
            plain = estimate(self.anatomy, table)
            factor = factor_of(start.latency_ms, plain.value - table.start, table.start)
            count = plain.exact + plain.interpolated
            row = Checked(
                step=0,
                estimate_ms=plain.value,
                first_ms=plain.value,
                measured_ms=start.latency_ms,
                low=start.latency_ms,
                high=start.latency_ms,
                factor=factor,
                interpolated=plain.interpolated,
                layers=count,
            )
            self.store.add_check(row)
            rows = [row]
        return rows

    @contextmanager
    def as_begun(self) -> Generator[None]:
        """Factors and aim as the search began with them, whatever they have come to."""
        tables = [(self.table, self.store.checks()), (self.energies, self.store.energies())]
        used = [(table, table.factor, rows[0].factor) for table, rows in tables if table is not None]
        aim, self.aim = self.aim, self.first_aim
        for table, _, first in used:
            table.factor = first
        try:
            yield
        finally:
            self.aim = aim
            for table, factor, _ in used:
                table.factor = factor

    def answers(self, model: nn.Module, most: int | None = None) -> Evaluation:
        """A network's answers on the validation split, or on `most` images of it (`Split.spread`)."""
        job = self.job
        with self.store.timed("evaluate"):
            found = evaluate(model, job.task.validation.spread(most), job.task, device=job.device)
            model.cpu()
        return found

    def weigh(
        self,
        model: nn.Module,
        groups: Groups,
        index: int,
        what: str,
        seconds: float,
        found: Evaluation | None = None,
    ) -> Step:
        """The row of a step.

        Args:
            model: its network.
            groups: what is left of the channel groups.
            index: of the step.
            what: was done, in words.
            seconds: that took.
            found: its answers on images of the validation split, or on all, where they are known.
        """
        job = self.job
        if found is None:
            found = self.answers(model)
        seen = evenly(len(job.dock.correct), len(found.correct)).numpy()
        loss = paired_loss(job.dock.correct[seen], found.correct.numpy())
        return Step(
            index=index,
            stage="prune" if index else "baseline",
            what=what,
            validation_accuracy=found.accuracy,
            loss_points=loss.points,
            standard_error=loss.standard_error,
            parameters=parameters(model),
            macs=macs(model, job.task.shape),
            estimate_ms=self.estimate_ms(self.widths(groups)),
            widths=layer_widths(model, job.groups),
            seconds=seconds,
        )


def lowest(groups: Groups, importances: Sequence[Tensor], widths: Sequence[int]) -> Tensor:
    """The least important units of every group beyond the widths asked, (U,), ascending."""
    gone = [
        group.units[torch.argsort(scores, stable=True)[: len(group.units) - width]]
        for group, scores, width in zip(groups.groups, importances, widths, strict=True)
    ]
    return torch.cat(gone).sort().values if gone else torch.empty(0, dtype=torch.long)
