"""The two element formats of microscaling, E4M3 and E2M1, as tables over bfloat16 magnitudes.

A group's values are divided by a power of two, which in bfloat16 only moves the exponent field. So
a table of 32,768 entries, indexed by the moved bits, gives every code, and one more its squared
error. Rounding is to nearest, ties to even; beyond the largest value it saturates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

MAGNITUDES = 1 << 15  # of bfloat16, sign off


@dataclass(frozen=True, slots=True)
class Grid:
    """One element format.

    values: code without sign -> value, ascending. codes: bfloat16 magnitude -> code. errors: its
    squared error, float64. top: magnitude of the largest value. highest: the largest magnitude
    that rounds to it without saturation: halfway to the next value if the grid went on.
    """

    name: str
    bits: int
    values: npt.NDArray[np.float64]
    codes: npt.NDArray[np.uint8]
    errors: npt.NDArray[np.float64]
    top: int
    highest: int


@cache
def e4m3() -> Grid:
    """Largest value 448; no infinity; S.1111.111, which would be 480, is NaN."""
    return _grid("E4M3", 8, _values(exponent_bits=4, mantissa_bits=3, bias=7)[:-1])


@cache
def e2m1() -> Grid:
    """0, 0.5, 1, 1.5, 2, 3, 4, 6."""
    return _grid("E2M1", 4, _values(exponent_bits=2, mantissa_bits=1, bias=1))


def _values(*, exponent_bits: int, mantissa_bits: int, bias: int) -> npt.NDArray[np.float64]:
    """What every bit pattern without sign means, subnormals included."""
    patterns = np.arange(1 << (exponent_bits + mantissa_bits))
    field, mantissa = patterns >> mantissa_bits, patterns & ((1 << mantissa_bits) - 1)
    fraction = np.where(field == 0, 0.0, 1.0) + mantissa / (1 << mantissa_bits)
    return np.ldexp(fraction, np.maximum(field, 1) - bias)


def _grid(name: str, bits: int, values: npt.NDArray[np.float64]) -> Grid:
    halves = (values[1:] + values[:-1]) / 2
    # A tie goes to the code whose last bit is zero: upwards from odd codes.
    magnitudes = _magnitudes()
    above = np.searchsorted(halves, magnitudes, side="right")
    below = np.searchsorted(halves, magnitudes, side="left")
    codes = np.where(above % 2 == 0, above, below).astype(np.uint8)
    errors = np.square(magnitudes - values[codes])
    last_step = values[-1] - values[-2]
    return Grid(
        name,
        bits,
        values,
        codes,
        errors,
        top=_magnitude_of(values[-1]),
        highest=_magnitude_of(values[-1] + last_step / 2),
    )


def _magnitudes() -> npt.NDArray[np.float64]:
    """The value of every index; 0 is zero, and the rest is read as if there were no subnormals,
    infinities and NaN, which do not occur after the division (see exponent.py)."""
    index = np.arange(MAGNITUDES)
    return np.where(index == 0, 0.0, np.ldexp(1 + (index & 127) / 128, (index >> 7) - 127))


def _magnitude_of(value: float) -> int:
    return int(np.float32(value).view(np.uint32) >> 16)
