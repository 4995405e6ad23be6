"""Document 003's tables 4.1 to 4.7 again: its values and ours in one layout, as text.

    4.1        what the networks are
    4.2        what the devices are
    4.3, 4.4   time of one batch of 32 in each precision
    4.5        sizes
    4.6, 4.7   networks adapted for one device on another, latency saved in percent

and latency at batch 1 (figure 4.1). A `Table` is rows of text that pages, terminals and Markdown print alike;
rows of the document come first and are marked.

Example:
    >>> found = tables([])
    >>> [each.number for each in found]
    ['4.1', '4.2', 'figure 4.1', '4.3', '4.4', '4.5', '4.6', '4.7']
    >>> found[3].rows[0].cells
    ('TX2, PyTorch', '99.6', '–', '–', '–')
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tersa.recipes import published_hardware as published
from tersa.recipes.hardware_result import Group, NetworkFacts
from tersa.records.results import Comparison, Environment
from tersa.report.numbers import latency
from tersa.targets.sweep import Row

NONE = "–"
NAMES = {"alexnet": "AlexNet", "mobilenet": "MobileNet V1"}
COLUMNS = ("fp32", "bf16", "fp16", "int8")
DOCUMENT_BATCH = 32
MIB = 2**20


@dataclass(frozen=True)
class Line:
    """One row of a table.

    Attributes:
        cells: text, the name first.
        published: it is the document's.
    """

    cells: tuple[str, ...]
    published: bool = False


@dataclass(frozen=True)
class Table:
    """One table in the document's layout.

    Attributes:
        number: `4.3`.
        title: what it shows, as a question.
        columns: headers with units.
        rows: the document's, then ours.
        note: what must be known of it.
    """

    number: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[Line, ...]
    note: str = ""


def tables(groups: Sequence[Group], machine: Environment | None = None) -> list[Table]:
    """Every table, the document's values alone where nothing was measured."""
    return [
        _networks(groups),
        _devices(machine),
        _single(groups),
        *(
            _precisions(groups, number, network)
            for number, network in (("4.3", "alexnet"), ("4.4", "mobilenet"))
        ),
        _sizes(groups),
        *(_cross(groups, number, network) for number, network in (("4.6", "alexnet"), ("4.7", "mobilenet"))),
    ]


def markdown(found: Sequence[Table]) -> str:
    """The tables as Markdown; rows of the document are in italics."""
    parts: list[str] = []
    for table in found:
        parts.append(
            f"## {heading(table)}\n\n| {' | '.join(table.columns)} |\n|{'---|' * len(table.columns)}"
        )
        for row in table.rows:
            cells = [f"*{cell}*" if row.published and cell not in ("", NONE) else cell for cell in row.cells]
            parts[-1] += f"\n| {' | '.join(cells)} |"
        if table.note:
            parts.append(table.note)
    return "\n\n".join(parts) + "\n"


def heading(table: Table) -> str:
    """Number and question: `Table 4.3: How long ...?`."""
    number = (
        table.number[0].upper() + table.number[1:]
        if table.number.startswith("figure")
        else f"Table {table.number}"
    )
    return f"{number}: {table.title}"


def _networks(groups: Sequence[Group]) -> Table:
    """Table 4.1: facts of the papers' networks, and of those that were measured."""
    known = {(each.network, each.side): each.networks[0] for each in groups}
    whole = [next((known[name, side] for side in (224, 32) if (name, side) in known), None) for name in NAMES]
    columns = [
        f"{name}, {facts.side}x{facts.side} here" if facts else f"{name}, here"
        for name, facts in zip(NAMES.values(), whole, strict=True)
    ]
    ours: dict[str, Callable[[NetworkFacts], str]] = {
        "depth": lambda facts: str(facts.convolutions + facts.fully_connected),
        "parameters": lambda facts: f"{(facts.parameters or 0) / 1e6:.1f}",
        "size": lambda facts: f"{(facts.state_bytes or 0) / MIB:.1f}",
        "largest input of a fully connected layer": lambda facts: str(facts.most_inputs),
        "largest output of a fully connected layer": lambda facts: str(facts.most_outputs),
        "convolutional layers": lambda facts: str(facts.convolutions),
        "fully connected layers": lambda facts: str(facts.fully_connected),
        "pooling layers": lambda facts: str(facts.poolings),
        "activation layers": lambda facts: str(facts.activations),
    }
    rows: list[Line] = []
    for fact in published.networks():
        mark = "~" if fact.approximate else ""
        unit = f", {fact.unit}" if fact.unit not in ("layers", "values") else ""
        told = ours.get(fact.property)
        cells = (told(facts) if told and facts else NONE for facts in whole)
        rows.append(
            Line((f"{fact.property}{unit}", f"{mark}{fact.alexnet:g}", f"{mark}{fact.mobilenet:g}", *cells))
        )
    return Table(
        "4.1",
        "What are the networks?",
        ("", *(f"{name}, document" for name in NAMES.values()), *columns),
        tuple(rows),
        "The document's are the papers' with 1,000 outputs; here they have ten, as it measured them (217.6 "
        "and 12.4 MiB in its table 4.5). It counts a depthwise and a pointwise layer as one convolution and "
        "leaves out the stem; AlexNet's fourth pooling here is the adaptive one, which changes nothing.",
    )


