"""Workers without processes, for tests of what they do and not of how they live."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

from tersa.study.pool import Pool


def in_this_process(jobs: Sequence[Any], pool: Pool[Any, Any], tell: Callable[[Any], None], on: str) -> None:
    """As `tersa.study.cluster.carry_out`; what crosses to a worker is pickled all the same."""
    do = pickle.loads(pickle.dumps(pool.begin))()
    for job in reversed(pickle.loads(pickle.dumps(list(jobs)))):  # they end in any order
        tell(pickle.loads(pickle.dumps(do(job, lambda event: None))))
