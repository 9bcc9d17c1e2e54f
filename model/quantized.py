"""Linear, embedding and per-expert linear maps, plain or quantized, built from a checkpoint's
arrays.

Knows nothing of files or of the network they sit in. Weight layouts are those of MLX checkpoints:
`[out, in]`, and `[experts, out, in]` for experts; quantized ones are packed along `in`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import Protocol

import mlx.core as mx
import numpy as np

from model.config import QuantSpec


class ArraySource(Protocol):
    """Where modules take their arrays from: the loader's `Weights` has this shape."""

    @property
    def arrays(self) -> Mapping[str, mx.array]: ...
    @property
    def quantized(self) -> Mapping[str, QuantSpec]: ...


@dataclass(frozen=True, slots=True)
class Linear:
    """y = x Wᵀ. `weight` [out, in]; `transposed` is a view of it, made once, not at every step."""

    weight: mx.array
    transposed: mx.array = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "transposed", _view(self.weight))

    def __call__(self, x: mx.array) -> mx.array:
        return x @ self.transposed

    def outputs(self, chosen: slice | mx.array) -> Linear:
        """The map to some of its outputs; a slice shares the memory."""
        mx.eval(weight := self.weight[chosen])
        return Linear(weight)


@dataclass(frozen=True, slots=True)
class QuantizedLinear:
    """y = x Wᵀ with W kept packed."""

    weight: mx.array
    scales: mx.array
    biases: mx.array | None
    spec: QuantSpec

    def __call__(self, x: mx.array) -> mx.array:
        return mx.quantized_matmul(
            x,
            self.weight,
            scales=self.scales,
            biases=self.biases,
            transpose=True,
            group_size=self.spec.group_size,
            bits=self.spec.bits,
            mode=self.spec.mode,
        )

    def outputs(self, chosen: slice | mx.array) -> QuantizedLinear:
        """The map to some of its outputs; a slice shares the memory."""
        biases = None if self.biases is None else self.biases[chosen]
        mx.eval(parts := (self.weight[chosen], self.scales[chosen], biases))
        return QuantizedLinear(*parts, self.spec)


@dataclass(frozen=True, slots=True)
class Embedding:
    """Rows of `weight` [vocabulary, hidden]."""

    weight: mx.array

    def __call__(self, ids: mx.array) -> mx.array:
        return self.weight[ids]

    def as_linear(self) -> Linear:
        """The output head of a checkpoint that ties it to the embedding."""
        return Linear(self.weight)


@dataclass(frozen=True, slots=True)
class QuantizedEmbedding:
    """Rows of a packed embedding, dequantized to `dtype` on the way out."""

    weight: mx.array
    scales: mx.array
    biases: mx.array | None
    spec: QuantSpec
    dtype: mx.Dtype

    def __call__(self, ids: mx.array) -> mx.array:
        return mx.dequantize(
            self.weight[ids],
            scales=self.scales[ids],
            biases=None if self.biases is None else self.biases[ids],
            group_size=self.spec.group_size,
            bits=self.spec.bits,
            mode=self.spec.mode,
        ).astype(self.dtype)

    def as_linear(self) -> QuantizedLinear:
        return QuantizedLinear(self.weight, self.scales, self.biases, self.spec)


@dataclass(frozen=True, slots=True)
class ExpertLinear:
    """One linear map per expert. `weight` [experts, out, in]; `transposed` is a view of it."""

    weight: mx.array
    transposed: mx.array = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "transposed", _view(self.weight))

    def __call__(self, x: mx.array, experts: mx.array, *, sorted_indices: bool) -> mx.array:
        """x [..., 1, in] and experts [...] (ids) -> [..., 1, out]."""
        return mx.gather_mm(
            x,
            self.transposed,
            lhs_indices=_rows(x, experts, sorted_indices),
            rhs_indices=experts,
            sorted_indices=sorted_indices,
        )

    def of(self, expert: int) -> Linear:
        """The map of one expert, in the same memory."""
        return Linear(one(self.weight, expert))


@dataclass(frozen=True, slots=True)
class QuantizedExpertLinear:
    """One packed linear map per expert."""

    weight: mx.array
    scales: mx.array
    biases: mx.array | None
    spec: QuantSpec

    def __call__(self, x: mx.array, experts: mx.array, *, sorted_indices: bool) -> mx.array:
        """x [..., 1, in] and experts [...] (ids) -> [..., 1, out]."""
        return mx.gather_qmm(
            x,
            self.weight,
            self.scales,
            self.biases,
            lhs_indices=_rows(x, experts, sorted_indices),
            rhs_indices=experts,
            transpose=True,
            group_size=self.spec.group_size,
            bits=self.spec.bits,
            mode=self.spec.mode,
            sorted_indices=sorted_indices,
        )

    def of(self, expert: int) -> QuantizedLinear:
        """The map of one expert, in the same memory."""
        biases = None if self.biases is None else one(self.biases, expert)
        mx.eval(parts := (one(self.weight, expert), one(self.scales, expert), biases))
        return QuantizedLinear(*parts, self.spec)


