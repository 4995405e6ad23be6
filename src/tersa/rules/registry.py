"""Every learning rule by name. A new one is a file of its own and a line here.

Example:
    >>> rule("bp").name
    'bp'
"""

from __future__ import annotations

from tersa.errors import unknown
from tersa.rules import feedback, forward_forward, hsic, symmetry, synthetic, targetprop
from tersa.rules.backprop import BackPropagation
from tersa.rules.base import Rule
from tersa.rules.delta import DeltaRule
from tersa.rules.direct import DirectFeedbackAlignment
from tersa.rules.hebbian import Hebbian
from tersa.rules.local import LocalLosses

RULES: dict[str, Rule] = {
    made.name: made
    for made in (
        BackPropagation(),
        feedback.FeedbackAlignment(),
        feedback.DOCUMENT,
        DirectFeedbackAlignment(),
        symmetry.SignSymmetry(),
        symmetry.RANDOM,
        LocalLosses(),
        Hebbian(),
        DeltaRule(),
        targetprop.DTP(),
        targetprop.FIXED,
        forward_forward.ForwardForward(),
        forward_forward.HINTON,
        hsic.HsicBottleneck(),
        hsic.SIMULTANEOUS,
        hsic.DOCUMENT,
        synthetic.SyntheticGradients(),
        synthetic.LABELS,
        synthetic.DOCUMENT,
    )
}


def rule(name: str) -> Rule:
    """The rule of that name.

    Raises:
        UsageError: there is none, with the closest match.
    """
    if name not in RULES:
        raise unknown("rule", name, RULES)
    return RULES[name]
