"""float32 to bfloat16 bits: to nearest for what is stored, to odd for what is rounded once more."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.uint16]
Floats = npt.NDArray[np.float32]
INFINITE = 0x7F80  # magnitude of bfloat16's infinity; above it is NaN


def bf16_values(bits: Bits) -> Floats:
    """bfloat16 as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def nearest(values: Floats) -> Bits:
    """bfloat16 bits of float32 values, ties to even; NaN stays NaN."""
    raw = values.view(np.uint32)
    rounded = (raw + 0x7FFF + ((raw >> 16) & 1)) >> 16
    quiet = (raw >> 16) | 0x40
    return np.where((raw & 0x7FFFFFFF) > 0x7F800000, quiet, rounded).astype(np.uint16)


def to_odd(values: Floats) -> Bits:
    """bfloat16 bits of float32 values, cut off, with the last bit set where something was: rounding
    them again to a shorter format is then the same as rounding the values once."""
    raw = values.view(np.uint32)
    return ((raw >> 16) | ((raw & 0xFFFF) != 0)).astype(np.uint16)


def without_infinities(groups: Bits) -> tuple[Bits, int]:
    """([groups, n] where an infinity is the largest finite magnitude of its group, how many there
    were). Raises FloatingPointError for a NaN."""
    magnitudes = groups & 0x7FFF
    if not groups.size or magnitudes.max() < INFINITE:
        return groups, 0
    if magnitudes.max() > INFINITE:
        raise FloatingPointError("NaN")
    infinite = magnitudes == INFINITE
    largest = np.where(infinite, 0, magnitudes).max(axis=1, keepdims=True)
    largest = np.where(largest == 0, INFINITE - 1, largest)  # nothing else in the group
    replaced = np.where(infinite, largest | (groups & 0x8000), groups).astype(np.uint16)
    return replaced, int(infinite.sum())
