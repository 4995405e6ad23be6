"""Made-up measurements of an adaptation reproduction, for tests of its tables, report and command."""

from __future__ import annotations

from tests.recipes.hardware_example import result as hardware

from tersa.recipes.adaptation_result import (
    REMEDIES,
    AdaptationResult,
    BlockTimes,
    LayerPoint,
    ScorePoint,
    Searched,
    Timed,
)


def block(step: int, place: int, original_s: float, other_s: float = 0.5) -> BlockTimes:
    return BlockTimes(
        step=step, block=place, name=f"<i>features.{place}</i>", before=64, width=56, tries=9, bisect_tries=6,
        built=4, cuts={n: original_s if n == "original" else other_s for n in (*REMEDIES, "ours")},
        finetune_s=20.0, evaluate_s=2.0, score_s=0.5,
    )  # fmt: skip


def timed(network: str = "alexnet", delta: float = 0.05) -> Timed:
    """Two blocks, two steps: a step of the original takes 100 + 40 + 4 seconds, a search of ours 1."""
    rows = [block(0, 0, 20.0), block(0, 1, 100.0), block(1, 0, 20.0), block(1, 1, 60.0)]
    return Timed(network=network, side=32, delta=delta, steps=10, trained=3, iterations=500, blocks=rows)


def result() -> AdaptationResult:
    return AdaptationResult(
        mode="full",
        command="tersa reproduce adaptation --full",
        target="onnxruntime@threads=1",
        timed=[timed(), timed("mobilenet")],
        layers=[
            LayerPoint(kind=kind, layer="conv 3x3", inputs=i, outputs=o, ms=i * o / 100)
            for kind in ("conv", "linear") for i in (8, 16) for o in (8, 16, 24)
        ],
        scores=[
            ScorePoint(
                network="alexnet", step=step, block=b, cost=1 - 0.1 * step, naswot=9.0 - step + b,
                grad_norm=1.0 + b, synflow=2.0 * step, chosen=b == 1,
            )
            for step in (1, 2, 3) for b in (0, 1)
        ],
        searched=[
            Searched(network="alexnet", strategy=name, seed=seed, search_s=60.0 * n, accuracy=80.0 + seed,
                     baseline=81.0, speedup=2.0)
            for n, name in ((10, "original"), (1, "H30 naswot")) for seed in (0, 1)
        ],
        environment=hardware().environment,
        notes=["32x32 forms"],
        artefacts=[],
        seconds=9.0,
    )  # fmt: skip
