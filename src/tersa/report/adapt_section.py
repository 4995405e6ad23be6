"""The part of a result's page that tells how the network was fitted to its target.

adapt.html holds it; the shell around it is that of `tersa.report.page`, which asks for this part where a
result has an adaptation.

Example:
    >>> found = Adaptation(search="budget", budget_ms=1.0, machine="demo", foreign=False, points=3,
    ...                    measured=0, call_ms=0.005)
    >>> sorted(values(found))[:3]
    ['candidates', 'check_rows', 'check_words']
"""

from __future__ import annotations

from typing import Any

from tersa.records.adaptation import Adaptation
from tersa.report import adapt_charts, adapt_view
from tersa.report.numbers import duration


def values(found: Adaptation) -> dict[str, Any]:
    """What adapt.html shows, by name."""
    return {
        "found": found,
        "table_words": adapt_view.table_words(found),
        "check_words": adapt_view.check_words(found),
        "check_rows": adapt_view.check_rows(found),
        "energy_words": adapt_view.energy_words(found),
        "energy_rows": adapt_view.energy_rows(found),
        "checks": adapt_charts.checks(found),
        "front": adapt_charts.front(found),
        "front_rows": adapt_view.front_rows(found),
        "candidates": adapt_charts.candidates(found),
        "race_words": adapt_view.race_words(found),
        "groups": [
            (name, duration(cut), duration(score), duration(judged), chosen)
            for name, cut, score, judged, chosen in adapt_view.groups_of(found)
        ],
        "seconds": adapt_view.second_rows(found),
    }
