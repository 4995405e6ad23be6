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
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tersa.binary.runtime import Runner
from tersa.data.sources import load as load_task
from tersa.data.task import Task
from tersa.errors import TersaError
from tersa.export.bundle import encode
from tersa.files import replacing
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
    paths = [folder / f"part-{i}-of-{len(pieces)}.safetensors" for i in range(1, len(pieces) + 1)]
    for path, piece in zip(paths, pieces, strict=True):
        save_file(piece, path)
    return paths


def read_pieces(folder: Path) -> dict[str, Tensor]:
    """What `write_pieces` wrote, bytes as float32.

    Raises:
        TersaError: pieces are missing.
    """
    paths = sorted(folder.glob("part-*-of-*.safetensors"))
    if not paths or len(paths) != int(paths[0].stem.rpartition("-")[2]):
        raise TersaError(f"{folder} holds {len(paths)} pieces, and not all of a network's; copy the others")
    read = {name: tensor for path in paths for name, tensor in load_file(path).items()}
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="of a network in the table")
    parser.add_argument("folder", type=Path, help="its pieces")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS, help="the table")
    asked = parser.parse_args()
    with asked.results.open(newline="", encoding="utf-8") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    if asked.name not in rows:
        parser.error(f"no network {asked.name} in {asked.results}; there: {', '.join(rows)}")
    row, task = rows[asked.name], load_task(DATA, validation=VALIDATION)
    model = load_model(row["model"], task.shape, len(task.classes)).module.eval()
    try:
        model.load_state_dict(read_pieces(asked.folder))
    except TersaError as error:
        parser.exit(error.exit_code, f"error: {error}\n")
    torch.set_num_threads(asked.threads)
    found = check(model, task, asked.threads)
    print(
        f"{asked.name}: {found.accuracy:.2f} % on {found.images:,} test images, packed {found.packed:.2f} %; "
        f"logits equal on {found.equal:,}; {found.size:,} bytes packed"
    )
    row |= {
        "packed_accuracy": f"{found.packed:.2f}",
        "equal_logits": f"{found.equal} of {found.images}",
        "packed_bytes": f"{found.size}",
    }
    text = io.StringIO()
    out = csv.DictWriter(text, list(dict.fromkeys(k for r in rows.values() for k in r)), lineterminator="\n")
    out.writeheader()
    out.writerows(rows.values())
    with replacing(asked.results) as part:
        part.write_text(text.getvalue(), encoding="utf-8")


if __name__ == "__main__":
    main()
