"""MXFP8 and MXFP4: groups of 32 values with a shared exponent (E8M0), packed as MLX stores them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from model.convert.exponent import (
    BIAS,
    GROUP,
    Weights,
    choose_exponents,
    scaled,
)
from model.convert.grids import Grid
from model.convert.nibbles import from_nibbles, nibbles

_BLOCK = 4096  # groups at a time: their tables and steps stay in the processor's cache

Bytes = npt.NDArray[np.uint8]
Bits = npt.NDArray[np.uint16]


def pack(bits: Bits, grid: Grid, weights: Weights | None = None) -> tuple[Bytes, Bytes]:
    """(codes as MLX packs them, E8M0 bytes [groups]) of bfloat16 bits [groups, 32], all finite.

    bits may be float32 rounded to odd (rounding.py). weights: [groups, 32], or rows that repeat:
    [n, 32] for groups that are a multiple of n.
    """
    codes = np.empty((bits.shape[0], GROUP * grid.bits // 8), np.uint8)
    scales = np.empty(bits.shape[0], np.uint8)
    for start in range(0, bits.shape[0], _BLOCK):
        part = slice(start, start + _BLOCK)
        block = bits[part]
        some = None if weights is None else _repeated(weights, start, block.shape[0])
        magnitudes = (block & 0x7FFF).view(np.int16)
        exponents = choose_exponents(magnitudes, grid, some)
        signs = (block >> (16 - grid.bits)).astype(np.uint8) & np.uint8(1 << (grid.bits - 1))
        packed: Bytes = np.bitwise_or(grid.codes.take(scaled(magnitudes, exponents)), signs)
        codes[part] = packed if grid.bits == 8 else nibbles(packed)
        scales[part] = exponents + BIAS
    return codes, scales


def unpack(codes: Bytes, scales: Bytes, grid: Grid) -> npt.NDArray[np.float32]:
    """[groups, 32] values; the inverse of `pack`. NaN where a scale is 255 or a code is none."""
    if grid.bits == 4:
        codes = from_nibbles(codes)
    magnitude = codes & ((1 << (grid.bits - 1)) - 1)
    table = np.append(grid.values, np.nan)
    values = table.take(np.minimum(magnitude, len(table) - 1))
    values = np.where(codes >> (grid.bits - 1), -values, values)
    factors = np.where(scales == 255, np.nan, np.ldexp(1.0, scales.astype(np.int64) - BIAS))
    return (values * factors[:, None]).astype(np.float32)


def _repeated(weights: npt.NDArray[Any], start: int, count: int) -> npt.NDArray[Any]:
    if len(weights) == 1:
        return weights
    return weights.take(np.arange(start, start + count) % len(weights), axis=0)