AnyLinear = Linear | QuantizedLinear
AnyEmbedding = Embedding | QuantizedEmbedding
AnyExpertLinear = ExpertLinear | QuantizedExpertLinear


@dataclass(frozen=True, slots=True)
class SeparateLinears:
    """Maps of one input whose outputs stand side by side: what is not stored alike and so could not
    become one matrix (joining.py)."""

    parts: tuple[AnyLinear, ...]

    def __call__(self, x: mx.array) -> mx.array:
        return mx.concatenate([part(x) for part in self.parts], axis=-1)


@dataclass(frozen=True, slots=True)
class SeparateExpertLinears:
    """The same for maps per expert."""

    parts: tuple[AnyExpertLinear, ...]

    def __call__(self, x: mx.array, experts: mx.array, *, sorted_indices: bool) -> mx.array:
        outputs = [part(x, experts, sorted_indices=sorted_indices) for part in self.parts]
        return mx.concatenate(outputs, axis=-1)


def _rows(x: mx.array, experts: mx.array, sorted_indices: bool) -> mx.array | None:
    """Which row of x each expert multiplies: its own. Of sorted ones mlx wants to know none."""
    return None if sorted_indices else _own_rows(x.shape[:-2], experts.shape)


@lru_cache(maxsize=256)
def _own_rows(rows: tuple[int, ...], experts: tuple[int, ...]) -> mx.array:
    """Numbers of the rows, broadcast to the experts; left out, a step would count them each time
    anew, a launch for every product."""
    numbers = np.arange(prod(rows), dtype=np.uint32).reshape(rows)
    return mx.array(np.broadcast_to(numbers, experts))


def one(stacked: mx.array, index: int) -> mx.array:
    """`stacked[index]` in the same memory: a number as an index would copy."""
    return stacked[index : index + 1].squeeze(0)


def _view(weight: mx.array) -> mx.array:
    """`weight` with its last two axes swapped, in the same memory."""
    view = weight.swapaxes(-1, -2)
    mx.eval(view)
    return view


def is_stored(source: ArraySource, path: str) -> bool:
    """Whether there is a matrix at module path `path`."""
    return f"{path}.weight" in source.arrays


def _packed(source: ArraySource, path: str) -> tuple[mx.array, mx.array, mx.array | None]:
    arrays: Mapping[str, mx.array] = source.arrays
    return arrays[f"{path}.weight"], arrays[f"{path}.scales"], arrays.get(f"{path}.biases")


def linear(source: ArraySource, path: str) -> AnyLinear:
    """The linear map at module path `path`."""
    spec = source.quantized.get(path)
    if spec is None:
        return Linear(source.arrays[f"{path}.weight"])
    return QuantizedLinear(*_packed(source, path), spec)


def embedding(source: ArraySource, path: str, dtype: mx.Dtype) -> AnyEmbedding:
    """The embedding at module path `path`; `dtype` is that of its rows."""
    spec = source.quantized.get(path)
    if spec is None:
        return Embedding(source.arrays[f"{path}.weight"])
    return QuantizedEmbedding(*_packed(source, path), spec, dtype)


def expert_linear(source: ArraySource, path: str) -> AnyExpertLinear:
    """The per-expert linear map at module path `path`."""
    spec = source.quantized.get(path)
    if spec is None:
        return ExpertLinear(source.arrays[f"{path}.weight"])
    return QuantizedExpertLinear(*_packed(source, path), spec)


def linears(source: ArraySource, joined: str, *parts: str) -> AnyLinear | SeparateLinears:
    """The map at module path `joined`, or those at `parts`, which mean the same."""
    if is_stored(source, joined):
        return linear(source, joined)
    return SeparateLinears(tuple(linear(source, part) for part in parts))


def expert_linears(
    source: ArraySource, joined: str, *parts: str
) -> AnyExpertLinear | SeparateExpertLinears:
    """The same for maps per expert."""
    if is_stored(source, joined):
        return expert_linear(source, joined)
    return SeparateExpertLinears(tuple(expert_linear(source, part) for part in parts))
