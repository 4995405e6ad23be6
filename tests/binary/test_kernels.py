"""The compiled kernels against the readable reference, bit for bit, over odd shapes and every width."""

import math
import os
import platform
import subprocess
import sys

import llvmlite.binding as llvm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.binary.programs import CLASSES, images, one_layer, residual

from tersa.binary import columns, layout, lowering, reference, step_table
from tersa.binary.lookups import LOOKUPS
from tersa.binary.lowering import FEWEST_USES, Lowered, form_read, looked_up
from tersa.binary.program import (
    Affine,
    Convolution,
    FloatConvolution,
    MaxPool,
    Pixels,
    Program,
    Relu,
    SumPool,
    Threshold,
    Weights,
)  # fmt: skip
from tersa.binary.runtime import LARGEST_BATCH, Runner
from tersa.binary.step_table import Table
from tersa.binary.vectors import BYTE_PRODUCTS
from tersa.errors import ModelError, UsageError


def agree(program: Program, count: int = 2, threads: int = 1) -> None:
    """The same bits from both, and not the same for every image."""
    pixels = images(program.shape, count)
    found = Runner(program, threads)(pixels)
    assert np.array_equal(found, reference.run(program, pixels))
    assert found.shape == (count, len(program.classes))


@settings(max_examples=60, deadline=None)
@given(
    channels=st.sampled_from([1, 2, 3, 5, 31, 33, 64, 65, 130]),
    outputs=st.sampled_from([1, 3, 31, 32, 33, 64, 70]),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 2),
    padded=st.booleans(),
    sides=st.tuples(st.integers(5, 9), st.integers(5, 8)),
    bits=st.tuples(st.integers(1, 4), st.integers(0, 4), st.integers(1, 3)),
    pool=st.sampled_from([None, (2, 2), (3, 3), (2, 1), (3, 2)]),
    count=st.sampled_from([1, 2, 7]),
    seed=st.integers(0, 9),
)
def test_layers_of_every_shape(
    channels, outputs, kernel, stride, padded, sides, bits, pool, count, seed
) -> None:
    padding = kernel // 2 if padded else 0
    smallest = (min(sides) + 2 * padding - kernel) // stride + 1
    if pool is not None and pool[0] > smallest:
        pool = None
    program = one_layer(
        size=(channels, *sides), outputs=outputs, kernel=kernel, stride=stride, padding=padding,
        pixel_bits=bits[0], weight_bits=bits[1], code_bits=bits[2], pool=pool, seed=seed,
    )  # fmt: skip
    agree(program, count)


@pytest.mark.parametrize("weight_bits", [0, 1, 2, 3, 4, 8])
@pytest.mark.parametrize("pixel_bits", [1, 2, 8])
def test_all_forms_are_covered(monkeypatch, weight_bits: int, pixel_bits: int) -> None:
    """128 channels of few bits go in words, 3 channels as bytes, many bits as 16-bit integers."""
    wide = one_layer(
        size=(128, 5, 5), outputs=40, kernel=3, padding=1, pixel_bits=pixel_bits, weight_bits=weight_bits
    )
    thin = one_layer(
        size=(3, 6, 6), outputs=40, kernel=3, padding=1, pixel_bits=pixel_bits, weight_bits=weight_bits
    )
    large = weight_bits == 8 or (pixel_bits == 8 and weight_bits == 4)
    assert form_read(thin, 1) == ("bytes" if BYTE_PRODUCTS and not large else "shorts")
    if pixel_bits == 1 and weight_bits <= 2:
        assert form_read(wide, 1) == "words"
    agree(wide)
    agree(thin)
    monkeypatch.setattr(lowering, "BYTE_PRODUCTS", False)
    assert form_read(thin, 1) == "shorts"
    agree(thin)


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 5, 6, 7, 9])
@pytest.mark.parametrize(
    ("kernel", "padding", "size"), [(3, 1, 4), (5, 4, 3), (3, 2, 2), (3, 0, 5), (1, 0, 3)]
)
def test_any_number_of_groups_with_any_border(groups: int, kernel: int, padding: int, size: int) -> None:
    """Groups of 32 channels go by four, two and one; rows of the kernel outside the map are left out."""
    program = one_layer(
        size=(65, size, size + 1), outputs=32 * groups - 3, kernel=kernel, padding=padding, seed=groups
    )
    assert not LOOKUPS or looked_up(program, 1) == (kernel > 1 or groups >= FEWEST_USES)
    for threads in (1, 2):
        agree(program, 3, threads)


