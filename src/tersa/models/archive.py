"""A `torch.export` file (`.pt2`) read without running anything that is in it.

`torch.export.load` unpickles sample inputs, tensor subclasses and custom objects, loads compiled libraries,
evaluates size expressions as Python and generates source code from names. A file from a stranger could use
each of these to run code (seen in the source of PyTorch 2.11 to 2.13). So the archive is first taken apart
here and judged by what is allowed, and only a new archive, made of the judged parts, reaches PyTorch's
reader:

    weights, constants    raw bytes with their JSON table; pickled ones are refused
    graph                 JSON: every operator one of ATen's or plain arithmetic, every size expression
    arithmetic
                          on sizes, every other text a plain word; notes of the exporter are left out
    sample inputs         left out
    anything else         refused where it is code or objects (compiled libraries, custom objects, older
    forms)

Example:
    >>> import tempfile
    >>> from tersa.models.zoo import build
    >>> program = torch.export.export(build("mlp:4", (1, 2, 2), 3), (torch.zeros(2, 1, 2, 2),))
    >>> with tempfile.NamedTemporaryFile(suffix=".pt2") as file, warnings.catch_warnings():
    ...     warnings.simplefilter("ignore", FutureWarning)  # of PyTorch's own writer
    ...     torch.export.save(program, file.name)
    ...     sorted(read(Path(file.name)).state_dict)
    ['fc1.bias', 'fc1.weight', 'fc2.bias', 'fc2.weight']
"""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from tersa.errors import ModelError, UsageError, brief

ADVICE = (
    "write it anew: torch.export.save(torch.export.export(model, (images,)), path), PyTorch 2.11 or later"
)

MODEL = "models/model.json"
SAMPLES = "data/sample_inputs/model.pt"
TABLES = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
RAW = re.compile(r"data/weights/weight_[0-9]+|data/constants/tensor_[0-9]+")
MARKS = ("archive_format", "archive_version", "byteorder", ".data/version", ".data/serialization_id")
IGNORED = re.compile(r"extra/.*|data/sample_inputs/model\.pt|\.format_version|\.storage_alignment")

