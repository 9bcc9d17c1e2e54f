"""Codes of four bits, two in a byte, the first in the lower half."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


def nibbles(codes: Bytes) -> Bytes:
    """[n, k] codes below 16 as [n, k / 2] bytes."""
    return np.bitwise_or(codes[:, ::2], np.left_shift(codes[:, 1::2], np.uint8(4)))


def from_nibbles(packed: Bytes) -> Bytes:
    """The inverse of `nibbles`."""
    pairs = np.stack([packed & np.uint8(15), packed >> np.uint8(4)], axis=-1)
    return pairs.reshape(packed.shape[0], -1)
