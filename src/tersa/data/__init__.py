"""Data sets as tasks: `load` finds, checks, decodes and splits; see `task.Task`.

Example:
    >>> from tersa import data
    >>> task = data.load("digits")
    >>> task.shape, task.classes[3], len(task.test)
    ((1, 8, 8), '3', 360)
"""

from tersa.data.sources import SOURCES, load
from tersa.data.task import Provenance, Split, Task, fingerprint, pixels

__all__ = ["SOURCES", "Provenance", "Split", "Task", "fingerprint", "load", "pixels"]