@pytest.mark.parametrize("weight_bits", [1, 2, 3])
def test_planes_of_many_groups(weight_bits: int) -> None:
    """Sums of several planes are shifted while they are counted, those of skipped rows as well."""
    program = one_layer(
        size=(64, 3, 5), outputs=7 * 32, kernel=3, padding=1, code_bits=2, weight_bits=weight_bits
    )
    agree(program, 2)


def test_the_largest_sums_of_bytes() -> None:
    """White and black images, weights that all agree: nothing is lost in 16 bits at the very bound."""
    for rows, side in ((8, 32), (9, 25), (64, 3), (13, 20)):  # 64, 63, 64 and 65 times four taps
        ones = Weights.of(np.ones((1, rows, side, 1), np.int64), 1)
        shape = (1, rows, side)
        head = Affine(1, np.ones(1, np.float32), np.zeros(1, np.float32))
        program = Program(("a",), shape, (Pixels(8, shape), Convolution(0, ones), head))
        assert form_read(program, 1) == ("bytes" if BYTE_PRODUCTS and rows != 13 else "shorts")
        for value in (0, 255):
            pixels = np.full((5, *shape), value, np.uint8)
            assert np.array_equal(Runner(program)(pixels), reference.run(program, pixels))


def test_a_pooling_of_signs_is_part_of_the_convolution() -> None:
    fused = Lowered(one_layer(size=(64, 8, 8), outputs=64, kernel=3, padding=1, pool=(2, 2)))
    assert [made for made, _ in fused.steps] == [0, 3, 5]
    apart = Lowered(one_layer(size=(64, 8, 8), outputs=64, kernel=3, padding=1, pool=(2, 2), code_bits=2))
    assert [made for made, _ in apart.steps] == [0, 2, 3, 5]


@pytest.mark.parametrize("value", [0, 255])
def test_images_of_one_colour_only(value: int) -> None:
    program = one_layer(size=(65, 6, 6), outputs=33, kernel=3, padding=1, pool=(2, 2))
    pixels = np.full((2, 65, 6, 6), value, np.uint8)
    assert np.array_equal(Runner(program)(pixels), reference.run(program, pixels))


def test_borders_count_zero() -> None:
    """A 3x3 kernel of ones on a 1x1 map of ones sums to 1 per channel: eight taps lie outside."""
    ones = Weights.of(np.ones((1, 3, 3, 70), np.int64), 1)
    head = Affine(1, np.ones(1, np.float32), np.zeros(1, np.float32))
    program = Program(("a",), (70, 1, 1), (Pixels(1, (70, 1, 1)), Convolution(0, ones, 1, 1), head))
    assert form_read(program, 1) == "words"
    assert Runner(program)(np.full((1, 70, 1, 1), 255, np.uint8)).tolist() == [[70.0]]
    assert Runner(program)(np.full((1, 70, 1, 1), 0, np.uint8)).tolist() == [[-70.0]]


def test_the_maximum_of_codes_goes_channel_by_channel() -> None:
    rng = np.random.default_rng(0)
    identity = Weights.of(np.where(np.eye(66, dtype=np.int64) > 0, 1, -1).reshape(66, 1, 1, 66), 1)
    table = np.sort(rng.integers(-66, 66, (66, 7)), axis=1).astype(np.int32)
    last = Weights.of(2 * rng.integers(0, 2, (5, 3, 3, 66)) - 1, 1)
    head = Affine(4, np.ones(5, np.float32), np.zeros(5, np.float32))
    operations = (
        Pixels(1, (66, 7, 7)), Convolution(0, identity), Threshold(1, table), MaxPool(2, 3, 2),
        Convolution(3, last), head,
    )  # fmt: skip
    agree(Program(CLASSES, (66, 7, 7), operations), 3)


@pytest.mark.parametrize("code_bits", [1, 2, 3])
def test_real_shortcuts_and_float_layers(code_bits: int) -> None:
    for seed in range(3):
        agree(residual(seed, code_bits), 3)


