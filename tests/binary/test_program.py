"""Programs that cannot run cannot be made: each fault in one line."""

import numpy as np
import pytest
from tests.binary.programs import CLASSES, affine, one_layer, residual

from tersa.binary.program import (
    Add,
    Affine,
    Convolution,
    FloatConvolution,
    FloatPixels,
    Levels,
    MaxPool,
    Operation,
    Pixels,
    Program,
    Relu,
    SumPool,
    Threshold,
    Value,
    Weights,
    sources,
)
from tersa.binary.runtime import Runner
from tersa.errors import ModelError

SIZE = (2, 4, 4)
RNG = np.random.default_rng(0)


def layer(source: int = 0, outputs: int = 5, kernel: int = 4, channels: int = 2, **how: int) -> Convolution:
    integers = 2 * RNG.integers(0, 2, (outputs, kernel, kernel, channels)) - 1
    return Convolution(source, Weights.of(integers, 1), **how)


def head(source: int, channels: int = 5) -> Affine:
    return affine(RNG, source, channels)


FAULTS: list[tuple[str, tuple[Operation, ...]]] = [
    ("without operations", ()),
    ("the first operation, and no other, reads the pixels", (layer(),)),
    ("the first operation, and no other", (Pixels(8, SIZE), Pixels(8, SIZE))),
    ("it may read 0 to 0", (Pixels(8, SIZE), layer(1), head(1))),
    (r"images of \(2, 4, 4\)", (Pixels(8, (2, 4, 5)), layer(), head(1))),
    ("1 to 8 bits, not 9", (Pixels(9, SIZE), layer(), head(1))),
    ("2 input channels, not 3", (Pixels(8, SIZE), layer(channels=3), head(1))),
    ("a kernel within 4 x 4", (Pixels(8, SIZE), layer(kernel=5), head(1))),
    ("a stride and a padding", (Pixels(8, SIZE), layer(stride=0), head(1))),
    ("a stride and a padding", (Pixels(8, SIZE), layer(padding=4), head(1))),
    ("must feed one Threshold or Affine", (Pixels(8, SIZE), layer(), SumPool(0), head(2, 2))),
    ("nothing reads what operation 1 makes", (Pixels(8, SIZE), SumPool(0), layer(), head(2))),
    ("not 5 logits", (Pixels(8, SIZE), layer(outputs=4), head(1, 4))),
    ("5 values, not", (Pixels(8, SIZE), layer(), head(1, 4))),
    ("thresholds that rise", (Pixels(8, SIZE), layer(), Threshold(1, np.array([[2, 1, 3]] * 5, np.int32)))),
    (r"2\^k - 1 for each channel", (Pixels(8, SIZE), layer(), Threshold(1, np.zeros((5, 2), np.int32)))),
    ("int32, not int64", (Pixels(8, SIZE), layer(), Threshold(1, np.zeros((5, 1), np.int64)))),
    ("windows within 4 x 4", (Pixels(8, SIZE), MaxPool(0, 5, 1), layer(1), head(2))),
    ("floats of one shape", (Pixels(8, SIZE), layer(), head(1), Add(2, 0))),
    (
        "finite values",
        (Pixels(8, SIZE), layer(), Affine(1, np.full(5, np.nan, np.float32), np.zeros(5, np.float32))),
    ),
    ("floats, not codes", (Pixels(8, SIZE), Levels(0, np.zeros(1, np.float32)))),
    ("2 values, not", (FloatPixels(SIZE, np.zeros(3, np.float32), np.ones(2, np.float32)),)),
]


@pytest.mark.parametrize(("message", "operations"), FAULTS, ids=[fault for fault, _ in FAULTS])
def test_faults(message: str, operations: tuple[Operation, ...]) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        Program(CLASSES, SIZE, operations)
    assert "\n" not in str(caught.value)


def test_sums_that_32_bits_may_not_hold() -> None:
    weights = Weights((1, 1, 1, 1 << 15), 8, np.zeros((8, 1 << 12), np.uint8))
    operations = (Pixels(8, (1 << 15, 1, 1)), Convolution(0, weights), head(1, 1))
    with pytest.raises(ModelError, match="sums of up to 2,130,739,200 are too large"):
        Program(("a",), (1 << 15, 1, 1), operations)