def _devices(machine: Environment | None) -> Table:
    """Table 4.2, and this machine."""
    here: dict[str, str] = {}
    if machine is not None:
        here = {
            "memory": f"{machine.memory_bytes / 2**30:.0f}",
            "memory kind": "of the processor",
            "GPU architecture": machine.processor,
            "CUDA cores": f"{machine.cores} cores",
        }
    rows = tuple(
        Line(
            (
                f"{fact.property}{f', {fact.unit}' if fact.unit else ''}",
                *(
                    value or NONE
                    for value in (fact.jetson_tx2, fact.jetson_agx_xavier, fact.gtx_970, fact.p100)
                ),
                here.get(fact.property, NONE),
            )
        )
        for fact in published.devices()
    )
    columns = ("", "Jetson TX2", "Jetson AGX Xavier", "GTX 970", "P100", "here")
    return Table("4.2", "What are the devices?", columns, rows)


def _single(groups: Sequence[Group]) -> Table:
    """Figure 4.1: one image."""
    rows = [
        Line(
            (device, *(_ms(published.original(device, name), 0) for name in NAMES), NONE, NONE),
            published=True,
        )
        for device in published.ADAPTED_FOR
    ]
    for target in targets_of(groups):
        for precision in precisions_of(groups):
            cells = [
                _ms_of(one(group.rows, target, precision, 1, group.network)) if group else NONE
                for group in (_group(groups, name, side) for side in (224, 32) for name in NAMES)
            ]
            if set(cells) != {NONE}:
                rows.append(Line((f"{target}, {precision}", *cells)))
    columns = ("", *(f"{name} {side}x{side}, ms" for side in (224, 32) for name in NAMES.values()))
    note = "The document's are the networks as they were, in the last columns of its tables 4.6 and 4.7."
    return Table("figure 4.1", "How long does one image take?", columns, tuple(rows), note)


def _precisions(groups: Sequence[Group], number: str, network: str) -> Table:
    """Tables 4.3 and 4.4."""
    cells: dict[str, dict[str, str]] = {}
    for cell in published.precisions():
        if cell.network == network:
            adapted = " NetAdapt," if cell.form == "NetAdapt" else ""
            name = f"{cell.device},{adapted} {cell.runtime}"
            cells.setdefault(name, {})[cell.precision] = _ms(cell.latency_ms, 1)
    rows = [Line((name, *(own.get(p, NONE) for p in COLUMNS)), published=True) for name, own in cells.items()]
    for group in groups:
        if group.network != network:
            continue
        for target in targets_of([group]):
            for facts in group.networks:
                adapted = f" {facts.model}," if facts is not group.networks[0] else ""
                own = [_ms_of(one(group.rows, target, p, DOCUMENT_BATCH, facts.model)) for p in COLUMNS]
                if set(own) != {NONE}:
                    rows.append(Line((f"{target},{adapted} {group.side}x{group.side}", *own)))
    title = f"How long does {NAMES[network]} take for a batch of {DOCUMENT_BATCH}?"
    return Table(number, title, ("", *(f"{p.upper()}, ms" for p in COLUMNS)), tuple(rows))


def _sizes(groups: Sequence[Group]) -> Table:
    """Table 4.5."""
    by = {(row.network, row.adapted_for): row for row in published.sizes()}
    rows: list[Line] = []
    for device in ("", *published.ADAPTED_FOR):
        found = [by[name, device] for name in NAMES]
        name = f"NetAdapt for {device}" if device else "original"
        shown = [
            f"{row.size_mib:g} MiB" if row.size_mib is not None else f"−{row.reduction:g} %" for row in found
        ]
        rows.append(Line((name, *shown, NONE, NONE), published=True))
    for side in (224, 32):
        present = [_group(groups, name, side) for name in NAMES]
        if any(present):
            for label, kind in (("weights", "state"), ("FP32 file", "fp32"), ("INT8 file", "int8")):
                shown = [_mib(group.networks[0], kind) if group else NONE for group in present]
                counted = [
                    _millions(group.networks[0]) if group and kind == "state" else "" for group in present
                ]
                rows.append(Line((f"original {side}x{side}, {label}", *shown, *counted)))
    for group in groups:
        start = group.networks[0]
        for facts in group.networks[1:]:
            smaller = _saved(facts.fp32_bytes, start.fp32_bytes)
            shown = [smaller if name == group.network else NONE for name in NAMES]
            counted = [_millions(facts) if name == group.network else NONE for name in NAMES]
            made = f" for {facts.made_for}" if facts.made_for else ""
            rows.append(Line((f"{facts.model}{made}", *shown, *counted)))
    columns = ("", "AlexNet", "MobileNet V1", "AlexNet, parameters", "MobileNet V1, parameters")
    return Table("4.5", "How large are they?", columns, tuple(rows))


