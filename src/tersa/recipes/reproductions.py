"""The documents' experiments that can be run again, with what each published and the command that does it.

Numbers of published values are counted in the package's own files (`published/*.csv`): cells that hold a
number under a header that is not a setting.

Example:
    >>> [each.name for each in EXPERIMENTS]
    ['quantized-training', 'pruning', 'hardware', 'adaptation', 'binary-vgg']
    >>> EXPERIMENTS[0].published > 672
    True
"""

from __future__ import annotations

from dataclasses import dataclass

from tersa.recipes.published_table import number, rows

SETTINGS = frozenset(
    {
        "rule",
        "data",
        "model",
        "quant",
        "bits",
        "range",
        "table",
        "figure",
        "section",
        "network",
        "delta",
        "remedy",
        "block",
        "step",
        "steps",
        "name",
        "property",
        "measured_on",
        "adapted_for",
        "device",
        "form",
        "runtime",
        "precision",
        "batch",
        "approach",
        "architecture",
        "weight_bits",
        "activation_bits",
        "setting",
        "kind",
        "operation",
        "size_bytes",
        "channels",
        "source",
        "unit",
        "what",
        "approximate",
    }
)
"""Headers of the published files that say what was done, not what came of it."""


@dataclass(frozen=True)
class Experiment:
    """One verb of `tersa reproduce`.

    Attributes:
        name: of the verb.
        document: number of the document.
        about: what it asks, and which tables and figures answer.
        files: published values of the package.
        flags: modes, from the shortest.
    """

    name: str
    document: str
    about: str
    files: tuple[str, ...]
    flags: tuple[str, ...] = ("--quick", "--full")

    @property
    def published(self) -> int:
        """Published values that ours can stand beside."""
        return sum(
            1
            for file in self.files
            for row in rows(file)
            for header, cell in row.items()
            if header not in SETTINGS and _is_number(cell)
        )

    @property
    def command(self) -> str:
        """The shortest run of it."""
        return self.as_typed(full=False)

    def as_typed(self, *, full: bool, out: str = "") -> str:
        """What a user types for the shortest or the whole run.

        >>> EXPERIMENTS[0].as_typed(full=True, out="studies/x")
        'tersa reproduce quantized-training --out studies/x'
        """
        flag = self.flags[-1 if full else 0]
        return " ".join(filter(None, ["tersa reproduce", self.name, flag, f"--out {out}" if out else ""]))


EXPERIMENTS = (
    Experiment(
        "quantized-training",
        "000",
        "which learning rule survives 2 to 8 bits; tables 5.1, 5.2, 6.1, 6.2 and all result files",
        ("quantized_training_mnist.csv", "full_precision.csv", "weight_spread.csv"),
        ("--quick", ""),
    ),
    Experiment(
        "pruning",
        "002",
        "which pruning strategy is best; figures 4.1 to 4.16, table 4.1",
        ("pruning.csv",),
    ),
    Experiment(
        "hardware",
        "003",
        "how fast networks run on which device; tables 4.1 to 4.7, figures 4.1 to 4.6",
        (
            "hardware_networks.csv",
            "hardware_devices.csv",
            "hardware_precision.csv",
            "hardware_sizes.csv",
            "hardware_cross.csv",
            "hardware_claims.csv",
        ),
    ),
    Experiment(
        "adaptation",
        "003",
        "how much faster NetAdapt can be; tables 5.1 to 5.8",
        (
            "adaptation_original.csv",
            "adaptation_totals.csv",
            "adaptation_blocks.csv",
            "adaptation_claims.csv",
            "bisection_example.csv",
        ),
    ),
    Experiment(
        "binary-vgg",
        "004",
        "how accurate a fully binary VGG16 is; tables I and II",
        ("binary_vgg.csv", "binary_vgg_training.csv"),
    ),
)


def _is_number(cell: str) -> bool:
    try:
        return number(cell) is not None
    except ValueError:
        return False
