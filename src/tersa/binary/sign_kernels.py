"""Kernels of `sign_sums`: floats to words of signs, and sums to channels first.

Example:
    >>> are_signs(np.float32([1, -1, 1]).view(np.int32)), are_signs(np.float32([1, 0.5]).view(np.int32))
    (True, False)
"""

# pyright: basic
# numba types what is in here itself.

from __future__ import annotations

import numpy as np
from numba import njit, prange

BLOCK = 64
"""Places that are turned together."""
ONE = 0x3F800000
"""The bits of 1 in float32."""


@njit(cache=True, nogil=True)
def are_signs(bits):
    """Whether all floats are -1 or 1, by their bits."""
    other = np.int32(0)
    for i in range(len(bits)):
        other |= (bits[i] & np.int32(0x7FFFFFFF)) ^ np.int32(ONE)
    return other == 0


@njit
def _read(images, image, halves):
    """The signs of one image as words, in halves of 32 channels; not 0 where a value is neither -1 nor 1."""
    c, places = images.shape[1:]
    rows, columns = halves.shape[1:3]
    word = np.empty(places, np.uint32)
    other = np.int32(0)
    for half in range((c + 31) // 32):
        word[:] = 0
        for channel in range(32 * half, min(32 * half + 32, c)):
            values, place = images[image, channel], np.uint32(channel % 32)
            for i in range(places):
                other |= (values[i] & np.int32(0x7FFFFFFF)) ^ np.int32(ONE)
                word[i] |= (np.uint32(~values[i]) >> np.uint32(31)) << place
        for y in range(rows):
            for x in range(columns):
                halves[image, y, x, half] = word[y * columns + x]
    return other


@njit
def _turned(sums, image, out):
    """Sums of one image, places first, to channels first."""
    places, channels = sums.shape[1:]
    for start in range(0, places, BLOCK):
        stop = min(start + BLOCK, places)
        for channel in range(channels):
            for place in range(start, stop):
                out[image, channel, place] = sums[image, place, channel]


@njit(cache=True, nogil=True)
def read_alone(images, halves):
    """`_read` of all images, on one thread."""
    other = np.int32(0)
    for image in range(len(images)):
        other |= _read(images, image, halves)
    return other


@njit(cache=True, nogil=True, parallel=True)
def read_together(images, halves):
    """`_read` of all images, on all threads."""
    others = np.zeros(len(images), np.int32)
    for image in prange(len(images)):
        others[image] = _read(images, image, halves)
    return others.any()


@njit(cache=True, nogil=True)
def turned_alone(sums, out):
    """`_turned` of all images of `out`, on one thread."""
    for image in range(len(out)):
        _turned(sums, image, out)


@njit(cache=True, nogil=True, parallel=True)
def turned_together(sums, out):
    """`_turned` of all images of `out`, on all threads."""
    for image in prange(len(out)):
        _turned(sums, image, out)