def _cross(groups: Sequence[Group], number: str, network: str) -> Table:
    """Tables 4.6 and 4.7: rows are where it runs, columns what it was adapted for."""
    rows = [
        Line(
            (
                device,
                *(f"{published.reduction(device, made, network):g} %" for made in published.ADAPTED_FOR),
                f"{published.original(device, network):g} ms",
            ),
            published=True,
        )
        for device in published.ADAPTED_FOR
    ]
    columns = ["measured on", *(f"for {made}" for made in published.ADAPTED_FOR), "original"]
    note = ""
    adapted = [
        (group, facts)
        for group in groups
        if group.network == network
        for facts in group.networks
        if facts.made_for
    ]
    if not adapted:
        note = "No adapted network of ours: give runs of tersa adapt with --run."
    elif not any(_crosses(pair, group, facts) for group, facts in adapted for pair in group.comparisons):
        note = (
            "Nothing of ours: adapted networks are compared in FP32 and single images, in the rounds of the "
            "original, and no target measured both so; fp32 must be among --precision and 1 among --batch."
        )
    width = len(columns)
    for group, facts in adapted:
        for pair in group.comparisons:
            if pair.before is None or pair.after is None or not _crosses(pair, group, facts):
                continue
            saved = [100 - 100 / (ratio or 1) for ratio in (pair.speedup, pair.low, pair.high)]
            cell = f"for {facts.made_for}: {saved[0]:.0f} % ({saved[1]:.0f} to {saved[2]:.0f})"
            start = f"{latency(pair.before.latency_ms.median)} ms"
            name = f"{pair.target}, {group.side}x{group.side}"
            rows.append(Line((name, cell, *[NONE] * (width - 3), start)))
    title = f"Does {NAMES[network]}, adapted for one device, help on another?"
    return Table(number, title, tuple(columns), tuple(rows), note)


def _crosses(pair: Comparison, group: Group, facts: NetworkFacts) -> bool:
    """The pair is the adapted network against the original, single images in FP32."""
    before, after = pair.before, pair.after
    if before is None or after is None or (before.batch, after.batch) != (1, 1):
        return False
    return (before.model, before.precision) == (group.network, "fp32") and (
        after.model,
        after.precision,
    ) == (facts.model, "fp32")


def one(rows: Sequence[Row], target: str, precision: str, batch: int, model: str) -> Row | None:
    """The measurement of a combination."""
    wanted = (target, precision, batch, model)
    return next((row for row in rows if (row.target, row.precision, row.batch, row.model) == wanted), None)


def targets_of(groups: Sequence[Group]) -> list[str]:
    """Targets with at least one measurement, in order."""
    return list(dict.fromkeys(row.target for group in groups for row in group.rows))


def precisions_of(groups: Sequence[Group]) -> list[str]:
    """Precisions with at least one measurement."""
    measured = {row.precision for group in groups for row in group.rows}
    return [precision for precision in COLUMNS if precision in measured]


def _group(groups: Sequence[Group], network: str, side: int) -> Group | None:
    return next((each for each in groups if (each.network, each.side) == (network, side)), None)


def _ms(value: float | None, decimals: int) -> str:
    return NONE if value is None else f"{value:.{decimals}f}"


def _ms_of(row: Row | None) -> str:
    return NONE if row is None else latency(row.latency_ms.median)


def _mib(facts: NetworkFacts, kind: str) -> str:
    value = {"state": facts.state_bytes, "fp32": facts.fp32_bytes, "int8": facts.int8_bytes}[kind]
    return NONE if value is None else f"{value / MIB:.1f} MiB"


def _millions(facts: NetworkFacts) -> str:
    return NONE if facts.parameters is None else f"{facts.parameters:,}"


def _saved(after: int | None, before: int | None) -> str:
    return NONE if after is None or not before else f"−{100 * (1 - after / before):.0f} %"
