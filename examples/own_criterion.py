"""A criterion of your own: how important is a channel?

python own_criterion.py prune --data digits --criterion spread --out runs/spread
"""

from torch import Tensor

from tersa.cli.main import run
from tersa.prune.criteria import CRITERIA
from tersa.prune.evidence import Criterion, Evidence


def spread(held: Evidence) -> Tensor:
    """Variance of the weights of each filter, (C,): more is more important."""
    return held.weights.var(dim=1)


CRITERIA["spread"] = Criterion("spread", frozenset(["weights"]), spread, "variance of the filter's weights")

if __name__ == "__main__":
    run()  # the whole command line, with this criterion in it
