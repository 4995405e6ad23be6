"""Reading a `.pt2` file runs nothing in it: each way in that PyTorch's own reader leaves open is tried."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from tersa.errors import ModelError, UsageError
from tersa.models import archive, build, from_export

SHAPE = (1, 8, 8)
Fill = Callable[[nn.Module], nn.Module]
Save = Callable[[ExportedProgram], Path]
Records = dict[str, bytes]


@pytest.fixture
def saved(wave_: Fill, export: Callable[..., ExportedProgram], save_program: Save) -> Path:
    return save_program(export(wave_(build("lenet:2-3-4", SHAPE, 10)).eval(), SHAPE))


class Attack:
    """Unpickling this makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.marker),)


def rewrite(path: Path, change: Callable[[Records], None]) -> None:
    """Change the records of an archive, as someone who means harm would."""
    with zipfile.ZipFile(path) as source:
        records = {name.partition("/")[2]: source.read(name) for name in source.namelist()}
    change(records)
    with zipfile.ZipFile(path, "w") as target:
        for name, content in records.items():
            target.writestr(f"model/{name}", content)


def edit(path: Path, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    def apply(records: Records) -> None:
        value = json.loads(records[name])
        change(value)
        records[name] = json.dumps(value).encode()

    rewrite(path, apply)


def edit_graph(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    edit(path, archive.MODEL, lambda program: change(program["graph_module"]["graph"]))


def test_a_file_of_torch_export_is_read(saved: Path, wave_: Fill, images: Callable[..., Tensor]) -> None:
    lifted = from_export(archive.read(saved)).eval()
    expected = wave_(build("lenet:2-3-4", SHAPE, 10)).eval()
    assert torch.equal(lifted(images(SHAPE, batch=7)), expected(images(SHAPE, batch=7)))


def test_hostile_sample_inputs_are_left_out(saved: Path, tmp_path: Path) -> None:
    marker, content = tmp_path / "marker", io.BytesIO()
    torch.save((Attack(marker),), content)
    rewrite(saved, lambda records: records.update({archive.SAMPLES: content.getvalue()}))
    assert len(archive.read(saved).state_dict) == 8
    assert not marker.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(Exception):  # only what it did on the way counts
            torch.export.load(saved)
    assert marker.exists()  # PyTorch's own reader runs it: the reason for all of this


@pytest.mark.parametrize("table", archive.TABLES)
def test_pickled_tensors_are_refused(saved: Path, table: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    entry = {"path_name": "weight_0", "is_param": True, "use_pickle": True, "tensor_meta": None}
    edit(saved, table, lambda value: value["config"].update({"conv1.weight": entry}))
    rewrite(saved, lambda records: records.update({"data/weights/weight_0": pickle.dumps(Attack(marker))}))
    with pytest.raises(ModelError, match="was not loaded: a pickled tensor in it"):
        archive.read(saved)
    assert not marker.exists()


@pytest.mark.parametrize(
    "name",
    [
        "data/constants/opaque_obj_0",
        "data/constants/custom_obj_0",
        "data/weights/model.pt",
        "data/constants/model.pt",
        "data/aotinductor/model/code.so",
        "executorch/model.pte",
        "data/weights/../weight_0",
    ],
)
def test_records_that_are_code_or_objects_are_refused(saved: Path, name: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    rewrite(saved, lambda records: records.update({name: pickle.dumps(Attack(marker))}))
    with pytest.raises(ModelError, match="was not loaded: the record") as caught:
        archive.read(saved)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.load",
        "_operator.attrgetter",
        "_operator.methodcaller",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default",
        "torch.ops.aten.__class__.mro",
        "torch.ops.higher_order.cond",
        "#example.my_operator",
        "torch.ops.aten.relu.default()",
    ],
)
def test_operators_that_are_not_arithmetic_are_refused(saved: Path, target: str) -> None:
    edit_graph(saved, lambda graph: graph["nodes"][0].update(target=target))
    with pytest.raises(ModelError, match="was not loaded: target"):
        archive.read(saved)


CODE = "__import__('os').mkdir('MARKER')"


def poison_size(graph: dict[str, Any], text: str) -> None:
    for value in graph["tensor_values"].values():
        value["sizes"] = [{"as_expr": {"expr_str": text, "hint": None}}, *value["sizes"][1:]]


PLACES: dict[str, Callable[[dict[str, Any], str], None]] = {
    "size expression": poison_size,
    "name of an input": lambda graph, text: graph["inputs"][0]["as_tensor"].update(name=f"x={text}"),
    "name of a value": lambda graph, text: graph["tensor_values"].update({f"x={text}": {}}),
    "name of a node": lambda graph, text: graph["nodes"][0].update(name=f"x={text}"),
    "text argument": lambda graph, text: graph["nodes"][1]["inputs"].append(
        {"name": "filename", "arg": {"as_string": "plain"}, "kind": 1}
    ),
    "operator as an argument": lambda graph, text: graph["nodes"][1]["inputs"].append(
        {"name": "mode", "arg": {"as_operator": "torch.os.system"}, "kind": 1}
    ),
}


@pytest.mark.parametrize("place", list(PLACES))
def test_code_in_the_graphs_texts_is_refused(saved: Path, place: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    edit_graph(saved, lambda graph: PLACES[place](graph, CODE.replace("MARKER", str(marker))))
    with pytest.raises(ModelError, match="was not loaded: ") as caught:
        archive.read(saved)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize(
    "spec", ['[1, {"type": "enum.Enum", "context": "null", "children_spec": []}]', "[", "{}"]
)
def test_inputs_of_foreign_types_are_refused(saved: Path, spec: str) -> None:
    def change(program: dict[str, Any]) -> None:
        program["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = spec

    edit(saved, archive.MODEL, change)
    with pytest.raises(ModelError, match="was not loaded: in_spec"):
        archive.read(saved)


def test_guards_and_notes_never_reach_the_reader(saved: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    def change(program: dict[str, Any]) -> None:
        program["guards_code"] = [CODE.replace("MARKER", str(marker))]
        program["graph_module"]["graph"]["nodes"][0]["metadata"]["source_fn_stack"] = "x,torch.os.system"

    edit(saved, archive.MODEL, change)
    program = archive.read(saved)
    assert not program._guards_code
    assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"text", b"PK\x03\x04 broken", b"PK\x05\x06" + b"\0" * 18],
    ids=["empty", "text", "cut", "void"],
)
def test_files_of_another_kind(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.pt2").write_bytes(content)
    with pytest.raises(ModelError, match=r"is not a torch.export file.*; write it anew: ") as caught:
        archive.read(tmp_path / "m.pt2")
    assert "\n" not in str(caught.value)


def test_a_cut_file_a_damaged_graph_and_a_missing_weight(saved: Path) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"is not a torch\.export file"):
        archive.read(saved)
    saved.write_bytes(whole)
    rewrite(saved, lambda records: records.pop("data/weights/weight_0") and None)
    with pytest.raises(ModelError, match=r"cannot be read as a torch\.export file"):
        archive.read(saved)
    saved.write_bytes(whole)
    rewrite(saved, lambda records: records.update({archive.MODEL: b"{"}))
    with pytest.raises(ModelError, match="damaged"):
        archive.read(saved)
    saved.write_bytes(whole)
    rewrite(saved, lambda records: records.update({archive.MODEL: b"[1]"}))
    with pytest.raises(ModelError, match="damaged"):
        archive.read(saved)


@pytest.mark.parametrize("value", [None, [], 3, "x", {"graph": 3}, {"module_call_graph": [4]}])
def test_a_graph_of_another_structure(saved: Path, value: object) -> None:
    edit(saved, archive.MODEL, lambda program: program.update(graph_module=value))
    with pytest.raises(ModelError) as caught:
        archive.read(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("inputs", [None, [3], {"name": 1}, [{"arg": None}]])
def test_a_node_of_another_structure(saved: Path, inputs: object) -> None:
    edit_graph(saved, lambda graph: graph["nodes"][0].update(inputs=inputs))
    with pytest.raises(ModelError) as caught:
        archive.read(saved)
    assert "\n" not in str(caught.value)


def test_compressed_records_are_refused(saved: Path) -> None:
    with zipfile.ZipFile(saved) as source:
        records = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(saved, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in records.items():
            target.writestr(name, content)
    with pytest.raises(ModelError, match="its records are compressed"):
        archive.read(saved)


def test_a_name_that_occurs_twice(saved: Path) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(saved, "a") as target:
        warnings.simplefilter("ignore", UserWarning)  # of zipfile, about just this
        target.writestr(target.namelist()[0], b"other")
    with pytest.raises(ModelError, match="a name occurs twice"):
        archive.read(saved)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no exported model"):
        archive.read(tmp_path / "m.pt2")
