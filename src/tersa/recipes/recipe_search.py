"""The job `search` of a recipe: width, pruning and bits searched together, as `tersa search` does.

Its settings are that verb's, with `trials` and `workers`. The network that suits the goals best is what it
leaves: `model.onnx`, and the coded file beside it.

Example:
    >>> asked = search_request({"data": "digits", "costs": "size,macs", "size": "0.1x", "trials": 4})
    >>> asked.spec.costs, asked.trials
    (('size', 'macs'), 4)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tersa.errors import UsageError, faults
from tersa.models.zoo import default_spec
from tersa.recipes.goals import Goals, parse_bound
from tersa.recipes.joint import joint_search
from tersa.recipes.joint_networks import axes_of
from tersa.recipes.joint_plan import plan_search
from tersa.recipes.joint_request import JointSpec
from tersa.recipes.joint_trials import load_optuna
from tersa.recipes.recipe_kind import Cost, Kind, Outcome, Trial, trying
from tersa.recipes.recipe_networks import BOUNDS, GOALS
from tersa.recipes.request import DEFAULT_GOALS, protocol_of
from tersa.recipes.setting import Setting
from tersa.recipes.shrink import prunable
from tersa.recipes.start import find_start
from tersa.records.results import Figures
from tersa.study.cluster import Crew

ONNX = "model.onnx"
TRIALS = 40
BESIDE = frozenset({"trials", "workers"})


@dataclass(frozen=True)
class SearchRequest:
    """What is searched, and how long.

    Attributes:
        spec: what is asked.
        trials: networks to try.
        workers: that are trained at once.
    """

    spec: JointSpec
    trials: int = TRIALS
    workers: int = 1

    @property
    def data(self) -> str:
        """Name of the data set, which a recipe loads for its checks."""
        return self.spec.data

    @property
    def validation(self) -> int | float | None:
        """Its validation split."""
        return self.spec.validation

    @property
    def seed(self) -> int:
        """Of that split."""
        return self.spec.seed


def search_request(settings: Mapping[str, Any]) -> SearchRequest:
    """The request of `tersa search` from flat settings; lists may be texts, as on the command line.

    Raises:
        UsageError: values that cannot be, all together.
    """
    found: list[str] = []
    given = dict(settings)
    numbers = {name: given.pop(name) for name in BESIDE & given.keys()}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            found.append(f"{name} is {value!r}; give a whole number above 0")
    goals: dict[str, Any] = {name: given.pop(name) for name in list(given) if name in GOALS}
    for kind in BOUNDS:
        if kind in goals:
            goals[kind] = trying(found, partial(parse_bound, str(goals[kind]), kind))
    asked = trying(found, lambda: Goals(**goals)) or Goals()
    for name in ("costs", "widths"):
        if isinstance(given.get(name), str):
            given[name] = tuple(part.strip() for part in str(given[name]).split(",") if part.strip())
    spec = trying(found, lambda: JointSpec(**given, goals=DEFAULT_GOALS if asked == Goals() else asked))
    trying(found, lambda: spec.check() if spec else None)
    trying(found, load_optuna)
    if spec is None or found:
        raise faults("search", list(dict.fromkeys(found)))
    return SearchRequest(spec, **numbers)


def _try(request: SearchRequest, trial: Trial) -> str:
    """Build the network, its channel groups and what would be searched, as the verb does before its work."""
    spec, task, source = request.spec, trial.task, trial.source
    if task is None or (source is not None and not source.model):
        return source.model if source else spec.model or ""
    if source is not None:
        spec = spec.model_copy(update={"run": None, "model": source.model})
    spec = spec.model_copy(update={"model": spec.model or default_spec(task.shape, len(task.classes))})
    base = spec.shrinking()
    begin = find_start(base, task)
    if not axes_of(spec, begin.pruned(), prunable(begin.pruned(), task, protocol_of(base, task))):
        raise UsageError("nothing to search: one width, no pruning and no bits; give widths, most or bits")
    return str(spec.model)


def _estimate(request: SearchRequest, trial: Trial) -> float | None:
    if trial.task is None or (trial.source is not None and not trial.source.model):
        return None
    spec = request.spec
    if trial.source is not None:
        spec = spec.model_copy(update={"run": None, "model": trial.source.model})
    return plan_search(spec, trial.setting, request.trials, _crew(request, trial.setting)).seconds


def _crew(request: SearchRequest, setting: Setting) -> Crew:
    return Crew(workers=request.workers, threads=setting.threads or 1)


def _work(request: SearchRequest, folder: Path, setting: Setting) -> Outcome:
    result = joint_search(
        request.spec,
        folder,
        trials=request.trials,
        setting=setting,
        crew=_crew(request, setting),
        resume=True,
    )
    whole = result.absolute(folder)
    return Outcome(
        verdict=result.verdict,
        model=result.model,
        before=_cost(result.baseline),
        after=_cost(result.result),
        goals=result.goals,
        artefacts=whole.artefacts,
        report=whole.report,
    )


def _cost(figures: Figures) -> Cost:
    return Cost(
        test_accuracy=figures.test_accuracy,
        parameters=figures.parameters,
        macs=figures.macs,
        size_bytes=figures.size_bytes,
        latency_ms=figures.latency_ms.median,
    )


SEARCH = Kind(
    "search",
    "width, pruning and bits searched together",
    "file",
    (frozenset(JointSpec.model_fields) - {"goals"}) | GOALS | BESIDE,
    {"run": ("network",)},
    search_request,
    _try,
    _work,
    _estimate,
    file=lambda request: ONNX,
)
