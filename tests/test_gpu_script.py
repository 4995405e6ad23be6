"""The GPU script's own parts: weights in pieces, and a table whose lines stay open until something ran."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from tests.scripts import load_script

from tersa.data.task import Provenance, Split, Task
from tersa.errors import TersaError
from tersa.models.load import load
from tersa.records.results import Epoch


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("benchmarks/gpu/bvgg16.py")


@pytest.fixture(scope="module")
def pieces() -> ModuleType:
    return load_script("benchmarks/gpu/pieces.py")


STATE = {f"layer{i}": torch.sin(torch.arange(100) * (i + 0.7)) for i in range(5)}


def test_weights_come_back_from_pieces_of_limited_size(pieces: ModuleType, tmp_path: Path) -> None:
    paths = pieces.write_pieces(STATE, tmp_path, 900)  # two tensors of 400 bytes each
    assert [path.name for path in paths] == [f"part-{i}-of-3.safetensors" for i in (1, 2, 3)]
    again = pieces.read_pieces(tmp_path)
    assert list(again) == list(STATE)
    assert all(torch.equal(again[name], STATE[name]) for name in STATE)


def test_a_missing_piece_and_too_large_a_tensor_are_refused(pieces: ModuleType, tmp_path: Path) -> None:
    pieces.write_pieces(STATE, tmp_path, 900)[1].unlink()
    with pytest.raises(TersaError, match=r"does not hold all pieces .* but part-1-of-3.*part-3-of-3"):
        pieces.read_pieces(tmp_path)
    with pytest.raises(TersaError, match="layer0 has 400 bytes, pieces at most 399; raise --limit"):
        pieces.write_pieces(STATE, tmp_path, 399)


def test_lines_stay_open_until_a_network_was_trained(script: ModuleType, tmp_path: Path) -> None:
    table = tmp_path / "results" / "t.csv"
    script.store(table)
    assert {line["test_accuracy"] for line in script.stored(table).values()} == {"not run: needs a GPU"}
    script.store(table, {**script.row("binary", None), "test_accuracy": "90.91"})
    found = {name: line["test_accuracy"] for name, line in script.stored(table).items()}
    assert found.pop("binary") == "90.91"
    assert set(found.values()) == {"not run: needs a GPU"}


def epoch(number: int, accuracy: float) -> Epoch:
    return Epoch(
        epoch=number,
        train_loss=1.0,
        train_accuracy=accuracy,
        validation_loss=1.0,
        validation_accuracy=accuracy,
        learning_rate=0.1,
        seconds=1.0,
    )


def test_curves_of_networks_stand_beside_one_another(script: ModuleType, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    script.store_curve("cnv", [epoch(5, 50.0)], table)
    script.store_curve("binary", [epoch(5, 60.0)], table)
    script.store_curve("cnv", [epoch(5, 51.0), epoch(10, 70.0)], table)
    lines = (tmp_path / "t_curves.csv").read_text().splitlines()
    assert lines[1:] == ["binary,5,60.00,60.00", "cnv,5,51.00,51.00", "cnv,10,70.00,70.00"]


def test_weights_of_one_bit_travel_as_bytes(pieces: ModuleType, tmp_path: Path) -> None:
    model = load("cnv+w1a1:first=8/8,by=ste/approx,pool=sums", (3, 32, 32), 10).module.eval()
    state = pieces.compact(model)
    bytewise = [name for name, tensor in state.items() if tensor.dtype == torch.int8]
    assert len(bytewise) == 8  # of nine layers the first has 8 bits
    pieces.write_pieces(state, tmp_path, 2_000_000)
    again = load("cnv+w1a1:first=8/8", (3, 32, 32), 10, seed=1).module.eval()
    again.load_state_dict(pieces.read_pieces(tmp_path))
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(images), again(images))


def test_what_came_back_is_packed_and_compared_on_the_test_split(
    pieces: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load("cnv+w1a1:by=ste/approx,pool=sums", (3, 32, 32), 10).module.eval()
    pieces.write_pieces(pieces.compact(model), tmp_path / "p", 2_000_000)
    images = torch.randint(0, 256, (7, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    split = Split(images.to(torch.uint8), torch.arange(7))
    made = Provenance("made", "", {})
    task = Task("t", split, split, split, tuple("abcdefghij"), (0.0,) * 3, (1.0,) * 3, made)
    monkeypatch.setattr(pieces, "load_task", lambda name, validation: task)
    table = tmp_path / "t.csv"
    right = float((model.eval()(task.normalise(split.images)).argmax(1) == split.labels).double().mean())
    rows = f"cnv,cnv+w1a1,{100 * right:.2f}\nbinary,bvgg16,86.15\n8-bit-ends,bvgg16,not run: needs a GPU\n"
    table.write_text(f"name,model,test_accuracy\n{rows}")
    call = ["pieces.py", "cnv", str(tmp_path / "p"), "--results", str(table)]
    monkeypatch.setattr(sys, "argv", call)
    pieces.main()
    assert "logits equal on 7;" in capsys.readouterr().out
    header, row, other, _ = table.read_text().splitlines()
    assert header == "name,model,test_accuracy,packed_accuracy,equal_logits,packed_bytes"
    assert ",7 of 7," in row
    assert other == "binary,bvgg16,86.15,,,"
    stored = table.read_text()
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "part-1-of-1.safetensors").write_bytes(b"half a file")
    wrong = {
        "does not hold all pieces of one network, but no part-1-of-N": ["cnv", str(tmp_path)],
        "is damaged": ["cnv", str(damaged)],
        "holds the weights of another network than binary": ["binary", str(tmp_path / "p")],
        "no trained network 8-bit-ends in": ["8-bit-ends", str(tmp_path / "p")],
        "no trained network cvn in": ["cvn", str(tmp_path / "p")],
    }
    for said, words in wrong.items():
        monkeypatch.setattr(sys, "argv", ["pieces.py", *words, *call[3:]])
        with pytest.raises(SystemExit):
            pieces.main()
        assert said in capsys.readouterr().err
    assert table.read_text() == stored
    table.write_text(stored.replace(f"{100 * right:.2f}", "99.99"))
    monkeypatch.setattr(sys, "argv", call)
    with pytest.raises(SystemExit):
        pieces.main()
    assert "holds another training of cnv" in capsys.readouterr().err


def test_float_weights_become_latent_ones_of_the_same_signs(script: ModuleType) -> None:
    floating = load("cnv+w32a1:last=32/1", (3, 32, 32), 10).module
    binary = load("cnv+w1a1", (3, 32, 32), 10, seed=1).module
    state = script.latents_of(floating.state_dict(), binary)
    binary.load_state_dict(state)
    for name, weight in floating.named_parameters():
        if weight.dim() > 1:
            assert torch.equal(state[name].sign(), weight.sign())
            assert 0.3 < float(state[name].square().mean().sqrt()) <= 0.5  # half, less what is cut off
            assert float(state[name].abs().max()) <= 1


def test_a_training_that_is_too_slow_starts_again_with_the_epochs_that_fit(script: ModuleType) -> None:
    fit = script.Fit(400.0, began=100.0)
    fit.look(0.01, 300.0)  # not started up
    fit.look(0.02, 120.0)
    fit.look(0.10, 150.0)  # another 8 % in 30 seconds, 375 of all: as planned
    fit.look(0.50, 999.0)  # too late to start again
    with pytest.raises(script.TooSlow) as caught:
        fit.look(0.10, 184.0)
    assert caught.value.seconds == pytest.approx(800.0)
    again, epochs = fit.fewer(200, caught.value, 180.0)
    assert (again.seconds, again.began, again.running) == (320.0, 180.0, None)
    assert epochs == int(200 * 320 / (1.08 * 800))
    again.look(0.02, 200.0)
    again.look(0.10, 300.0)  # as slow as before, and not started a third time


def test_seconds_are_of_all_networks_or_one_each(script: ModuleType) -> None:
    names = ["a", "b"]
    assert script.seconds_of("", names, ["t", "a", "b"]) == {}
    assert script.seconds_of("30", names, ["t", "a", "b"]) == {"t": 30.0, "a": 30.0, "b": 30.0}
    assert script.seconds_of("30,40", names, names) == {"a": 30.0, "b": 40.0}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,2,3", "3 numbers for 2 networks"),
        ("1,2", "t will be trained before, without seconds"),
        ("nan", "above 0"),
        ("inf,1", "above 0"),
        ("0", "above 0"),
        ("-5", "above 0"),
        ("soon", "could not convert"),
    ],
)
def test_seconds_that_are_none_are_told(script: ModuleType, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        script.seconds_of(text, ["a", "b"], ["t", "a", "b"])


class Machine:
    """In place of a GPU: `run_training` leaves the files of a run, whose networks know nothing.

    Attributes:
        trained: names, in the order in which they were trained to their end.
        slow: networks that are told, after their fifth epoch, that an hour has gone by.
        status: of the trainings.
        crawls: a training is slow when it is begun, and then not.
        requests: by network, the last one.
        asked: how often the teacher was.
    """

    def __init__(self, script: ModuleType, patch: pytest.MonkeyPatch, work: Path) -> None:
        self.script, self.work = script, work
        self.trained: list[str] = []
        self.slow: set[str] = set()
        self.status = "done"
        self.now = 0.0
        self.crawls = False
        self.requests: dict[str, Any] = {}
        self.asked = 0
        patch.setattr(script, "lessons_for", self.ask)
        patch.setattr(script, "seconds_of_an_epoch", lambda name, device: 2.0)
        patch.setattr(script, "choose", lambda device: "cuda")
        patch.setattr(script, "run_training", self.train)
        patch.setattr(script, "read_record", lambda path, kind: SimpleNamespace(status=path.read_text()))
        patch.setattr(script, "load_file", lambda path: {})
        patch.setattr(script, "history_of", lambda folder: [epoch(5, 40.0)])
        patch.setattr(script, "load_model", lambda *_, **__: SimpleNamespace(module=torch.nn.Flatten()))
        patch.setattr(script, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.patch = patch

    def ask(self, request: object, setting: object) -> str:
        self.asked += 1
        return "answers"

    def train(
        self, request: object, folder: Path, *, setting: SimpleNamespace, lessons: object, **_: object
    ) -> object:
        assert lessons == (None if folder.name == "teacher" else "answers")
        begun = folder.name in self.requests
        self.requests[folder.name] = request
        if self.crawls and not begun:
            setting.say("train", 0.03, "")
            self.now += 50.0
            setting.say("train", 0.10, "")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / self.script.HISTORY).touch()
        self.now += 3600.0 if folder.name in self.slow else 1.0
        setting.say("train", 0.5, "")
        (folder / self.script.WEIGHTS).touch()
        (folder / self.script.RESULT).write_text(self.status)
        self.trained.append(folder.name)
        return SimpleNamespace(
            artefacts=[self.script.WEIGHTS],
            config=SimpleNamespace(epochs=7, seed=0),
            device="cpu",
            environment=SimpleNamespace(versions={"torch": "2"}),
            seconds=1.0,
            status=self.status,
            task_note="",
            test_accuracy=91.0,
            validation_accuracy=92.0,
        )

    def call(self, *words: str) -> dict[str, dict[str, str]]:
        """The script's command line; the table afterwards."""
        table, out = self.work / "t.csv", self.work / "out"
        self.patch.setattr(sys, "argv", ["bvgg16.py", *words, "--results", str(table), "--out", str(out)])
        self.script.main()
        return self.script.stored(table)


