"""What our reproductions found: values with the keys of `book_published`, and the small files that keep them.

A `Summary` is one run of one experiment: the command, the seeds, the machine, the time, and its values. It is
read from the folder of a reproduction that has ended, from a comparison as CSV with its page in Markdown
beside it, or from a summary that was written before (`docs/results/*.json`).

Example:
    >>> summary = Summary(experiment="binary-vgg", name="t", command="", values=[])
    >>> summary.file
    'binary-vgg-t.json'
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from tersa.errors import DataError, UsageError
from tersa.recipes.adaptation_result import AdaptationResult, Timed
from tersa.recipes.binary_vgg import BinaryVggResult
from tersa.recipes.book_published import key_of, rows_of
from tersa.recipes.folder import RESULT
from tersa.recipes.hardware_result import HardwareResult, NetworkFacts
from tersa.recipes.pruning_findings import findings
from tersa.recipes.pruning_results import PruningResult, TableRow
from tersa.recipes.pruning_store import PruningStore
from tersa.recipes.quantized_training import COMPARISON, SUMMARY, ReproduceResult
from tersa.recipes.study import DATABASE
from tersa.recipes.study_curves import extremes
from tersa.recipes.train import TrainedRun
from tersa.records.base import SCHEMA, Record, read_record
from tersa.records.results import Environment
from tersa.report.numbers import plural
from tersa.study.cell import CellResult
from tersa.study.statistics import interval
from tersa.study.store import StudyStore

MIB = 2**20
LOSS_ROW = "-0.24 points"
"""The row of our table 4.1 that loses what the document's loses."""
GRID, FLOATS = "quantized_training_mnist.csv", "full_precision.csv"
SPREAD_MODELS = {row["model"] for row in rows_of("weight_spread.csv")}
MADE = re.compile(r"Made by `([^`]+)`")
EXPECTED = re.compile(r"^\| (H\d): [^|]*\| (\w+) \| (\w+) \| ([^|]*) \|$", re.MULTILINE)


class Ours(Record):
    """One value of ours.

    Attributes:
        key: of the published value.
        value: in its unit; None for a finding.
        low: lower end of the 95 % interval, None where there is one seed.
        high: upper end.
        seeds: how many.
        finding: `holds`, `in part`, `not seen`, `differs` or `open`; empty for a number.
        remark: what is special about it.
    """

    key: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: int = 1
    finding: str = ""
    remark: str = ""


class Summary(Record):
    """One run of one experiment: everything that the book shows of it.

    Attributes:
        experiment: of `reproductions.EXPERIMENTS`.
        name: that tells runs of one experiment apart.
        command: that makes it again.
        shortened: fewer epochs, steps or networks than the document.
        own: with this project's own methods, to surpass what was published, not to repeat it.
        processor: it ran on; empty where that was not recorded.
        device: `cpu` or `cuda`.
        date: day, ISO 8601.
        torch: its version.
        seconds: of the call that ended it; of a study, of all its trainings, one after another.
        verdict: its answer in a line.
        values: ours.
    """

    schema_version: int = SCHEMA
    verb: Literal["reproduce summary"] = "reproduce summary"
    experiment: str
    name: str
    command: str
    shortened: bool = False
    own: bool = False
    processor: str = ""
    device: str = "cpu"
    date: str = ""
    torch: str = ""
    seconds: float | None = None
    verdict: str = ""
    values: list[Ours]

    @property
    def file(self) -> str:
        """Its name on disk."""
        return f"{self.experiment}-{self.name}.json"


def found(paths: Iterable[Path]) -> list[Summary]:
    """Summaries of folders and files, in order.

    Args:
        paths: folders of reproductions, comparisons (`comparison.csv`), summaries, and folders of summaries.

    Raises:
        UsageError: something else, all in one message.
        DataError: a damaged file.
    """
    summaries: list[Summary] = []
    strange: list[str] = []
    for path in paths:
        if path.is_dir() and (path / RESULT).is_file():
            summaries.append(_of_folder(path))
        elif path.is_dir() and (kept := sorted(path.glob("*.json"))):
            summaries += [read_record(each, Summary) for each in kept]
        elif path.suffix == ".json" and path.is_file():
            summaries.append(read_record(path, Summary))
        elif path.suffix == ".csv" and path.is_file():
            summaries.append(_of_comparison(path, path.with_suffix(".md"), name=path.stem))
        else:
            strange.append(str(path))
    if strange:
        raise UsageError(
            f"{', '.join(strange)}: no ended reproduction and no summary; give folders with {RESULT}, "
            f"{COMPARISON} of quantized-training, or summaries as JSON"
        )
    return summaries


