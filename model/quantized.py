"""Linear, embedding and per-expert linear maps, plain or quantized, built from a checkpoint's
arrays.

Knows nothing of files or of the network they sit in. Weight layouts are those of MLX checkpoints:
`[out, in]`, and `[experts, out, in]` for experts; quantized ones are packed along `in`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx

from model.config import QuantSpec


class ArraySource(Protocol):
    """Where modules take their arrays from: the loader's `Weights` has this shape."""

    @property
    def arrays(self) -> Mapping[str, mx.array]: ...
    @property
    def quantized(self) -> Mapping[str, QuantSpec]: ...


@dataclass(frozen=True, slots=True)
class Linear:
    """y = x Wᵀ. `weight` [out, in]."""

    weight: mx.array

    def __call__(self, x: mx.array) -> mx.array:
        return x @ self.weight.T


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
    """One linear map per expert. `weight` [experts, out, in]."""

    weight: mx.array

    def __call__(self, x: mx.array, experts: mx.array, *, sorted_indices: bool) -> mx.array:
        """x [..., 1, in] and experts [...] (ids) -> [..., 1, out]."""
        return mx.gather_mm(
            x, self.weight.swapaxes(-1, -2), rhs_indices=experts, sorted_indices=sorted_indices
        )


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
            rhs_indices=experts,
            transpose=True,
            group_size=self.spec.group_size,
            bits=self.spec.bits,
            mode=self.spec.mode,
            sorted_indices=sorted_indices,
        )


AnyLinear = Linear | QuantizedLinear
AnyEmbedding = Embedding | QuantizedEmbedding
AnyExpertLinear = ExpertLinear | QuantizedExpertLinear


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