@pytest.fixture
def machine(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(script, monkeypatch, tmp_path)


def test_what_a_network_follows_and_starts_from_is_trained_before_it(
    script: ModuleType, machine: Machine
) -> None:
    for name in ("teacher", "binary", "8-bit-ends"):  # a fresh checkout has the table, not the trainings
        script.store(machine.work / "t.csv", {**script.row(name, None), "test_accuracy": "88.40"})
    table = machine.call("8-bit-ends")
    assert machine.trained == ["teacher", "stage", "binary", "8-bit-ends"]
    assert table["binary"]["test_accuracy"] == "91.00"
    machine.call("cnv", "binary")
    assert machine.trained[4:] == ["cnv"]  # the others have ended


def test_a_network_starts_from_what_was_made_of_its_stage(script: ModuleType, machine: Machine) -> None:
    machine.call()
    assert machine.asked == 1, "one teacher, asked once for all that follow it"
    starts = {name: request.checkpoint for name, request in machine.requests.items()}
    assert starts["binary"].endswith("out/stage/start.safetensors")
    assert starts["8-bit-ends"].endswith("out/binary/model.safetensors")
    assert starts["teacher"] is starts["stage"] is starts["cnv"] is None
    views = {name: request.teacher_views for name, request in machine.requests.items()}
    assert views.pop("teacher") == 0
    assert set(views.values()) == {script.VIEWS}
    assert (machine.work / "out/stage/start.safetensors").is_file()


def test_epochs_are_those_that_fit_and_fewer_where_a_training_is_slow(machine: Machine) -> None:
    table = machine.call("teacher", "cnv", "--fit", "100,200")
    epochs = {name: request.settings["epochs"] for name, request in machine.requests.items()}
    assert epochs == {"teacher": int(100 / (1.08 * 2)), "cnv": int(200 / (1.08 * 2))}
    assert table["cnv"]["command"] == "python benchmarks/gpu/bvgg16.py teacher cnv --fit 100,200"
    machine.crawls = True
    machine.call("stage", "--fit", "100")
    slow = (1 - 0.03) / 0.07 * 50 / 0.97  # seconds of all of it, at 7 % in 50
    assert machine.requests["stage"].settings["epochs"] == int(46 * 50 / (1.08 * slow))


def test_a_trained_network_keeps_its_place_among_rows_that_have_been_packed(
    script: ModuleType, machine: Machine
) -> None:
    script.store(
        machine.work / "t.csv", {**script.row("cnv", None), "test_accuracy": "82.39", "equal_logits": "9"}
    )
    table = machine.call("teacher")
    assert (table["cnv"]["equal_logits"], table["teacher"]["equal_logits"]) == ("9", "")
    assert "equal_logits" not in script.row("cnv", None), "a network that is trained anew loses its proof"


def test_all_networks_share_the_minutes_and_one_that_is_stopped_says_so(machine: Machine) -> None:
    machine.slow = {"binary"}
    table = machine.call("--minutes", "1")
    assert machine.trained == ["teacher", "stage"]
    assert table["binary"]["test_accuracy"] == "stopped"
    note = table["binary"]["note"]
    assert note.endswith("of stage; stopped after 5 epochs of 250: 40.00 % on validation")
    assert table["8-bit-ends"]["test_accuracy"] == table["cnv"]["test_accuracy"] == "not run: needs a GPU"
    assert "binary,5,40.00,40.00" in (machine.work / "t_curves.csv").read_text()


def test_minutes_are_counted_from_the_first_network_on(machine: Machine) -> None:
    machine.call("--minutes", "0.04")  # 2.4 seconds, a second each
    assert machine.trained == ["teacher", "stage"]


def test_an_accuracy_stays_until_its_training_was_repeated(script: ModuleType, machine: Machine) -> None:
    script.store(machine.work / "t.csv", {**script.row("teacher", None), "test_accuracy": "88.40"})
    machine.slow = {"teacher"}
    assert machine.call("teacher", "--minutes", "1")["teacher"]["test_accuracy"] == "88.40"
    assert machine.trained == []


def test_a_training_that_diverged_is_no_result_and_nothing_starts_from_it(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.status = "diverged"
    table = machine.call("teacher")
    assert table["teacher"]["test_accuracy"] == "stopped"
    assert table["teacher"]["note"].endswith("; diverged after 5 epochs of 80: 40.00 % on validation")
    with pytest.raises(SystemExit):
        machine.call("binary")
    assert "stage would be trained with the weights of teacher, whose training diverged" in (
        capsys.readouterr().err
    )
    assert machine.trained == ["teacher"]