def _of_folder(folder: Path) -> Summary:
    try:
        raw = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / RESULT} is not a readable JSON file: {error}") from None
    verb, document = raw.get("verb"), raw.get("document")
    if verb == "reproduce quantized-training":
        return _trained(folder, read_record(folder / RESULT, ReproduceResult))
    if verb == "reproduce pruning":
        return _pruned(folder, read_record(folder / RESULT, PruningResult))
    if document == "hardware":
        return _measured(folder.name, read_record(folder / RESULT, HardwareResult))
    if document == "adaptation":
        return _adapted(folder.name, read_record(folder / RESULT, AdaptationResult))
    if document == "binary-vgg":
        return _binary(folder, read_record(folder / RESULT, BinaryVggResult))
    raise UsageError(f"{folder} is a run of tersa {verb}, not of tersa reproduce; leave it out")


def _summary(
    experiment: str,
    name: str,
    result: HardwareResult | AdaptationResult | BinaryVggResult,
    values: list[Ours],
) -> Summary:
    return Summary(
        experiment=experiment,
        name=name,
        command=result.command,
        shortened=result.mode == "quick",
        seconds=result.seconds,
        verdict=result.verdict,
        values=values,
    )


def _on(summary: Summary, environment: Environment | None) -> Summary:
    """The summary with the machine that it was made on."""
    if environment is None:
        return summary
    torch = environment.versions.get("torch", "")
    update = {"processor": environment.processor, "date": environment.date[:10], "torch": torch}
    return summary.model_copy(update=update)


def _trained(folder: Path, result: ReproduceResult) -> Summary:
    summary = _of_comparison(folder / COMPARISON, folder / SUMMARY, name=folder.name)
    with StudyStore(folder / DATABASE) as store:
        rows = store.summaries()
        keys = {row.key for row in rows if row.cell.model in SPREAD_MODELS}
        results = store.results(keys) if keys else []
    values = [*summary.values, *_spreads(results)]
    seconds = sum(row.seconds for row in rows)  # a call that went on would tell its own time alone
    more = {"shortened": result.quick, "seconds": seconds, "verdict": result.verdict, "values": values}
    return _on(summary.model_copy(update=more), result.environment)


def _spreads(results: Sequence[CellResult]) -> list[Ours]:
    """Tables 5.1 and 5.2: variances and extremes of weights over epochs, quantisers and seeds."""
    values: list[Ours] = []
    for row in rows_of("weight_spread.csv"):
        wanted = (row["rule"], row["model"], row["range"], row["bits"])
        here = [
            each
            for each in results
            if (each.cell.rule, each.cell.model, each.cell.range, str(each.cell.bits)) == wanted
            and each.cell.quant != "none"
        ]
        if states := [state for each in here for state in each.layers]:
            names = ("variance_low", "variance_high", "weight_low", "weight_high")
            quantisers = " and ".join(sorted({each.cell.quant for each in here}))
            values += [
                Ours(
                    key=key_of("weight_spread.csv", row, name),
                    value=value,
                    seeds=len({each.cell.seed for each in here}),
                    remark=f"over all epochs and layers, {quantisers}",
                )
                for name, value in zip(names, extremes(states), strict=True)
            ]
    return values


def _of_comparison(table: Path, page: Path, *, name: str) -> Summary:
    """Document 000: cells of a comparison, and its expectations from the page beside it."""
    try:
        with table.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        text = page.read_text(encoding="utf-8") if page.is_file() else ""
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} cannot be read: {error}") from None
    keys = {_cell(row): key_of(file, row, "accuracy") for file in (GRID, FLOATS) for row in rows_of(file)}
    values: list[Ours] = []
    try:
        for line in lines:
            key = keys.get(_cell(line))
            if key is not None:
                low, high = (float(line[end]) if int(line["seeds"]) > 1 else None for end in ("low", "high"))
                value = float(line["ours"])
                values.append(Ours(key=key, value=value, low=low, high=high, seeds=int(line["seeds"])))
    except KeyError as error:
        raise DataError(
            f"{table} is not a comparison of reproduce quantized-training: it has no column {error}"
        ) from None
    except (ValueError, TypeError) as error:
        raise DataError(f"{table} is not a comparison of reproduce quantized-training: {error}") from None
    for number, here, document, evidence in EXPECTED.findall(text):
        alike = "open" if here == "open" else "holds" if here == document else "differs"
        key = f"finding/quantized-training/{number}"
        values.append(Ours(key=key, finding=alike, remark=f"here {here}: {evidence.strip()}"))
    made = MADE.search(text)
    return Summary(experiment="quantized-training", name=name, command=made[1] if made else "", values=values)


