"""Document 000 again: its grid with its settings, and every published value beside ours.

    4 rules x 6 networks x 2 quantisers x 2 ranges x 7 bit widths, one seed        672 runs
    and the 4 x 6 networks without quantisation (tables 6.1 and 6.2)                24 runs

Adadelta with rate 1, times 0.7 after each epoch, batches of 64, 30 epochs, seed 1, weights and biases snapped
in place after every update with rounding to nearest; MNIST with mean 0 and deviation 1, Fashion-MNIST in
0..1. Of Fashion-MNIST the document prints quantised results as figures only: there the grid is run, and the
24 values that it prints as numbers are compared.

A folder holds the study (`study.toml`, `study.db`), `comparison.csv`, `summary.md`, `result.json` and
`report.html`. What is agreed on: the rank correlation over the cells published at 15 % or more (below it the
order is noise), and on how many of all cells learned or collapsed agree.

`quick` is a small part with few epochs, for a first look: it is labelled so everywhere.

References:
    Document 000, sections 4 and 5; its settings are in `tersa.study.cell.Cell` as defaults.

Example:
    >>> len(expand(study_of(Reproduction())).cells), len(expand(study_of(Reproduction(quick=True))).cells)
    (696, 78)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict

from tersa.errors import UsageError, faults, unknown
from tersa.files import write_atomic
from tersa.recipes import published
from tersa.recipes.folder import RESULT
from tersa.recipes.setting import Setting
from tersa.recipes.study import DATABASE, StudyPlan, plan_study, run_study
from tersa.recipes.study_compare import Row, compare, summarise, to_csv
from tersa.recipes.study_layout import network
from tersa.recipes.study_pictures import write_pictures
from tersa.recipes.study_report import write_study_report
from tersa.recipes.study_verdict import Answer, verdict
from tersa.records.base import SCHEMA, Record, write_record
from tersa.records.results import Environment
from tersa.report.numbers import plural
from tersa.report.study_view import Summary
from tersa.study.cell import Cell, CellResult
from tersa.study.cluster import LOCAL
from tersa.study.hypotheses import judge
from tersa.study.spec import Block, StudySpec, Value, expand
from tersa.study.store import StudyStore
from tersa.targets.environment import environment

RULES = ("bp", "hsic-document", "fa-document", "dni-document")
MODELS = (
    "mlp:4",
    "mlp:20x20x20x20x20x20",
    "mlp:50x50",
    "mlp:50x50x50",
    "mlp:100x100",
    "mlp:100x100x100",
)
BITS = (2, 3, 4, 5, 6, 7, 8)
FLOAT = 32
"""As a bit width: not quantised. Those runs belong to every grid."""
QUANTISERS = ("symmetric", "asymmetric")
RANGES = ("layer", "global")

QUICK_RULES = ("bp", "fa-document", "dni-document")
QUICK_MODELS = ("mlp:4", "mlp:100x100")
QUICK_BITS = (2, 4, 8)
QUICK_EPOCHS = 3
COMPARISON, SUMMARY = "comparison.csv", "summary.md"
PICTURED = {"model": "mlp:100x100", "quant": "symmetric", "bits": 8, "range": "layer"}
"""The cell of each rule whose network is looked at."""


class Reproduction(Record):
    """What to run of the document."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    data: Literal["mnist", "fashion-mnist"] = "mnist"
    """The data set."""
    quick: bool = False
    """A small part with few epochs."""
    rules: tuple[str, ...] = ()
    """Of the document's; empty: all of them, or the quick ones."""
    models: tuple[str, ...] = ()
    """Of the document's networks; empty: all of them, or the quick ones."""
    bits: tuple[int, ...] = ()
    """Widths; empty: all of them, or the quick ones. 32 alone: only the networks without quantisation."""
    seeds: int = 1
    """Seeds 1..n of every cell; the document has one."""
    epochs: int | None = None
    """Other than the document's 30, for a shorter trial."""

    @property
    def shortened(self) -> bool:
        """Not the document's settings."""
        return self.quick or self.epochs not in (None, Cell().epochs)


