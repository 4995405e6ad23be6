"""Everything that the five documents published, one row per value, with what is needed to judge ours by it.

A value is known by its key: the file of the package that it stands in, the row's settings, and the header.
Ours are given the same key (`key_of`), so that both sides meet by name:

    >>> rows_of("binary_vgg.csv")[1]["network"]
    'B-VGG16'
    >>> key_of("binary_vgg.csv", rows_of("binary_vgg.csv")[1], "test_accuracy_percent")
    'binary_vgg/II/B-VGG16/direct/B-VGG16/1/1/test_accuracy_percent'

What the documents say in words has keys of its own: `finding/pruning/4.3`, `finding/quantized-training/H2`.
Document 001 is a diary: it names wishes, and has no results.

Kinds of rows:

    result      can be made again on any machine
    elsewhere   was measured on hardware that is not here; ours, where there is one, stands beside it
    setting     says how something was done, not what came of it
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

from tersa.recipes.published_table import number, rows
from tersa.recipes.reproductions import EXPERIMENTS, SETTINGS

Kind = Literal["result", "elsewhere", "setting"]
Better = Literal["higher", "lower", ""]
Row = Mapping[str, str]

VERBOSE = frozenset({"source", "unit"})
"""Headers that are left out of keys."""
TIMED = "the document's machines (Jetson AGX Xavier, several GPUs)"
FINDINGS = {
    "pruning": "findings of figures 4.1 to 4.16",
    "quantized-training": "expectations of section 4.3",
}
"""Where a document says in words what our results are held against."""
RULES = {"bp": "bp", "hsic-document": "hsic", "fa-document": "fa", "dni-document": "dni"}
"""As `--rule` takes them."""


@dataclass(frozen=True)
class Published:
    """One value, or one finding in words.

    Attributes:
        key: what ours is known by, too.
        document: its number, `000`.
        place: table, figure or section.
        what: in words.
        value: in `unit`; None for a finding.
        unit: `%`, `points`, `times`, `s`, ... ; empty for counts and findings.
        better: which side of it is the better one, where there is one.
        kind: see the head of this file.
        needs: hardware, where kind is `elsewhere`.
        experiment: of `reproductions.EXPERIMENTS`.
        command: that makes ours.
    """

    key: str
    document: str
    place: str
    what: str
    value: float | None
    unit: str
    better: Better
    kind: Kind
    needs: str
    experiment: str
    command: str

    @property
    def relative(self) -> bool:
        """Gaps are told in percent of the value, not in its unit."""
        return self.unit not in ("%", "points")


@dataclass(frozen=True)
class _File:
    """How the rows of one file of published values are read.

    Attributes:
        place: of a row.
        what: of a row and a header.
        unit: likewise.
        better: likewise.
        kind: likewise.
        needs: hardware of a row.
        options: of the command that makes ours, of a row.
    """

    place: Callable[[Row], str]
    what: Callable[[Row, str], str]
    unit: Callable[[Row, str], str]
    better: Callable[[Row, str], Better] = lambda row, header: ""
    kind: Callable[[Row, str], Kind] = lambda row, header: "result"
    needs: Callable[[Row], str] = lambda row: ""
    options: Callable[[Row], str] = lambda row: ""


def rows_of(file: str) -> list[dict[str, str]]:
    """The rows of a file of published values, cells as text."""
    return rows(file)


def key_of(file: str, row: Row, header: str) -> str:
    """What a value is known by, from its row's settings; see the head of this file."""
    settings = [cell for name, cell in row.items() if name in SETTINGS - VERBOSE and cell]
    return "/".join([file.removesuffix(".csv"), *settings, header])


@cache
def published() -> tuple[Published, ...]:
    """Every value and finding, in the documents' order."""
    found: list[Published] = []
    for each in EXPERIMENTS:
        for file in each.files:
            how = FILES[file]
            for row in rows(file):
                found += [
                    Published(
                        key=key_of(file, row, header),
                        document=each.document,
                        place=how.place(row),
                        what=how.what(row, header),
                        value=value,
                        unit=how.unit(row, header),
                        better=how.better(row, header),
                        kind=how.kind(row, header),
                        needs=how.needs(row) if how.kind(row, header) == "elsewhere" else "",
                        experiment=each.name,
                        command=" ".join(filter(None, [f"tersa reproduce {each.name}", how.options(row)])),
                    )
                    for header, cell in row.items()
                    if header not in SETTINGS and (value := _number(cell)) is not None
                ]
        found += [
            Published(
                key=f"finding/{each.name}/{number}",
                document=each.document,
                place=FINDINGS[each.name],
                what=f"{number}: {text}",
                value=None,
                unit="",
                better="",
                kind="result",
                needs="",
                experiment=each.name,
                command=f"tersa reproduce {each.name}",
            )
            for number, text in _findings(each.name)
        ]
    return tuple(found)


