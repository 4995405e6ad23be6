"""A clustered network as one small file, `.coded`: everything that gives it again, entropy-coded.

    magic "TC", schema version
    flags | model spec | image shape | classes | names, unless "0", "1", ... | mean, deviation
    for each tensor of the state dict: how it is stored, and its sizes where they are not as expected
    codebooks | scales                              a byte a number where that says it exactly, else halves
    codes of the weights | codes of the biases      `prune.coding`; all weights in one sequence or each in its
                                                    own, whichever is shorter
    other values                                    half or single precision, or whole numbers
    CRC-32 of all that                              4 bytes

Numbers in the head are 7 bits a byte (`symbols.varint`). The network is built again from its spec (`lenet5`)
and given the sizes of its tensors (`prune.surgery.resize_`), so that pruned widths need no description. A
tensor is expected to have the spec's sizes less what the layer before it lost (`_Expected`): of a chain only
the widths are written. What is read is bit for bit what was clustered.

Schema 1 expected the spec's sizes and wrote every number in half precision; it is still read.

A reader trusts nothing: sizes are bounded before anything is allocated, the checksum comes first, texts hold
no control characters, and every fault is one line. A spec that would run a user's own code (`net.py:build`)
or read another file is followed only when the caller names it too; it may have moved to another folder since.

Example:
    >>> import tempfile
    >>> from tersa.models.zoo import build
    >>> from tersa.prune.clustering import cluster
    >>> network = build("mlp:4", (1, 2, 2), 3).eval()
    >>> header = Header(("0", "1", "2"), (1, 2, 2), (0.5,), (0.25,))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "tiny.coded"
    ...     sizes = write_coded(path, cluster(network, bits=2), "mlp:4", header, network)
    ...     module, again = read_coded(path)
    >>> again.classes, sizes.total
    (('0', '1', '2'), 73)
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tersa.errors import DataError, ModelError, TersaError
from tersa.export.artefact import Header
from tersa.export.bounded import LONGEST_TEXT, Reader
from tersa.files import write_atomic
from tersa.models import zoo
from tersa.models.load import check, kind_of, load
from tersa.prune.clustering import Clustered, Codes, Levels, held, whole
from tersa.prune.coding import pack
from tersa.prune.steps import coarse, coarse_exponent, half, nearby_scale, scale_byte, scale_of
from tersa.prune.surgery import resize_
from tersa.prune.symbols import varint

MAGIC, SCHEMA = b"TC", 2

NAMES, HALF_NORMALISATION, LAYER_BOOKS, SEPARATE, BYTE_BOOKS, BYTE_SCALES = 1, 2, 4, 8, 16, 32
"""Flags; the last two since schema 2."""

DENSE, SPARSE, LEVELS, HALF, SINGLE, WHOLE = range(6)
"""How a tensor is stored."""
KIND_BITS = 3
MOST_DIMS = 5
"""Of a tensor: one bit each, beside its kind in one byte."""

MOST_VALUES = 2**27
"""Values of one network, as built and as stored: half a gigabyte. More is refused before it is allocated."""
MOST_BYTES = 2**29
MOST_CLASSES = 2**16


@dataclass(frozen=True)
class Parts:
    """Bytes of each part of a file.

    Attributes:
        header: spec, shape, classes, normalisation, sizes of tensors, checksum.
        codebooks: centroids and scales.
        codes: of the clustered weights.
        biases: codes of the biases.
        others: values that are stored as they are.
    """

    header: int
    codebooks: int
    codes: int
    biases: int
    others: int

    @property
    def total(self) -> int:
        """Size of the file on disk."""
        return self.header + self.codebooks + self.codes + self.biases + self.others


@dataclass(frozen=True)
class Loaded:
    """What a file holds.

    Attributes:
        module: the network, in eval mode; takes normalised input.
        header: classes, shape and normalisation.
        spec: the network's name.
        clustered: the values as they are stored.
    """

    module: nn.Module
    header: Header
    spec: str
    clustered: Clustered


def write_coded(
    path: Path, clustered: Clustered, spec: str, header: Header, built: nn.Module, coder: str = "auto"
) -> Parts:
    """Write a clustered network; whole or not at all.

    Args:
        path: of the file.
        clustered: its values.
        spec: gives the network before it was pruned, see `models.load`.
        header: classes, shape and normalisation.
        built: what the spec gives; only its names and sizes are read.
        coder: see `coding.pack`.

    Raises:
        ModelError: tensors that are not the spec's, or more than a file may hold.
        UsageError: an unknown coder.
    """
    data, parts = encode(clustered, spec, header, built, coder)
    write_atomic(path, data)
    return parts


def read_coded(path: Path, model: str | None = None) -> tuple[nn.Module, Header]:
    """The network of a file, in eval mode, and its header; see `decode`.

    Raises:
        DataError: no such file, or a damaged one.
        ModelError: a network of a user's own code that was not named.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError(
                f"{path} has {path.stat().st_size:,} bytes; a coded network has {MOST_BYTES:,} at most"
            )
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    found = decode(data, str(path), model)
    return found.module, found.header


