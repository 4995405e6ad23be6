"""The gather is the loop over images, written at once for the batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tersa.data import Provenance, Split, Task, load
from tersa.data.augment import NONE, Augmentation, augment, default_augmentation


def batch(n: int = 64, c: int = 3, h: int = 6, w: int = 5) -> Tensor:
    return torch.sin(torch.arange(float(n * c * h * w))).view(n, c, h, w)


def one_by_one(images: Tensor, generator: torch.Generator, *, flip: bool, pad: int) -> Tensor:
    """The readable twin: draws the same numbers in the same order, then loops."""
    n, _, h, w = images.shape
    mirrored = torch.randint(2, (n,), generator=generator) if flip else torch.zeros(n, dtype=torch.int64)
    tops = torch.randint(2 * pad + 1, (n,), generator=generator) if pad else torch.zeros(n, dtype=torch.int64)
    lefts = (
        torch.randint(2 * pad + 1, (n,), generator=generator) if pad else torch.zeros(n, dtype=torch.int64)
    )
    result = torch.empty_like(images)
    for i in range(n):
        padded = torch.nn.functional.pad(images[i], (pad, pad, pad, pad))
        crop = padded[:, tops[i] : tops[i] + h, lefts[i] : lefts[i] + w]
        result[i] = crop.flip(2) if mirrored[i] else crop
    return result


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("pad", [0, 1, 2, 4, 7])
@pytest.mark.parametrize("shape", [(64, 3, 6, 5), (1, 1, 1, 1), (7, 2, 1, 9)])
def test_the_batch_is_what_a_loop_makes(shape: tuple[int, int, int, int], pad: int, flip: bool) -> None:
    images = batch(*shape)
    got = augment(images, torch.Generator().manual_seed(5), flip=flip, pad=pad)
    expected = one_by_one(images, torch.Generator().manual_seed(5), flip=flip, pad=pad)
    assert torch.equal(got, expected)
    assert got.shape == images.shape
    assert got.dtype == images.dtype


def test_the_input_is_left_alone() -> None:
    images = batch()
    before = images.clone()
    augment(images, torch.Generator().manual_seed(0), flip=True, pad=2)
    assert torch.equal(images, before)


def test_nothing_to_do_draws_nothing() -> None:
    images, generator = batch(), torch.Generator().manual_seed(0)
    state = generator.get_state()
    assert augment(images, generator, flip=False, pad=0) is images
    assert torch.equal(generator.get_state(), state)


def test_about_half_are_mirrored_and_the_rest_untouched() -> None:
    images = batch(n=1000)
    got = augment(images, torch.Generator().manual_seed(0), flip=True, pad=0)
    mirrored = (got == images.flip(3)).flatten(1).all(1)
    untouched = (got == images).flatten(1).all(1)
    assert (mirrored ^ untouched).all()
    assert 437 <= int(mirrored.sum()) <= 563  # four standard deviations of a fair coin


def test_every_shift_occurs_and_pads_with_zeros() -> None:
    images = torch.ones(500, 1, 4, 4)
    got = augment(images, torch.Generator().manual_seed(0), flip=False, pad=2)
    assert set(got.unique().tolist()) == {0.0, 1.0}
    shown = got.sum((1, 2, 3))
    assert set(shown.tolist()) == {a * b * 1.0 for a in (2, 3, 4) for b in (2, 3, 4)}


def test_the_same_seed_gives_the_same_and_another_does_not() -> None:
    images = batch()
    first, again, other = (
        augment(images, torch.Generator().manual_seed(s), flip=True, pad=2) for s in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_batch_that_is_a_view_is_read_rightly() -> None:
    images = batch(64, 3, 6, 5).transpose(2, 3)
    got = augment(images, torch.Generator().manual_seed(5), flip=True, pad=0)
    assert torch.equal(got, one_by_one(images, torch.Generator().manual_seed(5), flip=True, pad=0))


def test_negative_pad_is_refused() -> None:
    with pytest.raises(ValueError, match="pad -1; allowed: 0 or more"):
        augment(batch(), torch.Generator(), flip=False, pad=-1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_cpu_generator_gives_the_same_on_a_gpu() -> None:
    images = batch()
    here = augment(images, torch.Generator().manual_seed(3), flip=True, pad=2)
    there = augment(images.cuda(), torch.Generator().manual_seed(3), flip=True, pad=2)
    assert there.is_cuda
    assert torch.equal(there.cpu(), here)
    own = augment(images.cuda(), torch.Generator("cuda").manual_seed(3), flip=True, pad=2)
    assert own.is_cuda


def task(source: str, shape: tuple[int, int, int]) -> Task:
    split = Split(torch.zeros(2, *shape), torch.tensor([0, 1]))
    return Task("t", split, split, split, ("a", "b"), (0.0,), (1.0,), Provenance(source, "", {}))


@pytest.mark.parametrize(
    ("source", "shape", "expected"),
    [
        ("digits", (1, 8, 8), NONE),
        ("mnist", (1, 28, 28), Augmentation(pad=2)),
        ("fashion-mnist", (1, 28, 28), Augmentation(flip=True, pad=2)),
        ("cifar-10", (3, 32, 32), Augmentation(flip=True, pad=4)),
        ("folder", (3, 32, 32), NONE),
        ("npz", (1, 1, 784), NONE),
        ("mnist", (1, 1, 784), NONE),
    ],
)
def test_defaults(source: str, shape: tuple[int, int, int], expected: Augmentation) -> None:
    assert default_augmentation(task(source, shape)) == expected


def test_a_renamed_task_keeps_its_augmentation() -> None:
    digits = load("digits")
    assert default_augmentation(replace(digits, name="cifar-10")).nothing
