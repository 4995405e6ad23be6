"""A run that is killed with SIGKILL at any moment and run again gives the weights of an unkilled one."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tersa.train.history import read_history

SCRIPT = Path(__file__).with_name("killable.py")
KILLS = 3
EPOCHS = 30


def attempt(folder: Path, kill_at: int | None = None, wait_s: float = 0.0) -> int:
    """Run until the end, or kill it `wait_s` after it has told of `kill_at` epochs; the exit status."""
    process = subprocess.Popen([sys.executable, SCRIPT, folder], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    with process.stdout:
        for told, _ in enumerate(process.stdout, start=1):
            if told == kill_at:
                time.sleep(wait_s)
                process.kill()
    return process.wait(timeout=60)


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_as_if_it_never_had_been(tmp_path: Path) -> None:
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    assert attempt(calm) == 0
    chance = random.Random(20)
    for number in range(KILLS):
        kill_at = 8 * (number + 1) - chance.randrange(
            3
        )  # restored epochs are told again: always some further on
        assert attempt(rough, kill_at, chance.uniform(0, 0.012)) == -9
        assert not (rough / "final.safetensors").exists()
        assert len(read_history(rough / "history.db")) >= kill_at
    assert attempt(rough) == 0

    wanted, found = load_file(calm / "final.safetensors"), load_file(rough / "final.safetensors")
    assert wanted.keys() == found.keys()
    assert all(wanted[name].equal(found[name]) for name in wanted)
    rows = [
        [r.model_dump(exclude={"seconds"}) for r in read_history(f / "history.db")] for f in (calm, rough)
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == EPOCHS
    assert sorted(p.name for p in rough.iterdir()) == ["final.safetensors", "history.db", "run.safetensors"]
