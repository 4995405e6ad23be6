"""The file of a packed program, `.tersa`: a JSON header and aligned buffers, mapped into memory.

    magic "\\x89TERSA\\r\\n", then little-endian: schema (4 bytes), length of the header (4), its SHA-256 (32)
    header     JSON: classes, image shape, precision, operations, and each buffer's type, shape, place and sum
    buffers    each at a multiple of 64 bytes, zeros between them, nothing behind the last

Equal programs give equal bytes. Reading needs neither torch nor numba, takes the buffers from the mapped file
without copying them, and trusts nothing: every bit of a file is covered by a checksum or has one allowed
value, sizes are bounded before anything is allocated, nothing in a file is ever executed, and every fault is
one line.

Example:
    >>> import tempfile
    >>> from tersa.binary.program import Affine, Convolution, Pixels, Weights
    >>> w = Weights.of(np.array([[1, -1]]).reshape(1, 1, 1, 2), bits=1)
    >>> head = Affine(1, np.float32([0.5]), np.float32([1]))
    >>> program = Program(("cat",), (2, 1, 1), (Pixels(8, (2, 1, 1)), Convolution(0, w), head))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     size = write_bundle(Path(folder) / "cat.tersa", program)
    ...     again = read_bundle(Path(folder) / "cat.tersa")
    >>> again.classes, encode(again) == encode(program), size % 64
    (('cat',), True, 4)
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import numpy.typing as npt

from tersa.binary.program import FloatConvolution, Operation, Program, Weights
from tersa.errors import ModelError, plain_text
from tersa.files import write_atomic

SUFFIX = ".tersa"
MAGIC = b"\x89TERSA\r\n"
SCHEMA = 2
"""The newest. 2: low-bit weights that meet floats are planes of bits; all else is written as 1."""
HEAD = struct.Struct("<8sII32s")
ALIGNMENT = 64

MOST_BYTES = 1 << 30
MOST_HEADER = 1 << 24
MOST_OPERATIONS = 10_000
MOST_CLASSES = 1 << 16
LONGEST_TEXT = 4096
MOST_DIMS = 4
TYPES = {"uint8": np.uint8, "int32": np.int32, "float32": np.float32}

Array = npt.NDArray[Any]


def write_bundle(path: Path, program: Program) -> int:
    """Write a program, whole or not at all, and return the file's size in bytes."""
    data = encode(program)
    write_atomic(path, data)
    return len(data)


def read_bundle(path: Path) -> Program:
    """The program of a file; its arrays are views of the mapped file, and read-only.

    Raises:
        ModelError: no such file, or one that is damaged or no `.tersa` file.
    """
    try:
        size = path.stat().st_size
        if not HEAD.size <= size <= MOST_BYTES:
            raise ModelError(f"{path} has {size:,} bytes; a .tersa file has {HEAD.size} to {MOST_BYTES:,}")
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return decode(memoryview(data), str(path))


# Writing --------------------------------------------------------------------------------------------------


def encode(program: Program) -> bytes:
    """The bytes of a file.

    Raises:
        ModelError: a class name or the precision holds what `plain_text` refuses.
    """
    for text in (*program.classes, program.precision):
        if not plain_text(text):
            raise ModelError(f"{text!a} is no text for a .tersa file: it has control characters or no UTF-8")
    buffers: list[Array] = []
    operations = [_written(one, buffers) for one in program.operations]
    places: list[dict[str, Any]] = []
    offset = 0
    for array in buffers:
        offset = _up(offset)
        raw = array.tobytes()
        places.append(
            {
                "type": array.dtype.name,
                "shape": list(array.shape),
                "offset": offset,
                "sha256": hashlib.sha256(raw).hexdigest(),
            }
        )
        offset += len(raw)
    header = json.dumps(
        {
            "classes": list(program.classes),
            "shape": list(program.shape),
            "precision": program.precision,
            "operations": operations,
            "buffers": places,
        },
        ensure_ascii=False,
        separators=(",", ":"),
    ).encode()
    out = bytearray(HEAD.pack(MAGIC, _schema(program), len(header), hashlib.sha256(header).digest()) + header)
    for array in buffers:
        out += bytes(_up(len(out)) - len(out))
        out += array.tobytes()
    return bytes(out)


