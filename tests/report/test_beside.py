"""What stands beside a result is said in whole sentences that are true."""

from __future__ import annotations

import pytest
from example import example

from tersa.records.results import CodedFile, SparseSize, Twin
from tersa.report.beside import beside, coded_words, scratch_words, sparse_words
from tersa.report.page import render
from tersa.report.verdict import summary

TWIN = Twin(test_accuracy=97.2, validation_accuracy=97.0, loss_points=2.2, epochs=6, seconds=9.0)
SPARSE = SparseSize(
    zeros=90_000, values=100_000, dense_bytes=400_000, smallest_bytes=52_000, forms={"fc.weight": "bitmap"}
)
CODED = CodedFile(
    file="model.coded",
    bits=4,
    size_bytes=1_234,
    ratio=1_060.4,
    test_accuracy=99.02,
    loss_points=0.21,
    same=10_000,
    images=10_000,
    parts={"header": 200, "codes": 1_034},
)


def test_nothing_is_said_of_what_was_not_made() -> None:
    assert beside(example()) == []


def test_everything_has_a_name_and_a_sentence() -> None:
    found = beside(example(scratch=TWIN, sparse=SPARSE, coded=CODED, loss_points=0.83))
    assert [name for name, _ in found] == ["from scratch", "without zeros", "coded file"]
    assert [text for _, text in found] == [
        scratch_words(TWIN, 0.83),
        sparse_words(SPARSE),
        coded_words(CODED),
    ]
    assert all(text.endswith(".") for _, text in found)


def test_one_epoch_is_one_epoch() -> None:
    assert "(1 epoch)" in scratch_words(TWIN.model_copy(update={"epochs": 1}), 0.0)
    assert "(1,200 epochs)" in scratch_words(TWIN.model_copy(update={"epochs": 1200}), 0.0)


def test_zeros_are_counted_and_the_onnx_file_is_not_said_to_be_smaller() -> None:
    assert sparse_words(SPARSE) == (
        "90,000 of 100,000 values are zero; in sparse form they take 52.0 kB on disk, 8 times smaller than "
        "400 kB. The ONNX file stores the zeros and computes with them: it is neither smaller nor faster."
    )


@pytest.mark.parametrize("stored", [400_000, 390_000, 410_000])
def test_too_few_zeros_save_nothing(stored: int) -> None:
    words = sparse_words(SPARSE.model_copy(update={"smallest_bytes": stored}))
    assert "on disk, no smaller than 400 kB" in words


def test_a_coded_file_says_its_size_accuracy_and_exactness() -> None:
    assert coded_words(CODED) == (
        "model.coded: 1,234 bytes, 1,060 times smaller than the baseline's weights at 32 bits; 4-bit "
        "weights, 99.02 % on test (0.21 points lost); what it decodes to gives the very same logits on "
        "every test image."
    )


@pytest.mark.parametrize(("same", "words"), [(9_999, "on 1 image."), (9_000, "on 1,000 images.")])
def test_a_decoder_that_differs_is_said(same: int, words: str) -> None:
    found = coded_words(CODED.model_copy(update={"same": same}))
    assert "very same" not in found
    assert found.endswith(f"what it decodes to gives other logits {words}")


def test_the_page_shows_it() -> None:
    page = render(example(scratch=TWIN, sparse=SPARSE, coded=CODED))
    for word in ("trained from scratch", "values are zero", "model.coded"):
        assert word in page
    assert "trained from scratch" not in render(example())


def test_a_headline_on_zeros_speaks_of_weights() -> None:
    assert "fewer weights" in summary(example(sparse=SPARSE))
    assert "smaller" not in summary(example(sparse=SPARSE))
