"""How fast this device reads memory, measured."""

from __future__ import annotations

import time
from collections.abc import Callable

import mlx.core as mx

from model import device as devices

BYTES = 1 << 30  # read each time; less where memory is small
LEAST_BYTES = 1 << 26
ROUNDS = 5
WIDTH = 2048


def measured_bandwidth(size: int | None = None) -> float:
    """Bytes per second, the best of three ways to go through a matrix: a vector times it, which is
    what a decoded token does, its sum, and a copy (read and written); medians of ROUNDS each. size:
    bytes of the matrix."""
    device = devices.current()
    size = size or max(LEAST_BYTES, min(BYTES, device.memory_available // 8))
    rows = max(1, size // (WIDTH * device.compute_dtype.size))
    matrix = mx.ones((rows, WIDTH), device.compute_dtype)
    vector = mx.ones((1, WIDTH), device.compute_dtype)
    mx.eval(matrix, vector)
    ways: list[tuple[int, Callable[[], mx.array]]] = [
        (1, lambda: vector @ matrix.T),
        (1, lambda: matrix.sum()),
        (2, lambda: matrix + 1),
    ]
    return max(times * matrix.nbytes / _median_seconds(work) for times, work in ways)


def _median_seconds(work: Callable[[], mx.array]) -> float:
    seconds = []
    for _ in range(ROUNDS + 1):
        begin = time.perf_counter()
        mx.eval(work())
        seconds.append(time.perf_counter() - begin)
    return sorted(seconds[1:])[ROUNDS // 2]  # the first one touches the memory
