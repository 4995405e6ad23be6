"""Training-free scores by name; a new one is a function and an entry.

Example:
    >>> sorted(PROXIES)
    ['grad_norm', 'jacob_cov', 'naswot', 'synflow', 'taylor', 'zen']
"""

from __future__ import annotations

from tersa.adapt.proxies.base import Probe as Probe
from tersa.adapt.proxies.base import Proxy
from tersa.adapt.proxies.gradients import GRAD_NORM, JACOB_COV, SYNFLOW, TAYLOR
from tersa.adapt.proxies.naswot import NASWOT
from tersa.adapt.proxies.zen import ZEN
from tersa.errors import unknown

PROXIES: dict[str, Proxy] = {one.name: one for one in (NASWOT, SYNFLOW, GRAD_NORM, JACOB_COV, ZEN, TAYLOR)}


def find(name: str) -> Proxy:
    """The score of this name.

    Raises:
        UsageError: there is none.
    """
    if name not in PROXIES:
        raise unknown("score", name, [*PROXIES, "finetune"])
    return PROXIES[name]
