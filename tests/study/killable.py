"""A study that is killed again and again: python killable.py FOLDER KILLS.

Writes FOLDER/calm.db undisturbed, and FOLDER/rough.db by children that are killed with SIGKILL at random
moments until one comes to its end. Prints `killed N` with the number of cells that were stored by then.
Children are forked, so that torch is loaded once.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tersa.study.cell import Cell
from tersa.study.launch import prepare, run
from tersa.study.store import StudyStore
from tersa.study.workers import Launch, Shelf

CELLS = [Cell(data="digits", model=f"mlp:{20 + s % 4}", epochs=3, seed=s) for s in range(60)]
SHELF = Shelf(None)
EPOCH_S = 0.004


def attempt(path: Path, told: Callable[[float, str], None] | None = None) -> None:
    """Run what is left of the study."""
    launch = Launch(engine="fake_engine")
    with StudyStore(path, write=True) as store:
        run(store, prepare(store, CELLS, SHELF, launch), launch, told)


def killed(path: Path, events: int, after_s: float) -> bool:
    """Run in a child that is killed some time after it has told of its progress; False where it was quicker.

    A stack tells when it begins and when it is stored.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        attempt(path, lambda share, remark: os.write(writing, b".") and None)
        os._exit(0)
    os.close(writing)
    for _ in range(events):
        os.read(reading, 1)
    time.sleep(after_s)
    os.kill(child, signal.SIGKILL)
    os.close(reading)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def main(folder: Path, kills: int) -> None:
    """One calm study, one rough one."""
    os.environ["FAKE_ENGINE_SLEEP"] = str(EPOCH_S)
    SHELF.task("digits")
    attempt(folder / "calm.db")
    chance = random.Random(7)
    for _ in range(kills):
        assert killed(folder / "rough.db", chance.randrange(4), chance.uniform(0, 3 * EPOCH_S)), "too late"
        with StudyStore(folder / "rough.db") as store:
            print("killed", sum(row.status != "waiting" for row in store.summaries()), flush=True)
    attempt(folder / "rough.db")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
