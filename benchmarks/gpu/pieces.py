"""A low-bit network's weights in files small enough to travel, and the proof of what they compute.

    python benchmarks/gpu/pieces.py binary runs/bvgg16-gpu/binary/pieces

`bvgg16.py` writes them, signs as bytes, latent weights left out. This command reads those of one of its
networks anywhere, makes the packed program of them, and runs both on the whole test split: the network in
float32 on the CPU, the program in integers. It prints the accuracy and how many of the images have the very
same logits, and puts both into the network's row of `results/bvgg16_gpu.csv`.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tersa.binary.runtime import Runner
from tersa.data.sources import load as load_task
from tersa.data.task import Task
from tersa.errors import TersaError
from tersa.export.bundle import encode
from tersa.files import replacing, write_rows
from tersa.models.load import load as load_model
from tersa.quant.layers import QuantConv2d, QuantLinear
from tersa.recipes.deploy import pack
from tersa.train.evaluation import predict

RESULTS = Path(__file__).parents[1] / "results" / "bvgg16_gpu.csv"
VALIDATION = 1000
"""Images of the training split that only tell how it goes; nothing is chosen by them."""
DATA = "cifar-10"
MB = 1_000_000
BATCH = 100
ROUNDING = 0.011
"""Points between the accuracy of a row, which has two decimals and comes from another machine, and ours."""


def compact(model: nn.Module) -> dict[str, Tensor]:
    """A network's state with weights of one bit as bytes, which is what it computes with.

    Latent weights are lost: it can be evaluated and packed, not trained further.
    """
    state = dict(model.state_dict())
    for name, layer in model.named_modules():
        if isinstance(layer, (QuantConv2d, QuantLinear)) and layer.form.bits == 1:
            state[f"{name}.weight"] = layer.integer_weight().to(torch.int8)
    return state


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
    for old in folder.glob("part-*.safetensors"):
        old.unlink()
    paths = [folder / f"part-{i}-of-{len(pieces)}.safetensors" for i in range(1, len(pieces) + 1)]
    for path, piece in zip(paths, pieces, strict=True):
        with replacing(path) as part:
            save_file(piece, part)
    return paths


def read_pieces(folder: Path) -> dict[str, Tensor]:
    """What `write_pieces` wrote, bytes as float32.

    Raises:
        TersaError: pieces are missing, damaged, or of two splits.
    """
    paths = sorted(folder.glob("part-*.safetensors"))
    names = [path.name for path in paths]
    wanted = [f"part-{i}-of-{len(paths)}.safetensors" for i in range(1, len(paths) + 1)]
    if not paths or names != sorted(wanted):
        found = ", ".join(names) or "no part-1-of-N.safetensors"
        raise TersaError(f"{folder} does not hold all pieces of one network, but {found}; copy them again")
    read: dict[str, Tensor] = {}
    for path in paths:
        try:
            read |= load_file(path)
        except SafetensorError as error:
            raise TersaError(f"{path} is damaged: {error}; copy it again") from None
    return {name: tensor.float() if tensor.dtype == torch.int8 else tensor for name, tensor in read.items()}


@dataclass(frozen=True)
class Check:
    """What a network and its packed program say of the test split.

    Attributes:
        accuracy: of the network, in percent.
        packed: of the program.
        images: of the split.
        equal: images whose logits are the same, bit for bit.
        size: of the `.tersa` file, in bytes.
    """

    accuracy: float
    packed: float
    images: int
    equal: int
    size: int


def check(model: nn.Module, task: Task, threads: int) -> Check:
    """Run a network and the program packed from it on the test split."""
    program, test = pack(model, task), task.test
    runner = Runner(program, threads=threads)
    own = predict(model, test, task).numpy()
    images = test.images.numpy()
    packed = np.concatenate([runner(images[at : at + BATCH]) for at in range(0, len(images), BATCH)])
    labels = test.labels.numpy()
    return Check(
        accuracy=100 * float((own.argmax(1) == labels).mean()),
        packed=100 * float((packed.argmax(1) == labels).mean()),
        images=len(images),
        equal=int((own == packed).all(1).sum()),
        size=len(encode(program)),
    )


def checked(row: dict[str, str], folder: Path, task: Task, threads: int) -> Check:
    """The network of a row with the weights of its pieces, checked.

    Raises:
        TersaError: pieces that are not of this network, or not of this training; no packed form.
    """
    name, model = row["name"], load_model(row["model"], task.shape, len(task.classes)).module.eval()
    state = read_pieces(folder)
    own = {key: value.shape for key, value in model.state_dict().items()}
    if {key: value.shape for key, value in state.items()} != own:
        raise TersaError(f"{folder} holds the weights of another network than {name} ({row['model']})")
    model.load_state_dict(state)
    found = check(model, task, threads)
    if abs(found.accuracy - float(row["test_accuracy"])) > ROUNDING:
        raise TersaError(
            f"{folder} holds another training of {name}: {found.accuracy:.2f} % on test, its row has "
            f"{row['test_accuracy']} %"
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="of a network in the table")
    parser.add_argument("folder", type=Path, help="its pieces")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS, help="the table")
    asked = parser.parse_args()
    if not asked.results.is_file():
        parser.error(f"no {asked.results}: train the network with bvgg16.py")
    with asked.results.open(newline="", encoding="utf-8") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    trained = [name for name, row in rows.items() if row["test_accuracy"].replace(".", "").isdigit()]
    if asked.name not in trained:
        parser.error(f"no trained network {asked.name} in {asked.results}; there: {', '.join(trained)}")
    torch.set_num_threads(asked.threads)
    try:
        task = load_task(DATA, validation=VALIDATION)
        found = checked(rows[asked.name], asked.folder, task, asked.threads)
    except TersaError as error:
        parser.exit(error.exit_code, f"error: {error}\n")
    print(
        f"{asked.name}: {found.accuracy:.2f} % on {found.images:,} test images, packed {found.packed:.2f} %; "
        f"logits equal on {found.equal:,}; {found.size:,} bytes packed"
    )
    rows[asked.name] |= {
        "packed_accuracy": f"{found.packed:.2f}",
        "equal_logits": f"{found.equal} of {found.images}",
        "packed_bytes": f"{found.size}",
    }
    write_rows(asked.results, list(rows.values()))


if __name__ == "__main__":
    main()
