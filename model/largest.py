"""The few largest of many values, without sorting all of them.

Metal sorts whole rows even where a partition is asked for, and a vocabulary has 248,320 entries.
The largest values lie in the blocks with the largest maxima: one pass finds the maxima, and what is
sorted are these and what the best blocks hold, at most 4,096 values each for that vocabulary, which
Metal sorts in one launch.
"""

from __future__ import annotations

import mlx.core as mx

MOST = 64  # how many may be asked for
BLOCK = 64
_SORTED_WHOLE = 4096  # a row up to this long is sorted as it is


def largest(values: mx.array, count: int) -> tuple[mx.array, mx.array, mx.array]:
    """values [B, V] -> ids uint32 and values, both [B, min(count, V)], largest first, equal ones in
    the order of their ids; and the maximum of each row [B], NaN where a NaN is in the row, whose
    other results then mean nothing. Raises ValueError for a count that is not from 1 to MOST."""
    if not 0 < count <= MOST:
        raise ValueError(f"expected from 1 to {MOST} of the largest, found {count}")
    if values.shape[-1] <= _SORTED_WHOLE:
        ids = _descending(values)[:, :count]
        return ids, mx.take_along_axis(values, ids, axis=-1), values.max(axis=-1)
    padding = -values.shape[-1] % BLOCK
    if padding:
        values = mx.pad(values, [(0, 0), (0, padding)], constant_values=-mx.inf)
    blocks = values.reshape(values.shape[0], -1, BLOCK)
    maxima = blocks.max(axis=-1)
    # A value outside of the best blocks has `count` in front of it: each of their maxima is larger,
    # or as large and of a lower id. The blocks in order, so that equal values stay in theirs.
    best = mx.sort(_descending(maxima)[:, :count], axis=-1)[..., None]
    candidates = mx.take_along_axis(blocks, best, axis=1).flatten(1)
    ids = (best * BLOCK + mx.arange(BLOCK, dtype=mx.uint32)).flatten(1)
    places = _descending(candidates)[:, :count]
    found = mx.take_along_axis(candidates, places, axis=-1)
    return mx.take_along_axis(ids, places, axis=-1), found, maxima.max(axis=-1)


def _descending(values: mx.array) -> mx.array:
    """Places along the last axis, largest first; the sort is stable."""
    return mx.argsort(-values, axis=-1)
