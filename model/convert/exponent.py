"""The shared exponent (E8M0) of each group of 32: the one with the least squared error.

It begins at the ceiling, the smallest exponent at which nothing saturates. A larger one is never
better: its grid is a part of this one. A smaller one is finer for the small values of the group
and cuts the large ones. For E4M3 and equal weights, that pays exactly as long as the largest value
still rounds to the top of the grid (464 and less to 448), so no errors are computed. Elsewhere
exponents are tried downwards until what is cut alone costs more than the best so far.

Integers, single float64 operations and sums in a fixed order: the same on every machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from model.convert.grids import Grid

GROUP = 32
BIAS = 127  # of E8M0, and of bfloat16
LOWEST = -126  # an exponent of -127 would be subnormal, which devices flush
_EXPONENT = 7  # bfloat16's exponent field begins here
_ZEROS_SHOW = -100  # a zero whose field is moved up from here on would be large enough to round up

Magnitudes = npt.NDArray[np.int16]
Exponents = npt.NDArray[np.int16]
Weights = npt.NDArray[np.float64]


def choose_exponents(magnitudes: Magnitudes, grid: Grid, weights: Weights | None) -> Exponents:
    """[groups] exponents of bfloat16 magnitudes [groups, 32], finite and not
    subnormal. weights: [groups, 32] or
    [1, 32], what an element's squared error counts; None is 1."""
    largest = tree(np.maximum, magnitudes)
    if weights is None and grid.bits == 8:
        return _smallest_within(largest, grid.highest, grid)
    exponents = _smallest_within(largest, grid.top, grid)
    return _searched(magnitudes, grid, weights, exponents)


def scaled(magnitudes: Magnitudes, exponents: Exponents) -> Magnitudes:
    """Magnitudes [groups, 32] of the values divided by two to the exponent; 0 for what is lost."""
    moved = np.maximum(magnitudes - (exponents << _EXPONENT)[:, None], 0)
    if exponents.size and exponents.min() < _ZEROS_SHOW:
        moved = np.where(magnitudes == 0, 0, moved).astype(np.int16)
    return moved


def tree(operation: np.ufunc, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[groups] of [groups, 2^n], combined in a fixed order (numpy's own sums follow the CPU)."""
    while array.shape[1] > 1:
        half = array.shape[1] // 2
        array = operation(array[:, :half], array[:, half:])
    return array[:, 0]


def highest(grid: Grid) -> int:
    """The largest exponent at which the top of the grid is a finite float32."""
    return BIAS - ((grid.top >> _EXPONENT) - BIAS)


def _smallest_within(largest: npt.NDArray[np.int16], top: int, grid: Grid) -> Exponents:
    """The smallest exponent at which `largest` is no more than the magnitude `top`."""
    field = (largest >> _EXPONENT) - (top >> _EXPONENT)
    exponents = field + ((largest & 127) > (top & 127))
    # A group of zeros has the exponent 0.
    return np.where(largest == 0, 0, np.clip(exponents, LOWEST, highest(grid))).astype(np.int16)


def _searched(
    magnitudes: Magnitudes, grid: Grid, weights: Weights | None, exponents: Exponents
) -> Exponents:
    found = exponents.copy()
    best, _ = _errors(magnitudes, grid, weights, exponents)
    left = np.flatnonzero((best > 0) & (exponents > LOWEST))
    step = 0
    while left.size:
        step += 1
        tried = exponents[left] - np.int16(step)
        some = weights if weights is None or len(weights) == 1 else weights[left]
        error, cut = _errors(magnitudes[left], grid, some, tried)
        error, cut = np.ldexp(error, -2 * step), np.ldexp(cut, -2 * step)
        better = error < best[left]
        found[left[better]] = tried[better]
        best[left[better]] = error[better]
        left = left[(cut < best[left]) & (tried > LOWEST)]
    return found


def _errors(
    magnitudes: Magnitudes, grid: Grid, weights: Weights | None, exponents: Exponents
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """[groups]: weighted squared error, and the part of it that is cut off at the top; in units of
    4 to the exponent."""
    index = scaled(magnitudes, exponents)
    errors = grid.errors.take(index)
    if weights is not None:
        errors = errors * weights
    return tree(np.add, errors), tree(np.add, errors * (index > grid.top))
