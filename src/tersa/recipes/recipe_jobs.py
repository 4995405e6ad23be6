"""The jobs that a step of a recipe can name.

Example:
    >>> " ".join(JOBS)
    'train shrink prune adapt cluster binary search export bench study reproduce'
"""

from __future__ import annotations

from tersa.recipes.recipe_kind import Kind
from tersa.recipes.recipe_networks import NETWORKS
from tersa.recipes.recipe_search import SEARCH
from tersa.recipes.recipe_tables import TABLES

JOBS: dict[str, Kind] = {kind.name: kind for kind in (*NETWORKS, SEARCH, *TABLES)}