def _findings(experiment: str) -> list[tuple[str, str]]:
    """What a document says in words that is judged by our results: (number, text)."""
    if experiment == "pruning":
        from tersa.recipes.pruning_findings import CLAIMS

        return [(number, text) for number, (text, _) in CLAIMS.items()]
    if experiment == "quantized-training":
        from tersa.study.hypotheses import judge

        return [(each.name, f"{each.claim} (the document: {each.published})") for each in judge([])]
    return []


def _number(cell: str) -> float | None:
    try:
        return number(cell)
    except ValueError:
        return None


def _unit(row: Row, header: str) -> str:
    return row["unit"]


def _trained(row: Row, header: str) -> str:
    how = f", {row['quant']} {row['range']}, {row['bits']} bits" if row.get("quant") else ", not quantised"
    return f"{row['rule']} {row['model']}, {row['data']}{how}"


def _trained_as(row: Row) -> str:
    return f"{row['rule']} {row['model']}, range {row['range']}, {row['bits']} bits"


def _bits(row: Row) -> str:
    return f"{row['weight_bits']}/{row['activation_bits']}"


def _words(header: str) -> str:
    """A header without its unit.

    >>> _words("bisection_interpolation_s"), _words("size_reduction_percent")
    ('bisection interpolation', 'size reduction')
    """
    for unit in ("_s", "_ms", "_MiB", "_percent"):
        header = header.removesuffix(unit)
    return header.replace("_", " ")


def _training_options(row: Row) -> str:
    """Of Fashion-MNIST only results without quantisation are printed as numbers."""
    rule = f"--rule {RULES[row['rule']]}"
    return rule if row["data"] == "mnist" else f"--data {row['data']} {rule} --bits 32"


def _full_place(row: Row) -> str:
    return f"table 6.{1 if row['data'] == 'mnist' else 2}"


def _higher(row: Row, header: str) -> Better:
    return "higher"


def _lower(row: Row, header: str) -> Better:
    return "lower"


def _table(row: Row) -> str:
    return f"table {row['table']}"


def _always(kind: Kind) -> Callable[[Row, str], Kind]:
    return lambda row, header: kind


def _pruning_better(row: Row, header: str) -> Better:
    return "lower" if row["unit"] == "points" else "higher"


def _claimed(row: Row, header: str) -> str:
    return ", ".join(part for part in (row["network"], row["device"], row["what"]) if part)


def _size_unit(row: Row, header: str) -> str:
    return "%" if header.endswith("percent") else "MiB"


def _size_kind(row: Row, header: str) -> Kind:
    return "elsewhere" if row["adapted_for"] else "result"


def _seconds_or_steps(row: Row, header: str) -> str:
    return "s" if header == "seconds" else "steps"


def _total_unit(row: Row, header: str) -> str:
    return "times" if header == "speedup" else "min"


def _total_kind(row: Row, header: str) -> Kind:
    return "result" if header == "speedup" else "elsewhere"


RESULTS_IN_WORDS = frozenset(
    {"h30_naswot_loss", "h30_naswot_speedup_over_interpolation", "h30_naswot_speedup", "last_block_speedup"}
)
"""Of the values that the text of document 003's chapter 5 states, those that any machine can have."""


def _claim_kind(row: Row, header: str) -> Kind:
    if row["name"] in RESULTS_IN_WORDS:
        return "result"
    timed = row["unit"].startswith("min") or row["name"] == "finetune_seconds"
    return "elsewhere" if timed else "setting"


def _claim_better(row: Row, header: str) -> Better:
    return (
        ""
        if row["name"] not in RESULTS_IN_WORDS
        else "lower"
        if row["unit"].startswith("points")
        else "higher"
    )


def _claim_unit(row: Row, header: str) -> str:
    return row["unit"].split()[0]


