"""The trials of a joint search in Optuna: what is sampled, where it is kept, how a killed search goes on.

Sampling is by the multi-objective tree-structured Parzen estimator (TPE), for which goals are constraints;
the first `STARTUP` networks are drawn at random, the very first is the largest there is. The sampler is
seeded anew for every trial from the search's seed and the number of those that have ended, so that a search
which was killed goes on as if it had not been. What was running then is tried again with its settings.

Optuna is an extra; it is imported by nothing else.

References:
    Bergstra et al., Algorithms for Hyper-Parameter Optimization (NeurIPS 2011). Ozaki et al., Multiobjective
    Tree-Structured Parzen Estimator (JAIR 2022).
"""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tersa.errors import DataError, Diverged, UsageError, brief
from tersa.recipes.goals import CostName
from tersa.recipes.joint_result import TriedNetwork

STARTUP = 8
ROW, SPEC, TROUBLE = "network", "spec", "trouble"
"""Names of what is kept beside Optuna's own columns."""
GOAL = "goals"
OWN = "search"
"""Name of the search in its folder's own file, which stays when the folder is renamed."""
BY_CONTENT = {"data": "images", "run": "baseline", "checkpoint": "baseline"}
"""Paths, which differ between machines, and the digests that stand for what is there."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Axis:
    """One thing that is sampled.

    Attributes:
        name: `width`, `prune`, `prune.LAYER` or `bits.LAYER`.
        values: to choose from; empty for a range.
        low: least of a range.
        high: most of a range.
        step: between two values of a range.
    """

    name: str
    values: tuple[float, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float = 0.0

    @property
    def count(self) -> int:
        """Values that it may take."""
        return len(self.values) or round((self.high - self.low) / self.step) + 1


def combinations(axes: Sequence[Axis]) -> int:
    """Settings that there are.

    >>> combinations([Axis("width", (0.5, 1.0)), Axis("bits.fc1.weight", low=2, high=4, step=1)])
    6
    """
    return math.prod(axis.count for axis in axes)


@dataclass(frozen=True)
class Asked:
    """A trial to be evaluated.

    Attributes:
        number: of the trial.
        settings: by the axes' names.
    """

    number: int
    settings: Mapping[str, float]


def load_optuna() -> Any:
    """The optuna package, quiet.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise UsageError(
            "tersa search needs Optuna, which is not installed: pip install 'tersa[search]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


@contextmanager
def quiet() -> Generator[None]:
    """Parts of Optuna say at every call that they may change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", load_optuna().exceptions.ExperimentalWarning)
        yield


def url_of(path: Path) -> str:
    """The database URL of an SQLite file."""
    load_optuna()
    from sqlalchemy.engine import URL

    return URL.create("sqlite", database=str(path)).render_as_string()


def own_study(path: Path) -> str:
    """Name of the search in a folder's own file: `OWN`, or that of the only one, as older versions named it.

    Raises:
        UsageError: several searches, none of them of the folder's name; or a damaged file.
    """
    if not path.is_file():
        return OWN
    optuna = load_optuna()
    from sqlalchemy.exc import SQLAlchemyError

    try:
        names: list[str] = optuna.get_all_study_names(storage=url_of(path))
    except (SQLAlchemyError, optuna.exceptions.OptunaError, OSError, RuntimeError) as error:
        raise UsageError(f"{path} cannot be read: {brief(error)}; start again with --overwrite") from None
    if not names or OWN in names:
        return OWN
    here = path.resolve().parent.name
    if len(names) == 1 or here in names:
        return names[0] if len(names) == 1 else here
    raise UsageError(
        f"{path} holds the searches {', '.join(sorted(names))}; name the folder as the one that is meant"
    )


def shown(url: str) -> str:
    """A database URL without its password.

    Raises:
        UsageError: not a database URL.
    """
    load_optuna()
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        raise UsageError(
            "--storage is not a database URL; write sqlite:///FILE, postgresql://USER:PASSWORD@HOST/NAME or "
            "mysql://USER:PASSWORD@HOST/NAME"
        ) from None


def _share(known: Mapping[str, Any]) -> str:
    """How a machine gets the baseline of a search that has these settings."""
    given = known.get("run") or known.get("checkpoint")
    if given:
        return f"give those that it was begun with ({given} there) with --run or --checkpoint, as there"
    return (
        "each machine trains its own, and they differ; train one (tersa train), and begin a search under "
        "another --study on every machine with --run or --checkpoint of that one, and --widths 1"
    )


@dataclass
class Trials:
    """The trials of one search.

    Attributes:
        study: of Optuna.
        axes: that are sampled.
        costs: objectives after accuracy.
        seed: of the search.
    """

    study: Any
    axes: tuple[Axis, ...]
    costs: tuple[CostName, ...]
    seed: int

    @staticmethod
    def open(
        url: str,
        name: str,
        axes: Sequence[Axis],
        costs: Sequence[CostName],
        seed: int,
        spec: Mapping[str, Any],
    ) -> Trials:
        """Begin a search in a database, or join the one of this name.

        Raises:
            UsageError: no such database, or the search there has other settings.
        """
        optuna = load_optuna()
        from sqlalchemy.exc import SQLAlchemyError

        try:
            storage = optuna.storages.RDBStorage(url)
            study = optuna.create_study(
                storage=storage,
                study_name=name,
                directions=["maximize", *("minimize" for _ in costs)],
                load_if_exists=True,
            )
        except (SQLAlchemyError, optuna.exceptions.OptunaError, ImportError, OSError, RuntimeError) as error:
            raise UsageError(f"--storage {shown(url)}: {brief(error)}") from None
        found = Trials(study, tuple(axes), tuple(costs), seed)
        found._same(spec, shown(url))
        return found

    def _same(self, spec: Mapping[str, Any], where: str) -> None:
        """Write the settings down, or hold them against those that are there."""
        wanted = json.loads(json.dumps(dict(spec)))
        known = self.study.user_attrs.get(SPEC)
        if known is None:
            self.study.set_user_attr(SPEC, wanted)
            with quiet():
                self.study.set_metric_names(["validation accuracy", *self.costs])
            return
        differing = [
            key
            for key in sorted(known.keys() | wanted.keys())
            if known.get(key) != wanted.get(key)
            and known.get(BY_CONTENT.get(key, key)) != wanted.get(BY_CONTENT.get(key, key))
        ]
        if not differing:
            return
        name = f"the search '{self.study.study_name}' in {where}"
        if set(differing) <= {"baseline", "run", "checkpoint"}:
            raise UsageError(f"{name} has a baseline of other weights; {_share(known)}")
        told = [
            f"{key} was {known.get(key, 'not given')}, is now {wanted.get(key, 'not given')}"
            for key in differing
        ]
        raise UsageError(
            f"{name} has other settings: {'; '.join(told)}; give another --study, or its settings"
        )

    def rows(self) -> list[TriedNetwork]:
        """Every network that was tried, in order.

        Raises:
            DataError: a row of another program.
        """
        rows: list[TriedNetwork] = []
        for trial in self._ended():
            if ROW in trial.user_attrs:
                try:
                    rows.append(TriedNetwork.model_validate(trial.user_attrs[ROW]))
                except ValueError as error:
                    raise DataError(
                        f"trial {trial.number} of '{self.study.study_name}': {brief(error)}"
                    ) from None
        return rows

    @property
    def diverged(self) -> int:
        """Trials whose training ended in NaN."""
        return sum(TROUBLE in trial.user_attrs for trial in self._ended())

    @property
    def ended(self) -> int:
        """Trials that are over, well or not."""
        return len(self._ended())

    @property
    def exhausted(self) -> bool:
        """All settings that there are have been tried."""
        return len({self._key(trial.params) for trial in self._ended()}) >= combinations(self.axes)

    def _ended(self) -> list[Any]:
        return [t for t in self.study.get_trials(deepcopy=False) if {ROW, TROUBLE} & t.user_attrs.keys()]

    def run(
        self,
        wanted: int,
        evaluate: Callable[[Sequence[Asked]], Sequence[TriedNetwork | Diverged]],
        *,
        alone: bool,
        say: Callable[[int, TriedNetwork | None], None],
        at_once: int = 1,
    ) -> None:
        """Try networks until `wanted` trials have ended, or all settings have been tried.

        Args:
            wanted: in all, with those that are there.
            evaluate: trials -> their networks, or why there is none.
            alone: nobody else works in this storage: trials that are running were killed.
            say: told of each trial that ended.
            at_once: trials that are sampled before the next ones are evaluated.
        """
        if alone:
            self._mend()
        if not self.study.get_trials(deepcopy=False):
            self._enqueue(self._largest())
        while (ended := self.ended) < wanted and not self.exhausted:
            self._some(min(at_once, wanted - ended), evaluate, say)

    def _some(
        self,
        count: int,
        evaluate: Callable[[Sequence[Asked]], Sequence[TriedNetwork | Diverged]],
        say: Callable[[int, TriedNetwork | None], None],
    ) -> None:
        """Sample so many trials, then evaluate them; settings that are known already are not tried again."""
        known = {self._key(t.params): t.user_attrs[ROW] for t in self._ended() if ROW in t.user_attrs}
        trials = [self._ask() for _ in range(count)]
        first: dict[tuple[tuple[str, float], ...], Any] = {}
        for trial in trials:
            if self._key(trial.params) not in known:
                first.setdefault(self._key(trial.params), trial)
        asked = [Asked(trial.number, trial.params) for trial in first.values()]
        found = dict(zip(first, evaluate(asked), strict=True)) if asked else {}
        for trial in trials:
            key = self._key(trial.params)
            row = found[key] if key in found else TriedNetwork.model_validate(known[key])
            if isinstance(row, TriedNetwork):
                row = row.model_copy(update={"number": trial.number})
            ended_before = self.ended
            self._end(trial, row)
            say(ended_before, row if isinstance(row, TriedNetwork) else None)

    def _ask(self) -> Any:
        optuna = load_optuna()
        running = sum(not t.state.is_finished() for t in self.study.get_trials(deepcopy=False))
        with quiet():
            self.study.sampler = optuna.samplers.TPESampler(
                seed=self.seed + 1000 * self.ended + running, n_startup_trials=STARTUP, multivariate=True
            )
            return self.study.ask(self._distributions())

    def _end(self, trial: Any, row: TriedNetwork | Diverged) -> None:
        with quiet():
            if isinstance(row, Diverged):
                log.warning("trial %d: %s", trial.number, row)
                trial.set_user_attr(TROUBLE, str(row))
                self.study.tell(trial, state=load_optuna().trial.TrialState.FAIL)
                return
            trial.set_constraint(GOAL, row.violation)
            trial.set_user_attr(ROW, row.model_dump(mode="json"))
            self._tell(trial, row)

    def _tell(self, trial: Any, row: TriedNetwork) -> None:
        self.study.tell(trial, [row.validation_accuracy, *(row.cost(name) for name in self.costs)])

    def _distributions(self) -> dict[str, Any]:
        made = load_optuna().distributions
        return {
            axis.name: made.CategoricalDistribution(axis.values)
            if axis.values
            else made.IntDistribution(int(axis.low), int(axis.high))
            if axis.step == 1
            else made.FloatDistribution(axis.low, axis.high, step=axis.step)
            for axis in self.axes
        }

    def _largest(self) -> dict[str, float]:
        """The settings of the network that loses least."""
        return {
            axis.name: max(axis.values)
            if axis.values
            else axis.low
            if axis.name.startswith("prune")
            else axis.high
            for axis in self.axes
        }

    def _enqueue(self, settings: Mapping[str, float]) -> None:
        self.study.enqueue_trial(dict(settings))

    def _mend(self) -> None:
        """Trials that a kill left running: given up, and tried again with their settings."""
        optuna = load_optuna()
        for trial in self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            if ROW in trial.user_attrs:  # killed between its last two lines
                self._tell(trial.number, TriedNetwork.model_validate(trial.user_attrs[ROW]))
                continue
            self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            if trial.params.keys() == {axis.name for axis in self.axes}:
                self._enqueue(trial.params)

    @staticmethod
    def _key(settings: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
        return tuple(sorted(settings.items()))