# Writing --------------------------------------------------------------------------------------------------


def encode(
    clustered: Clustered, spec: str, header: Header, built: nn.Module, coder: str = "auto"
) -> tuple[bytes, Parts]:
    """The bytes of a file; arguments as of `write_coded`."""
    flags = 0
    if header.classes != _numbered(len(header.classes)):
        flags |= NAMES
    normalisation = torch.tensor([*header.mean, *header.std])
    if torch.equal(half(normalisation), normalisation):
        flags |= HALF_NORMALISATION
    if len(clustered.books) > 1:
        flags |= LAYER_BOOKS
    if all(torch.equal(coarse(book), book) for book in clustered.books):
        flags |= BYTE_BOOKS
    if all(nearby_scale(scale) == scale for scale in _scales(clustered)):
        flags |= BYTE_SCALES
    symbols = [one.codes.numpy() for one in clustered.weights.values()]
    sizes = _alphabets(clustered)
    shifted = [s + (max(o for _, o in sizes) - o) for s, (_, o) in zip(symbols, sizes, strict=True)]
    zeros = any(one.sparse for one in clustered.weights.values())
    joint = pack(np.concatenate([s.reshape(-1) for s in shifted]), _joint(sizes), coder, zeros=zeros)
    apart = b"".join(
        pack(s, alphabet, coder, zeros=zero > 0) for s, (alphabet, zero) in zip(symbols, sizes, strict=True)
    )
    if len(apart) < len(joint):
        flags |= SEPARATE
    head = _head(spec, header, flags, normalisation) + _table(clustered, built)
    books = _books(clustered, flags)
    codes = apart if flags & SEPARATE else joint
    levels = [one.codes.reshape(-1).numpy() for one in clustered.biases.values()]
    alphabet = 2**clustered.bias_bits - 1
    biases = pack(np.concatenate(levels), alphabet) if levels else b""
    others = b"".join(_other(value) for value in clustered.others.values())
    data = head + books + codes + biases + others
    crc = struct.pack("<I", zlib.crc32(data))
    return data + crc, Parts(len(head) + len(crc), len(books), len(codes), len(biases), len(others))


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(str(number) for number in range(count))


def _alphabets(clustered: Clustered) -> list[tuple[int, int]]:
    """Symbols of each weight tensor, and how many of them are zero's (1 or 0)."""
    return [
        (len(clustered.book(place)) + one.sparse, int(one.sparse))
        for place, one in enumerate(clustered.weights.values())
    ]


def _joint(sizes: Sequence[tuple[int, int]]) -> int:
    """Symbols of all weight tensors in one sequence: zero's comes first where any has one."""
    return max(size - zero for size, zero in sizes) + max(zero for _, zero in sizes)


def _head(spec: str, header: Header, flags: int, normalisation: Tensor) -> bytes:
    out = MAGIC + bytes([SCHEMA, flags]) + _text(spec)
    out += b"".join(varint(side) for side in (*header.shape, len(header.classes)))
    if flags & NAMES:
        out += b"".join(_text(name) for name in header.classes)
    return out + _floats(normalisation, bool(flags & HALF_NORMALISATION))


def _text(text: str) -> bytes:
    data = text.encode()
    if len(data) > LONGEST_TEXT:
        raise ModelError(f"'{text[:40]}...' has {len(data):,} bytes; at most {LONGEST_TEXT:,} are stored")
    return varint(len(data)) + data


def _floats(values: Tensor, halves: bool) -> bytes:
    return values.numpy().astype("<f2" if halves else "<f4").tobytes()