def test_weights_need_their_bytes() -> None:
    with pytest.raises(ModelError, match="need 2 planes of 3 bytes"):
        Weights((3, 1, 1, 7), 2, np.zeros((1, 3), np.uint8))
    with pytest.raises(ModelError, match="cannot be"):
        Weights((1 << 20, 1 << 10, 1 << 10, 7), 1, np.zeros((1, 3), np.uint8))


def test_what_is_made_is_known() -> None:
    program = one_layer(size=(3, 8, 8), outputs=40, kernel=3, padding=1, stride=2, pixel_bits=8, pool=(2, 2))
    assert program.values[1] == Value("sums", (40, 4, 4), bound=27 * 255)
    assert program.values[3] == Value("codes", (40, 2, 2), 1, 1)
    assert program.exact
    assert not residual().exact


def long_chain(operations: int, size: tuple[int, int, int]) -> Program:
    """Relu after Relu, and one logit."""
    mean, std = np.zeros(size[0], np.float32), np.ones(size[0], np.float32)
    relus = [Relu(place) for place in range(operations)]
    return Program(("a",), size, (FloatPixels(size, mean, std), *relus, SumPool(operations)))


def test_checking_a_program_takes_time_in_proportion_to_its_operations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each operation is asked for what it reads a few times, not once for every other operation."""
    asked = 0

    def counted(operation: Operation) -> tuple[int, ...]:
        nonlocal asked
        asked += 1
        return sources(operation)

    monkeypatch.setattr("tersa.binary.program.sources", counted)
    made = long_chain(1000, (1, 2, 2))
    assert asked < 10 * 1002
    assert made.readers(500) == [501]
    assert made.readers(1001) == []


def test_an_addition_of_a_value_to_itself_reads_it_once() -> None:
    mean = np.zeros(1, np.float32)
    made = Program(("a",), (1, 1, 1), (FloatPixels((1, 1, 1), mean, mean + 1), Add(0, 0)))
    assert made.readers(0) == [1]


@pytest.mark.parametrize(("kernel", "padding"), [((1, 9), 8), ((9, 1), 1), ((3, 3), 3)])
def test_padding_is_below_each_side_of_the_kernel(kernel: tuple[int, int], padding: int) -> None:
    weights = Weights.of(np.ones((1, *kernel, 1), np.int8), 1)
    with pytest.raises(ModelError, match=r"a padding below the kernel's"):
        Program(("a",), (1, 9, 9), (Pixels(8, (1, 9, 9)), Convolution(0, weights, 32, padding), head(1, 1)))


def test_a_padded_value_is_bounded() -> None:
    weights = Weights.of(np.ones((1, 3000, 3000, 1), np.int8), 1)
    with pytest.raises(ModelError, match=r"at most 16,777,216 values with their padding, not 35,988,001"):
        Program(("a",), (1, 1, 1), (Pixels(8, (1, 1, 1)), Convolution(0, weights, 9999, 2999), head(1, 1)))


def test_the_buffers_of_one_image_are_bounded_before_they_are_made() -> None:
    with pytest.raises(ModelError, match=r"needs 738,197,508 bytes of buffers for one image; at most"):
        Runner(long_chain(10, (1, 4096, 4096)))


def test_float_weights_of_few_bits_are_bounded_before_they_are_unpacked() -> None:
    """8 MB on disk would be 268,435,460 bytes of floats."""
    size = (1 << 22) + 1
    planes = np.zeros((1, -(-16 * size // 8)), np.uint8)
    operations: tuple[Operation, ...] = (
        FloatPixels((size, 1, 1), np.zeros(size, np.float32), np.ones(size, np.float32)),
        FloatConvolution(0, Weights((16, 1, 1, size), 1, planes)),
    )
    program = Program(tuple("abcdefghijklmnop"), (size, 1, 1), operations)
    with pytest.raises(ModelError, match=r"would take 268,435,520 bytes unpacked; at most 268,435,456"):
        Runner(program)


def test_many_buffers_make_small_batches() -> None:
    """60 values of 2^20 floats, 252 MB for an image: two images at once."""
    runner = Runner(long_chain(60, (1, 1024, 1024)))
    assert runner._most == 2  # pyright: ignore[reportPrivateUsage] - what it holds cannot be seen otherwise