@pytest.mark.parametrize("weight_bits", [0, 1, 3])
def test_integer_weights_that_meet_floats(weight_bits: int) -> None:
    agree(residual(2, weight_bits=weight_bits), 3)


def test_two_threads_give_the_bits_of_one() -> None:
    program = one_layer(size=(3, 17, 13), outputs=70, kernel=3, padding=1, pixel_bits=8, pool=(2, 2))
    pixels = images(program.shape, 5)
    assert np.array_equal(Runner(program, 2)(pixels), Runner(program)(pixels))
    mixed = residual()
    pixels = images(mixed.shape, 5)
    assert np.array_equal(Runner(mixed, 2)(pixels), Runner(mixed)(pixels))


def test_large_batches_go_in_parts_and_buffers_are_used_again() -> None:
    runner = Runner(one_layer(size=(3, 6, 6), outputs=40, kernel=3, pixel_bits=8, pool=(2, 2)))
    pixels = images((3, 6, 6), 2 * LARGEST_BATCH + 3)
    together = runner(pixels)
    assert np.array_equal(together, np.concatenate([runner(pixels[i : i + 1]) for i in range(len(pixels))]))
    assert np.array_equal(together[:5], runner(pixels[:5]))
    assert runner(pixels[:0]).shape == (0, len(CLASSES))


def test_floats_are_taken_to_the_nearest_byte() -> None:
    runner = Runner(one_layer(size=(3, 6, 6), outputs=40, kernel=3, pixel_bits=8))
    pixels = images((3, 6, 6), 4)
    floats = (pixels / np.float32(255)).astype(np.float32)
    assert np.array_equal(runner(floats), runner(pixels))
    assert np.array_equal(runner(floats + np.float32(0.4 / 255)), runner(pixels))
    outside = np.where(floats > 0.5, np.float32(7), np.float32(-7))
    assert np.array_equal(runner(outside), runner(np.where(floats > 0.5, 255, 0).astype(np.uint8)))


@pytest.mark.parametrize("filling", [0xAA, 0x55])
@pytest.mark.parametrize(
    ("size", "more"),
    [
        ((64, 9, 7), {"padding": 1, "pool": (2, 2)}),
        ((130, 5, 5), {"kernel": 5, "padding": 4, "pool": (3, 3)}),
        ((65, 3, 2), {"kernel": 4, "padding": 3, "pixel_bits": 2, "weight_bits": 2, "code_bits": 2}),
        ((64, 1, 9), {"padding": 1}),
        ((64, 7, 8), {"stride": 2, "pool": (2, 2)}),
        ((3, 9, 7), {"padding": 2, "pixel_bits": 8}),
    ],
)
def test_nothing_outside_buffers_matters_or_changes(monkeypatch, filling: int, size, more) -> None:
    kept: list[tuple[np.ndarray, int, int]] = []

    def guarded(shape, dtype, slack=0):
        """As `layout.aligned`, with 4096 bytes before and behind that hold something."""
        kind = np.dtype(dtype)
        count = math.prod(shape) * kind.itemsize
        raw = np.full(count + 2 * 4096 + 64, filling, np.uint8)
        start = -raw.ctypes.data % 64 + 4096
        raw[start : start + count] = 0
        kept.append((raw, start, start + count))
        return raw[start : start + count].view(kind).reshape(shape)

    monkeypatch.setattr(layout, "aligned", guarded)
    monkeypatch.setattr(step_table, "aligned", guarded)
    agree(one_layer(**({"size": size, "outputs": 96, "kernel": 3} | more)), 5)
    assert len(kept) > 5
    for raw, start, end in kept:
        assert (raw[:start] == filling).all()
        assert (raw[end:] == filling).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_batches_that_are_more_than_tables_have_room_for(threads: int) -> None:
    program = one_layer(size=(64, 16, 15), outputs=70, kernel=3, padding=1, pool=(2, 2))
    agree(program, 30, threads)
    parts = [images(program.shape, 30)[i : i + 1] for i in range(30)]
    alone = Runner(program)
    found = np.concatenate([alone(part) for part in parts])
    assert np.array_equal(found, Runner(program, threads)(images(program.shape, 30)))


