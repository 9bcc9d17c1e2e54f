"""What a scale of a matrix' inputs does to the error that its storage makes in its outputs.

Measured on a sample of rows, with the second moments of the inputs: the output's error is that of
the weights, each column weighed by how strongly its input is driven. Knows arrays and formats.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from model.config import QuantSpec
from model.convert.prescale import Floats
from model.convert.quantize import dequantize, quantize, stored_bits
from model.convert.rounding import bf16_values
from model.convert.source import SourceTensor

_BLOCKS: Final = 16  # places in a matrix that rows are taken from
_ROWS: Final = 16  # at each of them
_EXPERTS: Final = 16


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows [rows, in] of one matrix, and the mean squares of their inputs [in]."""

    values: Floats
    moments: Floats


@dataclass(frozen=True, slots=True)
class Sample:
    """Of one module: blocks from all over it, and its format; None is bfloat16."""

    module: str
    spec: QuantSpec | None
    blocks: tuple[Block, ...]

    def error(self, scale: Floats | None, norm_error: Floats | None = None) -> float:
        """The squared error of the outputs by their energy, with inputs scaled by [in].

        norm_error: [in], what the norm gives by what it should, where it is rounded unscaled.
        """
        error = energy = 0.0
        for block in self.blocks:
            found = stored(block, self.spec, scale)
            if norm_error is not None:
                found = found * norm_error
            weights = block.moments.astype(np.float64)
            error += float((np.square(found - block.values, dtype=np.float64) * weights).sum())
            energy += float((np.square(block.values, dtype=np.float64) * weights).sum())
        return error / energy if energy else 0.0

    def half(self, odd: bool) -> Sample:
        """The same with every other row."""
        blocks = (Block(block.values[odd::2], block.moments) for block in self.blocks)
        return Sample(self.module, self.spec, tuple(b for b in blocks if len(b.values)))


def stored(block: Block, spec: QuantSpec | None, scale: Floats | None) -> Floats:
    """The rows as they come back from storage, with the scale taken out again."""
    values = block.values if scale is None else block.values * scale
    if spec is None:
        found = bf16_values(stored_bits(values))
    else:
        moments = block.moments if scale is None else block.moments / np.square(scale)
        parts, _ = quantize(values, spec, moments.astype(np.float32))
        found = dequantize(parts, spec)
    return found if scale is None else found / scale


def sampled(tensor: SourceTensor, spec: QuantSpec | None, moments: Floats) -> Sample:
    """Rows of a matrix [out, in] or [experts, out, in] with its moments [in] or [experts, in]."""
    find = _of_experts if len(tensor.shape) == 3 else _of_matrix
    return Sample(tensor.module, spec, tuple(find(tensor, moments)))


def _of_matrix(tensor: SourceTensor, moments: Floats) -> Iterator[Block]:
    rows = tensor.shape[0]
    if rows <= _BLOCKS * _ROWS:
        yield Block(tensor.values(), moments)
        return
    for start in np.linspace(0, rows - _ROWS, _BLOCKS).astype(int).tolist():
        yield Block(tensor.values(start, start + _ROWS), moments)


def _of_experts(tensor: SourceTensor, moments: Floats) -> Iterator[Block]:
    experts, rows, _ = tensor.shape
    step = max(1, rows // (2 * _ROWS))
    places = np.linspace(0, experts - 1, min(experts, _EXPERTS)).astype(int).tolist()
    for number, expert in enumerate(places):
        values = tensor.values(expert, expert + 1)[0, number % step :: step]
        yield Block(np.ascontiguousarray(values), moments[expert])