def _table(clustered: Clustered, built: nn.Module) -> bytes:
    """One byte for each tensor (kind, and which sizes are not as expected), and those sizes."""
    kinds = _kinds(clustered)
    total = sum(_numel(shape) for _, shape in kinds.values())
    if total > MOST_VALUES:
        raise ModelError(f"the network has {total:,} values; a coded file holds {MOST_VALUES:,} at most")
    shapes = {name: tuple(value.shape) for name, value in held(built).items()}
    if kinds.keys() != shapes.keys():
        strange = sorted(kinds.keys() ^ shapes.keys())
        raise ModelError(
            f"the network is not the spec's: {', '.join(strange[:4])} belong to one of them only"
        )
    out, expected = bytearray(), _Expected()
    for name, shape in shapes.items():
        kind, found = kinds[name]
        if len(found) != len(shape) or len(shape) > MOST_DIMS:
            raise ModelError(
                f"tensor {name} has shape {found}, the spec's {shape}; at most {MOST_DIMS} sizes"
            )
        likely = expected.of(shape)
        expected.saw(shape, found)
        other = [dim for dim, (a, b) in enumerate(zip(found, likely, strict=True)) if a != b]
        out.append(kind | sum(1 << (KIND_BITS + dim) for dim in other))
        out += b"".join(varint(found[dim]) for dim in other)
    if clustered.biases:
        out.append(clustered.bias_bits)
    return bytes(out)


def _kinds(clustered: Clustered) -> dict[str, tuple[int, tuple[int, ...]]]:
    """How each tensor is stored, and its shape."""
    found: dict[str, tuple[int, tuple[int, ...]]] = {}
    for name, one in clustered.weights.items():
        found[name] = (SPARSE if one.sparse else DENSE, tuple(one.codes.shape))
    for name, one in clustered.biases.items():
        found[name] = (LEVELS, tuple(one.codes.shape))
    for name, value in clustered.others.items():
        found[name] = (_kind(value), tuple(value.shape))
    return found


def _kind(value: Tensor) -> int:
    if not value.is_floating_point():
        return WHOLE
    return HALF if torch.equal(half(value), value) else SINGLE


def _scales(clustered: Clustered) -> list[float]:
    """Of weights and biases, in the file's order."""
    return [one.scale for one in (*clustered.weights.values(), *clustered.biases.values())]


def _books(clustered: Clustered, flags: int) -> bytes:
    """Sizes and centroids of the codebooks, then the scales of weights and biases."""
    books = b"".join(
        bytes([len(book) - 1]) + (_coarse_book(book) if flags & BYTE_BOOKS else _floats(book, True))
        for book in clustered.books
    )
    scales = _scales(clustered)
    if flags & BYTE_SCALES:
        return books + bytes(scale_byte(scale) for scale in scales)
    return books + _floats(torch.tensor(scales), True)


def _coarse_book(book: Tensor) -> bytes:
    """The exponent of the step, and multiples of it."""
    exponent = coarse_exponent(book)
    return struct.pack("<b", exponent) + (book / 2.0**exponent).to(torch.int8).numpy().tobytes()


