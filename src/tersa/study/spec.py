"""What a study runs: axes over the settings of a cell, checked as a whole before any work.

A study is written in TOML. `fixed` holds for every run, `axes` are multiplied, and each `[[also]]` adds a
product of its own: it takes over `fixed` (its own values win), but not `axes`:

    [study]
    name = "bits"
    seeds = 5                       # seeds 1..5 of every setting; or a list; 3 where it is left out

    [fixed]
    data = "mnist"

    [axes]
    rule = ["bp", "fa"]
    quant = ["symmetric", "asymmetric"]
    bits = [2, 3, 4]

    [[also]]
    fixed = { quant = "none" }
    axes = { rule = ["bp", "fa"] }

What is not named has document 000's value (`tersa.study.cell.Cell`), but for two settings that would mislead:
`quant` is `symmetric` where a setting of the quantiser is named, and `bits` is 1 for `binary`, 2 for
`ternary`. Float32 (`quant = "none"`) has no quantiser settings: such cells are kept once. Other combinations
without meaning are refused, or left out and listed with `skip = true`.

What a rule cannot do with a network is not known here; see `tersa.recipes.study`.

Example:
    >>> spec = parse('axes = { bits = [2, 3] }\\n[study]\\nname = "x"\\nseeds = 2')
    >>> [(cell.quant, cell.bits, cell.seed) for cell in expand(spec).cells]
    [('symmetric', 2, 1), ('symmetric', 2, 2), ('symmetric', 3, 1), ('symmetric', 3, 2)]
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
from pydantic import ConfigDict, Field, ValidationError

from tersa.errors import UsageError, faults, unknown
from tersa.quant.spec import OWN_BITS
from tersa.records.base import SCHEMA, Record
from tersa.rules.registry import RULES
from tersa.study.cell import Cell
from tersa.study.sense import meaningless, say

Value = str | int | float
SEEDS = 3
"""Seeds per setting where a study names none: the fewest that give an interval worth printing."""
MOST_CELLS = 1_000_000
"""Largest study that is expanded."""

QUANTISER = ("bits", "range", "low", "high", "percentile", "rounding", "storage", "extra_bits")
"""Settings that mean nothing for float32 weights."""
SKIP = "leave such combinations out of the axes, give them an [[also]] block, or set skip = true (--skip)"


class Block(Record):
    """One product of axes."""

    fixed: dict[str, Value] = Field(default={})
    """Values that hold for every run of the block."""
    axes: dict[str, list[Value]] = Field(default={})
    """Values that are multiplied; the last axis changes fastest."""


class StudySpec(Record):
    """A study as its file says it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    """Of the study, for people."""
    description: str = ""
    """What it is to find out."""
    seeds: int | list[int] | None = None
    """Seeds 1..n of every setting, or these; None: 3, unless a block names `seed` itself."""
    skip: bool = False
    """Leave combinations without meaning out, and list them, instead of refusing them."""
    fixed: dict[str, Value] = Field(default={})
    """Of the first block, and of every other one that does not say otherwise."""
    axes: dict[str, list[Value]] = Field(default={})
    """Of the first block."""
    also: list[Block] = Field(default=[])
    """More blocks: the study is the union of all."""

    @property
    def blocks(self) -> list[Block]:
        """All products, each with everything that holds in it."""
        more: list[Block] = []
        for block in self.also:
            taken = {name: value for name, value in self.fixed.items() if name not in block.axes}
            more.append(Block(fixed={**taken, **block.fixed}, axes=block.axes))
        return [Block(fixed=self.fixed, axes=self.axes), *more]


@dataclass(frozen=True)
class Expansion:
    """A study as cells.

    Attributes:
        cells: each once, in the order of the file.
        left_out: combinations that were left out, with the reason (`skip`).
        notes: what was filled in or merged, in words.
    """

    cells: tuple[Cell, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def parse(text: str, where: str = "study") -> StudySpec:
    """A study from TOML text.

    Args:
        text: the file's content.
        where: its name, for errors.

    Raises:
        UsageError: not TOML, or tables, settings or kinds of values that cannot be, all in one message.
    """
    try:
        raw: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where} is not TOML: {error}") from None
    version = raw.pop("schema_version", SCHEMA)
    if not isinstance(version, int) or version > SCHEMA:
        raise UsageError(
            f"{where} has schema {version}, this tersa reads up to {SCHEMA}; install a newer tersa"
        )
    head = raw.pop("study", {})
    if not isinstance(head, dict):
        raise UsageError(f"{where}: study is {head!r}; write a table [study] with a name")
    found = [
        str(unknown("table", key, ["study", "fixed", "axes", "also"])) for key in raw if key not in TABLES
    ]
    found += [str(unknown("setting of [study]", key, HEAD)) for key in head if key not in HEAD]
    known = {key: value for key, value in {**raw, **head}.items() if key in TABLES or key in HEAD}
    try:
        spec = StudySpec.model_validate({"name": Path(where).stem, **known})
    except ValidationError as error:
        raise faults(where, found + [say(detail) for detail in error.errors()]) from None
    if found:
        raise faults(where, found)
    return spec


