"""Keep what a finished study says: one row per setting, with everything needed to make it again.

    tersa study run benchmarks/studies/few_bits.toml --out studies/few_bits
    python benchmarks/study_results.py studies/few_bits ...

writes `results/studies/NAME.csv`: mean, deviation and 95 % interval over the seeds, each seed's accuracy, the
time of a run in its stack (other work went on beside some of these runs: read times as upper bounds), the
machine and the command. Refuses a study that has not ended.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from tersa.errors import UsageError, unknown
from tersa.recipes.study import stored_spec
from tersa.study.spec import expand
from tersa.study.store import StudyStore
from tersa.study.table import aggregate, flat, outcomes
from tersa.targets.environment import environment

RESULTS = Path(__file__).parent / "results" / "studies"
SPECS = Path(__file__).parent / "studies"


def rows(folder: Path) -> list[dict[str, object]]:
    """One row per setting of the study in a folder."""
    asked = {cell.key for cell in expand(stored_spec(folder)).cells}
    with StudyStore(folder / "study.db") as store:
        summaries = [each for each in store.summaries() if each.key in asked]
    settings = aggregate(outcomes(summaries))
    if any(row.waiting for row in settings):
        raise UsageError(f"{folder} has runs that have not ended; tersa study run --resume goes on")
    table, machine = flat(settings), environment(1)
    found: list[dict[str, object]] = []
    for line, row in zip(table.body, settings, strict=True):
        fixed = row.cell.model_dump(exclude={"seed"})
        runs = [each for each in summaries if each.cell.model_dump(exclude={"seed"}) == fixed]
        accuracies = [each.test_accuracy for each in runs]
        found.append(
            {
                **dict(zip(table.header, line, strict=True)),
                "seeds": " ".join(str(each.cell.seed) for each in runs),
                "accuracies": " ".join("-" if a is None else f"{a:.2f}" for a in accuracies),
                "seconds_per_run": round(sum(each.seconds for each in runs) / len(runs), 1),
                "judged_on": row.cell.judged_on,
                "processor": machine.processor,
                "torch": machine.versions["torch"],
                "date": machine.date[:10],
                "command": f"tersa study run {SPECS.parent.name}/studies/{folder.name}.toml",
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    for folder in parser.parse_args().folders:
        if not (SPECS / f"{folder.name}.toml").is_file():
            raise unknown("study", folder.name, [path.stem for path in SPECS.glob("*.toml")])
        found = rows(folder)
        RESULTS.mkdir(parents=True, exist_ok=True)
        place = RESULTS / f"{folder.name}.csv"
        with place.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(found[0]))
            writer.writeheader()
            writer.writerows(found)
        print(f"{place}: {len(found)} settings")


if __name__ == "__main__":
    main()
