"""Document 004's B-VGG16 on CIFAR-10 at full length, on a GPU: fully binary, and with 8-bit ends.

    python benchmarks/gpu/bvgg16.py --dry-run             on any machine, a minute: does all of it work?
    python benchmarks/gpu/bvgg16.py                       both networks, 400 epochs each
    python benchmarks/gpu/bvgg16.py binary --minutes 9    stop in time; the same command goes on

Aims: 90.5 % fully binary (document 004: 88.21 %), 92.5 % with 8-bit first and last layers. Forward passes are
in bfloat16 with channels last; images stay on the device and are augmented there. A training that was stopped
goes on from its last epoch (`--out`), a finished one is not run again. Its weights are written as safetensors
in pieces of at most `--limit` MB, which `read_pieces` puts together; its row goes to
`benchmarks/results/bvgg16_gpu.csv`, where a network that was not trained stands as "not run: needs a GPU".
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tersa.data.sources import load as load_task
from tersa.data.task import Task
from tersa.errors import TersaError
from tersa.models.load import load as load_model
from tersa.models.summary import macs, parameters
from tersa.recipes.setting import Setting
from tersa.recipes.train import TrainedRun, TrainRequest, bits_in_words, run_training
from tersa.train.baseline import default_config
from tersa.train.config import override
from tersa.train.evaluation import predict
from tersa.train.loop import train

RESULTS = Path(__file__).parents[1] / "results" / "bvgg16_gpu.csv"
OPEN = "not run: needs a GPU"
DATA = "cifar-10"
SETTINGS: dict[str, object] = {
    "batch": 128,
    "epochs": 400,
    "learning_rate": 0.02,
    "schedule": "cosine",
    "keep": "last",
}
MB = 1_000_000
FEW = 64
"""Images of a dry run."""


@dataclass(frozen=True)
class Network:
    """What is trained, and how well it should do.

    Attributes:
        model: its spec.
        aim: test accuracy in percent.
        document: document 004's.
    """

    model: str
    aim: float
    document: float | None


NETWORKS = {
    "binary": Network("bvgg16", 90.5, 88.21),
    "8-bit-ends": Network("bvgg16+w1a1:first=8/8,last=8/8", 92.5, None),
}


class TimeIsUp(Exception):
    """The minutes that were given are over."""


def write_pieces(state: dict[str, Tensor], folder: Path, limit: int) -> list[Path]:
    """Write tensors as `part-1-of-N.safetensors`, ..., none larger than `limit` bytes of tensors.

    Raises:
        TersaError: a single tensor is larger.
    """
    pieces: list[dict[str, Tensor]] = [{}]
    room = limit
    for name, tensor in state.items():
        size = tensor.numel() * tensor.element_size()
        if size > limit:
            raise TersaError(f"{name} has {size:,} bytes, pieces at most {limit:,}; raise --limit")
        if size > room:
            pieces.append({})
            room = limit
        pieces[-1][name] = tensor.detach().cpu().contiguous()
        room -= size
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"part-{i}-of-{len(pieces)}.safetensors" for i in range(1, len(pieces) + 1)]
    for path, piece in zip(paths, pieces, strict=True):
        save_file(piece, path)
    return paths


def read_pieces(folder: Path) -> dict[str, Tensor]:
    """What `write_pieces` wrote.

    Raises:
        TersaError: pieces are missing.
    """
    paths = sorted(folder.glob("part-*-of-*.safetensors"))
    if not paths or len(paths) != int(paths[0].stem.rpartition("-")[2]):
        raise TersaError(f"{folder} holds {len(paths)} pieces, and not all of a network's; copy the others")
    return {name: tensor for path in paths for name, tensor in load_file(path).items()}


def train_network(name: str, out: Path, minutes: float | None, limit: int, device: str) -> dict[str, str]:
    """Train, or go on, write the pieces, and give the row."""
    network, folder = NETWORKS[name], out / name
    end = time.monotonic() + 60 * minutes if minutes else float("inf")

    def say(task: str, done: float, remark: str) -> None:
        print(f"{name}: {done:6.1%} {remark}", flush=True)
        if done < 1 and time.monotonic() > end:
            raise TimeIsUp

    request = TrainRequest(data=DATA, model=network.model, settings=SETTINGS)
    result = run_training(
        request, folder, setting=Setting(device=device, say=say), resume=(folder / "spec.toml").exists()
    )
    write_pieces(load_file(folder / result.artefacts[0]), folder / "pieces", limit)
    return row(name, result)


def row(name: str, result: TrainedRun | None) -> dict[str, str]:
    """A line of the table; of a network that was not trained, an open one."""
    network = NETWORKS[name]
    found = {
        "name": name,
        "model": network.model,
        "bits": bits_in_words(network.model),
        "aim": f"{network.aim}",
        "document": "" if network.document is None else f"{network.document}",
        "epochs": f"{SETTINGS['epochs']}",
        "test_accuracy": OPEN,
        "validation_accuracy": "",
        "seconds": "",
        "device": "",
        "seed": "0",
        "note": "",
    }
    if result is not None:
        found |= {
            "test_accuracy": f"{result.test_accuracy:.2f}",
            "validation_accuracy": f"{result.validation_accuracy:.2f}",
            "seconds": f"{result.seconds:.0f}",
            "device": torch.cuda.get_device_name() if result.device.startswith("cuda") else result.device,
            "seed": f"{result.config.seed}",
            "note": result.task_note,
        }
    return found


def stored() -> dict[str, dict[str, str]]:
    """Lines by name, open ones where nothing is stored."""
    lines = {name: row(name, None) for name in NETWORKS}
    if RESULTS.exists():
        with RESULTS.open(newline="", encoding="utf-8") as file:
            lines |= {line["name"]: line for line in csv.DictReader(file)}
    return lines


def store(line: dict[str, str] | None = None) -> None:
    """Write the table, with one line replaced."""
    lines = stored() | ({line["name"]: line} if line else {})
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row("binary", None)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines.values())


def rehearse(limit: int) -> None:
    """Everything on the CPU with a few images and two updates: train, write in pieces, read, compare."""
    whole = load_task(DATA)
    few = Task(
        **{**vars(whole), **{s: getattr(whole, s).take(slice(FEW)) for s in ("train", "validation", "test")}}
    )
    for name, network in NETWORKS.items():
        config = override(
            default_config(few, network.model, device="cuda"), {**SETTINGS, "iterations": 2, "batch": 32}
        )
        model = load_model(network.model, few.shape, len(few.classes)).module
        size = f"{parameters(model):,} parameters, {macs(model, few.shape):,} MACs"
        print(f"{name}: {network.model}, {bits_in_words(network.model)}, {size}", flush=True)
        done = train(model, few, config, progress=None)
        with tempfile.TemporaryDirectory() as folder:
            pieces = write_pieces(model.state_dict(), Path(folder), limit)
            largest = max(path.stat().st_size for path in pieces) / MB
            again: nn.Module = load_model(network.model, few.shape, len(few.classes), seed=1).module
            again.load_state_dict(read_pieces(Path(folder)))
        same = torch.equal(predict(model, few.test, few), predict(again, few.test, few))
        print(
            f"  {config.precision}, channels last {config.channels_last}: 2 updates, loss "
            f"{done.history[-1].train_loss:.3f}; {len(pieces)} pieces of at most {largest:.1f} MB, logits of "
            f"{FEW} images {'equal' if same else 'DIFFER'} after reading them"
        )
        if not same:
            raise TersaError("the weights that were read are not those that were written")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=list(NETWORKS), help=", ".join(NETWORKS))
    parser.add_argument(
        "--dry-run", action="store_true", help="rehearse on the CPU; the table keeps its lines"
    )
    parser.add_argument("--minutes", type=float, help="stop after so many")
    parser.add_argument("--limit", type=float, default=25.0, help="MB of a piece of the weights")
    parser.add_argument("--out", type=Path, default=Path("runs/bvgg16-gpu"), help="folder of the trainings")
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    if wrong := [name for name in arguments.names if name not in NETWORKS]:
        parser.error(f"unknown network {wrong[0]}; known: {', '.join(NETWORKS)}")
    store()
    try:
        if arguments.dry_run:
            rehearse(int(arguments.limit * MB))
            return
        for name in arguments.names:
            if stored()[name]["test_accuracy"] == OPEN:
                store(
                    train_network(
                        name, arguments.out, arguments.minutes, int(arguments.limit * MB), arguments.device
                    )
                )
    except TimeIsUp:
        print("time is up; the same command goes on from the last whole epoch")
    except TersaError as error:
        parser.exit(error.exit_code, f"error: {error}\n")
    for line in stored().values():
        print(f"{line['model']}: {line['test_accuracy']} on test, aim {line['aim']} %")


if __name__ == "__main__":
    main()
