"""Many runs over axes of settings: which learning rule survives how few bits?

cell        everything that decides the numbers of one run, and what comes of it
spec        a study as axes over cells, from TOML or settings; `sense` says which combinations mean nothing
store       results in SQLite, whole or not at all
launch      cells cut into stacks and trained; `workers` in processes, `cluster` on Ray
stacked     the engine: runs of equal shape train at once
table       one row per setting over its seeds, as CSV or Markdown

Example:
    >>> from tersa import study
    >>> spec = study.StudySpec(name="bits", axes={"bits": [2, 3]}, seeds=2)
    >>> [cell.describe() for cell in study.expand(spec).cells][0]
    'bp mlp:100x100 on mnist, symmetric 2 bits layer nearest inplace, seed 1'
"""

from tersa.study.cell import Cell, CellEpoch, CellResult, LayerState
from tersa.study.spec import Block, Expansion, StudySpec, expand, override, parse, read_spec, to_toml
from tersa.study.store import CellSummary, StudyStore

__all__ = [
    "Block",
    "Cell",
    "CellEpoch",
    "CellResult",
    "CellSummary",
    "Expansion",
    "LayerState",
    "StudySpec",
    "StudyStore",
    "expand",
    "override",
    "parse",
    "read_spec",
    "to_toml",
]