@dataclass
class _Expected:
    """Sizes that a tensor has if nothing but widths changed along a chain of layers.

    Attributes:
        built: outputs of the last tensor of two sizes or more, in the spec's network; 0 before the first.
        found: the same in this one.
    """

    built: int = 0
    found: int = 0

    def of(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A vector as long as the last layer's outputs were goes with them; so do the inputs of the next."""
        if len(shape) == 1 and shape[0] == self.built:
            return (self.found,)
        if len(shape) > 1 and self.built and shape[1] % self.built == 0:
            return (shape[0], shape[1] // self.built * self.found, *shape[2:])
        return shape

    def saw(self, shape: tuple[int, ...], found: tuple[int, ...]) -> None:
        """The tensor has these sizes: the spec's, and its own."""
        if len(shape) > 1:
            self.built, self.found = shape[0], found[0]


def _other(value: Tensor) -> bytes:
    kind = _kind(value)
    if kind == WHOLE:  # 0, -1, 1, -2, 2 as 0 .. 4
        return b"".join(varint(2 * n if n >= 0 else -2 * n - 1) for n in value.long().flatten().tolist())
    return _floats(value.flatten(), kind == HALF)


# Reading --------------------------------------------------------------------------------------------------


def decode(data: bytes, name: str, model: str | None = None) -> Loaded:
    """The network that a file's bytes hold.

    Args:
        data: the whole file.
        name: of the file, for messages.
        model: the spec, where it is a user's own file; that of the file, perhaps in another folder.

    Raises:
        DataError: not a coded network, a newer schema, or damaged bytes.
        ModelError: a user's own network that was not named, or another network than was named.
    """
    if data[:2] != MAGIC or len(data) < len(MAGIC) + 1:
        raise DataError(f"{name} is not a coded network: it does not begin with '{MAGIC.decode()}'")
    if data[2] > SCHEMA:
        raise DataError(
            f"{name} has schema {data[2]}, this tersa reads up to {SCHEMA}; install a newer tersa"
        )
    if zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise DataError(f"{name} is damaged: its checksum does not match; fetch or write it again")
    reader = Reader(data[:-4], name, at=3)
    try:
        return _read(reader, data[2], model)
    except DataError as error:
        text = str(error)
        raise DataError(text if text.startswith(name) else f"{name} is damaged: {text}") from None


def _read(reader: Reader, schema: int, model: str | None) -> Loaded:
    flags = reader.byte()
    if schema == 1 and flags & (BYTE_BOOKS | BYTE_SCALES):
        raise DataError(f"its flags {flags:#x} are none of schema 1")
    spec = reader.text()
    c, h, w = (reader.number(2**16, "size of an image") for _ in range(3))
    count = reader.number(MOST_CLASSES, "number of classes")
    classes = tuple(reader.text() for _ in range(count)) if flags & NAMES else _numbered(count)
    values = reader.floats(2 * c, halves=bool(flags & HALF_NORMALISATION)).tolist()
    try:
        header = Header(classes, (c, h, w), tuple(values[:c]), tuple(values[c:]))
    except ModelError as error:
        raise DataError(str(error)) from None
    module = _build(reader.name, spec, header, model)
    clustered = _values(reader, schema, flags, module)
    if reader.left:
        raise DataError(f"{reader.left:,} bytes are left over behind the last value")
    try:
        resize_(module, whole(module, clustered.state()))
        check(module, spec, header.shape, count)
    except (TersaError, RuntimeError) as error:
        raise DataError(f"its tensors do not fit '{spec}': {str(error).splitlines()[0]}") from None
    return Loaded(module.eval(), header, spec, clustered)


def _build(name: str, spec: str, header: Header, model: str | None) -> nn.Module:
    """The network of a spec, as large as it was before it was pruned."""
    if not spec.isprintable():
        raise DataError(f"its network's name {spec!r:.60} is no model spec")
    try:
        built = _known(spec, header) if kind_of(spec) == "zoo" else None
    except TersaError as error:
        raise DataError(f"its network cannot be built: {error}") from None
    if built is not None:
        if model not in (None, spec):
            raise ModelError(f"{name} holds a network of '{spec}', not '{model}'; leave out --model")
        return built
    if model is None or Path(model).name != Path(spec).name:
        asked = f", not '{model}'" if model else ""
        raise ModelError(
            f"{name} holds a network of '{spec}'{asked}, whose code would run or whose file would be read; "
            f"if you trust it, name it: --model {spec}"
        )
    return load(model, header.shape, len(header.classes)).module


def _known(spec: str, header: Header) -> nn.Module:
    """A network of the zoo, refused before it is built where it is too large."""
    family, argument = zoo.parse(spec)
    family.check_size(spec, header.shape)
    with torch.device("meta"):
        sketch = family.build(argument, header.shape, len(header.classes))
    count = sum(value.numel() for value in sketch.state_dict().values())
    if count > MOST_VALUES:
        raise DataError(f"'{spec}' has {count:,} values; at most {MOST_VALUES:,} are read")
    return zoo.build(spec, header.shape, len(header.classes))


def _values(reader: Reader, schema: int, flags: int, module: nn.Module) -> Clustered:
    """Everything behind the head."""
    kinds: dict[str, tuple[int, tuple[int, ...]]] = {}
    built, expected = held(module), _Expected()
    for name, value in built.items():
        byte, shape = reader.byte(), tuple(value.shape)
        sizes = list(shape if schema == 1 else expected.of(shape))
        for dim in range(MOST_DIMS):
            if byte >> (KIND_BITS + dim) & 1:
                if dim >= len(sizes):
                    raise DataError(
                        f"tensor {name} has {len(sizes)} sizes, the table changes number {dim + 1}"
                    )
                sizes[dim] = reader.number(MOST_VALUES, f"a size of {name}")
        expected.saw(shape, tuple(sizes))
        kinds[name] = (byte & (1 << KIND_BITS) - 1, tuple(sizes))
    total = sum(_numel(shape) for _, shape in kinds.values())
    if total > MOST_VALUES or any(kind > WHOLE for kind, _ in kinds.values()):
        raise DataError(f"its tensors have {total:,} values, or are of a kind that is not known")
    weights = {name: (kind == SPARSE, s) for name, (kind, s) in kinds.items() if kind in (DENSE, SPARSE)}
    biases = {name: shape for name, (kind, shape) in kinds.items() if kind == LEVELS}
    bias_bits = reader.byte() if biases else 8
    if not weights or not 2 <= bias_bits <= 16:
        raise DataError(f"it has {len(weights)} clustered tensors and biases of {bias_bits} bits")
    books = tuple(_read_book(reader, flags) for _ in range(len(weights) if flags & LAYER_BOOKS else 1))
    if flags & BYTE_SCALES:
        scales = [scale_of(reader.byte()) for _ in range(len(weights) + len(biases))]
    else:
        scales = reader.floats(len(weights) + len(biases), halves=True).tolist()
    codes = _codes(reader, bool(flags & SEPARATE), weights, books)
    levels = reader.symbols(sum(map(_numel, biases.values())), 2**bias_bits - 1) if biases else torch.zeros(0)
    parts = levels.split([_numel(shape) for shape in biases.values()]) if biases else ()
    others = {
        name: _read_other(reader, kind, shape, built[name].dtype)
        for name, (kind, shape) in kinds.items()
        if kind in (HALF, SINGLE, WHOLE)
    }
    return Clustered(
        books=books,
        weights={
            name: Codes(code, scale, sparse)
            for (name, (sparse, _)), code, scale in zip(weights.items(), codes, scales, strict=False)
        },
        biases={
            name: Levels(part.view(shape), scale)
            for (name, shape), part, scale in zip(biases.items(), parts, scales[len(weights) :], strict=True)
        },
        bias_bits=bias_bits,
        others=others,
    )


def _read_book(reader: Reader, flags: int) -> Tensor:
    """The centroids of one codebook."""
    count = reader.byte() + 1
    if not flags & BYTE_BOOKS:
        return reader.floats(count, halves=True)
    (exponent,) = struct.unpack("<b", reader.take(1))
    book = torch.frombuffer(bytearray(reader.take(count)), dtype=torch.int8).float() * 2.0**exponent
    if not torch.equal(half(book), book):
        raise DataError(f"a codebook in steps of 2^{exponent} leaves half precision")
    return book


def _numel(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _codes(
    reader: Reader, apart: bool, weights: dict[str, tuple[bool, tuple[int, ...]]], books: tuple[Tensor, ...]
) -> list[Tensor]:
    """The codes of every weight tensor, in its shape."""
    sizes = [
        (len(books[place if len(books) > 1 else 0]) + sparse, int(sparse))
        for place, (sparse, _) in enumerate(weights.values())
    ]
    counts = [_numel(shape) for _, shape in weights.values()]
    if apart:
        found = [reader.symbols(count, size) for count, (size, _) in zip(counts, sizes, strict=True)]
    else:
        first = max(zero for _, zero in sizes)
        joined = reader.symbols(sum(counts), _joint(sizes)).split(counts)
        found = [part - (first - zero) for part, (_, zero) in zip(joined, sizes, strict=True)]
    for part, (size, _) in zip(found, sizes, strict=True):
        if part.numel() and not 0 <= int(part.min()) <= int(part.max()) < size:
            raise DataError(f"a code lies outside its codebook of {size}")
    return [part.view(shape) for part, (_, shape) in zip(found, weights.values(), strict=True)]


def _read_other(reader: Reader, kind: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Values that are stored as they are."""
    if kind != WHOLE:
        return reader.floats(_numel(shape), halves=kind == HALF).view(shape)
    count = _numel(shape)
    if count > reader.left:
        raise DataError(f"{count:,} whole numbers do not fit the bytes that are left")
    numbers = [reader.number(2**62, "a whole number") for _ in range(count)]
    return torch.tensor([n // 2 if n % 2 == 0 else -(n + 1) // 2 for n in numbers]).to(dtype).view(shape)