class RuleAgreement(Record):
    """How one rule's cells, or all, agree with the published ones."""

    name: str
    cells: int
    learned: int
    spearman: float | None
    agreement: float
    gap: float | None
    absolute_gap: float | None


class ReproduceResult(Record):
    """What `tersa reproduce quantized-training` found."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    schema_version: int = SCHEMA
    verb: Literal["reproduce quantized-training"] = "reproduce quantized-training"
    data: str
    """The data set."""
    quick: bool
    """Not the document's settings."""
    verdict: str
    """In one sentence."""
    cells: int
    """Runs of the study."""
    failed: int
    """Runs that ended with an error."""
    diverged: int
    """Runs that ended in NaN or infinity."""
    spearman: float | None
    """Rank correlation over the cells published at 15 % or more."""
    agreement: float | None
    """Percent of all compared cells that agree on learned or collapsed."""
    rules: list[RuleAgreement]
    """The same per rule, and over all, last."""
    artefacts: list[str]
    """Paths: the comparison, the summary, the study."""
    report: str
    """Path of the report."""
    environment: Environment | None = None
    """Machine and versions."""
    seconds: float
    """Wall time of this call."""


def study_of(wanted: Reproduction) -> StudySpec:
    """The document's grid as a study.

    Raises:
        UsageError: rules, networks or bits that the document does not have, all in one message.
    """
    rules = _chosen("rule", wanted.rules, RULES, QUICK_RULES if wanted.quick else RULES)
    models = _chosen("model", wanted.models, MODELS, QUICK_MODELS if wanted.quick else MODELS)
    widths = wanted.bits or (QUICK_BITS if wanted.quick else BITS)
    found = [
        f"{bits} bits are not in the document; it has 2 to 8, and {FLOAT} without quantisation"
        for bits in widths
        if bits not in (*BITS, FLOAT)
    ]
    if wanted.seeds < 1:
        found.append(f"{wanted.seeds} seeds; give 1 or more")
    if found:
        raise faults("reproduce quantized-training", found)
    epochs = wanted.epochs or (QUICK_EPOCHS if wanted.quick else None)
    fixed: dict[str, Value] = {"data": wanted.data, "scaling": published.SCALING[wanted.data]}
    if epochs is not None:
        fixed["epochs"] = epochs
    axes: dict[str, list[Value]] = {"rule": list(rules), "model": list(models)}
    grid: dict[str, list[Value]] = {
        "quant": list(QUANTISERS),
        "range": list(RANGES),
        "bits": [bits for bits in widths if bits != FLOAT],
    }
    floats = Block(fixed=fixed | {"quant": "none"}, axes=axes)
    whole = floats if not grid["bits"] else Block(fixed=fixed, axes=axes | grid)
    return StudySpec(
        name=f"quantized-training-{wanted.data}{'-quick' if wanted.quick else ''}",
        description="Document 000: which learning rule survives few bits?",
        seeds=wanted.seeds,
        fixed=whole.fixed,
        axes=whole.axes,
        also=[floats] if grid["bits"] else [],
    )


def _chosen(kind: str, asked: Sequence[str], known: Sequence[str], default: Sequence[str]) -> tuple[str, ...]:
    """Names as the document has them: `fa` is `fa-document`, `2x100` is `mlp:100x100`."""
    short = {network(name): name for name in known} | {
        name.removesuffix(published.FAMILY): name for name in known
    }
    found = [short.get(name, name) for name in asked]
    for name in found:
        if name not in known:
            raise unknown(kind, name, known)
    return tuple(dict.fromkeys(found)) or tuple(default)


def plan_reproduction(
    wanted: Reproduction, folder: Path, setting: Setting | None = None, *, workers: int | None = None
) -> StudyPlan:
    """What `reproduce` would train; nothing is written."""
    return plan_study(study_of(wanted), folder, setting, workers=workers)