def _schema(program: Program) -> int:
    """The oldest schema that has all that the program needs."""
    packed = (
        isinstance(one, FloatConvolution) and isinstance(one.weights, Weights) for one in program.operations
    )
    return 2 if any(packed) else 1


def _written(operation: Operation, buffers: list[Array]) -> dict[str, Any]:
    found: dict[str, Any] = {"op": type(operation).__name__}
    for field in dataclasses.fields(operation):
        value = getattr(operation, field.name)
        if isinstance(value, Weights):
            found[field.name] = {
                "shape": list(value.shape),
                "bits": value.bits,
                "planes": _buffer(value.planes, buffers),
            }
        elif isinstance(value, np.ndarray):
            found[field.name] = _buffer(cast("Array", value), buffers)
        else:
            found[field.name] = list(cast("tuple[int, ...]", value)) if isinstance(value, tuple) else value
    return found


def _buffer(array: Array, buffers: list[Array]) -> int:
    buffers.append(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False))
    return len(buffers) - 1


def _up(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


# Reading --------------------------------------------------------------------------------------------------


def decode(data: memoryview | bytes, name: str) -> Program:
    """The program of a file's bytes.

    Raises:
        ModelError: anything that is not as it was written.
    """
    data = memoryview(data)
    if len(data) < HEAD.size:
        raise ModelError(f"{name} is cut off: it has {len(data)} bytes, {HEAD.size} are needed")
    magic, schema, length, wanted = HEAD.unpack(data[: HEAD.size])
    if magic != MAGIC:
        raise ModelError(f"{name} is not a .tersa file: it begins with {bytes(magic)!r}")
    if schema > SCHEMA:
        raise ModelError(
            f"{name} has schema {schema}, this tersa reads up to {SCHEMA}; install a newer tersa"
        )
    end = HEAD.size + length
    if schema < 1 or length > MOST_HEADER or end > len(data):
        raise ModelError(f"{name} is damaged: schema {schema}, {length:,} bytes of header in {len(data):,}")
    raw = bytes(data[HEAD.size : end])
    if hashlib.sha256(raw).digest() != wanted:
        raise ModelError(f"{name} is damaged: its header has another checksum than it says")
    try:
        header = _Header(_json(raw), name)
        program = header.program(header.buffers(data, end))
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ModelError(f"{name} has a header that makes no program: {_line(error)}") from None
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from None
    if schema != _schema(program):
        raise ModelError(f"{name} is damaged: schema {schema}, and what it holds is of {_schema(program)}")
    return program


def _json(raw: bytes) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number")

    found = json.loads(raw.decode("utf-8"), parse_constant=refuse)
    if not isinstance(found, dict):
        raise TypeError("it is no object")
    return cast("dict[str, Any]", found)


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200] if text else ''}"