def _cell(row: dict[str, str]) -> tuple[str, ...]:
    """What tells cells of document 000 apart."""
    own = (row["rule"], row["data"], row["model"])
    if row.get("quant", "none") == "none":
        return own
    return (*own, row["quant"], row["bits"], row["range"])


def _pruned(folder: Path, result: PruningResult) -> Summary:
    """Document 002: table 4.1 at the document's loss, over the seeds, and its findings."""
    rows = [row for row in result.table if row.floor == LOSS_ROW]
    ours: dict[str, list[float]] = {
        "baseline_accuracy": [each.validation_accuracy for each in result.baselines],
        "pruned_loss": [row.validation_loss for row in rows],
        "pruned_compression": [row.compression for row in rows],
        "pruned_acceleration": [row.acceleration for row in rows],
        **_fresh(rows),
    }
    values = [
        _over_seeds(key_of("pruning.csv", row, "value"), ours[row["name"]], LOSS_ROW)
        for row in rows_of("pruning.csv")
        if ours.get(row["name"])
    ]
    with PruningStore(folder / "pruning.db") as store:
        for each in findings(store.curves()):
            key = f"finding/pruning/{each.number}"
            values.append(Ours(key=key, finding=each.verdict, remark=f"mean accuracies: {each.here}"))
        step = {walked.curve.step for walked in store.curves()}
    remark = "" if step == {"1"} else f", {', '.join(sorted(step))} of the channels a step"
    values = [each.model_copy(update={"remark": each.remark + remark}) for each in values]
    summary = Summary(
        experiment="pruning",
        name=folder.name,
        command=result.command or f"tersa reproduce pruning --{result.mode}",
        shortened=result.shortened or result.mode == "quick",
        seconds=result.curve_seconds / result.workers,
        verdict=result.verdict,
        values=values,
    )
    return _on(summary, result.environment)


def _fresh(rows: Sequence[TableRow]) -> dict[str, list[float]]:
    """The same sizes from nothing."""
    own = [row for row in rows if row.scratch_validation_loss is not None]
    return {
        "scratch_loss": [row.scratch_validation_loss or 0.0 for row in own],
        "scratch_compression": [row.compression for row in own],
        "scratch_acceleration": [row.acceleration for row in own],
    }


def _over_seeds(key: str, numbers: Sequence[float], remark: str = "") -> Ours:
    spread = interval(numbers)
    several = len(numbers) > 1
    return Ours(
        key=key,
        value=spread.mean,
        low=spread.low if several else None,
        high=spread.high if several else None,
        seeds=len(numbers),
        remark=remark,
    )


def _measured(name: str, result: HardwareResult) -> Summary:
    """Document 003, part 1: what its networks are; its times need its devices."""
    facts: dict[str, NetworkFacts] = {}
    for group in sorted(result.groups, key=lambda each: each.side):
        facts[{"mobilenet": "mobilenet_v1"}.get(group.network, group.network)] = group.networks[0]
    values: list[Ours] = []
    for row in rows_of("hardware_networks.csv"):
        for network, own in facts.items():
            value = _fact(own, row["property"])
            if value is not None and row[network]:
                key = key_of("hardware_networks.csv", row, network)
                values.append(Ours(key=key, value=value, remark=f"{own.side}x{own.side}, ten outputs"))
    for row in rows_of("hardware_sizes.csv"):
        own = facts.get({"mobilenet": "mobilenet_v1"}.get(row["network"], row["network"]))
        if own is not None and own.state_bytes and not row["adapted_for"]:
            key = key_of("hardware_sizes.csv", row, "size_MiB")
            values.append(Ours(key=key, value=own.state_bytes / MIB, remark=f"{own.side}x{own.side}"))
    return _on(_summary("hardware", name, result, values), result.environment)


