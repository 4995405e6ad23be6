"""A training run for `test_kill.py` to kill: python killable.py FOLDER. Prints one line per epoch."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from tersa.data.task import Provenance, Split, Task
from tersa.files import replacing
from tersa.train.config import TrainConfig
from tersa.train.history import HistoryWriter
from tersa.train.loop import train

EPOCHS = 30


def main(folder: Path) -> None:
    """Train, resuming whatever an earlier attempt left, and write the final weights."""
    wave = torch.sin(torch.arange(240 * 25) * 12.9898).reshape(240, 1, 5, 5)
    split = Split((wave * 100 + 120).to(torch.uint8), torch.arange(240) % 3)
    task = Task("wave", split, split, split, ("a", "b", "c"), (0.5,), (0.3,), Provenance("made", "", {}))
    model = nn.Sequential(nn.Flatten(), nn.Linear(25, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.sin(torch.arange(parameter.numel()) * 0.7).reshape(parameter.shape))
    config = TrainConfig(optimizer="adam", batch=48, epochs=EPOCHS, flip=True, pad=1, keep="last")
    with HistoryWriter(folder / "history.db") as history:

        def tell(row: object) -> None:
            history.add(row)  # type: ignore[arg-type]
            print("epoch", flush=True)

        train(model, task, config, checkpoint=folder / "run.safetensors", resume=True, on_epoch=tell)
    with replacing(folder / "final.safetensors") as temporary:
        save_file(model.state_dict(), temporary)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