def reproduce(
    wanted: Reproduction,
    folder: Path,
    setting: Setting | None = None,
    *,
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    pictures: bool = True,
    on: str = LOCAL,
) -> tuple[ReproduceResult, list[Row]]:
    """Run the grid, compare it with what was published, and write the tables and the report.

    Args:
        wanted: what to run.
        folder: of the study.
        setting: data, device, threads of each worker and progress.
        workers: processes that train at once.
        resume: go on with the study in `folder`; runs that failed are trained again.
        overwrite: start it again.
        pictures: train one run per rule again and look at its network.
        on: `local`, or a Ray cluster (`tersa.study.cluster`).

    Returns:
        The result, and every published cell with ours.

    Raises:
        UsageError: what the study raises, before any work.
    """
    began = time.perf_counter()
    setting = setting or Setting()
    spec = study_of(wanted)
    how: dict[str, Any] = {"workers": workers, "resume": resume, "overwrite": overwrite, "on": on}
    study = run_study(spec, folder, setting, retry=resume, **how)
    keys = {cell.key for cell in expand(spec).cells}
    with StudyStore(folder / DATABASE) as store:
        results = store.results(keys)
    if not results:
        raise UsageError(f"{folder}: no run has ended, there is nothing to compare")
    rows = compare(results, shortened=wanted.shortened)
    summaries = summarise(rows)
    answer = answer_of(results, summaries, wanted)
    if pictures:
        write_pictures(folder, pictured(results), setting)
    write_atomic(folder / COMPARISON, to_csv(rows))
    write_atomic(folder / SUMMARY, summary_page(wanted, results, rows, summaries, answer, setting.command))
    report = write_study_report(
        folder,
        name=spec.name,
        command=setting.command,
        verb="reproduce quantized-training",
        warning=warning_of(wanted),
        shortened=wanted.shortened,
        answer=answer,
        facts=machine_facts(setting.threads or 1),
    )
    overall = summaries[-1] if summaries else None
    result = ReproduceResult(
        data=wanted.data,
        quick=wanted.shortened,
        verdict=answer.headline,
        cells=study.cells,
        failed=study.failed,
        diverged=study.diverged,
        spearman=overall.spearman if overall else None,
        agreement=100 * overall.agreement if overall else None,
        rules=[
            RuleAgreement(
                name=each.name,
                cells=each.cells,
                learned=each.learned,
                spearman=each.spearman,
                agreement=100 * each.agreement,
                gap=each.gap,
                absolute_gap=each.off,
            )
            for each in summaries
        ],
        artefacts=[str(folder / name) for name in (COMPARISON, SUMMARY, DATABASE)],
        report=str(report),
        environment=environment(setting.threads or 1),
        seconds=time.perf_counter() - began,
    )
    write_record(folder / RESULT, result)
    return result, rows


def answer_of(results: Sequence[CellResult], summaries: Sequence[Summary], wanted: Reproduction) -> Answer:
    """Whether the document is reproduced, then what its grid says."""
    own = verdict(results)
    if not summaries:
        return own
    overall = summaries[-1]
    cells = f"{100 * overall.agreement:.0f} % of {overall.cells} published quantised cells"
    alike = f"{cells} learn or collapse alike"
    rank = "" if overall.spearman is None else f", and their ranks agree at {overall.spearman:.2f}"
    start = "A shortened trial, not the document's settings: " if wanted.shortened else ""
    headline = f"{start}{alike}{rank}"
    return Answer(headline[:1].upper() + headline[1:], f"{own.headline}. {own.detail}")


def warning_of(wanted: Reproduction) -> str:
    """What a reader of a shortened trial must know; empty for the document's settings."""
    if not wanted.shortened:
        return ""
    epochs = wanted.epochs or QUICK_EPOCHS
    return (
        f"{plural(epochs, 'epoch')}{' and few cells' if wanted.quick else ''}, where the document has 30"
        f"{' epochs and 672 cells' if wanted.quick else ''}. "
        "The published values beside ours are those of the full training: gaps are to be expected."
    )


def pictured(results: Sequence[CellResult]) -> list[Cell]:
    """One cell per rule whose network is looked at: `PICTURED` where the study has it, else its first."""
    found: dict[str, Cell] = {}
    for row in results:
        cell = row.cell
        fits = all(getattr(cell, name) == value for name, value in PICTURED.items())
        if row.status == "done" and (cell.rule not in found or fits):
            found[cell.rule] = cell
    return list(found.values())