@pytest.mark.parametrize(
    ("expected", "changes"),
    [
        (True, {}),
        (True, {"outputs": 32}),
        (True, {"pixel_bits": 2, "weight_bits": 2}),
        (False, {"stride": 2}),
        (False, {"kernel": 1, "padding": 0}),  # 64 outputs: too few uses of a table
        (False, {"weight_bits": 0}),
        (False, {"size": (64, 8, 1), "padding": 1}),
        (False, {"size": (3, 8, 8)}),  # 16-bit integers are cheaper
        (False, {"size": (1024, 6, 6), "pixel_bits": 4, "weight_bits": 3}),  # counts beyond 16 bits
    ],
)
def test_products_are_looked_up_where_tables_pay(monkeypatch, expected: bool, changes: dict) -> None:
    monkeypatch.setattr(lowering, "LOOKUPS", True)
    usual = {"size": (64, 8, 8), "outputs": 64, "kernel": 3, "padding": 1}
    program = one_layer(**(usual | changes))
    assert looked_up(program, 1) is expected
    monkeypatch.setattr(lowering, "MOST_TABLES", 1000)
    assert not looked_up(program, 1)
    monkeypatch.undo()
    assert looked_up(program, 1) is (expected and LOOKUPS)


def test_what_takes_long_wakes_other_threads() -> None:
    """A mean of large maps reads much and writes little."""
    rng = np.random.default_rng(0)
    first = Weights.of(2 * rng.integers(0, 2, (64, 1, 1, 8)) - 1, 1)
    head = FloatConvolution(4, rng.normal(size=(5, 1, 1, 64)).astype(np.float32))
    shape = (8, 64, 64)
    middle = (Affine(1, np.ones(64, np.float32), np.zeros(64, np.float32)), Relu(2), SumPool(3))
    program = Program(CLASSES, shape, (Pixels(1, shape), Convolution(0, first), *middle, head))
    table = Table(Lowered(program), 8, 2)
    assert [names[-1] for names in table.names] == [0, 2, 3, 4, 5]
    assert [bool(rows[-1, columns.SMALL]) for rows in table.steps] == [False, False, False, False, True]
    agree(program, 8, 2)


def test_tables_refuse_no_image(monkeypatch) -> None:
    """They are left out of what one image may take: a file runs with them, or without."""
    monkeypatch.setattr(lowering, "LOOKUPS", True)
    program = one_layer(size=(64, 8, 8), outputs=64, kernel=3, padding=1)
    with_tables = Lowered(program)
    monkeypatch.setattr(lowering, "MOST_BYTES", with_tables.image_bytes - 1)
    assert with_tables.tables
    Lowered(program)


def test_the_steps_of_a_batch_are_all_its_rows() -> None:
    runner = Runner(one_layer(size=(64, 16, 16), outputs=64, kernel=3, padding=1, pool=(2, 2)))
    table = runner.table(30)
    assert len(table.steps) == len(table.names)
    assert np.array_equal(np.concatenate(table.steps), table.rows)


@pytest.mark.slow
@pytest.mark.parametrize("without", ["avx512", "avx"])
def test_processors_with_less_give_the_same_bits(without: str) -> None:
    """All of this file again in a process whose kernels know AVX2 at most, or no AVX at all."""
    if "PYTEST_HELD" in os.environ or platform.machine() != "x86_64":
        pytest.skip("held already, or another architecture")
    host = llvm.get_host_cpu_features()
    features = ",".join(
        f"{'+' if on and not name.startswith(without) else '-'}{name}" for name, on in host.items()
    )
    environ = os.environ | {
        "NUMBA_CPU_NAME": "x86-64",
        "NUMBA_CPU_FEATURES": features,
        "PYTEST_HELD": without,
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def test_wrong_images_and_threads_are_refused() -> None:
    runner = Runner(one_layer(size=(3, 6, 6), outputs=40, kernel=3))
    with pytest.raises(ModelError, match=r"takes images \(3, 6, 6\), got \(3, 6, 5\)"):
        runner(np.zeros((1, 3, 6, 5), np.uint8))
    with pytest.raises(ModelError, match="not float64"):
        runner(np.zeros((1, 3, 6, 6)))
    with pytest.raises(UsageError, match="threads are 1 to"):
        Runner(runner.program, 10_000)
