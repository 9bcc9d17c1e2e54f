"""The few largest of many values, without sorting all of them.

Metal sorts whole rows even where a partition is asked for, and a vocabulary has 248,320 entries.
The largest values lie in the blocks with the largest maxima: one pass finds the maxima, and what is
sorted are these and what the best blocks hold.
"""

from __future__ import annotations

from functools import cache

import mlx.core as mx
import numpy as np

MOST = 64  # how many may be asked for
BLOCK = 64
_SORTED_WHOLE = 4096  # a row up to this long is sorted as it is


def largest(values: mx.array, count: int) -> tuple[mx.array, mx.array, mx.array]:
    """values [B, V] -> ids uint32 and values, both [B, min(count, V)], largest first, equal ones in
    the order of their ids; and the maximum of each row [B], NaN where a NaN is in the row, whose
    other results then mean nothing. Raises ValueError for a count that is not from 1 to MOST."""
    if not 0 < count <= MOST:
        raise ValueError(f"expected from 1 to {MOST} of the largest, found {count}")
    falling = -values  # mx.argsort is stable and rises
    if values.shape[-1] <= _SORTED_WHOLE:
        ids = mx.argsort(falling, axis=-1)[:, :count]
        return ids, mx.take_along_axis(values, ids, axis=-1), -falling.min(axis=-1)
    padding = -values.shape[-1] % BLOCK
    if padding:
        falling = mx.pad(falling, [(0, 0), (0, padding)], constant_values=mx.inf)
    blocks = falling.reshape(values.shape[0], -1, BLOCK)
    firsts = blocks.min(axis=-1)
    # A value outside of the best blocks has `count` in front of it: each of their firsts is larger,
    # or as large and of a lower id. The blocks in order, so that equal values stay in theirs.
    best = mx.sort(mx.argsort(firsts, axis=-1)[:, :count], axis=-1)[..., None]
    candidates = mx.take_along_axis(blocks, best, axis=1).flatten(1)
    places = mx.argsort(candidates, axis=-1)[:, :count]
    ids = mx.take_along_axis((best * BLOCK + _within_block()).flatten(1), places, axis=-1)
    return ids, mx.take_along_axis(values, ids, axis=-1), -firsts.min(axis=-1)


@cache
def _within_block() -> mx.array:
    """0, 1, ... as data: a step would count them anew each time."""
    return mx.array(np.arange(BLOCK, dtype=np.uint32))