def machine_facts(threads: int) -> list[tuple[str, str]]:
    """Where it was run, as (name, value)."""
    here = environment(threads)
    found = [
        ("processor", here.processor),
        ("cores", str(here.cores)),
        ("threads of a worker", str(threads)),
        ("date", here.date),
        ("commit", here.commit),
    ]
    found += [
        (name, version) for name, version in here.versions.items() if name in ("tersa", "torch", "numba")
    ]
    return [(name, value) for name, value in found if value]


def summary_page(
    wanted: Reproduction,
    results: Sequence[CellResult],
    rows: Sequence[Row],
    summaries: Sequence[Summary],
    answer: Answer,
    command: str,
) -> str:
    """The summary as Markdown: the answer, agreement by rule, full precision, the grid, the hypotheses."""
    warning = warning_of(wanted)
    parts = [
        f"# Document 000 on {wanted.data}",
        f"{answer.headline}.",
        answer.detail,
        *([f"**Note:** {warning}"] if warning else []),
        f"Made by `{command or 'tersa reproduce quantized-training'}`: {len(results)} runs.",
        "## Agreement with the published cells",
        "Ranks and gaps (ours minus published, points, medians) over the cells published at 15 % or more; "
        "agreement on learned or collapsed (above or below 15 %) over all.",
        _agreement_table(summaries),
    ]
    floats = [row for row in rows if row.cell.quant == "none"]
    if floats:
        parts += ["## Without quantisation", "Ours (published), percent.", _float_table(floats)]
    grids = _grids([row for row in rows if row.cell.quant != "none"])
    if grids:
        parts += ["## With quantisation", "Ours (published), percent, by bits.", *grids]
    parts += ["## The document's five expectations", _judgements(results)]
    return "\n\n".join(parts) + "\n"


def _agreement_table(summaries: Sequence[Summary]) -> str:
    body = [
        (
            each.name,
            str(each.cells),
            str(each.learned),
            _or_dash(each.spearman, "{:.3f}"),
            f"{100 * each.agreement:.1f} %",
            _or_dash(each.gap, "{:+.2f}"),
            _or_dash(each.off, "{:.2f}"),
        )
        for each in summaries
    ]
    return _markdown(("rule", "cells", "from 15 %", "Spearman", "agree", "gap", "absolute gap"), body)


def _float_table(rows: Sequence[Row]) -> str:
    rules = list(dict.fromkeys(row.cell.rule for row in rows))
    models = list(dict.fromkeys(row.cell.model for row in rows))
    known = {(row.cell.model, row.cell.rule): row for row in rows}
    body = [(network(model), *(_both(known.get((model, rule))) for rule in rules)) for model in models]
    return _markdown(("network", *rules), body)


def _grids(rows: Sequence[Row]) -> list[str]:
    """One table per rule, quantiser and range: networks down, bits across."""
    found: list[str] = []
    bits = sorted({row.cell.bits for row in rows})
    for rule, quant, range_ in dict.fromkeys((r.cell.rule, r.cell.quant, r.cell.range) for r in rows):
        here = [r for r in rows if (r.cell.rule, r.cell.quant, r.cell.range) == (rule, quant, range_)]
        known = {(row.cell.model, row.cell.bits): row for row in here}
        models = dict.fromkeys(row.cell.model for row in here)
        body = [(network(model), *(_both(known.get((model, width))) for width in bits)) for model in models]
        found += [f"### {rule}, {quant}, {range_} range", _markdown(("network", *map(str, bits)), body)]
    return found


def _judgements(results: Sequence[CellResult]) -> str:
    body = [(f"{j.name}: {j.claim}", j.verdict, j.published, j.evidence) for j in judge(results)]
    return _markdown(("expectation", "here", "document", "evidence"), body)


def _both(row: Row | None) -> str:
    if row is None:
        return "–"
    ours = f"{row.ours.mean:.2f}"
    if row.ours.count > 1:
        ours += f" [{row.ours.low:.2f}, {row.ours.high:.2f}]"
    return f"{ours} ({row.published:.2f})"


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _markdown(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