ARITHMETIC = (
    *("add", "sub", "mul", "floordiv", "truediv", "mod", "pow", "neg", "pos", "getitem"),
    *("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "not_"),
)
OPERATOR = re.compile(
    rf"torch\.ops\.aten\.(?!__|from_file\b|save\b)\w+\.(?!__)\w+|_operator\.({'|'.join(ARITHMETIC)})|torch\.sym_\w+|math\.(ceil|floor|trunc)",
    re.ASCII,
)
TEXT_ARGUMENTS = {"approximate", "rounding_mode", "padding", "padding_mode", "mode", "equation", "indexing"}
"""Arguments of ATen operators that are text and say how to compute, not what file to touch."""
OBJECTS = {"as_strings", "as_operator", "as_custom_obj", "as_graph"}
"""Kinds of arguments that no plain ATen graph has: subgraphs, operators as values, objects."""

WORD = re.compile(r"[\w.+\-]*", re.ASCII)
EQUATION = re.compile(r"[\w.,>\- ]*", re.ASCII)
EXPRESSION = re.compile(r"[\w+\-*/(), ='.]*", re.ASCII)
SIZE_WORDS = re.compile(
    r"[suz]?\d+|Symbol|Integer|Rational|Add|Mul|Min|Max|FloorDiv|CeilDiv|CleanDiv|Mod|PythonMod|ModularIndexing"
    r"|positive|nonnegative|integer|True|False|Eq|Ne|Equality|Unequality|LessThan|GreaterThan"
    r"|StrictLessThan|StrictGreaterThan",
    re.ASCII,
)
"""Words of a size expression; no powers, which could be written to take all memory."""
CONTAINERS = {None, "builtins.tuple", "builtins.list", "builtins.dict"}


def read(path: Path) -> ExportedProgram:
    """The program in a `.pt2` file.

    Args:
        path: as `torch.export.save` wrote it.

    Raises:
        UsageError: no such file.
        ModelError: not such a file, damaged, of an old form, or holding anything that would run code.
    """
    if not path.is_file():
        raise UsageError(f"no exported model {path}")
    try:
        records = _records(path)
    except Exception as error:  # zipfile fed with damaged bytes raises almost anything
        raise ModelError(f"{path} is not a torch.export file: {brief(error)}; {ADVICE}") from error
    try:
        content = _rebuilt(_judged(records, path))
    except (AttributeError, LookupError, TypeError, RecursionError) as error:  # JSON of another structure
        raise ModelError(f"{path}: its graph or its tables are damaged; {ADVICE}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PyTorch's reader uses its own deprecated names
            return torch.export.load(content)
    except Exception as error:  # the reader raises almost any type on a bad graph
        text = f"{type(error).__name__}: {brief(error)}"
        raise ModelError(f"{path} cannot be read as a torch.export file: {text}; {ADVICE}") from error


def _records(path: Path) -> dict[str, bytes]:
    """Contents by name within the archive's one top folder."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(set(names)) != len(names):
            raise zipfile.BadZipFile("a name occurs twice in it")
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise zipfile.BadZipFile("its records are compressed")  # a small file must not fill the memory
        return {name.partition("/")[2]: archive.read(name) for name in names}


def _judged(records: dict[str, bytes], path: Path) -> dict[str, bytes]:
    """The records that are needed, each found harmless.

    Raises:
        ModelError: a record that is missing, or that could run code.
    """
    missing = [name for name in (MODEL, *TABLES, "archive_format", "archive_version") if name not in records]
    if missing:
        raise ModelError(f"{path} is not a torch.export file of this form: no {missing[0]} in it; {ADVICE}")
    kept: dict[str, bytes] = {}
    for name, content in records.items():
        if name == MODEL:
            kept[name] = json.dumps(_graph(_json(content, name, path), path)).encode()
        elif name in TABLES:
            kept[name] = json.dumps(_table(_json(content, name, path), path)).encode()
        elif RAW.fullmatch(name) or name in MARKS:
            kept[name] = content
        elif not IGNORED.fullmatch(name):
            raise _refusal(path, f"the record {name!r}")
    return {**kept, SAMPLES: b""}


def _rebuilt(records: dict[str, bytes]) -> io.BytesIO:
    """A new archive of these records, uncompressed, as PyTorch's reader wants it."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name, data in records.items():
            archive.writestr(f"model/{name}", data)
    content.seek(0)
    return content


def _json(content: bytes, name: str, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: its {name} is damaged: {brief(error)}; {ADVICE}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: its {name} is damaged; {ADVICE}")
    return value


def _table(table: dict[str, Any], path: Path) -> dict[str, Any]:
    """A table of tensors, none of them pickled."""
    entries = table.get("config")
    for entry in entries.values() if isinstance(entries, dict) else ():
        if not isinstance(entry, dict) or entry.get("use_pickle") is not False:
            raise _refusal(path, "a pickled tensor")
    _judge(table, path)
    return table


def _graph(program: dict[str, Any], path: Path) -> dict[str, Any]:
    """The program without the exporter's notes, every text in it found harmless."""
    program = {**program, "guards_code": [], "torch_version": ""}
    module = program.get("graph_module")
    if not isinstance(module, dict):
        raise ModelError(f"{path}: its {MODEL} holds no graph; {ADVICE}")
    calls = [call for call in module.get("module_call_graph", []) if call.get("fqn") == ""]
    cleaned = {**module, "module_call_graph": calls, "metadata": {}, "treespec_namedtuple_fields": {}}
    program = {**program, "graph_module": cleaned}
    _judge(program, path)
    return program


def _judge(value: Any, path: Path, key: str = "") -> None:
    """Walk a JSON value: drop the nodes' notes in place, and refuse every text that is not allowed where it
    is.

    Raises:
        ModelError: naming the text.
    """
    if isinstance(value, dict):
        if "inputs" in value and "target" in value:
            value["metadata"] = {}
            _judge_texts(value, path)
        for name, inner in value.items():
            if name in OBJECTS:
                raise _refusal(path, f"an argument of kind {name!r}")
            _judge(name, path, "name")
            _judge(inner, path, name)
    elif isinstance(value, list):
        for inner in value:
            _judge(inner, path, key)
    elif isinstance(value, str) and not _harmless(value, key):
        raise _refusal(path, f"{key or 'text'} {value[:60]!r}")


def _judge_texts(node: dict[str, Any], path: Path) -> None:
    """Text arguments only where they choose a way to compute: `aten.from_file` takes a file name."""
    for argument in node["inputs"]:
        if "as_string" in argument.get("arg", {}) and argument.get("name") not in TEXT_ARGUMENTS:
            raise _refusal(path, f"{node['target']} with text for {argument.get('name')!r}")


def _harmless(text: str, key: str) -> bool:
    """A text that PyTorch's reader may see under this key."""
    if key == "target":
        return OPERATOR.fullmatch(text) is not None
    if key == "expr_str":
        words = re.findall(r"\w+", text)
        allowed = EXPRESSION.fullmatch(text) is not None and "**" not in text
        return allowed and all(SIZE_WORDS.fullmatch(word) for word in words)
    if key in ("in_spec", "out_spec"):
        return _plain_structure(text)
    return (EQUATION if key == "as_string" else WORD).fullmatch(text) is not None


def _plain_structure(text: str) -> bool:
    """A description of inputs or outputs made of tuples, lists and tensors without names."""
    try:
        pending = [json.loads(text)[1]]
        while pending:
            level = pending.pop()
            if level["type"] not in CONTAINERS or level["context"] not in (None, "null", "[]"):
                return False
            pending += level["children_spec"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return False
    return True


def _refusal(path: Path, what: str) -> ModelError:
    return ModelError(
        f"{path} was not loaded: {what} in it is more than tensors and ATen operators on one image batch, "
        f"and reading it could run code; {ADVICE}"
    )