TABLES = ("fixed", "axes", "also")
HEAD = tuple(name for name in StudySpec.model_fields if name not in TABLES)


def read_spec(path: Path) -> StudySpec:
    """A study from its file.

    Raises:
        UsageError: no such file, or one of the faults of `parse`.
    """
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise UsageError(f"no file {path}; give a study.toml, or settings such as --rule bp,fa") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None


def to_toml(spec: StudySpec) -> str:
    """The file of a study; `parse(to_toml(spec)) == spec`."""
    body = spec.model_dump(exclude_none=True)
    head = {name: body[name] for name in HEAD if name in body}
    tables = {name: body[name] for name in TABLES if body[name]}
    return tomlkit.dumps({"schema_version": SCHEMA, "study": head, **tables})


def override(spec: StudySpec, pairs: Sequence[str]) -> StudySpec:
    """A study with some settings replaced in every block: `epochs=2` fixes, `bits=2,3` is an axis.

    Raises:
        UsageError: a text that is not KEY=VALUE, unknown settings, or one that is given twice.

    >>> spec = override(StudySpec(name="x", fixed={"bits": 4}), ["bits=2,3", "seeds=1"])
    >>> spec.fixed, spec.axes, spec.seeds
    ({}, {'bits': ['2', '3']}, 1)
    """
    changes: dict[str, list[Value]] = {}
    found: list[str] = []
    for pair in pairs:
        name, equals, text = (part.strip() for part in pair.partition("="))
        if not equals or not name or not text:
            found.append(f"'{pair}' is not KEY=VALUE or KEY=VALUE,VALUE")
        elif name != "seeds" and name not in Cell.model_fields:
            found.append(str(unknown("setting", name, [*Cell.model_fields, "seeds"])))
        elif name in changes:
            found.append(f"{name} is given twice")
        else:
            changes[name] = [part.strip() for part in text.split(",")]
    seeds, fault = _seeds(changes.pop("seeds", None))
    if found + fault:
        raise faults("settings", found + fault)
    return with_settings(spec, changes, seeds)


def with_settings(
    spec: StudySpec, changes: Mapping[str, Sequence[Value]], seeds: int | list[int] | None = None
) -> StudySpec:
    """A study with settings replaced in every block; one value is fixed, several are an axis."""
    if not changes and seeds is None:
        return spec

    def changed(fixed: dict[str, Value], axes: dict[str, list[Value]]) -> dict[str, Any]:
        kept = {name: value for name, value in fixed.items() if name not in changes}
        single = {name: values[0] for name, values in changes.items() if len(values) == 1}
        others = {name: values for name, values in axes.items() if name not in changes}
        several = {name: list(values) for name, values in changes.items() if len(values) > 1}
        return {"fixed": kept | single, "axes": others | several}

    also = [Block(**changed(block.fixed, block.axes)) for block in spec.also]
    if seeds is None:
        seeds = None if "seed" in changes else spec.seeds
    return spec.model_copy(update={**changed(spec.fixed, spec.axes), "also": also, "seeds": seeds})


def _seeds(texts: list[Value] | None) -> tuple[int | list[int] | None, list[str]]:
    """`seeds=5` or `seeds=1,7`, and what is wrong with it."""
    if texts is None:
        return None, []
    try:
        numbers = [int(text) for text in texts]
    except ValueError:
        return None, [f"seeds is {','.join(map(str, texts))}; give a number, or several separated by commas"]
    return (numbers[0] if len(numbers) == 1 else numbers), []