class _Header:
    """The parsed header; every value is checked as it is taken out."""

    def __init__(self, raw: dict[str, Any], name: str) -> None:
        _keys(raw, {"classes", "shape", "precision", "operations", "buffers"}, "header")
        self.raw, self.name = raw, name
        self._used: set[int] = set()

    def buffers(self, data: memoryview, start: int) -> list[Array]:
        """The arrays, as views of the file."""
        found: list[Array] = []
        first = _up(start)
        end = start
        for index, place in enumerate(_list(self.raw["buffers"], 4 * MOST_OPERATIONS)):
            _keys(place, {"type", "shape", "offset", "sha256"}, f"buffer {index}")
            kind = TYPES[_text(place["type"])]
            shape = tuple(_whole(size, MOST_BYTES) for size in _list(place["shape"], MOST_DIMS))
            size = math.prod(shape) * np.dtype(kind).itemsize
            begin = first + _whole(place["offset"], MOST_BYTES)
            if begin != _up(end) or size > len(data) - begin:
                raise ValueError(f"buffer {index} of {size:,} bytes at {begin:,} in a file of {len(data):,}")
            piece = data[begin : begin + size]
            if any(data[end:begin]) or hashlib.sha256(piece).hexdigest() != place["sha256"]:
                raise ValueError(f"buffer {index} is damaged: it has another checksum than the header says")
            found.append(np.frombuffer(piece, np.dtype(kind).newbyteorder("<")).reshape(shape))
            end = begin + size
        if end != len(data):
            raise ValueError(f"the buffers end at {end:,}, the file at {len(data):,}")
        return found

    def program(self, buffers: list[Array]) -> Program:
        """The operations on these arrays."""
        classes = tuple(_text(one) for one in _list(self.raw["classes"], MOST_CLASSES))
        c, h, w = (_whole(side, MOST_BYTES) for side in _list(self.raw["shape"], 3))
        operations = tuple(
            self._operation(one, buffers) for one in _list(self.raw["operations"], MOST_OPERATIONS)
        )
        if self._used != set(range(len(buffers))):
            raise ValueError("a buffer belongs to no operation")
        return Program(classes, (c, h, w), operations, _text(self.raw["precision"]))

    def _operation(self, raw: Any, buffers: list[Array]) -> Operation:
        kind = KINDS[_text(raw["op"])]
        fields = dataclasses.fields(kind)
        _keys(raw, {"op", *(field.name for field in fields)}, kind.__name__)
        values = {field.name: self._value(str(field.type), raw[field.name], buffers) for field in fields}
        return kind(**values)

    def _value(self, kind: str, raw: Any, buffers: list[Array]) -> Any:
        if kind == "Weights" or (kind == "Floats | Weights" and isinstance(raw, dict)):
            _keys(raw, {"shape", "bits", "planes"}, "weights")
            o, kh, kw, c = (_whole(size, MOST_BYTES) for size in _list(raw["shape"], 4))
            return Weights(
                (o, kh, kw, c), _whole(raw["bits"], 8), self.array(raw["planes"], "uint8", buffers)
            )
        if kind.endswith("| None") and raw is None:
            return None
        return READERS[kind.removesuffix(" | None").removesuffix(" | Weights")](self, raw, buffers)

    def array(self, raw: Any, kind: str, buffers: list[Array]) -> Array:
        """A buffer that no other operation has."""
        index = _whole(raw, len(buffers) - 1)
        if buffers[index].dtype.name != kind or index in self._used:
            raise ValueError(f"buffer {index} of {buffers[index].dtype.name} where one of {kind} is due")
        self._used.add(index)
        return buffers[index]


Reader = Callable[[_Header, Any, "list[Array]"], Any]

READERS: dict[str, Reader] = {
    "int": lambda header, raw, buffers: _whole(raw, MOST_BYTES),
    "Shape": lambda header, raw, buffers: tuple(_whole(size, MOST_BYTES) for size in _list(raw, 3)),
    "Floats": lambda header, raw, buffers: header.array(raw, "float32", buffers),
    "Bytes": lambda header, raw, buffers: header.array(raw, "uint8", buffers),
    "npt.NDArray[np.int32]": lambda header, raw, buffers: header.array(raw, "int32", buffers),
}
"""How a field of an operation is read, by its annotation."""

KINDS: dict[str, Any] = {kind.__name__: kind for kind in get_args(Operation)}


def _keys(raw: Any, wanted: set[str], what: str) -> None:
    if not isinstance(raw, dict) or set(cast("dict[str, Any]", raw)) != wanted:
        raise TypeError(f"{what} has not the keys {', '.join(sorted(wanted))}")


def _list(raw: Any, most: int) -> list[Any]:
    if not isinstance(raw, list) or len(cast("list[Any]", raw)) > most:
        raise TypeError(f"a list of at most {most:,} is due")
    return cast("list[Any]", raw)


def _whole(raw: Any, most: int) -> int:
    if type(raw) is not int or not 0 <= raw <= most:
        raise ValueError(f"a whole number from 0 to {most:,} is due")
    return raw


def _text(raw: Any) -> str:
    if not isinstance(raw, str) or len(raw) > LONGEST_TEXT:
        raise TypeError(f"a text of at most {LONGEST_TEXT} characters is due")
    if not plain_text(raw):
        raise ValueError("a text without control characters, in UTF-8, is due")
    return raw
