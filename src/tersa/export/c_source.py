"""A packed program as one C99 file: weights and thresholds inside, no library, no allocation.

    void NAME_predict(const uint8_t *pixels, float *logits);
    const char *const NAME_classes[K];

`pixels` are the bytes (C, H, W) of one image, `logits` K floats. Signs are in words of 64 bits, products are
XOR and popcount (`__builtin_popcountll`, or a portable one with -DPORTABLE or another compiler); the parts
are those of `packed.c`, as many as the network needs. Between layers there are integers only, so every
compiler gives the same bits; floats (the logits, and what the network itself keeps in float) are rounded
after each operation as long as the compiler does not contract them: `-std=c99`, or `-ffp-contract=off`.

The memory for values between layers is static, so that a call is not reentrant; values that are not needed
at the same time share it. The file says how much that is, and how much its constants are. -DNAME_MAIN adds a
program that reads the bytes of images from standard input and prints their classes.

Example:
    >>> w = Weights.of(np.array([[1, -1]]).reshape(1, 1, 1, 2), bits=1)
    >>> head = Affine(1, np.float32([0.5]), np.float32([1]))
    >>> program = Program(("a",), (2, 1, 1), (Pixels(8, (2, 1, 1)), Convolution(0, w), head))
    >>> text = c_source(program, "tiny")
    >>> "void tiny_predict(const uint8_t *pixels, float *logits)" in text, "scratch: 4 bytes" in text
    (True, True)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tersa.binary.bitpack import codes, levels, pack, words_for
from tersa.binary.program import (
    Add,
    Affine,
    AveragePool,
    Convolution,
    FloatConvolution,
    FloatPixels,
    Levels,
    MaxPool,
    Pixels,
    Program,
    Relu,
    Repeat,
    Shape,
    SumPool,
    Threshold,
    Weights,
    sources,
)
from tersa.binary.reference import pixel_codes
from tersa.errors import UsageError
from tersa.export.artefact import tersa_version

Kind = Literal["uint64_t", "int32_t", "float"]
BYTES: dict[str, int] = {"uint64_t": 8, "int32_t": 4, "float": 4, "int16_t": 2, "uint8_t": 1}
ARENAS: dict[Kind, str] = {"uint64_t": "words", "int32_t": "integers", "float": "floats"}
WIDTH = 108
"""Characters of a line of numbers."""


def identifier(name: str) -> str:
    """A C identifier from a file's name.

    >>> identifier("3 layers-net")
    'net_3_layers_net'
    """
    word = re.sub(r"[^0-9A-Za-z_]", "_", name)
    return word if re.match(r"[A-Za-z]", word) else f"net_{word}"


def c_source(program: Program, name: str) -> str:
    """The C99 text of a program; the same for the same program.

    Args:
        program: what to compute.
        name: begins the names that the file gives away; a C identifier.

    Raises:
        UsageError: the name is none.
    """
    if not re.fullmatch(r"[A-Za-z][0-9A-Za-z_]*", name):
        raise UsageError(f"'{name}' begins no name in C; use letters, digits and _, a letter first")
    writer = _Writer(program, name)
    for place in range(len(program.operations)):
        writer.write(place)
    return writer.text()


@dataclass(frozen=True)
class _Place:
    """Where a value lies: in the arena of its type, or nowhere (bytes that the caller holds, sums)."""

    kind: Kind
    at: int
    size: int
    last: int


@dataclass
class _Writer:
    """Constants, places in memory and steps, in the order of the operations.

    Attributes:
        program: what is written.
        name: see `c_source`.
        constants: definitions.
        constant_bytes: of all of them.
        steps: lines of the function's body.
        parts: names of pieces of `packed.c` that are called.
        places: of values that are kept, by operation; negative numbers are for the time of one step.
        sizes: of the arenas, in elements.
        sums: elements of the buffer for one place's sums.
    """

    program: Program
    name: str
    constants: list[str] = field(default_factory=list[str])
    constant_bytes: int = 0
    steps: list[str] = field(default_factory=list[str])
    parts: set[str] = field(default_factory=set[str])
    places: dict[int, _Place] = field(default_factory=dict[int, _Place])
    sizes: dict[Kind, int] = field(default_factory=dict[Kind, int])
    sums: int = 0

    # What is kept ---------------------------------------------------------------------------------------

    def last_use(self, place: int) -> int:
        """The operation that needs a value last; sums are made where they are read."""
        needed = place
        for reader in self.program.readers(place):
            made = self.program.values[reader]
            needed = max(
                needed, *(self.program.readers(reader) if made.kind == "sums" else (reader,)), reader
            )
        return needed

    def keep(self, place: int, kind: Kind, size: int, *, last: int | None = None) -> str:
        """Find room for a value, first fit; returns its name in C."""
        last = self.last_use(place) if last is None else last
        now = abs(place) if place >= 0 else last
        alive = sorted(
            (one.at, one.size) for one in self.places.values() if one.kind == kind and one.last >= now
        )
        at = 0
        for start, taken in alive:
            if start >= at + size:
                break
            at = max(at, start + taken)
        self.places[place] = _Place(kind, at, size, last)
        self.sizes[kind] = max(self.sizes.get(kind, 0), at + size)
        return self.value(place)

    def value(self, place: int) -> str:
        """A kept value in C."""
        found = self.places[place]
        return f"{ARENAS[found.kind]} + {found.at}"

    def constant(self, kind: str, name: str, numbers: npt.NDArray[Any]) -> str:
        """Define an array; returns its name."""
        self.constants.append(
            f"static const {kind} {name}[{numbers.size}] = {{\n{_listed(numbers.reshape(-1))}\n}};"
        )
        self.constant_bytes += BYTES[kind] * numbers.size
        return name

    def call(self, part: str, *arguments: object, indent: int = 2) -> None:
        """One call of a piece of `packed.c`."""
        self.parts.add(part)
        self.steps.append(f"{' ' * indent}{part}({', '.join(str(one) for one in arguments)});")

    # Operations -----------------------------------------------------------------------------------------

    def write(self, place: int) -> None:
        """One operation; a convolution is written with what reads its sums."""
        operation = self.program.operations[place]
        if self.program.values[place].kind == "sums":
            return
        self.steps.append(f"  /* {place}: {self.described(place)} */")
        source = sources(operation)
        if source and self.program.values[source[0]].kind == "sums":
            self.convolved(place)
            return
        c, h, w = self.program.values[place].shape
        match operation:
            case Pixels():
                self.pixels(place, operation)
            case FloatPixels():
                mean = self.constant("float", f"mean_{place}", operation.mean)
                std = self.constant("float", f"std_{place}", operation.std)
                self.call("normalised", "pixels", mean, std, c, h * w, self.keep(place, "float", c * h * w))
            case Threshold() | Affine():
                self.ended(place, "")
            case Levels():
                table = self.constant("float", f"thresholds_{place}", operation.thresholds)
                bits, x = self.program.values[place].bits, self.value(source[0])
                self.call("levels", x, table, c, bits, h * w, self.codes(place))
            case FloatConvolution():
                self.float_convolution(place, operation)
            case Relu():
                size = c * h * w
                self.call("relu", self.value(source[0]), size, self.keep(place, "float", size))
            case Add():
                size = c * h * w
                x, z = self.value(source[0]), self.value(source[1])
                self.call("add", x, z, size, self.keep(place, "float", size))
            case Repeat():
                inputs, x = c // operation.copies, self.value(source[0])
                self.call("repeat", x, inputs, h * w, operation.copies, self.keep(place, "float", c * h * w))
            case AveragePool():
                _, rows, columns = self.program.values[source[0]].shape
                y = self.keep(place, "float", c * h * w)
                self.call("mean", self.value(source[0]), c, rows, columns, operation.size, y)
            case MaxPool():
                self.max_pool(place, operation)
            case SumPool():
                self.sum_pool(place, operation)
            case Convolution():
                raise AssertionError("a convolution makes sums")

    def pixels(self, place: int, operation: Pixels) -> None:
        """A table of levels; codes in memory only where the bytes themselves do not do."""
        table = levels(pixel_codes(operation.bits), operation.bits)
        level = self.constant("int16_t", "level", table)
        if self.bytes_do(place):
            return
        c, h, w = operation.shape
        self.call("pixel_codes", "pixels", level, operation.bits, c, h * w, self.codes(place))

    def bytes_do(self, place: int) -> bool:
        """Whether layers read the caller's bytes: pixels of several bits, and none but convolutions there."""
        operation = self.program.operations[place]
        readers = [self.program.operations[reader] for reader in self.program.readers(place)]
        convolutions = all(isinstance(reader, Convolution) for reader in readers)
        return isinstance(operation, Pixels) and operation.bits > 1 and convolutions

    def codes(self, place: int) -> str:
        """Room for the planes of an operation's codes."""
        made = self.program.values[place]
        c, h, w = made.shape
        return self.keep(place, "uint64_t", made.bits * h * w * words_for(c))

    def convolved(self, place: int) -> None:
        """A convolution, place by place, with the thresholds or the normalisation of its sums."""
        (index,) = sources(self.program.operations[place])
        layer = self.program.operations[index]
        assert isinstance(layer, Convolution)
        read, weights = self.program.values[layer.source], layer.weights
        o, h, w = self.program.values[index].shape
        self.sums = max(self.sums, o)
        window = self.window(index, read.shape, weights.shape, layer.stride, layer.padding)
        arguments: tuple[object, ...]
        if self.bytes_do(layer.source) or read.kind == "integers":
            stored = self.constant("uint8_t", f"weights_{index}", weights.planes)
            dense = (stored, weights.planes.shape[1], weights.bits)
            integers = read.kind == "integers"
            part = "integer_sums" if integers else "pixel_sums"
            arguments = (self.value(layer.source), *dense) if integers else ("pixels", "level", *dense)
        else:
            stored = self.constant("uint64_t", f"weights_{index}", _planes(weights))
            part = "bit_sums" if weights.bits else "ternary_sums"
            arguments = (
                self.value(layer.source),
                read.bits,
                stored,
                *((weights.bits,) if weights.bits else ()),
            )
        self.looped(part, (f"&{window}", *arguments), (h, w), "sums")
        self.ended(place, "sums")

    def looped(self, part: str, arguments: Sequence[object], size: tuple[int, int], sums: str) -> None:
        """The beginning of a loop over places."""
        h, w = size
        self.steps.append(f"  for (int32_t p = 0; p < {h * w}; p++) {{")
        self.call(part, *arguments, f"p / {w}", f"p % {w}", sums, indent=4)

    def ended(self, place: int, sums: str) -> None:
        """Thresholds or normalisation, of sums within the loop over places, or of a whole value."""
        operation, made = self.program.operations[place], self.program.values[place]
        c, h, w = made.shape
        if not sums:
            self.steps.append(f"  for (int32_t p = 0; p < {h * w}; p++) {{")
        if isinstance(operation, Threshold):
            table = self.constant("int32_t", f"thresholds_{place}", operation.table)
            x = sums or f"{self.value(operation.source)} + p * {c}"
            self.call("threshold", x, table, c, made.bits, h * w, "p", self.codes(place), indent=4)
        else:
            assert isinstance(operation, Affine)
            self.affine(place, operation, sums)
        self.steps.append("  }")

    def affine(self, place: int, operation: Affine, sums: str) -> None:
        """Normalisation of one place."""
        c, h, w = self.program.values[place].shape
        kind = self.program.values[operation.source].kind
        scale = self.constant("float", f"scale_{place}", operation.scale)
        shift = self.constant("float", f"shift_{place}", operation.shift)
        alpha = "0"
        if operation.alpha is not None:
            alpha = self.constant("float", f"alpha_{place}", operation.alpha)
        final = place == len(self.program.operations) - 1
        y = "logits" if final else f"{self.keep(place, 'float', c * h * w)} + p * {c}"
        x = sums or f"{self.value(operation.source)} + p * {c}"
        if kind != "floats":
            self.call("to_floats", x, c, y, indent=4)
            x = y
        self.call("affine", x, alpha, scale, shift, c, y, indent=4)

    def window(
        self, index: int, shape: Shape, weights: tuple[int, int, int, int], stride: int, padding: int
    ) -> str:
        """Define a layer's sizes; returns the name."""
        (c, h, w), (o, kh, kw, _) = shape, weights
        numbers = ", ".join(str(one) for one in (c, h, w, o, kh, kw, stride, padding))
        self.constants.append(f"static const window window_{index} = {{{numbers}}};")
        self.constant_bytes += 8 * BYTES["int32_t"]
        return f"window_{index}"

    def float_convolution(self, place: int, operation: FloatConvolution) -> None:
        """A convolution of floats; codes and integers become floats first."""
        read = self.program.values[operation.source]
        c, h, w = read.shape
        if read.kind == "floats":
            x = self.value(operation.source)
        else:
            x = self.keep(-place, "float", c * h * w, last=place)
            given = self.value(operation.source)
            if read.kind == "codes":
                self.call("code_floats", given, c, h * w, read.bits, x)
            else:
                self.call("to_floats", given, c * h * w, x)
        o, rows, columns = self.program.values[place].shape
        shape = (o, *operation.weights.shape[1:])
        assert len(shape) == 4
        window = self.window(place, read.shape, shape, operation.stride, operation.padding)
        weights = operation.weights
        if isinstance(weights, Weights):
            stored = self.constant("uint8_t", f"weights_{place}", weights.planes)
            taps = (0, stored, weights.planes.shape[1], weights.bits)
        else:
            taps = (self.constant("float", f"weights_{place}", weights), 0, 0, 0)
        y = self.keep(place, "float", o * rows * columns)
        self.looped("float_sums", (f"&{window}", x, *taps), (rows, columns), f"{y} + p * {o}")
        self.steps.append("  }")

    def max_pool(self, place: int, operation: MaxPool) -> None:
        """Of codes by planes, or of floats."""
        made, read = self.program.values[place], self.program.values[operation.source]
        (c, h, w), (_, rows, columns) = made.shape, read.shape
        x = self.value(operation.source)
        if made.kind == "codes":
            sizes = (c, rows, columns, made.bits, operation.size, operation.stride, h, w)
            self.call("max_codes", x, *sizes, self.codes(place))
        else:
            y = self.keep(place, "float", c * h * w)
            self.call("max_floats", x, c, columns, operation.size, operation.stride, h, w, y)

    def sum_pool(self, place: int, operation: SumPool) -> None:
        """Of codes to integers, or of floats."""
        read = self.program.values[operation.source]
        c, h, w = read.shape
        x = self.value(operation.source)
        if read.kind == "codes":
            turned = "0"
            if operation.turned is not None:
                turned = self.constant("uint8_t", f"turned_{place}", operation.turned)
            self.call("sum_codes", x, turned, c, h * w, read.bits, self.keep(place, "int32_t", c))
        else:
            self.call("sum_floats", x, c, h * w, self.keep(place, "float", c))

    def described(self, place: int) -> str:
        """A step in words."""
        operation, made = self.program.operations[place], self.program.values[place]
        source = sources(operation)
        first = ""
        if source and self.program.values[source[0]].kind == "sums":
            layer = self.program.operations[source[0]]
            assert isinstance(layer, Convolution)
            o, kh, kw, c = layer.weights.shape
            bits = f"{layer.weights.bits}-bit" if layer.weights.bits else "ternary"
            first = f"Convolution {kh}x{kw}, {c} to {o} channels, {bits} weights, "
        c, h, w = made.shape
        kept = f"{made.bits}-bit codes" if made.kind == "codes" else made.kind
        return f"{first}{type(operation).__name__}: {kept} {c}x{h}x{w}"

    # The file -------------------------------------------------------------------------------------------

    def text(self) -> str:
        """All of it."""
        final = len(self.program.operations) - 1
        if final in self.places:  # a network whose last operation is no normalisation
            self.steps.append(f"  for (int32_t k = 0; k < {len(self.program.classes)}; k++)")
            self.steps.append(f"    logits[k] = ({self.value(final)})[k];")
        buffers = [f"static {kind} {ARENAS[kind]}[{size}];" for kind, size in sorted(self.sizes.items())]
        scratch = sum(BYTES[kind] * size for kind, size in self.sizes.items())
        if self.sums:
            buffers.append(f"static int32_t sums[{self.sums}];")
            scratch += BYTES["int32_t"] * self.sums
        sections = [
            self.head(scratch),
            *self.used(),
            *self.constants,
            "\n".join(buffers),
            self.names(),
            self.function(),
            self.main(),
        ]
        return "\n\n".join(section.strip("\n") for section in sections if section) + "\n"

    def head(self, scratch: int) -> str:
        """What the file says about itself, and what it needs of the compiler."""
        size = " x ".join(str(side) for side in self.program.shape)
        kept = f"{self.constant_bytes:,} bytes. Static scratch: {scratch:,} bytes"
        precision = _remark(self.program.precision or "packed")
        return f"""\
/* {self.name}: a low-bit network, {precision}. Written by tersa {tersa_version()}.

     void {self.name}_predict(const uint8_t *pixels, float *logits);

   pixels: {size} bytes 0..255 (channel, row, column). logits: {len(self.program.classes)} floats, in the
   order of {self.name}_classes. Constants: {kept}; no
   allocation, small stack, not reentrant.

   C99 with no library. For the very bits of the trained network, floats must not be contracted:
   cc -std=c99 -O2 -c FILE (gcc's gnu modes need -ffp-contract=off). To try it: -D{self.name}_MAIN
   makes a program that reads images from standard input. -DPORTABLE does without gcc's popcount. */
#include <stdint.h>

#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0
#error "float is computed in another precision here; on 32-bit x86 compile with -msse2 -mfpmath=sse"
#endif
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif"""

    def used(self) -> list[str]:
        """The pieces of `packed.c` that are called, and what they call, in that file's order."""
        found = _pieces()
        wanted, waiting = set[str](), sorted(self.parts)
        while waiting:
            name = waiting.pop()
            if name not in wanted:
                wanted.add(name)
                waiting += found[name][0]
        return [text for name, (_, text) in found.items() if name in wanted]

    def names(self) -> str:
        """The classes."""
        listed = ",\n".join(f"  {_quoted(label)}" for label in self.program.classes)
        count = len(self.program.classes)
        return (
            f"extern const char *const {self.name}_classes[{count}];\n"
            f"const char *const {self.name}_classes[{count}] = {{\n{listed}\n}};"
        )

    def function(self) -> str:
        """The one function that others call."""
        body = "\n".join(self.steps)
        signature = f"void {self.name}_predict(const uint8_t *pixels, float *logits)"
        return f"{signature};\n{signature} {{\n{body}\n}}"

    def main(self) -> str:
        """The program behind -DNAME_MAIN."""
        c, h, w = self.program.shape
        count = len(self.program.classes)
        return f"""\
#ifdef {self.name}_MAIN
#include <stdio.h>

int main(void) {{
  static uint8_t pixels[{c * h * w}];
  float logits[{count}];
  while (fread(pixels, 1, sizeof pixels, stdin) == sizeof pixels) {{
    int best = 0;
    {self.name}_predict(pixels, logits);
    for (int k = 0; k < {count}; k++) {{
      if (logits[k] > logits[best]) best = k;
      printf("%.9g ", (double)logits[k]);
    }}
    printf("%s\\n", {self.name}_classes[best]);
  }}
  return 0;
}}
#endif"""


