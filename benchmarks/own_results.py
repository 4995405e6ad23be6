"""What this project's own methods reach of the documents' values, as summaries for the book of reproductions.

    python benchmarks/own_results.py --out docs/results
    tersa reproduce book docs/results --out docs/results --overwrite

reads committed results (`benchmarks/results`) and runs nothing: LeNet pruned by `tersa prune` beside document
002's table 4.1, learning rules in float32 with settings of ours beside document 000's table 6.1, and
VGG16, the fully binary one and CNV beside document 004's table II.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from tersa.recipes.book_found import Ours, Summary
from tersa.recipes.book_published import key_of, rows_of
from tersa.records.base import write_record
from tersa.study.statistics import interval

RESULTS = Path(__file__).parent / "results"
RULES = {"fa": "fa-document", "dni": "dni-document", "hsic": "hsic-document"}
"""Our rules, and the document's of the same family."""
TRAINED = {"teacher": "VGG16", "binary": "B-VGG16", "cnv": "BNN-PYNQ"}
"""Networks of `gpu/bvgg16.py`, and those of document 004's table II."""


def read(name: str) -> list[dict[str, str]]:
    """Rows of a file of results."""
    with (RESULTS / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def over_seeds(key: str, values: list[float], remark: str) -> Ours:
    """A mean with its interval."""
    spread = interval(values)
    ends = (spread.low, spread.high) if len(values) > 1 else (None, None)
    return Ours(key=key, value=spread.mean, low=ends[0], high=ends[1], seeds=len(values), remark=remark)


def pruned() -> Summary:
    """Table 4.1 by `tersa prune`; losses are on the test images, the document's on its validation ones."""
    rows = [row for row in read("pruning_lenet.csv") if row["model"] == "lenet"]
    columns = {
        "pruned_loss": "loss_points",
        "pruned_compression": "compression",
        "pruned_acceleration": "acceleration",
        "scratch_loss": "from_scratch_loss_points",
    }
    values = [
        over_seeds(
            key_of("pruning.csv", row, "value"),
            [float(each[columns[row["name"]]]) for each in rows],
            "test images" if columns[row["name"]].endswith("points") else "",
        )
        for row in rows_of("pruning.csv")
        if row["name"] in columns
    ]
    return Summary(
        experiment="pruning",
        name="own-lenet",
        command=rows[0]["command"],
        own=True,
        processor=rows[0]["processor"],
        date=max(row["date"] for row in rows),
        torch=rows[0]["torch"],
        seconds=sum(float(row["seconds"]) for row in rows),
        values=values,
    )


def trained() -> Summary:
    """Rules of table 6.1 with settings of ours."""
    values: list[Ours] = []
    rows = [*read("studies/full_precision.csv"), *read("studies/dni_hsic.csv")]
    published = {(row["rule"], row["data"], row["model"]): row for row in rows_of("full_precision.csv")}
    for row in rows:
        theirs = published.get((RULES.get(row["rule"], ""), "mnist", row["model"]))
        if theirs is not None:
            accuracies = [float(each) for each in row["accuracies"].split()]
            values.append(
                over_seeds(
                    key_of("full_precision.csv", theirs, "accuracy"), accuracies, f"rule {row['rule']}"
                )
            )
    return Summary(
        experiment="quantized-training",
        name="own-rules",
        command=rows[0]["command"],
        own=True,
        processor=rows[0]["processor"],
        date=max(row["date"] for row in rows),
        torch=rows[0]["torch"],
        seconds=sum(float(row["seconds_per_run"]) * int(row["n"]) for row in rows),
        values=values,
    )


def binary() -> Summary:
    """Networks of table II that were trained on a GPU."""
    rows = {row["name"]: row for row in read("bvgg16_gpu.csv")}
    published = {row["network"]: row for row in rows_of("binary_vgg.csv")}
    values: list[Ours] = []
    trained = {name: network for name, network in TRAINED.items() if rows[name]["validation_accuracy"]}
    for name, network in trained.items():
        row = rows[name]
        key = key_of("binary_vgg.csv", published[network], "test_accuracy_percent")
        remark = f"{row['epochs']} epochs; {row['note']}"
        values.append(Ours(key=key, value=float(row["test_accuracy"]), remark=remark))
    ours = [row for row in rows.values() if row["validation_accuracy"]]
    return Summary(
        experiment="binary-vgg",
        name="own-gpu",
        command="; ".join(dict.fromkeys(row["command"] for row in ours)),
        own=True,
        processor=ours[0]["device"],
        device="cuda",
        torch=ours[0]["torch"],
        seconds=sum(float(row["seconds"]) for row in ours),
        values=values,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of summaries")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for summary in (pruned(), trained(), binary()):
        write_record(asked.out / summary.file, summary)
        print(asked.out / summary.file)


if __name__ == "__main__":
    main()