def expand(spec: StudySpec) -> Expansion:
    """The cells of a study, each once, in the order of the file with the seed changing fastest.

    Raises:
        UsageError: unknown settings, values that cannot be, or combinations without meaning, all in one
            message.
    """
    blocks = spec.blocks
    found = [fault for block in blocks for fault in _block_faults(block)] + _seed_faults(spec)
    if found:
        raise faults(f"study '{spec.name}'", _once(found))
    size = sum(_size(block, spec.seeds) for block in blocks)
    if size > MOST_CELLS:
        raise UsageError(
            f"study '{spec.name}': {size:,} combinations, at most {MOST_CELLS:,}; make axes shorter"
        )
    cells: dict[str, Cell] = {}
    senseless: dict[str, list[Cell]] = {}
    notes: list[str] = []
    for block in blocks:
        for values in _combinations(block, spec.seeds):
            rule = str(values.get("rule", Cell().rule))
            if rule not in RULES:
                found.append(str(unknown("rule", rule, RULES)))
            try:
                cell = Cell.model_validate(_filled(values))
            except ValidationError as error:
                found += [say(detail) for detail in error.errors()]
                continue
            reasons = meaningless(cell)
            for reason in reasons:
                senseless.setdefault(reason, []).append(cell)
            if not reasons:
                cells.setdefault(cell.key, cell)
        notes += _notes(block)
    listed = [_listed(reason, group) for reason, group in senseless.items()]
    if listed and not spec.skip:
        found += [*listed[:-1], f"{listed[-1]}; {SKIP}"]
    if found:
        raise faults(f"study '{spec.name}'", _once(found))
    if not cells:
        raise UsageError(f"study '{spec.name}' has no run left: {'; '.join(listed)}")
    return Expansion(tuple(cells.values()), tuple(listed), tuple(_once(notes)))


def _block_faults(block: Block) -> list[str]:
    found = [
        str(unknown("setting", n, Cell.model_fields)) for n in (*block.fixed, *block.axes) if n not in FIELDS
    ]
    found += [f"{name} is both fixed and an axis; give it once" for name in block.axes if name in block.fixed]
    found += [
        f"axis {name} has no values; give one or more" for name, values in block.axes.items() if not values
    ]
    return found


FIELDS = frozenset(Cell.model_fields)


def _seed_faults(spec: StudySpec) -> list[str]:
    if spec.seeds is None:
        return []
    numbers = [spec.seeds] if isinstance(spec.seeds, int) else spec.seeds
    if isinstance(spec.seeds, int) and spec.seeds < 1:
        return [f"seeds is {spec.seeds}; give 1 or more, or a list of seeds"]
    if not numbers:
        return ["seeds is an empty list; give one seed or more"]
    if "seed" in spec.fixed or "seed" in spec.axes:
        return ["seed and seeds are both given; give one"]
    return []


def _size(block: Block, seeds: int | list[int] | None) -> int:
    """Combinations of a block, counted without making them."""
    size = 1
    if "seed" not in block.fixed and "seed" not in block.axes:
        size = SEEDS if seeds is None else seeds if isinstance(seeds, int) else len(seeds)
    for values in block.axes.values():
        size *= len(values)
    return size


def _combinations(block: Block, seeds: int | list[int] | None) -> Iterator[dict[str, Value]]:
    axes = dict(block.axes)
    if "seed" not in block.fixed and "seed" not in axes:
        wanted = SEEDS if seeds is None else seeds
        axes["seed"] = list(range(1, wanted + 1)) if isinstance(wanted, int) else [*wanted]
    for values in itertools.product(*axes.values()):
        yield {**block.fixed, **dict(zip(axes, values, strict=True))}


def _filled(values: dict[str, Value]) -> dict[str, Value]:
    """With the quantiser that its settings call for, and without those that float32 does not have."""
    kind = values.get("quant", "symmetric" if any(name in values for name in QUANTISER) else "none")
    if kind == "none":
        return {name: value for name, value in values.items() if name not in QUANTISER}
    bits = OWN_BITS.get(str(kind))
    return ({"bits": bits} if bits else {}) | values | {"quant": kind}


def _notes(block: Block) -> list[str]:
    named = [name for name in QUANTISER if name in block.fixed or name in block.axes]
    kinds = block.axes.get("quant", [block.fixed["quant"]] if "quant" in block.fixed else [])
    if named and not kinds:
        return [f"quant is not given beside {', '.join(named)}: symmetric is taken"]
    several = [name for name in named if name in block.axes]
    if several and "none" in kinds:
        return [f"float32 (quant none) has no {', '.join(several)}: its cells are kept once"]
    return []


def _listed(reason: str, cells: list[Cell]) -> str:
    count = "1 combination" if len(cells) == 1 else f"{len(cells)} combinations"
    return f"{reason} ({count}, the first: {cells[0].describe()})"


def _once(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(texts))