def _planes(weights: Weights) -> npt.NDArray[np.uint64]:
    """Words (planes, O, kh, kw, words) of one tap after the other."""
    integers = weights.integers()
    if weights.bits:
        return pack(codes(integers, weights.bits), weights.bits)
    return pack((integers != 0) + 2 * (integers > 0), 2)


def _pieces() -> dict[str, tuple[list[str], str]]:
    """Name, what it needs, and text of every piece of `packed.c`."""
    text = files("tersa.export").joinpath("packed.c").read_text(encoding="utf-8")
    found: dict[str, tuple[list[str], str]] = {}
    for piece in text.split("//: ")[1:]:
        head, body = piece.split("\n", 1)
        name, *needs = head.split()
        found[name] = (needs, body)
    return found


def _listed(numbers: npt.NDArray[Any]) -> str:
    """Numbers in lines; floats in hexadecimal, so that nothing is lost."""
    if numbers.dtype == np.float32:
        words = [_float(float(one)) for one in numbers]
    elif numbers.dtype == np.uint64:
        words = [f"0x{int(one):x}" for one in numbers]
    else:
        words = [str(int(one)) for one in numbers]
    lines, line = list[str](), ""
    for word in words:
        if line and len(line) + len(word) + 2 > WIDTH:
            lines.append(line)
            line = ""
        line += f" {word}," if line else f"  {word},"
    return "\n".join([*lines, line])


def _float(value: float) -> str:
    """A float32 as C99 writes it: `0x1.8p+1f`."""
    mantissa, exponent = value.hex().split("p")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}p{exponent}f"


def _remark(text: str) -> str:
    """Text within a comment: it neither ends one nor begins one, and stays on its line.

    >>> _remark("1/1 (W/A) */ int x;")
    '1/1 (W/A) * / int x;'
    """
    plain = "".join(c if c.isprintable() else "?" for c in text)
    return plain.replace("*/", "* /").replace("/*", "/ *")


def _quoted(label: str) -> str:
    """A string literal in ASCII; what is not plain is three octal digits."""
    plain = re.compile(r"[ !#-;=>@-\[\]-~]")
    raw = label.encode("utf-8")
    return '"' + "".join(chr(b) if plain.fullmatch(chr(b)) else f"\\{b:03o}" for b in raw) + '"'
