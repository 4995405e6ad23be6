"""Named arrays: every accepted name and layout, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tersa.data import load, npz
from tersa.errors import DataError, UsageError

Pattern = Callable[..., np.ndarray]


def labels(n: int, k: int = 2) -> np.ndarray:
    return np.arange(n) % k


def write(path: Path, **arrays: np.ndarray) -> str:
    np.savez(path, **arrays)
    return str(path)


NAMES = [
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("x_train", "y_train", "x_test", "y_test"),
    ("X_train", "Y_train", "X_test", "Y_test"),
    ("train_x", "train_y", "test_x", "test_y"),
]


@pytest.mark.parametrize("names", NAMES)
def test_every_spelling_is_understood(tmp_path: Path, pattern: Pattern, names: tuple[str, ...]) -> None:
    arrays = (pattern(20, 5, 4), labels(20), pattern(6, 5, 4, seed=1), labels(6))
    task = load(write(tmp_path / "a.npz", **dict(zip(names, arrays, strict=True))))
    assert task.shape == (1, 5, 4)
    assert (len(task.train), len(task.validation), len(task.test)) == (16, 4, 6)
    np.testing.assert_array_equal(task.test.images[:, 0].numpy(), arrays[2])
    assert task.classes == ("0", "1")


@pytest.mark.parametrize(
    ("x", "y"), [("images", "labels"), ("x", "y"), ("data", "target"), ("features", "targets")]
)
def test_pooled_arrays_are_cut_the_same_way_for_every_seed(
    tmp_path: Path, pattern: Pattern, x: str, y: str
) -> None:
    path = write(tmp_path / "a.npz", **{x: pattern(50, 5, 4), y: labels(50, 5)})
    one, two = load(path, seed=1), load(path, seed=2)
    assert (len(one.train), len(one.validation), len(one.test)) == (32, 8, 10)
    assert torch.equal(one.test.images, two.test.images)
    assert not torch.equal(one.validation.images, two.validation.images)
    assert one.provenance.note == "test is a fixed stratified cut of 20% of train"


def test_a_validation_split_is_kept(tmp_path: Path, pattern: Pattern) -> None:
    path = write(
        tmp_path / "a.npz",
        train_images=pattern(10, 4, 4),
        train_labels=labels(10)[:, None],
        val_images=pattern(4, 4, 4, seed=3),
        val_labels=labels(4)[:, None],
        test_images=pattern(6, 4, 4),
        test_labels=labels(6)[:, None],
    )
    task = load(path)
    assert (len(task.train), len(task.validation), len(task.test)) == (10, 4, 6)
    np.testing.assert_array_equal(task.validation.images[:, 0].numpy(), pattern(4, 4, 4, seed=3))
    with pytest.raises(UsageError, match="validation split of its own"):
        load(path, validation=0.1)


def test_class_names_from_the_file(tmp_path: Path, pattern: Pattern) -> None:
    path = write(tmp_path / "a.npz", x=pattern(20, 4, 4), y=labels(20), classes=np.array(["cat", "dog"]))
    assert load(path).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((6, 5, 4), (1, 5, 4)),
        ((6, 1, 5, 4), (1, 5, 4)),
        ((6, 3, 8, 9), (3, 8, 9)),
        ((6, 8, 9, 3), (3, 8, 9)),
        ((6, 8, 9, 1), (1, 8, 9)),
        ((6, 3, 4, 4), (3, 4, 4)),
        ((6, 4, 4, 3), (3, 4, 4)),
        ((6, 2, 3, 4), (2, 3, 4)),
        ((6, 7), (1, 1, 7)),
    ],
)
def test_layouts(pattern: Pattern, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert npz.layout(pattern(*shape), "x").shape[1:] == expected


def test_channels_last_moves_the_values(pattern: Pattern) -> None:
    given = pattern(2, 8, 9, 3)
    np.testing.assert_array_equal(npz.layout(given, "x")[1, 2, 4, 5], given[1, 4, 5, 2])


@pytest.mark.parametrize(
    ("array", "dtype", "value"),
    [
        (np.full((2, 4, 4), 200, np.uint8), np.uint8, 200),
        (np.full((2, 4, 4), 200, np.int64), np.uint8, 200),
        (np.full((2, 4, 4), True), np.uint8, 255),
        (np.full((2, 4, 4), 0.25, np.float64), np.float32, 0.25),
        (np.full((2, 4, 4), -3.5, np.float16), np.float32, -3.5),
        (np.full((2, 7), 900, np.int32), np.float32, 900.0),
    ],
)
def test_values_keep_their_meaning(array: np.ndarray, dtype: type, value: float) -> None:
    images = npz.layout(array, "x")
    assert images.dtype == dtype
    assert (images == value).all()


def test_features_are_one_row(tmp_path: Path) -> None:
    features = np.sin(np.arange(300.0)).reshape(30, 10)
    task = load(write(tmp_path / "a.npz", x=features, y=labels(30)))
    assert task.shape == (1, 1, 10)
    assert task.train.images.dtype == torch.float32
    assert task.normalise(task.train.images).mean().abs() < 1e-5  # float32 mean of 240 values near 0


GOOD: dict[str, np.ndarray] = {
    "x_train": np.arange(20 * 16, dtype=np.uint8).reshape(20, 4, 4),
    "y_train": labels(20),
    "x_test": np.arange(6 * 16, dtype=np.uint8).reshape(6, 4, 4),
    "y_test": labels(6),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_train": None}, "no labels for x_train; expected train_labels or y_train"),
        ({"x_train": None}, "no train images; found arrays: x_test, y_test, y_train"),
        ({"y_train": labels(19)}, "20 images in x_train but 19 labels in y_train"),
        ({"y_train": labels(20).astype(float)}, "type float64; expected integers"),
        ({"y_train": np.eye(2)[labels(20)]}, r"shape \(20, 2\); expected \(N,\)"),
        ({"y_train": labels(20) - 1}, "label -1 of train image 0; allowed: 0..1"),
        ({"y_train": labels(20) + 1}, "class 0 .* has no train image"),
        ({"y_test": labels(6) + 5}, "class 2 .* has no train image"),
        ({"y_test": labels(6) + 10**9}, "label 1000000001 among 26 images"),
        ({"x_train": np.zeros((20, 4, 4, 4, 4))}, r"shape \(20, 4, 4, 4, 4\); expected"),
        ({"x_train": np.zeros((20, 7, 8, 9))}, "no axis of 1 to 4 channels; transpose"),
        (
            {"x_train": np.zeros((20, 5, 5), np.uint8)},
            r"splits differ in shape or type: train \(1, 5, 5\) uint8",
        ),
        ({"x_train": np.zeros((20, 4, 4))}, "splits differ in shape or type"),
        ({"x_train": np.full((20, 4, 4), np.nan)}, "x_train: NaN or infinity in image 0"),
        ({"x_train": np.full((20, 4, 4), 1e300)}, "NaN or infinity in image 0"),
        ({"x_train": np.full((20, 4, 4), 300)}, "integers 300..300; store bytes"),
        ({"x_train": np.full((20, 4, 4), "a")}, "values of type <U1"),
        ({"x_train": np.zeros((0, 4, 4), np.uint8), "y_train": labels(0)}, r"shape \(0, 4, 4\)"),
        ({"x_train": np.array([{}] * 20)}, "holds Python objects"),
        ({"classes": np.arange(2)}, "classes is int64 .*; expected a list of names"),
        ({"classes": np.array(["only"])}, "label 1 of train image 1; allowed: 0..0"),
    ],
)
def test_wrong_arrays_are_refused_in_one_line(
    tmp_path: Path, change: dict[str, np.ndarray | None], message: str
) -> None:
    arrays = {name: array for name, array in (GOOD | change).items() if array is not None}
    with pytest.raises(DataError, match=message) as caught:
        load(write(tmp_path / "a.npz", **arrays))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"no zip at all", b"\x93NUMPY", b"PK\x03\x04"])
def test_what_is_no_npz_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(DataError, match=r"damaged, or no \.npz file"):
        load(str(tmp_path / "a.npz"))


@pytest.mark.parametrize("offset", [200, 300, 400])  # within the 320 values of x_train
def test_a_flipped_byte_is_noticed(tmp_path: Path, offset: int) -> None:
    path = Path(write(tmp_path / "a.npz", **GOOD))
    data = bytearray(path.read_bytes())
    data[data.index(b"x_train") + offset] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="damaged"):
        load(str(path))


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.npz", **GOOD)
    monkeypatch.setattr(npz, "MAX_TOTAL_BYTES", 100)
    with pytest.raises(DataError, match="bytes when unpacked; allowed: 100"):
        load(path)


def test_too_few_images_for_a_test_cut(tmp_path: Path, pattern: Pattern) -> None:
    with pytest.raises(DataError, match="too few to cut them"):
        load(write(tmp_path / "a.npz", x=pattern(2, 4, 4), y=labels(2)))


def test_a_class_name_that_is_no_text_for_a_terminal_is_refused(tmp_path: Path, pattern: Pattern) -> None:
    names = np.array(["cat", "do\x1b[2Jg"])
    path = write(tmp_path / "a.npz", images=pattern(50, 5, 4), labels=labels(50), classes=names)
    with pytest.raises(DataError, match=r"the class name 'do\\x1b\[2Jg' holds control characters; rename"):
        load(path)
