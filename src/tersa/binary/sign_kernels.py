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
def _read_first(images, image, halves):
    """The signs of one image (C, places) as halves of words; not 0 where a value is no sign."""
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
def _read_last(images, image, halves):
    """The same of one image (places, C)."""
    c = images.shape[2]
    rows, columns = halves.shape[1:3]
    other = np.int32(0)
    for y in range(rows):
        for x in range(columns):
            values = images[image, y * columns + x]
            for half in range(c // 32):
                word = np.uint32(0)
                for i in range(32):
                    value = values[32 * half + i]
                    other |= (value & np.int32(0x7FFFFFFF)) ^ np.int32(ONE)
                    word |= (np.uint32(~value) >> np.uint32(31)) << np.uint32(i)
                halves[image, y, x, half] = word
            if c % 32:
                word = np.uint32(0)
                for i in range(c // 32 * 32, c):
                    other |= (values[i] & np.int32(0x7FFFFFFF)) ^ np.int32(ONE)
                    word |= (np.uint32(~values[i]) >> np.uint32(31)) << np.uint32(i % 32)
                halves[image, y, x, c // 32] = word
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


# One function for one thread and one for several: numba's cache does not tell two compilations apart.


@njit(cache=True, nogil=True)
def read_first_alone(images, halves):
    """`_read_first` of all images."""
    other = np.int32(0)
    for image in range(len(images)):
        other |= _read_first(images, image, halves)
    return other


@njit(cache=True, nogil=True, parallel=True)
def read_first_together(images, halves):
    """`_read_first` of all images."""
    others = np.zeros(len(images), np.int32)
    for image in prange(len(images)):
        others[image] = _read_first(images, image, halves)
    return others.any()


@njit(cache=True, nogil=True)
def read_last_alone(images, halves):
    """`_read_last` of all images."""
    other = np.int32(0)
    for image in range(len(images)):
        other |= _read_last(images, image, halves)
    return other


@njit(cache=True, nogil=True, parallel=True)
def read_last_together(images, halves):
    """`_read_last` of all images."""
    others = np.zeros(len(images), np.int32)
    for image in prange(len(images)):
        others[image] = _read_last(images, image, halves)
    return others.any()


@njit(cache=True, nogil=True)
def turned_alone(sums, out):
    """`_turned` of all images of `out`."""
    for image in range(len(out)):
        _turned(sums, image, out)


@njit(cache=True, nogil=True, parallel=True)
def turned_together(sums, out):
    """`_turned` of all images of `out`."""
    for image in prange(len(out)):
        _turned(sums, image, out)


READ = {
    (False, False): read_first_alone,
    (False, True): read_first_together,
    (True, False): read_last_alone,
    (True, True): read_last_together,
}
"""By whether channels are last, and whether several threads share the images."""
TURNED = {False: turned_alone, True: turned_together}