def _fact(own: NetworkFacts, name: str) -> float | None:
    known: dict[str, float | None] = {
        "depth": own.convolutions + own.fully_connected,
        "parameters": None if own.parameters is None else own.parameters / 1e6,
        "size": None if own.state_bytes is None else own.state_bytes / MIB,
        "largest input of a fully connected layer": own.most_inputs,
        "largest output of a fully connected layer": own.most_outputs,
        "convolutional layers": own.convolutions,
        "fully connected layers": own.fully_connected,
        "pooling layers": own.poolings,
        "activation layers": own.activations,
    }
    return known.get(name)


def _adapted(name: str, result: AdaptationResult) -> Summary:
    """Document 003, part 2: times of the original, what each remedy is worth, whole searches."""
    timed = {(each.network, f"{each.delta:g}"): each for each in result.timed}
    values: list[Ours] = []
    for row in rows_of("adaptation_original.csv"):
        each = timed.get((row["network"], row["delta"]))
        if each is not None:
            key = key_of("adaptation_original.csv", row, "seconds")
            remark = f"{each.steps} steps, {_form(each)}"
            values.append(Ours(key=key, value=each.total("original"), remark=remark))
    for row in rows_of("adaptation_totals.csv"):
        each = timed.get((row["network"], row["delta"]))
        if each is not None:
            before, after = each.total("original"), each.total(row["remedy"])
            ours = {"original_minutes": before / 60, "minutes": after / 60, "speedup": before / after}
            values += [
                Ours(key=key_of("adaptation_totals.csv", row, header), value=value, remark=_form(each))
                for header, value in ours.items()
            ]
    claims = _claims(result)
    values += [
        Ours(key=key_of("adaptation_claims.csv", row, "value"), value=claims[row["name"]][0], remark=told)
        for row in rows_of("adaptation_claims.csv")
        if row["name"] in claims and row["network"] == "alexnet"
        for told in [claims[row["name"]][1]]
    ]
    return _on(_summary("adaptation", name, result, values), result.environment)


def _form(each: Timed) -> str:
    return f"{each.side}x{each.side}, delta {each.delta:g}, stages measured on {each.measured} steps"


def _claims(result: AdaptationResult) -> dict[str, tuple[float, str]]:
    """What the text of chapter 5 states of AlexNet: value and remark, by name."""
    ours: dict[str, tuple[float, str]] = {}
    alexnet = [each for each in result.timed if each.network == "alexnet"]
    if alexnet:
        each = min(alexnet, key=lambda one: one.delta)
        ours["h30_naswot_speedup"] = each.total("original") / each.hybrid(), _form(each)
        over = each.total("file_interpolation") / each.hybrid("file_interpolation")
        ours["h30_naswot_speedup_over_interpolation"] = over, _form(each)
        last = max(row.block for row in each.blocks)
        gain = each.of_block(last, "original") / each.of_block(last, "interpolation")
        ours["last_block_speedup"] = gain, f"block {last}, {_form(each)}"
    accuracies = {
        strategy: [
            row.accuracy for row in result.searched if (row.network, row.strategy) == ("alexnet", strategy)
        ]
        for strategy in ("original", "H30 naswot")
    }
    if all(accuracies.values()):
        before, after = (sum(each) / len(each) for each in accuracies.values())
        ours["h30_naswot_loss"] = before - after, f"{len(accuracies['original'])} seeds"
    return ours


def _binary(folder: Path, result: BinaryVggResult) -> Summary:
    """Document 004's table II, with the time of its trainings; rows that diverged are left out."""
    ours = {row.network: row for row in result.rows if row.network and row.trained}
    values: list[Ours] = []
    for row in rows_of("binary_vgg.csv"):
        each = ours.get(row["network"])
        if each is not None:
            key = key_of("binary_vgg.csv", row, "test_accuracy_percent")
            length = f"{plural(each.epochs, 'epoch')} on {each.device}"
            remark = "; ".join(filter(None, [length, each.note]))
            values.append(Ours(key=key, value=each.test_accuracy, remark=remark))
    summary = _summary("binary-vgg", folder.name, result, values)
    summary = summary.model_copy(update={"seconds": sum(row.seconds for row in result.rows)})
    run = next((folder / row.folder / RESULT for row in result.rows if row.trained and row.folder), None)
    return _on(summary, read_record(run, TrainedRun).environment if run and run.is_file() else None)