FILES: dict[str, _File] = {
    "quantized_training_mnist.csv": _File(
        lambda row: "result files", _trained, lambda row, header: "%", _higher, options=_training_options
    ),
    "full_precision.csv": _File(
        _full_place, _trained, lambda row, header: "%", _higher, options=_training_options
    ),
    "weight_spread.csv": _File(
        _table,
        lambda row, header: f"{_trained_as(row)}: {_words(header)}",
        lambda row, header: "",
        options=lambda row: "--rule hsic --model 1x4",
    ),
    "pruning.csv": _File(
        lambda row: row["source"],
        lambda row, header: row["name"].replace("_", " "),
        _unit,
        _pruning_better,
        lambda row, header: "setting" if row["name"] == "floor_accuracy" else "result",
        options=lambda row: "--full --curve network-taylor-l2-100",
    ),
    "hardware_networks.csv": _File(_table, lambda row, header: f"{header}: {row['property']}", _unit),
    "hardware_devices.csv": _File(
        _table, lambda row, header: f"{header}: {row['property']}", _unit, kind=_always("setting")
    ),
    "hardware_precision.csv": _File(
        _table,
        lambda row, header: (
            ", ".join(row[name] for name in ("network", "device", "form", "runtime", "precision"))
            + f", batch {row['batch']}"
        ),
        lambda row, header: "ms",
        _lower,
        _always("elsewhere"),
        lambda row: f"Jetson {row['device']}",
    ),
    "hardware_sizes.csv": _File(
        _table,
        lambda row, header: (
            f"{row['network']}, {row['adapted_for'] or 'original'}: {header.rpartition('_')[0]}"
        ),
        _size_unit,
        lambda row, header: "higher" if header.endswith("percent") else "lower",
        _size_kind,
        lambda row: row["adapted_for"],
    ),
    "hardware_cross.csv": _File(
        _table,
        lambda row, header: (
            f"{row['network']} on {row['measured_on']}, "
            + ("original" if header == "original_ms" else f"adapted for {row['adapted_for']}: latency saved")
        ),
        lambda row, header: "ms" if header == "original_ms" else "%",
        lambda row, header: "lower" if header == "original_ms" else "higher",
        _always("elsewhere"),
        lambda row: row["measured_on"],
    ),
    "hardware_claims.csv": _File(
        lambda row: f"section {row['section']}",
        _claimed,
        _unit,
        kind=lambda row, header: "setting" if row["section"] in ("2.6", "3.1.2") else "elsewhere",
        needs=lambda row: row["device"],
    ),
    "adaptation_original.csv": _File(
        _table,
        lambda row, header: f"{row['network']}, delta {row['delta']}: {header} of the original NetAdapt",
        _seconds_or_steps,
        kind=lambda row, header: "elsewhere" if header == "seconds" else "result",
        needs=lambda row: TIMED,
    ),
    "adaptation_totals.csv": _File(
        _table,
        lambda row, header: (
            f"{row['network']}, delta {row['delta']}, {row['remedy']}: {header.replace('_', ' ')}"
        ),
        _total_unit,
        lambda row, header: "higher" if header == "speedup" else "lower",
        _total_kind,
        lambda row: TIMED,
    ),
    "adaptation_blocks.csv": _File(
        _table,
        lambda row, header: (
            f"{row['network']}, block {row['block']}: {header.removesuffix('_s').replace('_', ' ')}"
        ),
        lambda row, header: "s",
        _lower,
        _always("elsewhere"),
        lambda row: TIMED,
    ),
    "adaptation_claims.csv": _File(
        lambda row: f"section {row['section']}",
        lambda row, header: ", ".join(
            part for part in (row["network"], row["name"].replace("_", " ")) if part
        ),
        _claim_unit,
        _claim_better,
        _claim_kind,
        lambda row: TIMED,
    ),
    "bisection_example.csv": _File(
        lambda row: f"figure {row['figure']}",
        lambda row, header: f"worked example: latency at {row['channels']} channels",
        lambda row, header: "",
        kind=_always("setting"),
    ),
    "binary_vgg.csv": _File(
        _table,
        lambda row, header: f"{row['network']} ({row['architecture']}), {_bits(row)}",
        lambda row, header: "%",
        _higher,
        options=lambda row: "--full",
    ),
    "binary_vgg_training.csv": _File(
        _table,
        lambda row, header: f"training: {row['setting']}",
        lambda row, header: "",
        kind=_always("setting"),
    ),
}
"""How each file is read."""
