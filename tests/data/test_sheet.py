"""Pictures show the stored values, enlarged without smoothing."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tersa.data import Task, load
from tersa.data.sheet import PAPER, contact_sheet, png


@pytest.fixture(scope="module")
def digits() -> Task:
    return load("digits")


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=("PNG",))


def test_bytes_are_shown_as_they_are() -> None:
    values = torch.arange(24, dtype=torch.uint8).view(1, 4, 6) * 10
    picture = opened(png(values))
    assert (picture.mode, picture.size) == ("L", (6, 4))
    np.testing.assert_array_equal(np.asarray(picture), values[0].numpy())


def test_colour_is_colour() -> None:
    values = (torch.arange(72) * 3).to(torch.uint8).view(3, 4, 6)
    picture = opened(png(values))
    assert picture.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(picture), values.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("channels", [2, 4, 16])
def test_of_other_channels_the_first_is_shown(channels: int) -> None:
    values = (torch.arange(channels * 6) * 2).to(torch.uint8).view(channels, 2, 3)
    np.testing.assert_array_equal(np.asarray(opened(png(values))), values[0].numpy())


def test_enlarging_repeats_pixels() -> None:
    values = torch.tensor([[[0, 255]]], dtype=torch.uint8)
    np.testing.assert_array_equal(np.asarray(opened(png(values, scale=3))), [[0, 0, 0, 255, 255, 255]] * 3)


@pytest.mark.parametrize(
    ("values", "levels"),
    [([0.0, 0.5, 1.0], [0, 128, 255]), ([-4.0, 0.0, 4.0], [0, 128, 255]), ([7.0, 7.0, 7.0], [0, 0, 0])],
)
def test_floats_are_pixels_or_stretched(values: list[float], levels: list[int]) -> None:
    assert np.asarray(opened(png(torch.tensor(values).view(1, 1, 3))))[0].tolist() == levels


@pytest.mark.parametrize(("image", "scale"), [(torch.zeros(4, 4), 1), (torch.zeros(1, 4, 4), 0)])
def test_what_is_no_image_is_refused(image: torch.Tensor, scale: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        png(image, scale)


def test_a_sheet_shows_every_class_and_is_repeatable(digits: Task) -> None:
    sheet = contact_sheet(digits, 10, 6, seed=1)
    assert sheet == contact_sheet(digits, 10, 6, seed=1)
    assert sheet != contact_sheet(digits, 10, 6, seed=2)
    picture = opened(sheet)
    pixels = np.asarray(picture)
    dark_rows = (pixels == 0).all(axis=2).any(axis=1)  # digits have a black ground, paper is white
    assert int((np.diff(dark_rows.astype(int)) == 1).sum()) == 10
    dark_columns = (pixels == 0).all(axis=2).any(axis=0)
    assert int((np.diff(dark_columns.astype(int)) == 1).sum()) >= 6
    assert tuple(pixels[0, 0]) == PAPER


def test_a_sheet_holds_the_stored_pixels(digits: Task) -> None:
    sheet = np.asarray(opened(contact_sheet(digits, 1, 1)).convert("L"))
    zeros = digits.train.images[digits.train.labels == 0]
    stored = (zeros[:, 0] * 255).round().to(torch.uint8).numpy()  # (N, 8, 8)
    shown = sheet[12 : 12 + 56 : 7, sheet.shape[1] - 12 - 4 - 56 : sheet.shape[1] - 16 : 7]
    assert any((shown == one).all() for one in stored)


def test_more_classes_than_rows_are_spread_and_few_images_leave_gaps(digits: Task) -> None:
    few = replace(digits, train=digits.train.take(slice(0, 12)))
    picture = opened(contact_sheet(few, 3, 50))
    assert picture.size[1] < opened(contact_sheet(few, 10, 50)).size[1]


def test_odd_class_names_can_be_drawn(digits: Task) -> None:
    named = replace(digits, classes=("猫", "ß" * 80, *digits.classes[2:]))
    assert opened(contact_sheet(named, 10, 2)).size[0] < 600


def test_features_and_large_images(digits: Task) -> None:
    features = digits.train.images.view(-1, 1, 1, 64) * 9 - 3
    assert (
        opened(contact_sheet(replace(digits, train=replace(digits.train, images=features)), 10, 3)).size[0]
        > 190
    )
    large = torch.zeros(1150, 3, 64, 64, dtype=torch.uint8)
    assert (
        opened(contact_sheet(replace(digits, train=replace(digits.train, images=large)), 2, 2)).size[1] > 128
    )


@pytest.mark.parametrize(("rows", "columns"), [(0, 3), (3, 0)])
def test_an_empty_sheet_is_refused(digits: Task, rows: int, columns: int) -> None:
    with pytest.raises(ValueError, match="both must be 1 or more"):
        contact_sheet(digits, rows, columns)
