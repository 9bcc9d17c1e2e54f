"""Affine quantization, MLX's form: value = scale * code + bias, both bfloat16, for each group.

The bias is the end of the range that is farther from zero, as in MLX. The scale is chosen among
bfloat16 neighbours by the squared error, and codes are those nearest under the scale as it is
stored (mx.quantize finds them under the one that is not yet rounded), so nothing is worse than
there. Single float32 operations in a fixed order: the same on every machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from model.convert.exponent import tree
from model.convert.nibbles import from_nibbles, nibbles
from model.convert.rounding import Bits, Floats, bf16_values, nearest

_EPSILON = np.float32(1e-7)  # the smallest scale, as in MLX
_NEIGHBOURS = (0, 1, -1)
_BLOCK = 2048

Packed = npt.NDArray[np.uint8]


def pack(values: Floats, bits: int, weights: Any = None) -> tuple[Packed, Bits, Bits]:
    """(codes packed as MLX does, scales, biases as bfloat16 bits [groups]) of finite float32
    values [groups, size]. bits: 4 or 8. weights: as for microscaling.pack, of squared errors."""
    groups, size = values.shape
    codes: Packed = np.empty((groups, size * bits // 8), np.uint8)
    scales, biases = np.empty(groups, np.uint16), np.empty(groups, np.uint16)
    for start in range(0, groups, _BLOCK):
        part = slice(start, start + _BLOCK)
        block = values[part]
        some = weights
        if weights is not None and len(weights) > 1:
            some = weights.take(np.arange(start, start + len(block)) % len(weights), axis=0)
        found, scales[part], biases[part] = _quantized(block, (1 << bits) - 1, some)
        codes[part] = found if bits == 8 else nibbles(found)
    return codes, scales, biases


def unpack(codes: Packed, scales: Bits, biases: Bits, bits: int) -> Floats:
    """[groups, size] float32; the inverse of `pack`."""
    if bits == 4:
        codes = from_nibbles(codes)
    return codes * bf16_values(scales)[:, None] + bf16_values(biases)[:, None]


def _quantized(values: Floats, top: int, weights: Any) -> tuple[Packed, Bits, Bits]:
    wanted, bias = _range(values, top)
    biases = nearest(bias)
    offset = values - bf16_values(biases)[:, None]
    middle = nearest(wanted).astype(np.int32)
    scales, best = middle.astype(np.uint16), np.full(len(values), np.inf, np.float32)
    codes = np.zeros(values.shape, np.uint8)
    for step in _NEIGHBOURS:
        tried = (middle + step).astype(np.uint16)
        scale = bf16_values(tried)[:, None]
        found = np.clip(np.rint(offset / scale), 0, top)
        errors = np.square(offset - found * scale)
        error = tree(np.add, errors if weights is None else errors * weights).astype(np.float32)
        better = error < best
        best = np.where(better, error, best)
        scales = np.where(better, tried, scales)
        codes[better] = found[better].astype(np.uint8)
    return codes, scales, biases


def _range(values: Floats, top: int) -> tuple[Floats, Floats]:
    """(scale, bias) [groups] before rounding, as MLX finds them: zero is a code where it can be."""
    low, high = tree(np.minimum, values), tree(np.maximum, values)
    from_low = np.abs(low) > np.abs(high)
    scale = np.maximum((high - low) / np.float32(top), _EPSILON)
    scale = np.where(from_low, scale, -scale)
    edge = np.where(from_low, low, high)
    zero = np.rint(edge / scale)
    exact = zero != 0
    scale = np.where(exact, edge / np.where(exact, zero, 1), scale)
    return scale.astype(np.float32), np.where(exact, edge, 0).astype(np.float32)
