"""Networks: built by name, loaded from a user's file, and what they cost."""

from tersa.models.lift import from_export
from tersa.models.lighten import lighten_
from tersa.models.load import LoadedModel, load
from tersa.models.summary import Row, Summary, macs, parameters, summary
from tersa.models.zoo import build, default_spec, known

__all__ = [
    "LoadedModel",
    "Row",
    "Summary",
    "build",
    "default_spec",
    "from_export",
    "known",
    "lighten_",
    "load",
    "macs",
    "parameters",
    "summary",
]
