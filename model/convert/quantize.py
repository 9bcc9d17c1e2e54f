"""One matrix into the parts that are stored, and back: `.weight`, `.scales`, `.biases`.

Knows formats by their QuantSpec and how MLX packs them; the arithmetic is microscaling.py's and
affine.py's. numpy only, the same bytes on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from model.config import QuantSpec
from model.convert import affine, microscaling
from model.convert.grids import Grid, e2m1, e4m3
from model.convert.prescale import Floats
from model.convert.rounding import INFINITE, bf16_values, nearest, to_odd, without_infinities

Parts = dict[str, npt.NDArray[Any]]
# Of the mean, added to every weight: nothing that was never seen counts for nothing.
_LEAST_WEIGHT = 0.01


def can_write(spec: QuantSpec) -> bool:
    """Whether `quantize` knows the format."""
    affine_sizes = spec.bits in (4, 8) and spec.group_size in (32, 64, 128)
    return spec.mode in ("mxfp8", "mxfp4") or (spec.mode == "affine" and affine_sizes)


def quantize(
    values: npt.NDArray[Any], spec: QuantSpec, importance: Floats | None = None
) -> tuple[Parts, int]:
    """(suffix -> array as stored, infinities replaced) of [..., in] bfloat16 bits (uint16) or
    float32. importance: [in], or [experts, in] of values [experts, out, in]; weighs the errors.

    weight: uint32 [..., in * bits / 32]; scales: uint8 [..., in / group], or for affine bfloat16
    bits, and biases likewise. An infinity becomes the largest finite magnitude of its group; what
    is below 2^-126 becomes zero. Raises FloatingPointError for a NaN, ValueError for a format
    that is not written here or a width that is no whole number of groups.
    """
    if not can_write(spec) or values.shape[-1] % spec.group_size:
        raise ValueError(f"{spec} for {list(values.shape)}")
    if importance is not None and importance.ndim == 2:
        pieces = [quantize(values[i], spec, importance[i]) for i in range(len(values))]
        parts = {name: np.stack([p[name] for p, _ in pieces]) for name in pieces[0][0]}
        return parts, sum(count for _, count in pieces)
    weights = None if importance is None else _weights(importance, spec.group_size)
    shape = values.shape[:-1]
    is_bits = values.dtype == np.uint16
    bits = values if is_bits else to_odd(values)
    groups, infinities = without_infinities(bits.reshape(-1, spec.group_size))
    if spec.mode == "affine":
        floats = values.reshape(-1, spec.group_size)
        floats = bf16_values(groups) if is_bits or infinities else floats
        codes, scales, biases = affine.pack(floats, spec.bits, weights)
        rest: Parts = {"scales": scales, "biases": biases}
    else:
        groups = np.where(groups & 0x7F80, groups, groups & 0x8000)
        codes, scales = microscaling.pack(groups, _grid(spec), weights)
        rest = {"scales": scales}
    parts = {"weight": codes.reshape(-1).view(np.uint32)} | rest
    return {name: part.reshape(*shape, -1) for name, part in parts.items()}, infinities


def dequantize(parts: Mapping[str, npt.NDArray[Any]], spec: QuantSpec) -> Floats:
    """[..., in] float32 of what `quantize` gave. Raises ValueError for another format."""
    if not can_write(spec):
        raise ValueError(f"{spec}")
    scales = parts["scales"]
    codes = np.ascontiguousarray(parts["weight"]).view(np.uint8).reshape(scales.size, -1)
    if spec.mode == "affine":
        values = affine.unpack(codes, scales.reshape(-1), parts["biases"].reshape(-1), spec.bits)
    else:
        values = microscaling.unpack(codes, scales.reshape(-1), _grid(spec))
    return values.reshape(*scales.shape[:-1], -1)


def stored_bits(values: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    """bfloat16 bits of what is not quantized. Raises FloatingPointError for a NaN."""
    return without_nan(values if values.dtype == np.uint16 else nearest(values))


def without_nan(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same bfloat16 bits or floats. Raises FloatingPointError for a NaN."""
    bits = values.dtype == np.uint16
    if values.size and ((values & 0x7FFF).max() > INFINITE if bits else np.isnan(values).any()):
        raise FloatingPointError("NaN")
    return values


def _grid(spec: QuantSpec) -> Grid:
    return e4m3() if spec.mode == "mxfp8" else e2m1()


def _weights(importance: Floats, group_size: int) -> npt.NDArray[np.float64]:
    """[groups of a row, group_size]; None of them zero."""
    weights = importance.astype(np.float64)
    mean = math.fsum(weights) / len(weights)  # exact, whatever the order
    if not np.isfinite(mean) or mean <= 0 or weights.min() < 0:
        return np.ones((1, group_size))
    return (weights / mean + _LEAST_WEIGHT).reshape(-1, group_size)
