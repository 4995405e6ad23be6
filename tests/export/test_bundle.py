"""The .tersa file: what is written comes back; what is damaged or hostile is refused in one line."""

import hashlib
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.binary.programs import images, one_layer, residual

from tersa.binary.program import Convolution, Program
from tersa.binary.runtime import Runner
from tersa.errors import ModelError
from tersa.export.bundle import ALIGNMENT, HEAD, MAGIC, decode, encode, read_bundle, write_bundle

SMALL = one_layer(size=(2, 4, 4), outputs=3, kernel=3)
DATA = encode(SMALL)
PROGRAMS = [
    SMALL,
    one_layer(size=(3, 9, 9), outputs=33, kernel=3, pixel_bits=8, weight_bits=0, pool=(2, 2)),
    residual(),
    residual(weight_bits=1),
]


def parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and what follows it."""
    length = HEAD.unpack(data[: HEAD.size])[2]
    return json.loads(data[HEAD.size : HEAD.size + length]), data[HEAD.size + length :]


def sealed(header: object, rest: bytes) -> bytes:
    """A file with a right checksum around any header."""
    raw = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return HEAD.pack(MAGIC, 1, len(raw), hashlib.sha256(raw).digest()) + raw + rest


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    """The small file with another header, padded so that its buffers stay aligned."""
    header, rest = parts(DATA)
    change(header)
    raw = json.dumps(header, separators=(",", ":")).encode()
    first = -(-(HEAD.size + len(raw)) // ALIGNMENT) * ALIGNMENT
    start = -(-(len(DATA) - len(rest)) // ALIGNMENT) * ALIGNMENT
    return sealed(raw, bytes(first - HEAD.size - len(raw)) + DATA[start:])


def refused(data: bytes, message: str | None = None) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        decode(data, "x.tersa")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("x.tersa")
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_is_written_comes_back(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "net.tersa"
    size = write_bundle(path, program)
    again = read_bundle(path)
    assert size == path.stat().st_size
    assert (again.classes, again.shape, again.precision) == (
        program.classes,
        program.shape,
        program.precision,
    )
    assert encode(again) == encode(program) == path.read_bytes()
    pixels = images(program.shape, 3)
    assert np.array_equal(Runner(again)(pixels), Runner(program)(pixels))


def test_names_of_classes_may_be_any_text(tmp_path: Path) -> None:
    names = ("žluťoučký", "猫", 'a"\\', "", "😀")
    program = Program(names, SMALL.shape, SMALL.operations)
    write_bundle(tmp_path / "x.tersa", program)
    assert read_bundle(tmp_path / "x.tersa").classes == names


@pytest.mark.parametrize("text", ["\x1b[2Jcat", "\ud800", "two\nlines", "\u2028", "\x9b1m"])
def test_text_that_could_command_a_terminal_is_neither_read_nor_written(text: str) -> None:
    for change in ({"classes": [text] * 5}, {"precision": text}):
        refused(changed(lambda h, change=change: h.update(change)), "a text without control characters")
    with pytest.raises(ModelError, match=r"is no text for a \.tersa file"):
        encode(replace(SMALL, classes=(text, *"bcde")))


def test_buffers_are_aligned_views_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.tersa"
    write_bundle(path, PROGRAMS[1])
    planes = read_bundle(path).operations[1].weights.planes
    assert planes.ctypes.data % ALIGNMENT == 0
    assert not planes.flags.writeable
    assert not planes.flags.owndata


def test_one_bit_per_weight() -> None:
    """A megabit of weights takes little more than a megabit."""
    program = one_layer(size=(128, 3, 3), outputs=1024, kernel=3)
    weights = sum(np.prod(one.weights.shape) for one in program.operations if isinstance(one, Convolution))
    assert weights / 8 < len(encode(program)) < weights / 8 + 4 * 1024 + 2500


def test_every_flipped_bit_is_noticed() -> None:
    rng = np.random.default_rng(0)
    places = [*range(8 * HEAD.size), *rng.integers(0, 8 * len(DATA), 3000).tolist()]
    for place in places:
        damaged = bytearray(DATA)
        damaged[place // 8] ^= 1 << place % 8
        refused(bytes(damaged))


def test_every_cut_is_noticed() -> None:
    for length in [*range(120), *range(120, len(DATA), 37), len(DATA) - 1]:
        refused(DATA[:length])
    refused(DATA + b"\0", "the buffers end at")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_noise_is_refused(noise: bytes) -> None:
    refused(noise)
    refused(DATA[: HEAD.size] + noise)
    refused(sealed(noise, b""))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(JSON, st.data())
def test_any_value_anywhere_in_the_header_is_refused_or_right(value: object, data: st.DataObject) -> None:
    """Whatever stands in one place of the header, reading gives a program or one line."""
    header, _ = parts(DATA)
    at: Any = header
    while True:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        inner = at[key]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
            at[key] = value
            break
        at = inner
    file = changed(lambda whole: whole.update(header))
    message = ""
    try:
        decode(file, "x.tersa")
    except ModelError as error:
        message = str(error)
    assert "\n" not in message


def first(header: dict[str, Any]) -> dict[str, Any]:
    return header["operations"][1]


HOSTILE: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    ("negative size", lambda h: h["buffers"][0].update(shape=[-1, 4]), "a whole number from 0"),
    ("absurd size", lambda h: h["buffers"][0].update(shape=[1 << 30, 1 << 30]), "in a file of"),
    ("many dimensions", lambda h: h["buffers"][0].update(shape=[1] * 60), "a list of at most 4"),
    ("negative offset", lambda h: h["buffers"][1].update(offset=-64), "a whole number from 0"),
    ("overlap", lambda h: h["buffers"][1].update(offset=0), "bytes at"),
    ("far away", lambda h: h["buffers"][1].update(offset=1 << 29), "bytes at"),
    ("other type", lambda h: h["buffers"][0].update(type="object"), "KeyError"),
    ("other checksum", lambda h: h["buffers"][0].update(sha256="0" * 64), "another checksum"),
    ("unknown operation", lambda h: first(h).update(op="Exec"), "KeyError"),
    ("a class that is no operation", lambda h: first(h).update(op="Weights"), "KeyError"),
    ("missing field", lambda h: first(h).pop("stride"), "has not the keys"),
    ("extra field", lambda h: first(h).update(more=1), "has not the keys"),
    ("huge weights", lambda h: first(h)["weights"].update(shape=[1 << 20] * 4), "cannot be"),
    ("huge image", lambda h: h.update(shape=[1 << 20, 1 << 10, 1 << 10]), "a program needs"),
    ("huge stride", lambda h: first(h).update(stride=1 << 29), "a stride and a padding"),
    ("huge padding", lambda h: first(h).update(padding=1 << 29), "a stride and a padding"),
    ("number as text", lambda h: first(h).update(stride="1"), "a whole number"),
    ("true as number", lambda h: first(h).update(stride=True), "a whole number"),
    ("float as number", lambda h: first(h).update(stride=1.0), "a whole number"),
    ("no such buffer", lambda h: first(h)["weights"].update(planes=99), "a whole number"),
    ("buffer used twice", lambda h: h["operations"][2].update(table=0), "where one of int32 is due"),
    ("buffer of nobody", lambda h: h["operations"].pop(), "belongs to no operation"),
    ("reads itself", lambda h: first(h).update(source=1), "it may read 0 to 0"),
    ("no classes", lambda h: h.update(classes=[]), "needs classes"),
    ("classes as text", lambda h: h.update(classes="abcde"), "a list of at most"),
    ("a million operations", lambda h: h.update(operations=[{}] * 1_000_000), "a list of at most"),
]


@pytest.mark.parametrize(
    ("change", "message"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE]
)
def test_hostile_headers(change: Callable[[dict[str, Any]], object], message: str) -> None:
    refused(changed(change), message)


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"classes":NaN}',
        b"[]",
        b"\xff\xfe",
        b"",
        b'{"shape":' + b"9" * 5000 + b"}",
    ],
)
def test_hostile_json(raw: bytes) -> None:
    refused(sealed(raw, b""), "makes no program")


def test_wrong_magic_newer_schema_and_long_header() -> None:
    refused(b"PK" + DATA[2:], "is not a .tersa file")
    refused(DATA[:8] + struct.pack("<I", 3) + DATA[12:], "has schema 3, this tersa reads up to 2")
    refused(DATA[:8] + struct.pack("<I", 0) + DATA[12:], "is damaged: schema 0")
    refused(DATA[:12] + struct.pack("<I", 0xFFFFFFFF) + DATA[16:], "is damaged")


def test_a_file_has_the_oldest_schema_that_holds_it() -> None:
    """So that an older tersa reads what it can; another number than that is damage."""
    packed = encode(PROGRAMS[3])
    assert [struct.unpack("<I", data[8:12]) for data in (DATA, packed)] == [(1,), (2,)]
    refused(
        packed[:8] + struct.pack("<I", 1) + packed[12:], "is damaged: schema 1, and what it holds is of 2"
    )
    refused(DATA[:8] + struct.pack("<I", 2) + DATA[12:], "is damaged: schema 2, and what it holds is of 1")


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        read_bundle(tmp_path / "none.tersa")
    with pytest.raises(ModelError):
        read_bundle(tmp_path)
    (tmp_path / "empty.tersa").touch()
    with pytest.raises(ModelError, match="has 0 bytes"):
        read_bundle(tmp_path / "empty.tersa")


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.tersa"
    write_bundle(path, SMALL)
    before = path.read_bytes()

    def fails(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fails)
    with pytest.raises(OSError, match="disk full"):
        write_bundle(path, residual())
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["x.tersa"]


def test_reading_loads_neither_torch_nor_numba(tmp_path: Path) -> None:
    path = tmp_path / "x.tersa"
    write_bundle(path, SMALL)
    code = (
        "import sys; from pathlib import Path; from tersa.export.bundle import read_bundle\n"
        f"read_bundle(Path({str(path)!r})); print(sorted({{'torch', 'numba', 'onnx'}} & set(sys.modules)))\n"
        "import tersa.binary.runtime; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "False"]
