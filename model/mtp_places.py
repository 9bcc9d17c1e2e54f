"""Arrays with an axis of places, T of them or few more: put together and picked from, in as few
launches as it takes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import mlx.core as mx
import numpy as np


def choose(arrays: Sequence[mx.array], place: mx.array) -> mx.array:
    """Row b of arrays[place[b]]."""
    chosen = arrays[0]
    for index, array in enumerate(arrays[1:], 1):
        where = (place >= index).reshape(-1, *[1] * (array.ndim - 1))
        chosen = mx.where(where, array, chosen)
    return chosen


def stacked(columns: Sequence[mx.array]) -> mx.array:
    """mx.stack(columns, axis=1) of a few small ones, in one launch, not one for each."""
    joined, inner = columns[0][:, None], (1,) * (columns[0].ndim - 1)
    for place, column in enumerate(columns[1:], 1):
        here = _only(place, len(columns)).reshape(-1, *inner)
        joined = mx.where(here, column[:, None], joined)
    return joined


def at(array: mx.array, place: mx.array) -> mx.array:
    """array [B, T, n] -> [B, n]: row b at place[b]."""
    return mx.take_along_axis(array, place[:, None, None], axis=1)[:, 0]


@cache
def numbers(length: int) -> mx.array:
    """0, 1, ... as data: a step would count them anew each time."""
    return mx.array(np.arange(length, dtype=np.int32))


@cache
def _only(place: int, length: int) -> mx.array:
    """True at `place` of `length` places, as data too."""
    return mx.array(np.arange(length) == place)
