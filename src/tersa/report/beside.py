"""What stands beside a result: the same sizes from scratch, bytes without zeros, the entropy-coded file.

Example:
    >>> from tersa.records.results import Twin
    >>> twin = Twin(test_accuracy=97.2, validation_accuracy=97.0, loss_points=2.2, epochs=6, seconds=9.0)
    >>> scratch_words(twin, 0.83)
    'The same sizes trained from scratch (6 epochs) reach 97.20 %: 2.20 points lost, 0.83 points lost by ...'
"""

from __future__ import annotations

from tersa.records.results import CodedFile, ShrinkResult, SparseSize, Twin
from tersa.report.numbers import SAME_BELOW, count, percent, plural, points, size, times


def beside(result: ShrinkResult) -> list[tuple[str, str]]:
    """(name, sentence) of each thing that was made or counted beside the result."""
    found: list[tuple[str, str]] = []
    if result.scratch:
        found.append(("from scratch", scratch_words(result.scratch, result.loss_points)))
    if result.sparse:
        found.append(("without zeros", sparse_words(result.sparse)))
    if result.coded:
        found.append(("coded file", coded_words(result.coded)))
    return found


def scratch_words(twin: Twin, lost: float) -> str:
    """What pruning is worth against training the small network."""
    return (
        f"The same sizes trained from scratch ({plural(twin.epochs, 'epoch')}) reach "
        f"{percent(twin.test_accuracy)}: {_moved(twin.loss_points)}, {_moved(lost)} by pruning."
    )


def _moved(loss: float) -> str:
    """Points lost, or gained.

    >>> _moved(0.5), _moved(-0.5)
    ('0.50 points lost', '0.50 points gained')
    """
    return f"{points(loss)} lost" if loss >= 0 else f"{points(-loss)} gained"


def sparse_words(sparse: SparseSize) -> str:
    """What the zeros save on disk, and what they do not."""
    ratio = sparse.dense_bytes / max(1, sparse.smallest_bytes)
    saved = f"{times(ratio)} times smaller" if ratio >= SAME_BELOW else "no smaller"
    return (
        f"{count(sparse.zeros)} of {count(sparse.values)} values are zero; in sparse form they take "
        f"{size(sparse.smallest_bytes)} on disk, {saved} than {size(sparse.dense_bytes)}. The ONNX file "
        "stores the zeros and computes with them: it is neither smaller nor faster."
    )


def coded_words(coded: CodedFile) -> str:
    """Size, accuracy and exactness of the entropy-coded file."""
    exact = (
        "what it decodes to gives the very same logits on every test image"
        if coded.same == coded.images
        else f"what it decodes to gives other logits on {plural(coded.images - coded.same, 'image')}"
    )
    missed = "" if coded.floor_met else f" No coding kept {percent(coded.floor or 0.0)} on validation."
    return (
        f"{coded.file}: {count(coded.size_bytes)} bytes, {times(coded.ratio)} times smaller than the "
        f"baseline's weights at 32 bits; {coded.bits}-bit weights, {percent(coded.test_accuracy)} on test "
        f"({_moved(coded.loss_points)}); {exact}.{missed}"
    )
